//! An input as channels of pixels, for methods that change pixels: an input with three axes has its
//! channels, height and width, one with two axes is a plane, and all others are one row of pixels.

use crate::{picture::preprocess::Layout, tensor::Tensor};

/// How many channels, rows and columns an input has, and how its elements lie in row-major order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) channels: usize,
    pub(super) sides: [usize; 2],
    /// Height and width come before the channels.
    is_channels_last: bool,
}

impl Pixels {
    pub(super) fn of(shape: &[usize], layout: Layout) -> Self {
        let is_channels_last = shape.len() == 3 && layout == Layout::Nhwc;
        let (channels, sides) = match *shape {
            [height, width, channels] if is_channels_last => (channels, [height, width]),
            [channels, height, width] => (channels, [height, width]),
            [height, width] => (1, [height, width]),
            _ => (1, [1, shape.iter().product()]),
        };
        Self {
            channels,
            sides,
            is_channels_last,
        }
    }

    /// The place of an element in row-major order.
    pub(super) fn place(&self, channel: usize, [y, x]: [usize; 2]) -> usize {
        let [height, width] = self.sides;
        match self.is_channels_last {
            true => (y * width + x) * self.channels + channel,
            false => (channel * height + y) * width + x,
        }
    }

    /// Multiplies every channel of each pixel by that pixel's value of the mask.
    pub(super) fn multiply(&self, elements: &mut [f32], mask: &[f32]) {
        if self.is_channels_last {
            for (pixel, value) in elements.chunks_mut(self.channels.max(1)).zip(mask) {
                pixel.iter_mut().for_each(|element| *element *= value);
            }
        } else {
            for plane in elements.chunks_mut(mask.len().max(1)) {
                for (element, value) in plane.iter_mut().zip(mask) {
                    *element *= value;
                }
            }
        }
    }

    /// The shape of a map with one value for each pixel of an input of this shape.
    pub(super) fn map_shape(&self, shape: &[usize]) -> Vec<usize> {
        let [height, width] = self.sides;
        match (shape.len(), self.is_channels_last) {
            (3, true) => vec![height, width, 1],
            (3, false) => vec![1, height, width],
            _ => shape.to_vec(),
        }
    }
}

/// Values in row-major order as a tensor; zeros should their number not be that of the shape.
pub(super) fn map_of(shape: Vec<usize>, values: Vec<f32>) -> Tensor {
    Tensor::from_shape_vec(shape.clone(), values).unwrap_or_else(|_| Tensor::zeros(shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_row_major_order_whatever_the_axes() {
        for (shape, layout) in [
            (vec![3, 4, 5], Layout::Nchw),
            (vec![4, 5, 3], Layout::Nhwc),
            (vec![4, 5], Layout::Nchw),
            (vec![7], Layout::Nhwc),
            (vec![2, 3, 2, 2], Layout::Nchw),
        ] {
            let pixels = Pixels::of(&shape, layout);
            let mut places: Vec<usize> = (0..pixels.channels)
                .flat_map(|c| (0..pixels.sides[0]).map(move |y| (c, y)))
                .flat_map(|(c, y)| (0..pixels.sides[1]).map(move |x| pixels.place(c, [y, x])))
                .collect();
            places.sort_unstable();
            let count = shape.iter().product();
            assert_eq!(places, (0..count).collect::<Vec<_>>(), "{shape:?}");
            let map: usize = pixels.map_shape(&shape).iter().product();
            assert_eq!(map * pixels.channels, count);
        }
        assert_eq!(Pixels::of(&[4, 5, 3], Layout::Nhwc).place(2, [1, 3]), 26);
        assert_eq!(Pixels::of(&[3, 4, 5], Layout::Nchw).place(2, [1, 3]), 48);
    }
}
