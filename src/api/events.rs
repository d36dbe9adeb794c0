//! GET /jobs/{id}/events: what happens to a job, as server-sent events. `id` counts from 1 without
//! gaps; a reader that comes back with `Last-Event-ID` goes on where it was. The stream ends with
//! the job, and when the server drains.

use std::convert::Infallible;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, stream};
use serde_json::json;

use super::{Api, catalogue::Id, codes::ApiError, document::EventsProblems, jobs::Time};
use crate::{
    app::AppError,
    faults::{Fault, Faults},
    jobs::store::Event,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follow a job (server-sent events)
///
/// The events are `state`, `progress` and `shard` (a part of the job that failed). The stream ends
/// when the job does.
#[utoipa::path(get, path = "/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The job's id."), ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event received: the stream continues after it.")),
    responses((status = 200, description = "Server-sent events.", body = String, content_type = "text/event-stream"), EventsProblems))]
pub async fn follow_job(
    State(api): State<Api>,
    Id(job): Id,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let last = match headers.get(&LAST_EVENT_ID) {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| {
                let fault = Fault::new(
                    LAST_EVENT_ID.as_str(),
                    "is not the id of an event",
                    ["a whole number"],
                );
                AppError::from(Faults::from(fault))
            })?,
    };
    let follower = api.jobs().follow(&job, last).await?;
    let events = stream::unfold((api, follower), |(api, mut follower)| async {
        let event = tokio::select! {
            biased;
            () = api.drained() => None,
            event = follower.next() => event,
        };
        Some((Ok(write(&event?)), (api, follower)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn write(event: &Event) -> sse::Event {
    let mut data = json!({ "at": Time(event.at).to_string() });
    if let (Some(fields), Some(payload)) = (data.as_object_mut(), event.payload.as_object()) {
        fields.extend(payload.clone());
    }
    sse::Event::default()
        .id(event.seq.to_string())
        .event(&event.kind)
        .data(data.to_string())
}
