//! What the draws say of each layer: the mean TCAV scores of the concept's vectors and of random
//! ones (Eq. 2: the share of the class's images whose logit rises along the vector), whether they
//! differ by more than chance, and the mean over the layers where they do. Kim et al. 2018, 3.4 and
//! 3.5; Yang & Kim 2019, appendix F. And what other models score beside: the model contrast score,
//! section 4.2 and appendix G there.

use serde::{Deserialize, Serialize};

use super::significance::{Welch, interval, welch};
use crate::evaluation::{findings::Machine, similarity};

pub const PAPER: &str = "Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors (TCAV), 2018";

/// The fewest models that a correlation is told of.
const MIN_MODELS: usize = 3;

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
    /// Of the images of the class, where other models are tested too and images have twins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// The models that are tested beside, in the order of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelFinding>,
    /// Pearson's, between the contrast scores of all models and the accuracy that each loses without
    /// the concept; of at least three models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<f64>,
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

/// A model that is tested beside the one that is evaluated, with the same images and draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFinding {
    pub model: String,
    /// The mean over the layers that pass; none where no layer does.
    pub score: Option<f64>,
    pub interval: Option<[f64; 2]>,
    /// Its score less that of the model that is evaluated; none where one of them has none.
    pub mcs: Option<f64>,
    /// 95 %, over draws.
    pub mcs_interval: Option<[f64; 2]>,
    /// The same of random vectors, at the same layers.
    pub random_mcs: Option<f64>,
    pub random_mcs_interval: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    pub layers: Vec<LayerFinding>,
}

impl ModelFinding {
    /// `evaluated` are the layers of the model that is evaluated.
    pub fn of(
        model: String,
        layers: Vec<LayerFinding>,
        accuracy: Option<Accuracy>,
        evaluated: &[LayerFinding],
    ) -> Self {
        let score = overall(&layers);
        let [mcs, random_mcs] = [CONCEPT, RANDOM].map(|side| contrast(&layers, evaluated, side));
        Self {
            model,
            score: score.map(|(score, _)| score),
            interval: score.map(|(_, interval)| interval),
            mcs: mcs.map(|(mcs, _)| mcs),
            mcs_interval: mcs.map(|(_, interval)| interval),
            random_mcs: random_mcs.map(|(mcs, _)| mcs),
            random_mcs_interval: random_mcs.map(|(_, interval)| interval),
            accuracy,
            layers,
        }
    }
}

/// Of a model, on the images of the class that have a twin without the concept, and on the twins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    pub images: usize,
    pub with: f64,
    pub without: f64,
}

impl Accuracy {
    pub fn lost(self) -> f64 {
        self.with - self.without
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
        let (mean, interval) = interval_of_shares(&each)?;
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

/// The vectors of the concept, or random ones.
type Side = fn(&LayerFinding) -> Option<&Scores>;

const CONCEPT: Side = |layer| layer.concept.as_ref();
const RANDOM: Side = |layer| layer.random.as_ref();

/// Of each draw, the mean over the layers that pass.
fn of_draws(layers: &[LayerFinding], side: Side) -> Option<Vec<f64>> {
    let passing = layers.iter().filter(|layer| layer.passes);
    let scores: Vec<&Scores> = passing.filter_map(side).collect();
    let draws = scores.iter().map(|scores| scores.each.len()).min()?;
    let mean = |draw: usize| {
        let all = scores.iter().map(|scores| scores.each[draw]);
        all.sum::<f64>() / scores.len() as f64
    };
    Some((0..draws).map(mean).collect())
}

/// The mean over the layers that pass, of each draw first, with its interval.
pub fn overall(layers: &[LayerFinding]) -> Option<(f64, [f64; 2])> {
    interval_of_shares(&of_draws(layers, CONCEPT)?)
}

/// Scores are shares, which are never outside of 0 and 1.
fn interval_of_shares(scores: &[f64]) -> Option<(f64, [f64; 2])> {
    let (mean, interval) = interval(scores)?;
    Some((mean, interval.map(|end| end.clamp(0.0, 1.0))))
}

/// The mean of one model less that of another, draw by draw, with its interval.
fn contrast(one: &[LayerFinding], other: &[LayerFinding], side: Side) -> Option<(f64, [f64; 2])> {
    let (one, other) = (of_draws(one, side)?, of_draws(other, side)?);
    let differences = one.iter().zip(&other).map(|(one, other)| one - other);
    interval(&differences.collect::<Vec<_>>())
}

/// Pearson's correlation between the contrast scores of models, that of the evaluated one being 0,
/// and the accuracy that each loses: none of fewer than three. 0 where either is the same for all.
pub fn correlation(evaluated: Option<Accuracy>, models: &[ModelFinding]) -> Option<f64> {
    let others = models.iter().map(|model| (model.mcs, model.accuracy));
    let all = [(Some(0.0), evaluated)].into_iter().chain(others);
    let pairs: Vec<[f64; 2]> = all
        .filter_map(|(mcs, accuracy)| Some([mcs?, accuracy?.lost()]))
        .collect();
    let [scores, lost] = [0, 1].map(|side| pairs.iter().map(|pair| pair[side]).collect::<Vec<_>>());
    (pairs.len() >= MIN_MODELS).then(|| similarity::correlation(&scores, &lost))
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
    fn models_are_contrasted_draw_by_draw_at_the_layers_that_pass() {
        let evaluated = [layer(&[1, 0, 2, 1], &[5, 6, 4, 5])];
        // Each draw of the first layer is .7 more, and the second does not pass.
        let layers = vec![
            layer(&[8, 7, 9, 8], &[6, 5, 4, 5]),
            layer(&[0, 9, 1, 8], &[5, 5, 5, 5]),
        ];
        assert_eq!([layers[0].passes, layers[1].passes], [true, false]);
        let found = ModelFinding::of("other".to_owned(), layers, None, &evaluated);
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        assert!(near(found.score, 0.8) && near(found.mcs, 0.7) && near(found.random_mcs, 0.0));
        let [low, high] = found.mcs_interval.unwrap();
        assert!((low - 0.7).abs() < 1e-12 && (high - 0.7).abs() < 1e-12);
        // Of random vectors one draw is .1 more, and one .1 less.
        let [low, high] = found.random_mcs_interval.unwrap();
        assert!(low < -0.05 && high > 0.05);
        let rejected = vec![layer(&[5, 5], &[5, 5])];
        let none = ModelFinding::of("none".to_owned(), rejected, None, &evaluated);
        assert_eq!((none.score, none.mcs, none.random_mcs), (None, None, None));
    }

    #[test]
    fn contrast_scores_are_correlated_with_the_accuracies_that_models_lose() {
        let accuracy = |with: f64| {
            Some(Accuracy {
                images: 10,
                with,
                without: 0.5,
            })
        };
        let model = |mcs: Option<f64>, with: f64| ModelFinding {
            mcs,
            ..ModelFinding::of(String::new(), Vec::new(), accuracy(with), &[])
        };
        let models = [
            model(Some(0.4), 0.9),
            model(Some(0.2), 0.7),
            model(None, 0.5),
        ];
        // (0, 0), (.4, .4), (.2, .2).
        let found = correlation(accuracy(0.5), &models).unwrap();
        assert!((found - 1.0).abs() < 1e-12);
        // (0, .3), (.4, .4), (.2, .2): Σ = .02, .08, .02.
        let found = correlation(accuracy(0.8), &models).unwrap();
        assert!((found - 0.5).abs() < 1e-12, "{found}");
        assert_eq!(correlation(accuracy(0.5), &models[1..]), None);
        assert_eq!(correlation(None, &models), None);
    }

    #[test]
    fn p_values_are_short() {
        let texts = [0.0, 3.14e-12, 0.00123, 0.5].map(rounded);
        assert_eq!(texts, ["0", "3.1e-12", "0.0012", "0.5000"]);
    }
}
