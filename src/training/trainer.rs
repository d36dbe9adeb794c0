//! A training, epoch by epoch. A step takes one run of the training graph for each micro-batch;
//! their gradients are added in order, so that the result does not depend on which ends first. The
//! next batch is read while the present one runs.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, stream};

use super::{
    Checkpoint, EpochReport, Examples, ModelFile, Optimizer, Recipe, Surroundings, TrainingError,
    checkpoint::{Header, Weights},
    data::{MicroBatch, Split},
    output,
    plan::{Plan, Sums, Tally},
};
use crate::{
    dataset::Dataset,
    engine::{Caller, Engine, WholeGraph},
    model::{
        Model,
        labels::Labels,
        provenance::{Origin, Provenance},
    },
    tensor::Tensor,
};

/// Runs that are queued at once, so that the device does not wait for the next.
const IN_FLIGHT: usize = 2;

/// A training that can be carried on from any of its checkpoints: the derived graph, the split, the
/// targets. Made once in each process that works on it.
pub struct Trainer {
    plan: Arc<Plan>,
    surroundings: Surroundings,
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
        let plan = move || Plan::new(recipe, model, dataset, examples, &given, IN_FLIGHT);
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

    /// The names of the classes that it is trained to tell apart; empty where the model has none.
    pub fn labels(&self) -> &Labels {
        &self.plan.model.labels
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

    /// The trained model, to be run at once. Copies all weights: not for async threads.
    pub fn trained(&self, checkpoint: &Checkpoint) -> Result<Model, TrainingError> {
        let plan = &self.plan;
        let graph = output::with_weights(&plan.model.graph, checkpoint.result())?;
        Ok(Model {
            hash: format!("{}, epoch {}", plan.key, checkpoint.result_epoch()),
            graph: Arc::new(graph),
            patterns: None,
            supports: Arc::default(),
            ..plan.model.as_ref().clone()
        })
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
