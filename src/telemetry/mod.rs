//! Tracing spans and Prometheus names.
