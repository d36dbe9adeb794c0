//! Rewrites of a graph. Each pass is a function from graph to graph whose result is checked; an
//! error names the pass that broke it.

mod batch;
mod batch_norm;
mod check;
mod dedup;
mod fold;
mod lower;
mod narrow;
mod normalise;
mod prune;
mod single;
mod widen;

pub use batch::{fixes_batch, free_batch};
pub use batch_norm::fold_batch_norm;
pub use check::{check, checked, find_faults, sort};
pub use dedup::dedup;
pub use fold::fold;
pub use lower::{Lowered, lower};
pub use narrow::{channel_range, narrow};
pub use normalise::{OPSET, normalise};
pub use prune::prune;
pub use single::single;
pub use widen::widen;

use super::{error::OnnxError, graph::Graph};

/// From a graph to one that gives the same outputs.
pub type Pass = fn(Graph) -> Result<Graph, OnnxError>;

/// One pass after the other.
pub fn run(passes: &[Pass], graph: Graph) -> Result<Graph, OnnxError> {
    passes.iter().try_fold(graph, |graph, pass| pass(graph))
}
