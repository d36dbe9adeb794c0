//! The text of a baseline: terms joined by `+`, each a name with an optional argument after `:`.

use std::{fmt, str::FromStr};

use super::{Baseline, Term};
use crate::picture::ImageError;

/// The forms of a baseline's text, as errors and the API list them.
pub const ALLOWED: &[&str] = &[
    "zero",
    "black",
    "white",
    "min",
    "max",
    "mean",
    "segment_mean",
    "blur:<sigma>",
    "uniform:<seed>",
    "random:<n>",
    "dataset:<id>",
    "dataset:<id>:<n>",
    "uploaded",
];
/// The largest number of baselines that one text may stand for.
pub const MAX_BASELINES: usize = 100;
/// In pixels of the model's input; at this width a blur is all but constant.
const MAX_SIGMA: f32 = 100.0;
const DEFAULT_SIGMA: f32 = 10.0;
/// The number of images that `dataset:<id>` draws.
const DEFAULT_DRAWN: usize = 5;

impl FromStr for Baseline {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let terms = text
            .split('+')
            .map(|term| term.trim().parse())
            .collect::<Result<_, _>>()?;
        let baseline = Baseline { terms };
        let count = baseline.count();
        if count > MAX_BASELINES {
            return Err(ImageError::TooManyBaselines {
                text: text.to_owned(),
                count,
                max: MAX_BASELINES,
            });
        }
        Ok(baseline)
    }
}

impl FromStr for Term {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let refuse = |expected: String| ImageError::BaselineArgument {
            text: text.to_owned(),
            expected,
        };
        match (name, argument) {
            ("zero", None) => Ok(Term::Zero),
            ("black", None) => Ok(Term::Black),
            ("white", None) => Ok(Term::White),
            ("min", None) => Ok(Term::Min),
            ("max", None) => Ok(Term::Max),
            ("mean", None) => Ok(Term::Mean),
            ("segment_mean", None) => Ok(Term::SegmentMean),
            ("uploaded", None) => Ok(Term::Uploaded),
            (
                "zero" | "black" | "white" | "min" | "max" | "mean" | "segment_mean" | "uploaded",
                Some(_),
            ) => Err(refuse(format!("`{name}` takes no argument"))),
            ("blur", None) => Ok(Term::Blur(DEFAULT_SIGMA)),
            ("blur", Some(sigma)) => match sigma.parse() {
                Ok(sigma) if sigma > 0.0 && sigma <= MAX_SIGMA => Ok(Term::Blur(sigma)),
                _ => Err(refuse(format!(
                    "sigma is a number of pixels above 0, at most {MAX_SIGMA}"
                ))),
            },
            ("uniform", None) => Ok(Term::Uniform(0)),
            ("uniform", Some(seed)) => match seed.parse() {
                Ok(seed) => Ok(Term::Uniform(seed)),
                Err(_) => Err(refuse("the seed is a whole number from 0".to_owned())),
            },
            ("random", n) => match n.unwrap_or("1").parse() {
                Ok(n) if (1..=MAX_BASELINES).contains(&n) => Ok(Term::Random(n)),
                _ => Err(refuse(format!(
                    "n is a whole number from 1 to {MAX_BASELINES}"
                ))),
            },
            ("dataset", Some(argument)) => {
                let (id, count) = argument
                    .split_once(':')
                    .map_or((argument, Ok(DEFAULT_DRAWN)), |(id, n)| (id, n.parse()));
                match count {
                    Ok(count) if (1..=MAX_BASELINES).contains(&count) && !id.is_empty() => {
                        Ok(Term::Dataset {
                            id: id.to_owned(),
                            count,
                        })
                    }
                    _ => Err(refuse(format!(
                        "write dataset:<id>:<n>, n a whole number from 1 to {MAX_BASELINES}"
                    ))),
                }
            }
            _ => Err(ImageError::UnknownBaseline {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if at == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Zero => f.write_str("zero"),
            Term::Black => f.write_str("black"),
            Term::White => f.write_str("white"),
            Term::Min => f.write_str("min"),
            Term::Max => f.write_str("max"),
            Term::Mean => f.write_str("mean"),
            Term::SegmentMean => f.write_str("segment_mean"),
            Term::Blur(sigma) => write!(f, "blur:{sigma}"),
            Term::Uniform(seed) => write!(f, "uniform:{seed}"),
            Term::Random(n) => write!(f, "random:{n}"),
            Term::Dataset { id, count } => write!(f, "dataset:{id}:{count}"),
            Term::Uploaded => f.write_str("uploaded"),
        }
    }
}

impl TryFrom<String> for Baseline {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Baseline> for String {
    fn from(baseline: Baseline) -> String {
        baseline.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_parses_to_the_same_value() {
        for (text, canonical) in [
            ("zero", "zero"),
            ("black+white", "black+white"),
            ("min+max", "min+max"),
            (" blur + uniform ", "blur:10+uniform:0"),
            ("blur:2.50", "blur:2.5"),
            (
                "uniform:18446744073709551615",
                "uniform:18446744073709551615",
            ),
            ("random", "random:1"),
            ("mean+uploaded+random:3", "mean+uploaded+random:3"),
            ("dataset:photos", "dataset:photos:5"),
            ("zero+dataset:a-b.c:20", "zero+dataset:a-b.c:20"),
        ] {
            let baseline: Baseline = text.parse().unwrap();
            assert_eq!(baseline.to_string(), canonical);
            assert_eq!(canonical.parse::<Baseline>().unwrap(), baseline);
            assert_eq!(
                serde_json::to_string(&baseline).unwrap(),
                format!("\"{canonical}\"")
            );
        }
    }

    #[test]
    fn what_is_no_baseline_is_refused_with_what_is() {
        for text in ["", "grey", "zero+", "dataset", "Zero"] {
            let error = text.parse::<Baseline>().unwrap_err();
            assert!(
                matches!(error, ImageError::UnknownBaseline { .. }),
                "{text}: {error}"
            );
        }
        for text in [
            "blur:0",
            "blur:nan",
            "blur:inf",
            "blur:101",
            "uniform:-1",
            "random:0",
            "random:101",
            "zero:1",
            "dataset:",
            "dataset:x:0",
            "dataset:x:y",
        ] {
            assert!(
                matches!(
                    text.parse::<Baseline>(),
                    Err(ImageError::BaselineArgument { .. })
                ),
                "{text}"
            );
        }
        assert!(matches!(
            "random:60+random:41".parse::<Baseline>(),
            Err(ImageError::TooManyBaselines { count: 101, .. })
        ));
    }
}
