//! The inputs that patterns are fitted on, one sample at a time: images of a folder, or rows of a
//! tensor.
//!
//! Four views of each image: as the model's manifest preprocesses it, one random square crop of 50
//! to 100 % of the short side, and the mirror images of both. The crop is drawn with ChaCha8 keyed
//! by the image's place in the sorted list.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::Axis;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::FitError;
use crate::{
    model::Model,
    picture::{
        RgbImage,
        decode::{Limits, decode},
        preprocess::{Preprocess, preprocess},
        types::is_image_extension,
    },
    tensor::Tensor,
};

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unreadable {
    pub path: PathBuf,
    pub reason: String,
}

/// Where samples come from.
pub enum SampleSource {
    Images {
        paths: Vec<PathBuf>,
        preprocess: Preprocess,
    },
    /// SampleSource first.
    Tensors(Tensor),
}

impl SampleSource {
    /// All images below a folder, in the order of their paths.
    pub fn in_folder(folder: &Path, model: &Model) -> Result<Self, FitError> {
        let input = &model.manifest.input;
        let Some(preprocess) = input.preprocess.clone() else {
            return Err(FitError::TakesTensors {
                model: model.id.clone(),
                shape: input.shape.clone(),
            });
        };
        let mut paths = Vec::new();
        collect(folder, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(FitError::NoImages {
                folder: folder.to_owned(),
            });
        }
        Ok(Self::Images { paths, preprocess })
    }

    /// Rows of `tensor`, each in the shape of the model's input.
    pub fn in_tensor(tensor: Tensor, model: &Model) -> Result<Self, FitError> {
        let expected = &model.manifest.input.shape;
        if tensor.shape().get(1..) != Some(expected.as_slice()) {
            return Err(FitError::Shape {
                found: tensor.shape().to_vec(),
                expected: expected.clone(),
            });
        }
        Ok(Self::Tensors(tensor))
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Images { paths, .. } => paths.len(),
            Self::Tensors(tensor) => tensor.len_of(Axis(0)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inputs that the sample at `index` (below `len`) gives.
    pub fn read(&self, index: usize) -> Result<Vec<Tensor>, Unreadable> {
        match self {
            Self::Tensors(tensor) => Ok(vec![tensor.index_axis(Axis(0), index).to_owned()]),
            Self::Images { paths, preprocess } => {
                let path = &paths[index];
                read_views(path, preprocess, index as u64).map_err(|reason| Unreadable {
                    path: path.clone(),
                    reason,
                })
            }
        }
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), FitError> {
    let failed = |source| FitError::File {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if is_image_extension(&extension) {
            paths.push(path);
        }
    }
    Ok(())
}

fn read_views(path: &Path, rule: &Preprocess, key: u64) -> Result<Vec<Tensor>, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let image = decode(&bytes, &Limits::default())
        .map_err(|error| error.to_string())?
        .image;
    let crop = random_crop(&image, key);
    let views = [
        image::imageops::flip_horizontal(&image),
        image::imageops::flip_horizontal(&crop),
        crop,
        image,
    ];
    views
        .iter()
        .map(|view| Ok(preprocess(view, rule).map_err(|error| error.to_string())?.0))
        .collect()
}

fn random_crop(image: &RgbImage, key: u64) -> RgbImage {
    let mut random = ChaCha8Rng::seed_from_u64(key);
    let (width, height) = image.dimensions();
    let short = width.min(height);
    let side = random.random_range(short.div_ceil(2)..=short);
    let (left, top) = (
        random.random_range(0..=width - side),
        random.random_range(0..=height - side),
    );
    image::imageops::crop_imm(image, left, top, side, side).to_image()
}
