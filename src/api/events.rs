//! GET /jobs/{id}/events: what happens to a job, as server-sent events. `id` counts from 1 without gaps; a reader that comes back with
//! `Last-Event-ID` goes on where it was. The stream ends with the job, and when the server drains.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, stream};
use serde_json::json;

use super::{Api, catalogue::Id, codes::ApiError, document::JobProblems};
use crate::{
    app::AppError,
    jobs::store::Event,
    methods::{Fault, Faults},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How often other replicas' events are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Events read at once.
const PAGE: u64 = 500;

/// A stream that reads on.
struct Reader {
    api: Api,
    job: String,
    last: u64,
    read: VecDeque<Event>,
}

/// What happens to a job, as it happens
///
/// Events are `state`, `progress` and `shard` (one that failed). The stream ends with the job.
#[utoipa::path(get, path = "/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path), ("Last-Event-ID" = Option<u64>, Header, description = "the last event that was read")),
    responses((status = 200, description = "Server-sent events.", body = String, content_type = "text/event-stream"), JobProblems))]
pub async fn events(
    State(api): State<Api>,
    Id(job): Id,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let last = match headers.get(&LAST_EVENT_ID) {
        None => 0,
        Some(value) => value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
            let fault = Fault::new(LAST_EVENT_ID.as_str(), "is not the id of an event", ["a whole number"]);
            AppError::from(Faults::from(fault))
        })?,
    };
    api.jobs().job(&job).await?;
    let reader = Reader { api, job, last, read: VecDeque::new() };
    let events = stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(write(&event)), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl Reader {
    /// The next event; none at the end of the job, of the server, or of the database.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.last = event.seq;
                return Some(event);
            }
            if self.api.is_draining() {
                return None;
            }
            // Looked at before the events: what ends a job is among them.
            let ended = self.api.jobs().job(&self.job).await.ok()?.state.is_final();
            self.read.extend(self.api.jobs().events(&self.job, self.last, PAGE).await.ok()?);
            if self.read.is_empty() {
                if ended {
                    return None;
                }
                tokio::select! {
                    () = self.api.jobs().wait_for_change(LOOK) => {}
                    () = self.api.drained() => {}
                }
            }
        }
    }
}

fn write(event: &Event) -> sse::Event {
    let mut data = json!({ "at_ms": event.at });
    if let (Some(fields), Some(payload)) = (data.as_object_mut(), event.payload.as_object()) {
        fields.extend(payload.clone());
    }
    sse::Event::default().id(event.seq.to_string()).event(&event.kind).data(data.to_string())
}
