//! What decides a build of BAM data, beside the images: read from a request or from flags, then
//! settled on the classes that there are. Every fault is reported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    faults::{Fault, Faults, Reader},
    model::labels::{Labels, is_number},
    text::{meant, shown},
};

/// Images of each class, as places in their material.
pub(super) type Classes = BTreeMap<String, Vec<usize>>;

/// The most classes of objects, and of scenes.
const MAX_CLASSES: usize = 99;
const MAX_PER_PAIR: usize = 10_000;
/// The most compositions: as many as the paper's data has.
const MAX_COMPOSITIONS: usize = 100_000;
/// Sides of the pictures, in pixels.
const SIZES: std::ops::RangeInclusive<u32> = 16..=1024;

/// The fields of a request, each with what it is and its default.
pub const FIELDS: &[(&str, &str)] = &[
    (
        "object_classes",
        "the classes of objects, at least 2; default: all",
    ),
    (
        "scene_classes",
        "the classes of scenes, at least 2, in the order in which the common feature is added to them; default: all, by name",
    ),
    (
        "common_feature",
        "the class of objects that the sets k01, k02, ... have in 1, 2, ... of the scene classes; default: none, and no such sets",
    ),
    (
        "per_pair",
        "pictures of each class of objects in each class of scenes, from 2; default: 10. As many more of the common feature are made for feature_test",
    ),
    (
        "size",
        "width and height of the pictures, 16 to 1024; default: 224",
    ),
    (
        "object_size",
        "the longer side of an object as a share of the picture's, drawn evenly between these two; default: [0.3333333333333333, 0.5]",
    ),
    (
        "scene_crop",
        "1 (the default): the largest square in the middle of a scene; below: squares at random places, with sides from so large a share of the shorter side up to all of it",
    ),
    (
        "validation",
        "the share of each pair's pictures that are kept for tests, at least one; default: 0.1",
    ),
    ("seed", "of all that is drawn; default: 0"),
];

/// Every default settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub object_classes: Vec<String>,
    pub scene_classes: Vec<String>,
    pub common_feature: Option<String>,
    pub per_pair: usize,
    pub size: u32,
    pub object_size: [f64; 2],
    pub scene_crop: f64,
    pub validation: f64,
    pub seed: u64,
}

/// What was asked for, before the classes are known.
#[derive(Debug)]
pub struct Asked {
    object_classes: Option<Vec<String>>,
    scene_classes: Option<Vec<String>>,
    common_feature: Option<String>,
    per_pair: usize,
    size: u32,
    object_size: [f64; 2],
    scene_crop: f64,
    validation: f64,
    seed: u64,
}

impl Asked {
    pub fn read(reader: &mut Reader) -> Self {
        let classes = &["a list of 2 to 99 names of classes, none twice"];
        let are_distinct = |names: &Vec<String>| {
            (2..=MAX_CLASSES).contains(&names.len())
                && (1..names.len()).all(|at| !names[..at].contains(&names[at]))
        };
        let share = |share: &f64| *share > 0.0 && *share <= 1.0;
        let above_0 = &["a number above 0, at most 1"];
        Self {
            object_classes: reader.take("object_classes", classes, are_distinct),
            scene_classes: reader.take("scene_classes", classes, are_distinct),
            common_feature: reader.take("common_feature", &["the name of a class"], |_| true),
            per_pair: reader
                .take("per_pair", &["2 to 10000"], |count| {
                    (2..=MAX_PER_PAIR).contains(count)
                })
                .unwrap_or(10),
            size: reader
                .take("size", &["16 to 1024"], |size| SIZES.contains(size))
                .unwrap_or(224),
            object_size: reader
                .take(
                    "object_size",
                    &["two numbers above 0, at most 1: a larger object would leave its scene; the smaller one first"],
                    |[least, most]: &[f64; 2]| share(least) && share(most) && least <= most,
                )
                .unwrap_or([1.0 / 3.0, 0.5]),
            scene_crop: reader.take("scene_crop", above_0, share).unwrap_or(1.0),
            validation: reader
                .take("validation", &["a number above 0, below 1"], |part: &f64| {
                    *part > 0.0 && *part < 1.0
                })
                .unwrap_or(0.1),
            seed: reader
                .take("seed", &["a whole number from 0"], |_| true)
                .unwrap_or(0),
        }
    }

    /// The options for these classes; `None` where there are faults.
    pub fn settle(
        self,
        objects: &Classes,
        scenes: &Classes,
        faults: &mut Faults,
    ) -> Option<Options> {
        let mut choose = |param, asked, there| chosen(param, asked, there, faults);
        let object_classes = choose("object_classes", self.object_classes, objects);
        let scene_classes = choose("scene_classes", self.scene_classes, scenes);
        if let Some(feature) = &self.common_feature
            && !object_classes.is_empty()
            && !object_classes.contains(feature)
        {
            faults.push(no_class("common_feature", feature, &object_classes));
        }
        let scenes = Labels::from(scene_classes.clone());
        for name in object_classes.iter().filter(|name| scenes.has(name)) {
            let message = format!(
                "{} is a class of objects, too: test pictures are labelled with both, so call one of them otherwise",
                shown(name)
            );
            faults.push(Fault::says("scene_classes", message));
        }
        let count = object_classes.len() * scene_classes.len() * self.per_pair;
        if count > MAX_COMPOSITIONS {
            let message = format!(
                "{} x {} x {} pictures are {count}, and {MAX_COMPOSITIONS} are the most",
                object_classes.len(),
                scene_classes.len(),
                self.per_pair
            );
            faults.push(Fault::says("per_pair", message));
        }
        faults.is_empty().then_some(Options {
            object_classes,
            scene_classes,
            common_feature: self.common_feature,
            per_pair: self.per_pair,
            size: self.size,
            object_size: self.object_size,
            scene_crop: self.scene_crop,
            validation: self.validation,
            seed: self.seed,
        })
    }
}

/// The classes that are used; empty where that is told as a fault.
fn chosen(
    param: &str,
    asked: Option<Vec<String>>,
    there: &Classes,
    faults: &mut Faults,
) -> Vec<String> {
    let all: Vec<String> = there.keys().cloned().collect();
    let used = match asked {
        None if (2..=MAX_CLASSES).contains(&all.len()) => all,
        None => {
            let message = format!(
                "there are {} classes: 2 to {MAX_CLASSES} are used",
                all.len()
            );
            faults.push(Fault::new(param, message, some(&all)));
            return Vec::new();
        }
        Some(asked) => {
            for name in asked.iter().filter(|name| !there.contains_key(*name)) {
                faults.push(no_class(param, name, &all));
            }
            asked
        }
    };
    for name in &used {
        if let Some(reason) = unfit(name) {
            faults.push(Fault::says(
                param,
                format!("class {}: {reason}", shown(name)),
            ));
        } else if there.get(name).is_some_and(Vec::is_empty) {
            faults.push(Fault::says(
                param,
                format!("class {} has no image", shown(name)),
            ));
        }
    }
    used
}

fn no_class(param: &str, name: &str, known: &[String]) -> Fault {
    let meant = meant(name, known.iter().map(String::as_str));
    Fault::new(
        param,
        format!("no class is called {}{meant}", shown(name)),
        some(known),
    )
}

/// The first few names.
fn some(names: &[String]) -> Vec<String> {
    names.iter().take(20).cloned().collect()
}

/// Why a class cannot be the name of a folder and a label.
fn unfit(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 64 {
        Some("its name is a folder's, of 1 to 64 bytes")
    } else if name.starts_with('.') || name.trim() != name {
        Some("its name begins with a dot, or has blanks around it")
    } else if name
        .chars()
        .any(|c| c.is_control() || ['/', '\\', '|'].contains(&c))
    {
        Some("its name has a slash, a bar or a control character")
    } else if is_number(name) {
        Some("its name is a number, which would be read as the index of a class")
    } else {
        None
    }
}
