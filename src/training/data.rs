//! The images of a training: which are kept back, in which order an epoch meets the others, how
//! each is changed at random, and batches of them. All by the seed: streams of ChaCha8, one for each
//! purpose, epoch and image.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ndarray::{Array2, ArrayViewD, Axis, s};
use parking_lot::Mutex;
use rand::RngExt;
use rayon::prelude::*;

use super::{Recipe, Targets, TrainingError};
use crate::{
    dataset::Dataset,
    picture::{
        decode::Limits,
        preprocess::{Layout, Preprocess},
    },
    random,
    tensor::Tensor,
};

/// Streams of the seed. Those below 2³² belong to the new head.
#[derive(Clone, Copy)]
enum Purpose {
    Split = 1,
    Order = 2,
    Augmentation = 3,
}

/// Epochs are fewer than 2¹⁶, images fewer than 2³².
fn stream(purpose: Purpose, epoch: usize, image: usize) -> u64 {
    (purpose as u64) << 48 | (epoch as u64) << 32 | image as u64
}

/// Examples that are trained on, and those that are kept back: places in [`super::Examples`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub training: Vec<usize>,
    pub validation: Vec<usize>,
}

impl Split {
    /// The same share of each class, rounded, and never all of its images.
    pub(super) fn new(
        targets: &Targets,
        count: usize,
        recipe: &Recipe,
    ) -> Result<Self, TrainingError> {
        let mut of_class = BTreeMap::<usize, Vec<usize>>::new();
        for example in 0..count {
            let class = match targets {
                Targets::Classes(classes) => classes.get(example).copied().unwrap_or_default(),
                Targets::Logits(_) => 0,
            };
            of_class.entry(class).or_default().push(example);
        }
        let mut split = Self::default();
        for (class, mut examples) in of_class {
            shuffle(&mut examples, recipe.seed, stream(Purpose::Split, 0, class));
            let share = (recipe.validation * examples.len() as f64).round() as usize;
            let kept = examples.split_off(share.min(examples.len() - 1));
            split.validation.extend(examples);
            split.training.extend(kept);
        }
        split.training.sort_unstable();
        split.validation.sort_unstable();
        if recipe.validation > 0.0 && split.validation.is_empty() {
            return Err(TrainingError::NoValidation {
                share: recipe.validation,
            });
        }
        Ok(split)
    }

    /// The order in which an epoch, from 0, meets the images that are trained on.
    pub(super) fn order(&self, recipe: &Recipe, epoch: usize) -> Vec<usize> {
        let mut order = self.training.clone();
        shuffle(&mut order, recipe.seed, stream(Purpose::Order, epoch, 0));
        order
    }
}

/// Fisher and Yates, from the end.
fn shuffle(places: &mut [usize], seed: u64, stream: u64) {
    let mut generator = random::generator(seed, stream);
    for end in (1..places.len()).rev() {
        let other = (generator.random::<f64>() * (end + 1) as f64) as usize;
        places.swap(end, other);
    }
}

/// Reads examples. Clones share everything.
#[derive(Clone)]
pub(super) struct Loader {
    pub dataset: Arc<Dataset>,
    /// Indices of the examples in the data set.
    pub images: Arc<Vec<usize>>,
    pub targets: Arc<Targets>,
    pub classes: usize,
    pub rule: Preprocess,
    pub limits: Limits,
    pub seed: u64,
    pub crop: bool,
    pub flip: bool,
    pub kept: Arc<Kept>,
}

/// Inputs that are kept from epoch to epoch: the first that fit. Each epoch meets all of them, so
/// none is worth more than another.
pub(super) struct Kept(Mutex<KeptInputs>);

struct KeptInputs {
    /// Bytes.
    room: usize,
    /// By the image's index.
    inputs: HashMap<usize, Arc<Tensor>>,
}

impl Kept {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(KeptInputs {
            room: bytes,
            inputs: HashMap::new(),
        }))
    }

    fn get(&self, index: usize) -> Option<Arc<Tensor>> {
        self.0.lock().inputs.get(&index).cloned()
    }

    fn add(&self, index: usize, input: &Arc<Tensor>) {
        let mut kept = self.0.lock();
        if let Some(room) = kept.room.checked_sub(input.len() * size_of::<f32>()) {
            kept.room = room;
            kept.inputs.insert(index, input.clone());
        }
    }
}

/// Rows of one run.
pub(super) struct MicroBatch {
    /// `[rows, …]`.
    pub input: Arc<Tensor>,
    /// `[rows, classes]`.
    pub target: Arc<Tensor>,
    /// The correct class of each row; empty where targets are logits.
    pub truth: Vec<usize>,
}

/// What an epoch changes of an image; shares are of what there is to choose from.
#[derive(Clone, Copy, Default)]
struct Change {
    /// Shares of side, left and top.
    crop: Option<[f64; 3]>,
    flip: bool,
}

impl Loader {
    /// The examples in runs of `rows`, changed at random where they are of an epoch (from 0) that
    /// trains. Reads and decodes on all cores.
    pub(super) fn batch(
        &self,
        examples: &[usize],
        rows: usize,
        epoch: Option<usize>,
    ) -> Result<Vec<MicroBatch>, TrainingError> {
        let read = |example: &usize| {
            let index = self.images[*example];
            let change = epoch.map_or_else(Change::default, |epoch| self.change(epoch, index));
            Ok::<_, TrainingError>((self.input(index, change.crop)?, change.flip))
        };
        let inputs: Vec<_> = examples.par_iter().map(read).collect::<Result<_, _>>()?;
        examples
            .chunks(rows)
            .zip(inputs.chunks(rows))
            .map(|(examples, inputs)| {
                let views: Vec<_> = inputs
                    .iter()
                    .map(|(input, flip)| self.view(input, *flip))
                    .collect();
                let input = ndarray::stack(Axis(0), &views);
                let input = input.map_err(|_| TrainingError::Output {
                    output: "input".into(),
                })?;
                let (target, truth) = self.target(examples);
                Ok(MicroBatch {
                    input: Arc::new(input),
                    target: Arc::new(target.into_dyn()),
                    truth,
                })
            })
            .collect()
    }

    fn target(&self, examples: &[usize]) -> (Array2<f32>, Vec<usize>) {
        let mut target = Array2::zeros((examples.len(), self.classes));
        let mut truth = Vec::new();
        for (row, &example) in examples.iter().enumerate() {
            match self.targets.as_ref() {
                Targets::Logits(logits) => {
                    target
                        .slice_mut(s![row, ..])
                        .assign(&logits.slice(s![example, ..]));
                }
                Targets::Classes(classes) => {
                    truth.push(classes[example]);
                    target[[row, classes[example]]] = 1.0;
                }
            }
        }
        (target, truth)
    }

    /// The input, seen in a mirror or as it is.
    fn view<'a>(&self, input: &'a Tensor, flip: bool) -> ArrayViewD<'a, f32> {
        let mut view = input.view();
        if flip {
            let width = match self.rule.layout {
                Layout::Nchw => 2,
                Layout::Nhwc => 1,
            };
            view.invert_axis(Axis(width));
        }
        view
    }

    /// The model's input for an image, which is kept where it will be asked for again.
    fn input(&self, index: usize, crop: Option<[f64; 3]>) -> Result<Arc<Tensor>, TrainingError> {
        if crop.is_none()
            && let Some(kept) = self.kept.get(index)
        {
            return Ok(kept);
        }
        let mut image = self.dataset.read(index, &self.limits)?;
        if let Some(shares) = crop {
            let (left, top, side) = window(image.image.dimensions(), shares);
            image = image.cropped(left, top, side, side);
        }
        let (input, _) = image
            .to_input(&self.rule)
            .map_err(|source| TrainingError::Image {
                file: self.dataset.images[index].file.clone(),
                source,
            })?;
        let input = Arc::new(input);
        if crop.is_none() {
            self.kept.add(index, &input);
        }
        Ok(input)
    }

    fn change(&self, epoch: usize, index: usize) -> Change {
        let mut random = random::generator(self.seed, stream(Purpose::Augmentation, epoch, index));
        // All are drawn whatever is asked for: flips are the same with and without crops.
        let [side, left, top, flip] = std::array::from_fn(|_| random.random::<f64>());
        Change {
            crop: self.crop.then_some([side, left, top]),
            flip: self.flip && flip < 0.5,
        }
    }
}

/// A square of 50 to 100 % of the short side.
fn window((width, height): (u32, u32), [side, left, top]: [f64; 3]) -> (u32, u32, u32) {
    let below = |share: f64, count: u32| (share * f64::from(count)) as u32;
    let short = width.min(height);
    let least = short.div_ceil(2);
    let side = least + below(side, short - least + 1);
    let (left, top) = (below(left, width - side + 1), below(top, height - side + 1));
    (left, top, side)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(validation: f64) -> Recipe {
        Recipe {
            validation,
            ..Recipe::default()
        }
    }

    #[test]
    fn every_class_gives_its_share_and_keeps_an_image() {
        let classes: Vec<usize> = (0..30).map(|example| usize::from(example < 20)).collect();
        let targets = Targets::Classes(classes.clone());
        let split = Split::new(&targets, 30, &recipe(0.2)).unwrap();
        let of =
            |examples: &[usize], class| examples.iter().filter(|&&e| classes[e] == class).count();
        assert_eq!((of(&split.validation, 0), of(&split.validation, 1)), (2, 4));
        assert_eq!((of(&split.training, 0), of(&split.training, 1)), (8, 16));
        assert_eq!(split, Split::new(&targets, 30, &recipe(0.2)).unwrap());
        let pairs = Targets::Classes(vec![0, 0, 1]);
        let split = Split::new(&pairs, 3, &recipe(0.5)).unwrap();
        assert_eq!((split.training.len(), split.validation.len()), (2, 1));
        let single = Targets::Classes(vec![0, 1]);
        assert!(matches!(
            Split::new(&single, 2, &recipe(0.5)),
            Err(TrainingError::NoValidation { .. })
        ));
        let none = Split::new(&single, 2, &recipe(0.0)).unwrap();
        assert_eq!(none.training, [0, 1]);
    }

    #[test]
    fn inputs_are_kept_while_there_is_room() {
        let input = Arc::new(Tensor::zeros(vec![5]));
        let kept = Kept::new(50);
        (0..4).for_each(|index| kept.add(index, &input));
        let found: Vec<bool> = (0..4).map(|index| kept.get(index).is_some()).collect();
        assert_eq!(found, [true, true, false, false]);
    }

    #[test]
    fn crops_lie_inside_and_have_half_to_all_of_the_short_side() {
        for share in [0.0, 0.3, 0.7, 1.0 - f64::EPSILON] {
            for place in [0.0, 1.0 - f64::EPSILON] {
                let (left, top, side) = window((7, 5), [share, place, place]);
                assert!((3..=5).contains(&side), "{side}");
                assert!(left + side <= 7 && top + side <= 5, "{left} {top} {side}");
            }
        }
    }

    #[test]
    fn each_epoch_meets_every_image_once_in_an_order_of_its_own() {
        let split = Split {
            training: (0..50).collect(),
            validation: Vec::new(),
        };
        let orders: Vec<_> = (0..3)
            .map(|epoch| split.order(&recipe(0.0), epoch))
            .collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, split.training);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        assert_eq!(orders[1], split.order(&recipe(0.0), 1));
    }
}
