//! What methods that look at a layer share: the parameter `layer`, the layer's values by channel and
//! place, and maps brought to the input's height and width. A layer is a feature map or a grid of
//! tokens; class and register tokens are left out.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView1, ArrayView2, Axis, s};
use serde_json::json;

use super::{
    RunInputs,
    parameters::{Group, Kind, Parameter, Parameters},
};
use crate::{faults::Fault, picture::preprocess::Layout, tensor::Tensor, text::excerpt};
use onnx_autodiff::autodiff::spec::{DeriveSpec, Grid, Layer};

/// Of methods that look at a layer.
#[derive(Clone, Debug, Default)]
struct LayerParameters {
    /// Those that the model has.
    choices: Arc<[Layer]>,
    /// None of a model that has none to look at.
    name: Option<String>,
}

pub static LAYER: Group = Group {
    parameters: &[Parameter {
        name: "layer",
        kind: Kind::Name {
            form: "a layer of the model with height and width or a grid of tokens (GET /models/{id} lists them)",
            among: |facts| {
                facts
                    .layers
                    .iter()
                    .map(|layer| layer.name.clone())
                    .collect()
            },
            set: |p, layer| p.change(|own: &mut LayerParameters| own.name = Some(layer)),
        },
        doc: "The layer whose activations are weighted: a feature map or a grid of tokens.",
        from_model: true,
        get: |p| layer_of(p).map(|layer| json!(layer.name)),
    }],
    from_model: |p, facts| {
        let (choices, name) = (facts.layers.into(), facts.layer.map(str::to_owned));
        p.change(|own: &mut LayerParameters| *own = LayerParameters { choices, name });
    },
    check: |p, _, _, faults| {
        if layer_of(p).is_none() {
            faults.push(Fault::says(
                "layer",
                "the model has no layer with height and width or a grid of tokens between its input and its head",
            ));
        }
    },
};

/// The layer that is looked at; none of methods that look at none.
pub fn layer_of(parameters: &Parameters) -> Option<Layer> {
    let LayerParameters { choices, name } = parameters.group();
    let name = name?;
    choices.iter().find(|layer| layer.name == name).cloned()
}

/// For sentences about the layer.
pub(super) fn layer_name(parameters: &Parameters) -> String {
    layer_of(parameters).map_or_else(String::new, |layer| excerpt(&layer.name).into_owned())
}

/// The forward pass, with the values of the layer.
pub(super) fn forward_spec(parameters: &Parameters) -> DeriveSpec {
    DeriveSpec {
        outputs: layer_of(parameters)
            .map(|layer| layer.name)
            .into_iter()
            .collect(),
        ..DeriveSpec::forward()
    }
}

/// `[channels, height, width]` of a value of the layer; none of what is not in its shape.
pub(super) fn by_channel(value: &Tensor, layer: &Layer) -> Option<Array3<f32>> {
    if value.shape() != layer.shape {
        return None;
    }
    let Grid {
        channels,
        first,
        height,
        width,
    } = layer.grid;
    let count = layer.shape[channels];
    let mut turned = value.view();
    let order: Vec<usize> = std::iter::once(channels)
        .chain((0..layer.shape.len()).filter(|axis| *axis != channels))
        .collect();
    turned = turned.permuted_axes(order);
    let places = turned.len() / count.max(1);
    let flat = Array2::from_shape_vec((count, places), turned.iter().copied().collect()).ok()?;
    let last = first + height * width;
    let inside = (last <= places).then(|| flat.slice(s![.., first..last]))?;
    Array3::from_shape_vec((count, height, width), inside.iter().copied().collect()).ok()
}

/// The part of a score for each token that the grid holds, as a map.
pub(super) fn on_grid(scores: ArrayView1<'_, f64>, grid: &Grid) -> Option<Array2<f64>> {
    let (first, size) = (grid.first, grid.height * grid.width);
    let inside = scores.iter().skip(first).take(size).copied().collect();
    Array2::from_shape_vec((grid.height, grid.width), inside).ok()
}

/// A map in the input's size with a single channel, in the input's layout: bilinear, pixel centres at
/// halves, edges repeated (PyTorch's `interpolate` with `align_corners=False`). Zeros for an input
/// without height and width.
pub(super) fn in_input_size(map: &Array2<f64>, inputs: &RunInputs) -> Tensor {
    let Some((channels, size)) = size_of(inputs) else {
        return Tensor::zeros(inputs.input.raw_dim());
    };
    resize(map.view(), size, Corners::Apart)
        .mapv(|score| score as f32)
        .insert_axis(channels)
        .into_dyn()
}

/// The axis of the channels, and height and width.
pub(super) fn size_of(inputs: &RunInputs) -> Option<(Axis, (usize, usize))> {
    match (inputs.layout, inputs.input.shape()) {
        (Layout::Nchw, &[_, rows, columns]) => Some((Axis(0), (rows, columns))),
        (Layout::Nhwc, &[rows, columns, _]) => Some((Axis(2), (rows, columns))),
        _ => None,
    }
}

/// `f64::max` would take a NaN for 0.
pub(super) fn rectify(sums: Array2<f64>) -> Array2<f64> {
    sums.mapv_into(|sum| if sum < 0.0 { 0.0 } else { sum })
}

/// Where the pixels of two sizes lie over each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Corners {
    /// Edges on edges.
    Apart,
    /// Centres of corner pixels on centres of corner pixels (`align_corners=True`).
    Aligned,
}

pub(super) fn resize(
    map: ArrayView2<'_, f64>,
    (height, width): (usize, usize),
    corners: Corners,
) -> Array2<f64> {
    let rows = places(map.nrows(), height, corners);
    let columns = places(map.ncols(), width, corners);
    Array2::from_shape_fn((height, width), |(y, x)| {
        let ((top, bottom, down), (left, right, across)) = (rows[y], columns[x]);
        let along = |row: usize| map[[row, left]] * (1.0 - across) + map[[row, right]] * across;
        along(top) * (1.0 - down) + along(bottom) * down
    })
}

/// For each of `to` places the two of `from` places around it, and the share of the second.
fn places(from: usize, to: usize, corners: Corners) -> Vec<(usize, usize, f64)> {
    let last = from.saturating_sub(1);
    let place = |at: usize| {
        let centre = match corners {
            Corners::Apart => (at as f64 + 0.5) * from as f64 / to as f64 - 0.5,
            Corners::Aligned => at as f64 * last as f64 / to.saturating_sub(1).max(1) as f64,
        };
        let centre = centre.clamp(0.0, last as f64);
        let first = (centre as usize).min(last);
        (first, (first + 1).min(last), centre - first as f64)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};

    use super::*;

    #[test]
    fn two_places_become_four_as_pixel_centres_lie() {
        let apart = |map: Array2<f64>, size| resize(map.view(), size, Corners::Apart);
        let wide = apart(array![[0.0, 1.0]], (1, 4));
        assert_eq!(wide, array![[0.0, 0.25, 0.75, 1.0]]);
        let shrunk = apart(array![[0.0, 1.0, 2.0, 3.0]], (2, 2));
        assert_eq!(shrunk, array![[0.5, 2.5], [0.5, 2.5]]);
        assert_eq!(apart(array![[7.0]], (3, 2)), Array2::from_elem((3, 2), 7.0));
        let same = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        assert_eq!(apart(same.clone(), (2, 3)), same);
    }

    #[test]
    fn aligned_corners_stay_where_they_are() {
        let aligned = |map: Array2<f64>, size| resize(map.view(), size, Corners::Aligned);
        assert_eq!(
            aligned(array![[0.0, 3.0]], (1, 4)),
            array![[0.0, 1.0, 2.0, 3.0]]
        );
        assert_eq!(aligned(array![[2.0, 4.0]], (1, 1)), array![[2.0]]);
    }

    #[test]
    fn what_is_not_finite_stays() {
        let rectified = rectify(array![[f64::NAN, -1.0, f64::INFINITY]]);
        assert!(
            rectified[[0, 0]].is_nan()
                && rectified[[0, 1]] == 0.0
                && rectified[[0, 2]].is_infinite()
        );
    }

    #[test]
    fn each_layout_gives_the_same_channels_and_class_tokens_are_left_out() {
        let expected = Array3::from_shape_fn((2, 2, 3), |(c, y, x)| (100 * c + 10 * y + x) as f32);
        let layer = |shape: &[usize], channels: usize, first: usize| Layer {
            name: "layer".into(),
            shape: shape.to_vec(),
            grid: Grid {
                channels,
                first,
                height: 2,
                width: 3,
            },
        };
        let nchw = expected.clone().into_dyn();
        assert_eq!(
            by_channel(&nchw, &layer(&[2, 2, 3], 0, 0)).unwrap(),
            expected
        );
        let nhwc = nchw.clone().permuted_axes(vec![1, 2, 0]);
        assert_eq!(
            by_channel(&nhwc, &layer(&[2, 3, 2], 2, 0)).unwrap(),
            expected
        );
        let mut tokens = Array2::from_elem((8, 2), f32::NAN);
        let grid = Array2::from_shape_vec((6, 2), nhwc.iter().copied().collect()).unwrap();
        tokens.slice_mut(s![1..7, ..]).assign(&grid);
        let layer = layer(&[8, 2], 1, 1);
        assert_eq!(by_channel(&tokens.into_dyn(), &layer).unwrap(), expected);
        assert!(by_channel(&nchw, &layer).is_none());
        let scores = Array1::from_iter((0..8).map(f64::from));
        assert_eq!(
            on_grid(scores.view(), &layer.grid).unwrap(),
            array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        );
    }
}
