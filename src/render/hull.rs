//! The convex hull of the most important pixels of a map, through their centres. Mazini Rodrigues et
//! al., Transforming gradient-based techniques into interpretable methods, 2024, sections 5 and 6.

use geo::{Area, BoundingRect, ConvexHull, Coord, Intersects, MultiPoint, Point, Polygon};
use ndarray::{Array2, ArrayView2};

use super::options::HullRule;

/// A hull that has an area.
#[derive(Clone, Debug)]
pub struct Hull(Polygon<f64>);

impl Hull {
    /// Of a plane `[height, width]`, of which positive values count. None where it is not defined:
    /// fewer than three pixels are chosen, or all lie on one line.
    pub fn of(plane: ArrayView2<'_, f32>, rule: HullRule) -> Option<Self> {
        let threshold = threshold(plane, rule)?;
        let chosen = plane.indexed_iter().filter(|(_, value)| match rule {
            HullRule::TopHalf => **value >= threshold,
            HullRule::OverTenth => **value > threshold,
        });
        let centre = |((y, x), _): ((usize, usize), _)| Point::new(x as f64, y as f64);
        let points: MultiPoint<f64> = chosen.map(centre).collect();
        if points.0.len() < 3 {
            return None;
        }
        let hull = points.convex_hull();
        (hull.unsigned_area() > 0.0).then_some(Self(hull))
    }

    /// In pixels.
    pub fn area(&self) -> f64 {
        self.0.unsigned_area()
    }

    /// The pixels whose centres lie inside or on the border, of a plane of this size.
    pub fn mask(&self, (height, width): (usize, usize)) -> Array2<bool> {
        let bounds = self.0.bounding_rect();
        let is_inside = |(y, x): (usize, usize)| {
            let centre = Coord {
                x: x as f64,
                y: y as f64,
            };
            bounds.is_some_and(|bounds| bounds.intersects(&centre)) && self.0.intersects(&centre)
        };
        Array2::from_shape_fn((height, width), is_inside)
    }
}

/// What the values that are chosen reach, or exceed. None without a positive value.
fn threshold(plane: ArrayView2<'_, f32>, rule: HullRule) -> Option<f32> {
    let mut positive: Vec<f32> = plane.iter().copied().filter(|value| *value > 0.0).collect();
    match rule {
        HullRule::TopHalf => {
            let last = positive.len().div_ceil(2).checked_sub(1)?;
            let (_, least, _) = positive.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
            Some(*least)
        }
        HullRule::OverTenth => {
            let most = positive.into_iter().reduce(f32::max)?;
            Some(most / 10.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;
    use HullRule::{OverTenth, TopHalf};

    fn area(plane: &Array2<f32>, rule: HullRule) -> Option<f64> {
        Hull::of(plane.view(), rule).map(|hull| hull.area())
    }

    #[test]
    fn known_polygons_have_their_area_and_their_pixels() {
        // A right triangle with legs of 2 and 4 pixels.
        let mut plane = Array2::zeros((6, 6));
        for corner in [(1, 1), (3, 1), (1, 5)] {
            plane[corner] = 1.0;
        }
        let hull = Hull::of(plane.view(), OverTenth).unwrap();
        assert_eq!(hull.area(), 4.0);
        let mask = hull.mask((6, 6)).mapv(u8::from);
        assert_eq!(
            mask,
            arr2(&[
                [0, 0, 0, 0, 0, 0],
                [0, 1, 1, 1, 1, 1],
                [0, 1, 1, 1, 0, 0],
                [0, 1, 0, 0, 0, 0],
                [0, 0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0, 0],
            ])
        );
        // A pixel inside and one on an edge change nothing.
        plane[(2, 2)] = 1.0;
        plane[(1, 3)] = 1.0;
        assert_eq!(area(&plane, OverTenth), Some(4.0));
        // A rectangle, and a diamond with diagonals of 4.
        assert_eq!(area(&Array2::ones((3, 5)), TopHalf), Some(8.0));
        let mut diamond = Array2::zeros((5, 5));
        for corner in [(0, 2), (2, 0), (2, 4), (4, 2)] {
            diamond[corner] = 2.0;
        }
        assert_eq!(area(&diamond, TopHalf), Some(8.0));
    }

    #[test]
    fn each_rule_chooses_its_pixels() {
        // Positive: 8, 6, 4, 3, 1, 0.5. The upper half: 8, 6, 4. Over a tenth of 8: all but 0.5.
        let plane = arr2(&[
            [8.0, 0.0, 6.0, 0.0],
            [0.0, -9.0, 0.0, 0.0],
            [4.0, 0.0, 3.0, 0.0],
            [0.5, 0.0, 0.0, 1.0],
        ]);
        assert_eq!(area(&plane, TopHalf), Some(2.0));
        // The corners (0, 0), (2, 0), (3, 3), (0, 2) as x, y: 12 / 2 by the shoelace formula.
        assert_eq!(area(&plane, OverTenth), Some(6.0));
        // Values that are equal to the least of the half are in it, whatever their number.
        assert_eq!(area(&Array2::ones((4, 4)), TopHalf), Some(9.0));
    }

    #[test]
    fn fewer_than_three_pixels_and_pixels_on_a_line_have_no_hull() {
        for rule in [TopHalf, OverTenth] {
            assert_eq!(area(&Array2::zeros((4, 4)), rule), None);
            assert_eq!(area(&Array2::from_elem((4, 4), -1.0), rule), None);
            assert_eq!(area(&Array2::ones((1, 2)), rule), None);
            assert_eq!(area(&Array2::ones((1, 9)), rule), None);
            assert_eq!(area(&Array2::eye(7), rule), None);
        }
    }
}
