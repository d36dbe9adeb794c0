//! The gradient of 2-D max pooling as a kernel: one pass that finds each window's first maximum again and adds its cotangent there.
//!
//! ONNX has no such operator; its `MaxPool` with `Indices` and `ScatterElements` gives the same numbers in several times the time
//! and keeps the pooled convolution out of the runtime's blocked layout. Cost: one reading of x and dy, one writing of dx.

/// A pooling window over the two spatial axes. Padding at the end follows from the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column; never chosen as a maximum.
    pub pads: [usize; 2],
}

impl Window {
    /// Where along `axis` the window of output `index` reads: first position, one past the last, step.
    fn span(&self, axis: usize, index: usize, size: usize) -> (usize, usize, usize) {
        let step = self.dilations[axis];
        let origin = index * self.strides[axis];
        let end = (origin + (self.kernel[axis] - 1) * step + 1).saturating_sub(self.pads[axis]).min(size);
        // Taps that fall on the padding are skipped in whole steps.
        let skipped = self.pads[axis].saturating_sub(origin).div_ceil(step);
        ((origin + skipped * step).saturating_sub(self.pads[axis]), end, step)
    }
}

/// Writes the cotangent of one plane's input: `x` and `dx` of `[height, width]`, `dy` of `[rows, columns]` outputs.
/// A tie goes to the first maximum in row-major order.
pub fn max_pool_gradient(
    window: &Window,
    x: &[f32],
    [height, width]: [usize; 2],
    dy: &[f32],
    columns: usize,
    dx: &mut [f32],
) {
    dx.fill(0.0);
    for (row, cotangents) in dy.chunks_exact(columns).enumerate() {
        let (top, bottom, down) = window.span(0, row, height);
        for (column, cotangent) in cotangents.iter().enumerate() {
            let (left, right, across) = window.span(1, column, width);
            let mut first = (f32::NEG_INFINITY, top * width + left);
            for line in (top..bottom).step_by(down).map(|y| y * width) {
                for at in (line + left..line + right).step_by(across) {
                    if x[at] > first.0 {
                        first = (x[at], at);
                    }
                }
            }
            if let Some(at) = dx.get_mut(first.1) {
                *at += cotangent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window {
        Window { kernel: [kernel; 2], strides: [stride; 2], dilations: [dilation; 2], pads: [pad; 2] }
    }

    #[test]
    fn overlapping_windows_add_up_at_a_shared_maximum() {
        let x = [0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let mut dx = [f32::NAN; 9];
        max_pool_gradient(&window(2, 1, 1, 0), &x, [3, 3], &[1.0, 2.0, 4.0, 8.0], 2, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 0.0, 15.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_tie_goes_to_the_first_maximum() {
        let mut dx = [f32::NAN; 4];
        max_pool_gradient(&window(2, 2, 1, 0), &[-1.0, 3.0, 3.0, 3.0], [2, 2], &[5.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 5.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_never_wins_over_negative_values() {
        let mut dx = [f32::NAN; 4];
        max_pool_gradient(&window(3, 2, 1, 1), &[-4.0, -3.0, -2.0, -1.0], [2, 2], &[7.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 7.0]);
    }

    #[test]
    fn dilated_taps_skip_the_padding_in_whole_steps() {
        // One axis of the window reads positions -1, 1, 3 of 5: the first lies on the padding.
        let w = Window { kernel: [1, 3], strides: [1, 1], dilations: [1, 2], pads: [0, 1] };
        assert_eq!(w.span(1, 0, 5), (1, 4, 2));
        let mut dx = [f32::NAN; 5];
        max_pool_gradient(&w, &[9.0, 1.0, 9.0, 2.0, 9.0], [1, 5], &[1.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
