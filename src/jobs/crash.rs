//! Points at which tests end the process or freeze it, to see that nothing is lost or counted twice.
//! Release builds have no trace of them.

#[cfg(debug_assertions)]
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// A passage of a point that an environment variable names: `runner::leased=2` is the second.
#[cfg(debug_assertions)]
struct Passage {
    point: String,
    number: u64,
    passed: AtomicU64,
}

#[cfg(debug_assertions)]
impl Passage {
    fn named_by(variable: &str) -> Option<Self> {
        let text = std::env::var(variable).ok()?;
        let (point, number) = text.rsplit_once('=')?;
        Some(Self {
            point: point.to_owned(),
            number: number.parse().ok()?,
            passed: AtomicU64::new(0),
        })
    }

    fn is_now(&self, point: &str) -> bool {
        self.point == point && self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.number
    }
}

/// Ends the process, or stops it until it is told to continue, where the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn pass(point: &str) {
    static CRASH: LazyLock<Option<Passage>> = LazyLock::new(|| Passage::named_by("CRASH_AT"));
    static FREEZE: LazyLock<Option<Passage>> = LazyLock::new(|| Passage::named_by("FREEZE_AT"));
    let is_now = |passage: &Option<Passage>| passage.as_ref().is_some_and(|one| one.is_now(point));
    if is_now(&CRASH) {
        std::process::abort();
    }
    if is_now(&FREEZE) {
        // Safe: it takes a number.
        unsafe { libc::raise(libc::SIGSTOP) };
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
