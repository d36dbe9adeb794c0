//! The dispatcher as a state machine, without threads, locks or clocks: admitted callers, waiting
//! rows, pending requests, running batches. A worker gets its [`next`](Dispatch::next) graph,
//! [`take`](Dispatch::take)s a batch of it and [`deliver`](Dispatch::deliver)s the rows.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Caller, EngineError, Point, Priority, Row,
    admission::{Admission, RequestClass, Verdict},
    backend::{BatchInput, BatchOutput, LoadedGraph, SessionKey, StopSignal},
    lanes::{BatchRow, Lanes, Lapse, RequestId},
    whole::NamedInputs,
};

/// The answer to a request. `model` is the time during which a batch of it ran, `queue` the rest of
/// the time since it was queued.
#[derive(Debug)]
pub(super) struct Answered {
    pub output: BatchOutput,
    pub queue: Duration,
    pub model: Duration,
}

/// The channel on which a request's answer arrives.
pub(super) type Receiver = oneshot::Receiver<Result<Answered, EngineError>>;

pub(super) struct Dispatch {
    admission: Admission,
    lanes: Lanes<SessionKey>,
    pending: HashMap<RequestId, PendingRequest>,
    running: HashMap<u64, RunningBatch>,
    /// When the last batch ended; `None` once a worker was told that its device is idle.
    idle_since: Option<Instant>,
    last_number: u64,
    /// Whether new requests are refused.
    draining: bool,
    /// Whether workers end.
    closed: bool,
    /// The measured time of a row, exponentially smoothed over batches.
    rows_per_second: f64,
}

struct PendingRequest {
    caller: u64,
    priority: Priority,
    work: Work,
    admitted: Instant,
    /// The number of its running batches, and since when at least one has been running.
    batches: usize,
    since: Instant,
    /// Time during which at least one batch ran, before `since`.
    model: Duration,
    reply: oneshot::Sender<Result<Answered, EngineError>>,
}

enum Work {
    Rows {
        rows: Vec<RowState>,
        missing: usize,
    },
    /// `None` once a batch has taken it.
    Whole(Option<NamedInputs>),
}

enum RowState {
    Waiting(Point),
    Running,
    Done(Row),
}

struct RunningBatch {
    device: usize,
    graph: Arc<SessionKey>,
    /// The most batches of the graph that run concurrently on the device.
    max_concurrent: usize,
    /// Requests that wait for the batch.
    requests: HashSet<RequestId>,
    stop: StopSignal,
}

/// A batch for a worker to run.
pub(super) struct ScheduledBatch {
    number: u64,
    /// Its rows; one entry for a whole batch.
    pub rows: Vec<BatchRow>,
    pub input: BatchInput,
    /// Whether nothing else runs on the device or waits for it.
    pub alone: bool,
    pub stop: StopSignal,
}

/// The next task of a worker.
#[derive(Debug)]
pub(super) enum Next {
    /// Open `graph`, for which `rows` rows wait, and take a batch of it. `busy`: there is other
    /// work too.
    Work {
        graph: Arc<SessionKey>,
        priority: Priority,
        rows: usize,
        busy: bool,
    },
    /// The device is idle: release memory.
    Idle,
    End,
}

impl Dispatch {
    pub(super) fn new(limit_rows: usize) -> Self {
        Self {
            admission: Admission::default(),
            lanes: Lanes::new(limit_rows),
            pending: HashMap::new(),
            running: HashMap::new(),
            idle_since: None,
            last_number: 0,
            draining: false,
            closed: false,
            rows_per_second: 0.0,
        }
    }

    /// Whether a request can meet its deadline.
    pub(super) fn ask(
        &mut self,
        class: &RequestClass,
        rows: usize,
        caller: &Caller,
        now: Instant,
    ) -> Result<Verdict, EngineError> {
        if self.draining {
            return Err(EngineError::Draining);
        }
        Ok(self
            .admission
            .ask(caller.id, class, rows, caller.deadline, now))
    }

    /// Ends the admission that [`ask`](Self::ask) granted.
    pub(super) fn release(&mut self, caller: u64) {
        self.admission.release(caller);
    }

    /// Queues a request, or refuses it. `input` is not empty.
    pub(super) fn admit(
        &mut self,
        graph: &Arc<SessionKey>,
        caller: &Caller,
        input: BatchInput,
        now: Instant,
    ) -> Result<(RequestId, Receiver), EngineError> {
        if self.draining {
            return Err(EngineError::Draining);
        }
        let (rows, work) = match input {
            BatchInput::Rows(points) => {
                let missing = points.len();
                let rows = points.into_iter().map(RowState::Waiting).collect();
                (missing, Work::Rows { rows, missing })
            }
            BatchInput::Whole(inputs) => (1, Work::Whole(Some(inputs))),
        };
        if !self.lanes.has_room(rows, caller.priority) {
            return Err(self.overloaded());
        }
        let (reply, answer) = oneshot::channel();
        let id = self.number();
        let request = PendingRequest {
            caller: caller.id,
            priority: caller.priority,
            work,
            admitted: now,
            batches: 0,
            since: now,
            model: Duration::ZERO,
            reply,
        };
        self.pending.insert(id, request);
        self.lanes.push(id, graph, caller.clone(), rows);
        Ok((id, answer))
    }

    /// Removes a request whose caller no longer waits: its rows leave the queue, and a batch that
    /// no other request waits for is stopped.
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.lanes.remove(request);
        self.forget(request);
    }

    /// The next task of a worker of a device, or how long to wait for one unless notified (`None`:
    /// without limit). An idle device is reported once, to one worker.
    pub(super) fn next(
        &mut self,
        device: usize,
        idle_after: Duration,
        now: Instant,
    ) -> ControlFlow<Next, Option<Duration>> {
        if self.closed {
            return ControlFlow::Break(Next::End);
        }
        self.expire(now);
        if let Some((graph, priority, rows)) = self.lanes.next(|graph| self.can_run(device, graph))
        {
            let busy = self.is_busy(device) || self.lanes.waiting_rows() > rows;
            return ControlFlow::Break(Next::Work {
                graph,
                priority,
                rows,
                busy,
            });
        }
        let idle_since = self.idle_since.filter(|_| self.running.is_empty());
        match idle_since.map(|since| idle_after.saturating_sub(now.duration_since(since))) {
            Some(Duration::ZERO) => {
                self.idle_since = None;
                ControlFlow::Break(Next::Idle)
            }
            wait => ControlFlow::Continue(wait),
        }
    }

    /// Forms a batch of an open graph. `None` if its callers have left meanwhile, or as many
    /// batches run as may run concurrently. Requests whose cotangent does not fit the graph fail
    /// alone.
    pub(super) fn take(
        &mut self,
        device: usize,
        graph: &Arc<SessionKey>,
        priority: Priority,
        loaded: &LoadedGraph,
        now: Instant,
    ) -> Option<ScheduledBatch> {
        self.expire(now);
        if !self.can_run(device, graph) {
            return None;
        }
        let admission = &self.admission;
        let mut rows = self
            .lanes
            .take(graph, priority, loaded.batch_rows, |caller| {
                admission.rows_left(caller)
            });
        self.refuse_misfits(&mut rows, loaded.classes);
        let input = self.input(&rows)?;
        let (number, stop) = (self.number(), StopSignal::default());
        let alone = !self.is_busy(device) && self.lanes.waiting_rows() == 0;
        let requests: HashSet<RequestId> = rows.iter().map(|row| row.request).collect();
        self.start(&requests, now);
        self.running.insert(
            number,
            RunningBatch {
                device,
                graph: graph.clone(),
                max_concurrent: loaded.max_concurrent,
                requests,
                stop: stop.clone(),
            },
        );
        Some(ScheduledBatch {
            number,
            rows,
            input,
            alone,
            stop,
        })
    }

    /// Distributes the rows of a batch, which used the device for `took`.
    pub(super) fn deliver(
        &mut self,
        batch: &ScheduledBatch,
        took: Duration,
        result: Result<BatchOutput, EngineError>,
        now: Instant,
    ) {
        let concurrent = self.running.len();
        self.running.remove(&batch.number);
        self.idle_since = Some(now);
        let requests: HashSet<RequestId> = batch.rows.iter().map(|row| row.request).collect();
        self.end(&requests, now);
        match result {
            Ok(BatchOutput::Rows(rows)) => {
                self.measure(&requests, batch.rows.len() * concurrent, took);
                for (place, row) in batch.rows.iter().zip(rows) {
                    self.fill(place, row, now);
                }
            }
            Ok(BatchOutput::Whole(outputs)) => {
                if let Some(place) = batch.rows.first() {
                    self.answer(place.request, BatchOutput::Whole(outputs), now);
                }
            }
            Err(error) => {
                for request in requests {
                    self.lanes.remove(request);
                    self.refuse(request, error.clone());
                }
            }
        }
    }

    /// Answers every request that waits for the graph with the error.
    pub(super) fn fail_graph(&mut self, graph: &Arc<SessionKey>, error: &EngineError) {
        for request in self.lanes.drop_graph(graph) {
            self.refuse(request, error.clone());
        }
    }

    /// Refuses new requests.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Stops running batches, ends the workers, and refuses pending requests.
    pub(super) fn close(&mut self) {
        (self.draining, self.closed) = (true, true);
        let requests: Vec<RequestId> = self.pending.keys().copied().collect();
        for request in requests {
            self.lanes.remove(request);
            self.refuse(request, EngineError::Draining);
        }
        self.running.values().for_each(|batch| batch.stop.stop());
    }

    pub(super) fn waiting_rows(&self) -> usize {
        self.lanes.waiting_rows()
    }

    /// Whether no request is pending.
    pub(super) fn is_drained(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn has_no_interactive_work(&self) -> bool {
        self.pending
            .values()
            .all(|request| request.priority == Priority::Job)
    }

    /// Whether the device may run one more batch of the graph. Whole batches use all threads and
    /// are not preempted, so they start only while no interactive request is pending.
    fn can_run(&self, device: usize, graph: &Arc<SessionKey>) -> bool {
        if matches!(**graph, SessionKey::Whole(_)) && !self.has_no_interactive_work() {
            return false;
        }
        let mut same = self
            .running
            .values()
            .filter(|batch| batch.device == device && batch.graph == *graph);
        let Some(first) = same.next() else {
            return true;
        };
        1 + same.count() < first.max_concurrent
    }

    fn is_busy(&self, device: usize) -> bool {
        self.running.values().any(|batch| batch.device == device)
    }

    fn refuse_misfits(&mut self, rows: &mut Vec<BatchRow>, classes: Option<usize>) {
        let classes = classes.unwrap_or(usize::MAX);
        let point = |row: &BatchRow| match &self.pending.get(&row.request)?.work {
            Work::Rows { rows, .. } => match rows.get(row.index)? {
                RowState::Waiting(point) => Some(point),
                RowState::Running | RowState::Done(_) => None,
            },
            Work::Whole(_) => None,
        };
        let fits = |point: &Point| point.seed.iter().all(|(class, _)| *class < classes);
        let misfits: HashSet<RequestId> = rows
            .iter()
            .filter(|row| !point(row).is_none_or(fits))
            .map(|row| row.request)
            .collect();
        rows.retain(|row| !misfits.contains(&row.request));
        for request in misfits {
            let reason =
                format!("a seed names a class that the graph does not have; it has {classes}");
            self.lanes.remove(request);
            self.refuse(request, EngineError::Runtime { reason });
        }
    }

    /// Moves the inputs of a batch out of their requests; `None` for an empty batch.
    fn input(&mut self, rows: &[BatchRow]) -> Option<BatchInput> {
        let mut points = Vec::with_capacity(rows.len());
        for row in rows {
            match &mut self.pending.get_mut(&row.request)?.work {
                Work::Whole(inputs) => return inputs.take().map(BatchInput::Whole),
                Work::Rows { rows, .. } => {
                    let state = rows.get_mut(row.index)?;
                    if let RowState::Waiting(point) = std::mem::replace(state, RowState::Running) {
                        points.push(point);
                    }
                }
            }
        }
        (!points.is_empty()).then_some(BatchInput::Rows(points))
    }

    /// Records that a batch of these requests starts.
    fn start(&mut self, requests: &HashSet<RequestId>, now: Instant) {
        for id in requests {
            if let Some(request) = self.pending.get_mut(id) {
                if request.batches == 0 {
                    request.since = now;
                }
                request.batches += 1;
            }
        }
    }

    /// Records that a batch of these requests has ended.
    fn end(&mut self, requests: &HashSet<RequestId>, now: Instant) {
        for id in requests {
            if let Some(request) = self.pending.get_mut(id) {
                request.batches -= 1;
                if request.batches == 0 {
                    request.model += now.duration_since(request.since);
                }
            }
        }
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

    fn expire(&mut self, now: Instant) {
        for (request, lapse) in self.lanes.expire(now) {
            let error = match lapse {
                Lapse::Cancelled => EngineError::Cancelled,
                Lapse::DeadlineExceeded => EngineError::DeadlineExceeded,
            };
            self.refuse(request, error);
        }
    }

    fn fill(&mut self, place: &BatchRow, row: Row, now: Instant) {
        let Some(request) = self.pending.get_mut(&place.request) else {
            return;
        };
        let Work::Rows { rows, missing } = &mut request.work else {
            return;
        };
        if let Some(state @ RowState::Running) = rows.get_mut(place.index) {
            *state = RowState::Done(row);
            *missing -= 1;
            self.admission.done(request.caller);
        }
        if *missing == 0 {
            let done = |state| match state {
                RowState::Done(row) => Some(row),
                RowState::Waiting(_) | RowState::Running => None,
            };
            let rows = std::mem::take(rows).into_iter().filter_map(done).collect();
            self.answer(place.request, BatchOutput::Rows(rows), now);
        }
    }

    fn answer(&mut self, request: RequestId, output: BatchOutput, now: Instant) {
        if let Some(request) = self.pending.remove(&request) {
            let model = request.model;
            let queue = now.duration_since(request.admitted).saturating_sub(model);
            // The receiver is gone if the caller has left.
            let _ = request.reply.send(Ok(Answered {
                output,
                queue,
                model,
            }));
        }
    }

    fn refuse(&mut self, request: RequestId, error: EngineError) {
        if let Some(request) = self.forget(request) {
            let _ = request.reply.send(Err(error));
        }
    }

    /// Forgets a request that nobody waits for.
    fn forget(&mut self, request: RequestId) -> Option<PendingRequest> {
        for batch in self.running.values_mut() {
            if batch.requests.remove(&request) && batch.requests.is_empty() {
                batch.stop.stop();
            }
        }
        self.pending.remove(&request)
    }

    /// Updates the measured time of a row for the requests' classes, and the rate of all rows.
    /// `rows` is the number of rows that all devices evaluated meanwhile.
    fn measure(&mut self, requests: &HashSet<RequestId>, rows: usize, took: Duration) {
        let rate = rows as f64 / took.as_secs_f64().max(1e-6);
        self.rows_per_second = if self.rows_per_second == 0.0 {
            rate
        } else {
            0.8 * self.rows_per_second + 0.2 * rate
        };
        let callers: HashSet<u64> = requests
            .iter()
            .filter_map(|request| Some(self.pending.get(request)?.caller))
            .collect();
        for caller in callers {
            self.admission
                .measure(caller, took.as_secs_f64() / rows as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        engine::{
            backend::{Executable, GraphKey},
            tests::{number_model, spec},
        },
        tensor::Tensor,
    };

    struct NeverRun;

    impl Executable for NeverRun {
        fn run(&self, _: &BatchInput, _: bool, _: &StopSignal) -> Result<BatchOutput, EngineError> {
            Err(EngineError::Cancelled)
        }
    }

    fn loaded(batch_rows: usize, max_concurrent: usize) -> LoadedGraph {
        LoadedGraph {
            executable: Arc::new(NeverRun),
            batch_rows,
            max_concurrent,
            classes: Some(3),
        }
    }

    fn graph() -> Arc<SessionKey> {
        Arc::new(SessionKey::Rows(GraphKey::new(number_model(), spec(&[]))))
    }

    fn caller(id: u64, priority: Priority) -> Caller {
        Caller {
            id,
            priority,
            cancel: CancellationToken::new(),
            deadline: None,
        }
    }

    fn points(count: usize, class: usize) -> BatchInput {
        let point = Point {
            input: Arc::new(Tensor::zeros(vec![1])),
            seed: Arc::from([(class, 1.0)]),
        };
        BatchInput::Rows(vec![point; count])
    }

    fn rows(count: usize) -> Result<BatchOutput, EngineError> {
        let row = Row {
            logits: vec![],
            probabilities: vec![],
            cotangents: vec![],
            activations: Vec::new(),
        };
        Ok(BatchOutput::Rows(vec![row; count]))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_request_is_answered_with_its_last_batch_and_times_add_up() {
        let (mut dispatch, graph, start) = (Dispatch::new(100), graph(), Instant::now());
        let one = caller(1, Priority::Interactive);
        let (_, mut answer) = dispatch.admit(&graph, &one, points(3, 0), start).unwrap();
        let mut now = start + SECOND;
        for size in [2, 1] {
            assert!(answer.try_recv().is_err());
            let batch = dispatch
                .take(0, &graph, Priority::Interactive, &loaded(2, 1), now)
                .unwrap();
            assert_eq!((batch.rows.len(), batch.alone), (size, size == 1));
            now += SECOND;
            dispatch.deliver(&batch, SECOND, rows(size), now);
        }
        let answered = answer.try_recv().unwrap().unwrap();
        assert_eq!((answered.queue, answered.model), (SECOND, 2 * SECOND));
        assert!(dispatch.is_drained());
    }

    #[test]
    fn no_more_batches_of_a_graph_are_taken_than_may_run_at_the_same_time() {
        let (mut dispatch, graph, now) = (Dispatch::new(100), graph(), Instant::now());
        let one = caller(1, Priority::Interactive);
        let _answer = dispatch.admit(&graph, &one, points(9, 0), now).unwrap();
        let mut take = || {
            dispatch
                .take(0, &graph, Priority::Interactive, &loaded(2, 2), now)
                .is_some()
        };
        assert_eq!([take(), take(), take()], [true, true, false]);
    }

    #[test]
    fn a_request_with_a_class_that_the_graph_does_not_have_fails_alone() {
        let (mut dispatch, graph, now) = (Dispatch::new(100), graph(), Instant::now());
        let (one, two) = (
            caller(1, Priority::Interactive),
            caller(2, Priority::Interactive),
        );
        let (_, mut bad) = dispatch.admit(&graph, &one, points(1, 3), now).unwrap();
        let (good, _answer) = dispatch.admit(&graph, &two, points(1, 2), now).unwrap();
        let batch = dispatch
            .take(0, &graph, Priority::Interactive, &loaded(8, 1), now)
            .unwrap();
        assert!(bad.try_recv().unwrap().is_err());
        assert_eq!(
            batch.rows,
            [BatchRow {
                request: good,
                index: 0
            }]
        );
    }

    #[test]
    fn a_batch_is_stopped_when_the_last_of_its_requests_is_abandoned() {
        let (mut dispatch, graph, now) = (Dispatch::new(100), graph(), Instant::now());
        let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ids = [1, 2].map(|id| {
            let one = caller(id, Priority::Job);
            dispatch.admit(&graph, &one, points(1, 0), now).unwrap().0
        });
        let batch = dispatch.take(0, &graph, Priority::Job, &loaded(1, 1), now);
        let (batch, told) = (batch.unwrap(), stopped.clone());
        batch
            .stop
            .on_stop(move || told.store(true, std::sync::atomic::Ordering::SeqCst));
        let is_stopped = || stopped.load(std::sync::atomic::Ordering::SeqCst);
        dispatch.abandon(ids[1]);
        assert!(!is_stopped());
        dispatch.abandon(ids[0]);
        assert!(is_stopped() && dispatch.is_drained());
    }

    #[test]
    fn one_worker_is_told_that_the_device_is_idle_once() {
        let (mut dispatch, graph, start) = (Dispatch::new(100), graph(), Instant::now());
        let one = caller(1, Priority::Interactive);
        assert!(matches!(
            dispatch.next(0, SECOND, start),
            ControlFlow::Continue(None)
        ));
        let _answer = dispatch.admit(&graph, &one, points(1, 0), start).unwrap();
        let batch = dispatch.take(0, &graph, Priority::Interactive, &loaded(1, 1), start);
        dispatch.deliver(&batch.unwrap(), SECOND, rows(1), start);
        assert!(matches!(
            dispatch.next(0, SECOND, start),
            ControlFlow::Continue(Some(SECOND))
        ));
        let later = start + SECOND;
        assert!(matches!(
            dispatch.next(0, SECOND, later),
            ControlFlow::Break(Next::Idle)
        ));
        assert!(matches!(
            dispatch.next(0, SECOND, later),
            ControlFlow::Continue(None)
        ));
    }

    #[test]
    fn a_closed_dispatcher_refuses_what_is_pending_and_what_comes() {
        let (mut dispatch, graph, now) = (Dispatch::new(100), graph(), Instant::now());
        let one = caller(1, Priority::Interactive);
        let (_, mut answer) = dispatch.admit(&graph, &one, points(1, 0), now).unwrap();
        dispatch.close();
        assert!(matches!(answer.try_recv(), Ok(Err(EngineError::Draining))));
        assert!(matches!(
            dispatch.admit(&graph, &one, points(1, 0), now),
            Err(EngineError::Draining)
        ));
        assert!(matches!(
            dispatch.next(0, SECOND, now),
            ControlFlow::Break(Next::End)
        ));
    }
}
