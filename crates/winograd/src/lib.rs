//! Convolutions of 3 x 3 taps and stride 1 by Winograd's minimal filtering, F(4 x 4, 3 x 3): for a
//! tile of 4 x 4 outputs, Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A takes 36 products for each pair of channels
//! in place of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
//! arXiv:1509.09308, section 4.2). Images are NCHWc, ONNX Runtime's layout
//! `[batch, channels / b, height, width, b]`.
//!
//! [`Filter`] transforms a weight once; [`Convolution`] does the rest, in independent [`Task`]s: for
//! some rows of tiles, it transforms the inputs of all channels; then, for two blocks of outputs at a
//! time, it multiplies them with the weight, a matrix product for each of the 36 points whose sums
//! are in registers, transforms the products back and applies the [`Epilogue`].
//!
//! A sum over input channels has one order, whatever the batch, the tasks and the threads: the same
//! image and weight give the same bytes on processors with the same instructions.

mod filter;
mod lanes;
mod tiles;

pub use filter::Filter;
pub use tiles::{Convolution, Epilogue, Scratch, Task};

/// Rows and columns of the outputs of a tile.
const OUTPUTS: usize = 4;
/// Rows and columns of its inputs.
const SIDE: usize = OUTPUTS + 2;
/// Products of a tile and a pair of channels.
const POINTS: usize = SIDE * SIDE;

/// Whether the processor has the instructions that make blocks of this size worth while: AVX-512 for
/// 16 channels, AVX2 and FMA for 8.
pub fn suits(block_size: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return match block_size {
        16 => is_x86_feature_detected!("avx512f"),
        8 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        _ => false,
    };
    #[cfg(not(target_arch = "x86_64"))]
    return block_size == 0;
}
