//! Baselines x' of path methods, named by text: `zero`, `blur:10`, `black+white` (a method averages
//! over several). Every value lies in the model's input space. Source: Sturmfels et al. 2020.
//! docs/methods.md lists the meanings.

mod resolve;
mod text;

use serde::{Deserialize, Serialize};

pub use resolve::{ImageSource, Material};
pub use text::{ALLOWED, MAX_BASELINES};

/// One or several baselines. Parsed from text; `Display` writes text that parses to the same value,
/// with defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Baseline {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// All zeros: the mean colour for models whose preprocessing subtracts the mean.
    Zero,
    Black,
    White,
    /// The picture's darkest value in every channel; the smallest element of inputs that are no
    /// images.
    Min,
    /// The picture's brightest value, likewise.
    Max,
    /// The input's own mean per channel; over all elements for inputs that are no images.
    Mean,
    /// In each region of the picture its mean per channel, and the input itself outside of all;
    /// `Mean` for inputs that are no images.
    SegmentMean,
    /// The input blurred by a Gaussian of this sigma, in pixels of the model's input; borders
    /// reflected.
    Blur(f32),
    /// One random image: each element uniform between black and white (for models without
    /// preprocessing: between the input's min and max).
    Uniform(u64),
    /// This many such images, drawn by the request's `seed`.
    Random(usize),
    /// That many images of a data set, drawn by the request's `seed`.
    Dataset {
        id: String,
        count: usize,
    },
    /// An image or tensor sent with the request.
    Uploaded,
}

impl<const N: usize> From<[Term; N]> for Baseline {
    fn from(terms: [Term; N]) -> Self {
        Baseline {
            terms: terms.into(),
        }
    }
}

impl Default for Baseline {
    fn default() -> Self {
        Baseline {
            terms: vec![Term::Zero],
        }
    }
}

impl From<Term> for Baseline {
    fn from(term: Term) -> Self {
        Baseline { terms: vec![term] }
    }
}

impl Baseline {
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// How many baselines this stands for, at most (a data set may have fewer images): the cost of
    /// a path method is proportional to it.
    pub fn count(&self) -> usize {
        let count = |term: &Term| match term {
            Term::Random(count) | Term::Dataset { count, .. } => *count,
            _ => 1,
        };
        self.terms.iter().map(count).sum()
    }
}
