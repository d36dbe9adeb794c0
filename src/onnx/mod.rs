//! An ONNX graph as a value: read, write, attributes, types, passes. No tokio, no ort; files only to read a model.

pub mod graph;
