//! Outlines of the regions that hold most of an attribution, per sign: morphological closing and
//! opening (3 x 3) of the drawn pixels; the strongest connected components (8 neighbours) that
//! together hold 90 % of the strength; their projection onto the picture; the border of it.

use ndarray::{Array2, Axis, Zip, s};

use crate::picture::geometry::{Area, Placement, Projected};

/// Share of the total strength that the kept regions hold.
const KEPT: f64 = 0.9;
/// A rim's width as a share of the picture's longest side.
const RIM: f32 = 1.0 / 300.0;

/// Rims of the regions of `strengths` (in -1..=1) on a picture: 1 or -1 on a rim, else 0. `None`
/// when the plane does not have the model's size.
pub fn outline(strengths: &Array2<f32>, placement: &Placement) -> Option<Projected> {
    let mut rims: Option<Projected> = None;
    for sign in [1.0, -1.0] {
        let one_sign = strengths.mapv(|value| (value * sign).max(0.0));
        let regions = keep_strongest(&clean(&one_sign.mapv(|value| value > 0.0)), &one_sign);
        let (rim, area) = rim_of(&regions, placement)?;
        let target = rims.get_or_insert_with(|| Projected {
            plane: Array2::zeros(rim.dim()),
            area,
        });
        Zip::from(&mut target.plane)
            .and(&rim)
            .for_each(|value, on| {
                if *on {
                    *value = sign;
                }
            });
    }
    rims
}

/// The rim of a region of the model's input on a picture, and where on the picture it lies. `None`
/// when the region does not have the model's size.
pub fn rim_of(region: &Array2<bool>, placement: &Placement) -> Option<(Array2<bool>, Area)> {
    let plane = region.mapv(|is_inside| if is_inside { 1.0 } else { 0.0 });
    let projected = placement.project(plane.view())?;
    let longest = placement.picture.0.max(placement.picture.1) as f32;
    let width = (RIM * longest).round().max(1.0) as usize;
    let rim = rim(&projected.plane.mapv(|value| value > 0.5), width);
    Some((rim, projected.area))
}

/// A morphological closing, then an opening; if the opening leaves nothing, only the closing.
fn clean(mask: &Array2<bool>) -> Array2<bool> {
    // Pads with a margin, so that regions at the edge do not grow into it.
    let (height, width) = mask.dim();
    let within = s![2..height + 2, 2..width + 2];
    let mut wide = Array2::from_elem((height + 4, width + 4), false);
    wide.slice_mut(within).assign(mask);
    let closed = erode(&dilate(&wide, 1), 1);
    let opened = dilate(&erode(&closed, 1), 1);
    let kept = if opened.iter().any(|inside| *inside) {
        opened
    } else {
        closed
    };
    kept.slice(within).to_owned()
}

/// The pixels of a region that lie within `width` of its border. The plane's own edge is no border.
fn rim(regions: &Array2<bool>, width: usize) -> Array2<bool> {
    let inner = erode(regions, width);
    Zip::from(regions)
        .and(&inner)
        .map_collect(|region, inner| *region && !inner)
}

/// Erosion by a square: whether every pixel within `reach` is set (cut at the edges).
fn erode(mask: &Array2<bool>, reach: usize) -> Array2<bool> {
    !dilate(&!mask.clone(), reach)
}

/// Dilation by a square: whether any pixel within `reach` is set.
fn dilate(mask: &Array2<bool>, reach: usize) -> Array2<bool> {
    let mut wide = mask.clone();
    for axis in [Axis(1), Axis(0)] {
        for mut lane in wide.lanes_mut(axis) {
            let set: Vec<usize> = lane
                .iter()
                .enumerate()
                .filter(|(_, on)| **on)
                .map(|(at, _)| at)
                .collect();
            let mut filled = 0;
            for at in set {
                let end = (at + reach + 1).min(lane.len());
                for covered in at.saturating_sub(reach).max(filled)..end {
                    lane[covered] = true;
                }
                filled = end;
            }
        }
    }
    wide
}

/// The strongest connected regions that together hold [`KEPT`] of the strength of all.
fn keep_strongest(mask: &Array2<bool>, strengths: &Array2<f32>) -> Array2<bool> {
    let mut open = mask.clone();
    let mut regions = Vec::new();
    for (start, inside) in mask.indexed_iter() {
        if *inside && open[start] {
            let pixels = take_region(&mut open, start);
            let mass: f64 = pixels.iter().map(|at| f64::from(strengths[*at])).sum();
            regions.push((mass, pixels));
        }
    }
    regions.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let wanted = KEPT * regions.iter().map(|(mass, _)| mass).sum::<f64>();
    let mut kept = Array2::from_elem(mask.dim(), false);
    let mut held = 0.0;
    for (mass, pixels) in regions {
        if held >= wanted {
            break;
        }
        held += mass;
        pixels.into_iter().for_each(|at| kept[at] = true);
    }
    kept
}

/// Clears and returns the pixels connected to `start`.
fn take_region(open: &mut Array2<bool>, start: (usize, usize)) -> Vec<(usize, usize)> {
    let (height, width) = open.dim();
    open[start] = false;
    let mut pixels = vec![start];
    let mut next = 0;
    while next < pixels.len() {
        let (y, x) = pixels[next];
        for row in y.saturating_sub(1)..(y + 2).min(height) {
            for column in x.saturating_sub(1)..(x + 2).min(width) {
                if std::mem::take(&mut open[(row, column)]) {
                    pixels.push((row, column));
                }
            }
        }
        next += 1;
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Array2<bool> {
        let width = rows[0].len();
        Array2::from_shape_fn((rows.len(), width), |(y, x)| rows[y].as_bytes()[x] == b'#')
    }

    #[test]
    fn a_rim_surrounds_a_region_but_not_the_edge_of_the_picture() {
        let region = mask(&["###...", "###...", "###...", "......"]);
        assert_eq!(
            rim(&region, 1),
            mask(&["..#...", "..#...", "###...", "......"])
        );
    }

    #[test]
    fn cleaning_fills_holes_and_drops_specks() {
        let rough = mask(&["........", ".###....", ".#.#....", ".###..#.", "........"]);
        assert_eq!(
            clean(&rough),
            mask(&["........", ".###....", ".###....", ".###....", "........"])
        );
        let specks = mask(&["#....", "....#"]);
        assert_eq!(clean(&specks), specks);
    }

    #[test]
    fn the_strongest_regions_stay() {
        let regions = mask(&["##..#", "#....", "...##"]);
        let strengths =
            Array2::from_shape_fn((3, 5), |(y, x)| if (y, x) == (0, 4) { 0.1 } else { 1.0 });
        assert_eq!(
            keep_strongest(&regions, &strengths),
            mask(&["##...", "#....", "...##"])
        );
    }
}
