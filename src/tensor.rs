//! f32 data with a shape, row-major: what travels between images, models and attributions.

/// A dense float tensor. One sample has no batch axis (`[3, 224, 224]`); a batch has it first.
pub type Tensor = ndarray::ArrayD<f32>;
