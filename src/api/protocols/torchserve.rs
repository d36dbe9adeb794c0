//! TorchServe's inference API, as its image classifiers answer it: a photo in, the best classes or
//! attributions out. curl -T sends PUT, other clients POST.

use axum::{
    Json,
    extract::{Request, State},
    response::Response,
};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{plan_numbers, reply_json, with_model};
use crate::{
    api::{
        Api,
        body::{Settled, settle},
        catalogue::Id,
        codes::ApiError,
        document::{Binary, FileForm, ProtocolProblems},
        health,
        requester::Requester,
    },
    app::{App, Predicted, answer, plan::RequestContext},
    methods::Prediction,
};

#[derive(Debug, Serialize, ToSchema)]
pub struct Pinged {
    #[schema(example = "Healthy")]
    pub status: &'static str,
}

/// For a single input an object, for several a list of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BestClasses {
    One(ByLabel),
    Several(Vec<ByLabel>),
}

/// The scores of the best classes, the best first, by label; by index for models without labels.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = BTreeMap<String, f32>, example = json!({ "Egyptian_cat": 0.39, "tabby": 0.27 }))]
pub struct ByLabel(IndexMap<String, f32>);

impl From<&Predicted> for ByLabel {
    fn from(predicted: &Predicted) -> Self {
        let mut classes = IndexMap::new();
        for Prediction {
            index,
            label,
            score,
        } in &predicted.predictions
        {
            let name = label.clone().unwrap_or_else(|| index.to_string());
            // Of classes of one name the best.
            classes.entry(name).or_insert(*score);
        }
        Self(classes)
    }
}

/// Ask whether the server is healthy (TorchServe)
#[utoipa::path(get, path = "/ping", tag = "protocols", responses((status = 200, description = "Requests are answered.", body = Pinged), ProtocolProblems))]
pub async fn ping(state: State<Api>) -> Result<Json<Pinged>, ApiError> {
    health::check_readiness(state).await.map(drop)?;
    Ok(Json(Pinged { status: "Healthy" }))
}

macro_rules! routes {
    ($($(#[$doc:meta])* $verb:ident $path:literal $name:ident -> $answer:ty, $description:literal, $work:ident;)*) => {
        $($(#[$doc])*
        #[utoipa::path($verb, path = $path, tag = "protocols",
            params(("model" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
            request_body(description = "An image file, a form with it as `data`, or what else POST /explain takes.",
                content((Binary = "application/octet-stream"), (FileForm = "multipart/form-data"))),
            responses((status = 200, description = $description, body = $answer,
                headers(("server-timing" = String, description = "Milliseconds spent in each stage."))), ProtocolProblems))]
        pub async fn $name(
            State(api): State<Api>,
            Id(model): Id,
            requester: Requester,
            request: Request,
        ) -> Result<Response, ApiError> {
            let model = api.app().model(&model)?.id.clone();
            requester.finish($work(&api, model, &requester, request)).await
        })*
    };
}

routes! {
    /// Classify an image (TorchServe)
    post "/predictions/{model}" post_prediction -> BestClasses, "The best classes", predict;
    /// Classify an image (TorchServe, as curl -T sends it)
    put "/predictions/{model}" put_prediction -> BestClasses, "The best classes", predict;
    /// Explain a prediction (TorchServe)
    post "/explanations/{model}" post_explanation -> Vec<Value>, "The attribution as nested lists in the shape of the model's input; several inputs give a list.", explain;
    /// Explain a prediction (TorchServe, as curl -T sends it)
    put "/explanations/{model}" put_explanation -> Vec<Value>, "The attribution as nested lists in the shape of the model's input; several inputs give a list.", explain;
}

async fn predict(
    api: &Api,
    model: String,
    requester: &Requester,
    request: Request,
) -> Result<Response, ApiError> {
    let app = api.app();
    let plan = move |app: &App, given: Map<String, Value>, _: &RequestContext| {
        app.plan_prediction(with_model(given, &model)?)
    };
    let Settled {
        plan,
        inputs,
        place: _place,
        ..
    } = settle(request, api, &[], plan).await?;
    let predicted = app.predict(&plan, inputs, &requester.caller).await?;
    let times = predicted.iter().map(|one| one.times).collect();
    let classes = move || {
        Ok(match &predicted[..] {
            [one] => BestClasses::One(one.into()),
            several => BestClasses::Several(several.iter().map(ByLabel::from).collect()),
        })
    };
    Ok(reply_json(app, times, classes).await?)
}

async fn explain(
    api: &Api,
    model: String,
    requester: &Requester,
    request: Request,
) -> Result<Response, ApiError> {
    let app = api.app();
    // Whatever it accepts: these answers are numbers.
    let plan = move |app: &App, given, context: &RequestContext| {
        let context = RequestContext {
            files: context.files,
            ..RequestContext::default()
        };
        plan_numbers(app, given, &context, &model)
    };
    let Settled {
        plan,
        inputs,
        uploads,
        place: _place,
    } = settle(request, api, &["include"], plan).await?;
    let answered = app
        .explain(plan, inputs, uploads, &requester.caller)
        .await?;
    let times = answered.times;
    Ok(reply_json(app, times, move || answer::to_lists(&answered)).await?)
}
