//! KServe's V1 protocol: `instances` in, `predictions` or `explanations` out.

use axum::{
    Json,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{plan_numbers, plan_scores, reply_json, scores};
use crate::{
    api::{
        Api,
        body::{Received, Settled},
        catalogue::Id,
        codes::ApiError,
        contents::{Contents, MAX_IMAGES, Named, too_many},
        document::{InstancesRequest, ProtocolProblems},
        json_body::{AtMost, JsonTensor, decode, read, utf8},
        requester::Requester,
    },
    app::{AppError, Input, Uploads, answer::Answer, options::Encoding},
    faults::{Fault, Faults},
};

const FIELD: &str = "instances";

/// What V1's clients read at `/`.
#[derive(Serialize)]
pub struct Alive {
    status: &'static str,
}

impl Alive {
    pub const NOW: Self = Self { status: "alive" };
}

#[derive(Debug, Serialize, ToSchema)]
pub struct V1Models {
    #[schema(example = json!(["squeezenet1_1"]))]
    pub models: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct V1Model {
    #[schema(example = "squeezenet1_1")]
    pub name: String,
    pub ready: bool,
}

/// For each instance, in order: the score of each class by index (`:predict`), or its explanation
/// as POST /explain has it, the attribution as nested lists (`:explain`).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum V1Answer {
    Predictions(Vec<Vec<f32>>),
    Explanations(Vec<Answer>),
}

/// List models (KServe V1)
#[utoipa::path(get, path = "/v1/models", tag = "protocols", responses((status = 200, description = "The models.", body = V1Models), ProtocolProblems))]
pub async fn list_kserve_models(State(api): State<Api>) -> Json<V1Models> {
    Json(V1Models {
        models: api.app().model_ids(),
    })
}

/// Ask whether a model is served (KServe V1)
#[utoipa::path(get, path = "/v1/models/{model}", tag = "protocols",
    params(("model" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    responses((status = 200, description = "It is.", body = V1Model), ProtocolProblems))]
pub async fn get_kserve_model(
    State(api): State<Api>,
    Id(id): Id,
) -> Result<Json<V1Model>, ApiError> {
    let model = api.app().model(&id)?;
    Ok(Json(V1Model {
        name: model.id.clone(),
        ready: true,
    }))
}

#[derive(Clone, Copy)]
enum Verb {
    Predict,
    Explain,
}

/// Classify or explain instances (KServe V1)
///
/// An instance is a tensor that is preprocessed for the model, as nested lists, or an image in
/// base64: a text, or an object with it under `b64`, `data`, `image` or `image_bytes`. Parameters of
/// POST /explain stand in the query or under `parameters`.
#[utoipa::path(post, path = "/v1/models/{model}", tag = "protocols",
    params(("model" = String, Path, description = "The model's id with `:predict` or `:explain` behind it.", example = "squeezenet1_1:explain")),
    request_body = InstancesRequest,
    responses((status = 200, description = "An answer for each instance.", body = V1Answer,
        headers(("server-timing" = String, description = "Milliseconds spent in each stage."))), ProtocolProblems))]
pub async fn call_kserve_model(
    State(api): State<Api>,
    Id(call): Id,
    requester: Requester,
    request: Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let app = api.app();
            let (model, verb) = match call.rsplit_once(':') {
                Some((model, "predict")) => (model, Verb::Predict),
                Some((model, "explain")) => (model, Verb::Explain),
                _ => {
                    return Err(ApiError::BrokenPath {
                        reason: "a model's id is followed by :predict or :explain".to_owned(),
                    });
                }
            };
            let model = app.model(model)?.id.clone();
            let (received, bytes) = Received::read(request, &api).await?;
            let parse = move || parse(&bytes);
            let answer = match verb {
                Verb::Predict => {
                    let plan = move |app: &_, given, _: &_| plan_scores(app, given, &model);
                    let Settled {
                        plan,
                        inputs,
                        place: _place,
                        ..
                    } = received.settle(&api, parse, plan).await?;
                    let predicted = app.predict(&plan, inputs, &requester.caller).await?;
                    let times = predicted.iter().map(|one| one.times).collect();
                    let predictions = move || {
                        Ok(V1Answer::Predictions(
                            predicted.iter().map(scores).collect(),
                        ))
                    };
                    reply_json(app, times, predictions).await?
                }
                Verb::Explain => {
                    let plan = move |app: &_, given, context: &_| {
                        plan_numbers(app, given, context, &model)
                    };
                    let Settled {
                        plan,
                        inputs,
                        uploads,
                        place: _place,
                    } = received.settle(&api, parse, plan).await?;
                    let answered = app
                        .explain(plan, inputs, uploads, &requester.caller)
                        .await?;
                    let times = answered.times;
                    let explanations = move || {
                        let each = answered.answers.iter();
                        let each = each.map(|one| one.to_answer(Encoding::List)).collect();
                        Ok(V1Answer::Explanations(each))
                    };
                    reply_json(app, times, explanations).await?
                }
            };
            Ok(answer)
        })
        .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'t> {
    #[serde(borrow)]
    instances: AtMost<&'t RawValue>,
    #[serde(default)]
    parameters: Option<Named>,
    /// Of TensorFlow Serving, whose form this is; an ONNX file has a single signature.
    #[serde(default, rename = "signature_name")]
    _signature: Option<IgnoredAny>,
}

fn parse(bytes: &Bytes) -> Result<Contents, ApiError> {
    let text = utf8(bytes)?;
    let Body {
        instances: AtMost(instances),
        parameters,
        ..
    } = read(&text)?;
    if instances.is_empty() {
        let allowed = [format!("1 to {MAX_IMAGES} tensors or images")];
        return Err(AppError::from(Faults::from(Fault::new(FIELD, "is empty", allowed))).into());
    }
    if instances.len() > MAX_IMAGES {
        return Err(too_many(FIELD));
    }
    let inputs = instances.into_iter().map(|instance| input(instance, true));
    Ok(Contents {
        inputs: inputs.collect::<Result<_, _>>()?,
        uploads: Uploads::default(),
        parameters: parameters.unwrap_or_default().finish("in the parameters")?,
    })
}

/// An image in base64 under the names that servers of this protocol give it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'t> {
    #[serde(borrow, alias = "data", alias = "image", alias = "image_bytes")]
    b64: &'t RawValue,
}

fn input(instance: &RawValue, may_be_wrapped_twice: bool) -> Result<Input, ApiError> {
    let text = instance.get().as_bytes();
    match text.first() {
        Some(b'"') => decode(&read::<String>(text)?, FIELD),
        Some(b'{') => {
            let inner = read::<Wrapped<'_>>(text)?.b64;
            match inner.get().starts_with('{') && !may_be_wrapped_twice {
                true => Err(ApiError::BrokenJson {
                    reason: "an instance is wrapped in more than two objects".to_owned(),
                }),
                false => input(inner, false),
            }
        }
        _ => read::<JsonTensor>(text)?.input(FIELD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(body: &str) -> Result<Vec<Input>, String> {
        parse(&Bytes::copy_from_slice(body.as_bytes()))
            .map(|contents| contents.inputs)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn images_are_found_under_every_name_and_tensors_as_lists() {
        for image in [
            r#""aGVsbG8=""#,
            r#"{"b64": "aGVsbG8="}"#,
            r#"{"data": "aGVsbG8="}"#,
            r#"{"image": {"b64": "aGVsbG8="}}"#,
            r#"{"image_bytes": {"b64": "aGVsbG8="}}"#,
        ] {
            let found = inputs(&format!(
                r#"{{"instances": [{image}], "signature_name": "s"}}"#
            ));
            assert!(
                matches!(&found.unwrap()[..], [Input::Image(bytes)] if bytes == "hello"),
                "{image}"
            );
        }
        for tensor in ["[[1, 2]]", r#"{"data": [[1, 2]]}"#] {
            let found = inputs(&format!(r#"{{"instances": [{tensor}, {tensor}]}}"#)).unwrap();
            assert!(matches!(&found[..], [Input::Tensor(tensor), _] if tensor.shape() == [1, 2]));
        }
    }

    #[test]
    fn what_is_wrong_with_instances_is_told() {
        let deep = format!("{}1{}", r#"{"b64":"#.repeat(100), "}".repeat(100));
        let many = vec!["[1]"; 40].join(",");
        for (body, expected) in [
            (r#"{"instances": []}"#.to_owned(), "is empty"),
            (format!(r#"{{"instances": [{many}]}}"#), "more than 32"),
            (
                format!(r#"{{"instances": [{deep}]}}"#),
                "more than two objects",
            ),
            (r#"{"instance": []}"#.to_owned(), "instances"),
            (
                r#"{"instances": [7]}"#.to_owned(),
                "nested lists of numbers",
            ),
            (
                r#"{"instances": [{"url": "x"}]}"#.to_owned(),
                "unknown field",
            ),
            (r#"{"instances": [{"b64": "*"}]}"#.to_owned(), "base64"),
            (
                r#"{"instances": [[1]], "parameters": {"a": 1, "a": 2}}"#.to_owned(),
                "twice",
            ),
        ] {
            let told = inputs(&body).err().unwrap_or_default();
            assert!(
                told.contains(expected) && told.len() < 600,
                "{body}: {told}"
            );
        }
    }
}
