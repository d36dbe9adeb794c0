//! Points at which tests end the process, to see that nothing is lost or counted twice. Release
//! builds have no trace of them.

/// Which point, and at which passage: `runner::leased=2`.
#[cfg(debug_assertions)]
const CRASH_AT: &str = "CRASH_AT";

/// Ends the process where the environment names this point.
#[cfg(debug_assertions)]
pub(crate) fn pass(point: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    static NAMED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var(CRASH_AT).ok()?;
        let (point, passage) = text.rsplit_once('=')?;
        Some((point.to_owned(), passage.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some((named, passage)) = &*NAMED
        && named == point
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passage
    {
        std::process::abort();
    }
}

/// A crash point of this name.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::jobs::crash::pass($name);
    };
}

pub(crate) use crash_point;
