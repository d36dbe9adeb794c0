//! What the epochs of a training have in common: graphs, split, targets, weights to start with; and
//! the arithmetic of a step.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Checkpoint, EpochReport, Examples, Loss, Optimizer, Recipe, Surroundings, Targets,
    TrainingError,
    checkpoint::Weights,
    data::{Kept, Loader, MicroBatch, Split},
    head,
    memory::Memory,
    optimizer, output, selection,
};
use crate::{
    dataset::Dataset,
    engine::{NamedOutputs, WholeGraph},
    files::hex,
    model::{Model, RuleSets, labels::Labels},
    picture::preprocess::Preprocess,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::parameters::{Parameters, loss_gradients, places},
    onnx::{graph::Graph, passes},
};

pub(super) struct Plan {
    pub recipe: Recipe,
    pub parent: Arc<Model>,
    /// The parent, with its new head where it gets one.
    pub model: Arc<Model>,
    pub loader: Loader,
    pub split: Split,
    /// Gives logits, losses and gradients.
    pub training: Arc<WholeGraph>,
    /// Gives logits and losses.
    pub validation: Arc<WholeGraph>,
    /// Each parameter, and the output with its gradient.
    pub gradients: BTreeMap<String, String>,
    pub initial: Weights,
    pub micro_batch: usize,
    pub key: String,
}

/// Losses and right answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Summed over rows.
    pub loss: f64,
    pub correct: usize,
    pub rows: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.rows += other.rows;
    }

    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / self.rows as f64
    }
}

/// The sums of a batch.
#[derive(Default)]
pub(super) struct Sums {
    pub tally: Tally,
    /// By the name of the parameter; empty where nothing is trained.
    pub gradients: BTreeMap<String, Tensor>,
}

impl Plan {
    /// `runs` are queued at once.
    pub(super) fn new(
        recipe: Recipe,
        parent: Arc<Model>,
        dataset: Arc<Dataset>,
        examples: Examples,
        surroundings: &Surroundings,
        runs: usize,
    ) -> Result<Self, TrainingError> {
        let rule = rule_of(&parent)?;
        let model = match recipe.new_head {
            true if examples.labels.is_empty() => {
                return Err(TrainingError::Head {
                    reason: "its classes are labels, and the targets are logits".to_owned(),
                });
            }
            true => Arc::new(with_head(&parent, &examples.labels, recipe.seed)?),
            false => parent.clone(),
        };
        let names = selection::chosen(&places(&model.graph)?, &recipe)?;
        let derived = loss_gradients(&model.graph, recipe.loss.into(), &Parameters::Named(names))?;
        let classes = classes_of(&derived.graph);
        check_targets(&recipe, &examples, classes)?;
        let split = Split::new(&examples.targets, examples.images.len(), &recipe)?;
        let mut gradients = BTreeMap::new();
        let mut initial = Weights::new();
        for parameter in &derived.parameters {
            let values = parameter.value.to_f32s().unwrap_or_default();
            let tensor = Tensor::from_shape_vec(parameter.value.shape.clone(), values);
            let tensor = tensor.map_err(|_| TrainingError::NotInModel {
                names: vec![parameter.name.clone()],
            })?;
            initial.insert(parameter.name.clone(), Arc::new(tensor));
            gradients.insert(parameter.name.clone(), parameter.gradient.clone());
        }
        // Fails before the training, not after it.
        output::with_weights(&model.graph, &initial)?;
        let mut judged = derived.graph.clone();
        judged
            .outputs
            .retain(|output| !gradients.values().any(|name| *name == output.name));
        let whole = |name, graph| {
            Ok::<_, TrainingError>(Arc::new(WholeGraph::new(model.clone(), name, graph)?))
        };
        let validation = whole("losses", passes::prune(judged)?)?;
        let training = whole("losses and gradients of parameters", derived.graph)?;
        let memory = Memory::plan(&recipe, &training, &initial, surroundings, runs)?;
        let key = key(&recipe, &parent, &dataset, &examples);
        let loader = Loader {
            images: Arc::new(examples.images),
            targets: Arc::new(examples.targets),
            classes,
            rule,
            limits: surroundings.limits,
            seed: recipe.seed,
            crop: recipe.crop,
            flip: recipe.flip,
            kept: Arc::new(Kept::new(memory.left)),
            dataset,
        };
        Ok(Self {
            recipe,
            parent,
            model,
            loader,
            split,
            training,
            validation,
            gradients,
            initial,
            micro_batch: memory.micro_batch,
            key,
        })
    }

    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<(), TrainingError> {
        let refused = |reason: &str| {
            Err(TrainingError::Checkpoint {
                reason: reason.to_owned(),
            })
        };
        if checkpoint.head.key != self.key {
            return refused("it belongs to another recipe, model or data set");
        }
        let weights = checkpoint.weights.iter();
        let weights = weights.map(|(name, weight)| (name, weight.as_ref()));
        let has_second = matches!(self.recipe.optimizer, Optimizer::Adam { .. });
        if !self.fits(weights)
            || !self.fits(&checkpoint.first)
            || has_second && !self.fits(&checkpoint.second)
        {
            return refused("its tensors are not those of the model");
        }
        if !(1..=self.micro_batch).contains(&checkpoint.head.micro_batch) {
            return refused(
                "it was made with more memory: raise train_memory_mib and batch_memory_mib to what they were",
            );
        }
        Ok(())
    }

    /// Whether these are tensors of all parameters.
    fn fits<'a>(&self, found: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> bool {
        let found = found
            .into_iter()
            .map(|(name, tensor)| (name, tensor.shape()));
        let expected = self.initial.iter();
        found.eq(expected.map(|(name, weight)| (name, weight.shape())))
    }

    /// Adds what a run gave.
    pub(super) fn add(
        &self,
        mut sums: Sums,
        micro: &MicroBatch,
        mut outputs: NamedOutputs,
    ) -> Result<Sums, TrainingError> {
        let missing = |output: &str| TrainingError::Output {
            output: output.to_owned(),
        };
        let losses = outputs.get("loss").ok_or_else(|| missing("loss"))?;
        sums.tally.loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        sums.tally.rows += losses.len();
        let logits = outputs.get("logits").ok_or_else(|| missing("logits"))?;
        let rows = logits.outer_iter().zip(&micro.truth);
        sums.tally.correct += rows
            .filter(|(row, class)| best(row.iter().copied()) == Some(**class))
            .count();
        for (name, output) in &self.gradients {
            let Some(gradient) = outputs.swap_remove(output) else {
                continue;
            };
            match sums.gradients.get_mut(name) {
                Some(sum) if sum.shape() == gradient.shape() => *sum += &gradient,
                Some(_) => return Err(missing(output)),
                None => {
                    sums.gradients.insert(name.clone(), gradient);
                }
            }
        }
        Ok(sums)
    }

    /// Moves the weights; none if a gradient is not finite.
    pub(super) fn step(
        &self,
        mut state: Checkpoint,
        gradients: BTreeMap<String, Tensor>,
        learning_rate: f64,
        rows: usize,
    ) -> Option<Checkpoint> {
        let is_finite = |gradient: &Tensor| gradient.iter().all(|value| value.is_finite());
        if !gradients.values().all(is_finite) {
            return None;
        }
        state.head.step += 1;
        let step = optimizer::Step {
            optimizer: self.recipe.optimizer,
            learning_rate,
            weight_decay: self.recipe.weight_decay,
            number: state.head.step,
            rows,
        };
        let Checkpoint {
            weights,
            first,
            second,
            ..
        } = &mut state;
        optimizer::step(step, weights, first, second, &gradients);
        Some(state)
    }

    /// Keeps the best weights, and stops where they are no longer found.
    pub(super) fn settle(&self, state: &mut Checkpoint, report: &mut EpochReport) {
        let (Some(patience), Some(loss)) = (self.recipe.patience, report.validation_loss) else {
            return;
        };
        let best = state.head.best_epoch;
        let lowest = best
            .checked_sub(1)
            .and_then(|at| state.history.get(at)?.validation_loss);
        if lowest.is_none_or(|lowest| loss < lowest) {
            state.head.best_epoch = report.epoch;
            state.best = state.weights.clone();
        }
        report.stops |= report.epoch - state.head.best_epoch >= patience;
    }

    pub(super) fn accuracy(&self, tally: &Tally) -> Option<f64> {
        let has_classes = matches!(*self.loader.targets, Targets::Classes(_));
        (has_classes && tally.rows > 0).then(|| tally.correct as f64 / tally.rows as f64)
    }
}

/// Fails with what stands in the way of training a model on any images.
pub fn check_model(recipe: &Recipe, model: &Model) -> Result<(), TrainingError> {
    /// The fewest classes of a new head.
    const CLASSES: usize = 2;
    rule_of(model)?;
    let replaced = match recipe.new_head {
        true => Some(head::replace(&model.graph, CLASSES, recipe.seed)?),
        false => None,
    };
    let graph = replaced.as_ref().unwrap_or(&model.graph);
    let names = selection::chosen(&places(graph)?, recipe)?;
    loss_gradients(graph, recipe.loss.into(), &Parameters::Named(names))?;
    Ok(())
}

fn rule_of(model: &Model) -> Result<Preprocess, TrainingError> {
    let rule = model.manifest.input.preprocess.clone();
    rule.ok_or_else(|| TrainingError::TakesTensors {
        model: model.id.clone(),
        shape: model.manifest.input.shape.clone(),
    })
}

/// The class with the largest logit, the first of equals.
fn best(row: impl Iterator<Item = f32>) -> Option<usize> {
    let larger = |best: Option<(usize, f32)>, (class, logit): (usize, f32)| match best {
        Some((_, largest)) if largest >= logit => best,
        _ => Some((class, logit)),
    };
    row.enumerate().fold(None, larger).map(|(class, _)| class)
}

/// The model with another head, and its classes' names.
fn with_head(model: &Model, labels: &[String], seed: u64) -> Result<Model, TrainingError> {
    let graph = head::replace(&model.graph, labels.len(), seed)?;
    Ok(Model {
        hash: format!(
            "{}, new head of {} classes by {seed}",
            model.hash,
            labels.len()
        ),
        graph: Arc::new(graph),
        rule_sets: RuleSets::default(),
        labels: Labels::from(labels.to_vec()),
        patterns: None,
        ..model.clone()
    })
}

fn classes_of(graph: &Graph) -> usize {
    let logits = graph.outputs.iter().find(|output| output.name == "logits");
    logits
        .and_then(|logits| logits.value_type.shape.get(1)?.known())
        .unwrap_or_default()
}

fn check_targets(
    recipe: &Recipe,
    examples: &Examples,
    classes: usize,
) -> Result<(), TrainingError> {
    let images = examples.images.len();
    let found = match &examples.targets {
        Targets::Logits(_) if recipe.loss == Loss::CrossEntropy => {
            return Err(TrainingError::LossOfLogits);
        }
        Targets::Logits(logits) if logits.dim() != (images, classes) => logits.shape().to_vec(),
        Targets::Classes(given)
            if given.len() != images || given.iter().any(|class| *class >= classes) =>
        {
            vec![given.len()]
        }
        _ => return Ok(()),
    };
    Err(TrainingError::Targets {
        found,
        images,
        classes,
    })
}

fn key(recipe: &Recipe, model: &Model, dataset: &Dataset, examples: &Examples) -> String {
    let mut all = Sha256::new();
    let version = env!("CARGO_PKG_VERSION");
    let named = json!([version, recipe, model.hash, dataset.hash, examples.labels]);
    all.update(named.to_string());
    for image in &examples.images {
        all.update((*image as u64).to_le_bytes());
    }
    match &examples.targets {
        Targets::Classes(classes) => classes
            .iter()
            .for_each(|class| all.update((*class as u64).to_le_bytes())),
        Targets::Logits(logits) => logits
            .iter()
            .for_each(|logit| all.update(logit.to_le_bytes())),
    }
    hex(&all.finalize())
}
