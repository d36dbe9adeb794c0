//! Which output is explained: `predicted`, an index, a label, `top:k`, every class whose score is
//! above a threshold (`above:0.5`), a contrast `a-b` (why a and not b), or of an embedding the
//! similarity to a `reference`. `index:10` and `label:10` say which is meant where a label consists
//! of digits. A text that is a label as a whole is that
//! label, even with `-` in it; else it is cut at the one `-` that leaves a class on both sides.

use serde_json::{Value, json};

use crate::{
    model::labels::{Classes, LabelError},
    text::excerpt,
};

/// A parsed target. Indices are below the number of classes where that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Predicted,
    Class(usize),
    /// The k best classes, one answer each.
    Top(usize),
    /// The classes whose score is above, the best first, one answer each.
    Above(Threshold),
    Contrast(usize, usize),
    /// The cosine similarity of an embedding to that of another input, which goes with the request.
    Reference,
}

/// The score that a class has to exceed, which is finite, and how many classes are explained at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    score: f32,
    most: usize,
}

impl Eq for Threshold {}

pub const FORMS: &[&str] = &[
    "predicted",
    "an index (281 or index:281)",
    "a label (tabby or label:tabby)",
    "top:k",
    "above:score (above:0.5: one answer for each class)",
    "a contrast a-b of indices or labels",
    "reference (of an embedding: its similarity to that of the image sent as reference)",
];
pub const MAX_TOP: usize = 20;
/// The longest target, in bytes.
pub const MAX_BYTES: usize = 256;
/// The most targets of one request.
pub const MAX_TARGETS: usize = 10_000;

/// Why a value is no target; [`TargetError::explain`] is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("is neither a text nor an index")]
    Type,
    #[error(
        "has {bytes} bytes; at most {MAX_BYTES} are read: a class of a longer label has an index"
    )]
    TooLong { bytes: usize },
    #[error("top:k needs k from 1 to {most}")]
    Top { most: usize },
    #[error("above:score needs a number, such as above:0.5")]
    Above,
    #[error("contrasts class {class} with itself")]
    Same { class: usize },
    #[error("`{}` can be cut into two labels in several ways; use indices", excerpt(.text))]
    Cuts { text: String },
    #[error(transparent)]
    Class(#[from] LabelError),
}

impl TargetError {
    /// The error, and labels that may have been meant: this compares a name with every label, once.
    pub fn explain(&self, classes: Classes<'_>) -> String {
        if let Self::Class(error) = self {
            classes.explain(error)
        } else {
            self.to_string()
        }
    }
}

impl Target {
    /// The work is bounded by [`MAX_BYTES`], however many labels there are.
    pub fn parse(value: &Value, classes: Classes<'_>) -> Result<Self, TargetError> {
        let text = match value {
            Value::String(text) if text.len() > MAX_BYTES => {
                return Err(TargetError::TooLong { bytes: text.len() });
            }
            Value::String(text) => text.trim(),
            Value::Number(number) => {
                return Ok(classes.index_of(&number.to_string()).map(Self::Class)?);
            }
            _ => return Err(TargetError::Type),
        };
        if text.eq_ignore_ascii_case("predicted") {
            return Ok(Self::Predicted);
        }
        if let Some(k) = text.strip_prefix("top:") {
            let most = classes.count.unwrap_or(MAX_TOP).min(MAX_TOP);
            return match k.trim().parse() {
                Ok(k) if (1..=most).contains(&k) => Ok(Self::Top(k)),
                _ => Err(TargetError::Top { most }),
            };
        }
        if let Some(score) = text.strip_prefix("above:") {
            let most = classes.count.unwrap_or(MAX_TOP).clamp(1, MAX_TOP);
            return match score.trim().parse() {
                Ok(score) if f32::is_finite(score) => Ok(Self::Above(Threshold { score, most })),
                _ => Err(TargetError::Above),
            };
        }
        let whole = match class(text, classes) {
            Ok(class) => return Ok(Self::Class(class)),
            Err(_) if text.eq_ignore_ascii_case("reference") => return Ok(Self::Reference),
            Err(error) => error,
        };
        let cuts: Vec<_> = text
            .match_indices('-')
            .map(|(at, _)| (text[..at].trim(), text[at + 1..].trim()))
            .filter(|(a, b)| !a.is_empty() && !b.is_empty())
            .map(|(a, b)| (class(a, classes), class(b, classes)))
            .collect();
        let contrasts: Vec<_> = cuts
            .iter()
            .filter_map(|cut| Some((*cut.0.as_ref().ok()?, *cut.1.as_ref().ok()?)))
            .collect();
        match contrasts[..] {
            [(a, b)] if a == b => Err(TargetError::Same { class: a }),
            [(a, b)] => Ok(Self::Contrast(a, b)),
            [] => Err(half(cuts).unwrap_or(whole).into()),
            _ => Err(TargetError::Cuts {
                text: text.to_owned(),
            }),
        }
    }

    /// The seeds this target stands for, given the clean input's logits and the scores of its
    /// classes where the target needs them. A tie goes to the smaller index; none may be above a
    /// threshold.
    pub fn resolve(self, logits: &[f32], scores: &[f32]) -> Vec<ResolvedTarget> {
        let best = |k| {
            ranked(logits)
                .into_iter()
                .take(k)
                .map(ResolvedTarget::class)
                .collect()
        };
        match self {
            Self::Predicted => best(1),
            Self::Top(k) => best(k),
            Self::Above(Threshold { score, most }) => {
                let above = scores.iter().filter(|found| **found > score).count();
                best(above.min(most))
            }
            Self::Class(class) => vec![ResolvedTarget::class(class)],
            Self::Contrast(index, other) => vec![ResolvedTarget::Class {
                index,
                against: Some(other),
            }],
            Self::Reference => vec![ResolvedTarget::Reference],
        }
    }

    /// Whether `resolve` looks at the logits.
    pub fn needs_logits(self) -> bool {
        matches!(self, Self::Predicted | Self::Top(_) | Self::Above(_))
    }

    /// How many answers it gives at most.
    pub fn answers(self) -> usize {
        match self {
            Self::Top(k) => k,
            Self::Above(Threshold { most, .. }) => most,
            Self::Predicted | Self::Class(_) | Self::Contrast(..) | Self::Reference => 1,
        }
    }

    /// Whether its answers are a list, however many there are.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Above(_) | Self::Top(2..))
    }

    /// The largest index named.
    pub fn largest(self) -> Option<usize> {
        match self {
            Self::Predicted | Self::Top(_) | Self::Above(_) | Self::Reference => None,
            Self::Class(class) => Some(class),
            Self::Contrast(a, b) => Some(a.max(b)),
        }
    }

    pub fn to_json(self) -> Value {
        match self {
            Self::Predicted => json!("predicted"),
            Self::Class(class) => json!(class),
            Self::Top(k) => json!(format!("top:{k}")),
            Self::Reference => json!("reference"),
            Self::Above(Threshold { score, .. }) => json!(format!("above:{score}")),
            // Also where labels consist of digits.
            Self::Contrast(a, b) => json!(format!("index:{a}-index:{b}")),
        }
    }
}

/// One class, one class against another, or a similarity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedTarget {
    Class {
        index: usize,
        against: Option<usize>,
    },
    Reference,
}

impl ResolvedTarget {
    fn class(index: usize) -> Self {
        Self::Class {
            index,
            against: None,
        }
    }

    pub fn target(self) -> Target {
        match self {
            Self::Class {
                index,
                against: None,
            } => Target::Class(index),
            Self::Class {
                index,
                against: Some(other),
            } => Target::Contrast(index, other),
            Self::Reference => Target::Reference,
        }
    }

    /// The cotangent of the head; `reference` is the embedding that a similarity is to.
    pub fn seed(self, reference: &[f32]) -> Vec<(usize, f32)> {
        match self {
            Self::Class { index, against } => [(index, 1.0)]
                .into_iter()
                .chain(against.map(|other| (other, -1.0)))
                .collect(),
            Self::Reference => reference.iter().copied().enumerate().collect(),
        }
    }
}

/// Indices by falling value; ties by index; NaN last.
pub fn ranked(values: &[f32]) -> Vec<usize> {
    let key = |i: usize| {
        if values[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            values[i]
        }
    };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order
}

/// The class that an index or a label names; a prefix says which of the two is meant.
fn class(text: &str, classes: Classes<'_>) -> Result<usize, LabelError> {
    match text.split_once(':') {
        Some(("index", index)) => classes.index_of(index.trim()),
        Some(("label", label)) => classes.label(label.trim()),
        _ => classes.label_or_index(text),
    }
}

/// What is wrong with a contrast that nearly is one: a cut with one class beside it, else one whose
/// parts are known and cannot be taken.
fn half(cuts: Vec<(Result<usize, LabelError>, Result<usize, LabelError>)>) -> Option<LabelError> {
    let is_known = |error: &LabelError| {
        !matches!(
            error,
            LabelError::Unknown { .. } | LabelError::Unlabelled { .. }
        )
    };
    let mut known = None;
    for cut in cuts {
        match cut {
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => return Some(error),
            (Err(one), Err(other)) if is_known(&one) && is_known(&other) => {
                known = known.or(Some(one))
            }
            _ => {}
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::labels::Labels;

    fn parse_among(value: &Value, labels: &[&str]) -> Result<Target, String> {
        let labels = Labels::from(
            labels
                .iter()
                .map(|label| (*label).to_owned())
                .collect::<Vec<_>>(),
        );
        let classes = Classes {
            labels: &labels,
            count: Some(labels.len()),
        };
        Target::parse(value, classes).map_err(|error| error.explain(classes))
    }

    fn parse(text: &str) -> Result<Target, String> {
        let labels = [
            "tabby",
            "Egyptian_cat",
            "black-and-tan_coonhound",
            "crane",
            "jack-o'-lantern",
            "crane",
            "tan",
        ];
        parse_among(&json!(text), &labels)
    }

    fn above(score: f32, most: usize) -> Target {
        Target::Above(Threshold { score, most })
    }

    /// Without labels.
    fn parse_of(value: &Value, count: Option<usize>) -> Result<Target, TargetError> {
        Target::parse(
            value,
            Classes {
                labels: &Labels::default(),
                count,
            },
        )
    }

    #[test]
    fn every_form_is_understood() {
        let cases = [
            ("predicted", Target::Predicted),
            ("0", Target::Class(0)),
            ("Egyptian_cat", Target::Class(1)),
            (" egyptian cat ", Target::Class(1)),
            ("BLACK-AND-TAN COONHOUND", Target::Class(2)),
            ("top:3", Target::Top(3)),
            ("above: 0.5", above(0.5, 7)),
            ("above:-2", above(-2.0, 7)),
            ("1-0", Target::Contrast(1, 0)),
            ("tabby-egyptian cat", Target::Contrast(0, 1)),
            ("tabby - 1", Target::Contrast(0, 1)),
            (
                "jack-o'-lantern-black-and-tan_coonhound",
                Target::Contrast(4, 2),
            ),
            ("index:3", Target::Class(3)),
            ("label: egyptian cat", Target::Class(1)),
            ("label:jack-o'-lantern-index:3", Target::Contrast(4, 3)),
            ("index:1-index:0", Target::Contrast(1, 0)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_of(&json!(7), None), Ok(Target::Class(7)));
    }

    #[test]
    fn what_is_refused_says_what_would_do() {
        let cases = [
            ("7", "not below the number of classes, 7"),
            ("1-9", "index 9 is not below"),
            ("egyptian_cot", "near: Egyptian_cat"),
            ("cat", "near: Egyptian_cat"),
            ("tabby-egyptian_cot", "near: Egyptian_cat"),
            ("crane", "indices [3, 5]"),
            ("top:0", "k from 1 to 7"),
            ("top:8", "k from 1 to 7"),
            ("above:", "such as above:0.5"),
            ("above:NaN", "such as above:0.5"),
            ("above:half", "such as above:0.5"),
            ("1-1", "with itself"),
            ("", "no class"),
            ("-1", "no class"),
            ("index:7", "not below the number of classes, 7"),
            ("index:tabby", "is no index"),
            ("label:1", "no class is called `1`"),
            ("8-9", "index 8 is not below"),
            ("label:index:3", "no class is called `index:3`"),
        ];
        for (text, part) in cases {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        for value in [json!(-1), json!(1.5), json!([1]), json!(null)] {
            assert!(parse_of(&value, None).is_err(), "{value}");
        }
    }

    #[test]
    fn predicted_is_the_largest_logit_and_a_tie_goes_to_the_first() {
        assert_eq!(
            Target::Predicted.resolve(&[0.0, 2.0, 2.0, f32::NAN], &[]),
            [ResolvedTarget::class(1)]
        );
        assert_eq!(
            Target::Top(2).resolve(&[1.0, 0.0, 3.0], &[]),
            [ResolvedTarget::class(2), ResolvedTarget::class(0)]
        );
    }

    #[test]
    fn what_is_above_a_threshold_is_explained_the_best_first_and_no_more_than_is_bounded() {
        let explained = |least, logits: &[f32], scores: &[f32]| {
            let found = above(least, MAX_TOP).resolve(logits, scores);
            found
                .into_iter()
                .filter_map(|one| one.target().largest())
                .collect::<Vec<_>>()
        };
        let (logits, scores) = ([0.0, 2.0, -1.0, f32::NAN], [0.5, 0.9, 0.2, f32::NAN]);
        assert_eq!(explained(0.1, &logits, &scores), [1, 0, 2]);
        assert_eq!(explained(0.5, &logits, &scores), [1]);
        assert!(explained(0.9, &logits, &scores).is_empty());
        assert_eq!(explained(0.5, &[1.0; 100], &[0.9; 100]).len(), MAX_TOP);
    }

    #[test]
    fn a_contrast_seeds_the_difference() {
        assert_eq!(
            Target::Contrast(3, 1).resolve(&[], &[])[0].seed(&[]),
            [(3, 1.0), (1, -1.0)]
        );
    }

    #[test]
    fn a_similarity_is_seeded_with_the_other_embedding() {
        assert_eq!(parse("Reference"), Ok(Target::Reference));
        assert_eq!(
            parse_among(&json!("reference"), &["a", "reference"]),
            Ok(Target::Class(1))
        );
        let seed = Target::Reference.resolve(&[], &[])[0].seed(&[0.6, -0.8]);
        assert_eq!(seed, [(0, 0.6), (1, -0.8)]);
    }

    #[test]
    fn a_target_posted_back_is_the_same_target() {
        for target in [
            Target::Predicted,
            Target::Class(5),
            Target::Top(3),
            above(0.3, 6),
            Target::Reference,
            Target::Contrast(2, 1),
        ] {
            assert_eq!(parse_of(&target.to_json(), Some(6)), Ok(target));
            let numeric = ["0", "1", "10", "2", "2-1", "5"];
            assert_eq!(parse_among(&target.to_json(), &numeric), Ok(target));
        }
    }

    #[test]
    fn a_text_of_digits_that_is_one_classs_label_and_anothers_index_is_refused_with_both_ways_to_say_it()
     {
        let numeric = ["0", "1", "10", "11", "2", "3"];
        for (value, expected) in [
            (json!(2), Target::Class(2)),
            (json!("1"), Target::Class(1)),
            (json!("10"), Target::Class(2)),
            (json!("label:2"), Target::Class(4)),
            (json!("index:2"), Target::Class(2)),
            (json!("label:2-index:2"), Target::Contrast(4, 2)),
            (json!("10-0"), Target::Contrast(2, 0)),
        ] {
            assert_eq!(parse_among(&value, &numeric), Ok(expected), "{value}");
        }
        for text in ["2", "2-3", "3-10", "10-3"] {
            let message = parse_among(&json!(text), &numeric).unwrap_err();
            let digits = if text.contains('3') && text != "2-3" {
                "3"
            } else {
                "2"
            };
            for part in [format!("label:{digits}"), format!("index:{digits}")] {
                assert!(message.contains(&part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn a_target_is_bounded_before_it_is_looked_at() {
        for text in [
            "-".repeat(20_000),
            "a-".repeat(10_000),
            "x".repeat(1 << 20),
            " ".repeat(300) + "1",
        ] {
            let bytes = text.len();
            let error = parse_of(&json!(text), Some(9)).unwrap_err();
            assert_eq!(error, TargetError::TooLong { bytes });
            assert!(error.to_string().len() < 200, "{error}");
        }
        // What is read is cut at every hyphen and still names one fault, in few words.
        for text in ["-".repeat(MAX_BYTES), "a-".repeat(MAX_BYTES / 2)] {
            let message = parse(&text).unwrap_err();
            assert!(
                message.starts_with("no class is called") && message.len() < 400,
                "{message}"
            );
        }
    }
}
