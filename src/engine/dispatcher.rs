//! The dispatcher between callers and workers: a lock around the state machine of `dispatch`.
//! Workers wait on a condition variable for work; callers await their replies.

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

pub(super) struct Dispatcher {
    /// The time without work after which a device is idle.
    idle_after: Duration,
    state: Mutex<Dispatch>,
    /// Notified when there may be work.
    work: Condvar,
    /// Notified when no request is pending.
    drained: Notify,
    /// Notified when row times were measured or callers left: admission may change its decision.
    admission_changes: Notify,
}

impl Dispatcher {
    pub(super) fn new(limit_rows: usize, idle_after: Duration) -> Self {
        Self {
            idle_after,
            state: Mutex::new(Dispatch::new(limit_rows)),
            work: Condvar::new(),
            drained: Notify::new(),
            admission_changes: Notify::new(),
        }
    }

    /// Whether a request can meet its deadline.
    pub(super) fn ask(
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

    pub(super) fn release(&self, caller: u64) {
        self.state.lock().release(caller);
        self.admission_changes.notify_waiters();
    }

    pub(super) fn admission_changes(&self) -> &Notify {
        &self.admission_changes
    }

    /// Queues a request, or refuses it. `input` is not empty.
    pub(super) fn admit(
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

    /// Removes a request whose caller no longer waits.
    pub(super) fn abandon(&self, request: RequestId) {
        self.update(|state| state.abandon(request));
    }

    /// Blocks until there is work for a worker of a device, and returns it.
    pub(super) fn next(&self, device: usize) -> Next {
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

    /// Forms a batch of an open graph; `None` if no rows are left to run.
    pub(super) fn take(
        &self,
        device: usize,
        graph: &Arc<SessionKey>,
        priority: Priority,
        loaded: &LoadedGraph,
    ) -> Option<ScheduledBatch> {
        self.update(|state| state.take(device, graph, priority, loaded, Instant::now()))
    }

    /// Distributes the rows of a batch, which used the device for `took`.
    pub(super) fn deliver(
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

    /// Answers every request that waits for the graph with the error.
    pub(super) fn fail_graph(&self, graph: &Arc<SessionKey>, error: &EngineError) {
        self.update(|state| state.fail_graph(graph, error));
    }

    /// Refuses new requests and waits up to `limit` for pending ones, then refuses those that are
    /// left and stops their batches.
    pub(super) async fn drain(&self, limit: Duration) {
        self.update(Dispatch::drain);
        // Requests that are pending after the time limit are refused.
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

    /// Stops running batches, ends the workers, and refuses pending requests.
    pub(super) fn close(&self) {
        self.update(Dispatch::close);
        self.work.notify_all();
    }

    fn update<T>(&self, change: impl FnOnce(&mut Dispatch) -> T) -> T {
        self.update_locked(&mut self.state.lock(), change)
    }

    /// Changes the state and notifies waiters whose conditions may hold now.
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
            // Whole batches, which give way to interactive requests, may start.
            self.work.notify_all();
        }
        changed
    }
}
