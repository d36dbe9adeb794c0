//! Bytes -> pixels -> tensor, and back: decode, preprocess, geometry, baseline.
