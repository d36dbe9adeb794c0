//! Classifiers that explain themselves: one graph from the model's input to `logits`,
//! `probabilities` and `saliency_map`, of ONNX's own operators, for any runtime. Derivatives are
//! those of [`derive`]; points beside the input (paths, noise) are made inside, a few at a time in
//! a Loop, so that memory does not grow with their number.

mod class_map;
mod finish;
mod samples;
mod seed;

use crate::{
    autodiff::{
        DeriveError, derive,
        emit::Emitter,
        outputs::rename,
        spec::{DeriveSpec, Layer, Patterns},
    },
    onnx::{
        graph::{Dim, Graph, Literal, ValueInfo},
        infer,
        passes::{self, Lowered},
    },
};
pub use finish::Normalize;

/// The name of the map's output.
pub const MAP: &str = "saliency_map";
/// The name of the output of a graph that holds no scores of classes.
pub const VALUES: &str = "values";

/// What a file is to hold beside the model.
#[derive(Clone, Debug)]
pub struct Saliency {
    /// How the map follows from derivatives.
    pub formula: Formula,
    /// The derivative: one rule set, with respect to the input.
    pub spec: DeriveSpec,
    /// The class that is explained.
    pub target: Target,
    /// Whether the map of a layer is brought to the input's height and width, bilinearly (pixel
    /// centres at halves, edges repeated).
    pub upsample: bool,
    /// What the map is divided by, for each input of its own.
    pub normalize: Normalize,
}

/// The class that is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// That of the largest logit; of equal ones the first.
    Predicted,
    /// This cotangent of the head, for every input: (class, weight).
    Seed(Vec<(usize, f32)>),
    /// The input `target`, int64 `[batch]`: an index. A class that the model does not have gives a
    /// map of zeros.
    Input,
}

/// A map as a formula over derivatives g at points that follow from the input alone.
#[derive(Clone, Debug)]
pub enum Formula {
    /// g(x).
    Derivative,
    /// x ⊙ g(x).
    InputXDerivative,
    /// A statistic of g over several points.
    Samples(Samples),
    /// ReLU of the sum over the channels of a layer, weighed by the derivative there.
    ClassMap {
        /// A feature map or a grid of tokens.
        layer: Layer,
        /// How the channels are weighed.
        weights: Weights,
        /// Times g(x) at the input's size (section 3.2).
        guided: bool,
        /// Whether the channels of the input are its last axis: the map has one there.
        channels_last: bool,
    },
}

/// How the channels A_k of a layer are weighed by the derivative ∂f/∂A_k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Each channel by the mean derivative (Grad-CAM, Selvaraju et al. 2017, section 3).
    Mean,
    /// Each element by its own where that is positive (LayerCAM, Jiang et al. 2021, Eq. 5).
    Positive,
    /// Each element by its own (HiResCAM, Draelos & Carin 2020, section 4).
    Own,
}

/// Points α e + (1 - α) b between an end e = x + σ ε and a start b, and what is made of g there.
#[derive(Clone, Debug)]
pub struct Samples {
    /// At least one.
    pub points: Vec<Sample>,
    /// Points evaluated at a time.
    pub rows: usize,
    /// `[count, …]` in the input's shape, or 1 along axes where they are constant.
    pub baselines: Option<Literal>,
    /// Added to the input.
    pub noise: Option<Noise>,
    /// What is made of the derivatives.
    pub statistic: Statistic,
}

/// A point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The place of b among the baselines, where there are any.
    pub baseline: usize,
    /// The place of ε in the noise, where there is any.
    pub noise: usize,
    /// How far along the way from b to e, where there are baselines.
    pub alpha: f64,
    /// Of the derivative in the sum; a variance gives each the same.
    pub weight: f64,
}

/// ε, drawn beforehand.
#[derive(Clone, Debug)]
pub struct Noise {
    /// σ, as a fraction of max x - min x.
    pub level: f64,
    /// `[count, …]` in the input's shape, float32.
    pub deviates: Literal,
}

/// What is made of the derivatives at the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Σ w g.
    Sum,
    /// Σ w (e - b) ⊙ g.
    SumOfWays,
    /// Σ w g².
    SumOfSquares,
    /// The mean of (g - mean g)².
    Variance,
}

/// A model with its map.
#[derive(Debug)]
pub struct Explainer {
    /// Ready to be written and run: of opset 17, or 18 where that has not all of its operators.
    pub graph: Graph,
    /// The nodes that need opset 18.
    pub newer: Vec<String>,
}

/// The model with its map. `patterns` as for [`derive`].
///
/// Input: the model's, its batch as the model has it; with [`Samples`] one row. Outputs: `logits`
/// and `probabilities` `[batch, classes]`, of a regression or an embedding [`VALUES`] in their
/// place, and [`MAP`] `[batch, …]` in the shape of the input, or with one channel for [`Formula::ClassMap`], in the layer's size unless it is guided or upsampled.
pub fn explainer(
    source: &Graph,
    saliency: &Saliency,
    patterns: Option<&Patterns>,
) -> Result<Explainer, DeriveError> {
    let derived = |spec: &DeriveSpec| Ok::<_, DeriveError>(derive(source, spec, patterns)?.graph);
    let (mut emit, map, mut newer) = match &saliency.formula {
        Formula::Derivative | Formula::InputXDerivative => {
            let mut open = Open::of(derived(&saliency.spec)?)?;
            let seed = seed::seed(&mut open.emit, &saliency.target)?;
            open.give("seed", &seed);
            let g = open.output(2)?;
            let map = match saliency.formula {
                Formula::InputXDerivative => {
                    open.emit.set_scope(MAP.into());
                    open.emit.mul(&open.input, &g)?
                }
                _ => g,
            };
            (open.emit, map, Vec::new())
        }
        Formula::ClassMap {
            layer,
            weights,
            guided,
            channels_last,
        } => {
            let of = class_map::ClassMap {
                layer,
                weights: *weights,
                guided: *guided,
                channels_last: *channels_last,
            };
            let (emit, map) = class_map::class_map(&derived, of, saliency)?;
            (emit, map, Vec::new())
        }
        Formula::Samples(samples) => samples::statistic(&derived, samples, saliency)?,
    };
    let map = finish::normalize(&mut emit, &map, saliency.normalize)?;
    let mut graph = publish(emit, &map, source.is_regression)?;
    if newer.is_empty() {
        graph = match passes::lower(graph)? {
            Lowered::Older(graph) => graph,
            Lowered::Needed { graph, nodes } => {
                newer = nodes;
                graph
            }
        };
    }
    let used: Vec<_> = graph.nodes.iter().map(|node| &node.domain).collect();
    let imports = graph.opset_imports.clone().into_iter();
    graph.opset_imports = imports
        .filter(|(domain, _)| domain.is_empty() || used.contains(&domain))
        .collect();
    graph.ir_version = 8;
    Ok(Explainer { graph, newer })
}

/// A derived graph that nodes are added to.
struct Open {
    emit: Emitter,
    /// The model's input.
    input: String,
}

impl Open {
    fn of(mut graph: Graph) -> Result<Self, DeriveError> {
        if graph.inputs.iter().any(|input| input.name == MAP) {
            return Err(DeriveError::ReservedInput {
                names: vec![MAP.to_owned()],
            });
        }
        let types = infer(&graph)?;
        let input = graph.inputs.first().map(|input| input.name.clone());
        graph.inputs.retain(|input| input.name != "seed");
        Ok(Self {
            emit: Emitter::new(graph, types),
            input: input.unwrap_or_default(),
        })
    }

    /// The output at this place: logits, probabilities, cotangents, activations.
    fn output(&self, place: usize) -> Result<String, DeriveError> {
        let output = self.emit.graph.outputs.get(place);
        output
            .map(|output| output.name.clone())
            .ok_or_else(|| DeriveError::UnknownShape {
                value: format!("output {place}"),
            })
    }

    /// Nodes read `value` in place of an input.
    fn give(&mut self, input: &str, value: &str) {
        let reads = self.emit.graph.nodes.iter_mut();
        reads
            .flat_map(|node| &mut node.inputs)
            .filter(|read| *read == input)
            .for_each(|read| value.clone_into(read));
    }
}

/// A graph with this many rows in place of a batch of any number.
fn with_rows(mut graph: Graph, rows: usize) -> Graph {
    let values = graph.inputs.iter_mut().chain(&mut graph.outputs);
    for dim in values.flat_map(|value| &mut value.value_type.shape) {
        if let Dim::Symbol(_) = dim {
            *dim = Dim::Known(rows);
        }
    }
    graph
}

/// The graph with the model's outputs and the map, tidied.
fn publish(mut emit: Emitter, map: &str, is_regression: bool) -> Result<Graph, DeriveError> {
    let value_type = emit.value_type(map)?;
    let aside = emit.fresh(&format!("{MAP}/source"));
    let others = emit.fresh(&format!("{VALUES}/source"));
    let mut graph = emit.graph;
    let map = if map == MAP {
        aside.clone()
    } else {
        map.to_owned()
    };
    rename(&mut graph, MAP, &aside);
    if is_regression {
        if graph.inputs.iter().any(|input| input.name == VALUES) {
            let names = vec![VALUES.to_owned()];
            return Err(DeriveError::ReservedInput { names });
        }
        graph.outputs.truncate(1);
        rename(&mut graph, VALUES, &others);
        rename(&mut graph, "logits", VALUES);
    }
    graph.outputs.truncate(2);
    graph.outputs.push(ValueInfo {
        name: map.clone(),
        value_type,
    });
    rename(&mut graph, &map, MAP);
    passes::sort(&mut graph).map_err(|fault| crate::onnx::OnnxError::Model(vec![fault]))?;
    Ok(passes::run(&[passes::prune, passes::dedup], graph)?)
}

#[cfg(test)]
mod tests;
