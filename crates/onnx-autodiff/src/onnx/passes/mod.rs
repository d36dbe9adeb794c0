//! Rewrites of a graph. Each pass is a function from graph to graph whose result is checked; an
//! error names the pass that broke it.

mod batch;
mod check;
mod dedup;
mod evaluate;
mod fold;
mod narrow;
mod normalise;
mod prune;
mod single;

pub use batch::free_batch;
pub use check::{check, checked, find_faults, sort};
pub use dedup::dedup;
pub use fold::fold;
pub use narrow::{channel_range, narrow};
pub use normalise::{OPSET, normalise};
pub use prune::prune;
pub use single::single;
