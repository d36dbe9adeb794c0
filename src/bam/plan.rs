//! Which object is pasted into which scene, where, and whether to train or to test on it. A
//! composition's draws are those of its own stream of the seed: nothing depends on who composes it
//! and when. Images of a class are used in turn, in a drawn order, equally often.

use std::collections::HashSet;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::options::{Classes, Options};
use crate::{dataset::draw, random::generator};

/// The streams of the seed: compositions count up from 0.
const SPLITS: u64 = 1 << 32;
const OBJECTS: u64 = 2 << 32;
const SCENES: u64 = 3 << 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Train,
    Test,
    /// Further tests of the common feature in the first scene class.
    Feature,
}

/// An object in a scene, before either is read. Classes are places in the options' lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    pub object_class: usize,
    pub scene_class: usize,
    /// Of its pair: below `per_pair`, and from there on those of [`Part::Feature`].
    pub copy: usize,
    /// Places in the materials.
    pub object: usize,
    pub scene: usize,
    pub part: Part,
    /// In [0, 1): side and place of the scene's square; size and place of the object.
    draws: [f64; 6],
}

/// All compositions, those of one scene image together.
#[derive(Clone, Debug)]
pub struct Plan {
    pub options: Options,
    pub compositions: Vec<Composition>,
}

impl Plan {
    /// `objects` and `scenes` hold images of each class of the options.
    pub fn new(options: Options, objects: &Classes, scenes: &Classes) -> Self {
        let order = |classes: &Classes, name: &String, stream: u64| {
            let images = classes.get(name).map_or(&[][..], Vec::as_slice);
            let order = drawn(images.len(), images.len(), options.seed, stream);
            order.into_iter().map(|at| images[at]).collect()
        };
        let orders = |classes: &Classes, names: &[String], streams: u64| -> Vec<Vec<usize>> {
            let each = names.iter().zip(streams..);
            each.map(|(name, stream)| order(classes, name, stream))
                .collect()
        };
        let object_orders = orders(objects, &options.object_classes, OBJECTS);
        let scene_orders = orders(scenes, &options.scene_classes, SCENES);
        let in_turn = |order: &[usize], turn: usize| {
            let at = order.get(turn % order.len().max(1));
            at.copied().unwrap_or_default()
        };
        let (per_pair, scene_count) = (options.per_pair, scene_orders.len());
        let mut compositions = Vec::new();
        let mut add = |[object_class, scene_class]: [usize; 2], copy, part, turns: [usize; 2]| {
            let mut drawn = generator(options.seed, compositions.len() as u64);
            compositions.push(Composition {
                object_class,
                scene_class,
                copy,
                object: in_turn(&object_orders[object_class], turns[0]),
                scene: in_turn(&scene_orders[scene_class], turns[1]),
                part,
                draws: std::array::from_fn(|_| drawn.random()),
            });
        };
        for object_class in 0..object_orders.len() {
            for scene_class in 0..scene_count {
                let pair = object_class * scene_count + scene_class;
                let tests = tests(&options, pair as u64);
                for copy in 0..per_pair {
                    let part = match tests.contains(&copy) {
                        true => Part::Test,
                        false => Part::Train,
                    };
                    let turns = [scene_class, object_class].map(|class| class * per_pair + copy);
                    add([object_class, scene_class], copy, part, turns);
                }
            }
        }
        if let Some(feature) = feature(&options) {
            // Their turns come after those of all others.
            let classes = [scene_count, object_orders.len()];
            for copy in 0..per_pair {
                let turns = classes.map(|classes| classes * per_pair + copy);
                add([feature, 0], per_pair + copy, Part::Feature, turns);
            }
        }
        compositions.sort_by_key(|one| (one.scene_class, one.scene, one.object_class, one.copy));
        Self {
            options,
            compositions,
        }
    }

    /// The places of the objects that are used, each once.
    pub fn objects(&self) -> Vec<usize> {
        let used: HashSet<usize> = self.compositions.iter().map(|one| one.object).collect();
        let mut used: Vec<usize> = used.into_iter().collect();
        used.sort_unstable();
        used
    }

    /// The class of the common feature.
    pub fn feature(&self) -> Option<usize> {
        feature(&self.options)
    }

    pub fn object_class(&self, one: &Composition) -> &str {
        &self.options.object_classes[one.object_class]
    }

    pub fn scene_class(&self, one: &Composition) -> &str {
        &self.options.scene_classes[one.scene_class]
    }

    /// What its pictures have in common: `forest/dog_0001`.
    pub fn group(&self, one: &Composition) -> String {
        let (scene, object) = (self.scene_class(one), self.object_class(one));
        format!("{scene}/{object}_{:04}", one.copy + 1)
    }
}

fn feature(options: &Options) -> Option<usize> {
    let name = options.common_feature.as_ref()?;
    let mut classes = options.object_classes.iter();
    classes.position(|class| class == name)
}

/// The copies of a pair that are kept for tests.
fn tests(options: &Options, pair: u64) -> HashSet<usize> {
    let share = (options.validation * options.per_pair as f64).round() as usize;
    let most = options.per_pair.saturating_sub(1).max(1);
    let count = share.clamp(1, most);
    let copies = drawn(options.per_pair, count, options.seed, SPLITS + pair);
    copies.into_iter().collect()
}

/// `count` distinct numbers below `length`, by a stream of the seed.
fn drawn(length: usize, count: usize, seed: u64, stream: u64) -> Vec<usize> {
    draw(length, count, generator(seed, stream).random())
}

impl Composition {
    /// Left, top and side of the square of a scene of this width and height.
    pub(super) fn crop(&self, options: &Options, (width, height): (u32, u32)) -> [u32; 3] {
        let short = width.min(height);
        let [side, x, y, ..] = self.draws;
        let least = options.scene_crop;
        if least >= 1.0 {
            return [(width - short) / 2, (height - short) / 2, short];
        }
        let side = (f64::from(short) * between([least, 1.0], side)).round() as u32;
        let side = side.clamp(1, short);
        [
            below(width - side + 1, x),
            below(height - side + 1, y),
            side,
        ]
    }

    /// The longer side of the object, in pixels of the picture.
    pub(super) fn longer_side(&self, options: &Options) -> u32 {
        let share = between(options.object_size, self.draws[3]);
        let side = (f64::from(options.size) * share).round() as u32;
        side.clamp(1, options.size)
    }

    /// Left and top of an object of this width and height, wholly inside of the picture.
    pub(super) fn corner(&self, options: &Options, (width, height): (u32, u32)) -> [u32; 2] {
        let [.., x, y] = self.draws;
        let free = |side| options.size.saturating_sub(side) + 1;
        [below(free(width), x), below(free(height), y)]
    }
}

fn between([least, most]: [f64; 2], share: f64) -> f64 {
    least + (most - least) * share
}

/// A whole number below `count`.
fn below(count: u32, share: f64) -> u32 {
    ((f64::from(count) * share) as u32).min(count.saturating_sub(1))
}
