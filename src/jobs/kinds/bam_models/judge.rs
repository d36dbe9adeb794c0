//! Whether the models are what BAM takes them for: accuracies on pictures with and without objects
//! and scenes, and whether the other model's feature is in a model's way. Yang & Kim, "BAM", sections
//! 3.3 and 3.4, Figure 2.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    bam::Role,
    dataset::{Dataset, DatasetImage},
    engine::Row,
    model::labels::{Classes, Labels},
};

/// Of the normal distribution: the two sides beyond it have 5 %.
const Z: f64 = 1.959_963_984_540_054;

/// A picture that a model can be judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Its place in the data set.
    pub index: usize,
    role: Role,
    /// Of its labels, the one that the model knows.
    class: usize,
    group: Option<String>,
}

/// The pictures of these roles that can be decoded and are labelled with a class of the model.
/// Looks at every label: belongs in the pool.
pub(super) fn pictures(dataset: &Dataset, labels: &Labels, roles: &[Role]) -> Vec<Picture> {
    let classes = Classes {
        labels,
        count: Some(labels.len()),
    };
    let picture = |(index, picture): (usize, &DatasetImage)| {
        let role = picture.role.as_deref()?;
        let role = roles.iter().copied().find(|known| known.name() == role)?;
        let known = dataset.meaning(picture, classes).classes;
        let class = known.first().copied().filter(|_| picture.fault.is_none())?;
        Some(Picture {
            index,
            role,
            class,
            group: picture.group.clone(),
        })
    };
    let images = dataset.images.iter().enumerate();
    images.filter_map(picture).collect()
}

/// How many of them are of a role.
pub(super) fn count(pictures: &[Picture], role: Role) -> usize {
    pictures
        .iter()
        .filter(|picture| picture.role == role)
        .count()
}

/// What a model makes of test pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Judged {
    /// The share that it takes for what they are labelled with: of objects in scenes.
    pub with: Share,
    /// Of the scenes alone.
    pub without: Share,
    /// Of the objects on grey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grey: Option<Share>,
    /// Of the pictures of objects in scenes that it takes for what they are: the share that it is
    /// more confident of where the feature is gone that it was not trained to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_confident: Option<Share>,
    /// What the accuracy loses with the common feature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_drop: Option<f64>,
}

impl Judged {
    /// `rows` are the answers to `pictures`. `removed` is the role of the pictures without the other
    /// model's feature; none where the common feature is removed.
    pub(super) fn of(pictures: &[Picture], rows: &[Row], removed: Option<Role>) -> Self {
        let judged = || pictures.iter().zip(rows);
        let accuracy = |role: Role| {
            let of_role = judged().filter(|(picture, _)| picture.role == role);
            Share::of(of_role.map(|(picture, row)| log_odds(&row.logits, picture.class).is_best))
        };
        let more_confident = removed.map(|removed| {
            let others: HashMap<&str, f64> = judged()
                .filter(|(picture, _)| picture.role == removed)
                .filter_map(|(picture, row)| {
                    let group = picture.group.as_deref()?;
                    Some((group, log_odds(&row.logits, picture.class).value))
                })
                .collect();
            let right = judged().filter_map(|(picture, row)| {
                let odds = log_odds(&row.logits, picture.class);
                let is_right = picture.role == Role::With && odds.is_best;
                let other = others.get(picture.group.as_deref()?)?;
                is_right.then_some(*other > odds.value)
            });
            Share::of(right)
        });
        let [with, without] = [Role::With, Role::Without].map(accuracy);
        let drop = || Some(with.share? - without.share?);
        Self {
            with,
            without,
            grey: removed.map(|_| accuracy(Role::Grey)),
            more_confident,
            accuracy_drop: if removed.is_none() { drop() } else { None },
        }
    }
}

/// A share of pictures, with its 95 % interval: Wilson, 1927.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Share {
    pub images: usize,
    /// None where there is no picture.
    pub share: Option<f64>,
    pub interval: Option<[f64; 2]>,
}

impl Share {
    fn of(each: impl Iterator<Item = bool>) -> Self {
        let (mut images, mut counted) = (0, 0);
        for is_counted in each {
            images += 1;
            counted += usize::from(is_counted);
        }
        let n = images as f64;
        let share = (images > 0).then(|| counted as f64 / n);
        let interval = share.map(|share| {
            let spread = Z * (share * (1.0 - share) / n + (Z / (2.0 * n)).powi(2)).sqrt();
            let middle = share + Z * Z / (2.0 * n);
            [middle - spread, middle + spread].map(|end| (end / (1.0 + Z * Z / n)).clamp(0.0, 1.0))
        });
        Self {
            images,
            share,
            interval,
        }
    }
}

struct Odds {
    /// ln p/(1 - p): unlike the probability p of a class, it does not end at 1 where a model is sure.
    value: f64,
    /// Whether no other class is as probable; the first of equals is.
    is_best: bool,
}

fn log_odds(logits: &[f32], class: usize) -> Odds {
    let own = logits
        .get(class)
        .map_or(f64::NEG_INFINITY, |own| f64::from(*own));
    let others = || {
        let all = logits.iter().enumerate().filter(|(at, _)| *at != class);
        all.map(|(at, logit)| (at, f64::from(*logit)))
    };
    let highest = others().fold(f64::NEG_INFINITY, |highest, (_, logit)| highest.max(logit));
    let sum: f64 = others().map(|(_, logit)| (logit - highest).exp()).sum();
    Odds {
        value: own - highest - sum.ln(),
        is_best: others().all(|(at, logit)| own > logit || own == logit && class < at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(logits: &[f32]) -> Row {
        Row {
            logits: logits.to_vec(),
            ..Row::default()
        }
    }

    fn picture(role: Role, class: usize, group: &str) -> Picture {
        Picture {
            index: 0,
            role,
            class,
            group: Some(group.to_owned()),
        }
    }

    #[test]
    fn shares_have_the_intervals_of_wilson() {
        for (counted, images) in [(8, 10), (1, 200), (3, 7)] {
            let share = Share::of((0..images).map(|at| at < counted));
            let found = counted as f64 / images as f64;
            assert_eq!((share.images, share.share), (images, Some(found)));
            // The ends are the shares from which what was found is Z standard errors away.
            let [low, high] = share.interval.unwrap();
            assert!(low < found && found < high);
            for end in [low, high] {
                let error = (end * (1.0 - end) / images as f64).sqrt();
                assert!(((found - end).abs() - Z * error).abs() < 1e-12);
            }
        }
        let none = Share::of(std::iter::empty());
        assert_eq!((none.images, none.share, none.interval), (0, None, None));
        let [low, high] = Share::of([true; 4].into_iter()).interval.unwrap();
        assert!(low > 0.5 && (high - 1.0).abs() < 1e-12);
    }

    #[test]
    fn log_odds_are_those_of_the_softmax_and_do_not_saturate() {
        let logits = [0.3_f32, -1.2, 2.0];
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        for (class, logit) in logits.into_iter().enumerate() {
            let p = f64::from(logit).exp() / sum;
            assert!((log_odds(&logits, class).value - (p / (1.0 - p)).ln()).abs() < 1e-12);
        }
        assert!(log_odds(&[200.0, 0.0], 0).value > log_odds(&[150.0, 0.0], 0).value);
        let best: Vec<bool> = (0..3)
            .map(|class| log_odds(&[1.0, 1.0, 0.0], class).is_best)
            .collect();
        assert_eq!(best, [true, false, false]);
    }

    #[test]
    fn confidence_is_compared_within_groups_and_where_the_model_is_right() {
        let pictures = [
            picture(Role::With, 0, "a"),
            picture(Role::Without, 0, "a"),
            picture(Role::Grey, 0, "a"),
            picture(Role::With, 1, "b"),
            picture(Role::Without, 1, "b"),
            picture(Role::Grey, 1, "b"),
            picture(Role::With, 1, "c"),
            picture(Role::Without, 1, "c"),
        ];
        let rows = [
            row(&[2.0, 1.0]),
            row(&[3.0, 1.0]),
            row(&[1.0, 1.5]),
            // Wrong with the object: its confidence is not compared.
            row(&[2.0, 1.0]),
            row(&[0.0, 1.0]),
            row(&[0.0, 1.0]),
            row(&[0.0, 2.0]),
            row(&[0.0, 1.0]),
        ];
        let judged = Judged::of(&pictures, &rows, Some(Role::Without));
        assert_eq!(judged.with.share, Some(2.0 / 3.0));
        assert_eq!(judged.without.share, Some(1.0));
        assert_eq!(judged.grey.unwrap().share, Some(0.5));
        let more = judged.more_confident.unwrap();
        assert_eq!((more.images, more.share), (2, Some(0.5)));
        assert_eq!(judged.accuracy_drop, None);
        // The picture on grey of c is not there.
        let more = Judged::of(&pictures, &rows, Some(Role::Grey)).more_confident;
        let more = more.unwrap();
        assert_eq!((more.images, more.share), (1, Some(0.0)));
        let of_series = Judged::of(&pictures, &rows, None);
        assert!(of_series.grey.is_none() && of_series.more_confident.is_none());
        assert!((of_series.accuracy_drop.unwrap() + 1.0 / 3.0).abs() < 1e-12);
    }
}
