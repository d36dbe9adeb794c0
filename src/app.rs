//! Wires the rooms together: what the server, the command line and the tests call.

pub mod npy;
