//! The curve of one image: performance over information, by the SIG paper's section 5 and its public
//! code.

use serde::Deserialize;

use crate::evaluation::aggregate::integral;

/// Steps that the area under a curve is a sum over.
pub(super) const STEPS: usize = 1000;

/// How measurements become a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Form {
    pub curve: Ascent,
    #[serde(default)]
    pub compat: Option<Compat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ascent {
    /// The best performance so far.
    Monotone,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Compat {
    #[serde(rename = "sig-2019")]
    Sig2019,
}

/// Points of information and performance, by rising information, between which it is linear.
pub(super) struct Curve {
    points: Vec<[f64; 2]>,
}

impl Curve {
    /// Of pictures in which ever more is shown: from the blurred start to the whole.
    pub(super) fn of(information: &[f64], performance: &[f64], form: Form) -> Self {
        let share = |value: f64, [start, whole]: [f64; 2]| match form.compat {
            None => ((value - start) / (whole - start)).clamp(0.0, 1.0),
            Some(Compat::Sig2019) => value / whole,
        };
        let mut points = Vec::with_capacity(information.len());
        if let (&[start, ref shown @ .., whole], &[blurred, ref scores @ .., clean]) =
            (information, performance)
        {
            let point =
                |(x, y): (&f64, &f64)| [share(*x, [start, whole]), share(*y, [blurred, clean])];
            points.extend(shown.iter().zip(scores).map(point));
        }
        if form.curve == Ascent::Monotone {
            let mut best = 0.0_f64;
            for [_, y] in &mut points {
                best = best.max(*y);
                *y = best;
            }
        }
        points.extend([[0.0, 0.0], [1.0, 1.0]]);
        points.sort_by(|one, other| one[0].total_cmp(&other[0]));
        Self { points }
    }

    /// The performance at an information of 0 to 1. Where several points have it, that of the last.
    pub(super) fn at(&self, information: f64) -> f64 {
        let after = self.points.partition_point(|[x, _]| *x <= information);
        let (before, rest) = self.points.split_at(after);
        match (before.last(), rest.first()) {
            (Some([x, y]), Some([next_x, next_y])) => {
                y + (information - x) * (next_y - y) / (next_x - x)
            }
            (Some([_, y]), None) => *y,
            _ => f64::NAN,
        }
    }

    pub(super) fn area(&self) -> f64 {
        integral(&sampled(STEPS, |x| self.at(x)))
    }
}

/// Values at equal steps from 0 to 1.
pub(super) fn sampled<T>(steps: usize, value: impl Fn(f64) -> T) -> Vec<T> {
    let place = |step: usize| step as f64 / steps as f64;
    (0..=steps).map(|step| value(place(step))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::evaluation::information) const FIVE: [f64; 5] =
        [100.0, 120.0, 150.0, 180.0, 200.0];
    pub(in crate::evaluation::information) const SCORES: [f64; 5] = [0.1, 0.3, 0.2, 0.5, 0.9];

    pub(in crate::evaluation::information) fn form(curve: Ascent, compat: Option<Compat>) -> Form {
        Form { curve, compat }
    }

    fn is_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    /// Information 0, .2, .5, .8, 1 and performance 0, .25, .125, .5, 1 of what the blurred start
    /// lacks; or 0, .6, .75, .9, 1 and 0, 3/9, 2/9, 5/9, 1 of the whole.
    #[test]
    fn five_points_have_the_areas_worked_by_hand() {
        let area = |curve, compat| Curve::of(&FIVE, &SCORES, form(curve, compat)).area();
        let paper = Some(Compat::Sig2019);
        // .2 · .25 / 2, .3 · .25, .3 · .375, .2 · .75.
        is_close(area(Ascent::Monotone, None), 0.025 + 0.075 + 0.1125 + 0.15);
        // .2 · .25 / 2, .3 · .1875, .3 · .3125, .2 · .75.
        is_close(area(Ascent::Plain, None), 0.025 + 0.05625 + 0.09375 + 0.15);
        // Eighteenths: .6 · 3, .15 · 6, .15 · 8, .1 · 14, and .6 · 3, .15 · 5, .15 · 7, .1 · 14.
        is_close(area(Ascent::Monotone, paper), 5.3 / 18.0);
        is_close(area(Ascent::Plain, paper), 5.0 / 18.0);
    }

    #[test]
    fn values_between_points_are_linear_and_beyond_the_ends_clipped() {
        let curve = Curve::of(&FIVE, &SCORES, form(Ascent::Plain, None));
        for (x, y) in [
            (0.0, 0.0),
            (0.1, 0.125),
            (0.2, 0.25),
            (0.35, 0.1875),
            (1.0, 1.0),
        ] {
            is_close(curve.at(x), y);
        }
        // 90 and 210 bytes are less than the start and more than the whole, .95 more than the
        // whole's score: points (0, .5) and (1, 1). At 0 the curve starts from 0 all the same.
        let beyond = Curve::of(
            &[100.0, 90.0, 210.0, 200.0],
            &[0.1, 0.5, 0.95, 0.9],
            form(Ascent::Plain, None),
        );
        is_close(beyond.at(0.0), 0.0);
        is_close(beyond.at(0.5), 0.5);
        is_close(beyond.at(1.0), 1.0);
    }

    #[test]
    fn a_map_that_shows_all_at_once_has_one_half_exactly() {
        let mut information = [70_000.0; 15];
        information[0] = 36_000.0;
        let mut scores = [0.9; 15];
        scores[0] = 0.01;
        for curve in [Ascent::Monotone, Ascent::Plain] {
            for compat in [None, Some(Compat::Sig2019)] {
                is_close(
                    Curve::of(&information, &scores, form(curve, compat)).area(),
                    0.5,
                );
            }
        }
    }
}
