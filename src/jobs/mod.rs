//! Durable jobs: leased shards with fenced writes. A [`Kind`] plans a request into shards, works
//! each, and reduces their results; the [`queue`] submits and looks, the [`runner`] leases and
//! works, the [`store`] keeps all of it. The reduction is a shard too, leased when the others are
//! done: whoever dies anywhere loses the shards it held, and nothing else.

mod connection;
mod crash;
mod error;
pub mod kind;
pub mod kinds;
pub mod local;
pub mod queue;
pub mod registry;
mod results;
pub mod runner;
mod shard_results;
pub mod store;
pub mod watch;

pub use error::{JobError, WorkError};
pub use kind::{Context, Format, Kind, Kinds, Plan, Report};
pub use shard_results::{Results, ShardResults};
pub use store::{PlannedShard, Shard};
