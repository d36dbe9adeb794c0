//! Eq. 2 of the PGIG paper, per output channel: p = (E₊[x ŷ] - E₊[x] E[ŷ]) / (wᵀE₊[x ŷ] - wᵀE₊[x]
//! E[ŷ]), ŷ = wᵀx without the bias. Batches are summed in f32 by ONNX Runtime, the batches' sums in
//! f64 here. A channel without a positive sample, or whose denominator is zero, gets p = 0 and is
//! counted. Agrees with the published stress data's patterns to 1e-6.

use std::{collections::BTreeMap, sync::Arc};

use ndarray::{ArrayD, Axis, Zip};
use serde::Serialize;

use super::{FitError, SampleSource, Unreadable};
use crate::{
    engine::{Caller, Engine, NamedOutputs, WholeGraph},
    model::Model,
    pool::Pool,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::{
    DeriveError,
    fit::{FitLayer, Regime, Skipped, fit_graph},
};

/// Rows in one run, where the engine's memory for a batch holds as many.
const BATCH_ROWS: usize = 8;
/// A denominator below this part of |w| |numerator| is rounding.
const ZERO_DENOMINATOR: f64 = 1e-12;

#[derive(Debug)]
pub struct Fitted {
    /// Output value of each Linear layer -> its pattern in the weight's shape.
    pub layers: BTreeMap<String, Tensor>,
    pub report: FitReport,
}

#[derive(Clone, Debug, Serialize)]
pub struct FitReport {
    /// SampleSource that were read.
    pub samples: usize,
    /// Inputs evaluated.
    pub rows: usize,
    pub unreadable: Vec<Unreadable>,
    pub layers: Vec<LayerReport>,
    /// Linear layers that get no pattern.
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    pub output: String,
    pub op_type: String,
    pub regime: Regime,
    pub channels: usize,
    /// Channels that no sample made positive.
    pub without_positives: usize,
    /// Channels whose denominator is zero.
    pub zero_denominators: usize,
}

/// What to fit, on what.
pub struct FitRequest {
    pub model: Arc<Model>,
    pub samples: SampleSource,
    pub regime: Regime,
}

/// Fits every Linear layer of a model: batches run on the engine, one after another, samples are
/// read and sums added up on the pool. `progress` is told the samples done.
pub async fn fit(
    request: FitRequest,
    engine: &Engine,
    pool: &Pool,
    caller: &Caller,
    mut progress: impl FnMut(usize),
) -> Result<Fitted, FitError> {
    let input = request.model.manifest.input.name.clone();
    let mut fitting = pool.run(move || Fitting::start(request)).await??;
    let graph = fitting.graph.clone();
    let most_rows = engine.most_batch_rows(&graph).min(BATCH_ROWS);
    let mut evaluated = None;
    loop {
        let step = move || {
            let batch = fitting.step(evaluated, most_rows)?;
            Ok::<_, FitError>((fitting, batch))
        };
        let (stepped, batch) = pool.run(step).await??;
        let samples_done = stepped.samples_done;
        let Some(batch) = batch else {
            progress(samples_done);
            return pool.run(move || stepped.finish()).await?;
        };
        let rows = batch.len_of(Axis(0));
        let inputs = vec![(input.clone(), Arc::new(batch))];
        let outputs = engine.run_whole(&graph, inputs, caller).await?;
        evaluated = Some(BatchSums { rows, outputs });
        progress(samples_done);
        fitting = stepped;
    }
}

/// The sums of a batch, by the names of the graph's outputs.
struct BatchSums {
    rows: usize,
    outputs: NamedOutputs,
}

/// A fit under way, batch by batch.
struct Fitting {
    graph: Arc<WholeGraph>,
    samples: SampleSource,
    sums: Vec<Sums>,
    skipped: Vec<Skipped>,
    samples_done: usize,
    rows: usize,
    unreadable: Vec<Unreadable>,
    /// Inputs of samples that were read and not evaluated yet.
    waiting: Vec<Tensor>,
}

impl Fitting {
    /// Derives the graph of the sums of every Linear layer.
    fn start(request: FitRequest) -> Result<Self, FitError> {
        let plan = fit_graph(&request.model.graph, request.regime)?;
        if plan.layers.is_empty() {
            return Err(FitError::NoLayers);
        }
        let graph = WholeGraph::new(request.model, "sums of patterns", plan.graph);
        Ok(Self {
            graph: Arc::new(graph.map_err(DeriveError::from)?),
            samples: request.samples,
            sums: plan.layers.into_iter().map(Sums::new).collect(),
            skipped: plan.skipped,
            samples_done: 0,
            rows: 0,
            unreadable: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// Adds what the batch before gave, and reads the next; none when all samples are done.
    fn step(
        &mut self,
        evaluated: Option<BatchSums>,
        most_rows: usize,
    ) -> Result<Option<Tensor>, FitError> {
        if let Some(BatchSums { rows, outputs }) = evaluated {
            self.rows += rows;
            for sums in &mut self.sums {
                sums.add(&outputs, rows)?;
            }
        }
        while self.waiting.len() < most_rows && self.samples_done < self.samples.len() {
            match self.samples.read(self.samples_done) {
                Ok(views) => self.waiting.extend(views),
                Err(fault) => self.unreadable.push(fault),
            }
            self.samples_done += 1;
        }
        let batch = self
            .waiting
            .drain(..most_rows.min(self.waiting.len()))
            .collect::<Vec<_>>();
        if batch.is_empty() {
            return Ok(None);
        }
        let expected = &self.graph.model.manifest.input.shape;
        stack(&batch, expected).map(Some)
    }

    /// The patterns, once `step` has found nothing left.
    fn finish(self) -> Result<Fitted, FitError> {
        if self.rows == 0 {
            let first = self
                .unreadable
                .first()
                .map(|fault| format!("{}: {}", fault.path.display(), fault.reason));
            let (count, first) = (self.samples_done, first.unwrap_or_default());
            return Err(FitError::NoneReadable { count, first });
        }
        let (mut layers, mut reports) = (BTreeMap::new(), Vec::new());
        for sums in self.sums {
            let (pattern, report) = sums.finish();
            layers.insert(report.output.clone(), pattern);
            reports.push(report);
        }
        let report = FitReport {
            samples: self.samples_done - self.unreadable.len(),
            rows: self.rows,
            unreadable: self.unreadable,
            layers: reports,
            skipped: self.skipped,
        };
        Ok(Fitted { layers, report })
    }
}

fn stack(rows: &[Tensor], expected: &[usize]) -> Result<Tensor, FitError> {
    let views = rows.iter().map(|row| row.view()).collect::<Vec<_>>();
    ndarray::stack(Axis(0), &views).map_err(|_| FitError::Shape {
        found: rows
            .iter()
            .map(Tensor::shape)
            .find(|shape| *shape != expected)
            .unwrap_or_default()
            .to_vec(),
        expected: expected.to_vec(),
    })
}

/// The sums of one layer over all batches.
struct Sums {
    layer: FitLayer,
    weight: ArrayD<f64>,
    x_y: ArrayD<f64>,
    x: ArrayD<f64>,
    /// Per channel.
    y: ArrayD<f64>,
    positives: ArrayD<f64>,
    /// Positions of the window over all rows.
    count: f64,
}

impl Sums {
    fn new(layer: FitLayer) -> Self {
        let shape = layer.weight.shape.as_slice();
        let channels = [shape[layer.channel_axis]];
        let mut weight = ArrayD::zeros(shape);
        weight
            .iter_mut()
            .zip(layer.weight.to_f64s())
            .for_each(|(to, from)| *to = from);
        Self {
            weight,
            x_y: ArrayD::zeros(shape),
            x: ArrayD::zeros(shape),
            y: ArrayD::zeros(channels.as_slice()),
            positives: ArrayD::zeros(channels.as_slice()),
            count: 0.0,
            layer,
        }
    }

    fn add(&mut self, outputs: &NamedOutputs, rows: usize) -> Result<(), FitError> {
        let layer = &self.layer;
        let sums = [
            (&layer.x_y, &mut self.x_y),
            (&layer.x, &mut self.x),
            (&layer.y, &mut self.y),
            (&layer.positives, &mut self.positives),
        ];
        for (name, sum) in sums {
            let part = outputs.get(name).filter(|part| part.shape() == sum.shape());
            let part = part.ok_or_else(|| FitError::Sum {
                layer: layer.output.clone(),
                output: name.clone(),
            })?;
            Zip::from(sum)
                .and(part)
                .for_each(|sum, part| *sum += f64::from(*part));
        }
        self.count += (rows * layer.positions) as f64;
        Ok(())
    }

    fn finish(self) -> (Tensor, LayerReport) {
        let axis = Axis(self.layer.channel_axis);
        let mut pattern = Tensor::zeros(self.weight.shape());
        let (mut without_positives, mut zero_denominators) = (0, 0);
        let channels = self.y.len();
        for (channel, (sum_y, positives)) in self.y.iter().zip(&self.positives).enumerate() {
            if *positives == 0.0 {
                without_positives += 1;
                continue;
            }
            let mean_y = sum_y / self.count;
            let weight = self.weight.index_axis(axis, channel);
            let x = self.x.index_axis(axis, channel);
            let numerator = (&self.x_y.index_axis(axis, channel) - &(&x * mean_y)) / *positives;
            let denominator: f64 = Zip::from(&weight)
                .and(&numerator)
                .fold(0.0, |sum, w, n| sum + w * n);
            let norm = |values: f64| values.sqrt();
            let scale = norm(weight.iter().map(|w| w * w).sum())
                * norm(numerator.iter().map(|n| n * n).sum());
            if denominator.is_nan() || denominator.abs() <= ZERO_DENOMINATOR * scale {
                zero_denominators += 1;
                continue;
            }
            pattern
                .index_axis_mut(axis, channel)
                .zip_mut_with(&numerator, |p, n| *p = (n / denominator) as f32);
        }
        let report = LayerReport {
            output: self.layer.output,
            op_type: self.layer.op_type,
            regime: self.layer.regime,
            channels,
            without_positives,
            zero_denominators,
        };
        (pattern, report)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        engine::{EngineSettings, Priority, Provider},
        model::manifest::{Input, Manifest},
    };
    use onnx_autodiff::{
        autodiff::spec::{Head, PatternLayers},
        onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    };

    fn value(name: &str, sizes: &[usize]) -> ValueInfo {
        let mut dims = vec![Dim::Symbol("N".into())];
        dims.extend(sizes.iter().map(|size| Dim::Known(*size)));
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, dims),
        }
    }

    fn model(
        input: &[usize],
        output: &[usize],
        nodes: Vec<Node>,
        weights: &[(&str, &[usize], &[f32])],
    ) -> Arc<Model> {
        let graph = Graph {
            name: "net".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", input)],
            outputs: vec![value("out", output)],
            initializers: weights
                .iter()
                .map(|(name, shape, values)| {
                    ((*name).to_owned(), Literal::from_f32s(shape, values))
                })
                .collect(),
            nodes,
            ..Graph::default()
        };
        Arc::new(Model {
            id: "net".into(),
            folder: Default::default(),
            manifest: Manifest {
                input: Input {
                    name: "x".into(),
                    shape: input.to_vec(),
                    preprocess: None,
                    open: None,
                },
                head: Head::Logits,
                pattern_layers: PatternLayers::All,
                output: None,
                reading: Default::default(),
                layer: None,
                assumed: None,
            },
            labels: Default::default(),
            hash: String::new(),
            graph: Arc::new(graph),
            rule_sets: Default::default(),
            layers: vec![],
            attention: Err("none".to_owned()),
            patterns: None,
            provenance: None,
            supports: Arc::default(),
            outputs: Default::default(),
            warnings: Vec::new(),
            notes: Vec::new(),
        })
    }

    async fn fit_activations(model: Arc<Model>, x: Tensor) -> Fitted {
        let engine = Engine::start(&EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 0,
            convolution_error: 2e-5,
            queue_rows: 8,
            batch_rows: 4,
            batch_bytes: 1 << 30,
            session_bytes: 1 << 30,
        })
        .unwrap();
        let request = FitRequest {
            samples: SampleSource::in_tensor(x, &model).unwrap(),
            model,
            regime: Regime::Activation,
        };
        let caller = Caller::new(Priority::Job, None);
        fit(request, &engine, &Pool::new(1), &caller, |_| ())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_stress_test_has_the_published_patterns() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stress/X.csv");
        let text = std::fs::read_to_string(file).unwrap();
        let values: Vec<f32> = text
            .split([',', '\n'])
            .filter(|s| !s.is_empty())
            .map(|s| s.parse().unwrap())
            .collect();
        let x = Tensor::from_shape_vec(vec![400, 2], values).unwrap();
        let nodes = vec![
            Node::new("Gemm", ["x", "w1", "b1"], ["hidden"]),
            Node::new("Relu", ["hidden"], ["on"]),
            Node::new("Gemm", ["on", "w2", "b2"], ["out"]),
        ];
        let weights: [(&str, &[usize], &[f32]); 4] = [
            ("w1", &[2, 1], &[-1.0, 1.0]),
            ("b1", &[1], &[1.0]),
            ("w2", &[1, 1], &[-1.0]),
            ("b2", &[1], &[1.0]),
        ];
        let model = model(&[2], &[1], nodes, &weights);
        let fitted = fit_activations(model, x).await;
        let first = &fitted.layers["hidden"];
        assert!((first[[0, 0]] - -1.016_209).abs() < 1e-6, "{first}");
        assert!((first[[1, 0]] - -0.016_209_05).abs() < 1e-6, "{first}");
        assert!((fitted.layers["out"][[0, 0]] - -1.0).abs() < 1e-6);
    }

    /// Sums in f64 over explicit patches of a 2x2 convolution with one pad, as Eq. 2 is printed.
    #[tokio::test]
    async fn a_convolution_fits_as_its_patches_do() {
        let weight: Vec<f32> = (0..16).map(|i| ((i * 7 % 11) as f32 - 5.0) / 4.0).collect();
        let bias = [0.25, -100.0];
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x = Tensor::from_shape_fn(vec![11, 2, 4, 4], |_| noise());
        let conv = Node::new("Conv", ["x", "w", "b"], ["hidden"])
            .with("pads", vec![1i64, 1, 0, 0])
            .with("kernel_shape", vec![2i64, 2]);
        let nodes = vec![
            conv,
            Node::new("Relu", ["hidden"], ["on"]),
            Node::new("GlobalAveragePool", ["on"], ["gap"]),
            { Node::new("Flatten", ["gap"], ["out"]) },
        ];
        let model = model(
            &[2, 4, 4],
            &[2],
            nodes,
            &[("w", &[2, 2, 2, 2], &weight), ("b", &[2], &bias)],
        );
        let fitted = fit_activations(model, x.clone()).await;

        let w: Vec<f64> = weight[..8].iter().map(|w| f64::from(*w)).collect();
        let (mut xy, mut sx, mut sy, mut on, mut all) = ([0.0; 8], [0.0; 8], 0.0, 0.0, 0.0);
        for row in x.outer_iter() {
            for (top, left) in (0..4).flat_map(|top| (0..4).map(move |left| (top, left))) {
                let patch: Vec<f64> = (0..8usize)
                    .map(|i| {
                        let (r, c) = (
                            (top + i / 2 % 2).checked_sub(1),
                            (left + i % 2).checked_sub(1),
                        );
                        r.zip(c).map_or(0.0, |(r, c)| f64::from(row[[i / 4, r, c]]))
                    })
                    .collect();
                let y: f64 = w.iter().zip(&patch).map(|(w, p)| w * p).sum();
                (sy, all) = (sy + y, all + 1.0);
                if y + f64::from(bias[0]) > 0.0 {
                    on += 1.0;
                    (0..8).for_each(|i| (xy[i], sx[i]) = (xy[i] + patch[i] * y, sx[i] + patch[i]));
                }
            }
        }
        let numerator: Vec<f64> = (0..8)
            .map(|i| xy[i] / on - sx[i] / on * (sy / all))
            .collect();
        let denominator: f64 = w.iter().zip(&numerator).map(|(w, n)| w * n).sum();
        let found = fitted.layers["hidden"].index_axis(Axis(0), 0).to_owned();
        for (found, numerator) in found.iter().zip(&numerator) {
            assert!(
                (f64::from(*found) - numerator / denominator).abs() < 1e-5,
                "{found} {}",
                numerator / denominator
            );
        }
        let report = &fitted.report.layers[0];
        assert_eq!(
            (
                report.channels,
                report.without_positives,
                report.zero_denominators
            ),
            (2, 1, 0)
        );
        assert!(
            fitted.layers["hidden"]
                .index_axis(Axis(0), 1)
                .iter()
                .all(|p| *p == 0.0)
        );
    }
}
