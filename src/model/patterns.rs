//! `patterns.safetensors`: one tensor per Linear layer (Eq. 2 of the PGIG paper), keyed by the
//! layer's output value, with the fit's provenance as JSON in the metadata. Writing is
//! deterministic. Layers are read from the file one at a time.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, serialize},
};
use serde::{Deserialize, Serialize};

use super::foreign::open_regular;
use crate::{
    files::{FilesError, hash},
    pool::WorkPanicked,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{PatternSource, Patterns};

/// The file's name in a model's folder.
pub const FILE: &str = "patterns.safetensors";
const PROVENANCE: &str = "provenance";
/// Hex digits of the SHA-256 that make a patterns id.
const ID_LENGTH: usize = 16;

/// The provenance of a fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// SHA-256 of the `model.onnx` that was fitted, in hex.
    pub model_hash: String,
    /// Name of the folder or file of samples.
    pub data_set: String,
    /// Images or tensors read.
    pub samples: usize,
    /// Inputs evaluated: the views of all samples.
    pub rows: usize,
    pub regime: String,
    /// Version of explaind.
    pub version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PatternsError {
    #[error("{FILE} cannot be read or written: {0}")]
    File(#[from] io::Error),
    #[error("{FILE} is no patterns file: {reason}")]
    Format { reason: String },
    #[error(
        "{FILE} was fitted on another model.onnx (SHA-256 {found}); fit it again with `explaind fit-patterns`"
    )]
    OtherModel { found: String },
    #[error("the patterns {id} are not in the store of files any more, or not whole")]
    Lost { id: String },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

/// Reads a file; refuses patterns of a model with another hash than `model_hash`.
pub fn read(path: &Path, model_hash: &str) -> Result<(Patterns, Provenance), PatternsError> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
    let text = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(PROVENANCE));
    let provenance = text.ok_or_else(|| malformed("it does not say what it was fitted on"))?;
    let provenance: Provenance = serde_json::from_str(provenance).map_err(malformed)?;
    if provenance.model_hash != model_hash {
        return Err(PatternsError::OtherModel {
            found: provenance.model_hash,
        });
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(malformed)?;
    let mut layers = BTreeMap::new();
    for (name, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(malformed(format!("{name} is {:?}, not F32", view.dtype())));
        }
        let offset = (view.data().as_ptr() as usize - bytes.as_ptr() as usize) as u64;
        layers.insert(
            name.to_owned(),
            Layer {
                shape: view.shape().to_vec(),
                offset,
            },
        );
    }
    let id = id_of(&hash(&file)?);
    Ok((
        Patterns {
            id,
            source: Arc::new(PatternsFile { file, layers }),
        },
        provenance,
    ))
}

/// The id of patterns whose file has this SHA-256.
pub(super) fn id_of(hash: &str) -> String {
    hash.chars().take(ID_LENGTH).collect()
}

/// Writes the file atomically.
pub fn write(
    path: &Path,
    layers: &BTreeMap<String, Tensor>,
    provenance: &Provenance,
) -> Result<(), PatternsError> {
    let data = layers
        .iter()
        .map(|(name, tensor)| {
            (
                name,
                tensor.shape(),
                tensor
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect::<Vec<_>>(),
            )
        })
        .collect::<Vec<_>>();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, shape.to_vec(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(malformed)?;
    // A single entry: several would be in the random order of a hash map.
    let metadata = HashMap::from([(
        PROVENANCE.to_owned(),
        serde_json::to_string(provenance).map_err(malformed)?,
    )]);
    let bytes = serialize(views, Some(metadata)).map_err(malformed)?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    Ok(std::fs::rename(&partial, path)?)
}

fn malformed(reason: impl ToString) -> PatternsError {
    PatternsError::Format {
        reason: reason.to_string(),
    }
}

#[derive(Debug)]
struct PatternsFile {
    file: File,
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug)]
struct Layer {
    shape: Vec<usize>,
    /// Offset of the first number in the file.
    offset: u64,
}

impl PatternSource for PatternsFile {
    fn shape(&self, layer: &str) -> Option<&[usize]> {
        self.layers.get(layer).map(|layer| layer.shape.as_slice())
    }

    fn read(&self, layer: &str) -> io::Result<Tensor> {
        let missing = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{FILE} has no layer {layer}"),
            )
        };
        let Layer { shape, offset } = self.layers.get(layer).ok_or_else(missing)?;
        let mut values = vec![0_f32; shape.iter().product()];
        self.file
            .read_exact_at(bytemuck::cast_slice_mut(&mut values), *offset)?;
        values
            .iter_mut()
            .for_each(|value| *value = f32::from_bits(u32::from_le(value.to_bits())));
        Tensor::from_shape_vec(shape.clone(), values).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance() -> Provenance {
        Provenance {
            model_hash: "ab".into(),
            data_set: "photos".into(),
            samples: 2,
            rows: 8,
            regime: "activation".into(),
            version: "0".into(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_equal_fits_are_equal_files() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("a"), folder.path().join("b"));
        let layer =
            Tensor::from_shape_vec(vec![2, 1, 3], vec![1.0, -2.0, 3.5, 0.0, 5.0, 6.0]).unwrap();
        let layers = BTreeMap::from([
            ("conv".to_owned(), layer.clone()),
            ("a".to_owned(), Tensor::zeros(vec![1])),
        ]);
        write(&one, &layers, &provenance()).unwrap();
        write(&two, &layers, &provenance()).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let (patterns, read_back) = read(&one, "ab").unwrap();
        assert_eq!(read_back, provenance());
        assert_eq!(patterns.source.shape("conv"), Some([2, 1, 3].as_slice()));
        assert_eq!(patterns.source.read("conv").unwrap(), layer);
        assert!(patterns.source.read("fc").is_err());
    }

    #[test]
    fn patterns_of_another_model_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        write(&path, &BTreeMap::new(), &provenance()).unwrap();
        assert!(
            matches!(read(&path, "cd"), Err(PatternsError::OtherModel { found }) if found == "ab")
        );
    }

    #[test]
    fn a_file_of_another_kind_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, b"not safetensors").unwrap();
        assert!(matches!(read(&path, ""), Err(PatternsError::Format { .. })));
    }
}
