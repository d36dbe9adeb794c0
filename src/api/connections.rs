//! Who is connected, and what each connection waits for: how long a client may take, and who has to
//! leave when there is no more room. Plain state and clocks that are handed in; [`super::listener`]
//! moves the bytes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// A client that takes this many bytes of an answer within `write` is not stalled.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Shorter stalls are those of any reader: a full buffer of the socket.
const STALL: Duration = Duration::from_secs(2);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From the first byte of a request, or the start of the connection, to the end of the
    /// request's head.
    pub head: Duration,
    /// Between requests.
    pub keep_alive: Duration,
    /// To take the next bytes of an answer.
    pub write: Duration,
    /// Answers that clients have not taken yet, in bytes.
    pub answer_bytes: usize,
}

/// Every open connection.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<State>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Requests that are being answered, and those of them whose body is waited for.
    requests: usize,
    bodies: usize,
    /// Bytes have come that belong to no request yet.
    head: bool,
    /// When `requests`, `bodies` or `head` changed.
    since: Instant,
    /// The client takes no more bytes: since when, and how many it had taken then.
    stalled: Option<(Instant, u64)>,
    written: u64,
    /// Of answers that are not written out.
    answer_bytes: usize,
}

impl State {
    /// Since when nothing happens because the client sends nothing.
    fn waits_for_client(&self) -> Option<Instant> {
        (self.requests == self.bodies).then_some(self.since)
    }

    fn is_overdue(&self, limits: &Limits, now: Instant) -> bool {
        let patience = if self.head {
            limits.head
        } else {
            limits.keep_alive
        };
        let silent = self.requests == 0 && now.saturating_duration_since(self.since) >= patience;
        silent
            || self
                .stalled
                .is_some_and(|(since, _)| now.saturating_duration_since(since) >= limits.write)
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// A place for one more. Where there is none the connection is closed that has waited longest
    /// for its client; none when all are being answered.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Option<Entered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.limits.connections {
            let (number, _) = longest_waiting(&open)?;
            open.remove(&number)?.closed.cancel();
        }
        let connection = Arc::new(Connection::new(now));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(number, connection.clone());
        Some(Entered {
            connections: self.clone(),
            number,
            connection,
        })
    }

    /// Closes the connection that has waited longest for its client.
    pub(super) fn close_longest_waiting(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connection)) = longest_waiting(&open) {
            connection.closed.cancel();
        }
    }

    /// Closes what takes too long, and the most stalled of those whose answers together take too
    /// much memory.
    pub(super) fn sweep(&self, now: Instant) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stalled = Vec::new();
        let mut answer_bytes = 0;
        for connection in open.values() {
            let state = connection.lock();
            if state.is_overdue(&self.limits, now) {
                connection.closed.cancel();
                continue;
            }
            answer_bytes += state.answer_bytes;
            let stall = state
                .stalled
                .filter(|(since, _)| now.saturating_duration_since(*since) >= STALL);
            stalled.extend(stall.map(|(since, _)| (since, state.answer_bytes, connection)));
        }
        stalled.sort_by_key(|(since, ..)| *since);
        for (_, bytes, connection) in stalled {
            if answer_bytes <= self.limits.answer_bytes {
                break;
            }
            tracing::warn!(
                bytes,
                "an answer was given up: its client is slow to take it, and answers take too much memory"
            );
            connection.closed.cancel();
            answer_bytes -= bytes;
        }
    }

    /// Closes every connection without a request.
    pub(super) fn close_idle(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values()
            .filter(|connection| connection.lock().requests == 0)
            .for_each(|idle| idle.closed.cancel());
    }
}

fn longest_waiting(open: &HashMap<u64, Arc<Connection>>) -> Option<(u64, &Arc<Connection>)> {
    let waiting = open
        .iter()
        .filter(|(_, connection)| !connection.closed.is_cancelled());
    waiting
        .filter_map(|(number, connection)| {
            Some((connection.lock().waits_for_client()?, *number, connection))
        })
        .min_by_key(|(since, number, _)| (*since, *number))
        .map(|(_, number, connection)| (number, connection))
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    connections: Arc<Connections>,
    number: u64,
    pub connection: Arc<Connection>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

impl Connection {
    fn new(now: Instant) -> Self {
        let state = State {
            requests: 0,
            bodies: 0,
            head: true,
            since: now,
            stalled: None,
            written: 0,
            answer_bytes: 0,
        };
        Self {
            state: Mutex::new(state),
            closed: CancellationToken::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when it has to end.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Bytes came.
    pub(super) fn has_read(&self, now: Instant) {
        let mut state = self.lock();
        if state.requests == 0 && !state.head {
            (state.head, state.since) = (true, now);
        }
    }

    /// A request's head is whole.
    pub(super) fn begin(self: &Arc<Self>, now: Instant) -> InRequest {
        let mut state = self.lock();
        state.requests += 1;
        (state.head, state.since) = (false, now);
        drop(state);
        InRequest {
            connection: self.clone(),
        }
    }

    /// A request's body is waited for, or no longer.
    pub(super) fn wait_for_body(self: &Arc<Self>, now: Instant) -> InBody {
        let mut state = self.lock();
        state.bodies += 1;
        state.since = now;
        drop(state);
        InBody {
            connection: self.clone(),
        }
    }

    /// An answer of known length is on its way.
    pub(super) fn answer(&self, bytes: usize) {
        self.lock().answer_bytes += bytes;
    }

    /// The client has taken bytes.
    pub(super) fn has_written(&self, bytes: usize) {
        let mut state = self.lock();
        state.written += bytes as u64;
        let written = state.written;
        state.stalled = state
            .stalled
            .filter(|(_, before)| written - before < PROGRESS_BYTES);
    }

    /// The client takes no more bytes for now.
    pub(super) fn stalls(&self, now: Instant) {
        let mut state = self.lock();
        if state.stalled.is_none() {
            state.stalled = Some((now, state.written));
        }
    }

    /// All that there was to write is written.
    pub(super) fn has_flushed(&self) {
        let mut state = self.lock();
        (state.stalled, state.answer_bytes) = (None, 0);
    }
}

/// A request of a connection, until the end of its answer.
#[derive(Debug)]
pub(super) struct InRequest {
    connection: Arc<Connection>,
}

impl Drop for InRequest {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.requests -= 1;
        state.since = Instant::now();
    }
}

/// A body of a connection that is waited for, until the next piece of it.
#[derive(Debug)]
pub(super) struct InBody {
    connection: Arc<Connection>,
}

impl Drop for InBody {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.bodies -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 3,
        head: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        write: Duration::from_secs(30),
        answer_bytes: 1000,
    };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn open(limits: Limits) -> (Arc<Connections>, Instant) {
        (Arc::new(Connections::new(limits)), Instant::now())
    }

    fn is_closed(entered: &Entered) -> bool {
        entered.connection.closed.is_cancelled()
    }

    #[test]
    fn a_head_has_its_time_and_an_idle_connection_another() {
        let (connections, start) = open(LIMITS);
        let (silent, between) = (
            connections.enter(start).unwrap(),
            connections.enter(start).unwrap(),
        );
        drop(between.connection.begin(start));
        connections.sweep(after(start, 9));
        assert!(!is_closed(&silent));
        connections.sweep(after(start, 11));
        assert!(is_closed(&silent) && !is_closed(&between));
        between.connection.has_read(after(start, 60));
        connections.sweep(after(start, 69));
        assert!(!is_closed(&between));
        connections.sweep(after(start, 71));
        assert!(is_closed(&between));
    }

    #[test]
    fn a_request_under_way_has_no_limit_here() {
        let (connections, start) = open(LIMITS);
        let entered = connections.enter(start).unwrap();
        let _request = entered.connection.begin(start);
        connections.sweep(after(start, 10_000));
        assert!(!is_closed(&entered));
    }

    #[test]
    fn a_reader_that_takes_nothing_is_closed_and_a_slow_one_is_not() {
        let (connections, start) = open(LIMITS);
        let (stuck, slow) = (
            connections.enter(start).unwrap(),
            connections.enter(start).unwrap(),
        );
        let _requests = [stuck.connection.begin(start), slow.connection.begin(start)];
        for entered in [&stuck, &slow] {
            entered.connection.stalls(start);
        }
        slow.connection.has_written(PROGRESS_BYTES as usize);
        slow.connection.stalls(after(start, 20));
        stuck.connection.has_written(1);
        stuck.connection.stalls(after(start, 20));
        connections.sweep(after(start, 31));
        assert!(is_closed(&stuck) && !is_closed(&slow));
        slow.connection.has_flushed();
        connections.sweep(after(start, 500));
        assert!(!is_closed(&slow));
    }

    #[test]
    fn when_all_places_are_taken_the_longest_waiting_leaves() {
        let (connections, start) = open(LIMITS);
        let at_work = connections.enter(start).unwrap();
        let _request = at_work.connection.begin(start);
        let half_sent = connections.enter(after(start, 1)).unwrap();
        let upload = connections.enter(after(start, 2)).unwrap();
        let _upload = upload.connection.begin(after(start, 3));
        let _body = upload.connection.wait_for_body(after(start, 3));
        let fourth = connections.enter(after(start, 4)).unwrap();
        assert!(is_closed(&half_sent) && !is_closed(&at_work) && !is_closed(&upload));
        let fifth = connections.enter(after(start, 5)).unwrap();
        assert!(is_closed(&upload) && !is_closed(&fourth));
        let _requests = [
            fourth.connection.begin(start),
            fifth.connection.begin(start),
        ];
        assert!(connections.enter(after(start, 6)).is_none());
        drop(at_work);
        assert!(connections.enter(after(start, 7)).is_some());
    }

    #[test]
    fn answers_that_take_too_much_memory_together_cost_the_most_stalled_its_connection() {
        let (connections, start) = open(LIMITS);
        let [first, second] = [0, 1].map(|wait| {
            let entered = connections.enter(start).unwrap();
            let request = entered.connection.begin(start);
            entered.connection.answer(600);
            entered.connection.stalls(after(start, wait));
            (entered, request)
        });
        connections.sweep(after(start, 1));
        assert!(
            !is_closed(&first.0),
            "a reader whose buffer is full is not stalled yet"
        );
        connections.sweep(after(start, 2));
        assert!(is_closed(&first.0) && !is_closed(&second.0));
    }

    #[test]
    fn at_the_end_only_requests_keep_their_connection() {
        let (connections, start) = open(LIMITS);
        let (idle, at_work) = (
            connections.enter(start).unwrap(),
            connections.enter(start).unwrap(),
        );
        let _request = at_work.connection.begin(start);
        connections.close_idle();
        assert!(is_closed(&idle) && !is_closed(&at_work));
    }
}
