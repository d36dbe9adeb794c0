//! Incremental inference: the forward pass of an input that differs in few pixels from the input
//! before it. The network is cut into stages. Each stage recomputes only the window that the change
//! can reach (its receptive field), and reuses cached activations elsewhere. Nakandala et al.,
//! SIGMOD 2019 (docs/papers.md). Equal to the whole forward pass up to rounding.

mod cache;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use ndarray::{ArrayView3, ShapeError};

use crate::{
    engine::{Caller, Engine, EngineError, Evaluated, GraphKey, Point, Row},
    model::{Model, variant::cut},
    tensor::Tensor,
};
pub use cache::CachedActivations;
use cache::Tile;
use onnx_autodiff::{
    autodiff::spec::DeriveSpec,
    stages::{Stage, Stages, stages},
};

/// A model's forward pass in stages.
#[derive(Debug)]
pub struct Plan {
    model: Weak<Model>,
    /// Each stage with its graph as a model. Not empty.
    stages: Vec<(Stage, Arc<Model>)>,
    /// The part of the network after the last stage.
    rest: Arc<Model>,
}

/// The plans that were made of late, the latest last, by model and change.
static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());
const MOST_MADE: usize = 16;

struct Made {
    model: Weak<Model>,
    change: [usize; 2],
    plan: Arc<OnceLock<Option<Arc<Plan>>>>,
}

impl Plan {
    /// As [`Self::new`], remembered for the next that asks.
    pub fn of(model: &Arc<Model>, change: [usize; 2]) -> Option<Arc<Self>> {
        let plan = {
            let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
            made.retain(|other| other.model.strong_count() > 0);
            let own = Arc::downgrade(model);
            let is_it = |other: &Made| other.model.ptr_eq(&own) && other.change == change;
            match made.iter().find(|other| is_it(other)) {
                Some(known) => known.plan.clone(),
                None => {
                    if made.len() == MOST_MADE {
                        made.remove(0);
                    }
                    let plan = Arc::default();
                    made.push(Made {
                        model: own,
                        change,
                        plan: Arc::clone(&plan),
                    });
                    plan
                }
            }
        };
        plan.get_or_init(|| Self::new(model, change).map(Arc::new))
            .clone()
    }

    /// Plans for consecutive inputs that differ in at most `change` (rows, columns). `None` if
    /// stages would save little time, or the network cannot be cut.
    pub fn new(model: &Arc<Model>, change: [usize; 2]) -> Option<Self> {
        let found = stages(&model.graph, change).unwrap_or_else(|error| {
            tracing::warn!(model = model.id, %error, "the forward pass runs whole: it cannot be cut into stages");
            None
        });
        let Stages { stages, rest } = found?;
        let stages = stages.into_iter().map(|stage| {
            let part = cut(model, &stage.value, &stage.graph);
            (stage, Arc::new(part))
        });
        Some(Self {
            model: Arc::downgrade(model),
            stages: stages.collect(),
            rest: Arc::new(cut(model, "rest", &rest)),
        })
    }

    /// Whether this plan computes `graph`.
    pub fn is_of(&self, graph: &GraphKey) -> bool {
        self.model.ptr_eq(&Arc::downgrade(&graph.model)) && graph.spec == DeriveSpec::forward()
    }

    /// The values, for `DeriveSpec::outputs`, whose activations [`Self::start`] needs.
    pub fn values(&self) -> Vec<String> {
        let values = self.stages.iter().map(|(stage, _)| stage.value.clone());
        values.collect()
    }

    /// The cache to start from: `row` is the row of `input` with the activations of
    /// [`Self::values`]. `None` if it has other activations.
    pub fn start(&self, input: &Arc<Tensor>, row: &Row) -> Option<CachedActivations> {
        let made = row
            .activations
            .iter()
            .map(|made| made.clone().into_dimensionality().ok());
        let made: Vec<_> = made.collect::<Option<_>>()?;
        (made.len() == self.stages.len()).then(|| CachedActivations {
            input: input.clone(),
            made,
        })
    }

    /// The rows of `points`. The first input is compared with that of `cached`, each other one with
    /// the input before it; afterwards `cached` belongs to the last. `None`, with nothing
    /// evaluated, if two inputs differ in too many pixels.
    pub async fn evaluate(
        &self,
        engine: &Engine,
        caller: &Caller,
        cached: &mut CachedActivations,
        points: &[Point],
    ) -> Result<Option<Evaluated>, EngineError> {
        let inputs = points.iter().map(|point| &point.input);
        let stages = self.stages.iter().map(|(stage, _)| stage);
        let Some(tiles) = cache::tiles(stages, &cached.input, inputs.clone()) else {
            return Ok(None);
        };
        let forward = DeriveSpec::forward();
        let mut spent = Evaluated::default();
        // The windows that the next stage reads: of the inputs, then of each stage's output.
        let mut windows: Vec<Arc<Tensor>> =
            self.stages.first().map_or_else(Vec::new, |(stage, _)| {
                let pictures = inputs.clone().filter_map(|input| cache::planes(input));
                let window = |(planes, tiles): (_, &Vec<Tile>)| window_of(planes, &tiles[0], stage);
                pictures.zip(&tiles).map(window).collect()
            });
        for (at, ((stage, model), made)) in self.stages.iter().zip(&mut cached.made).enumerate() {
            let points = windows.into_iter().map(Point::forward).collect();
            let found = engine.evaluate(model, &forward, points, caller).await?;
            let ([height, width], channels) = (stage.made, stage.output[0]);
            let next = |(row, tiles): (&Row, &Vec<Tile>)| {
                let window = ArrayView3::from_shape((channels, height, width), &row.logits)?;
                cache::paste(made, window, stage, &tiles[at]);
                Ok(match self.stages.get(at + 1) {
                    Some((next, _)) => window_of(made.view(), &tiles[at + 1], next),
                    None => Arc::new(made.clone().into_dyn()),
                })
            };
            let pasted: Result<_, ShapeError> = found.rows.iter().zip(&tiles).map(next).collect();
            windows = pasted.map_err(|error| EngineError::Runtime {
                reason: error.to_string(),
            })?;
            spent.queue += found.queue;
            spent.model += found.model;
        }
        if let Some(last) = points.last() {
            cached.input = last.input.clone();
        }
        let points = windows.into_iter().map(Point::forward).collect();
        let found = engine
            .evaluate(&self.rest, &forward, points, caller)
            .await?;
        Ok(Some(Evaluated {
            queue: spent.queue + found.queue,
            model: spent.model + found.model,
            rows: found.rows,
        }))
    }
}

fn window_of(planes: ArrayView3<'_, f32>, tile: &Tile, stage: &Stage) -> Arc<Tensor> {
    Arc::new(cache::cut(planes, tile.start, stage.window))
}
