//! How large an upload may be.

/// Limits of an upload. All are checked before any pixel is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the encoded file.
    pub max_bytes: usize,
    /// Width times height.
    pub max_pixels: u64,
    /// Of either side, in pixels.
    pub max_side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_bytes: 20 << 20,
            max_pixels: 40_000_000,
            max_side: 16_384,
        }
    }
}
