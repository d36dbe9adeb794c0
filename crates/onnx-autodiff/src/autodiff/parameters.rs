//! Gradients with respect to weights and biases, summed over the batch, for training. The
//! parameters become inputs of the graph, so that one session runs with any weights. The statistics
//! of BatchNorm are constants; its scale and bias are parameters.

use indexmap::IndexSet;

use super::{
    DeriveError, add_seed,
    emit::Emitter,
    forward::{self, Forward},
    layers, outputs, reverse_all,
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
/// `[batch, classes]`, the cotangent of the head. Outputs: `logits` and `probabilities`
/// `[batch, classes]`, then the gradient of each parameter, summed over the batch.
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

/// Derives the graph. Fails with all nodes between parameters and head that have no gradient, or
/// all names that are no parameters.
pub fn parameter_gradients(
    source: &Graph,
    head: Head,
    wanted: &Parameters,
) -> Result<ParameterGraph, DeriveError> {
    let Forward {
        mut emit,
        nodes,
        head: found,
        ..
    } = forward::prepare(source, false)?;
    let value = match head {
        Head::Logits => &found.logits,
        Head::Probabilities => &found.probabilities,
    };
    let names = chosen(&emit, &nodes, value, wanted)?;
    let values = names
        .iter()
        .map(|name| open(&mut emit, name))
        .collect::<Result<Vec<_>, _>>()?;
    let seed = add_seed(&mut emit, found.classes, value, SeedRule::One)?;
    let wrt: Vec<&str> = names.iter().map(String::as_str).collect();
    let gradients = reverse_all(
        &mut emit,
        &nodes,
        &wrt,
        value,
        &seed,
        &[RuleSetId::Gradient],
        &Default::default(),
    )?;
    let public: Vec<String> = names
        .iter()
        .map(|name| format!("gradient/{name}"))
        .collect();
    let mut published = vec![
        (found.logits.clone(), "logits".to_owned()),
        (found.probabilities.clone(), "probabilities".to_owned()),
    ];
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
    let found = all(emit, nodes);
    let candidates: Vec<&str> = found.iter().map(String::as_str).collect();
    let active = layers::active(emit, nodes, &candidates, head);
    let found: IndexSet<String> = found
        .into_iter()
        .filter(|name| active.contains(name))
        .collect();
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

/// The parameters in the order of the forward pass. A constant operand of Add or Mul is a parameter
/// if it has at least one number per channel; a single number is a constant of the formula.
fn all(emit: &Emitter, nodes: &[Node]) -> IndexSet<String> {
    let slots = |node: &Node| {
        SLOTS
            .iter()
            .find(|(op, _)| node.is(op))
            .map_or(&[][..], |(_, slots)| slots)
    };
    let is_parameter = |node: &Node, name: &&str| {
        let broadcast = node.is("Add") || node.is("Mul");
        emit.literal(name).is_some_and(|literal| {
            literal.element == Element::Float && (literal.len() > 1 || !broadcast)
        })
    };
    let of_node = |node: &Node| {
        let inputs = slots(node).iter().filter_map(|slot| node.input(*slot));
        inputs
            .filter(|name| is_parameter(node, name))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of_node).collect()
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
