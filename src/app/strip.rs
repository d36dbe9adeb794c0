//! The maps of one input by a model and its supports side by side, and what the method makes of them:
//! like Figure 3 of the GAD paper.

use std::sync::Arc;

use image::RgbImage;

use super::{
    AppError,
    render::{FRAME_NOTE, ends},
};
use crate::{
    faults::Fault,
    methods::{ComparedMaps, Explained},
    picture::{geometry::Geometry, preprocess::Layout},
    render::{
        frame::Caption,
        grid::{Cell, lay_out},
        ground::Ground,
        heatmap::draw,
        legend::Legend,
        options::{HeatmapOptions, SIZES, Scale},
    },
    tensor::Tensor,
};

/// Longest side of each picture, in pixels: the most, and where no size is asked for.
const MOST_SIDE: u32 = 512;
const SIDE: u32 = 256;
/// Most pictures in a row.
const COLUMNS: usize = 6;

/// Pictures that would be too large beside one another.
pub(super) fn strip_fault(options: &HeatmapOptions) -> Option<Fault> {
    let is_large = options.size.is_some_and(|size| size > MOST_SIDE);
    let message = "the pictures of include=supports are smaller: there are many";
    is_large.then(|| {
        Fault::new(
            "size",
            message,
            [format!("{} to {MOST_SIDE}", SIZES.start())],
        )
    })
}

/// A picture for each map, those of the supports by alpha.
pub(super) fn strip(
    (upload, geometry): (&RgbImage, &Geometry),
    explained: &Explained,
    compared: &ComparedMaps,
    layout: Layout,
    options: &HeatmapOptions,
) -> Result<(RgbImage, Vec<String>), AppError> {
    let parameters = &explained.parameters;
    let by_support = compared.supports.iter();
    let by_support = by_support.map(|(alpha, map)| (format!("support {alpha}"), map));
    let result = (
        parameters.method.short.to_owned(),
        &explained.attribution.scores,
    );
    let maps: Vec<(String, &Arc<Tensor>)> = [("model".to_owned(), &compared.own)]
        .into_iter()
        .chain(by_support)
        .chain([result])
        .collect();
    let ground = Ground::new(upload, geometry, options, |_| SIDE)?;
    let scores: Vec<_> = maps.iter().map(|(_, map)| (*map).clone()).collect();
    let drawn = draw(&ground, &scores, layout, options)?;
    let base = parameters.base.map_or("", |base| base.short);
    let cells = maps.iter().zip(&drawn).map(|((title, _), heatmap)| Cell {
        caption: Caption {
            title: title.clone(),
            note: base.to_owned(),
        },
        picture: heatmap.overlay.image(),
    });
    let legend = options.legend.then(|| Legend {
        title: format!("sensitivity of {}", explained.target),
        bounds: drawn
            .first()
            .and_then(|heatmap| heatmap.bounds)
            .filter(|_| options.scale == Scale::Shared),
        options: options.clone(),
        ends: ends(parameters.method),
        note: String::new(),
    });
    let is_framed = drawn.iter().any(|heatmap| heatmap.overlay.is_framed());
    let note = if is_framed { FRAME_NOTE } else { "" };
    let columns = maps.len().min(COLUMNS);
    let picture = lay_out(&[cells.collect()], columns, legend.as_slice(), note)?;
    let warnings = drawn
        .last()
        .map_or_else(Vec::new, |heatmap| heatmap.warnings.clone());
    Ok((picture, warnings))
}
