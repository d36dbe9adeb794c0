//! The only room that knows HTTP: routes, extractors, problem+json, OpenAPI.

mod access;
pub mod body;
pub mod catalogue;
pub mod codes;
pub mod compare;
mod connections;
mod contents;
pub mod cost;
mod dashboard;
pub mod dataset_images;
pub mod datasets;
mod docs;
pub mod document;
pub mod events;
pub mod explain;
mod fields;
pub mod health;
mod intake;
pub mod job_kinds;
pub mod jobs;
mod json_body;
mod listener;
pub mod metrics_catalogue;
pub mod models;
mod monitor;
pub mod negotiate;
pub mod predict;
pub mod problem;
pub mod protocols;
mod reply;
pub mod requester;
pub mod server;
mod shield;
pub mod supports;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, Any as AnyOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, AppError},
    driver::DriverError,
    engine::EngineError,
    jobs::{queue::Queue, registry::KINDS},
    model::Model,
    settings::{Role, Settings},
    telemetry::{self, TelemetryError},
};
use catalogue::{Examinations, Examined};
use codes::ApiError;
use intake::Memory;
use shield::Shield;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Explanations and predictions worked on at once, with their bodies read; more are answered 429.
const MAX_REQUESTS: usize = 128;

/// Data sets uploaded at once.
const MAX_UPLOADS: usize = 16;

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    app: App,
    jobs: Queue,
    door: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    memory: Memory,
    draining: CancellationToken,
    examinations: Arc<Examinations>,
}

impl Api {
    /// With every kind of job.
    pub fn new(app: App) -> Result<Self, TelemetryError> {
        Self::with_jobs(Queue::new(app, KINDS))
    }

    /// With the app that this queue works for.
    pub fn with_jobs(jobs: Queue) -> Result<Self, TelemetryError> {
        telemetry::prometheus()?;
        let app = jobs.app().clone();
        let api = Self {
            door: Arc::new(Semaphore::new(MAX_REQUESTS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            memory: Memory::new(app.settings().body_memory_mib),
            draining: CancellationToken::new(),
            examinations: Arc::default(),
            app,
            jobs,
        };
        monitor::start_at_zero(&api);
        Ok(api)
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    fn examined(&self, model: &Model) -> Arc<OnceCell<Examined>> {
        self.examinations.of(model)
    }

    pub fn jobs(&self) -> &Queue {
        &self.jobs
    }

    /// A place among the requests that are worked on, until it is dropped. None is given once the
    /// end has begun.
    fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.refuse_when_draining()?;
        self.door
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::Busy {
                limit: MAX_REQUESTS,
            })
    }

    /// A place among the uploads, until it is dropped. None is given once the end has begun.
    fn enter_upload(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.refuse_when_draining()?;
        self.uploads
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::TooManyUploads { limit: MAX_UPLOADS })
    }

    /// From now on `/readyz` says no, so that a balancer sends no more, and new work is refused.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when the end begins.
    async fn drained(&self) {
        self.draining.cancelled().await;
    }

    fn refuse_when_draining(&self) -> Result<(), ApiError> {
        if self.is_draining() {
            Err(AppError::from(DriverError::from(EngineError::Draining)).into())
        } else {
            Ok(())
        }
    }
}

/// Every route that the contract knows. A route is a handler and a row.
fn routes_of_contract() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(explain::explain))
        .routes(routes!(compare::compare))
        .routes(routes!(predict::predict))
        .routes(routes!(cost::tell_cost))
        .routes(routes!(catalogue::list_methods))
        .routes(routes!(catalogue::get_method))
        .routes(routes!(metrics_catalogue::list_metrics))
        .routes(routes!(metrics_catalogue::get_metric))
        .routes(routes!(catalogue::list_models))
        .routes(routes!(
            catalogue::get_model,
            models::put_model,
            models::delete_model
        ))
        .routes(routes!(models::list_versions))
        .routes(routes!(models::roll_back_model))
        .routes(routes!(models::reload_models))
        .routes(routes!(models::get_model_archive))
        .routes(routes!(supports::list_supports))
        .routes(routes!(
            supports::get_supports,
            supports::put_supports,
            supports::delete_supports
        ))
        .routes(routes!(job_kinds::list_job_kinds))
        .routes(routes!(jobs::list_jobs, jobs::start_job))
        .routes(routes!(jobs::get_job, jobs::delete_job))
        .routes(routes!(jobs::get_job_report))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(events::follow_job))
        .routes(routes!(datasets::list_datasets))
        .routes(routes!(
            datasets::get_dataset,
            datasets::put_dataset,
            datasets::delete_dataset
        ))
        .merge(protocols::routes())
        .routes(routes!(dataset_images::list_images))
        .routes(routes!(dataset_images::get_image))
        .merge(routes_of_health())
}

/// What a process that only works on jobs answers.
fn routes_of_health() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(health::check_liveness))
        .routes(routes!(health::check_readiness))
        .routes(routes!(health::get_metrics))
}

/// All routes with what surrounds them: request id -> log and metrics -> catch-panic -> cors ->
/// foreign pages.
pub fn router(api: Api) -> Router {
    let settings = api.app().settings();
    let (contract, page) = match settings.role {
        Role::All | Role::Api => (routes_of_contract(), dashboard::routes()),
        Role::Worker => (routes_of_health(), Router::new()),
    };
    let (contract, document) = document::split(contract);
    let document = Arc::new(document);
    let around = ServiceBuilder::new()
        .layer(MapRequestLayer::new(shield::clean_request_id))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(middleware::from_fn(access::observe))
        .layer(CatchPanicLayer::custom(answer_panic))
        .option_layer(cors(settings))
        .layer(middleware::from_fn_with_state(
            Shield::of(settings),
            shield::guard,
        ));
    contract
        .route(
            "/openapi.json",
            get(move || async move { axum::Json(document.as_ref().clone()) }),
        )
        .merge(docs::routes())
        .merge(page)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(around)
        .with_state(api)
}

async fn no_such_route(uri: Uri) -> ApiError {
    ApiError::NoSuchRoute {
        path: uri.path().to_owned(),
    }
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}

fn answer_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(
        panic = text.unwrap_or("of unknown type"),
        "a handler panicked"
    );
    ApiError::Panicked.into_response()
}

/// Off unless the settings name origins.
fn cors(settings: &Settings) -> Option<CorsLayer> {
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return None;
    }
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        ),
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([
                header::CONTENT_TYPE,
                header::ACCEPT,
                REQUEST_ID,
                access::TRACEPARENT,
                requester::TIMEOUT_HEADER,
            ])
            .expose_headers(AnyOrigin),
    )
}
