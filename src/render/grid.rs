//! Pictures side by side, each under its title, like Figure 1 of pgig.txt.

use ::image::{Rgb, RgbImage, imageops};

use super::{
    RenderError,
    legend::text_size,
    svg::{Anchor, Captions},
};

/// One picture with what stands over it.
#[derive(Clone, Debug)]
pub struct Cell {
    pub title: String,
    /// A second, smaller line; may be empty.
    pub note: String,
    pub picture: RgbImage,
}

/// Lays the cells out in rows of `columns`; each group begins a new row. Cells are as large as the largest picture.
pub fn lay_out(groups: &[Vec<Cell>], columns: usize) -> Result<RgbImage, RenderError> {
    let cells = || groups.iter().flatten();
    let widest = cells().map(|cell| cell.picture.width()).max().unwrap_or(1);
    let tallest = cells().map(|cell| cell.picture.height()).max().unwrap_or(1);
    let columns = columns.max(1).min(groups.iter().map(Vec::len).max().unwrap_or(1)) as u32;
    let size = text_size(widest * 2);
    let (gap, head) = ((size / 2.0) as u32, (size * 2.6) as u32);
    let (pitch_x, pitch_y) = (widest + gap, head + tallest + gap);
    let rows: u32 = groups.iter().map(|group| (group.len() as u32).div_ceil(columns)).sum();
    let mut sheet = RgbImage::from_pixel(gap + columns * pitch_x, rows * pitch_y, Rgb([255; 3]));
    let mut captions = Captions::new(sheet.dimensions());
    let mut first_row = 0;
    for group in groups {
        for (index, cell) in (0..).zip(group) {
            let (left, top) = (gap + index % columns * pitch_x, (first_row + index / columns) * pitch_y);
            let middle = left + widest / 2;
            captions.add((middle, top + (size * 1.2) as u32), widest, size, Anchor::Middle, &cell.title);
            captions.add((middle, top + (size * 2.2) as u32), widest, size * 0.75, Anchor::Middle, &cell.note);
            imageops::replace(&mut sheet, &cell.picture, i64::from(left), i64::from(top + head));
        }
        first_row += (group.len() as u32).div_ceil(columns);
    }
    captions.paint(&mut sheet)?;
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_begin_rows_and_every_picture_is_there_under_its_title() {
        let cell = |value: u8| Cell {
            title: format!("Method {value}"),
            note: String::new(),
            picture: RgbImage::from_pixel(60, 40, Rgb([value, 0, 0])),
        };
        let sheet = lay_out(&[vec![cell(10), cell(20), cell(30)], vec![cell(40)]], 2).unwrap();
        let pixels = |value: u8| sheet.enumerate_pixels().filter(move |(.., p)| p.0 == [value, 0, 0]);
        let origin = |value: u8| pixels(value).map(|(x, y, _)| (x, y)).next().unwrap();
        for value in [10, 20, 30, 40] {
            assert_eq!(pixels(value).count(), 60 * 40);
            let (left, top) = origin(value);
            let over = |(x, y, p): &(u32, u32, &Rgb<u8>)| {
                (left..left + 60).contains(x) && *y < top && *y + 26 > top && p.0[1] < 128
            };
            assert!(sheet.enumerate_pixels().filter(over).count() > 10, "no title over {value}");
        }
        let ((x1, y1), (x2, y2), (x3, y3), (x4, y4)) = (origin(10), origin(20), origin(30), origin(40));
        assert!(x1 == x3 && x3 == x4 && x2 > x1 + 60, "columns");
        assert!(y1 == y2 && y3 >= y1 + 40 && y4 >= y3 + 40, "rows");
    }
}
