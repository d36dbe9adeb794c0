//! Durable jobs against SQLite and a real PostgreSQL: the store's verbs, the runner, crashes between any two steps, processes that
//! are killed and frozen.

mod benchmark;
mod cli;
mod crash;
mod databases;
mod faults;
mod kinds;
mod processes;
mod runner;
mod store;
