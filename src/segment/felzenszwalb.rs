//! Felzenszwalb's graph-based segmentation. Edges between neighbouring pixels are visited by
//! ascending weight (colour distance); an edge merges two segments if its weight is at most Int(C) +
//! scale / |C| of both, Int(C) being the largest weight inside segment C. Then segments below
//! `min_size` join a neighbour. Felzenszwalb & Huttenlocher 2004, section 4, 8 neighbours, in f64.
//! Cost: a blur and a sort per picture ([`Edges`]), two passes over the edges per scale.

use ndarray::{Array2, Array3, ArrayView3, Axis};

use crate::blur::blur;

/// Scales are given for colours in 0..=255, and weights are computed from colours in 0..=1, as in
/// scikit-image.
const SCALE_UNIT: f64 = 255.0;

/// The edges of one blurred picture, sorted by weight. All scales share them.
#[derive(Clone, Debug)]
pub struct Edges {
    height: usize,
    width: usize,
    sorted: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    ends: [u32; 2],
    distance: f64,
}

impl Edges {
    /// The edges of `planes`, `[channels, height, width]`, blurred by a Gaussian of `sigma` pixels
    /// (above 0).
    pub fn of(planes: ArrayView3<'_, f32>, sigma: f64) -> Self {
        let (channels, height, width) = planes.dim();
        let mut blurred = planes.mapv(f64::from);
        blur(blurred.view_mut().into_dyn(), &[Axis(1), Axis(2)], sigma);
        let colours: Array3<f64> = blurred.permuted_axes([1, 2, 0]);
        let colours: Vec<f64> = colours.iter().copied().collect();
        let distance = |a: usize, b: usize| {
            let [a, b] = [a, b].map(|pixel| &colours[pixel * channels..(pixel + 1) * channels]);
            a.iter()
                .zip(b)
                .fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b))
                .sqrt()
        };
        let mut sorted = Vec::with_capacity(4 * height * width);
        // Right, down, down-right, down-left: the order among edges of equal weight.
        for (down, from, to) in [(0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)] {
            for y in 0..height.saturating_sub(down) {
                for x in 0..width.saturating_sub(from.max(to)) {
                    let (a, b) = (y * width + x + from, (y + down) * width + x + to);
                    sorted.push(Edge {
                        ends: [a as u32, b as u32],
                        distance: distance(a, b),
                    });
                }
            }
        }
        sorted.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        Self {
            height,
            width,
            sorted,
        }
    }

    /// One label per pixel, `[height, width]`, numbered from 0 in the order of the segments' first
    /// pixels.
    pub fn segment(&self, scale: f64, min_size: u32) -> Array2<u32> {
        let mut forest = Forest::new(self.height * self.width);
        for &Edge { ends, distance } in &self.sorted {
            let [a, b] = ends.map(|end| forest.root(end));
            if a != b {
                let reach = |root: u32| {
                    forest.longest[root as usize]
                        + scale / SCALE_UNIT / f64::from(forest.size(root))
                };
                if distance < reach(a).min(reach(b)) {
                    let root = forest.join(a, b);
                    forest.longest[root as usize] = distance;
                }
            }
        }
        for edge in &self.sorted {
            let [a, b] = edge.ends.map(|end| forest.root(end));
            if a != b && forest.size(a).min(forest.size(b)) < min_size {
                forest.join(a, b);
            }
        }
        forest.labels(self.height, self.width)
    }
}

/// Disjoint sets of pixels (union-find). The root of a set is its first pixel.
struct Forest {
    parents: Vec<u32>,
    /// Set sizes, at the roots.
    sizes: Vec<u32>,
    /// The largest weight inside each set, Int(C), at the roots.
    longest: Vec<f64>,
}

impl Forest {
    fn new(pixels: usize) -> Self {
        Self {
            parents: (0..pixels as u32).collect(),
            sizes: vec![1; pixels],
            longest: vec![0.0; pixels],
        }
    }

    /// Finds the root, with path halving.
    fn root(&mut self, mut pixel: u32) -> u32 {
        loop {
            let parent = self.parents[pixel as usize];
            if parent == pixel {
                return pixel;
            }
            let grandparent = self.parents[parent as usize];
            self.parents[pixel as usize] = grandparent;
            pixel = grandparent;
        }
    }

    fn size(&self, root: u32) -> u32 {
        self.sizes[root as usize]
    }

    fn join(&mut self, a: u32, b: u32) -> u32 {
        let (root, other) = (a.min(b), a.max(b));
        self.parents[other as usize] = root;
        self.sizes[root as usize] += self.sizes[other as usize];
        root
    }

    fn labels(mut self, height: usize, width: usize) -> Array2<u32> {
        let mut names = vec![0; self.parents.len()];
        let mut next = 0;
        Array2::from_shape_fn((height, width), |(y, x)| {
            let pixel = y * width + x;
            let root = self.root(pixel as u32) as usize;
            if root == pixel {
                names[root] = next;
                next += 1;
            }
            names[root]
        })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;

    fn labels(planes: &Array3<f32>, scale: f64, min_size: u32) -> Array2<u32> {
        Edges::of(planes.view(), 0.8).segment(scale, min_size)
    }

    #[test]
    fn two_colours_are_two_segments_that_meet_at_the_step() {
        let planes = Array3::from_shape_fn((3, 40, 60), |(_, _, x)| if x < 25 { 0.1 } else { 0.9 });
        let found = labels(&planes, 100.0, 150);
        assert_eq!(
            found,
            Array2::from_shape_fn((40, 60), |(_, x)| u32::from(x >= 25))
        );
    }

    #[test]
    fn one_colour_and_pictures_of_a_pixel_or_none_are_one_segment_or_none() {
        for size in [(3, 30, 30), (1, 1, 1), (3, 1, 7), (3, 7, 1), (3, 0, 5)] {
            let found: Array2<u32> = labels(&Array3::from_elem(size, 0.5), 50.0, 20);
            assert_eq!(found, Array2::<u32>::zeros((size.1, size.2)), "{size:?}");
        }
    }

    #[test]
    fn a_segment_below_the_least_size_joins_its_nearest_neighbour() {
        // A grey spot of 36 pixels on white, beside black.
        let planes = Array3::from_shape_fn((1, 20, 30), |(_, y, x)| match (y, x) {
            (7..13, 8..14) => 0.8,
            (_, ..18) => 1.0,
            _ => 0.0,
        });
        let fine = labels(&planes, 10.0, 1);
        assert_ne!(fine[[9, 10]], fine[[0, 0]]);
        assert_eq!(
            labels(&planes, 10.0, 60),
            Array2::from_shape_fn((20, 30), |(_, x)| u32::from(x >= 18))
        );
    }

    #[test]
    fn values_that_are_not_finite_do_not_panic() {
        let planes = Array3::from_shape_fn((3, 9, 9), |(_, y, x)| {
            [f32::NAN, f32::INFINITY, 1.0][(y * x) % 3]
        });
        assert_eq!(labels(&planes, 100.0, 20).dim(), (9, 9));
    }

    proptest! {
        #[test]
        fn segments_are_connected_and_of_the_least_size(seed in proptest::collection::vec(0u8..4, 15 * 17), min_size in 1u32..40) {
            let planes = Array3::from_shape_fn((1, 15, 17), |(_, y, x)| f32::from(seed[y * 17 + x]) / 3.0);
            let found = labels(&planes, 50.0, min_size);
            let count = found.iter().max().unwrap() + 1;
            let mut seen = vec![false; 15 * 17];
            let mut pieces = 0;
            for start in 0..seen.len() {
                if seen[start] {
                    continue;
                }
                let (mut open, mut size) = (vec![start], 0);
                seen[start] = true;
                while let Some(at) = open.pop() {
                    size += 1;
                    let (y, x) = (at / 17, at % 17);
                    for near in (y.saturating_sub(1)..=(y + 1).min(14)).flat_map(|v| (x.saturating_sub(1)..=(x + 1).min(16)).map(move |u| v * 17 + u)) {
                        if !seen[near] && found[[near / 17, near % 17]] == found[[y, x]] {
                            seen[near] = true;
                            open.push(near);
                        }
                    }
                }
                pieces += 1;
                prop_assert!(size >= min_size);
            }
            prop_assert_eq!(pieces, count);
        }
    }
}
