//! Admission control as a plain struct; callers pass the time. The queue serves the caller with the
//! least remaining work first and graphs in turns, so a request with r seconds of work ends at the
//! latest after the sum of min(r, w) over the remaining work w of all admitted requests. A request
//! is admitted if that is before its deadline and no admitted request is delayed past its own. The
//! time of a row is measured for each class of request.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Safety factor on estimates, for decoding, rendering and batches of jobs.
const MARGIN: f64 = 1.25;
/// Weight of the newest batch in the exponential moving average of the time of a row.
const WEIGHT: f64 = 0.2;
/// Batches before a measured time is used: the first runs of a session are slower.
const BATCHES: usize = 3;
/// The most classes of requests whose times are kept.
const MAX_CLASSES: usize = 1024;
/// The longest `Retry-After`.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// A class of requests whose rows take about the same time: model and method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestClass {
    pub model: String,
    pub method: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Admission {
    rates: HashMap<RequestClass, Rate>,
    /// Admitted requests by caller.
    admitted: HashMap<u64, Admitted>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    seconds_per_row: f64,
    batches: usize,
}

#[derive(Debug)]
struct Admitted {
    class: RequestClass,
    rows: usize,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Admitted,
    /// The time of a row is not known yet, and another request of the class is measuring it.
    Unknown,
    Refused {
        /// The estimated time until it would be done.
        needed: Duration,
        /// The estimated time until it would be admitted.
        retry_after: Duration,
    },
}

/// Seconds of work, and seconds until the deadline.
type Load = (f64, f64);

impl Admission {
    /// Admits a caller with `rows` to evaluate, or refuses it.
    pub(super) fn ask(
        &mut self,
        caller: u64,
        class: &RequestClass,
        rows: usize,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Verdict {
        let request = Admitted {
            class: class.clone(),
            rows,
            deadline,
        };
        if !self.admitted.is_empty() {
            match self.rates.get(class).filter(|rate| rate.batches >= BATCHES) {
                None if self.admitted.values().any(|other| other.class == *class) => {
                    return Verdict::Unknown;
                }
                None => {}
                Some(_) => {
                    let others: Vec<Load> = self
                        .admitted
                        .values()
                        .map(|other| self.load(other, now))
                        .collect();
                    let own = self.load(&request, now);
                    if !fits(&others, own) {
                        let needed = end(&others, own.0) + MARGIN * own.0;
                        let seconds = |seconds| {
                            Duration::from_secs_f64(f64::min(seconds, MAX_WAIT.as_secs_f64()))
                        };
                        return Verdict::Refused {
                            needed: seconds(needed),
                            retry_after: seconds(wait(&others, own)),
                        };
                    }
                }
            }
        }
        self.admitted.insert(caller, request);
        Verdict::Admitted
    }

    fn load(&self, request: &Admitted, now: Instant) -> Load {
        let rate = self
            .rates
            .get(&request.class)
            .map_or(0.0, |rate| rate.seconds_per_row);
        let left = request.deadline.map_or(f64::INFINITY, |end| {
            end.saturating_duration_since(now).as_secs_f64()
        });
        (request.rows as f64 * rate, left)
    }

    /// The caller's remaining rows; 0 for a caller that was not admitted.
    pub(super) fn rows_left(&self, caller: u64) -> usize {
        self.admitted.get(&caller).map_or(0, |request| request.rows)
    }

    /// Records that a row of the caller was evaluated.
    pub(super) fn done(&mut self, caller: u64) {
        if let Some(request) = self.admitted.get_mut(&caller) {
            request.rows = request.rows.saturating_sub(1);
        }
    }

    /// Records the time per row of a batch with rows of the caller: wall time divided by the rows
    /// that all devices evaluated meanwhile.
    pub(super) fn measure(&mut self, caller: u64, seconds_per_row: f64) {
        let Some(Admitted { class, .. }) = self.admitted.get(&caller) else {
            return;
        };
        if let Some(rate) = self.rates.get_mut(class) {
            rate.seconds_per_row += WEIGHT * (seconds_per_row - rate.seconds_per_row);
            rate.batches += 1;
        } else if self.rates.len() < MAX_CLASSES {
            self.rates.insert(
                class.clone(),
                Rate {
                    seconds_per_row,
                    batches: 1,
                },
            );
        }
    }

    /// Forgets a caller that is answered or gone.
    pub(super) fn release(&mut self, caller: u64) {
        self.admitted.remove(&caller);
    }
}

/// The time until `own` seconds of work end at the latest, if all `loads` (`own` among them) are
/// served.
fn end(loads: &[Load], own: f64) -> f64 {
    MARGIN * loads.iter().map(|(work, _)| work.min(own)).sum::<f64>()
}

/// Whether `own` meets its deadline and delays no other load past its deadline.
fn fits(others: &[Load], own: Load) -> bool {
    let all: Vec<Load> = others.iter().copied().chain([own]).collect();
    let in_time = |loads: &[Load], (work, left): Load| end(loads, work) <= left;
    in_time(&all, own)
        && others
            .iter()
            .all(|other| in_time(&all, *other) || !in_time(others, *other))
}

/// Seconds until `own` would be admitted if no other request arrives: until enough of the other
/// loads are done.
fn wait(others: &[Load], own: Load) -> f64 {
    let mut by_work = others.to_vec();
    by_work.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let waits = by_work.iter().map(|(done, _)| {
        let passed = end(others, *done);
        let rest: Vec<Load> = by_work
            .iter()
            .filter(|(work, _)| work > done)
            .map(|(work, left)| (work - done, left - passed))
            .collect();
        (passed, rest)
    });
    waits
        .into_iter()
        .find(|(_, rest)| rest.is_empty() || fits(rest, own))
        .map_or(0.0, |(passed, _)| passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn class(method: &'static str) -> RequestClass {
        RequestClass {
            model: "m".into(),
            method,
        }
    }

    /// Where a row of `gradient` takes a tenth of a second.
    fn measured() -> Admission {
        let mut admission = Admission::default();
        assert_eq!(
            admission.ask(0, &class("gradient"), 1, None, Instant::now()),
            Verdict::Admitted
        );
        (0..BATCHES).for_each(|_| admission.measure(0, 0.1));
        admission.release(0);
        admission
    }

    #[test]
    fn as_many_are_admitted_as_can_be_done_in_time() {
        let (mut admission, now) = (measured(), Instant::now());
        // Each takes 20 s: 8 of them 160 s, with the margin 200 s.
        let ask = |admission: &mut Admission, caller, now| {
            admission.ask(
                caller,
                &class("gradient"),
                200,
                Some(now + 201 * SECOND),
                now,
            )
        };
        let verdicts: Vec<Verdict> = (1..=32)
            .map(|caller| ask(&mut admission, caller, now))
            .collect();
        assert!(
            verdicts[..8]
                .iter()
                .all(|verdict| *verdict == Verdict::Admitted)
        );
        for verdict in &verdicts[8..] {
            let Verdict::Refused {
                needed,
                retry_after,
            } = *verdict
            else {
                panic!("{verdict:?}")
            };
            assert_eq!((needed.as_secs(), retry_after.as_secs()), (225, 200));
        }
        // All rows but one of each caller are evaluated.
        for caller in 1..=8 {
            (0..199).for_each(|_| admission.done(caller));
        }
        assert_eq!(
            ask(&mut admission, 40, now + 160 * SECOND),
            Verdict::Admitted
        );
    }

    #[test]
    fn what_is_left_after_an_answer_counts_no_longer() {
        let (mut admission, now) = (measured(), Instant::now());
        let ask = |admission: &mut Admission, caller| {
            admission.ask(
                caller,
                &class("gradient"),
                100,
                Some(now + 15 * SECOND),
                now,
            ) == Verdict::Admitted
        };
        assert!(ask(&mut admission, 1) && !ask(&mut admission, 2));
        admission.release(1);
        assert!(ask(&mut admission, 3));
    }

    #[test]
    fn the_first_is_admitted_whatever_its_deadline() {
        let (mut admission, now) = (measured(), Instant::now());
        assert_eq!(
            admission.ask(1, &class("gradient"), 1000, Some(now + SECOND), now),
            Verdict::Admitted
        );
        // A load that misses its own deadline anyway is no reason to refuse another.
        assert_eq!(
            admission.ask(2, &class("gradient"), 1, Some(now + SECOND), now),
            Verdict::Admitted
        );
    }

    #[test]
    fn a_newcomer_with_time_does_not_push_another_past_its_deadline() {
        let (mut admission, now) = (measured(), Instant::now());
        assert_eq!(
            admission.ask(1, &class("gradient"), 100, Some(now + 13 * SECOND), now),
            Verdict::Admitted
        );
        let patient = admission.ask(2, &class("gradient"), 100, Some(now + 3600 * SECOND), now);
        assert_eq!(
            patient,
            Verdict::Refused {
                needed: 25 * SECOND,
                retry_after: Duration::from_millis(12_500)
            }
        );
        assert_eq!(
            admission.ask(3, &class("gradient"), 2, None, now),
            Verdict::Admitted
        );
    }

    #[test]
    fn an_unknown_kind_is_found_out_by_one_request_while_the_others_wait() {
        let (mut admission, now) = (measured(), Instant::now());
        assert_eq!(
            admission.ask(1, &class("gradient"), 1, None, now),
            Verdict::Admitted
        );
        assert_eq!(
            admission.ask(2, &class("predict"), 1, None, now),
            Verdict::Admitted
        );
        assert_eq!(
            admission.ask(3, &class("predict"), 1, None, now),
            Verdict::Unknown
        );
        (0..BATCHES).for_each(|_| admission.measure(2, 0.1));
        assert_eq!(
            admission.ask(3, &class("predict"), 1, None, now),
            Verdict::Admitted
        );
    }

    #[test]
    fn measured_times_are_smoothed_over_batches() {
        let mut admission = measured();
        admission.ask(1, &class("gradient"), 1, None, Instant::now());
        admission.measure(1, 0.6);
        assert!((admission.rates[&class("gradient")].seconds_per_row - 0.2).abs() < 1e-9);
    }
}
