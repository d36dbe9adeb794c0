//! GET /metrics-catalogue: the metrics that methods are compared by, and what each takes of a model.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::Pairs,
    catalogue::{Id, ParameterCard},
    codes::ApiError,
    document::{MissingProblems, QueryProblems},
    jobs::{refuse, refuse_unknown},
};
use crate::{
    app::{AppError, plan::find_model},
    driver::model_defaults,
    evaluation::{
        Axes, Category, Direction, Metric,
        parameters::{self, Allowed, MetricParameter},
        registry::{self, METRICS},
    },
    faults::Faults,
    methods::{parameters::Parameters, registry::METHODS},
    model::Model,
};

#[derive(Debug, Serialize, ToSchema)]
pub struct MetricList {
    /// The model whose parameters these are.
    pub model: String,
    pub metrics: Vec<MetricCard>,
}

/// A metric, with the parameters that it has for a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct MetricCard {
    #[schema(example = "sparseness")]
    pub id: String,
    pub title: String,
    /// Paper and section.
    pub paper: String,
    pub category: Category,
    /// Which values are better.
    pub direction: Direction,
    /// What is measured, with the default parameters; absent where the model allows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What its value is.
    #[schema(example = "Gini index")]
    pub value: String,
    /// How the value of a method comes about.
    pub value_doc: String,
    /// The axes of the curve, of metrics that measure one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<CurveAxes>,
    /// Evaluations of the model for each image, beside those of the explanations.
    pub cost: String,
    /// Whether images need a mask or boxes of the labelled object.
    pub needs_region: bool,
    /// Whether images need others without the object: of the same group, with the role `without`.
    pub needs_pair: bool,
    /// Methods that it says nothing about, as they are by default.
    pub excluded_methods: Vec<String>,
    /// Why it says nothing about such methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusion: Option<String>,
    /// Whether `include=metrics` states it in answers of POST /explain and POST /compare.
    pub in_answers: bool,
    /// Whether jobs can measure it on the model.
    pub applies: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Those that the model allows, where the others have their defaults.
    pub parameters: Vec<ParameterCard>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CurveAxes {
    pub x: String,
    pub y: String,
}

/// List the metrics that attribution methods are compared by
///
/// They are measured by jobs of kind `evaluate`. The metrics of the server itself, for Prometheus,
/// are at /metrics.
#[utoipa::path(get, path = "/metrics-catalogue", tag = "catalogue", operation_id = "list_evaluation_metrics",
    params(("model" = Option<String>, Query, description = "The model that parameters and their defaults are for. Default: the server's default model.")),
    responses((status = 200, description = "The metrics.", body = MetricList), QueryProblems))]
pub async fn list_metrics(
    State(api): State<Api>,
    Pairs(query): Pairs,
) -> Result<Json<MetricList>, ApiError> {
    let model = model_of(&api, &query)?;
    Ok(Json(on_pool(&api, move || describe_all(&model)).await?))
}

/// Get one metric
#[utoipa::path(get, path = "/metrics-catalogue/{id}", tag = "catalogue", operation_id = "get_evaluation_metric",
    params(
        ("id" = String, Path, description = "The metric's id.", example = "degradation"),
        ("model" = Option<String>, Query, description = "The model that parameters and their defaults are for. Default: the server's default model."),
    ),
    responses((status = 200, description = "The metric.", body = MetricCard), MissingProblems))]
pub async fn get_metric(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<Json<MetricCard>, ApiError> {
    let metric = registry::find(&id).ok_or(ApiError::UnknownMetric { id })?;
    let model = model_of(&api, &query)?;
    Ok(Json(
        on_pool(&api, move || describe_metric(metric, &model)).await?,
    ))
}

fn model_of(api: &Api, query: &Map<String, Value>) -> Result<Arc<Model>, ApiError> {
    let mut faults = Faults::default();
    refuse_unknown(query, &["model"], &mut faults);
    refuse(faults)?;
    let found = find_model(&api.app().models(), query.get("model"));
    Ok(found.map_err(|fault| AppError::from(Faults::from(fault)))?)
}

/// What a model allows may take a look at all of its graph.
async fn on_pool<T: Send + 'static>(
    api: &Api,
    describe: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let described = api.app().pool().run(describe).await;
    Ok(described.map_err(AppError::from)?)
}

/// All metrics with their parameters for a model.
pub fn describe_all(model: &Model) -> MetricList {
    MetricList {
        model: model.id.clone(),
        metrics: METRICS
            .iter()
            .map(|metric| describe_metric(metric, model))
            .collect(),
    }
}

/// A metric with its parameters for a model.
pub fn describe_metric(metric: &'static Metric, model: &Model) -> MetricCard {
    let (offered, values) = parameters::offered(metric, model);
    let never = offered.iter().find_map(|(_, allowed)| match allowed {
        Allowed::Never(reason) => Some(*reason),
        _ => None,
    });
    let is_pictured = model.manifest.input.preprocess.is_some();
    let tensors = "the model takes ready tensors: metrics are measured on pictures";
    let reason = if is_pictured { never } else { Some(tensors) };
    let Metric { words, needs, .. } = metric;
    MetricCard {
        id: metric.id.to_owned(),
        title: metric.title.to_owned(),
        paper: metric.paper.to_owned(),
        category: metric.category,
        direction: (metric.direction)(&values),
        about: never.is_none().then(|| (words.about)(&values)),
        value: words.heading.to_owned(),
        value_doc: words.value.to_owned(),
        curve: words.axes.map(CurveAxes::from),
        cost: needs.cost.words.to_owned(),
        needs_region: needs.region,
        needs_pair: needs.pair,
        excluded_methods: excluded(metric, model),
        exclusion: Some(needs.exclusion.to_owned()).filter(|words| !words.is_empty()),
        in_answers: metric.needs_only_maps() && reason.is_none(),
        applies: reason.is_none(),
        reason: reason.map(str::to_owned),
        parameters: offered.into_iter().filter_map(card).collect(),
    }
}

fn excluded(metric: &Metric, model: &Model) -> Vec<String> {
    let facts = model_defaults(model);
    let is_excluded = |id: &str| {
        let given = Map::from_iter([("method".to_owned(), Value::from(id))]);
        Parameters::parse(&given, &facts)
            .is_ok_and(|parameters| (metric.needs.excludes)(&parameters))
    };
    let ids = METHODS.iter().map(|method| method.id.to_owned());
    ids.filter(|id| is_excluded(id)).collect()
}

fn card((parameter, allowed): (&MetricParameter, Allowed)) -> Option<ParameterCard> {
    Some(ParameterCard {
        name: parameter.name.to_owned(),
        r#type: allowed.type_name()?.to_owned(),
        allowed: allowed.forms(),
        default: allowed.default().unwrap_or(Value::Null),
        default_from_model: false,
        doc: parameter.doc.to_owned(),
    })
}

impl From<Axes> for CurveAxes {
    fn from(axes: Axes) -> Self {
        Self {
            x: axes.x.to_owned(),
            y: axes.y.to_owned(),
        }
    }
}
