//! How large a model and its values may be.

/// Bytes of the largest protobuf message, and so of a model in one piece.
pub const LARGEST_MODEL: usize = i32::MAX as usize;
/// Dimensions stay below this, so that sums and products of a few of them do not overflow.
pub(super) const LARGEST_SIZE: usize = i32::MAX as usize;
/// Elements that a value may have in one row of the batch: 1 GiB of float32.
pub(super) const LARGEST_TENSOR: usize = 1 << 28;
pub(super) const LARGEST_RANK: usize = 32;
/// Integers of a shape that are followed through a graph.
pub(super) const LONGEST_SHAPE: usize = 64;
/// Classifiers have a few thousand nodes; ONNX Runtime takes minutes to open a chain of 50,000.
pub(super) const MAX_NODES: usize = 20_000;
