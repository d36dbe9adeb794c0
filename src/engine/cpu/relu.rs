//! The gradient of a ReLU, for any layout that its tensors share: it is elementwise.

use super::mask::mask;

/// The gradient of a ReLU with output `y`: `dx` is `dy` where `y` is above 0, else 0. A shorter
/// `dy` is repeated.
pub(crate) fn gate(dy: &[f32], y: &[f32], dx: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        return unsafe { gate_avx2(dy, y, dx) };
    }
    gate_by(dy, y, dx);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn gate_avx2(dy: &[f32], y: &[f32], dx: &mut [f32]) {
    gate_by(dy, y, dx);
}

#[inline(always)]
fn gate_by(dy: &[f32], y: &[f32], dx: &mut [f32]) {
    for (y, dx) in y.chunks(dy.len()).zip(dx.chunks_mut(dy.len())) {
        dx.iter_mut()
            .zip(y)
            .zip(dy)
            .for_each(|((dx, y), dy)| *dx = gated(*dy, *y));
    }
}

/// [`gate`] in place: `dx` holds `dy`.
pub(crate) fn gate_in_place(y: &[f32], dx: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        return unsafe { gate_in_place_avx2(y, dx) };
    }
    gate_in_place_by(y, dx);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn gate_in_place_avx2(y: &[f32], dx: &mut [f32]) {
    gate_in_place_by(y, dx);
}

#[inline(always)]
fn gate_in_place_by(y: &[f32], dx: &mut [f32]) {
    dx.iter_mut()
        .zip(y)
        .for_each(|(dx, y)| *dx = gated(*dx, *y));
}

fn gated(dy: f32, y: f32) -> f32 {
    f32::from_bits(dy.to_bits() & mask(y > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_through_where_the_relu_did() {
        let y = [1.0, 0.0, -1.0, 2.0, f32::NAN, 1e-45];
        let mut dx = [9.0; 6];
        gate(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &y, &mut dx);
        assert_eq!(dx, [1.0, 0.0, 0.0, 4.0, 0.0, 6.0]);
        gate(&[7.0, 8.0], &y, &mut dx);
        assert_eq!(dx, [7.0, 0.0, 0.0, 8.0, 0.0, 8.0]);
        gate_in_place(&[0.0, 1.0, 1.0, 0.0, 1.0, 1.0], &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 0.0, 0.0, 8.0]);
    }
}
