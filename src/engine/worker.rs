//! A worker thread of a device: gets the next graph from the dispatcher, opens it, runs a batch and
//! delivers the rows. A panic of the backend fails the requests of that batch, and the worker goes
//! on. When its device is idle, it releases memory.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{
    EngineError,
    backend::{Backend, BatchInput, BatchOutput, SessionKey},
    dispatch::Next,
    dispatcher::Dispatcher,
};

/// Works for the device of this index until the dispatcher closes.
pub(super) fn work(dispatcher: &Dispatcher, device: usize, backend: &dyn Backend) {
    loop {
        let (graph, priority, rows, busy) = match dispatcher.next(device) {
            Next::Work {
                graph,
                priority,
                rows,
                busy,
            } => (graph, priority, rows, busy),
            Next::Idle => {
                if let Err(Failure::Panic(words)) = guard(|| {
                    backend.release_memory();
                    Ok(())
                }) {
                    tracing::error!(words, "panic while memory was given back");
                }
                continue;
            }
            Next::End => return,
        };
        let loaded = match guard(|| backend.load(&graph, rows, busy)) {
            Ok(loaded) => loaded,
            Err(error) => {
                discard_after_panic(backend, &error, &graph);
                dispatcher.fail_graph(&graph, &error.into());
                continue;
            }
        };
        let Some(batch) = dispatcher.take(device, &graph, priority, &loaded) else {
            continue;
        };
        let started = Instant::now();
        let run = || {
            loaded
                .executable
                .run(&batch.input, batch.alone, &batch.stop)
        };
        let result = guard(|| checked(&batch.input, run()?));
        let took = started.elapsed();
        if let Err(error) = &result {
            discard_after_panic(backend, error, &graph);
        }
        dispatcher.deliver(&graph, &batch, took, result.map_err(EngineError::from));
    }
}

/// The output, if it has the form that the input asks for.
fn checked(input: &BatchInput, output: BatchOutput) -> Result<BatchOutput, EngineError> {
    match (input, &output) {
        (BatchInput::Rows(points), BatchOutput::Rows(rows)) if rows.len() != points.len() => {
            Err(EngineError::Runtime {
                reason: format!("{} rows for {} points", rows.len(), points.len()),
            })
        }
        (BatchInput::Rows(_), BatchOutput::Rows(_))
        | (BatchInput::Whole(_), BatchOutput::Whole(_)) => Ok(output),
        (BatchInput::Rows(_), BatchOutput::Whole(_))
        | (BatchInput::Whole(_), BatchOutput::Rows(_)) => Err(EngineError::mixed_up()),
    }
}

enum Failure {
    Error(EngineError),
    Panic(String),
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Error(error) => error,
            Failure::Panic(words) => EngineError::Runtime {
                reason: format!("panic in the worker: {words}"),
            },
        }
    }
}

fn guard<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(payload) => {
            let words = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            Err(Failure::Panic(
                words
                    .or_else(|| payload.downcast_ref::<String>().cloned())
                    .unwrap_or_default(),
            ))
        }
    }
}

fn discard_after_panic(backend: &dyn Backend, failure: &Failure, graph: &Arc<SessionKey>) {
    if let Failure::Panic(words) = failure {
        tracing::error!(words, "panic while a graph was loaded or run");
        if catch_unwind(AssertUnwindSafe(|| backend.discard(graph))).is_err() {
            tracing::error!("panic while the graph was closed");
        }
    }
}
