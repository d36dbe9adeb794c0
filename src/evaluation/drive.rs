//! Drives a metric over the engine's forward graph. The only file of the room that holds the
//! engine.

use std::sync::Arc;

use futures::future::try_join_all;
use ndarray::{ArrayView3, ShapeError};

use super::{
    Run, Step,
    local::{self, Place, Trace},
};
use crate::{
    engine::{Caller, Engine, EngineError, Point, Row},
    model::{
        Model,
        manifest::{Input, Manifest},
    },
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::{
        spec::{DeriveSpec, Wrt},
        stages::{Stage, Stages, stages},
    },
    onnx::graph::Graph,
};

/// A model's forward pass, whole and in stages.
pub struct Forward {
    model: Arc<Model>,
    /// Each with its graph as a model. None where stages would save little.
    stages: Vec<(Stage, Arc<Model>)>,
    /// What follows the stages.
    rest: Arc<Model>,
}

impl Forward {
    /// For inputs of which each differs from the one before in at most so many rows and columns.
    pub fn new(model: &Arc<Model>, change: [usize; 2]) -> Self {
        let found = stages(&model.graph, change).unwrap_or_else(|error| {
            tracing::warn!(model = model.id, %error, "the forward pass runs whole: it cannot be cut into stages");
            None
        });
        let Some(Stages { stages, rest }) = found else {
            return Self {
                model: model.clone(),
                stages: Vec::new(),
                rest: model.clone(),
            };
        };
        let part = |name: &str, graph: &Graph| part(model, name, graph);
        let rest = part("rest", &rest);
        let stages = stages.into_iter().map(|stage| {
            let model = part(&stage.value, &stage.graph);
            (stage, model)
        });
        Self {
            model: model.clone(),
            stages: stages.collect(),
            rest,
        }
    }

    /// What the stages make of an input: where [`Self::run`] starts.
    pub async fn trace(
        &self,
        engine: &Engine,
        caller: &Caller,
        input: &Arc<Tensor>,
    ) -> Result<Trace, EngineError> {
        let made = self.stages.iter().map(|(stage, _)| async {
            let spec = DeriveSpec {
                wrt: Wrt::Activation(stage.value.clone()),
                ..DeriveSpec::forward()
            };
            let rows = engine
                .evaluate(&self.model, &spec, vec![point(input.clone())], caller)
                .await?
                .rows;
            let made = rows
                .into_iter()
                .next()
                .and_then(|row| row.activation?.into_dimensionality().ok());
            made.ok_or_else(|| EngineError::Runtime {
                reason: format!("no value of `{}`", stage.value),
            })
        });
        Ok(Trace {
            input: input.clone(),
            made: try_join_all(made).await?,
        })
    }

    /// Runs a metric to its end, from the input that was traced. Bounded: it asks for a few inputs
    /// at a time.
    pub async fn run(
        &self,
        engine: &Engine,
        caller: &Caller,
        mut trace: Trace,
        mut run: Box<dyn Run>,
    ) -> Result<Vec<f64>, EngineError> {
        let mut answers = Vec::new();
        loop {
            match run.step(&answers) {
                Step::Done(curve) => return Ok(curve),
                Step::Evaluate(inputs) => {
                    answers = self.evaluate(engine, caller, &mut trace, inputs).await?
                }
            }
        }
    }

    async fn evaluate(
        &self,
        engine: &Engine,
        caller: &Caller,
        trace: &mut Trace,
        inputs: Vec<Arc<Tensor>>,
    ) -> Result<Vec<Row>, EngineError> {
        let run = |model, inputs: Vec<Arc<Tensor>>| async move {
            let points = inputs.into_iter().map(point).collect();
            Ok(engine
                .evaluate(model, &DeriveSpec::forward(), points, caller)
                .await?
                .rows)
        };
        let stages = self.stages.iter().map(|(stage, _)| stage);
        let Some(((first, _), places)) =
            self.stages
                .first()
                .zip(local::places(stages, &trace.input, &inputs))
        else {
            return run(&self.model, inputs).await;
        };
        let pictures = inputs.iter().filter_map(|input| local::planes(input));
        let mut parts: Vec<_> = pictures
            .zip(&places)
            .map(|(planes, places)| cut(planes, &places[0], first))
            .collect();
        for (at, ((stage, model), made)) in self.stages.iter().zip(&mut trace.made).enumerate() {
            let rows = run(model, parts).await?;
            let ([height, width], channels) = (stage.made, stage.output[0]);
            let next = |(row, places): (&Row, &Vec<Place>)| {
                let window = ArrayView3::from_shape((channels, height, width), &row.logits)?;
                local::paste(made, window, stage, &places[at]);
                Ok(match self.stages.get(at + 1) {
                    Some((next, _)) => cut(made.view(), &places[at + 1], next),
                    None => Arc::new(made.clone().into_dyn()),
                })
            };
            let pasted: Result<_, ShapeError> = rows.iter().zip(&places).map(next).collect();
            parts = pasted.map_err(|error| EngineError::Runtime {
                reason: error.to_string(),
            })?;
        }
        if let Some(last) = inputs.into_iter().next_back() {
            trace.input = last;
        }
        run(&self.rest, parts).await
    }
}

fn cut(planes: ArrayView3<'_, f32>, place: &Place, stage: &Stage) -> Arc<Tensor> {
    Arc::new(local::cut(planes, place.start, stage.window))
}

fn point(input: Arc<Tensor>) -> Point {
    Point {
        input,
        seed: Arc::new([]),
    }
}

/// A part of a model's graph as a model that takes ready tensors.
fn part(model: &Model, name: &str, graph: &Graph) -> Arc<Model> {
    let input = &graph.inputs[0];
    let shape: Vec<usize> = input
        .value_type
        .shape
        .iter()
        .filter_map(|dim| dim.known())
        .collect();
    Arc::new(Model {
        hash: format!("{}, {} {shape:?} to {name}", model.hash, input.name),
        manifest: Manifest {
            input: Input {
                name: input.name.clone(),
                shape,
                preprocess: None,
            },
            ..model.manifest.clone()
        },
        labels: Default::default(),
        graph: Arc::new(graph.clone()),
        layers: Vec::new(),
        patterns: None,
        warnings: Vec::new(),
        ..model.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ndarray::{Axis, Slice};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        engine::{EngineSettings, Priority, Provider},
        model::registry::Registry,
    };

    /// Asks for inputs in chunks and keeps the first class's score of each.
    struct Asks {
        chunks: Vec<Vec<Arc<Tensor>>>,
        scores: Vec<f64>,
    }

    impl Run for Asks {
        fn step(&mut self, answers: &[Row]) -> Step {
            self.scores.extend(
                answers
                    .iter()
                    .flat_map(|row| &row.logits)
                    .map(|logit| f64::from(*logit)),
            );
            match self.chunks.pop() {
                Some(inputs) => Step::Evaluate(inputs),
                None => Step::Done(std::mem::take(&mut self.scores)),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_real_network_answers_in_stages_as_it_does_whole() {
        let models =
            Registry::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), None).unwrap();
        let model = models.get("squeezenet1_1").unwrap();
        let settings = EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 2,
            queue_rows: 1000,
            batch_rows: 8,
            batch_bytes: 1 << 30,
            session_bytes: 1 << 30,
        };
        let engine = Engine::start(&settings).unwrap();
        let caller = Caller {
            id: 1,
            priority: Priority::Job,
            cancel: CancellationToken::new(),
            deadline: None,
        };
        let mut input = Tensor::from_shape_fn(vec![3, 224, 224], |i| {
            ((i[1] * 7 + i[2] * 3 + i[0]) % 31) as f32 / 16.0 - 1.0
        });
        let clean = Arc::new(input.clone());
        // Patches at corners and between; one change that is larger than what the stages are made
        // for.
        let changes = [
            ([0, 0], 9),
            ([215, 215], 9),
            ([0, 215], 9),
            ([100, 37], 9),
            ([60, 60], 120),
            ([113, 9], 8),
            ([9, 113], 1),
        ];
        let inputs: Vec<Arc<Tensor>> = changes
            .iter()
            .map(|&(at, size)| {
                let patch = |axis: usize| Slice::from(at[axis]..at[axis] + size);
                input
                    .slice_axis_mut(Axis(1), patch(0))
                    .slice_axis_mut(Axis(2), patch(1))
                    .fill(0.5);
                Arc::new(input.clone())
            })
            .collect();
        let points = inputs.iter().cloned().map(point).collect();
        let whole = engine
            .evaluate(&model, &DeriveSpec::forward(), points, &caller)
            .await
            .unwrap()
            .rows;
        let expected: Vec<f32> = whole.into_iter().flat_map(|row| row.logits).collect();
        let forward = Forward::new(&model, [9, 9]);
        assert!(forward.stages.len() > 1);
        let trace = forward.trace(&engine, &caller, &clean).await.unwrap();
        let mut chunks: Vec<_> = [&inputs[..3], &inputs[3..5], &inputs[5..]]
            .map(<[_]>::to_vec)
            .into();
        chunks.reverse();
        let run = Box::new(Asks {
            chunks,
            scores: Vec::new(),
        });
        let found = forward.run(&engine, &caller, trace, run).await.unwrap();
        assert_eq!(found.len(), expected.len());
        let largest = expected
            .iter()
            .fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (*a as f32 - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-5 * largest, "{worst} of {largest}");
    }
}
