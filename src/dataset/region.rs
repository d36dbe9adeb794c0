//! Where the labelled object of an image lies, by a mask or by boxes, in the pixels of a model's
//! input.

use image::RgbaImage;
use ndarray::Array2;

use super::{Dataset, DatasetError};
use crate::{
    picture::{
        decode::{LabelImage, Limits, decode_with_alpha},
        geometry::Geometry,
    },
    text::excerpt,
};

/// The columns of a box in the label table.
pub(super) const EDGES: [&str; 4] = ["x0", "y0", "x1", "y1"];

/// A rectangle of an upright image, from its left and top edges to its right and bottom edges, in
/// pixels from the image's top left corner. Of a pixel at column x the edges are x and x + 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    pub x0: f64,
    pub y0: f64,
    pub x1: f64,
    pub y1: f64,
}

/// The file of a mask: an image of the size of the image that it belongs to. The object is where
/// pixels are neither black nor transparent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Path below the set's folder, parts joined by `/`.
    pub file: String,
    /// SHA-256 of the file, hex.
    pub hash: String,
}

/// An invalid field of a box.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadEdge {
    pub column: &'static str,
    pub reason: String,
}

impl BoundingBox {
    /// A box from the fields of the columns [`EDGES`]; `None` if all are empty. `size` is the width
    /// and height of the image `file`, if they are known.
    pub(super) fn parse(
        fields: [Option<&str>; 4],
        file: &str,
        size: Option<(u32, u32)>,
    ) -> Result<Option<Self>, BadEdge> {
        if fields == [None; 4] {
            return Ok(None);
        }
        let mut edges = [0.0; 4];
        for ((edge, field), column) in edges.iter_mut().zip(fields).zip(EDGES) {
            let bad = |reason| BadEdge { column, reason };
            let text = field.ok_or_else(|| {
                bad("is empty: a box has the four edges x0, y0, x1 and y1".to_owned())
            })?;
            *edge = text
                .parse()
                .ok()
                .filter(|edge: &f64| edge.is_finite())
                .ok_or_else(|| {
                    bad(format!(
                        "`{}` is no number of pixels, such as 12 or 12.5",
                        excerpt(text)
                    ))
                })?;
        }
        let limits = size.map_or([f64::INFINITY; 2], |(width, height)| {
            [width.into(), height.into()]
        });
        for (at, (edge, column)) in edges.into_iter().zip(EDGES).enumerate() {
            if !(0.0..=limits[at % 2]).contains(&edge) {
                let size = size.map_or(String::new(), |(width, height)| {
                    format!(", which is {width} x {height} pixels")
                });
                let reason = format!("{edge} lies outside of {}{size}", excerpt(file));
                return Err(BadEdge { column, reason });
            }
        }
        for at in [2, 3] {
            let (start, end) = (edges[at - 2], edges[at]);
            if end <= start {
                let reason = format!("{end} is not above {}, which is {start}", EDGES[at - 2]);
                let column = EDGES[at];
                return Err(BadEdge { column, reason });
            }
        }
        let [x0, y0, x1, y1] = edges;
        Ok(Some(Self { x0, y0, x1, y1 }))
    }

    /// Whether the centre of a pixel lies inside.
    fn contains(&self, (row, column): (usize, usize)) -> bool {
        let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
        (self.x0..self.x1).contains(&x) && (self.y0..self.y1).contains(&y)
    }
}

impl Dataset {
    /// The region of the labelled object of the image at `index` (below the count) on a model's
    /// input, `[height, width]`: the image's mask if it has one, otherwise the union of its boxes;
    /// `None` if it has neither. `geometry` is the placement of the image on that input. Each pixel
    /// of the input takes the value of the image's pixel under its centre, so a region may be
    /// empty: the object was cropped away, or is smaller than a pixel of the input. Fails if the
    /// mask has changed since the scan, cannot be decoded, is lossy, or differs in size from the
    /// image.
    pub fn region(
        &self,
        index: usize,
        geometry: &Geometry,
        limits: &Limits,
    ) -> Result<Option<Array2<bool>>, DatasetError> {
        let image = &self.images[index];
        if let Some(mask) = &image.mask {
            let pixels = self.read_mask(mask, geometry.upload, limits)?;
            let is_inside = |(row, column)| pixels.is_foreground(column as u32, row as u32);
            return Ok(Some(
                geometry.nearest().mapv(|at| at.is_some_and(is_inside)),
            ));
        }
        let is_inside = |at| image.boxes.iter().any(|area| area.contains(at));
        Ok((!image.boxes.is_empty())
            .then(|| geometry.nearest().mapv(|at| at.is_some_and(is_inside))))
    }

    /// The image at `index` (below the count) with what is not the labelled object transparent: by
    /// its mask, else by its own alpha channel. `None` without a mask where every pixel is opaque.
    /// Fails as [`Dataset::region`] does.
    pub fn cutout(&self, index: usize, limits: &Limits) -> Result<Option<RgbaImage>, DatasetError> {
        let image = &self.images[index];
        let bytes = self.read_file(&image.file, &image.hash, limits)?;
        let mut pixels =
            decode_with_alpha(&bytes, limits).map_err(|source| DatasetError::Image {
                file: image.file.clone(),
                source,
            })?;
        let Some(mask) = &image.mask else {
            let is_cut = pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX);
            return Ok(is_cut.then_some(pixels));
        };
        let mask = self.read_mask(mask, pixels.dimensions(), limits)?;
        for (x, y, pixel) in pixels.enumerate_pixels_mut() {
            if !mask.is_foreground(x, y) {
                pixel.0[3] = 0;
            }
        }
        Ok(Some(pixels))
    }

    fn read_mask(
        &self,
        mask: &Mask,
        image: (u32, u32),
        limits: &Limits,
    ) -> Result<LabelImage, DatasetError> {
        let fault = |source| DatasetError::Image {
            file: mask.file.clone(),
            source,
        };
        let bytes = self.read_file(&mask.file, &mask.hash, limits)?;
        let size = LabelImage::size(&bytes, limits).map_err(fault)?;
        if size != image {
            return Err(DatasetError::MaskSize {
                file: mask.file.clone(),
                mask: size,
                image,
            });
        }
        LabelImage::decode(&bytes, limits).map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: [&str; 4], size: Option<(u32, u32)>) -> Result<Option<BoundingBox>, String> {
        let fields = fields.map(|field| Some(field).filter(|field| !field.is_empty()));
        BoundingBox::parse(fields, "a.png", size)
            .map_err(|BadEdge { column, reason }| format!("{column}: {reason}"))
    }

    #[test]
    fn a_box_has_four_finite_edges_inside_of_the_image_and_an_area() {
        let size = Some((6, 4));
        let whole = BoundingBox {
            x0: 0.0,
            y0: 0.0,
            x1: 6.0,
            y1: 4.0,
        };
        assert_eq!(parse(["0", "0", "6", "4"], size), Ok(Some(whole)));
        assert_eq!(parse(["0", "0", "6.0", "4e0"], None), Ok(Some(whole)));
        assert_eq!(parse(["", "", "", ""], size), Ok(None));
        let four = "is empty: a box has the four edges x0, y0, x1 and y1";
        let outside = "lies outside of a.png, which is 6 x 4 pixels";
        for (fields, fault) in [
            (["0", "", "6", "4"], format!("y0: {four}")),
            (["NaN", "0", "6", "4"], "x0: `NaN` is no number".to_owned()),
            (["0", "0", "inf", "4"], "x1: `inf` is no number".to_owned()),
            (
                ["0", "0", "6", "1e999"],
                "y1: `1e999` is no number".to_owned(),
            ),
            (["0", "0", "6", "3,5"], "y1: `3,5` is no number".to_owned()),
            (["-1", "0", "6", "4"], format!("x0: -1 {outside}")),
            (["0", "0", "6.5", "4"], format!("x1: 6.5 {outside}")),
            (["0", "0", "6", "5"], format!("y1: 5 {outside}")),
            (["0", "9", "6", "4"], format!("y0: 9 {outside}")),
            (
                ["3", "0", "3", "4"],
                "x1: 3 is not above x0, which is 3".to_owned(),
            ),
            (
                ["0", "3", "6", "2"],
                "y1: 2 is not above y0, which is 3".to_owned(),
            ),
        ] {
            let told = parse(fields, size).unwrap_err();
            assert!(told.starts_with(&fault), "{told}");
        }
        assert!(parse(["-1", "0", "6", "4"], None).is_err());
        assert!(
            parse(["0", "0", "1e300", "4"], None).is_ok(),
            "no size is known"
        );
    }

    #[test]
    fn a_pixel_is_in_a_box_with_its_centre() {
        let half = parse(["0.5", "0", "2.4", "1"], None).unwrap().unwrap();
        let inside: Vec<_> = (0..2)
            .flat_map(|row| (0..4).map(move |column| (row, column)))
            .filter(|pixel| half.contains(*pixel))
            .collect();
        assert_eq!(inside, [(0, 0), (0, 1)]);
    }
}
