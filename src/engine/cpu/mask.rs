//! Conditions as bit masks, so that kernels select without a jump and the compiler can vectorise.

/// All bits, or none.
pub fn mask(condition: bool) -> u32 {
    u32::from(condition).wrapping_neg()
}
