//! Whether two sets of scores differ: Welch's two-sided t-test, t = (m₁ - m₂) / √(v₁/n₁ + v₂/n₂) with
//! Welch and Satterthwaite's degrees of freedom; and the 95 % interval of a mean by Student's t.
//! Kim et al. 2018, section 3.5, test the scores of a concept's vectors against those of random ones.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

const CONFIDENCE: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welch {
    /// None where neither set varies: then the means are the same, with p = 1, or they are not, with
    /// p = 0.
    pub t: Option<f64>,
    pub degrees_of_freedom: Option<f64>,
    /// Two-sided.
    pub p: f64,
}

/// None of fewer than two scores on a side.
pub fn welch(one: &[f64], other: &[f64]) -> Option<Welch> {
    let [one, other] = [Moments::of(one)?, Moments::of(other)?];
    let [a, b] = [&one, &other].map(|side| side.variance / side.count);
    if a + b == 0.0 {
        return Some(Welch {
            t: None,
            degrees_of_freedom: None,
            p: f64::from(u8::from(one.mean == other.mean)),
        });
    }
    let t = (one.mean - other.mean) / (a + b).sqrt();
    let freedom = (a + b).powi(2) / (a * a / (one.count - 1.0) + b * b / (other.count - 1.0));
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(Welch {
        t: Some(t),
        degrees_of_freedom: Some(freedom),
        p: 2.0 * student.sf(t.abs()),
    })
}

/// Mean, and both ends of its 95 % interval; of a single score, the score.
pub fn interval(scores: &[f64]) -> Option<(f64, [f64; 2])> {
    let Some(Moments {
        count,
        mean,
        variance,
    }) = Moments::of(scores)
    else {
        return scores.first().map(|score| (*score, [*score; 2]));
    };
    let student = StudentsT::new(0.0, 1.0, count - 1.0).ok()?;
    let reach = student.inverse_cdf(0.5 + CONFIDENCE / 2.0) * (variance / count).sqrt();
    Some((mean, [mean - reach, mean + reach]))
}

struct Moments {
    count: f64,
    mean: f64,
    /// Without bias.
    variance: f64,
}

impl Moments {
    /// None of fewer than two.
    fn of(scores: &[f64]) -> Option<Self> {
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let squares = scores.iter().map(|score| (score - mean).powi(2));
        (scores.len() > 1).then(|| Self {
            count,
            mean,
            variance: squares.sum::<f64>() / (count - 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        let gap = (found - expected).abs();
        assert!(gap <= 1e-9 * expected.abs(), "{found} {expected}");
    }

    /// scipy 1.17.1: stats.ttest_ind(one, other, equal_var=False).
    #[test]
    fn t_and_p_are_scipys() {
        let many = |scores: [f64; 5]| scores.repeat(4);
        let cases = [
            (
                vec![0.82, 0.9, 0.78, 0.88, 0.94, 0.8, 0.86, 0.9],
                vec![0.5, 0.1, 0.74, 0.62, 0.3, 0.9, 0.44, 0.58, 0.2, 0.66],
                [4.388881088130269, 10.105456378773907, 0.001324846753323832],
            ),
            (
                vec![0.52, 0.48, 0.55, 0.51],
                vec![0.50, 0.49, 0.53, 0.58],
                [-0.40269363312841494, 5.428949107732983, 0.7025457161266553],
            ),
            (
                many([1.0, 0.98, 1.0, 1.0, 0.96]),
                many([0.02, 0.0, 0.04, 0.0, 0.0]),
                [188.01462709055372, 38.0, 4.979131492593107e-58],
            ),
            (
                vec![1.0, 1.0, 1.0],
                vec![0.4, 0.6, 0.5],
                [8.660254037844389, 2.0, 0.01307245756034651],
            ),
        ];
        for (one, other, expected) in cases {
            let found = welch(&one, &other).unwrap();
            let found = [found.t.unwrap(), found.degrees_of_freedom.unwrap(), found.p];
            found
                .into_iter()
                .zip(expected)
                .for_each(|(found, expected)| close(found, expected));
        }
    }

    /// scipy 1.17.1: stats.t.interval(0.95, n - 1, mean, stats.sem(scores)).
    #[test]
    fn intervals_are_scipys() {
        let scores = [0.82, 0.9, 0.78, 0.88, 0.94, 0.8, 0.86, 0.9];
        let (mean, [low, high]) = interval(&scores).unwrap();
        close(mean, 0.86);
        close(low, 0.8135597016154904);
        close(high, 0.9064402983845096);
        assert_eq!(interval(&[0.4]), Some((0.4, [0.4, 0.4])));
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn sets_that_do_not_vary_differ_surely_or_not_at_all() {
        let p = |one: f64, other: f64| welch(&[one; 5], &[other; 5]).unwrap().p;
        assert_eq!([p(1.0, 0.0), p(1.0, 1.0), p(0.0, 0.0)], [0.0, 1.0, 1.0]);
        assert_eq!(welch(&[1.0], &[0.0, 0.5]), None);
    }
}
