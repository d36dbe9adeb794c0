//! How many decoded pixels requests hold at once: a small file can be a large picture, and bodies
//! are counted encoded.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which pixels are counted.
const KIB: u64 = 1 << 10;
/// Pixels of all pictures that wait decoded for what is drawn on them (48 MB).
const KEPT: u64 = 16 << 20;

/// Room for pixels, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) struct Pixels {
    worked_on: Arc<Semaphore>,
    most: u32,
    kept: Arc<Semaphore>,
}

fn kibi(pixels: u64) -> u32 {
    u32::try_from(pixels.div_ceil(KIB)).unwrap_or(u32::MAX)
}

impl Pixels {
    /// What is decoded or drawn at once has together no more pixels than the largest picture may
    /// have.
    pub(super) fn new(max_pixels: u64) -> Self {
        let semaphore = |pixels| Arc::new(Semaphore::new(kibi(pixels) as usize));
        Self {
            worked_on: semaphore(max_pixels),
            most: kibi(max_pixels),
            kept: semaphore(KEPT),
        }
    }

    /// Waits in turn for the room in which a picture is worked on.
    pub(super) async fn room(&self, pixels: u64) -> Room {
        let permit = self
            .worked_on
            .clone()
            .acquire_many_owned(kibi(pixels).min(self.most))
            .await;
        // The semaphore is never closed.
        Room {
            _permit: permit.ok(),
        }
    }

    /// Room in which a picture waits decoded, if there is any left.
    pub(super) fn keep(&self, pixels: u64) -> Option<Room> {
        let permit = self
            .kept
            .clone()
            .try_acquire_many_owned(kibi(pixels))
            .ok()?;
        Some(Room {
            _permit: Some(permit),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn pictures_are_worked_on_together_up_to_the_size_of_the_largest() {
        let pixels = Pixels::new(1 << 20);
        let (first, second) = (pixels.room(1 << 19).await, pixels.room(1 << 19).await);
        assert!(pixels.room(1).now_or_never().is_none());
        drop(first);
        assert!(pixels.room(1).now_or_never().is_some());
        drop(second);
        // One beyond the limit is refused elsewhere, and must not wait for ever here.
        assert!(pixels.room(1 << 30).now_or_never().is_some());
    }

    #[test]
    fn pictures_are_kept_decoded_while_there_is_room() {
        let pixels = Pixels::new(1);
        let kept: Vec<Room> = (0..8).map_while(|_| pixels.keep(2 << 20)).collect();
        assert_eq!((kept.len(), pixels.keep(1).is_none()), (8, true));
        drop(kept);
        assert!(pixels.keep(KEPT).is_some());
    }
}
