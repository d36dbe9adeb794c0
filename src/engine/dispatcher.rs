//! Where callers and workers meet: one lock around the plain state of `dispatch`. Workers sleep on
//! a condition variable until there is work; callers wait for their reply.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge, histogram};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    Caller, EngineError, Priority,
    admission::{RequestClass, Verdict},
    backend::{BatchInput, BatchOutput, LoadedGraph, SessionKey},
    dispatch::{Dispatch, Next, Receiver, ScheduledBatch},
    lanes::RequestId,
};
use crate::telemetry::names;

pub struct Dispatcher {
    /// After so long without work a device is idle.
    idle_after: Duration,
    state: Mutex<Dispatch>,
    /// Told when there may be more for a worker to do.
    work: Condvar,
    /// Told when every request was answered.
    drained: Notify,
    /// Notified when times were measured or callers left: admission may decide otherwise.
    admission_changes: Notify,
}

impl Dispatcher {
    pub fn new(limit_rows: usize, idle_after: Duration) -> Self {
        Self {
            idle_after,
            state: Mutex::new(Dispatch::new(limit_rows)),
            work: Condvar::new(),
            drained: Notify::new(),
            admission_changes: Notify::new(),
        }
    }

    /// Whether a request can meet its deadline.
    pub fn ask(
        &self,
        class: &RequestClass,
        rows: usize,
        caller: &Caller,
    ) -> Result<Verdict, EngineError> {
        let verdict = self.state.lock().ask(class, rows, caller, Instant::now())?;
        if matches!(verdict, Verdict::Refused { .. }) {
            counter!(names::REJECTED_TOTAL).increment(1);
        }
        Ok(verdict)
    }

    pub fn release(&self, caller: u64) {
        self.state.lock().release(caller);
        self.admission_changes.notify_waiters();
    }

    pub fn admission_changes(&self) -> &Notify {
        &self.admission_changes
    }

    /// Takes a request in, or says why not. `input` is not empty.
    pub fn admit(
        &self,
        graph: &Arc<SessionKey>,
        caller: &Caller,
        input: BatchInput,
    ) -> Result<(RequestId, Receiver), EngineError> {
        let admitted = self.update(|state| state.admit(graph, caller, input, Instant::now()));
        match &admitted {
            Ok(_) => {
                self.work.notify_all();
            }
            Err(EngineError::Overloaded { .. }) if caller.priority == Priority::Interactive => {
                counter!(names::REJECTED_TOTAL).increment(1);
            }
            Err(_) => {}
        }
        admitted
    }

    /// The caller no longer waits.
    pub fn abandon(&self, request: RequestId) {
        self.update(|state| state.abandon(request));
    }

    /// Waits for what a worker of a device is to do next.
    pub fn next(&self, device: usize) -> Next {
        let mut state = self.state.lock();
        loop {
            let next = |state: &mut Dispatch| state.next(device, self.idle_after, Instant::now());
            match self.update_locked(&mut state, next) {
                ControlFlow::Break(next) => return next,
                ControlFlow::Continue(None) => self.work.wait(&mut state),
                ControlFlow::Continue(Some(left)) => {
                    self.work.wait_for(&mut state, left);
                }
            }
        }
    }

    /// Forms a batch of a loaded graph, where there is still one to run.
    pub fn take(
        &self,
        device: usize,
        graph: &Arc<SessionKey>,
        priority: Priority,
        loaded: &LoadedGraph,
    ) -> Option<ScheduledBatch> {
        self.update(|state| state.take(device, graph, priority, loaded, Instant::now()))
    }

    /// Distributes the rows of a batch that took `took` of the device's time.
    pub fn deliver(
        &self,
        graph: &SessionKey,
        batch: &ScheduledBatch,
        took: Duration,
        result: Result<BatchOutput, EngineError>,
    ) {
        if let Ok(output) = &result {
            let model = graph.model().id.clone();
            if let BatchOutput::Rows(rows) = output {
                counter!(names::ROWS_TOTAL, "model" => model.clone()).increment(rows.len() as u64);
            }
            counter!(names::BATCHES_TOTAL, "model" => model.clone()).increment(1);
            histogram!(names::BATCH_DURATION_SECONDS, "model" => model).record(took);
        }
        self.update(|state| state.deliver(batch, took, result, Instant::now()));
        self.admission_changes.notify_waiters();
    }

    /// The graph cannot run: everyone who waits for it gets the error.
    pub fn fail_graph(&self, graph: &Arc<SessionKey>, error: &EngineError) {
        self.update(|state| state.fail_graph(graph, error));
    }

    /// Refuses new requests and waits until all are answered, at most `limit`; then the rest is
    /// refused too and stopped.
    pub async fn drain(&self, limit: Duration) {
        self.update(Dispatch::drain);
        // Whatever is left after the time limit is refused.
        let _ = tokio::time::timeout(limit, self.until_drained()).await;
        self.close();
    }

    async fn until_drained(&self) {
        loop {
            let told = self.drained.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.state.lock().is_drained() {
                return;
            }
            told.await;
        }
    }

    /// Ends the workers after their batch, which is stopped; requests still unanswered are refused.
    pub fn close(&self) {
        self.update(Dispatch::close);
        self.work.notify_all();
    }

    fn update<T>(&self, change: impl FnOnce(&mut Dispatch) -> T) -> T {
        self.update_locked(&mut self.state.lock(), change)
    }

    /// Changes the state and tells those who wait for it to be so.
    fn update_locked<T>(
        &self,
        state: &mut MutexGuard<'_, Dispatch>,
        change: impl FnOnce(&mut Dispatch) -> T,
    ) -> T {
        let was_interactive = !state.has_no_interactive_work();
        let changed = change(state);
        gauge!(names::QUEUE_ROWS).set(state.waiting_rows() as f64);
        if state.is_drained() {
            self.drained.notify_waiters();
        }
        if was_interactive && state.has_no_interactive_work() {
            // Whole batches may begin.
            self.work.notify_all();
        }
        changed
    }
}
