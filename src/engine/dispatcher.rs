//! Where callers and workers meet: admission, waiting rows, pending requests, and
//! what runs now. One lock around plain state; workers sleep on a condition variable until there is
//! work.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::{counter, gauge, histogram};
use tokio::sync::{Notify, oneshot};

use super::{
    Caller, EngineError, Evaluated, Point, Priority, Row,
    admission::{Admission, RequestClass, Verdict},
    backend::{GraphKey, LoadedGraph, StopSignal, lock},
    lanes::{BatchRow, Lanes, Lapse, RequestId},
};
use crate::telemetry::names;

pub type Answer = Result<Evaluated, EngineError>;

pub struct Dispatcher {
    /// A worker rests after so long without work.
    idle_after: Duration,
    state: Mutex<State>,
    work: Condvar,
    /// Told when no interactive request, or none at all, is left unanswered.
    requests_ended: Notify,
    /// Told when more is known about how long requests take, or fewer are admitted.
    admission_changes: Notify,
}

struct State {
    admission: Admission,
    lanes: Lanes<GraphKey>,
    pending: HashMap<RequestId, PendingRequest>,
    running: HashMap<u64, Running>,
    /// When the last batch ended; none when the devices have rested since.
    idle_since: Option<Instant>,
    last_number: u64,
    /// No new requests.
    draining: bool,
    /// Workers end.
    closed: bool,
    /// Measured, smoothed over batches.
    rows_per_second: f64,
}

struct PendingRequest {
    caller: u64,
    priority: Priority,
    rows: Vec<Option<Row>>,
    missing: usize,
    admitted: Instant,
    /// Batches with rows of it that run now, and since when there has been one.
    batches: usize,
    since: Instant,
    /// Time in which one ran, before `since`.
    model: Duration,
    reply: oneshot::Sender<Answer>,
}

struct Running {
    device: usize,
    graph: Arc<GraphKey>,
    /// Most batches of the graph at once on the device.
    max_concurrent: usize,
    /// Requests that still wait for the batch.
    requests: HashSet<RequestId>,
    stop: StopSignal,
}

/// A batch for a worker to run.
pub struct Batch {
    number: u64,
    pub rows: Vec<BatchRow>,
    /// Nothing else ran on the device, nor waited.
    pub alone: bool,
    pub stop: StopSignal,
}

pub enum Next {
    /// `rows` wait for `graph`. Is there other work too, the device is `busy`.
    Work {
        graph: Arc<GraphKey>,
        priority: Priority,
        rows: usize,
        busy: bool,
    },
    /// There has been nothing to do for a while.
    Idle,
    End,
}

impl Dispatcher {
    pub fn new(limit_rows: usize, idle_after: Duration) -> Self {
        let state = State {
            admission: Admission::default(),
            lanes: Lanes::new(limit_rows),
            pending: HashMap::new(),
            running: HashMap::new(),
            idle_since: None,
            last_number: 0,
            draining: false,
            closed: false,
            rows_per_second: 0.0,
        };
        Self {
            idle_after,
            state: Mutex::new(state),
            work: Condvar::new(),
            requests_ended: Notify::new(),
            admission_changes: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a request can be done in time.
    pub fn ask(
        &self,
        class: &RequestClass,
        rows: usize,
        caller: &Caller,
    ) -> Result<Verdict, EngineError> {
        let mut state = self.lock();
        if state.draining {
            return Err(EngineError::Draining);
        }
        let verdict = state
            .admission
            .ask(caller.id, class, rows, caller.deadline, Instant::now());
        if matches!(verdict, Verdict::Refused { .. }) {
            counter!(names::REJECTED_TOTAL).increment(1);
        }
        Ok(verdict)
    }

    pub fn release(&self, caller: u64) {
        self.lock().admission.release(caller);
        self.admission_changes.notify_waiters();
    }

    pub fn admission_changes(&self) -> &Notify {
        &self.admission_changes
    }

    /// Takes a request in, or says why not. `points` are not empty.
    pub fn admit(
        &self,
        graph: &Arc<GraphKey>,
        caller: &Caller,
        points: Vec<Point>,
    ) -> Result<(RequestId, oneshot::Receiver<Answer>), EngineError> {
        let mut state = self.lock();
        if state.draining {
            return Err(EngineError::Draining);
        }
        if !state.lanes.has_room(points.len(), caller.priority) {
            if caller.priority == Priority::Interactive {
                counter!(names::REJECTED_TOTAL).increment(1);
            }
            return Err(state.overloaded());
        }
        let (reply, answer) = oneshot::channel();
        let id = state.number();
        let rows = points.len();
        let now = Instant::now();
        let pending = PendingRequest {
            caller: caller.id,
            priority: caller.priority,
            rows: vec![None; rows],
            missing: rows,
            admitted: now,
            batches: 0,
            since: now,
            model: Duration::ZERO,
            reply,
        };
        state.pending.insert(id, pending);
        state.lanes.push(id, graph, caller.clone(), points);
        state.report_queue();
        drop(state);
        self.work.notify_all();
        Ok((id, answer))
    }

    /// The caller no longer waits: its rows leave the queue, and a batch that nobody else waits for
    /// is stopped.
    pub fn abandon(&self, request: RequestId) {
        let mut state = self.lock();
        state.lanes.remove(request);
        state.forget(request);
        state.report_queue();
        self.notify_if_no_interactive_work(&state);
    }

    /// Waits for what a worker of a device is to do next. One worker is told that the device is idle, once.
    pub fn next(&self, device: usize) -> Next {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Next::End;
            }
            state.expire();
            self.notify_if_no_interactive_work(&state);
            if let Some((graph, priority, rows)) =
                state.lanes.next(|graph| state.can_run(device, graph))
            {
                let busy = state.is_busy(device) || state.lanes.waiting_rows() > rows;
                return Next::Work {
                    graph,
                    priority,
                    rows,
                    busy,
                };
            }
            let idle_since = state.idle_since.filter(|_| state.running.is_empty());
            state = match idle_since.map(|since| self.idle_after.saturating_sub(since.elapsed())) {
                None => self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    state.idle_since = None;
                    return Next::Idle;
                }
                Some(left) => {
                    self.work
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Forms a batch of a prepared graph; none when its callers have left meanwhile, or other
    /// workers took what may run at once. Requests with a seed that does not fit the graph fail
    /// alone.
    pub fn take(
        &self,
        device: usize,
        graph: &Arc<GraphKey>,
        priority: Priority,
        prepared: &LoadedGraph,
    ) -> Option<Batch> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.expire();
        if !state.can_run(device, graph) {
            return None;
        }
        let admission = &state.admission;
        let mut rows = state
            .lanes
            .take(graph, priority, prepared.batch_rows, |caller| {
                admission.rows_left(caller)
            });
        let classes = prepared.classes.unwrap_or(usize::MAX);
        let fits = |row: &BatchRow| row.point.seed.iter().all(|(class, _)| *class < classes);
        let misfits: HashSet<RequestId> = rows
            .iter()
            .filter(|row| !fits(row))
            .map(|row| row.request)
            .collect();
        for request in misfits {
            let reason =
                format!("a seed names a class that the graph does not have; it has {classes}");
            state.lanes.remove(request);
            rows.retain(|row| row.request != request);
            state.settle(request, Err(EngineError::Runtime { reason }));
        }
        state.report_queue();
        self.notify_if_no_interactive_work(state);
        if rows.is_empty() {
            return None;
        }
        let (number, stop) = (state.number(), StopSignal::default());
        let alone = !state.is_busy(device) && state.lanes.waiting_rows() == 0;
        let requests: HashSet<RequestId> = rows.iter().map(|row| row.request).collect();
        state.start(&requests);
        let max_concurrent = prepared.max_concurrent;
        state.running.insert(
            number,
            Running {
                device,
                graph: graph.clone(),
                max_concurrent,
                requests,
                stop: stop.clone(),
            },
        );
        Some(Batch {
            number,
            rows,
            alone,
            stop,
        })
    }

    /// Hands out what a batch gave, `took` being the device's time for it.
    pub fn deliver(
        &self,
        graph: &GraphKey,
        batch: Batch,
        took: Duration,
        result: Result<Vec<Row>, EngineError>,
    ) {
        let mut state = self.lock();
        let running = state.running.len();
        state.running.remove(&batch.number);
        state.idle_since = Some(Instant::now());
        let requests: HashSet<RequestId> = batch.rows.iter().map(|row| row.request).collect();
        state.end(&requests);
        match result {
            Ok(rows) => {
                state.measure(graph, batch.rows.len(), running, took);
                state.measure_callers(&requests, batch.rows.len(), running, took);
                for (place, row) in batch.rows.iter().zip(rows) {
                    state.fill(place, row);
                }
            }
            Err(error) => {
                for request in requests {
                    state.lanes.remove(request);
                    state.settle(request, Err(error.clone()));
                }
            }
        }
        state.report_queue();
        self.notify_if_no_interactive_work(&state);
        drop(state);
        self.admission_changes.notify_waiters();
    }

    /// The graph cannot run: everyone who waits for it is told.
    pub fn fail_graph(&self, graph: &Arc<GraphKey>, error: &EngineError) {
        let mut state = self.lock();
        for request in state.lanes.drop_graph(graph) {
            state.settle(request, Err(error.clone()));
        }
        state.report_queue();
        self.notify_if_no_interactive_work(&state);
    }

    fn notify_if_no_interactive_work(&self, state: &State) {
        if state.has_no_interactive_work() {
            self.requests_ended.notify_waiters();
        }
    }

    /// Waits until no interactive request is left unanswered.
    pub async fn until_no_interactive_work(&self) {
        self.until(State::has_no_interactive_work).await;
    }

    /// Waits for what is told to `requests_ended`.
    async fn until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let told = self.requests_ended.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            told.await;
        }
    }

    /// Refuses new requests and waits until all are answered, at most `limit`; then the rest
    /// is refused too and stopped.
    pub async fn drain(&self, limit: Duration) {
        self.lock().draining = true;
        // What is left when the time is over is refused.
        let _ = tokio::time::timeout(limit, self.until(|state| state.pending.is_empty())).await;
        self.close();
    }

    /// Ends the workers after their batch, which is stopped; requests still unanswered are refused.
    pub fn close(&self) {
        let mut state = self.lock();
        (state.draining, state.closed) = (true, true);
        let requests: Vec<RequestId> = state.pending.keys().copied().collect();
        for request in requests {
            state.lanes.remove(request);
            state.settle(request, Err(EngineError::Draining));
        }
        state
            .running
            .values()
            .for_each(|running| running.stop.stop());
        self.notify_if_no_interactive_work(&state);
        drop(state);
        self.work.notify_all();
    }
}

impl State {
    /// Whether the device may run one more batch of the graph.
    fn can_run(&self, device: usize, graph: &Arc<GraphKey>) -> bool {
        let mut same = self
            .running
            .values()
            .filter(|running| running.device == device && running.graph == *graph);
        let Some(first) = same.next() else {
            return true;
        };
        1 + same.count() < first.max_concurrent
    }

    fn is_busy(&self, device: usize) -> bool {
        self.running
            .values()
            .any(|running| running.device == device)
    }

    /// A batch with rows of the requests starts.
    fn start(&mut self, requests: &HashSet<RequestId>) {
        let now = Instant::now();
        for request in requests {
            if let Some(pending) = self.pending.get_mut(request) {
                if pending.batches == 0 {
                    pending.since = now;
                }
                pending.batches += 1;
            }
        }
    }

    /// A batch that was started with them has ended.
    fn end(&mut self, requests: &HashSet<RequestId>) {
        for request in requests {
            if let Some(pending) = self.pending.get_mut(request) {
                pending.batches -= 1;
                if pending.batches == 0 {
                    pending.model += pending.since.elapsed();
                }
            }
        }
    }

    fn has_no_interactive_work(&self) -> bool {
        self.pending
            .values()
            .all(|pending| pending.priority == Priority::Job)
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn overloaded(&self) -> EngineError {
        let seconds = self.lanes.waiting_rows() as f64 / self.rows_per_second.max(1.0);
        EngineError::Overloaded {
            waiting_rows: self.lanes.waiting_rows(),
            limit_rows: self.lanes.limit_rows(),
            retry_after: Duration::from_secs_f64(seconds.clamp(1.0, 60.0)),
        }
    }

    fn expire(&mut self) {
        for (request, lapse) in self.lanes.expire(Instant::now()) {
            let error = match lapse {
                Lapse::Cancelled => EngineError::Cancelled,
                Lapse::DeadlineExceeded => EngineError::DeadlineExceeded,
            };
            self.settle(request, Err(error));
        }
    }

    fn fill(&mut self, place: &BatchRow, row: Row) {
        let Some(pending) = self.pending.get_mut(&place.request) else {
            return;
        };
        if let Some(slot @ None) = pending.rows.get_mut(place.index) {
            *slot = Some(row);
            pending.missing -= 1;
            self.admission.done(pending.caller);
        }
        if pending.missing == 0
            && let Some(pending) = self.pending.remove(&place.request)
        {
            let (rows, model) = (pending.rows.into_iter().flatten().collect(), pending.model);
            let queue = pending.admitted.elapsed().saturating_sub(model);
            // A caller that has left meanwhile needs no answer.
            let _ = pending.reply.send(Ok(Evaluated { rows, queue, model }));
        }
    }

    fn settle(&mut self, request: RequestId, answer: Answer) {
        if let Some(pending) = self.forget(request) {
            let _ = pending.reply.send(answer);
        }
    }

    /// Nobody waits for `request` any more.
    fn forget(&mut self, request: RequestId) -> Option<PendingRequest> {
        for running in self.running.values_mut() {
            if running.requests.remove(&request) && running.requests.is_empty() {
                running.stop.stop();
            }
        }
        self.pending.remove(&request)
    }

    /// `running` batches shared the devices.
    fn measure(&mut self, graph: &GraphKey, rows: usize, running: usize, took: Duration) {
        let rate = (rows * running) as f64 / took.as_secs_f64().max(1e-6);
        self.rows_per_second = if self.rows_per_second == 0.0 {
            rate
        } else {
            0.8 * self.rows_per_second + 0.2 * rate
        };
        let model = graph.model.id.clone();
        counter!(names::ROWS_TOTAL, "model" => model.clone()).increment(rows as u64);
        counter!(names::BATCHES_TOTAL, "model" => model.clone()).increment(1);
        histogram!(names::BATCH_DURATION_SECONDS, "model" => model).record(took);
    }

    /// What the rows of a batch took says how long requests like theirs take.
    fn measure_callers(
        &mut self,
        requests: &HashSet<RequestId>,
        rows: usize,
        running: usize,
        took: Duration,
    ) {
        let callers: HashSet<u64> = requests
            .iter()
            .filter_map(|request| Some(self.pending.get(request)?.caller))
            .collect();
        for caller in callers {
            self.admission
                .measure(caller, took.as_secs_f64() / (rows * running) as f64);
        }
    }

    fn report_queue(&self) {
        gauge!(names::QUEUE_ROWS).set(self.lanes.waiting_rows() as f64);
    }
}
