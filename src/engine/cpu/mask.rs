//! Conditions as bit masks: kernels select without branches, so that the compiler can vectorise.

/// All bits set if true, else none.
pub(super) fn mask(condition: bool) -> u32 {
    u32::from(condition).wrapping_neg()
}
