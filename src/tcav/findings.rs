//! What the draws say of each layer: the mean TCAV scores of the concept's vectors and of random
//! ones (Eq. 2: the share of the class's images whose logit rises along the vector), whether they
//! differ by more than chance, and the mean over the layers where they do. Kim et al. 2018, 3.4 and
//! 3.5; Yang & Kim 2019, appendix F.

use serde::{Deserialize, Serialize};

use super::significance::{Welch, interval, welch};
use crate::evaluation::findings::Machine;

pub const PAPER: &str = "Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors (TCAV), 2018";

/// What one vector gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorResult {
    /// Images of the class whose directional derivative is above 0.
    pub positive: usize,
    /// Of its classifier, on the third of the images held out.
    pub accuracy: f64,
}

/// One draw at one layer. `None` where nothing tells the two sets apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawResult {
    pub draw: usize,
    /// The concept against its counterpart.
    pub concept: Option<VectorResult>,
    /// The stand-in against the same counterpart.
    pub random: Option<VectorResult>,
}

/// All layers, so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcavFindings {
    /// Of explaind.
    pub version: String,
    /// Of the class that is explained, where it has one.
    pub label: Option<String>,
    /// Of the class, used.
    pub images: usize,
    /// That the random sets were drawn from.
    pub random_images: usize,
    /// Whether no image is in two random sets.
    pub disjoint: bool,
    /// The mean over the layers that pass; none where no layer does.
    pub score: Option<f64>,
    /// 95 %, over draws.
    pub interval: Option<[f64; 2]>,
    /// In the order of the forward pass.
    pub layers: Vec<LayerFinding>,
    /// What it ran on; once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Machine>,
}

impl TcavFindings {
    /// Without what would tell a repetition from the first run.
    pub fn repeatable(mut self) -> Self {
        self.run.iter_mut().for_each(|run| run.ended = None);
        self
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerFinding {
    pub layer: String,
    pub passes: bool,
    /// Why it does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// Of the concept's vectors against the random ones; none of fewer than two draws.
    pub test: Option<Welch>,
    /// None before the first draw.
    pub concept: Option<Scores>,
    pub random: Option<Scores>,
}

/// Of the vectors of all draws at a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub mean: f64,
    /// 95 %, by Student's t over the draws.
    pub interval: [f64; 2],
    /// Mean accuracy of the classifiers.
    pub accuracy: f64,
    /// In the order of the draws; overviews leave it out.
    #[serde(default)]
    pub each: Vec<f64>,
}

impl Scores {
    fn of(results: &[VectorResult], images: usize) -> Option<Self> {
        let each: Vec<f64> = results
            .iter()
            .map(|result| result.positive as f64 / images as f64)
            .collect();
        let (mean, interval) = interval(&each)?;
        let accuracies = results.iter().map(|result| result.accuracy);
        Some(Self {
            mean,
            interval,
            accuracy: accuracies.sum::<f64>() / results.len() as f64,
            each,
        })
    }
}

impl LayerFinding {
    /// `draws` are those that are done, in order; `p` is what a layer must stay below or at.
    pub fn of(layer: String, draws: &[DrawResult], images: usize, p: f64) -> Self {
        let concept: Vec<VectorResult> = draws.iter().filter_map(|draw| draw.concept).collect();
        let random: Vec<VectorResult> = draws.iter().filter_map(|draw| draw.random).collect();
        let same = 2 * draws.len() - concept.len() - random.len();
        let [concept, random] = [concept, random].map(|results| Scores::of(&results, images));
        let each = |scores: &Option<Scores>| {
            let scores = scores.as_ref();
            scores.map(|scores| scores.each.clone()).unwrap_or_default()
        };
        let test = welch(&each(&concept), &each(&random));
        let rejected = match test {
            _ if same > 0 => Some(format!(
                "nothing tells the two sets of {same} of {} vectors apart at this layer",
                2 * draws.len()
            )),
            None => Some("fewer than two draws are done".to_owned()),
            Some(test) if test.p > p => Some(format!(
                "p = {} is above {p}: random vectors score so too",
                rounded(test.p)
            )),
            Some(_) => None,
        };
        Self {
            layer,
            passes: rejected.is_none(),
            rejected,
            test,
            concept,
            random,
        }
    }
}

/// The mean over the layers that pass, of each draw first, with its interval.
pub fn overall(layers: &[LayerFinding]) -> Option<(f64, [f64; 2])> {
    let passing = layers.iter().filter(|layer| layer.passes);
    let scores: Vec<&Scores> = passing.filter_map(|layer| layer.concept.as_ref()).collect();
    let draws = scores.iter().map(|scores| scores.each.len()).min()?;
    let mean = |draw: usize| {
        let all = scores.iter().map(|scores| scores.each[draw]);
        all.sum::<f64>() / scores.len() as f64
    };
    let means: Vec<f64> = (0..draws).map(mean).collect();
    interval(&means)
}

/// A p value for people: `0.0234`, `3.1e-12`.
pub fn rounded(p: f64) -> String {
    match p {
        0.0 => "0".to_owned(),
        p if p < 0.0001 => format!("{p:.1e}"),
        p => format!("{p:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(concept: &[usize], random: &[usize]) -> Vec<DrawResult> {
        let result = |positive| {
            Some(VectorResult {
                positive,
                accuracy: 0.75,
            })
        };
        let pairs = concept.iter().zip(random).enumerate();
        let draw = |(draw, (concept, random)): (usize, (&usize, &usize))| DrawResult {
            draw,
            concept: result(*concept),
            random: result(*random),
        };
        pairs.map(draw).collect()
    }

    fn layer(concept: &[usize], random: &[usize]) -> LayerFinding {
        LayerFinding::of("relu".to_owned(), &draws(concept, random), 10, 0.01)
    }

    #[test]
    fn layers_pass_whose_scores_random_vectors_do_not_reach() {
        let passing = layer(&[9, 8, 9, 10], &[4, 6, 5, 5]);
        let scores = passing.concept.as_ref().unwrap();
        assert_eq!((scores.mean, scores.accuracy), (0.9, 0.75));
        assert_eq!(scores.each, [0.9, 0.8, 0.9, 1.0]);
        assert!(passing.passes && passing.test.unwrap().p < 0.01);
        let rejected = layer(&[9, 8, 9, 10], &[9, 2, 10, 8]);
        let test = rejected.test.unwrap();
        let reason = rejected.rejected.clone().unwrap();
        assert!(!rejected.passes && test.p > 0.01);
        assert!(reason.starts_with(&format!("p = {:.4} is above 0.01", test.p)));
        // Of both, the passing alone counts.
        let (score, [low, high]) = overall(&[passing.clone(), rejected.clone()]).unwrap();
        assert_eq!((score, [low, high]), (0.9, scores.interval));
        assert_eq!(overall(&[rejected]), None);
        let lower = layer(&[1, 0, 1, 2], &[4, 6, 5, 5]);
        let (score, [low, high]) = overall(&[passing, lower]).unwrap();
        assert!((score - 0.5).abs() < 1e-12 && low < score && score < high);
    }

    #[test]
    fn a_layer_without_a_vector_or_with_one_draw_is_rejected() {
        let mut results = draws(&[9, 9, 9], &[4, 5, 6]);
        results[1].concept = None;
        let found = LayerFinding::of("relu".to_owned(), &results, 10, 0.01);
        assert!(found.rejected.unwrap().contains("1 of 6 vectors"));
        assert_eq!(found.concept.unwrap().each, [0.9, 0.9]);
        let found = layer(&[9], &[4]);
        assert!(found.rejected.unwrap().contains("two draws") && found.test.is_none());
        let found = layer(&[], &[]);
        assert!(!found.passes && found.concept.is_none());
    }

    #[test]
    fn p_values_are_short() {
        let texts = [0.0, 3.14e-12, 0.00123, 0.5].map(rounded);
        assert_eq!(texts, ["0", "3.1e-12", "0.0012", "0.5000"]);
    }
}
