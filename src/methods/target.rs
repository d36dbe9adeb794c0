//! Which output is explained: `predicted`, an index, a label, `top:k`, or a contrast `a-b` (why a and not b).
//! Labels match without regard to case, and with spaces for underscores. A number is always an index. A text that is a label as
//! a whole is that label, even with `-` in it; else it is cut at the one `-` that leaves a class on both sides.

use serde_json::{Value, json};

/// A parsed target. Indices are below the number of classes where that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Predicted,
    Class(usize),
    /// The k best classes, one answer each.
    Top(usize),
    Contrast(usize, usize),
}

pub const FORMS: &[&str] = &["predicted", "an index", "a label", "top:k", "a contrast a-b of indices or labels"];
pub const MAX_TOP: usize = 20;

/// The classes of a model: labels may be empty, the count unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Classes<'a> {
    pub labels: &'a [String],
    pub count: Option<usize>,
}

impl Target {
    /// The message of an error is for the user.
    pub fn parse(value: &Value, classes: Classes<'_>) -> Result<Self, String> {
        let text = match value {
            Value::String(text) => text.trim(),
            Value::Number(number) => return classes.find(&number.to_string()).map(Self::Class),
            _ => return Err("is neither a text nor an index".into()),
        };
        if text.eq_ignore_ascii_case("predicted") {
            return Ok(Self::Predicted);
        }
        if let Some(k) = text.strip_prefix("top:") {
            let most = classes.count.unwrap_or(MAX_TOP).min(MAX_TOP);
            return match k.trim().parse() {
                Ok(k) if (1..=most).contains(&k) => Ok(Self::Top(k)),
                _ => Err(format!("top:k needs k from 1 to {most}")),
            };
        }
        let whole = match classes.find(text) {
            Ok(class) => return Ok(Self::Class(class)),
            Err(message) => message,
        };
        let cuts: Vec<_> = text
            .match_indices('-')
            .map(|(at, _)| (classes.find(text[..at].trim()), classes.find(text[at + 1..].trim())))
            .collect();
        let contrasts: Vec<_> =
            cuts.iter().filter_map(|cut| Some((*cut.0.as_ref().ok()?, *cut.1.as_ref().ok()?))).collect();
        match contrasts[..] {
            [(a, b)] if a == b => Err(format!("contrasts class {a} with itself")),
            [(a, b)] => Ok(Self::Contrast(a, b)),
            [] => {
                let half = cuts.into_iter().find_map(|cut| match cut {
                    (Ok(_), Err(message)) | (Err(message), Ok(_)) => Some(message),
                    _ => None,
                });
                Err(half.unwrap_or(whole))
            }
            _ => Err(format!("`{text}` can be cut into two labels in several ways; use indices")),
        }
    }

    /// The seeds this target stands for, given the head's values of the clean input where the target needs them.
    /// A tie goes to the smaller index.
    pub fn resolve(self, logits: &[f32]) -> Vec<Goal> {
        let best = |k| ranked(logits).into_iter().take(k).map(Goal::class).collect();
        match self {
            Self::Predicted => best(1),
            Self::Top(k) => best(k),
            Self::Class(class) => vec![Goal::class(class)],
            Self::Contrast(a, b) => vec![Goal { index: a, against: Some(b) }],
        }
    }

    /// Whether `resolve` looks at the logits.
    pub fn needs_logits(self) -> bool {
        matches!(self, Self::Predicted | Self::Top(_))
    }

    /// How many answers it gives.
    pub fn answers(self) -> usize {
        if let Self::Top(k) = self { k } else { 1 }
    }

    /// The largest index named.
    pub fn largest(self) -> Option<usize> {
        match self {
            Self::Predicted | Self::Top(_) => None,
            Self::Class(class) => Some(class),
            Self::Contrast(a, b) => Some(a.max(b)),
        }
    }

    pub fn to_json(self) -> Value {
        match self {
            Self::Predicted => json!("predicted"),
            Self::Class(class) => json!(class),
            Self::Top(k) => json!(format!("top:{k}")),
            Self::Contrast(a, b) => json!(format!("{a}-{b}")),
        }
    }
}

/// One class, or one class against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    pub index: usize,
    pub against: Option<usize>,
}

impl Goal {
    fn class(index: usize) -> Self {
        Self { index, against: None }
    }

    pub fn target(self) -> Target {
        match self.against {
            None => Target::Class(self.index),
            Some(other) => Target::Contrast(self.index, other),
        }
    }

    /// The cotangent of the head.
    pub fn seed(self) -> Vec<(usize, f32)> {
        [(self.index, 1.0)].into_iter().chain(self.against.map(|other| (other, -1.0))).collect()
    }
}

/// Indices by falling value; ties by index; NaN last.
pub fn ranked(values: &[f32]) -> Vec<usize> {
    let key = |i: usize| if values[i].is_nan() { f32::NEG_INFINITY } else { values[i] };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order
}

impl Classes<'_> {
    /// The class that an index or a label names. The message of an error is for the user.
    pub fn find(&self, text: &str) -> Result<usize, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match (text.parse::<usize>(), self.count) {
                (Ok(index), Some(count)) if index < count => Ok(index),
                (Ok(index), None) => Ok(index),
                (_, Some(count)) => Err(format!("index {text} is not below the number of classes, {count}")),
                (Err(_), None) => Err(format!("index {text} is too large")),
            };
        }
        let wanted = fold(text);
        let found: Vec<usize> =
            (0..self.labels.len()).filter(|&i| !wanted.is_empty() && fold(&self.labels[i]) == wanted).collect();
        match found[..] {
            [index] => Ok(index),
            [] => Err(self.unknown(text, &wanted)),
            _ => Err(format!("label `{text}` names several classes; use one of the indices {found:?}")),
        }
    }

    fn unknown(&self, text: &str, wanted: &str) -> String {
        if self.labels.is_empty() {
            return format!("`{text}` is not an index, and the model has no labels");
        }
        let mut near: Vec<(f64, &String)> = self
            .labels
            .iter()
            .map(|label| {
                let folded = fold(label);
                let part = !wanted.is_empty() && folded.contains(wanted);
                (f64::from(u8::from(part)) + strsim::jaro_winkler(&folded, wanted), label)
            })
            .filter(|&(likeness, _)| likeness > 0.8)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near: Vec<_> = near.iter().take(5).map(|(_, label)| label.as_str()).collect();
        match near[..] {
            [] => format!("no class is called `{text}`"),
            _ => format!("no class is called `{text}`; near: {}", near.join(", ")),
        }
    }
}

fn fold(label: &str) -> String {
    label.trim().to_lowercase().replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        let labels: Vec<String> =
            ["tabby", "Egyptian_cat", "black-and-tan_coonhound", "crane", "jack-o'-lantern", "crane", "tan"]
                .map(String::from)
                .into();
        Target::parse(&json!(text), Classes { labels: &labels, count: Some(labels.len()) })
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
            ("1-0", Target::Contrast(1, 0)),
            ("tabby-egyptian cat", Target::Contrast(0, 1)),
            ("tabby - 1", Target::Contrast(0, 1)),
            ("jack-o'-lantern-black-and-tan_coonhound", Target::Contrast(4, 2)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        assert_eq!(Target::parse(&json!(7), Classes::default()), Ok(Target::Class(7)));
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
            ("1-1", "with itself"),
            ("", "no class"),
            ("-1", "no class"),
        ];
        for (text, part) in cases {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(Target::parse(&json!(-1), Classes::default()).is_err());
        assert!(Target::parse(&json!([1]), Classes::default()).is_err());
    }

    #[test]
    fn predicted_is_the_largest_logit_and_a_tie_goes_to_the_first() {
        assert_eq!(Target::Predicted.resolve(&[0.0, 2.0, 2.0, f32::NAN]), [Goal::class(1)]);
        assert_eq!(Target::Top(2).resolve(&[1.0, 0.0, 3.0]), [Goal::class(2), Goal::class(0)]);
    }

    #[test]
    fn a_contrast_seeds_the_difference() {
        assert_eq!(Target::Contrast(3, 1).resolve(&[])[0].seed(), [(3, 1.0), (1, -1.0)]);
    }

    #[test]
    fn a_target_posted_back_is_the_same_target() {
        for target in [Target::Predicted, Target::Class(5), Target::Top(3), Target::Contrast(2, 1)] {
            assert_eq!(Target::parse(&target.to_json(), Classes { labels: &[], count: Some(9) }), Ok(target));
        }
    }
}
