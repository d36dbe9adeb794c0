//! Supports: models with the graph of another and other weights, which keep two of its classes
//! further apart (Mazini Rodrigues et al., 2024, section 4). A set has one for each alpha, the
//! amount by which its targets are apart. Weights are safetensors, by the name of their initializer.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Model, variant::VariantError};
use crate::{
    faults::{Fault, Faults},
    files::FilesError,
    pool::WorkPanicked,
    text::excerpt,
};
use onnx_autodiff::onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo};

/// The most supports of a set, and the most sets of a model.
pub const MOST_SUPPORTS: usize = 16;
pub const MOST_SETS: usize = 32;
/// The largest alpha.
pub const MOST_ALPHA: f64 = 1e6;

/// Weights of a model, by the name of their initializer.
pub type Weights = BTreeMap<String, Literal>;

/// A set as the store of files describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupportSet {
    pub name: String,
    /// Names this version of the set: the first hex digits of a SHA-256 over all of it.
    pub id: String,
    /// The two that are kept apart.
    pub classes: [usize; 2],
    /// By rising alpha.
    pub members: Vec<Member>,
    pub provenance: Provenance,
}

/// One support of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub alpha: f64,
    /// SHA-256 of its file, in hex.
    pub hash: String,
    pub bytes: u64,
}

/// Where a set comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "source", rename_all = "snake_case")]
#[schema(as = SupportProvenance)]
pub enum Provenance {
    /// PUT /models/{id}/supports/{set}.
    Upload,
    /// A job of kind `gad_train`.
    Job {
        job: String,
        dataset: String,
        dataset_hash: String,
    },
}

/// A support ready to be asked.
#[derive(Clone, Debug)]
pub struct Support {
    pub alpha: f64,
    pub model: Arc<Model>,
}

#[derive(Debug, thiserror::Error)]
pub enum SupportsError {
    #[error("model {model} has no set of supports called {}", excerpt(set))]
    Unknown { model: String, set: String },
    #[error("model {model} has {MOST_SETS} sets of supports, and no more are kept: delete one")]
    TooMany { model: String },
    #[error("the set of supports {set} was replaced or deleted meanwhile; try again")]
    Lost { set: String },
    #[error("weights of the set cannot be read: {0}")]
    Weights(Faults),
    #[error(transparent)]
    Variant(#[from] VariantError),
    #[error("the weights of a support cannot be put into a file: {0}")]
    Write(#[from] safetensors::SafeTensorError),
    #[error("the server's temporary folder failed: {}", .0.kind())]
    Disk(io::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl SupportSet {
    /// `name@id`: this version and no other.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.id)
    }

    pub fn alphas(&self) -> impl ExactSizeIterator<Item = f64> {
        self.members.iter().map(|member| member.alpha)
    }

    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }

    #[cfg(test)]
    pub fn example(name: &str, alphas: &[f64]) -> Self {
        let member = |&alpha| Member {
            alpha,
            hash: String::new(),
            bytes: 0,
        };
        Self {
            name: name.to_owned(),
            id: "0123456789abcdef".to_owned(),
            classes: [0, 1],
            members: alphas.iter().map(member).collect(),
            provenance: Provenance::Upload,
        }
    }
}

/// The alpha in the name of a member's file: `alpha_2.onnx`, `alpha_0.5.safetensors`.
pub fn alpha_of(stem: &str) -> Option<f64> {
    let number: f64 = stem.strip_prefix("alpha_")?.parse().ok()?;
    (number > 0.0 && number <= MOST_ALPHA).then_some(number)
}

/// The weights of a safetensors file; `file` is what faults call it.
pub fn read_weights(file: &str, bytes: &Bytes) -> Result<Weights, Faults> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
        Faults::from(Fault::says(
            file,
            format!("is no safetensors file: {error}"),
        ))
    })?;
    let (mut weights, mut faults) = (Weights::new(), Faults::default());
    for (name, view) in tensors.iter() {
        match element_of(view.dtype()) {
            Some(element) => {
                let literal = Literal {
                    element,
                    shape: view.shape().to_vec(),
                    bytes: bytes.slice_ref(view.data()),
                };
                weights.insert(name.to_owned(), literal.detached());
            }
            None => faults.push(Fault::says(
                file,
                format!("{} is {:?}, no float", excerpt(name), view.dtype()),
            )),
        }
    }
    faults.settle(weights)
}

/// The weights of a graph that differ from those of the model, whose own file holds `own`. Faults
/// say where the graphs differ in more than their weights.
pub fn weights_of_graph(
    file: &str,
    graph: &Graph,
    own: &Graph,
    model: &Model,
) -> Result<Weights, Faults> {
    let mut faults = Faults::default();
    let mut refuse = |message: String| faults.push(Fault::says(file, message));
    let ends = |graph: &Graph| {
        let end = |value: &ValueInfo| {
            let sizes = value.value_type.shape.iter().map(Dim::known);
            (
                value.name.clone(),
                value.value_type.element,
                sizes.collect(),
            )
        };
        [&graph.inputs, &graph.outputs]
            .map(|values| values.iter().map(end).collect::<Vec<(_, _, Vec<_>)>>())
    };
    if ends(graph) != ends(own) {
        refuse("has inputs or outputs of other names, shapes or types than the model".to_owned());
    }
    if graph.nodes.len() != own.nodes.len() {
        let [found, expected] = [graph, own].map(|graph| graph.nodes.len());
        refuse(format!("has {found} nodes, and the model {expected}"));
    }
    let mut pairs = graph.nodes.iter().zip(&own.nodes);
    if let Some((_, node)) = pairs.find(|(one, other)| {
        let what = |node: &Node| {
            let mut node = node.clone();
            node.name.clear();
            node
        };
        what(one) != what(other)
    }) {
        let output = node.outputs.first().map_or("", String::as_str);
        refuse(format!(
            "differs from the model at the node {} of {}: initializers alone may have other values",
            node.op_type,
            excerpt(output)
        ));
    }
    for name in own.initializers.keys() {
        if !graph.initializers.contains_key(name) {
            refuse(format!("has no weights called {}", excerpt(name)));
        }
    }
    let mut weights = Weights::new();
    for (name, literal) in &graph.initializers {
        match own.initializers.get(name) {
            None => refuse(format!(
                "has weights {}, which the model has not",
                excerpt(name)
            )),
            Some(known) if known == literal => {}
            Some(known) if !known.element.is_float() && known.shape == literal.shape => {
                refuse(format!(
                    "has other numbers in {}, which holds no floats",
                    excerpt(name)
                ))
            }
            // What is dropped of the file's graph has no weights in the model's.
            Some(_) if !model.graph.initializers.contains_key(name) => {}
            Some(_) => {
                weights.insert(name.clone(), literal.detached());
            }
        }
    }
    faults.settle(weights)
}

/// Whether weights can take the place of the model's: every fault of names, shapes, types and
/// values.
pub fn check_weights(file: &str, weights: &Weights, model: &Model) -> Result<(), Faults> {
    let mut faults = Faults::default();
    let mut refuse = |message: String| faults.push(Fault::says(file, message));
    let is_own =
        |(name, literal): (&String, &Literal)| model.graph.initializers.get(name) == Some(literal);
    if weights.iter().all(is_own) {
        refuse("has no weights other than the model's own".to_owned());
    }
    for (name, literal) in weights {
        let shown = excerpt(name);
        match model.graph.initializers.get(name) {
            None => refuse(format!("the model has no weights called {shown}")),
            Some(own) if own.shape != literal.shape => refuse(format!(
                "weights {shown} have shape {:?}; the model's have {:?}",
                literal.shape, own.shape
            )),
            Some(own) if own.element != literal.element => refuse(format!(
                "weights {shown} are {:?}; the model's are {:?}",
                literal.element, own.element
            )),
            Some(_) if !is_finite(literal) => {
                refuse(format!("weights {shown} have values that are not finite"))
            }
            Some(_) => {}
        }
    }
    faults.settle(())
}

fn is_finite(literal: &Literal) -> bool {
    let is_finite = |four: &[u8; 4]| f32::from_le_bytes(*four).is_finite();
    match literal.element {
        Element::Float => literal.bytes.as_chunks().0.iter().all(is_finite),
        _ => literal.to_f64s().iter().all(|value| value.is_finite()),
    }
}

/// A safetensors file of the weights: the same bytes for the same weights.
pub fn to_file(weights: &Weights) -> Result<Vec<u8>, SupportsError> {
    let views = weights.iter().filter_map(|(name, literal)| {
        let dtype = dtype_of(literal.element)?;
        Some((name, dtype, literal))
    });
    let views = views
        .map(|(name, dtype, literal)| {
            let view = TensorView::new(dtype, literal.shape.clone(), &literal.bytes)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

const DTYPES: [(Dtype, Element); 4] = [
    (Dtype::F32, Element::Float),
    (Dtype::F64, Element::Double),
    (Dtype::F16, Element::Float16),
    (Dtype::BF16, Element::Bfloat16),
];

fn element_of(dtype: Dtype) -> Option<Element> {
    let found = DTYPES.iter().find(|(known, _)| *known == dtype);
    found.map(|(_, element)| *element)
}

fn dtype_of(element: Element) -> Option<Dtype> {
    let found = DTYPES.iter().find(|(_, known)| *known == element);
    found.map(|(dtype, _)| *dtype)
}
