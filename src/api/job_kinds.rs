//! GET /job-kinds: what POST /jobs can start, for forms.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, document::InternalProblems};
use crate::jobs::{Format, Kind};

#[derive(Debug, Serialize, ToSchema)]
pub struct JobKindList {
    pub kinds: Vec<JobKindCard>,
}

/// A kind of job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobKindCard {
    #[schema(example = "degradation")]
    pub id: String,
    /// What it does.
    pub doc: String,
    pub parameters: Vec<JobParameterCard>,
    /// The formats of its report, the default first.
    pub formats: Vec<Format>,
}

/// A parameter of a kind of job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobParameterCard {
    #[schema(example = "limit")]
    pub name: String,
    /// What it is, and its default.
    pub doc: String,
}

/// List the kinds of jobs
#[utoipa::path(get, path = "/job-kinds", tag = "jobs", responses((status = 200, description = "The kinds.", body = JobKindList), InternalProblems))]
pub async fn list_job_kinds(State(api): State<Api>) -> Json<JobKindList> {
    let kinds = api.jobs().kinds().iter();
    Json(JobKindList {
        kinds: kinds.map(|kind| describe(*kind)).collect(),
    })
}

fn describe(kind: &dyn Kind) -> JobKindCard {
    let parameters = kind.parameters().iter();
    JobKindCard {
        id: kind.id().to_owned(),
        doc: kind.doc().to_owned(),
        parameters: parameters
            .map(|(name, doc)| JobParameterCard {
                name: (*name).to_owned(),
                doc: (*doc).to_owned(),
            })
            .collect(),
        formats: kind.formats().to_vec(),
    }
}
