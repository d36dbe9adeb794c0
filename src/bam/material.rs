//! Where objects and scenes come from: data sets with a label for each image, or COCO's
//! annotations. Every image that cannot be used is a fault.

use std::sync::Arc;

use image::{RgbImage, RgbaImage};
use rayon::prelude::*;

use super::{BamError, Cutout, coco::Coco, options::Classes};
use crate::{
    dataset::Dataset,
    faults::{Fault, Faults},
    picture::decode::Limits,
    text::excerpt,
};

/// Images of objects, with their classes.
#[derive(Clone, Debug)]
pub enum Objects {
    /// The object is where an image's mask is; without a mask, where the image is not transparent.
    Dataset(Arc<Dataset>),
    Coco(Arc<Coco>),
}

/// Photos of scenes, with their classes.
#[derive(Clone, Debug)]
pub struct Scenes(pub Arc<Dataset>);

impl Objects {
    /// By class; `param` is what faults are told of.
    pub fn classes(&self, param: &str, faults: &mut Faults) -> Classes {
        match self {
            Self::Dataset(dataset) => classes_of(dataset, param, faults),
            Self::Coco(coco) => coco.classes(),
        }
    }

    /// The file of the image at this place.
    pub fn file(&self, at: usize) -> &str {
        match self {
            Self::Dataset(dataset) => dataset.images.get(at).map_or("", |image| &image.file),
            Self::Coco(coco) => coco.file(at),
        }
    }

    pub fn hash(&self) -> &str {
        match self {
            Self::Dataset(dataset) => &dataset.hash,
            Self::Coco(coco) => &coco.hash,
        }
    }

    fn image(&self, at: usize, limits: &Limits) -> Result<RgbaImage, BamError> {
        match self {
            Self::Dataset(dataset) => {
                let no_cutout = || BamError::NoCutout {
                    file: self.file(at).to_owned(),
                };
                dataset.cutout(at, limits)?.ok_or_else(no_cutout)
            }
            Self::Coco(coco) => coco.cutout(at, limits),
        }
    }

    /// The object of the image at this place.
    pub fn cutout(&self, at: usize, limits: &Limits) -> Result<Cutout, BamError> {
        Cutout::new(&self.image(at, limits)?).ok_or_else(|| BamError::Invisible {
            file: self.file(at).to_owned(),
        })
    }

    /// Tells every one of these objects that cannot be cut out. Reads them all.
    pub fn check(&self, objects: &[usize], param: &str, limits: &Limits, faults: &mut Faults) {
        let check = |at: &usize| self.cutout(*at, limits).err();
        let found: Vec<BamError> = objects.par_iter().filter_map(check).collect();
        faults.extend(
            found
                .into_iter()
                .map(|error| Fault::says(param, error.to_string())),
        );
    }
}

impl Scenes {
    /// As [`Objects::classes`].
    pub fn classes(&self, param: &str, faults: &mut Faults) -> Classes {
        classes_of(&self.0, param, faults)
    }

    pub fn file(&self, at: usize) -> &str {
        self.0.images.get(at).map_or("", |image| &image.file)
    }

    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    pub fn photo(&self, at: usize, limits: &Limits) -> Result<RgbImage, BamError> {
        Ok(self.0.read(at, limits)?.image)
    }
}

fn classes_of(dataset: &Dataset, param: &str, faults: &mut Faults) -> Classes {
    let mut classes = Classes::new();
    for (at, image) in dataset.images.iter().enumerate() {
        let reason = match (&image.fault, image.truth.names.as_slice()) {
            (Some(fault), _) => format!("cannot be read: {fault}"),
            (None, [name]) => {
                classes.entry(name.clone()).or_default().push(at);
                continue;
            }
            (None, []) if !image.truth.indices.is_empty() => {
                "is labelled by an index alone: name its class in a column `label`".to_owned()
            }
            (None, []) => {
                "has no label: name its class, or put it into a folder of that name".to_owned()
            }
            (None, names) => format!("has {} labels, and one is needed", names.len()),
        };
        faults.push_with(|| Fault::says(param, format!("{} {reason}", excerpt(&image.file))));
    }
    classes
}
