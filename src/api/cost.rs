//! POST /cost: what a request to explain would cost, and every parameter that it would have, without
//! an input.

use axum::{
    Json,
    extract::{Request, State},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api, body::Pairs, codes::ApiError, datasets::only, document::CostProblems, fields, intake,
};
use crate::{
    app::{
        AppError,
        compare::{Comparison, Way},
        plan::RequestContext,
    },
    driver,
    render::options::HeatmapOptions,
};

/// The largest request, in bytes.
const MAX_BODY: usize = 1 << 20;

/// What a comparison would cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct CostCard {
    #[schema(example = "squeezenet1_1")]
    pub model: String,
    /// Evaluations of the model (one forward and backward pass of one input). Where methods share some, the answer states fewer.
    pub evaluations: usize,
    /// The most that one request may cost: what costs more is a job.
    pub max_interactive_evaluations: usize,
    /// In the order of the request.
    pub methods: Vec<MethodCost>,
}

/// What one method would cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct MethodCost {
    #[schema(example = "integrated_gradients")]
    pub id: String,
    /// Of this method alone.
    pub evaluations: usize,
    /// All parameters, resolved.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// The options of its picture, those that were not given as its maps suit them.
    #[schema(value_type = Object)]
    pub picture: HeatmapOptions,
}

/// What a method, or its parameters, in one request: as POST /compare names them.
#[derive(ToSchema)]
#[schema(example = json!({ "model": "squeezenet1_1", "methods": ["gradient", { "id": "integrated_gradients", "n_steps": 50 }] }))]
pub struct CostRequest {
    /// Ids, or objects with an `id` and parameters of that method.
    #[schema(value_type = Vec<Object>)]
    pub methods: Vec<Value>,
}

/// Tell the cost of a comparison, before its input is sent
///
/// The body is that of POST /compare without the image. Refused parameters are told as there, so a form can be checked while it is filled in.
#[utoipa::path(post, path = "/cost", tag = "explain", request_body = CostRequest,
    responses((status = 200, description = "The cost.", body = CostCard), CostProblems))]
pub async fn tell_cost(
    State(api): State<Api>,
    Pairs(query): Pairs,
    request: Request,
) -> Result<Json<CostCard>, ApiError> {
    only(&query, &[])?;
    let (bytes, _share) = intake::read(request, &api, MAX_BODY).await?;
    let app = api.app().clone();
    let tell = move || {
        let plan = app.plan_comparison(fields::read(&bytes)?, &RequestContext::default())?;
        Ok(card(&plan, app.settings().max_interactive_evaluations))
    };
    let told: Result<CostCard, ApiError> =
        api.app().pool().run(tell).await.map_err(AppError::from)?;
    Ok(Json(told?))
}

fn card(plan: &Comparison, max_interactive_evaluations: usize) -> CostCard {
    let cost_of =
        |ways: &[Way]| driver::cost(&plan.model, ways.iter().map(|way| &way.parameters)).0;
    let method = |way: &Way| MethodCost {
        id: way.parameters.method.id.to_owned(),
        evaluations: cost_of(std::slice::from_ref(way)),
        parameters: way.parameters.to_json(),
        picture: way.heatmap.clone(),
    };
    CostCard {
        model: plan.model.id.clone(),
        evaluations: cost_of(&plan.ways),
        max_interactive_evaluations,
        methods: plan.ways.iter().map(method).collect(),
    }
}
