//! Reverse-mode differentiation, ONNX -> ONNX: rule tables, the backward walk, lowering.

mod context;
pub(crate) mod emit;
mod error;
mod exits;
mod expr;
pub mod fit;
pub(crate) mod forward;
mod head;
pub(crate) mod layers;
mod loss;
pub(crate) mod outputs;
pub mod parameters;
mod pipeline;
mod places;
mod relevance;
mod reverse;
mod role;
mod rounding;
pub(crate) mod rules;
mod sets;
mod spatial;
pub mod spec;

use std::collections::{HashMap, HashSet};

pub use emit::stepped;
pub use error::{DeriveError, PatternFault, Unsupported};
pub use layers::LinearLayer;
pub use loss::Loss;
pub use outputs::is_reserved;
pub use rounding::rounding;
pub use rules::table::ruled as differentiable_ops;
pub use spatial::{Spatial, spatial, spatial_layers};

use crate::onnx::{
    graph::{Dim, Element, Graph, ValueInfo, ValueType},
    passes,
};
use indexmap::IndexSet;

use context::PatternOf;
use exits::WalkStart;
use expr::Expr;
use forward::Forward;
use relevance::Relevance;
use spec::{Composite, DeriveSpec, Head, PatternLayers, Patterns, RuleSetId, SeedRule};

/// A source graph joined with the backward walk that a [`DeriveSpec`] asks for.
///
/// Inputs: the model's input (batch symbolic) and, when any rule set is asked for, `seed`
/// `[batch, classes]` (the cotangent of the head). Outputs: `logits` `[batch, classes]`,
/// `probabilities` `[batch, classes]`, then per rule set one cotangent for each of `wrt`, named by
/// [`DeriveSpec::cotangent_names`], each `[batch, …]` in the shape of its value; then the values of
/// `outputs`, named by [`DeriveSpec::activation_names`]. Where the model fixes its batch and a node
/// may mix rows, the batch is that number.
pub struct Derived {
    /// Ready to be written and run.
    pub graph: Graph,
}

/// `patterns` maps the output value of each Linear node (after BatchNorm folding) to its pattern,
/// in the shape of the node's weight.
///
/// A graph that holds a rule set that looks at weights folds BatchNorm for all its rule sets: the
/// same function, rounded differently. Fails with every unsupported node, or every missing pattern,
/// at once.
pub fn derive(
    source: &Graph,
    spec: &DeriveSpec,
    patterns: Option<&Patterns>,
) -> Result<Derived, DeriveError> {
    join(source, spec, patterns).map_err(|error| error.of_source(source))
}

fn join(
    source: &Graph,
    spec: &DeriveSpec,
    patterns: Option<&Patterns>,
) -> Result<Derived, DeriveError> {
    let folds = spec.rule_sets.iter().any(|set| set.reads_weights());
    let is_forward = spec.rule_sets.is_empty() && spec.outputs.is_empty();
    let prepared = match forward::prepare(source, folds) {
        // What cannot be prepared may still be run.
        Err(error) if is_forward => return as_it_is(source).ok_or(error),
        prepared => prepared?,
    };
    let Forward {
        mut emit,
        mut nodes,
        input,
        batch,
        head,
    } = prepared;
    let mut wanted = vec![
        (head.logits.clone(), "logits".to_owned()),
        (head.probabilities.clone(), "probabilities".to_owned()),
    ];
    let wrt: Vec<&str> = spec.wrt.iter().map(|wrt| wrt.name(&input)).collect();
    let named = wrt
        .iter()
        .copied()
        .chain(spec.outputs.iter().map(String::as_str));
    for name in named {
        if emit.value_type(name).is_err() {
            return Err(DeriveError::UnknownActivation {
                name: name.to_owned(),
            });
        }
    }
    let value = match spec.head {
        Head::Logits => &head.logits,
        Head::Probabilities => &head.probabilities,
    };
    let starts = exits::starts(&mut emit, &mut nodes, value, &spec.wrt)?;
    let layers = layers::linear_layers(&emit, &nodes, &input, &head.logits);
    let mut facts = Facts {
        inner: layers::active(&emit, &nodes, &[&input], &head.logits),
        ..Facts::default()
    };
    if spec.rule_sets.iter().any(|set| set.needs_patterns()) {
        facts.patterns = choose_patterns(&layers, &spec.pattern_layers, patterns)?;
    }
    if spec.rule_sets.contains(&RuleSetId::Lrp) {
        facts.relevance = Some(Relevance::of(&emit, &nodes, &input, &spec.lrp));
    }
    if !spec.rule_sets.is_empty() {
        let cotangent = add_seed(&mut emit, [batch, head.classes.into()], value, spec.seed)?;
        let cotangents = reverse_all(
            &mut emit,
            &nodes,
            &wrt,
            &starts,
            &cotangent,
            &spec.rule_sets,
            &facts,
        )?;
        wanted.extend(cotangents.into_iter().zip(spec.cotangent_names()));
    }
    wanted.extend(spec.outputs.iter().cloned().zip(spec.activation_names()));
    let graph = outputs::publish(emit, &wanted)?;
    Ok(Derived {
        graph: tidy(graph)?,
    })
}

/// The forward pass of a model that cannot be prepared, with its own nodes and opset.
fn as_it_is(source: &Graph) -> Option<Derived> {
    let Forward { emit, head, .. } = forward::as_it_is(source).ok()?;
    let wanted = [
        (head.logits, "logits".to_owned()),
        (head.probabilities, "probabilities".to_owned()),
    ];
    let graph = outputs::publish(emit, &wanted).ok()?;
    let graph = passes::prune(graph).ok()?;
    Some(Derived { graph })
}

fn tidy(graph: Graph) -> Result<Graph, DeriveError> {
    Ok(pipeline::finish(graph)?)
}

/// What rule sets need to know of the network.
#[derive(Default)]
struct Facts<'a> {
    patterns: HashMap<&'a str, PatternOf<'a>>,
    relevance: Option<Relevance<'a>>,
    /// The values that the logits depend on.
    inner: HashSet<String>,
}

/// Backward walks for each rule set, which give a cotangent for each of `wrt`; unsupported nodes of
/// all are reported together, each once.
fn reverse_all(
    emit: &mut emit::Emitter,
    nodes: &[crate::onnx::graph::Node],
    wrt: &[&str],
    starts: &[WalkStart],
    seed: &str,
    rule_sets: &[RuleSetId],
    facts: &Facts,
) -> Result<Vec<String>, DeriveError> {
    let mut found = vec![String::new(); rule_sets.len() * wrt.len()];
    let (mut unsupported, mut undefined) = (IndexSet::new(), None);
    let walks = rule_sets
        .iter()
        .enumerate()
        .flat_map(|(set, id)| starts.iter().map(move |start| (set, id, start)));
    for (set, id, start) in walks {
        let own: Vec<&str> = start.wrt.iter().map(|&at| wrt[at]).collect();
        let relevance = facts.relevance.as_ref().filter(|_| *id == RuleSetId::Lrp);
        // Whether cotangents are relevance divided by the value that has it.
        let is_quotient =
            relevance.is_some_and(|relevance| relevance.lrp.composite == Composite::AttnLrp);
        let walk = reverse::Walk {
            set: match is_quotient {
                true => sets::attn_lrp(),
                false => sets::rule_set(*id),
            },
            scope: id.id(),
            nodes,
            wrt: &own,
            head: &start.head,
            patterns: &facts.patterns,
            inner: &facts.inner,
            relevance,
        };
        let seed = match is_quotient {
            true => {
                let head = rules::relevance::stabilised(&Expr::value(&start.head), 0.0);
                (Expr::value(seed) / head).emit(emit)?
            }
            false => seed.to_owned(),
        };
        match reverse::reverse(emit, &walk, &seed) {
            Ok(outputs) => {
                for (&at, output) in start.wrt.iter().zip(outputs) {
                    found[set * wrt.len() + at] = match is_quotient {
                        true => emit.mul(&output, wrt[at])?,
                        false => output,
                    };
                }
            }
            Err(DeriveError::Unsupported { nodes }) => unsupported.extend(nodes),
            Err(error @ DeriveError::Undefined { .. }) => undefined = undefined.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    unsupported.extend(emit.oversize());
    match undefined {
        _ if !unsupported.is_empty() => Err(DeriveError::Unsupported {
            nodes: unsupported.into_iter().collect(),
        }),
        Some(undefined) => Err(undefined),
        None => Ok(found),
    }
}

/// The input `seed` `[batch, classes]`, and the cotangent of the head that it makes.
fn add_seed(
    emit: &mut emit::Emitter,
    shape: [Dim; 2],
    head: &str,
    rule: SeedRule,
) -> Result<String, DeriveError> {
    let element = emit.value_type(head)?.element;
    let value_type = ValueType::new(Element::Float, shape.to_vec());
    if emit.graph.inputs.iter().any(|input| input.name == "seed") {
        return Err(DeriveError::ReservedInput {
            names: vec!["seed".into()],
        });
    }
    let seed = emit.add_input(ValueInfo {
        name: "seed".into(),
        value_type,
    });
    emit.set_scope("seed".into());
    let seed = emit.cast(&seed, element)?;
    match rule {
        SeedRule::One => Ok(seed),
        SeedRule::Value => emit.mul(&seed, head),
    }
}

/// The pattern of every chosen layer, or all that is wrong with them.
fn choose_patterns<'a>(
    layers: &'a [LinearLayer],
    selection: &'a PatternLayers,
    patterns: Option<&'a Patterns>,
) -> Result<HashMap<&'a str, PatternOf<'a>>, DeriveError> {
    let patterns = patterns.ok_or(DeriveError::NoPatterns)?;
    let source = patterns.source.as_ref();
    let (chosen, unknown) = layers::select(layers, selection);
    let mut faults: Vec<_> = unknown
        .iter()
        .map(|name| PatternFault::NoLayer {
            name: (*name).to_owned(),
        })
        .collect();
    for layer in &chosen {
        match source.shape(&layer.output) {
            None => faults.push(PatternFault::Missing {
                layer: layer.output.clone(),
            }),
            Some(shape) if shape != layer.weight_shape => faults.push(PatternFault::Shape {
                layer: layer.output.clone(),
                expected: layer.weight_shape.clone(),
                found: shape.to_vec(),
            }),
            Some(_) => {}
        }
    }
    if faults.is_empty() {
        Ok(chosen
            .into_iter()
            .map(|layer| {
                (
                    layer.output.as_str(),
                    PatternOf {
                        source,
                        layer: &layer.output,
                    },
                )
            })
            .collect())
    } else {
        Err(DeriveError::Patterns { faults })
    }
}

/// The Linear layers between input and head, BatchNorm folded, in the order of the forward pass.
pub fn linear_layers(source: &Graph) -> Result<Vec<LinearLayer>, DeriveError> {
    let forward = forward::prepare(source, true)?;
    Ok(layers::linear_layers(
        &forward.emit,
        &forward.nodes,
        &forward.input,
        &forward.head.logits,
    ))
}

/// The values that [`spec::Wrt::Activation`] and `DeriveSpec::outputs` may name, in the order of
/// the forward pass, with their shapes without the batch.
pub fn activations(source: &Graph) -> Result<Vec<(String, Vec<usize>)>, DeriveError> {
    let Forward {
        emit,
        nodes,
        input,
        head,
        ..
    } = forward::prepare(source, false)?;
    let active = layers::active(&emit, &nodes, &[&input], &head.logits);
    let known = source.value_names();
    let values = nodes
        .iter()
        .flat_map(|node| &node.outputs)
        .filter(|value| active.contains(*value) && known.contains(*value));
    Ok(values
        .filter_map(|value| Some((value.clone(), emit.sizes(value, 1).ok()?)))
        .collect())
}
