//! Gradients with respect to weights and biases, summed over the batch, for training. The
//! parameters become inputs of the graph, so that one session runs with any weights. The statistics
//! of BatchNorm are constants; its scale and bias are parameters.

use indexmap::IndexSet;

use super::{
    DeriveError, Loss, add_seed,
    emit::Emitter,
    exits::WalkStart,
    forward::{self, Forward},
    layers, loss, outputs, reverse_all, rounding,
    spec::{Head, RuleSetId, SeedRule},
};
use crate::onnx::graph::{Element, Graph, Literal, Node, ValueInfo};

/// A selection of weights and biases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// All parameters that the head depends on.
    All,
    /// By the name of the initializer, or of a value computed from constants (a transposed weight).
    Named(Vec<String>),
}

/// Inputs: the model's input `[batch, …]`, each parameter under its name, and `seed`
/// `[batch, classes]`, the cotangent of the head, or `target` of the same shape. Outputs: `logits`
/// and `probabilities` `[batch, classes]`, with a target `loss` `[batch]`, then the gradient of each
/// parameter, summed over the batch.
pub struct ParameterGraph {
    /// Ready to be written and run.
    pub graph: Graph,
    /// Those that were asked for.
    pub parameters: Vec<Parameter>,
}

/// A weight or bias of the graph.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The name of the parameter's input; the value's name in the model.
    pub name: String,
    /// The name of the output with its gradient, in the parameter's shape.
    pub gradient: String,
    /// Its value in the model.
    pub value: Literal,
}

/// The inputs of an op that are its parameters when they are constant.
const SLOTS: &[(&str, &[usize])] = &[
    ("Add", &[0, 1]),
    ("BatchNormalization", &[1, 2]),
    ("Conv", &[1, 2]),
    ("ConvTranspose", &[1, 2]),
    ("Gemm", &[1, 2]),
    ("InstanceNormalization", &[1, 2]),
    ("LayerNormalization", &[1, 2]),
    ("MatMul", &[0, 1]),
    ("Mul", &[0, 1]),
    ("PRelu", &[1]),
];

/// Where a parameter stands in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The parameter's name.
    pub name: String,
    /// The operator of the node that takes it, or of the first of them.
    pub op_type: String,
    /// The Linear layers from the input up to that node, itself included: 0 is before the first.
    pub depth: usize,
}

/// The parameters of a network, in the order of the forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The names of each Linear layer: its node's, its output's, and those of the
    /// BatchNormalizations that follow it. Layer `i` has depth `i + 1`.
    pub layers: Vec<Vec<String>>,
    /// All that the head depends on.
    pub parameters: Vec<Place>,
}

/// Where the parameters stand. Asks for no gradients: fails only if the graph cannot be prepared.
pub fn places(source: &Graph) -> Result<Places, DeriveError> {
    let Forward {
        emit,
        nodes,
        input,
        head,
        ..
    } = forward::prepare(source, false)?;
    let linear = layers::linear_layers(&emit, &nodes, &input, &head.logits);
    let names = active_parameters(&emit, &nodes, &head.logits);
    let mut places = Places::default();
    let mut taken = IndexSet::new();
    for node in &nodes {
        let output = node.outputs.first().cloned().unwrap_or_default();
        if linear.iter().any(|layer| layer.output == output) {
            places.layers.push(vec![node.label().to_owned(), output]);
        } else if node.is("BatchNormalization") {
            let before = |names: &&mut Vec<String>| {
                node.input(0)
                    .is_some_and(|input| names.iter().any(|name| name == input))
            };
            if let Some(names) = places.layers.iter_mut().find(before) {
                names.extend([node.label().to_owned(), output]);
            }
        }
        for name in of_node(&emit, node).filter(|name| names.contains(*name)) {
            if taken.insert(name.to_owned()) {
                places.parameters.push(Place {
                    name: name.to_owned(),
                    op_type: node.op_type.clone(),
                    depth: places.layers.len(),
                });
            }
        }
    }
    Ok(places)
}

/// What the backward walk starts with.
enum Start {
    /// A cotangent of the head, which is an input.
    Seed(Head),
    /// The gradient of a loss.
    Loss(Loss),
}

/// Derives the graph. Fails with all nodes between parameters and head that have no gradient, or
/// all names that are no parameters.
pub fn parameter_gradients(
    source: &Graph,
    head: Head,
    wanted: &Parameters,
) -> Result<ParameterGraph, DeriveError> {
    derive(source, Start::Seed(head), wanted).map_err(|error| error.of_source(source))
}

/// As [`parameter_gradients`], with a loss on the logits in place of the seed: one run gives all
/// that a step of training takes.
pub fn loss_gradients(
    source: &Graph,
    loss: Loss,
    wanted: &Parameters,
) -> Result<ParameterGraph, DeriveError> {
    derive(source, Start::Loss(loss), wanted).map_err(|error| error.of_source(source))
}

fn derive(
    source: &Graph,
    start: Start,
    wanted: &Parameters,
) -> Result<ParameterGraph, DeriveError> {
    rounding::refuse(
        source,
        "its activations are quantised: train the float model, and quantise that",
    )?;
    let Forward {
        mut emit,
        nodes,
        batch,
        head: found,
        ..
    } = forward::prepare_any_batch(source, false)?;
    let value = match start {
        Start::Seed(Head::Probabilities) => &found.probabilities,
        Start::Seed(Head::Logits) | Start::Loss(_) => &found.logits,
    };
    let names = chosen(&emit, &nodes, value, wanted)?;
    let values = names
        .iter()
        .map(|name| open(&mut emit, name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut published = vec![
        (found.logits.clone(), "logits".to_owned()),
        (found.probabilities.clone(), "probabilities".to_owned()),
    ];
    let seed = match start {
        Start::Seed(_) => {
            let shape = [batch, found.classes.into()];
            add_seed(&mut emit, shape, value, SeedRule::One)?
        }
        Start::Loss(loss) => {
            let loss = loss::attach(&mut emit, loss, value, found.classes)?;
            published.push((loss.loss, "loss".to_owned()));
            loss.cotangent
        }
    };
    let wrt: Vec<&str> = names.iter().map(String::as_str).collect();
    let gradients = reverse_all(
        &mut emit,
        &nodes,
        &wrt,
        &[WalkStart::of_all(value, &wrt)],
        &seed,
        &[RuleSetId::Gradient],
        &Default::default(),
    )?;
    let public: Vec<String> = names
        .iter()
        .map(|name| format!("gradient/{name}"))
        .collect();
    published.extend(gradients.into_iter().zip(public.iter().cloned()));
    let graph = super::tidy(outputs::publish(emit, &published)?)?;
    let parameters = names.into_iter().zip(public).zip(values);
    let parameters = parameters
        .map(|((name, gradient), value)| Parameter {
            name,
            gradient,
            value,
        })
        .collect();
    Ok(ParameterGraph { graph, parameters })
}

fn chosen(
    emit: &Emitter,
    nodes: &[Node],
    head: &str,
    wanted: &Parameters,
) -> Result<IndexSet<String>, DeriveError> {
    let found = active_parameters(emit, nodes, head);
    match wanted {
        Parameters::All if found.is_empty() => Err(DeriveError::NoParameters),
        Parameters::All => Ok(found),
        Parameters::Named(names) => {
            let unknown: Vec<String> = names
                .iter()
                .filter(|name| !found.contains(*name))
                .cloned()
                .collect();
            let known = || found.iter().cloned().collect();
            if unknown.is_empty() {
                Ok(names.iter().cloned().collect())
            } else {
                Err(DeriveError::UnknownParameters {
                    names: unknown,
                    known: known(),
                })
            }
        }
    }
}

/// Those that the head depends on, in the order of the forward pass.
fn active_parameters(emit: &Emitter, nodes: &[Node], head: &str) -> IndexSet<String> {
    let found: IndexSet<&str> = nodes.iter().flat_map(|node| of_node(emit, node)).collect();
    let candidates: Vec<&str> = found.iter().copied().collect();
    let active = layers::active(emit, nodes, &candidates, head);
    found
        .into_iter()
        .filter(|name| active.contains(*name))
        .map(str::to_owned)
        .collect()
}

/// The parameters that a node takes. A constant operand of Add or Mul is one if it has at least one
/// number per channel; a single number is a constant of the formula.
fn of_node<'a>(emit: &'a Emitter, node: &'a Node) -> impl Iterator<Item = &'a str> {
    let slots = SLOTS
        .iter()
        .find(|(op, _)| node.is(op))
        .map_or(&[][..], |(_, slots)| slots);
    let broadcast = node.is("Add") || node.is("Mul");
    let inputs = slots.iter().filter_map(|slot| node.input(*slot));
    inputs.filter(move |name| {
        emit.literal(name).is_some_and(|literal| {
            literal.element == Element::Float && (literal.len() > 1 || !broadcast)
        })
    })
}

/// Makes a constant an input; returns its value in the model.
fn open(emit: &mut Emitter, name: &str) -> Result<Literal, DeriveError> {
    let unknown = || DeriveError::UnknownShape {
        value: name.to_owned(),
    };
    let literal = emit
        .graph
        .initializers
        .shift_remove(name)
        .ok_or_else(unknown)?;
    emit.add_input(ValueInfo {
        name: name.to_owned(),
        value_type: literal.value_type(),
    });
    Ok(literal)
}
