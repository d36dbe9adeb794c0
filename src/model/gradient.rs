//! Whether a network has a gradient: derived once for each graph, and remembered.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use onnx_autodiff::{
    autodiff::{self, spec::DeriveSpec},
    onnx::graph::Graph,
};

type Fault = Arc<OnceLock<Option<String>>>;

/// By the graphs in use.
static KNOWN: Mutex<Vec<(Weak<Graph>, Fault)>> = Mutex::new(Vec::new());

/// Why a network has no gradient, and so no method that differentiates; `None` where it has one.
/// Takes up to seconds the first time.
pub fn gradient_fault(graph: &Arc<Graph>) -> Option<String> {
    let fault = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| other.strong_count() > 0);
        let own = Arc::downgrade(graph);
        match known.iter().find(|(other, _)| other.ptr_eq(&own)) {
            Some((_, fault)) => fault.clone(),
            None => {
                let fault = Fault::default();
                known.push((own, fault.clone()));
                fault
            }
        }
    };
    let derive = || {
        let derived = autodiff::derive(graph, &DeriveSpec::gradient(), None);
        derived.err().map(|error| error.to_string())
    };
    fault.get_or_init(derive).clone()
}
