//! One small function per op, by family. Each op's formula stands at its function; `dy` is the
//! cotangent of the output.

pub mod activation;
pub mod convolution;
pub mod elementwise;
pub mod matrix;
pub mod normalisation;
pub mod pooling;
pub mod reduction;
pub mod resampling;
pub mod shape;
pub mod softmax;
pub mod table;
pub mod window;
