//! Jobs, shards and events in SQLite or PostgreSQL: the same verbs and, but for a few words, the
//! same SQL. Leases are fenced: every write about a shard repeats the lease's token, so that a late
//! worker changes nothing. A result and what follows from it are written in one transaction. Rows
//! are locked in the order shards, jobs, events.

mod connection;
mod error;
mod event;
mod lease;
mod read;
mod shard;
mod state;
mod submit;

pub use connection::Store;
pub use error::StoreError;
pub use event::Event;
pub use lease::{Acked, Lease, MAX_FAILURES, MAX_LOSSES, Renewed};
pub use read::{Filter, Head, Job, ShardError};
pub use shard::{PlannedShard, Shard};
pub use state::JobState;
pub use submit::{NewJob, Submitted};
