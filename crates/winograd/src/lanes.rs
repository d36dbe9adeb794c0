//! The channels of a block as one vector of the processor.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _CMP_GT_OQ, _mm256_add_ps, _mm256_and_ps, _mm256_cmp_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm256_sub_ps, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_sub_ps,
};

/// A vector of `L` numbers.
///
/// Its methods are inlined into functions that enable the instructions, and are called from nowhere
/// else.
pub(crate) trait Lanes<const L: usize>: Copy {
    /// The number in all lanes.
    fn splat(number: f32) -> Self;
    fn load(from: &[f32; L]) -> Self;
    fn store(self, to: &mut [f32; L]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    /// `self * factor + addend`.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// 0 in lanes that are below.
    fn relu(self) -> Self;
    /// 0 in lanes where `values` is not above 0.
    fn gate(self, values: Self) -> Self;
}

/// For every processor.
impl<const L: usize> Lanes<L> for [f32; L] {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        [number; L]
    }

    #[inline(always)]
    fn load(from: &[f32; L]) -> Self {
        *from
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; L]) {
        *to = self;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * factor[lane] + addend[lane])
    }

    #[inline(always)]
    fn relu(self) -> Self {
        self.map(|number| if number < 0.0 { 0.0 } else { number })
    }

    #[inline(always)]
    fn gate(self, values: Self) -> Self {
        std::array::from_fn(|lane| if values[lane] > 0.0 { self[lane] } else { 0.0 })
    }
}

// SAFETY of the functions below: they are inlined into functions that enable the instructions;
// pointers are those of references.

#[cfg(target_arch = "x86_64")]
impl Lanes<16> for __m512 {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    fn load(from: &[f32; 16]) -> Self {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, addend) }
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // The second operand where the first is not a number.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), self) }
    }

    #[inline(always)]
    fn gate(self, values: Self) -> Self {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(above, self)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes<8> for __m256 {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    fn load(from: &[f32; 8]) -> Self {
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 8]) {
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, addend) }
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // The second operand where the first is not a number.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), self) }
    }

    #[inline(always)]
    fn gate(self, values: Self) -> Self {
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(values, _mm256_setzero_ps());
            _mm256_and_ps(above, self)
        }
    }
}
