//! The folder of a trained model: its weights put back into the model that they were taken from,
//! the manifest that the parent was served with, labels, licence, and where it comes from.

use std::{fs, io};

use super::{ModelFile, TrainingError, checkpoint::Weights};
use crate::model::{
    Model,
    provenance::{self, Provenance},
    to_toml,
};
use onnx_autodiff::onnx::{
    graph::{Element, Graph, Literal},
    passes, write_model,
};

/// What the parent's licence may be called; the trained model keeps it.
const LICENCES: [&str; 4] = ["LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"];
/// The largest licence.
const MAX_LICENCE_BYTES: u64 = 1 << 20;

/// The graph with these weights as its initializers.
pub(super) fn with_weights(graph: &Graph, weights: &Weights) -> Result<Graph, TrainingError> {
    let mut graph = graph.clone();
    let mut lost = Vec::new();
    for (name, tensor) in weights {
        let values = tensor.as_slice().unwrap_or_default().to_vec();
        let literal = Literal::from_f32_vec(tensor.shape(), values);
        if let Some(own) = graph.initializers.get_mut(name) {
            match (own.element, &own.shape) == (Element::Float, &literal.shape) {
                true => *own = literal,
                false => lost.push(name.clone()),
            }
            continue;
        }
        // A value that is computed of constants, such as a transposed weight, becomes one.
        let made = graph
            .nodes
            .iter()
            .position(|node| node.outputs == [name.as_str()]);
        match made {
            Some(at) => {
                graph.nodes.remove(at);
                graph.initializers.insert(name.clone(), literal);
            }
            None => lost.push(name.clone()),
        }
    }
    match lost.is_empty() {
        true => Ok(passes::prune(graph)?),
        false => Err(TrainingError::NotInModel { names: lost }),
    }
}

/// The files of the folder. `model` is the parent, with its new head where it has one.
pub(super) fn files(
    parent: &Model,
    model: &Model,
    weights: &Weights,
    provenance: &Provenance,
) -> Result<Vec<ModelFile>, TrainingError> {
    let graph = with_weights(&model.graph, weights)?;
    let mut files = vec![
        ModelFile {
            name: "model.onnx",
            bytes: write_model(&graph)?,
        },
        ModelFile {
            name: "model.toml",
            bytes: to_toml(&model.manifest).into_bytes(),
        },
    ];
    if !model.labels.is_empty() {
        files.push(ModelFile {
            name: "labels.txt",
            bytes: (model.labels.join("\n") + "\n").into_bytes(),
        });
    }
    let text =
        serde_json::to_string_pretty(provenance).map_err(|error| TrainingError::Checkpoint {
            reason: error.to_string(),
        })?;
    files.push(ModelFile {
        name: provenance::FILE,
        bytes: (text + "\n").into_bytes(),
    });
    for name in LICENCES {
        let Some(path) = parent.folder.as_ref().map(|folder| folder.join(name)) else {
            break;
        };
        let is_small = |found: fs::Metadata| found.is_file() && found.len() <= MAX_LICENCE_BYTES;
        if !fs::metadata(&path).is_ok_and(is_small) {
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => files.push(ModelFile { name, bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(TrainingError::File { path, source }),
        }
    }
    Ok(files)
}
