//! The Open Inference Protocol (KServe V2, Triton): tensors in, tensors out, an explanation as
//! further outputs.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    plan_numbers, plan_scores, scores,
    tensors::{OutputTensor, Sent, Values},
};
use crate::{
    VERSION,
    api::{
        Api,
        body::{OCTET_STREAM, Received, Settled},
        catalogue::Id,
        codes::ApiError,
        contents::{Contents, MAX_IMAGES, Named, too_many, twice},
        document::{Binary, InferRequest, ProtocolProblems},
        health,
        json_body::{AtMost, read, utf8},
        reply,
        requester::Requester,
    },
    app::{
        Answered, App, AppError, Explanation, Predicted, StageTimes, Uploads,
        answer::{self, stack},
        format::Format,
        plan::{Plan, PredictPlan, RequestContext},
    },
    faults::{Fault, Faults},
    text::{cut, excerpt, shown},
};

/// Bytes of the JSON, where more follows it.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

const SCORES: &str = "scores";
const ATTRIBUTION: &str = "attribution";
const TARGET: &str = "target";
const OUTPUTS: [&str; 3] = [SCORES, ATTRIBUTION, TARGET];

/// Whether outputs that do not say it are bytes behind the JSON.
const BINARY_OUTPUT: &str = "binary_data_output";

/// Parameters of the protocol and of Triton, which no explanation has.
const OF_THE_PROTOCOL: [&str; 6] = [
    BINARY_OUTPUT,
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
];

/// The most bytes of warnings in the parameters of an answer.
const WARNING_BYTES: usize = 4000;

#[derive(Debug, Serialize, ToSchema)]
pub struct V2Server {
    #[schema(example = "explaind")]
    pub name: &'static str,
    pub version: &'static str,
    #[schema(example = json!(["binary_tensor_data"]))]
    pub extensions: [&'static str; 1],
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Liveness {
    pub live: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct V2Readiness {
    /// Of a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "squeezenet1_1")]
    pub name: Option<String>,
    pub ready: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct V2Model {
    #[schema(example = "squeezenet1_1")]
    pub name: String,
    #[schema(example = "onnxruntime_onnx")]
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadata {
    #[schema(example = "input")]
    pub name: String,
    #[schema(example = "FP32")]
    pub datatype: &'static str,
    /// -1: any.
    #[schema(example = json!([-1, 3, 224, 224]))]
    pub shape: Vec<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InferAnswer {
    #[schema(example = "squeezenet1_1")]
    pub model_name: String,
    /// That of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of an explanation: `method`, and `warnings`, joined by `; `.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    pub outputs: Vec<OutputTensor>,
}

/// Describe the server (Open Inference Protocol)
#[utoipa::path(get, path = "/v2", tag = "protocols", responses((status = 200, description = "The server.", body = V2Server), ProtocolProblems))]
pub async fn get_inference_server() -> Json<V2Server> {
    Json(V2Server {
        name: "explaind",
        version: VERSION,
        extensions: ["binary_tensor_data"],
    })
}

/// Liveness probe (Open Inference Protocol)
#[utoipa::path(get, path = "/v2/health/live", tag = "protocols", responses((status = 200, description = "The process runs.", body = Liveness), ProtocolProblems))]
pub async fn check_inference_liveness() -> Json<Liveness> {
    Json(Liveness { live: true })
}

/// Readiness probe (Open Inference Protocol)
#[utoipa::path(get, path = "/v2/health/ready", tag = "protocols", responses((status = 200, description = "Requests are answered.", body = V2Readiness), ProtocolProblems))]
pub async fn check_inference_readiness(state: State<Api>) -> Result<Json<V2Readiness>, ApiError> {
    health::check_readiness(state).await.map(drop)?;
    Ok(Json(V2Readiness {
        name: None,
        ready: true,
    }))
}

/// Ask whether a model is served (Open Inference Protocol)
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "protocols",
    params(("model" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    responses((status = 200, description = "It is.", body = V2Readiness), ProtocolProblems))]
pub async fn check_inference_model(
    State(api): State<Api>,
    Id(id): Id,
) -> Result<Json<V2Readiness>, ApiError> {
    let model = api.app().model(&id)?;
    Ok(Json(V2Readiness {
        name: Some(model.id.clone()),
        ready: true,
    }))
}

/// Describe a model's tensors (Open Inference Protocol)
#[utoipa::path(get, path = "/v2/models/{model}", tag = "protocols",
    params(("model" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    responses((status = 200, description = "Its tensors.", body = V2Model), ProtocolProblems))]
pub async fn get_inference_model(
    State(api): State<Api>,
    Id(id): Id,
) -> Result<Json<V2Model>, ApiError> {
    let model = api.app().model(&id)?;
    let input = &model.manifest.input;
    let tensor = |name: &str, datatype, sides: &[Option<usize>]| TensorMetadata {
        name: name.to_owned(),
        datatype,
        shape: std::iter::once(-1)
            .chain(sides.iter().map(|side| side.map_or(-1, |side| side as i64)))
            .collect(),
    };
    let sides: Vec<_> = input.shape.iter().copied().map(Some).collect();
    // The channels of a map are one, or those of the input, by the method.
    let mut map = sides.clone();
    if let Some(channels) = map.first_mut() {
        *channels = None;
    }
    Ok(Json(V2Model {
        name: model.id.clone(),
        platform: "onnxruntime_onnx",
        inputs: vec![tensor(&input.name, "FP32", &sides)],
        outputs: vec![
            tensor(SCORES, "FP32", &[model.classes()]),
            tensor(ATTRIBUTION, "FP32", &map),
            tensor(TARGET, "INT64", &[]),
        ],
    }))
}

/// What a request asks for, beside the inputs.
struct Asked {
    id: Option<String>,
    /// In order, and whether as bytes behind the JSON.
    outputs: Vec<(&'static str, bool)>,
}

impl Asked {
    fn wants(&self, names: &[&str]) -> bool {
        self.outputs.iter().any(|(name, _)| names.contains(name))
    }
}

struct InferPlan {
    asked: Asked,
    scores: Option<PredictPlan>,
    explanation: Option<Plan>,
}

/// Classify and explain (Open Inference Protocol)
///
/// The model's input, as a tensor that is preprocessed for it (FP32, FP64, FP16), as pixels (UINT8) or as
/// encoded images (BYTES; in JSON in base64). Outputs are `scores`, the scores of all classes; `attribution`, the explanation by the
/// parameters of POST /explain, which stand under `parameters`; and `target`, the index of the
/// class explained. A request that names no outputs gets the scores, and the other two where it
/// names a `method`. Of the extensions, `binary_tensor_data` is served.
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "protocols",
    params(("model" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    request_body(content((InferRequest = "application/json"))),
    responses((status = 200, description = "The outputs, as JSON; with any of them as bytes behind it, of the length that `inference-header-content-length` says.", content((InferAnswer = "application/json"), (Binary = "application/octet-stream")),
            headers(
                ("inference-header-content-length" = usize, description = "Bytes of the JSON, where more follows it."),
                ("server-timing" = String, description = "Milliseconds spent in each stage."),
            )),
        ProtocolProblems))]
pub async fn infer(
    State(api): State<Api>,
    Id(id): Id,
    requester: Requester,
    request: Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let app = api.app();
            let model = app.model(&id)?;
            let length = json_length(request.headers())?;
            let (received, bytes) = Received::read(request, &api).await?;
            let input = model.manifest.input.name.clone();
            let (asked, contents) = app
                .pool()
                .run(move || parse(bytes, length, &input))
                .await
                .map_err(AppError::from)??;
            let named = model.id.clone();
            let plan = move |app: &App, given, context: &RequestContext| {
                plan(app, asked, given, context, &named)
            };
            let Settled {
                plan,
                inputs,
                uploads,
                place: _place,
            } = received.settle(&api, move || Ok(contents), plan).await?;
            let InferPlan {
                asked,
                scores,
                explanation,
            } = plan;
            let predicted = match &scores {
                Some(plan) => app.predict(plan, inputs.clone(), &requester.caller).await?,
                None => Vec::new(),
            };
            let explained = match explanation {
                Some(plan) => Some(
                    app.explain(plan, inputs, uploads, &requester.caller)
                        .await?,
                ),
                None => None,
            };
            let times = predicted.iter().map(|one| one.times);
            let times = times.chain(explained.iter().map(|answered| answered.times));
            let mut times: StageTimes = times.collect();
            let name = model.id.clone();
            let write = move || write(name, asked, &predicted, explained.as_ref());
            let Written { json, bytes } = reply::encode(app, &mut times, write).await?;
            let mut headers = HeaderMap::new();
            let media_type = match json < bytes.len() {
                false => Format::Json.media_type(),
                true => {
                    headers.insert(JSON_LENGTH, HeaderValue::from(json));
                    OCTET_STREAM
                }
            };
            Ok(reply::reply(media_type, headers, times, bytes))
        })
        .await
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) => Ok(Some(length)),
        None => {
            let fault = Fault::new(
                JSON_LENGTH.as_str(),
                "is no number",
                ["the bytes of the JSON"],
            );
            Err(AppError::from(Faults::from(fault)).into())
        }
    }
}

#[derive(Deserialize)]
struct Body<'t> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Option<Named>,
    #[serde(borrow)]
    inputs: AtMost<Sent<'t>>,
    #[serde(default)]
    outputs: Option<AtMost<RequestedOutput>>,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// Takes apart a body whose first `length` bytes are JSON, or all of it; `input` is the name of the
/// model's input.
fn parse(
    mut bytes: Bytes,
    length: Option<usize>,
    input: &str,
) -> Result<(Asked, Contents), ApiError> {
    if length.is_some_and(|length| length > bytes.len()) {
        return Err(ApiError::BrokenBody {
            reason: format!("{JSON_LENGTH} says more bytes than its {}", bytes.len()),
        });
    }
    let json = bytes.split_to(length.unwrap_or(bytes.len()));
    let mut blobs = bytes;
    let text = utf8(&json)?;
    let Body {
        id,
        parameters,
        inputs: AtMost(sent),
        outputs,
    } = read(&text)?;
    let mut parameters = parameters.unwrap_or_default().finish("in the parameters")?;
    let mut faults = Faults::default();
    let is_binary = match parameters.get(BINARY_OUTPUT) {
        None => false,
        Some(Value::Bool(is_binary)) => *is_binary,
        Some(other) => {
            let message = format!("{} is neither true nor false", shown(other));
            faults.push(Fault::new(BINARY_OUTPUT, message, ["true", "false"]));
            false
        }
    };
    parameters.retain(|name, _| !OF_THE_PROTOCOL.contains(&name.as_str()));
    let mut inputs = Vec::new();
    for tensor in &sent {
        if tensor.name == input {
            inputs.extend(tensor.inputs(&mut blobs)?);
        } else {
            let message = format!("{} is no input that can be sent", excerpt(&tensor.name));
            faults.push(Fault::new("inputs", message, [input]));
        }
    }
    if !blobs.is_empty() && faults.is_empty() {
        let message = format!(
            "leave {} bytes behind the JSON that no tensor has",
            blobs.len()
        );
        let allowed = ["binary_data_size of each tensor, together all bytes behind the JSON"];
        faults.push(Fault::new("inputs", message, allowed));
    }
    if inputs.is_empty() && faults.is_empty() {
        faults.push(Fault::new("inputs", "is empty", [input]));
    }
    if inputs.len() > MAX_IMAGES {
        return Err(too_many("inputs"));
    }
    let outputs = match outputs {
        Some(AtMost(requested)) => {
            let mut outputs = Vec::new();
            for RequestedOutput { name, parameters } in requested {
                match OUTPUTS.into_iter().find(|known| *known == name) {
                    Some(known) if outputs.iter().any(|(other, _)| *other == known) => {
                        faults.push(twice(known, "in the outputs"));
                    }
                    Some(known) => {
                        outputs.push((known, parameters.binary_data.unwrap_or(is_binary)))
                    }
                    None => {
                        let message = format!("{} is no output", excerpt(&name));
                        faults.push(Fault::new("outputs", message, OUTPUTS));
                    }
                }
            }
            outputs
        }
        None => {
            let explains = parameters.contains_key("method");
            let wanted = OUTPUTS
                .into_iter()
                .take(if explains { OUTPUTS.len() } else { 1 });
            wanted.map(|name| (name, is_binary)).collect()
        }
    };
    faults.settle(()).map_err(AppError::from)?;
    let contents = Contents {
        inputs,
        uploads: Uploads::default(),
        parameters,
    };
    Ok((Asked { id, outputs }, contents))
}

fn plan(
    app: &App,
    asked: Asked,
    given: Map<String, Value>,
    context: &RequestContext,
    model: &str,
) -> Result<InferPlan, AppError> {
    let explains = asked.wants(&[ATTRIBUTION, TARGET]);
    // Parameters of an explanation that nobody wants are refused by the plan of the scores.
    let of_scores = if explains { Map::new() } else { given.clone() };
    Ok(InferPlan {
        scores: match asked.wants(&[SCORES]) || !explains {
            true => Some(plan_scores(app, of_scores, model)?),
            false => None,
        },
        explanation: match explains {
            true => Some(plan_numbers(app, given, context, model)?),
            false => None,
        },
        asked,
    })
}

/// JSON of this length, and what comes behind it.
struct Written {
    json: usize,
    bytes: Vec<u8>,
}

fn write(
    model_name: String,
    asked: Asked,
    predicted: &[Predicted],
    explained: Option<&Answered<Explanation>>,
) -> Result<Written, AppError> {
    let mut blobs = Vec::new();
    let mut outputs = Vec::with_capacity(asked.outputs.len());
    for (name, is_binary) in asked.outputs {
        let (shape, values) = match (name, explained) {
            (ATTRIBUTION, Some(answered)) => {
                let maps = stack(answered)?;
                (
                    maps.shape().to_vec(),
                    Values::Floats(maps.into_iter().collect()),
                )
            }
            (TARGET, Some(answered)) => {
                let targets = answered.answers.iter();
                let targets = targets.map(|one| one.explained.target.class.index as i64);
                (
                    vec![answered.answers.len()],
                    Values::Integers(targets.collect()),
                )
            }
            _ => {
                let scores: Vec<_> = predicted.iter().map(scores).collect();
                let classes = scores.first().map_or(0, Vec::len);
                (vec![scores.len(), classes], Values::Floats(scores.concat()))
            }
        };
        outputs.push(OutputTensor::new(
            name, shape, values, is_binary, &mut blobs,
        ));
    }
    let answer = InferAnswer {
        model_name,
        id: asked.id,
        parameters: explained.map(parameters).unwrap_or_default(),
        outputs,
    };
    let mut bytes = answer::to_vec(&answer)?;
    let json = bytes.len();
    bytes.extend(blobs);
    Ok(Written { json, bytes })
}

fn parameters(answered: &Answered<Explanation>) -> Map<String, Value> {
    let mut parameters = Map::new();
    if let Some(one) = answered.answers.first() {
        parameters.insert(
            "method".to_owned(),
            one.explained.parameters.method.id.into(),
        );
    }
    let mut warnings: Vec<&str> = Vec::new();
    for warning in answered.answers.iter().flat_map(|one| &one.warnings) {
        if !warnings.contains(&warning.as_str()) {
            warnings.push(warning);
        }
    }
    if !warnings.is_empty() {
        let told = cut(&warnings.join("; "), WARNING_BYTES).into_owned();
        parameters.insert("warnings".to_owned(), told.into());
    }
    parameters
}
