//! GET /healthz, /readyz, /metrics: what balancers and monitors ask.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    catalogue::BrokenModel,
    codes::ApiError,
    document::{InternalProblems, ReadinessProblems},
    monitor,
};
use crate::{VERSION, settings::Role, telemetry};

#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Of explaind.
    pub version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    #[schema(example = "ready")]
    pub status: &'static str,
    /// The models that are served.
    pub models: Vec<String>,
    /// Models that failed to load; the others are served nevertheless.
    pub broken_models: Vec<BrokenModel>,
    /// The execution providers in use.
    #[schema(example = json!(["cpu"]))]
    pub providers: Vec<String>,
    /// Why jobs cannot be started or run, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_unavailable: Option<String>,
}

/// Liveness probe
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "The process runs.", body = Health), InternalProblems))]
pub async fn check_liveness() -> Json<Health> {
    Json(Health {
        status: "ok",
        version: VERSION,
    })
}

/// Readiness probe
///
/// 503 while no model is loaded and during shutdown; for a worker also while the jobs' database is
/// unreachable.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "Requests are answered.", body = Readiness), ReadinessProblems))]
pub async fn check_readiness(State(api): State<Api>) -> Result<Json<Readiness>, ApiError> {
    if api.is_draining() {
        return Err(ApiError::NotReady {
            reason: "it is shutting down".into(),
        });
    }
    let registry = api.app().models();
    let models: Vec<String> = registry.iter().map(|model| model.id.clone()).collect();
    let broken_models = super::catalogue::broken(&registry);
    if models.is_empty() {
        let reason = match broken_models.len() {
            0 => "there is no model in the models folder".to_owned(),
            n => format!("none of {n} models could be loaded; GET /models says why"),
        };
        return Err(ApiError::NotReady { reason });
    }
    let providers = api
        .app()
        .engine()
        .providers()
        .iter()
        .map(ToString::to_string)
        .collect();
    let jobs_unavailable = api.jobs().check().await.err();
    match jobs_unavailable {
        Some(reason) if api.app().settings().role == Role::Worker => {
            Err(ApiError::NotReady { reason })
        }
        jobs_unavailable => Ok(Json(Readiness {
            status: "ready",
            models,
            broken_models,
            providers,
            jobs_unavailable,
        })),
    }
}

/// Metrics in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain"), InternalProblems))]
pub async fn get_metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    monitor::count_jobs(&api).await;
    // Rendering walks every sample since the last upkeep.
    let rendered = tokio::task::spawn_blocking(telemetry::render)
        .await
        .map_err(|_| ApiError::Panicked)?;
    let text = rendered.map_err(|error| ApiError::Internal {
        reason: error.to_string(),
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
