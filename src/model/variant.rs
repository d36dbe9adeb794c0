//! Models made of another: with weights drawn anew, with weights that are given, or a part of its
//! graph. Each has a hash of its own, which says what it is of which model, so that it shares no
//! session with it. Fresh weights: He et al., Delving Deep into Rectifiers, 2015, section 2.2.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{Model, manifest::Manifest};
use crate::random::normals;
use onnx_autodiff::onnx::{
    OnnxError,
    graph::{Graph, Literal, Node},
    passes,
};

#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    #[error(transparent)]
    Graph(#[from] OnnxError),
    #[error("the model has no weights called {name}")]
    Unknown { name: String },
    #[error("weights {name} have shape {found:?}; the model's have {expected:?}")]
    Shape {
        name: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    #[error("weights {name} are of another type than the model's")]
    Element { name: String },
}

/// The part of a model's graph that ends at the value or place called `end`, as a model that takes
/// ready tensors.
pub fn cut(model: &Model, end: &str, part: &Graph) -> Model {
    let bare = Model::bare("", Arc::new(part.clone()));
    let input = bare.manifest.input;
    Model {
        hash: format!("{}, {} {:?} to {end}", model.hash, input.name, input.shape),
        manifest: Manifest {
            input,
            ..model.manifest.clone()
        },
        labels: Default::default(),
        graph: bare.graph,
        rule_sets: bare.rule_sets,
        layers: Vec::new(),
        attention: bare.attention,
        patterns: None,
        supports: Arc::default(),
        provenance: None,
        warnings: Vec::new(),
        ..model.clone()
    }
}

/// The model with other weights, by the name of their initializer; `id` tells them from others.
pub fn with_weights(
    model: &Model,
    weights: BTreeMap<String, Literal>,
    id: &str,
) -> Result<Model, VariantError> {
    let mut graph = model.graph.as_ref().clone();
    for (name, literal) in weights {
        let Some(own) = graph.initializers.get_mut(&name) else {
            return Err(VariantError::Unknown { name });
        };
        if own.shape != literal.shape {
            return Err(VariantError::Shape {
                name,
                expected: own.shape.clone(),
                found: literal.shape,
            });
        }
        if own.element != literal.element {
            return Err(VariantError::Element { name });
        }
        *own = literal;
    }
    Ok(Model {
        hash: format!("{}, weights {id}", model.hash),
        graph: Arc::new(graph),
        supports: Arc::default(),
        ..model.clone()
    })
}

/// The layers of a model whose weights can be drawn anew. A layer is a convolution or a matrix
/// product, with the biases, normalisations and slopes that follow it.
pub struct Randomisation<'a> {
    model: &'a Model,
    /// With every constant as an initializer.
    graph: Graph,
    /// In the order of the forward pass.
    layers: Vec<WeightedLayer>,
}

struct WeightedLayer {
    /// Output value of its first node.
    name: String,
    weights: Vec<Weight>,
}

struct Weight {
    name: String,
    fresh: Fresh,
}

/// What a layer's training starts with.
#[derive(Clone, Copy)]
enum Fresh {
    /// N(0, 2 / fan_in).
    He {
        fan_in: usize,
    },
    Constant(f64),
}

impl<'a> Randomisation<'a> {
    pub fn of(model: &'a Model) -> Result<Self, VariantError> {
        let graph = passes::fold(model.graph.as_ref().clone())?;
        Ok(Self {
            model,
            layers: layers(&graph),
            graph,
        })
    }

    /// The layers' names, from the input to the head.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layers.iter().map(|layer| layer.name.as_str())
    }

    /// Cascading: the layer of this number and all that follow it. None without such a layer.
    pub fn from(&self, first: usize, seed: u64) -> Option<Model> {
        self.cascade([first], seed).pop()
    }

    /// As [`Self::from`], of several layers; numbers without a layer give nothing. Models share the
    /// weights that they have in common, where each layer comes before the one before it.
    pub fn cascade(&self, firsts: impl IntoIterator<Item = usize>, seed: u64) -> Vec<Model> {
        let (mut graph, mut end) = (self.graph.clone(), self.layers.len());
        let mut models = Vec::new();
        for first in firsts {
            let Some(WeightedLayer { name, .. }) = self.layers.get(first) else {
                continue;
            };
            if first > end {
                (graph, end) = (self.graph.clone(), self.layers.len());
            }
            self.draw(&mut graph, first..end, seed);
            end = first;
            models.push(self.variant(graph.clone(), &format!("{name} and all that follow"), seed));
        }
        models
    }

    /// The layer of this number alone. None without such a layer.
    pub fn only(&self, layer: usize, seed: u64) -> Option<Model> {
        let name = &self.layers.get(layer)?.name;
        let mut graph = self.graph.clone();
        self.draw(&mut graph, layer..layer + 1, seed);
        Some(self.variant(graph, &format!("{name} alone"), seed))
    }

    fn variant(&self, graph: Graph, what: &str, seed: u64) -> Model {
        Model {
            hash: format!("{}, random by {seed}: {what}", self.model.hash),
            graph: Arc::new(graph),
            supports: Arc::default(),
            ..self.model.clone()
        }
    }

    /// A weight is the same in every variant of a seed that draws it.
    fn draw(&self, graph: &mut Graph, chosen: std::ops::Range<usize>, seed: u64) {
        let weights = self.layers.iter().enumerate().flat_map(|(layer, found)| {
            let number = move |weight| (layer, weight);
            found.weights.iter().map(number)
        });
        for (stream, (_, weight)) in weights
            .enumerate()
            .filter(|(_, (layer, _))| chosen.contains(layer))
        {
            if let Some(literal) = graph.initializers.get_mut(&weight.name) {
                *literal = weight.fresh.draw(literal, seed, stream as u64);
            }
        }
    }
}

impl Fresh {
    /// In the shape and of the type of `old`.
    fn draw(self, old: &Literal, seed: u64, stream: u64) -> Literal {
        let count = old.len();
        let values: Vec<f64> = match self {
            Self::Constant(value) => vec![value; count],
            Self::He { fan_in } => {
                let deviation = (2.0 / fan_in.max(1) as f64).sqrt();
                let normals = normals(seed, stream).take(count);
                normals.map(|normal| deviation * normal).collect()
            }
        };
        Literal::from_f64s(old.element, &old.shape, &values)
    }
}

fn layers(graph: &Graph) -> Vec<WeightedLayer> {
    let mut layers: Vec<WeightedLayer> = Vec::new();
    // The layer that a value comes from, and the values that are products of weights.
    let mut layer_of: HashMap<&str, usize> = HashMap::new();
    let mut products: HashSet<&str> = HashSet::new();
    let mut taken: HashSet<&str> = HashSet::new();
    for node in &graph.nodes {
        let mut found = product(graph, node);
        if !found.is_empty() {
            layers.push(WeightedLayer {
                name: node.outputs[0].clone(),
                weights: Vec::new(),
            });
            products.insert(&node.outputs[0]);
        }
        let before = node
            .inputs
            .iter()
            .find_map(|input| layer_of.get(input.as_str()));
        let layer = match found.is_empty() {
            true => before.copied(),
            false => Some(layers.len() - 1),
        };
        let Some(layer) = layer else { continue };
        if found.is_empty() {
            found = follower(graph, node, &products);
        }
        layer_of.extend(node.outputs.iter().map(|output| (output.as_str(), layer)));
        // Weights of several layers belong to the first of them.
        found.retain(|(name, _)| taken.insert(*name));
        layers[layer]
            .weights
            .extend(found.into_iter().map(|(name, fresh)| Weight {
                name: name.to_owned(),
                fresh,
            }));
    }
    layers
}

/// The weights of a convolution or a matrix product with constants, and its bias; empty for other
/// nodes.
fn product<'a>(graph: &Graph, node: &'a Node) -> Vec<(&'a str, Fresh)> {
    let shape = |slot| weight(graph, node, slot).map(|(_, literal)| literal.shape.as_slice());
    let (slot, fan_in) = match (node.op_type.as_str(), shape(0), shape(1)) {
        _ if !node.domain.is_empty() => return Vec::new(),
        ("Conv", _, Some([_, filter @ ..])) => (1, filter.iter().product()),
        ("ConvTranspose", _, Some([channels, _, kernel @ ..])) => {
            let groups = usize::try_from(node.int_or("group", 1)).unwrap_or(1).max(1);
            (1, channels / groups * kernel.iter().product::<usize>())
        }
        ("Gemm", _, Some(&[rows, columns])) => match node.int_or("transB", 0) {
            0 => (1, rows),
            _ => (1, columns),
        },
        ("MatMul", _, Some(&[.., rows, _])) => (1, rows),
        ("MatMul", Some(&[.., columns]), None) => (0, columns),
        _ => return Vec::new(),
    };
    let weights = weight(graph, node, slot).map(|(name, _)| (name, Fresh::He { fan_in }));
    let bias = weight(graph, node, 2).map(|(name, _)| (name, Fresh::Constant(0.0)));
    weights.into_iter().chain(bias).collect()
}

/// The weights of a normalisation, a PRelu, or a bias that is added to a product.
fn follower<'a>(graph: &Graph, node: &'a Node, products: &HashSet<&str>) -> Vec<(&'a str, Fresh)> {
    let adds_to_product = || {
        let mut inputs = node.inputs.iter();
        inputs.any(|input| products.contains(input.as_str()))
    };
    let fresh: &[(usize, f64)] = match node.op_type.as_str() {
        _ if !node.domain.is_empty() => &[],
        "BatchNormalization" => &[(1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0)],
        "LayerNormalization" | "InstanceNormalization" => &[(1, 1.0), (2, 0.0)],
        "PRelu" => &[(1, 0.25)],
        "Add" if adds_to_product() => &[(0, 0.0), (1, 0.0)],
        _ => &[],
    };
    let found = fresh.iter().filter_map(|&(slot, value)| {
        let (name, literal) = weight(graph, node, slot)?;
        // A single number that is added is a constant of the formula.
        let is_bias = !node.is("Add") || literal.len() > 1;
        is_bias.then_some((name, Fresh::Constant(value)))
    });
    found.collect()
}

/// A constant input of floats.
fn weight<'a, 'g>(graph: &'g Graph, node: &'a Node, slot: usize) -> Option<(&'a str, &'g Literal)> {
    let name = node.input(slot)?;
    let literal = graph.initializers.get(name)?;
    literal.element.is_float().then_some((name, literal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_autodiff::onnx::graph::{Dim, Element, ValueInfo, ValueType};

    /// Conv -> BatchNormalization -> Relu -> Flatten -> MatMul -> Add.
    fn model() -> Model {
        let literal = |shape: &[usize]| {
            let count = shape.iter().product();
            Literal::from_f32s(shape, &vec![7.0; count])
        };
        let value = |name: &str, shape: &[usize]| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(
                Element::Float,
                [Dim::Symbol("batch".into())]
                    .into_iter()
                    .chain(shape.iter().map(|&size| Dim::Known(size)))
                    .collect(),
            ),
        };
        let channels = ["scale", "shift", "mean", "variance"];
        let graph = Graph {
            opset_imports: BTreeMap::from([(String::new(), 18)]),
            inputs: vec![value("x", &[3, 4, 4])],
            outputs: vec![value("y", &[5])],
            initializers: [
                ("filter", literal(&[8, 3, 3, 3])),
                ("product", literal(&[32, 5])),
                ("bias", literal(&[5])),
            ]
            .into_iter()
            .chain(channels.map(|name| (name, literal(&[8]))))
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect(),
            nodes: vec![
                Node::new("Conv", ["x", "filter"], ["conv"]),
                Node::new(
                    "BatchNormalization",
                    ["conv", "scale", "shift", "mean", "variance"],
                    ["normal"],
                ),
                Node::new("Relu", ["normal"], ["on"]),
                Node::new("Flatten", ["on"], ["flat"]),
                Node::new("MatMul", ["flat", "product"], ["dense"]),
                Node::new("Add", ["dense", "bias"], ["y"]),
            ],
            ..Graph::default()
        };
        Model::bare("net", Arc::new(graph))
    }

    fn numbers(model: &Model, name: &str) -> Vec<f32> {
        let bytes = &model.graph.initializers[name].bytes;
        bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_cascade_draws_a_layer_and_all_that_follow_and_leaves_those_before() {
        let model = model();
        let random = Randomisation::of(&model).unwrap();
        assert_eq!(random.layers().collect::<Vec<_>>(), ["conv", "dense"]);
        let top = random.from(1, 3).unwrap();
        assert_eq!(numbers(&top, "filter"), [7.0; 216]);
        assert_eq!(numbers(&top, "variance"), [7.0; 8]);
        assert_eq!(numbers(&top, "bias"), [0.0; 5]);
        assert_ne!(numbers(&top, "product"), [7.0; 160]);
        let all = random.from(0, 3).unwrap();
        assert_eq!(numbers(&all, "product"), numbers(&top, "product"));
        for (name, value) in [
            ("scale", 1.0),
            ("shift", 0.0),
            ("mean", 0.0),
            ("variance", 1.0),
        ] {
            assert_eq!(numbers(&all, name), [value; 8], "{name}");
        }
        let both = random.cascade([1, 0], 3);
        for (cascaded, alone) in both.iter().zip([&top, &all]) {
            assert_eq!(cascaded.hash, alone.hash);
            assert_eq!(cascaded.graph, alone.graph);
        }
        let shared = |model: &Model| model.graph.initializers["product"].bytes.as_ptr();
        assert_eq!(shared(&both[0]), shared(&both[1]));
        let first = random.only(0, 3).unwrap();
        assert_eq!(numbers(&first, "filter"), numbers(&all, "filter"));
        assert_eq!(numbers(&first, "product"), [7.0; 160]);
        assert_ne!(
            numbers(&random.only(0, 4).unwrap(), "filter"),
            numbers(&first, "filter")
        );
        assert!(random.from(2, 3).is_none() && random.only(2, 3).is_none());
    }

    #[test]
    fn fresh_weights_have_the_variance_2_over_their_fan_in() {
        let model = model();
        let all = Randomisation::of(&model).unwrap().from(0, 0).unwrap();
        // Relative standard error of a variance of n draws: sqrt(2 / n).
        for (name, fan_in, count) in [("filter", 27.0, 216.0), ("product", 32.0, 160.0)] {
            let values = numbers(&all, name);
            let square: f32 = values.iter().map(|value| value * value).sum();
            let gap: f32 = square / count * fan_in / 2.0 - 1.0;
            assert!(gap.abs() < 4.0 * (2.0 / count).sqrt(), "{name} {gap}");
        }
    }

    #[test]
    fn every_variant_has_a_hash_of_its_own() {
        let model = model();
        let random = Randomisation::of(&model).unwrap();
        let given = with_weights(&model, BTreeMap::new(), "a").unwrap();
        let part = cut(&model, "conv", &model.graph);
        let hashes: HashSet<String> = [
            random.from(0, 0),
            random.from(0, 1),
            random.from(1, 0),
            random.only(0, 0),
            random.only(1, 0),
            Some(given),
            Some(part),
            Some(model.clone()),
        ]
        .into_iter()
        .flatten()
        .map(|variant| variant.hash)
        .collect();
        assert_eq!(hashes.len(), 8);
    }

    #[test]
    fn given_weights_take_the_place_of_those_of_their_name_and_shape() {
        let model = model();
        let give = |name: &str, literal: Literal| {
            with_weights(
                &model,
                BTreeMap::from([(name.to_owned(), literal)]),
                "given",
            )
        };
        let five = Literal::from_f32s(&[5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let given = give("bias", five.clone()).unwrap();
        assert_eq!(numbers(&given, "bias"), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(numbers(&given, "product"), numbers(&model, "product"));
        assert!(matches!(
            give("none", five.clone()),
            Err(VariantError::Unknown { .. })
        ));
        assert!(matches!(
            give("scale", five),
            Err(VariantError::Shape { .. })
        ));
        let whole = Literal::from_i64s(&[5], &[0; 5]);
        assert!(matches!(
            give("bias", whole),
            Err(VariantError::Element { .. })
        ));
    }
}
