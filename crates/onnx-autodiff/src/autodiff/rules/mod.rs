//! One small function per op, by family. Each op's formula stands at its function; `dy` is the
//! cotangent of the output.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod convolution;
pub(crate) mod einsum;
pub(crate) mod elementwise;
pub(crate) mod indexing;
pub(crate) mod interpolation;
pub(crate) mod matrix;
pub(crate) mod normalisation;
pub(crate) mod pooling;
pub(crate) mod quantisation;
pub(crate) mod reduction;
pub(crate) mod relevance;
pub(crate) mod resampling;
pub(crate) mod shape;
pub(crate) mod softmax;
pub(crate) mod table;
pub(crate) mod window;
