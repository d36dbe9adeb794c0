//! Durable jobs against SQLite and a real PostgreSQL: the store's verbs, the runner, crashes
//! at any point, processes that are killed and frozen, replicas that have the database and
//! a store of files in common.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod bam;
mod bam_models;
mod bench;
mod benchmark;
mod cli;
mod crash;
mod databases;
mod evaluations;
mod faults;
mod gad_train;
mod kinds;
mod processes;
mod reload;
mod replicas;
mod runner;
mod s3;
mod served;
mod shutdown;
mod snapshot;
mod store;
mod tcav;
mod train;
mod training;
mod uploads;
