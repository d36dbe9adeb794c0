//! A training, epoch by epoch. A step takes one run of the training graph for each micro-batch;
//! their gradients are added in order, so that the result does not depend on which ends first. The
//! next batch is read while the present one runs.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Checkpoint, EpochReport, Examples, Loss, ModelFile, Optimizer, Recipe, Surroundings, Targets,
    TrainingError,
    checkpoint::{Header, Weights},
    data::{Loader, MicroBatch, Split},
    head, optimizer, output, selection,
};
use crate::{
    dataset::Dataset,
    engine::{Caller, Engine, NamedOutputs, WholeGraph},
    files::hex,
    model::{
        Model,
        labels::Labels,
        provenance::{Origin, Provenance},
    },
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::parameters::{Parameters, loss_gradients, places},
    onnx::{graph::Graph, passes},
};

/// The most rows of a run.
const MICRO_BATCH: usize = 8;
/// Runs that are queued at once, so that the device does not wait for the next.
const IN_FLIGHT: usize = 2;
const MIB: usize = 1 << 20;

/// A training that can be carried on from any of its checkpoints: the derived graph, the split, the
/// targets. Made once in each process that works on it.
pub struct Trainer {
    plan: Arc<Plan>,
    surroundings: Surroundings,
}

struct Plan {
    recipe: Recipe,
    parent: Arc<Model>,
    /// The parent, with its new head where it gets one.
    model: Arc<Model>,
    loader: Loader,
    split: Split,
    /// Gives logits, losses and gradients.
    training: Arc<WholeGraph>,
    /// Gives logits and losses.
    validation: Arc<WholeGraph>,
    /// Each parameter, and the output with its gradient.
    gradients: BTreeMap<String, String>,
    initial: Weights,
    micro_batch: usize,
    key: String,
}

impl Trainer {
    /// Derives the training graph and splits the images. Fails with what stands in the way of the
    /// whole training.
    pub async fn new(
        recipe: Recipe,
        model: Arc<Model>,
        dataset: Arc<Dataset>,
        examples: Examples,
        surroundings: Surroundings,
    ) -> Result<Self, TrainingError> {
        let given = surroundings.clone();
        let plan = move || Plan::new(recipe, model, dataset, examples, &given);
        Ok(Self {
            plan: Arc::new(surroundings.pool.run(plan).await??),
            surroundings,
        })
    }

    /// Tells the training from all others: SHA-256 of recipe, model, data and targets, in hex.
    pub fn key(&self) -> &str {
        &self.plan.key
    }

    /// Images that are trained on, and images that are kept back. An epoch evaluates both.
    pub fn images(&self) -> (usize, usize) {
        let Split {
            training,
            validation,
        } = &self.plan.split;
        (training.len(), validation.len())
    }

    /// Epoch 0: the model's own weights.
    pub fn start(&self) -> Checkpoint {
        let zeros = || -> BTreeMap<String, Tensor> {
            let weights = self.plan.initial.iter();
            weights
                .map(|(name, weight)| (name.clone(), Tensor::zeros(weight.shape())))
                .collect()
        };
        Checkpoint {
            head: Header {
                key: self.plan.key.clone(),
                step: 0,
                micro_batch: self.plan.micro_batch,
                best_epoch: 0,
            },
            weights: self.plan.initial.clone(),
            first: zeros(),
            second: match self.plan.recipe.optimizer {
                Optimizer::Adam { .. } => zeros(),
                Optimizer::Sgd { .. } => BTreeMap::new(),
            },
            best: Weights::new(),
            history: Vec::new(),
        }
    }

    /// Fails if the checkpoint belongs to another training, or this machine has less memory than it
    /// was made with.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), TrainingError> {
        self.plan.check(checkpoint)
    }

    /// One epoch more. `progress` is told the images done so far. Fails without a trace: the
    /// checkpoint's bytes can be used again.
    pub async fn epoch(
        &self,
        from: Checkpoint,
        caller: &Caller,
        mut progress: impl FnMut(u64),
    ) -> Result<(Checkpoint, EpochReport), TrainingError> {
        let plan = &self.plan;
        plan.check(&from)?;
        if from.is_last() {
            return Err(TrainingError::Checkpoint {
                reason: "its training has ended".to_owned(),
            });
        }
        let (epoch, planned) = (from.epoch(), plan.clone());
        let order = move || planned.split.order(&planned.recipe, epoch);
        let order = self.surroundings.pool.run(order).await?;
        let rate = plan.recipe.rate(epoch);
        let mut done = 0;
        let mut tell = |rows: usize| {
            done += rows as u64;
            progress(done);
        };
        let (state, total) = self
            .pass(from, &order, Some(rate), caller, &mut tell)
            .await?;
        let kept_back = &plan.split.validation;
        let (mut state, judged) = self.pass(state, kept_back, None, caller, &mut tell).await?;
        let mut report = EpochReport {
            epoch: epoch + 1,
            learning_rate: rate,
            loss: total.mean_loss(),
            accuracy: plan.accuracy(&total),
            validation_loss: (judged.rows > 0).then(|| judged.mean_loss()),
            validation_accuracy: plan.accuracy(&judged),
            stops: epoch + 1 == plan.recipe.epochs,
        };
        plan.settle(&mut state, &mut report);
        state.history.push(report.clone());
        Ok((state, report))
    }

    /// The files of the trained model's folder: model.onnx, model.toml, labels.txt, training.json,
    /// and the parent's LICENSE. Copies all weights: not for async threads.
    pub fn model(&self, checkpoint: &Checkpoint) -> Result<Vec<ModelFile>, TrainingError> {
        let plan = &self.plan;
        let (images, validation_images) = self.images();
        let unwritable = |error: serde_json::Error| TrainingError::Checkpoint {
            reason: error.to_string(),
        };
        let epochs = checkpoint.history.iter().map(serde_json::to_value);
        let provenance = Provenance {
            parent: Origin {
                id: plan.parent.id.clone(),
                hash: plan.parent.hash.clone(),
            },
            dataset: Origin {
                id: plan.loader.dataset.id.clone(),
                hash: plan.loader.dataset.hash.clone(),
            },
            recipe: serde_json::to_value(&plan.recipe).map_err(unwritable)?,
            job: None,
            images,
            validation_images,
            epoch: checkpoint.result_epoch(),
            epochs: epochs.collect::<Result<_, _>>().map_err(unwritable)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        output::files(&plan.parent, &plan.model, checkpoint.result(), &provenance)
    }

    /// All of these examples once, in batches: with a learning rate they move the weights, without
    /// one they are judged.
    async fn pass(
        &self,
        mut state: Checkpoint,
        examples: &[usize],
        learning_rate: Option<f64>,
        caller: &Caller,
        tell: &mut impl FnMut(usize),
    ) -> Result<(Checkpoint, Tally), TrainingError> {
        let (plan, micro_batch) = (&self.plan, state.head.micro_batch);
        let (graph, epoch, loss) = match learning_rate {
            Some(_) => (&plan.training, Some(state.epoch()), "the loss"),
            None => (&plan.validation, None, "the validation loss"),
        };
        let batches: Vec<&[usize]> = examples.chunks(plan.recipe.batch_size).collect();
        let load = |at: usize| {
            let examples = batches.get(at).copied().unwrap_or_default();
            self.load(examples, micro_batch, epoch)
        };
        let mut total = Tally::default();
        let mut next = load(0).await?;
        for (at, batch) in batches.iter().enumerate() {
            let not_finite = |what| TrainingError::NotFinite {
                what,
                epoch: state.epoch() + 1,
                step: at + 1,
                steps: batches.len(),
            };
            let run = self.run(graph, next, &state.weights, caller, tell);
            let (sums, loaded) = tokio::try_join!(run, load(at + 1))?;
            next = loaded;
            if !sums.tally.loss.is_finite() {
                return Err(not_finite(loss));
            }
            total.add(&sums.tally);
            let Some(rate) = learning_rate else { continue };
            let bad_gradient = not_finite("a gradient");
            let (rows, plan) = (batch.len(), plan.clone());
            let step = move || plan.step(state, sums.gradients, rate, rows);
            state = self
                .surroundings
                .pool
                .run(step)
                .await?
                .ok_or(bad_gradient)?;
        }
        Ok((state, total))
    }

    /// Reads a batch on the pool.
    fn load(
        &self,
        examples: &[usize],
        rows: usize,
        epoch: Option<usize>,
    ) -> impl Future<Output = Result<Vec<MicroBatch>, TrainingError>> + use<> {
        let (loader, pool) = (self.plan.loader.clone(), self.surroundings.pool.clone());
        let examples = examples.to_vec();
        async move {
            pool.run(move || loader.batch(&examples, rows, epoch))
                .await?
        }
    }

    /// Runs a batch with these weights; `tell` is told the rows of each run that is done.
    async fn run(
        &self,
        graph: &Arc<WholeGraph>,
        batch: Vec<MicroBatch>,
        weights: &Weights,
        caller: &Caller,
        tell: &mut impl FnMut(usize),
    ) -> Result<Sums, TrainingError> {
        let engine: &Engine = &self.surroundings.engine;
        let input = &self.plan.model.manifest.input.name;
        let run = |micro: MicroBatch| async move {
            let mut inputs = vec![
                (input.clone(), micro.input.clone()),
                ("target".to_owned(), micro.target.clone()),
            ];
            let shared = weights.iter();
            inputs.extend(shared.map(|(name, weight)| (name.clone(), weight.clone())));
            let outputs = engine.run_whole(graph, inputs, caller).await?;
            Ok::<_, TrainingError>((micro, outputs))
        };
        let mut runs = stream::iter(batch.into_iter().map(run)).buffered(IN_FLIGHT);
        let mut sums = Sums::default();
        while let Some(ran) = runs.next().await {
            let (micro, outputs) = ran?;
            tell(micro.target.shape().first().copied().unwrap_or_default());
            let plan = self.plan.clone();
            let add = move || plan.add(sums, &micro, outputs);
            sums = self.surroundings.pool.run(add).await??;
        }
        Ok(sums)
    }
}

/// Losses and right answers.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Summed over rows.
    loss: f64,
    correct: usize,
    rows: usize,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.rows += other.rows;
    }

    fn mean_loss(&self) -> f64 {
        self.loss / self.rows as f64
    }
}

/// The sums of a batch.
#[derive(Default)]
struct Sums {
    tally: Tally,
    /// By the name of the parameter; empty where nothing is trained.
    gradients: BTreeMap<String, Tensor>,
}

impl Plan {
    fn new(
        recipe: Recipe,
        parent: Arc<Model>,
        dataset: Arc<Dataset>,
        examples: Examples,
        surroundings: &Surroundings,
    ) -> Result<Self, TrainingError> {
        let Some(rule) = parent.manifest.input.preprocess.clone() else {
            return Err(TrainingError::TakesTensors {
                model: parent.id.clone(),
                shape: parent.manifest.input.shape.clone(),
            });
        };
        let model = match recipe.new_head {
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
        let micro_batch = micro_batch(&recipe, &training, &initial, surroundings)?;
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
            micro_batch,
            key,
        })
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), TrainingError> {
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
    fn add(
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
    fn step(
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
    fn settle(&self, state: &mut Checkpoint, report: &mut EpochReport) {
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

    fn accuracy(&self, tally: &Tally) -> Option<f64> {
        let has_classes = matches!(*self.loader.targets, Targets::Classes(_));
        (has_classes && tally.rows > 0).then(|| tally.correct as f64 / tally.rows as f64)
    }
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

/// The rows of a run, as many as fit into the memory for training and for one batch of the engine.
fn micro_batch(
    recipe: &Recipe,
    graph: &WholeGraph,
    weights: &Weights,
    surroundings: &Surroundings,
) -> Result<usize, TrainingError> {
    let parameters: usize = weights.values().map(|weight| weight.len()).sum();
    let moments = match recipe.optimizer {
        Optimizer::Adam { .. } => 2,
        Optimizer::Sgd { .. } => 1,
    };
    // Value, sum of gradients, moments; the gradients of runs that wait and of one that runs; the
    // best weights.
    let copies = 2 + moments + IN_FLIGHT + 1 + usize::from(recipe.patience.is_some());
    let constants: usize = graph
        .graph
        .initializers
        .values()
        .map(|literal| literal.bytes.len())
        .sum();
    let fixed = copies * parameters * size_of::<f32>() + constants;
    let row = graph.row_bytes().max(1);
    let left = surroundings.memory_bytes.checked_sub(fixed + row);
    let Some(left) = left else {
        return Err(TrainingError::Memory {
            needed_mib: (fixed + row).div_ceil(MIB),
            allowed_mib: surroundings.memory_bytes / MIB,
            parameters,
            weights_mib: fixed.div_ceil(MIB),
            row_mib: row.div_ceil(MIB),
        });
    };
    let most = surroundings.engine.most_batch_rows(graph);
    Ok((1 + left / row)
        .min(most)
        .min(MICRO_BATCH)
        .min(recipe.batch_size))
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
