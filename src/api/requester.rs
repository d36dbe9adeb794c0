//! Who asks: a deadline, a place among the requests worked on once the body is there, and a token
//! that is cancelled when the caller goes away. hyper drops a handler whose connection closes, the
//! handler drops this, and the engine stops.

use std::time::Instant;

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, request::Parts},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use super::{Api, codes::ApiError, intake::Share};
use crate::{
    app::AppError,
    engine::{Caller, Priority},
    faults::{Fault, Faults},
};

pub const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

#[derive(Debug)]
pub struct Requester {
    pub caller: Caller,
    timeout: std::time::Duration,
    deadline: Instant,
    _gone: DropGuard,
}

/// A place among the requests that are worked on, and the memory of its body.
#[derive(Debug)]
pub struct Place {
    _worked_on: OwnedSemaphorePermit,
    _body: Share,
}

impl Requester {
    /// `work`, ended at the deadline.
    pub async fn finish<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        tokio::time::timeout_at(self.deadline.into(), work)
            .await
            .unwrap_or(Err(ApiError::DeadlineExceeded {
                timeout_ms: self.timeout.as_millis(),
            }))
    }
}

impl Place {
    /// Taken when the body is there: slow senders hold none.
    pub fn take(api: &Api, body: Share) -> Result<Self, ApiError> {
        Ok(Self {
            _worked_on: api.enter()?,
            _body: body,
        })
    }
}

impl FromRequestParts<Api> for Requester {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        api.refuse_when_draining()?;
        let timeout = match parts.headers.get(&TIMEOUT_HEADER) {
            None => api.app().settings().request_timeout,
            Some(value) => {
                let wanted = value
                    .to_str()
                    .ok()
                    .and_then(|text| text.trim().parse::<u64>().ok())
                    .filter(|ms| *ms > 0);
                let wanted = wanted.ok_or_else(|| {
                    let message = "is not a whole number of milliseconds";
                    AppError::from(Faults::from(Fault::new(
                        TIMEOUT_HEADER.as_str(),
                        message,
                        ["from 1 on"],
                    )))
                })?;
                api.app()
                    .settings()
                    .request_timeout
                    .min(std::time::Duration::from_millis(wanted))
            }
        };
        let deadline = Instant::now() + timeout;
        let caller = Caller::new(Priority::Interactive, Some(deadline));
        let gone = caller.cancel.clone().drop_guard();
        Ok(Self {
            caller,
            timeout,
            deadline,
            _gone: gone,
        })
    }
}
