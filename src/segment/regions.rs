//! Regions: sets of pixels of one picture, which may overlap. Made from label maps, each label
//! dilated by a disk, or given as masks. Stored as lists of pixels, so that memory grows with the
//! sum of the areas and not with regions x pixels. Dilation agrees with scikit-image's `dilation`
//! by `disk` (tests/parity/xrai.py). Cost: one disk per border pixel.

use ndarray::Array2;

/// The label of pixels that belong to no region.
pub const UNLABELLED: u32 = u32::MAX;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regions {
    height: usize,
    width: usize,
    /// The pixels of each region as row-major indices, ascending.
    lists: Lists,
}

impl Regions {
    /// Regions from lists of row-major pixel indices of a picture of `size` (height, width);
    /// indices outside of it are dropped.
    pub fn of_pixels(
        size: (usize, usize),
        lists: impl IntoIterator<Item = impl IntoIterator<Item = u32>>,
    ) -> Self {
        let mut regions = Self {
            height: size.0,
            width: size.1,
            lists: Lists::default(),
        };
        for list in lists {
            let mut pixels: Vec<u32> = list
                .into_iter()
                .filter(|&pixel| (pixel as usize) < size.0 * size.1)
                .collect();
            pixels.sort_unstable();
            pixels.dedup();
            regions.lists.push(pixels.into_iter());
        }
        regions
    }

    /// One region per label, in the order of the maps and ascending labels: the label's pixels,
    /// dilated by a disk of `radius` pixels. Labels are numbered from 0 with few gaps. Maps whose
    /// size differs from the first map's are ignored.
    pub fn of_maps(maps: &[Array2<u32>], radius: usize) -> Self {
        let (height, width) = maps.first().map_or((0, 0), Array2::dim);
        let mut regions = Self {
            height,
            width,
            lists: Lists::default(),
        };
        let disk = disk(radius as isize);
        // The last region that each pixel was added to, counted from 1.
        let mut latest = vec![0; height * width];
        for map in maps.iter().filter(|map| map.dim() == (height, width)) {
            let labels: Vec<u32> = map.iter().copied().collect();
            let named = labels
                .iter()
                .copied()
                .zip(0..)
                .filter(|(label, _)| *label != UNLABELLED);
            let count = named
                .clone()
                .map(|(label, _)| label as usize + 1)
                .max()
                .unwrap_or(0);
            for own in Lists::gather(count, named)
                .iter()
                .filter(|own| !own.is_empty())
            {
                regions.grow(own, &labels, &disk, &mut latest);
            }
        }
        regions
    }

    /// Dilates border pixels alone: every pixel within `radius` of a segment is in the segment or
    /// within `radius` of one of its border pixels.
    fn grow(&mut self, own: &[u32], labels: &[u32], disk: &[(isize, isize)], latest: &mut [usize]) {
        let region = self.len() + 1;
        let mut grown = own.to_vec();
        own.iter()
            .for_each(|&pixel| latest[pixel as usize] = region);
        let (height, width) = (self.height as isize, self.width as isize);
        for &pixel in own
            .iter()
            .filter(|&&pixel| self.is_at_edge(pixel as usize, labels))
        {
            let (y, x) = (pixel as isize / width, pixel as isize % width);
            for &(dy, reach) in disk
                .iter()
                .filter(|(dy, _)| (0..height).contains(&(y + dy)))
            {
                for column in (x - reach).max(0)..=(x + reach).min(width - 1) {
                    let at = ((y + dy) * width + column) as usize;
                    if latest[at] != region {
                        latest[at] = region;
                        grown.push(at as u32);
                    }
                }
            }
        }
        grown.sort_unstable();
        self.lists.push(grown.into_iter());
    }

    /// Whether one of the four neighbours has another label.
    fn is_at_edge(&self, pixel: usize, labels: &[u32]) -> bool {
        let (y, x, width) = (pixel / self.width, pixel % self.width, self.width);
        let differs = |at: usize| labels[at] != labels[pixel];
        (x > 0 && differs(pixel - 1))
            || (x + 1 < width && differs(pixel + 1))
            || (y > 0 && differs(pixel - width))
            || (y + 1 < self.height && differs(pixel + width))
    }

    /// (height, width) of the picture.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    pub fn len(&self) -> usize {
        self.lists.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pixels of one region as row-major indices, ascending.
    pub fn pixels(&self, region: usize) -> &[u32] {
        self.lists.get(region)
    }

    /// The pixels of each region.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.lists.iter()
    }

    /// The sum of all areas.
    pub fn total_area(&self) -> usize {
        self.lists.items.len()
    }

    /// The regions that hold each pixel, ascending.
    pub fn holders(&self) -> Lists {
        let pairs = self
            .iter()
            .zip(0..)
            .flat_map(|(pixels, region)| pixels.iter().map(move |&pixel| (pixel, region)));
        Lists::gather(self.height * self.width, pairs)
    }
}

/// Lists of numbers, stored one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    items: Vec<u32>,
    /// 0, then the end of each list.
    ends: Vec<usize>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            ends: vec![0],
        }
    }
}

impl Lists {
    pub fn get(&self, list: usize) -> &[u32] {
        &self.items[self.ends[list]..self.ends[list + 1]]
    }

    /// `count` lists from pairs (list, item); items keep the order of the pairs.
    fn gather(count: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut ends = vec![0; count + 1];
        pairs
            .clone()
            .for_each(|(list, _)| ends[list as usize + 1] += 1);
        for list in 0..count {
            ends[list + 1] += ends[list];
        }
        let mut next = ends.clone();
        let mut items = vec![0; ends[count]];
        for (list, item) in pairs {
            items[next[list as usize]] = item;
            next[list as usize] += 1;
        }
        Self { items, ends }
    }

    fn push(&mut self, list: impl Iterator<Item = u32>) {
        self.items.extend(list);
        self.ends.push(self.items.len());
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.ends
            .windows(2)
            .map(|ends| &self.items[ends[0]..ends[1]])
    }
}

/// The rows of the disk dx² + dy² <= radius²: dy, and the half-width of the row.
fn disk(radius: isize) -> Vec<(isize, isize)> {
    (-radius..=radius)
        .map(|dy| (dy, (radius * radius - dy * dy).isqrt()))
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_label_of_each_map_is_a_region_and_the_unlabelled_are_none() {
        let maps = [
            array![[0, 0, 2], [0, 2, 2]],
            array![[UNLABELLED, 0, 0], [1, 1, UNLABELLED]],
        ];
        let regions = Regions::of_maps(&maps, 0);
        assert_eq!(
            regions.iter().collect::<Vec<_>>(),
            [&[0, 1, 3][..], &[2, 4, 5], &[1, 2], &[3, 4]]
        );
        assert_eq!((regions.size(), regions.total_area()), ((2, 3), 10));
        let holders = regions.holders();
        assert_eq!(
            (0..6)
                .map(|pixel| holders.get(pixel).to_vec())
                .collect::<Vec<_>>(),
            [
                vec![0],
                vec![0, 2],
                vec![1, 2],
                vec![0, 3],
                vec![1, 3],
                vec![1]
            ]
        );
    }

    #[test]
    fn lists_may_overlap_and_be_empty_and_what_lies_outside_is_left_out() {
        let regions = Regions::of_pixels((2, 2), [vec![2, 0, 1, 0], vec![0, 1, 3, 4], vec![]]);
        assert_eq!(
            regions.iter().collect::<Vec<_>>(),
            [&[0, 1, 2][..], &[0, 1, 3], &[]]
        );
    }

    #[test]
    fn nothing_has_no_regions() {
        for maps in [
            &[][..],
            &[Array2::zeros((0, 4))],
            &[Array2::from_elem((2, 2), UNLABELLED)],
        ] {
            assert!(Regions::of_maps(maps, 5).is_empty());
        }
    }

    proptest! {
        #[test]
        fn a_region_is_all_within_the_radius_of_its_label(
            height in 1usize..12, width in 1usize..12, radius in 0usize..6, seeds in proptest::collection::vec(0u32..4, 144),
        ) {
            let map = Array2::from_shape_fn((height, width), |(y, x)| seeds[y * 12 + x]);
            let regions = Regions::of_maps(std::slice::from_ref(&map), radius);
            let present: Vec<u32> = (0..4).filter(|label| map.iter().any(|l| l == label)).collect();
            prop_assert_eq!(regions.len(), present.len());
            for (pixels, label) in regions.iter().zip(present) {
                let near = |y: usize, x: usize| {
                    map.indexed_iter().any(|((v, u), l)| {
                        *l == label && v.abs_diff(y).pow(2) + u.abs_diff(x).pow(2) <= radius * radius
                    })
                };
                let expected: Vec<u32> = (0..height * width).filter(|at| near(at / width, at % width)).map(|at| at as u32).collect();
                prop_assert_eq!(pixels, &expected[..]);
            }
        }
    }
}
