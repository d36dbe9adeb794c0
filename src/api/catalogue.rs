//! GET /methods, /models: what there is, and what each takes. Metrics: [`super::metrics_catalogue`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
};
use serde::Serialize;
use serde_json::{
    Value,
    value::{self, RawValue},
};
use tokio::sync::OnceCell;
use utoipa::ToSchema;

use super::{
    Api,
    codes::ApiError,
    document::{InternalProblems, MissingProblems},
};
use crate::{
    app::AppError,
    driver::model_defaults,
    methods::{
        applies::obstacle,
        parameters::{Facts, Parameter},
        registry::{self, METHODS, Method, applicable},
    },
    model::{
        Model,
        provenance::{self, Provenance},
        registry::{Origin, Registry},
    },
};
use onnx_autodiff::{
    autodiff::{
        self,
        spec::{Layer, RuleSetId},
    },
    onnx::graph::Graph,
};

#[derive(Debug, Serialize, ToSchema)]
pub struct MethodList {
    pub methods: Vec<MethodCard>,
}

/// An attribution method.
#[derive(Debug, Serialize, ToSchema)]
pub struct MethodCard {
    #[schema(example = "integrated_gradients")]
    pub id: String,
    pub title: String,
    pub formula: String,
    pub paper: String,
    /// Evaluations of the model (one forward and backward pass of one input), in terms of its
    /// parameters.
    pub cost: String,
    /// Whether it needs patterns, with its default `rule_set`.
    pub needs_patterns: bool,
    pub parameters: Vec<ParameterCard>,
}

/// A parameter of a method or of a metric.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParameterCard {
    pub name: String,
    /// integer, number, boolean, string or array.
    pub r#type: String,
    /// Ranges, choices or forms.
    pub allowed: Vec<String>,
    /// `null`: off by default, or the model's own (`default_from_model`).
    pub default: Value,
    /// Whether the default is the model's own. Those of metrics are told for a model.
    pub default_from_model: bool,
    pub doc: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    pub models: Vec<ModelSummary>,
    /// Folders, trained and uploaded models that failed to load, with every error.
    pub broken_models: Vec<BrokenModel>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BrokenModel {
    pub id: String,
    pub faults: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelSummary {
    pub id: String,
    /// Whether it is used for requests that name no model.
    pub default: bool,
    /// Shape of one input, without batch axis.
    pub shape: Vec<usize>,
    /// Whether it takes images; otherwise only preprocessed tensors.
    pub takes_images: bool,
    pub classes: Option<usize>,
    pub has_patterns: bool,
    /// Whether a job of this server trained it: it can be deleted.
    pub trained: bool,
    /// Whether a client uploaded it: it can be replaced and deleted. One that is neither trained nor
    /// uploaded is a folder of the server's.
    pub uploaded: bool,
    /// The model that it was trained from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<provenance::Origin>,
    /// What was assumed because its `model.toml` does not say it (answers repeat it), and what of
    /// the graph is left out or read in a way of its own, such as an ArgMax behind the scores.
    pub warnings: Vec<String>,
    /// Ids of the methods that can explain it; `methods` of GET /models/{id} says why others cannot.
    #[schema(example = json!(["integrated_gradients", "grad_cam", "occlusion"]))]
    pub applies: Vec<String>,
}

/// A model in full.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelCard {
    #[serde(flatten)]
    pub summary: ModelSummary,
    /// SHA-256 of `model.onnx`; where that has external data, of the SHA-256 of all of its files.
    pub hash: String,
    /// `model.toml` with missing entries filled in: input, head, pattern_layers, output, layer.
    #[schema(value_type = Object)]
    pub manifest: Box<RawValue>,
    /// One name per class; empty without a labels file.
    pub labels: Vec<String>,
    /// Id of the fitted patterns.
    pub patterns: Option<String>,
    /// What it was trained from and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Provenance>)]
    pub provenance: Option<Arc<Provenance>>,
    /// The layers with weights (convolutions and matrix products), in the order of the forward
    /// pass; empty where the network cannot be differentiated.
    pub linear_layers: Vec<LayerCard>,
    /// The layers that Grad-CAM can use, in the order of the forward pass; `manifest.layer` is the
    /// default.
    pub layers: Vec<SpatialCard>,
    /// The values between input and head in the order of the forward pass; empty where the network
    /// cannot be differentiated.
    pub activations: Vec<ActivationCard>,
    pub methods: Vec<Applicability>,
}

/// A layer with weights.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LayerCard {
    /// Its name in `pattern_layers`.
    pub node: String,
    pub op_type: String,
    pub weight_shape: Vec<usize>,
}

/// A layer with places: a feature map, or a grid of tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SpatialCard {
    pub name: String,
    /// Without batch axis.
    pub shape: Vec<usize>,
    /// Rows of places.
    pub height: usize,
    /// Columns of places.
    pub width: usize,
    /// Class and register tokens before those of the grid; 0 for feature maps.
    pub other_tokens: usize,
}

impl From<&Layer> for SpatialCard {
    fn from(layer: &Layer) -> Self {
        Self {
            name: layer.name.clone(),
            shape: layer.shape.clone(),
            height: layer.grid.height,
            width: layer.grid.width,
            other_tokens: layer.grid.first,
        }
    }
}

/// A value inside the network.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ActivationCard {
    pub name: String,
    /// Without batch axis.
    pub shape: Vec<usize>,
}

/// Whether a method can explain this model, and why not.
#[derive(Debug, Serialize, ToSchema)]
pub struct Applicability {
    pub id: String,
    pub applies: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The id in the path.
pub struct Id(pub String);

impl FromRequestParts<Api> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, api).await;
        path.map(|Path(id)| Self(id))
            .map_err(|_| ApiError::BrokenPath {
                reason: "what it names is not UTF-8".to_owned(),
            })
    }
}

/// List attribution methods
#[utoipa::path(get, path = "/methods", tag = "catalogue", responses((status = 200, description = "The methods.", body = MethodList), InternalProblems))]
pub async fn list_methods() -> Json<MethodList> {
    Json(MethodList {
        methods: METHODS.iter().map(describe_method).collect(),
    })
}

/// Get one attribution method
#[utoipa::path(get, path = "/methods/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "The method's id.", example = "pgig")),
    responses((status = 200, description = "The method.", body = MethodCard), MissingProblems))]
pub async fn get_method(Id(id): Id) -> Result<Json<MethodCard>, ApiError> {
    let method = registry::find(&id).ok_or(ApiError::UnknownMethod { id })?;
    Ok(Json(describe_method(method)))
}

/// List models and folders that failed to load
#[utoipa::path(get, path = "/models", tag = "catalogue", responses((status = 200, description = "The models.", body = ModelList), InternalProblems))]
pub async fn list_models(State(api): State<Api>) -> Result<Json<ModelList>, ApiError> {
    list(&api).await
}

/// Derives what tells which methods apply, at first.
pub(super) async fn list(api: &Api) -> Result<Json<ModelList>, ApiError> {
    let registry = api.app().models();
    let list = move || {
        let models = registry.iter();
        ModelList {
            models: models.map(|model| summarise(&registry, &model)).collect(),
            broken_models: broken(&registry),
        }
    };
    let list = api.app().pool().run(list).await.map_err(AppError::from)?;
    Ok(Json(list))
}

/// Get one model
#[utoipa::path(get, path = "/models/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    responses((status = 200, description = "The model.", body = ModelCard), MissingProblems))]
pub async fn get_model(State(api): State<Api>, Id(id): Id) -> Result<Json<ModelCard>, ApiError> {
    let model = api.app().model(&id)?;
    card(&api, &model).await
}

/// Derives what can be derived, at first.
pub(super) async fn card(api: &Api, model: &Arc<Model>) -> Result<Json<ModelCard>, ApiError> {
    let (of, pool) = (model.clone(), api.app().pool());
    let examined = api.examined(model);
    let examined = examined
        .get_or_try_init(async || pool.run(move || examine(&of)).await.map_err(AppError::from))
        .await?;
    let (registry, of, examined) = (api.app().models(), model.clone(), examined.clone());
    let card = pool.run(move || describe_model(&registry, &of, examined));
    let card = card.await.map_err(AppError::from)?;
    Ok(Json(card.map_err(|error| ApiError::Internal {
        reason: error.to_string(),
    })?))
}

/// All that is known of a model of `registry`.
pub fn describe_model(
    registry: &Registry,
    model: &Model,
    examined: Examined,
) -> serde_json::Result<ModelCard> {
    let Examined {
        linear_layers,
        activations,
    } = examined;
    let facts = model_defaults(model);
    Ok(ModelCard {
        summary: summarise(registry, model),
        hash: model.hash.clone(),
        // As text, a float32 is as short as it was written; as a JSON value it would be a float64
        // with the rounding told.
        manifest: value::to_raw_value(&model.manifest)?,
        labels: model.labels.to_vec(),
        patterns: model.patterns.as_ref().map(|patterns| patterns.id.clone()),
        provenance: model.provenance.clone(),
        linear_layers,
        layers: model.layers.iter().map(SpatialCard::from).collect(),
        activations,
        methods: METHODS
            .iter()
            .map(|method| applicability(method, &facts))
            .collect(),
    })
}

/// What takes deriving a network to know.
#[derive(Clone, Default)]
pub struct Examined {
    linear_layers: Vec<LayerCard>,
    activations: Vec<ActivationCard>,
}

/// Of the graph that a model has, once.
#[derive(Default)]
pub struct Examinations(Mutex<HashMap<String, Examination>>);

struct Examination {
    graph: Weak<Graph>,
    examined: Arc<OnceCell<Examined>>,
}

impl Examinations {
    pub fn of(&self, model: &Model) -> Arc<OnceCell<Examined>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Examination {
            graph: Arc::downgrade(&model.graph),
            examined: Arc::default(),
        };
        let known = all.entry(model.id.clone()).or_insert_with(new);
        if !known.graph.ptr_eq(&Arc::downgrade(&model.graph)) {
            *known = new();
        }
        known.examined.clone()
    }
}

/// Derives what can be derived. Takes up to seconds.
pub fn examine(model: &Model) -> Examined {
    let derived = match model.rule_set_fault(RuleSetId::Gradient) {
        None => autodiff::linear_layers(&model.graph).and_then(|layers| {
            let activations = autodiff::activations(&model.graph)?;
            Ok((layers, activations))
        }),
        Some(_) => Ok(Default::default()),
    };
    let (layers, activations) = derived.unwrap_or_default();
    let layers = layers.into_iter().map(|layer| LayerCard {
        node: layer.node,
        op_type: layer.op_type,
        weight_shape: layer.weight_shape,
    });
    let activations = activations.into_iter();
    let activations = activations.map(|(name, shape)| ActivationCard { name, shape });
    Examined {
        linear_layers: layers.collect(),
        activations: activations.collect(),
    }
}

/// A method with its parameters.
pub fn describe_method(method: &'static Method) -> MethodCard {
    MethodCard {
        id: method.id.to_owned(),
        title: method.title.to_owned(),
        formula: method.formula.to_owned(),
        paper: method.paper.to_owned(),
        cost: method.cost.words.to_owned(),
        needs_patterns: method.needs_patterns(),
        parameters: method
            .parameters()
            .map(|parameter| describe_parameter(parameter, method))
            .collect(),
    }
}

fn describe_parameter(parameter: &Parameter, method: &'static Method) -> ParameterCard {
    ParameterCard {
        name: parameter.name.to_owned(),
        r#type: parameter.type_name().to_owned(),
        allowed: parameter.allowed(),
        default: method.default_of(parameter).unwrap_or(Value::Null),
        default_from_model: parameter.from_model,
        doc: parameter.doc.to_owned(),
    }
}

fn summarise(registry: &Registry, model: &Model) -> ModelSummary {
    let provenance = model.provenance.as_ref();
    ModelSummary {
        id: model.id.clone(),
        default: registry
            .default()
            .is_some_and(|default| default.id == model.id),
        shape: model.manifest.input.shape.clone(),
        takes_images: model.manifest.input.preprocess.is_some(),
        classes: model.classes(),
        has_patterns: model.patterns.is_some(),
        trained: registry.origin(&model.id) == Some(Origin::Trained),
        uploaded: registry.origin(&model.id) == Some(Origin::Uploaded),
        parent: provenance.map(|provenance| provenance.parent.clone()),
        warnings: model
            .manifest
            .assumed
            .iter()
            .chain(&model.warnings)
            .cloned()
            .chain(model.gradient_notes())
            .collect(),
        applies: applicable(&model_defaults(model))
            .map(|method| method.id.to_owned())
            .collect(),
    }
}

fn applicability(method: &Method, facts: &Facts<'_>) -> Applicability {
    let reason = obstacle(method, facts);
    Applicability {
        id: method.id.to_owned(),
        applies: reason.is_none(),
        reason,
    }
}

/// The folders that could not be loaded.
pub(super) fn broken(registry: &Registry) -> Vec<BrokenModel> {
    registry
        .broken
        .iter()
        .map(|broken| BrokenModel {
            id: broken.id.clone(),
            faults: broken.faults.clone(),
        })
        .collect()
}
