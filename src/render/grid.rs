//! Pictures in a grid, each below its title, like Figure 1 of the PGIG paper.

use image::{RgbImage, imageops};

use super::{
    RenderError,
    color::PAPER,
    frame::{Caption, stack},
    legend::Legend,
    svg::{Anchor, Captions, common_size},
};

/// Text size of titles, in pixels.
const TEXT: f32 = 18.0;
/// The least width of a cell, in pixels, so that its title fits.
const NARROWEST: u32 = 190;
const GAP: u32 = 9;
const HEAD: u32 = 50;

/// One picture and the title above it.
#[derive(Clone, Debug)]
pub struct Cell {
    pub caption: Caption,
    pub picture: RgbImage,
}

/// Width and height of a grid without legends: `groups` groups of `count` cells, each on rows of
/// its own.
pub fn grid_size(
    (width, height): (u32, u32),
    groups: usize,
    count: usize,
    columns: usize,
) -> (u64, u64) {
    let rows = groups as u64 * count.div_ceil(columns.max(1)) as u64;
    (
        u64::from(GAP) + columns as u64 * u64::from(width.max(NARROWEST) + GAP),
        rows * u64::from(HEAD + height + GAP),
    )
}

/// Lays the cells out in rows of `columns`; each group begins a new row. Cells are as large as the
/// largest picture, and all titles are of one size. The footnote may be empty.
pub fn lay_out(
    groups: &[Vec<Cell>],
    columns: usize,
    legends: &[Legend],
    footnote: &str,
) -> Result<RgbImage, RenderError> {
    let cells = || groups.iter().flatten();
    let widest = cells()
        .map(|cell| cell.picture.width())
        .max()
        .unwrap_or(1)
        .max(NARROWEST);
    let tallest = cells().map(|cell| cell.picture.height()).max().unwrap_or(1);
    let columns = columns
        .max(1)
        .min(groups.iter().map(Vec::len).max().unwrap_or(1));
    let width = GAP + columns as u32 * (widest + GAP);
    let title_size = common_size(
        cells().map(|cell| cell.caption.title.as_str()),
        widest,
        TEXT,
    );
    let note_size = common_size(
        cells().map(|cell| cell.caption.note.as_str()),
        widest,
        TEXT * 0.8,
    );
    let row = |cells: &[Cell]| {
        let mut row = RgbImage::from_pixel(width, HEAD + tallest + GAP, PAPER);
        let mut strip = RgbImage::from_pixel(width, HEAD, PAPER);
        let mut captions = Captions::new(strip.dimensions());
        for (column, Cell { caption, picture }) in (0..).zip(cells) {
            let middle = GAP + column * (widest + GAP) + widest / 2;
            captions.add(
                (middle, 22),
                widest,
                title_size,
                Anchor::Middle,
                &caption.title,
            );
            captions.add(
                (middle, 41),
                widest,
                note_size,
                Anchor::Middle,
                &caption.note,
            );
            let left = middle - picture.width() / 2;
            imageops::replace(&mut row, picture, i64::from(left), i64::from(HEAD));
        }
        captions.paint(&mut strip)?;
        imageops::replace(&mut row, &strip, 0, 0);
        Ok(row)
    };
    let mut rows = groups
        .iter()
        .flat_map(|group| group.chunks(columns))
        .map(row)
        .collect::<Result<Vec<_>, _>>()?;
    if !legends.is_empty() {
        rows.push(Legend::strip(legends, width, TEXT)?);
    }
    if !footnote.is_empty() {
        let mut strip = RgbImage::from_pixel(width, 28, PAPER);
        let mut captions = Captions::new(strip.dimensions());
        let size = common_size([footnote], width, TEXT * 0.8);
        captions.add((width / 2, 17), width, size, Anchor::Middle, footnote);
        captions.paint(&mut strip)?;
        rows.push(strip);
    }
    Ok(stack(width, rows))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn groups_begin_rows_and_every_picture_is_there_under_its_title() {
        let cell = |value: u8| Cell {
            caption: Caption {
                title: format!("Method {value}"),
                note: String::new(),
            },
            picture: RgbImage::from_pixel(60, 40, Rgb([value, 0, 0])),
        };
        let sheet = lay_out(
            &[vec![cell(10), cell(20), cell(30)], vec![cell(40)]],
            2,
            &[],
            "",
        )
        .unwrap();
        let pixels = |value: u8| {
            sheet
                .enumerate_pixels()
                .filter(move |(.., p)| p.0 == [value, 0, 0])
        };
        let origin = |value: u8| pixels(value).map(|(x, y, _)| (x, y)).next().unwrap();
        for value in [10, 20, 30, 40] {
            assert_eq!(pixels(value).count(), 60 * 40);
            let (left, top) = origin(value);
            let over = |(x, y, p): &(u32, u32, &Rgb<u8>)| {
                (left.saturating_sub(60)..left + 120).contains(x)
                    && *y < top
                    && *y + 50 > top
                    && p.0[1] < 128
            };
            assert!(
                sheet.enumerate_pixels().filter(over).count() > 10,
                "no title over {value}"
            );
        }
        let ((x1, y1), (x2, y2), (x3, y3), (x4, y4)) =
            (origin(10), origin(20), origin(30), origin(40));
        assert!(x1 == x3 && x3 == x4 && x2 > x1 + 60, "columns");
        assert!(y1 == y2 && y3 >= y1 + 40 && y4 >= y3 + 40, "rows");
    }
}
