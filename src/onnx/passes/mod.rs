//! Rewrites of a graph. Each pass is a function from graph to graph; `checked` verifies its result and names the pass that broke it.

mod check;

pub use check::{check, checked, find_faults, sort};
