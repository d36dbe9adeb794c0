//! Receives bodies in pieces, while the client keeps sending, and within a memory limit for all
//! bodies together.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{BodyDataStream, Bytes},
    extract::Request,
    http::header,
};
use bytes::BytesMut;
use futures::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{Api, codes::ApiError};
use crate::settings::Settings;

/// The unit of the memory limit.
const KIB: usize = 1 << 10;

/// The time limit of a body. Only time counts in which the client has to send.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For the next piece, and for the time that the rate does not allow.
    idle: Duration,
    bytes_per_second: u64,
}

impl Patience {
    fn of(settings: &Settings) -> Self {
        Self {
            idle: settings.body_idle_timeout,
            bytes_per_second: settings.min_body_rate,
        }
    }

    /// Time left for the next piece, after `received` bytes and `waited` time.
    fn left(&self, waited: Duration, received: u64) -> Duration {
        let whole =
            self.idle + Duration::from_secs_f64(received as f64 / self.bytes_per_second as f64);
        whole.saturating_sub(waited).min(self.idle)
    }
}

/// A body that is being received.
pub(super) struct Intake {
    stream: BodyDataStream,
    patience: Patience,
    waited: Duration,
    received: u64,
    limit: u64,
}

impl Intake {
    /// At most `limit` bytes. A longer `content-length` is refused at once.
    pub(super) fn new(request: Request, api: &Api, limit: u64) -> Result<Self, ApiError> {
        // One unsupported encoding is enough to refuse.
        let encodings = request
            .headers()
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .map(|found| found.to_str().unwrap_or("?"));
        if let Some(found) = encodings
            .into_iter()
            .find(|found| !found.trim().eq_ignore_ascii_case("identity"))
        {
            return Err(ApiError::ContentEncoding {
                found: found.to_owned(),
            });
        }
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok());
        if announced
            .and_then(|length| length.parse::<u64>().ok())
            .is_some_and(|length| length > limit)
        {
            return Err(ApiError::BodyTooLarge {
                limit: limit as usize,
            });
        }
        Ok(Self {
            stream: request.into_body().into_data_stream(),
            patience: Patience::of(api.app().settings()),
            waited: Duration::ZERO,
            received: 0,
            limit,
        })
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let started = Instant::now();
        let left = self.patience.left(self.waited, self.received);
        let piece = timeout(left, self.stream.next())
            .await
            .map_err(|_| ApiError::BodyTimeout {
                received: self.received,
                idle_ms: self.patience.idle.as_millis(),
                bytes_per_second: self.patience.bytes_per_second,
            })?;
        self.waited += started.elapsed();
        let piece = piece.transpose().map_err(|error| ApiError::BrokenBody {
            reason: error.to_string(),
        })?;
        self.received += piece.as_ref().map_or(0, Bytes::len) as u64;
        if self.received > self.limit {
            return Err(ApiError::BodyTooLarge {
                limit: self.limit as usize,
            });
        }
        Ok(piece)
    }
}

/// The memory limit of all bodies together.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    kib: Arc<Semaphore>,
    mib: u64,
}

/// A body's share of the memory, until it is dropped.
#[derive(Debug, Default)]
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(mib: u64) -> Self {
        let kib = (mib as usize)
            .saturating_mul(KIB)
            .min(Semaphore::MAX_PERMITS);
        Self {
            kib: Arc::new(Semaphore::new(kib)),
            mib,
        }
    }

    /// Enlarges the share to `bytes`; fails if the memory is used up.
    fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), ApiError> {
        let held = share
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(KIB).saturating_sub(held);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let more = self
            .kib
            .clone()
            .try_acquire_many_owned(more)
            .map_err(|_| ApiError::BodiesTakeAllMemory { mib: self.mib })?;
        match &mut share.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// A whole body of at most `limit` bytes, and its share of the memory.
pub(super) async fn read(
    request: Request,
    api: &Api,
    limit: usize,
) -> Result<(Bytes, Share), ApiError> {
    let mut intake = Intake::new(request, api, limit as u64)?;
    let (mut bytes, mut share) = (BytesMut::new(), Share::default());
    while let Some(piece) = intake.next().await? {
        api.memory.grow(&mut share, bytes.len() + piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes.freeze(), share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn patience_is_for_the_next_piece_and_for_the_rate_of_all() {
        let patience = Patience {
            idle: 15 * SECOND,
            bytes_per_second: 1000,
        };
        assert_eq!(patience.left(Duration::ZERO, 0), 15 * SECOND);
        assert_eq!(patience.left(10 * SECOND, 0), 5 * SECOND);
        assert_eq!(patience.left(10 * SECOND, 10), Duration::from_millis(5010));
        assert_eq!(patience.left(3600 * SECOND, 3_600_000), 15 * SECOND);
        assert_eq!(patience.left(3600 * SECOND, 1_000_000), Duration::ZERO);
    }

    #[test]
    fn shares_of_the_memory_grow_and_come_back() {
        let memory = Memory::new(1);
        let (mut one, mut other) = (Share::default(), Share::default());
        memory.grow(&mut one, 1).unwrap();
        memory.grow(&mut one, 1024).unwrap();
        assert_eq!(memory.kib.available_permits(), 1023);
        memory.grow(&mut one, 1 << 19).unwrap();
        assert!(matches!(
            memory.grow(&mut other, (1 << 19) + 1),
            Err(ApiError::BodiesTakeAllMemory { mib: 1 })
        ));
        drop(one);
        memory.grow(&mut other, 1 << 20).unwrap();
        assert_eq!(memory.kib.available_permits(), 0);
    }
}
