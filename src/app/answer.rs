//! An explanation as JSON, npy or PNG: the only place where answers are put into bytes, for the
//! server and the command line.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ndarray::{ArrayViewD, Axis, CowArray, IxDyn};
use serde::Serialize;
use serde_json::{Map, Number, Value, json};
use utoipa::{
    ToSchema,
    openapi::schema::{
        ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
    },
};

use super::{
    Answered, AppError, Explanation, Predicted,
    compare::Compared,
    metrics::MetricValues,
    options::{Channels, Encoding},
    plan::PredictPlan,
    requested,
    timing::StageTimes,
};
use crate::{
    VERSION,
    faults::{Fault, Faults},
    methods::{
        EndedBy, Prediction, Refinement, Segments, Went, attention::attention_of, layers::layer_of,
        parameters::Parameters,
    },
    model::{
        Model,
        manifest::{FixedInput, ValueSource},
    },
    picture::{
        geometry::{Area, Geometry},
        input::channel_axis,
    },
    tensor::{Tensor, write_npy},
};

/// The answer of POST /explain and POST /compare.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanations {
    /// Of explaind.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// For each input in order, and for each method of a comparison; with `target=top:k`, k for
    /// each.
    pub explanations: Vec<Answer>,
    /// The grid of a comparison as a base64 PNG, with `include=heatmap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heatmap: Option<String>,
    /// Evaluations of the model that all of it took. Where explanations share some, it is less than
    /// their own numbers add up to.
    pub evaluations: usize,
    pub timing_ms: TimingMs,
}

/// One explanation.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    pub model: String,
    /// SHA-256 of `model.onnx`.
    pub model_hash: String,
    /// Identifies the fit of the patterns, for methods that use them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patterns: Option<String>,
    pub method: String,
    /// Why it is this method, where the request names none or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "every operation of the network has a gradient, and the model has no patterns"
    )]
    pub method_choice: Option<String>,
    /// The input that this explains, counted from 0.
    pub input: usize,
    /// The image that was sent; absent for tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSize>,
    /// Width and height of the model's input, where its graph leaves them open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "320x240")]
    pub input_size: Option<String>,
    /// All parameters, resolved: posted again they give this answer again. Values of more than 16
    /// numbers that were sent for `inputs` are left out.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// The values of the inputs beside the one that is explained.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputValue>,
    pub target: TargetScore,
    /// The five best classes of the input; of a regression or an embedding its first five values.
    pub predictions: Vec<ClassScore>,
    /// The map, in the pixels of the model's input: those of `image.crop`. Absent where `include`
    /// leaves it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<EncodedTensor>,
    /// f(x), the explained output at the input; for path methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_value: Option<f64>,
    /// f(x'), averaged over the baselines; for path methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_value: Option<f64>,
    /// Σ attribution - (f(x) - f(x')); where completeness holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence_delta: Option<f64>,
    /// |convergence_delta| / |f(x) - f(x')|; where completeness holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approximation_error: Option<f64>,
    /// How a run with a `tolerance` ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refinement: Option<RefinementEnd>,
    /// Where in the network the map was read, before it was brought to the size of the input; for
    /// methods that look at a layer or at attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<MapGrid>,
    /// The standard error of each score, in the shape of the map, with `include=standard_error`; of
    /// methods that estimate scores from random samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<EncodedTensor>,
    /// The picture as a base64 PNG, with `include=heatmap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heatmap: Option<String>,
    /// The regions of the map, with `include=segments`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<RankedSegments>,
    /// The base's maps that `gad` compares, with `include=supports`: the positive part of the channel
    /// sum, first by the model itself (alpha 0), then by each support.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supports: Option<Vec<SupportMap>>,
    /// The metrics that take the map alone, with `include=metrics`, by their ids in GET
    /// /metrics-catalogue; `null` when a value is not finite. What stands for a pixel is the signed
    /// sum of its channels. A metric that says nothing about the method is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<f64>>>, example = json!({ "sparseness": 0.53, "entropy": 10.2 }))]
    pub metrics: Option<MetricValues>,
    /// Evaluations of the model that this took, with the forward pass that finds a target such as
    /// `predicted`.
    pub evaluations: usize,
    /// True where the model's activations are quantised: the gradient passes straight through
    /// their rounding, whose derivative is zero.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub surrogate: bool,
    pub warnings: Vec<String>,
    pub timing_ms: TimingMs,
}

/// The value of an input that is not explained.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InputValue {
    /// Without the batch.
    #[schema(example = json!([1]))]
    pub shape: Vec<usize>,
    #[schema(example = "int64")]
    pub element: String,
    pub from: ValueSource,
    /// Of its numbers, little-endian.
    pub sha256: String,
    /// Its numbers, row-major, where they are at most 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<f64>>)]
    pub values: Option<Vec<Number>>,
}

impl From<&FixedInput> for InputValue {
    fn from(fixed: &FixedInput) -> Self {
        Self {
            shape: fixed.shape.clone(),
            element: fixed.element.clone(),
            from: fixed.from,
            sha256: fixed.hash.clone(),
            values: fixed.values.clone(),
        }
    }
}

fn values_of(model: &Model) -> BTreeMap<String, InputValue> {
    let fixed = model.manifest.reading.fixed.iter();
    fixed
        .map(|(name, fixed)| (name.clone(), fixed.into()))
        .collect()
}

/// Places that a map has inside the network.
#[derive(Debug, Serialize, ToSchema)]
pub struct MapGrid {
    /// The layer, or the Softmax of each attention.
    #[schema(example = json!(["blocks.11.norm1"]))]
    pub of: Vec<String>,
    #[schema(example = 14)]
    pub height: usize,
    #[schema(example = 14)]
    pub width: usize,
    /// Class and register tokens before those of the grid, which the map leaves out.
    #[schema(example = 1)]
    pub other_tokens: usize,
}

impl MapGrid {
    fn of(parameters: &Parameters) -> Option<Self> {
        let (of, grid) = match (layer_of(parameters), attention_of(parameters)) {
            (Some(layer), _) => (vec![layer.name], layer.grid),
            (None, Some(attention)) => {
                let nodes = attention.layers.iter().map(|layer| layer.node.clone());
                (nodes.collect(), attention.grid)
            }
            (None, None) => return None,
        };
        Some(Self {
            of,
            height: grid.height,
            width: grid.width,
            other_tokens: grid.first,
        })
    }
}

/// The answer of POST /predict.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classifications {
    /// Of explaind.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    pub model: String,
    /// SHA-256 of `model.onnx`.
    pub model_hash: String,
    /// The output that was asked for, of a model that has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The values of the inputs beside the one that was sent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputValue>,
    /// For each input, in order.
    pub results: Vec<Classification>,
    pub timing_ms: TimingMs,
}

/// The best classes of one input.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classification {
    /// The input, counted from 0.
    pub input: usize,
    /// The image that was sent; absent for tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSize>,
    /// Width and height of the model's input, where its graph leaves them open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "320x240")]
    pub input_size: Option<String>,
    /// By falling score.
    pub predictions: Vec<ClassScore>,
    pub warnings: Vec<String>,
    pub timing_ms: TimingMs,
}

/// The size of an uploaded image, upright as its EXIF orientation says, and the part of it that the
/// model saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImageSize {
    #[schema(example = 1024)]
    pub width: u32,
    #[schema(example = 768)]
    pub height: u32,
    pub crop: Crop,
}

/// A rectangle in the pixels of the uploaded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Crop {
    #[schema(example = 176)]
    pub left: u32,
    #[schema(example = 48)]
    pub top: u32,
    #[schema(example = 672)]
    pub width: u32,
    #[schema(example = 672)]
    pub height: u32,
}

impl From<&Geometry> for ImageSize {
    fn from(geometry: &Geometry) -> Self {
        let (
            (width, height),
            Area {
                left,
                top,
                width: seen_width,
                height: seen_height,
            },
        ) = (geometry.upload, geometry.seen());
        Self {
            width,
            height,
            crop: Crop {
                left,
                top,
                width: seen_width,
                height: seen_height,
            },
        }
    }
}

/// A class with its score: the probability, or the bare output of a net that has only one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClassScore {
    pub index: usize,
    /// `null` for models without labels.
    pub label: Option<String>,
    pub score: f32,
}

/// The class explained; for a contrast also the class it was contrasted with. Of a regression or an
/// embedding the value.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TargetScore {
    #[serde(flatten)]
    pub class: ClassScore,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<ClassScore>,
}

/// The base's map by one model.
#[derive(Debug, Serialize, ToSchema)]
pub struct SupportMap {
    #[schema(example = 2.0)]
    pub alpha: f64,
    pub attribution: EncodedTensor,
}

/// How far a run with a `tolerance` went, and the parameter that ended it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefinementEnd {
    /// Of a path: points of the last quadrature, for each baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_steps: Option<usize>,
    /// Of an estimate: random samples that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_samples: Option<usize>,
    pub ended_by: RefinementEndedBy,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefinementEndedBy {
    Tolerance,
    MaxSteps,
    NSamples,
}

impl From<Refinement> for RefinementEnd {
    fn from(refinement: Refinement) -> Self {
        let ended_by = match refinement.ended_by {
            EndedBy::Tolerance => RefinementEndedBy::Tolerance,
            EndedBy::MaxSteps => RefinementEndedBy::MaxSteps,
            EndedBy::NSamples => RefinementEndedBy::NSamples,
        };
        let (n_steps, n_samples) = match refinement.went {
            Went::NSteps(count) => (Some(count), None),
            Went::NSamples(count) => (None, Some(count)),
        };
        Self {
            n_steps,
            n_samples,
            ended_by,
        }
    }
}

/// The regions that a map is made of, in the pixels of the model's input.
#[derive(Debug, Serialize, ToSchema)]
pub struct RankedSegments {
    /// int32 `[n, height, width]`: the label maps that the regions were made of, one per scale (a
    /// single one for methods that hide regions) or as sent, labels counted from 0 (-1: no region). Absent for regions sent as masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<EncodedTensor>,
    /// int32 `[height, width]`: the rank of each pixel's region, from 1.
    pub ranks: EncodedTensor,
    /// By rank; what no region covered comes last.
    pub regions: Vec<RankedRegion>,
}

/// What one region added to those before it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RankedRegion {
    /// Pixels.
    pub area: usize,
    /// The score of each of them; `null` when it is not finite.
    pub value: Option<f64>,
    /// Of the score, of methods that estimate it from random samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

impl RankedSegments {
    fn new(segments: &Segments, encoding: Encoding) -> Self {
        let number = |label: &u32| i32::try_from(*label).unwrap_or(-1);
        let maps: Vec<_> = segments
            .segmentation
            .maps
            .iter()
            .map(|map| map.view())
            .collect();
        // Maps of one size always stack; no map does not.
        let labels = ndarray::stack(Axis(0), &maps).ok();
        Self {
            labels: labels.map(|labels| encode(labels.map(number).view().into_dyn(), encoding)),
            ranks: encode(segments.ranks.map(number).view().into_dyn(), encoding),
            regions: segments
                .regions
                .iter()
                .map(|region| RankedRegion {
                    area: region.area,
                    value: Some(region.value).filter(|v| v.is_finite()),
                    standard_error: region.standard_error.filter(|v| v.is_finite()),
                })
                .collect(),
        }
    }
}

/// Numbers in row-major order; those of a map in the shape of one input, with a single channel
/// where a method scores pixels.
#[derive(Debug, Serialize, ToSchema)]
pub struct EncodedTensor {
    #[schema(example = json!([3, 224, 224]))]
    pub shape: Vec<usize>,
    /// float32 of scores, int32 of labels and ranks.
    #[schema(example = "float32")]
    pub dtype: &'static str,
    pub encoding: Encoding,
    /// base64: the values' little-endian bytes. list: nested lists; a value that is not finite is
    /// `null`.
    #[schema(schema_with = encoded_data)]
    pub data: Value,
}

fn encoded_data() -> Schema {
    let base64 = ObjectBuilder::new().schema_type(Type::String);
    let list = ArrayBuilder::new().items(Object::with_type(SchemaType::AnyValue));
    OneOfBuilder::new().item(base64).item(list).build().into()
}

/// Milliseconds of each stage; stages that did not happen are 0. `total` runs from the plan to
/// before the encoding.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct TimingMs {
    pub decode: f64,
    pub preprocess: f64,
    pub queue: f64,
    pub model: f64,
    pub render: f64,
    pub total: f64,
}

impl From<StageTimes> for TimingMs {
    fn from(times: StageTimes) -> Self {
        Self {
            decode: milliseconds(times.decode),
            preprocess: milliseconds(times.preprocess),
            queue: milliseconds(times.queue),
            model: milliseconds(times.model),
            render: milliseconds(times.render),
            total: milliseconds(times.total),
        }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

impl From<&Prediction> for ClassScore {
    fn from(prediction: &Prediction) -> Self {
        Self {
            index: prediction.index,
            label: prediction.label.clone(),
            score: prediction.score,
        }
    }
}

impl Explanation {
    /// The map as JSON and npy hold it.
    fn scores(&self) -> CowArray<'_, f32, IxDyn> {
        let scores = &self.explained.attribution.scores;
        match (self.channels, &self.model.manifest.input.preprocess) {
            (Channels::Sum, Some(rule)) => {
                let axis = Axis(channel_axis(rule.layout));
                scores.sum_axis(axis).insert_axis(axis).into()
            }
            _ => scores.view().into(),
        }
    }

    /// The maps that the method compared, by alpha from 0, where they are asked for.
    fn supports(&self) -> Option<impl Iterator<Item = (f64, &Arc<Tensor>)>> {
        let compared = self.explained.attribution.compared.as_deref();
        let compared = compared.filter(|_| self.include.supports)?;
        let supports = compared.supports.iter().map(|(alpha, map)| (*alpha, map));
        Some(std::iter::once((0.0, &compared.own)).chain(supports))
    }

    /// What npy holds: the map, or a stack of it and those that it was made of.
    fn array(&self) -> Result<CowArray<'_, f32, IxDyn>, AppError> {
        let Some(maps) = self.supports() else {
            return Ok(self.scores());
        };
        let scores = self.explained.attribution.scores.view();
        let views: Vec<_> = std::iter::once(scores)
            .chain(maps.map(|(_, map)| map.view()))
            .collect();
        let stacked = ndarray::stack(Axis(0), &views).map_err(|error| AppError::Encode {
            reason: error.to_string(),
        })?;
        Ok(stacked.into())
    }

    pub fn to_answer(&self, encoding: Encoding) -> Answer {
        let explained = &self.explained;
        let attribution = &explained.attribution;
        let patterns = self
            .model
            .patterns
            .as_ref()
            .filter(|_| explained.parameters.needs_patterns());
        let mut parameters = Map::from_iter([("model".to_owned(), json!(self.model.id))]);
        parameters.extend(requested::stated(&self.model));
        parameters.extend(explained.parameters.to_json());
        Answer {
            model: self.model.id.clone(),
            model_hash: self.model.hash.clone(),
            patterns: patterns.map(|patterns| patterns.id.clone()),
            method: explained.parameters.method.id.to_owned(),
            method_choice: explained.parameters.choice.clone(),
            input: self.input,
            image: self.geometry.as_ref().map(ImageSize::from),
            input_size: requested::size(&self.model),
            parameters,
            inputs: values_of(&self.model),
            target: TargetScore {
                class: (&explained.target.class).into(),
                against: explained.target.against.as_ref().map(ClassScore::from),
            },
            predictions: explained.predictions.iter().map(ClassScore::from).collect(),
            attribution: self
                .include
                .attribution
                .then(|| encode(self.scores().view(), encoding)),
            input_value: attribution.input_value,
            baseline_value: attribution.baseline_value,
            convergence_delta: attribution.convergence_delta,
            approximation_error: attribution.approximation_error,
            refinement: attribution.refinement.map(RefinementEnd::from),
            grid: MapGrid::of(&explained.parameters),
            standard_error: attribution
                .standard_error
                .as_ref()
                .filter(|_| self.include.standard_error)
                .map(|error| encode(error.view(), encoding)),
            heatmap: self
                .picture
                .as_ref()
                .map(|file| BASE64_STANDARD.encode(file)),
            segments: attribution
                .segments
                .as_ref()
                .filter(|_| self.include.segments)
                .map(|segments| RankedSegments::new(segments, encoding)),
            supports: self.supports().map(|maps| {
                let map = |(alpha, map): (f64, &Arc<Tensor>)| SupportMap {
                    alpha,
                    attribution: encode(map.view(), encoding),
                };
                maps.map(map).collect()
            }),
            metrics: self.metrics.clone(),
            evaluations: explained.evaluations,
            surrogate: self.surrogate,
            warnings: self.warnings.clone(),
            timing_ms: self.times.into(),
        }
    }
}

/// JSON of POST /explain.
pub fn to_json(answered: &Answered<Explanation>, encoding: Encoding) -> Result<Vec<u8>, AppError> {
    write(
        &answered.answers,
        None,
        answered.evaluations,
        answered.times,
        encoding,
    )
}

/// JSON of POST /compare.
pub fn comparison_to_json(compared: &Compared, encoding: Encoding) -> Result<Vec<u8>, AppError> {
    write(
        &compared.explanations,
        compared.grid.as_ref(),
        compared.evaluations,
        compared.times,
        encoding,
    )
}

fn write(
    explanations: &[Explanation],
    grid: Option<&Bytes>,
    evaluations: usize,
    times: StageTimes,
    encoding: Encoding,
) -> Result<Vec<u8>, AppError> {
    let answer = Explanations {
        version: VERSION,
        explanations: explanations
            .iter()
            .map(|one| one.to_answer(encoding))
            .collect(),
        heatmap: grid.map(|file| BASE64_STANDARD.encode(file)),
        evaluations,
        timing_ms: times.into(),
    };
    to_vec(&answer)
}

/// JSON of POST /predict.
pub fn predictions_to_json(
    PredictPlan { model, .. }: &PredictPlan,
    predicted: &[Predicted],
) -> Result<Vec<u8>, AppError> {
    let result = |(input, one): (usize, &Predicted)| Classification {
        input,
        image: one.geometry.as_ref().map(ImageSize::from),
        input_size: requested::size(&one.model),
        predictions: one.predictions.iter().map(ClassScore::from).collect(),
        warnings: one.warnings.clone(),
        timing_ms: one.times.into(),
    };
    to_vec(&Classifications {
        version: VERSION,
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        output: model.output().map(str::to_owned),
        inputs: values_of(model),
        results: predicted.iter().enumerate().map(result).collect(),
        timing_ms: StageTimes::from_iter(predicted.iter().map(|one| one.times)).into(),
    })
}

/// JSON.
pub fn to_vec(answer: &impl Serialize) -> Result<Vec<u8>, AppError> {
    serde_json::to_vec(answer).map_err(|error| AppError::Encode {
        reason: error.to_string(),
    })
}

/// npy: the attribution, with `include=supports` first in a stack of the maps compared; those of a
/// list have a leading axis.
pub fn to_npy(answered: &Answered<Explanation>) -> Result<Vec<u8>, AppError> {
    Ok(write_npy(&array(answered)?)?)
}

/// What npy holds, as nested lists.
pub fn to_lists(answered: &Answered<Explanation>) -> Result<Value, AppError> {
    Ok(nest(array(answered)?.view()))
}

fn array(answered: &Answered<Explanation>) -> Result<Tensor, AppError> {
    if let ([one], false) = (answered.answers.as_slice(), answered.has_axis) {
        return Ok(one.array()?.into_owned());
    }
    stack(answered)
}

/// What npy holds, always with a leading axis.
pub fn stack(answered: &Answered<Explanation>) -> Result<Tensor, AppError> {
    let scores = answered.answers.iter().map(Explanation::array);
    let scores = scores.collect::<Result<Vec<_>, _>>()?;
    let views: Vec<_> = scores.iter().map(|scores| scores.view()).collect();
    let is_of_one_size = views
        .windows(2)
        .all(|pair| pair[0].shape() == pair[1].shape());
    if !is_of_one_size {
        let message = "maps of several sizes make no array";
        let allowed = ["inputs of one size", "POST /explain with format=json"];
        return Err(Faults::from(Fault::new("input_size", message, allowed)).into());
    }
    ndarray::stack(Axis(0), &views).map_err(|error| AppError::Encode {
        reason: error.to_string(),
    })
}

/// Of an element: its name, and its bytes, little-endian.
trait Element: Copy + Serialize {
    const DTYPE: &'static str;
    fn bytes(self) -> [u8; 4];
}

impl Element for f32 {
    const DTYPE: &'static str = "float32";

    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

impl Element for i32 {
    const DTYPE: &'static str = "int32";

    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

fn encode<T: Element>(tensor: ArrayViewD<'_, T>, encoding: Encoding) -> EncodedTensor {
    let shape = tensor.shape().to_vec();
    let data = match encoding {
        Encoding::Base64 => {
            let bytes: Vec<[u8; 4]> = tensor.iter().map(|value| value.bytes()).collect();
            Value::String(BASE64_STANDARD.encode(bytes.as_flattened()))
        }
        Encoding::List => nest(tensor),
    };
    EncodedTensor {
        shape,
        dtype: T::DTYPE,
        encoding,
        data,
    }
}

fn nest<T: Element>(tensor: ArrayViewD<'_, T>) -> Value {
    match tensor.ndim() {
        0 => tensor.first().map_or(Value::Null, |value| json!(value)),
        _ => tensor.outer_iter().map(nest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn lists_are_nested_as_the_shape_says_and_hold_null_for_nan() {
        let tensor = arr2(&[[1.0, 2.5], [f32::NAN, 0.0]]).into_dyn();
        assert_eq!(
            encode(tensor.view(), Encoding::List).data,
            json!([[1.0, 2.5], [null, 0.0]])
        );
    }

    #[test]
    fn base64_holds_little_endian_floats_in_row_major_order() {
        let transposed = arr2(&[[1.0, 2.0], [3.0, 4.0]]).reversed_axes().into_dyn();
        let encoded = encode(transposed.view(), Encoding::Base64);
        let bytes = BASE64_STANDARD
            .decode(encoded.data.as_str().unwrap())
            .unwrap();
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values, [1.0, 3.0, 2.0, 4.0]);
    }
}
