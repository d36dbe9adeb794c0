//! Rules that approximate the integral of a function over [0, 1] by a weighted sum; weights sum
//! to 1. `riemann_right` is Eq. 1 of the PGIG paper (α = k/m, k = 1..m). Gauss-Legendre is exact to
//! degree 2n - 1.

use std::num::NonZeroUsize;

use gauss_quad::GaussLegendre;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quadrature {
    RiemannLeft,
    RiemannRight,
    RiemannMidpoint,
    /// Both ends included; of one point it is the midpoint rule.
    RiemannTrapezoid,
    GaussLegendre,
}

/// Where on the path to evaluate, and how much that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    pub alpha: f64,
    pub weight: f64,
}

impl Quadrature {
    pub const ALL: [Self; 5] = [
        Self::RiemannLeft,
        Self::RiemannRight,
        Self::RiemannMidpoint,
        Self::RiemannTrapezoid,
        Self::GaussLegendre,
    ];

    /// The `n` nodes, by rising α. An end of the path, where the rule has it, is exactly 0 or 1.
    pub fn nodes(self, n: NonZeroUsize) -> Vec<Node> {
        let m = n.get() as f64;
        let spaced = |shift: f64| {
            (0..n.get()).map(move |k| Node {
                alpha: (k as f64 + shift) / m,
                weight: 1.0 / m,
            })
        };
        match self {
            Self::RiemannLeft => spaced(0.0).collect(),
            Self::RiemannRight => spaced(1.0).collect(),
            Self::RiemannMidpoint => spaced(0.5).collect(),
            Self::RiemannTrapezoid if n.get() == 1 => spaced(0.5).collect(),
            Self::RiemannTrapezoid => {
                let last = n.get() - 1;
                let weight = |k| if k == 0 || k == last { 0.5 } else { 1.0 };
                (0..=last)
                    .map(|k| Node {
                        alpha: k as f64 / last as f64,
                        weight: weight(k) / last as f64,
                    })
                    .collect()
            }
            Self::GaussLegendre => {
                let rule = GaussLegendre::new(n);
                let mut nodes: Vec<Node> = rule
                    .as_node_weight_pairs()
                    .iter()
                    .map(|&(x, w)| Node {
                        alpha: (x + 1.0) / 2.0,
                        weight: w / 2.0,
                    })
                    .collect();
                nodes.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
                nodes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integrate(rule: Quadrature, n: usize, f: impl Fn(f64) -> f64) -> f64 {
        rule.nodes(NonZeroUsize::new(n).unwrap())
            .iter()
            .map(|node| node.weight * f(node.alpha))
            .sum()
    }

    #[test]
    fn weights_sum_to_one_and_nodes_rise_for_every_rule_and_size() {
        for rule in Quadrature::ALL {
            for n in [1, 2, 3, 8, 25, 100, 1000] {
                let nodes = rule.nodes(NonZeroUsize::new(n).unwrap());
                assert_eq!(nodes.len(), n);
                assert!(
                    (nodes.iter().map(|node| node.weight).sum::<f64>() - 1.0).abs() < 1e-12,
                    "{rule:?} {n}"
                );
                assert!(
                    nodes.windows(2).all(|pair| pair[0].alpha < pair[1].alpha),
                    "{rule:?} {n}"
                );
            }
        }
    }

    #[test]
    fn riemann_right_of_four_points_is_eq_1() {
        let alphas: Vec<f64> = Quadrature::RiemannRight
            .nodes(NonZeroUsize::new(4).unwrap())
            .iter()
            .map(|node| node.alpha)
            .collect();
        assert_eq!(alphas, [0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn rules_of_the_square_have_their_closed_forms() {
        let square = |n, rule| integrate(rule, n, |x| x * x);
        for n in [2, 5, 25] {
            let m = n as f64;
            let closed = [
                (
                    Quadrature::RiemannLeft,
                    1.0 / 3.0 - 1.0 / (2.0 * m) + 1.0 / (6.0 * m * m),
                ),
                (
                    Quadrature::RiemannRight,
                    1.0 / 3.0 + 1.0 / (2.0 * m) + 1.0 / (6.0 * m * m),
                ),
                (
                    Quadrature::RiemannMidpoint,
                    1.0 / 3.0 - 1.0 / (12.0 * m * m),
                ),
                (
                    Quadrature::RiemannTrapezoid,
                    1.0 / 3.0 + 1.0 / (6.0 * (m - 1.0) * (m - 1.0)),
                ),
                (Quadrature::GaussLegendre, 1.0 / 3.0),
            ];
            for (rule, expected) in closed {
                assert!((square(n, rule) - expected).abs() < 1e-14, "{rule:?} {n}");
            }
        }
    }

    #[test]
    fn gauss_legendre_is_exact_to_degree_2n_minus_1() {
        for n in 1..=8_usize {
            for degree in 0..2 * n as i32 {
                let error = integrate(Quadrature::GaussLegendre, n, |x| x.powi(degree))
                    - 1.0 / f64::from(degree + 1);
                assert!(error.abs() < 1e-14, "n {n}, degree {degree}: {error}");
            }
        }
        assert!(
            (integrate(Quadrature::GaussLegendre, 8, f64::exp) - (std::f64::consts::E - 1.0)).abs()
                < 1e-14
        );
    }
}
