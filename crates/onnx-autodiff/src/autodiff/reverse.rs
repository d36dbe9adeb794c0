//! The backward walk: visits nodes in reverse order, from the head to the values of `wrt`, and
//! applies one rule to each active node. The cotangents of a value are summed once all its
//! consumers were visited, and reduced to the value's shape here (for all rules, after
//! broadcasting). All nodes without a rule are reported together.

use std::collections::{HashMap, HashSet};

use super::{
    DeriveError, Unsupported,
    context::{Overrides, PatternOf, VjpContext},
    emit::Emitter,
    relevance::Relevance,
    role::role,
    rules::table::{self, Gradient},
    sets::RuleSet,
};
use crate::onnx::graph::{Dim, Node};

pub(super) struct Walk<'a> {
    pub set: &'static RuleSet,
    /// The name of the set, the prefix of the names of emitted values.
    pub scope: &'static str,
    /// The forward nodes.
    pub nodes: &'a [Node],
    pub wrt: &'a [&'a str],
    pub head: &'a str,
    /// The patterns to use, by output value of their Linear node.
    pub patterns: &'a HashMap<&'a str, PatternOf<'a>>,
    /// The values that the logits depend on: not what is made of them, such as probabilities.
    pub inner: &'a HashSet<String>,
    /// Of a rule set that shares out relevance.
    pub relevance: Option<&'a Relevance<'a>>,
}

/// Emits the cotangents of `wrt`, in its order, for this cotangent of the head.
pub(super) fn reverse(
    emit: &mut Emitter,
    walk: &Walk,
    cotangent: &str,
) -> Result<Vec<String>, DeriveError> {
    let varies = varying(emit, walk.nodes, walk.wrt);
    if !varies.contains(walk.head) {
        let stops = stops(emit, walk, &varies);
        return Err(match stops.is_empty() {
            true => DeriveError::Detached {
                wrt: walk.wrt.join(", "),
                head: walk.head.to_owned(),
            },
            false => DeriveError::Unsupported { nodes: stops },
        });
    }
    let mut waiting: HashMap<String, Vec<String>> =
        HashMap::from([(walk.head.to_owned(), vec![cotangent.to_owned()])]);
    let (mut unsupported, mut undefined) = (Vec::new(), Vec::new());
    for node in walk.nodes.iter().rev() {
        let gate = walk.relevance.and_then(|found| found.gate(node));
        let active: Vec<bool> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(index, input)| varies.contains(input) && gate != Some(index))
            .collect();
        let reached = |output: &String| varies.contains(output) && waiting.contains_key(output);
        if !active.contains(&true) || !node.outputs.iter().any(reached) {
            continue;
        }
        emit.set_scope(format!("{}/{}", walk.scope, node.label()));
        let mut cotangents = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            let cotangent = sum(emit, waiting.remove(output).unwrap_or_default())?;
            // Its cotangent is complete; other values of `wrt` may come before it in the network.
            if let Some(cotangent) = cotangent
                .clone()
                .filter(|_| walk.wrt.contains(&output.as_str()))
            {
                waiting.insert(output.clone(), vec![cotangent]);
            }
            cotangents.push(cotangent);
        }
        let found = step(emit, walk, node, &active, &cotangents);
        let found = found.map_err(|error| match error {
            DeriveError::UnknownShape { value } => {
                let reason = format!("the shape of {} follows from data", of_model(&value, walk));
                unsupported_at(emit, node, reason)
            }
            other => other,
        });
        for (index, input) in node
            .inputs
            .iter()
            .enumerate()
            .filter(|(index, _)| active[*index])
        {
            // After an unsupported node, the primal takes the cotangent's place, so that the walk
            // goes on and finds all unsupported nodes.
            let cotangent = match &found {
                Ok(found) => found[index].clone(),
                Err(_) => input.clone(),
            };
            waiting.entry(input.clone()).or_default().push(cotangent);
        }
        match found {
            Ok(_) => {}
            Err(DeriveError::Unsupported { nodes }) => unsupported.extend(nodes),
            Err(DeriveError::Undefined { nodes, .. }) => undefined.extend(nodes),
            Err(error) => return Err(error),
        }
    }
    if !unsupported.is_empty() {
        unsupported.reverse();
        return Err(DeriveError::Unsupported { nodes: unsupported });
    }
    if !undefined.is_empty() {
        undefined.reverse();
        return Err(DeriveError::Undefined {
            rule_set: walk.scope,
            nodes: undefined,
        });
    }
    let cotangent = |wrt: &&str| {
        let found = sum(emit, waiting.remove(*wrt).unwrap_or_default())?;
        found.ok_or_else(|| DeriveError::Detached {
            wrt: (*wrt).to_owned(),
            head: walk.head.to_owned(),
        })
    };
    walk.wrt.iter().map(cotangent).collect()
}

/// The nodes at which every way from `wrt` to the head ends: what they give is integers, truth values
/// or steps.
fn stops(emit: &Emitter, walk: &Walk, varies: &HashSet<String>) -> Vec<Unsupported> {
    let mut needed = HashSet::from([walk.head]);
    let mut found = Vec::new();
    for node in walk.nodes.iter().rev() {
        let mut outputs = node.outputs.iter().map(String::as_str);
        if !outputs.any(|output| needed.contains(output)) {
            continue;
        }
        needed.extend(node.inputs.iter().map(String::as_str));
        let reads = node.inputs.iter().any(|input| varies.contains(input));
        let is_shape = node.is("Shape") || node.is("Size");
        if reads && !is_shape && !node.outputs.iter().any(|output| varies.contains(output)) {
            let reason = "no gradient passes it: what it gives changes in steps".to_owned();
            found.push(Unsupported::new(node, &emit.graph, reason));
        }
    }
    found.reverse();
    found
}

fn unsupported_at(emit: &Emitter, node: &Node, reason: String) -> DeriveError {
    DeriveError::Unsupported {
        nodes: vec![Unsupported::new(node, &emit.graph, reason)],
    }
}

/// A value of the model by its name; one of the derived graph is none that a user knows.
fn of_model(value: &str, walk: &Walk) -> String {
    let mut values = walk
        .nodes
        .iter()
        .flat_map(|node| node.outputs.iter().chain(&node.inputs));
    match values.any(|known| known == value) {
        true => format!("value {value}"),
        false => "a value in its gradient".to_owned(),
    }
}

/// Applies a node's rule: returns one cotangent per input, in the input's shape; an empty name for
/// inactive inputs.
fn step(
    emit: &mut Emitter,
    walk: &Walk,
    node: &Node,
    active: &[bool],
    cotangents: &[Option<String>],
) -> Result<Vec<String>, DeriveError> {
    let is_inner = walk.inner.contains(&node.outputs[0]);
    if is_inner && node.domain.is_empty() && walk.set.is_undefined_at(&node.op_type) {
        let reason = "its paper has no rule for this op".to_owned();
        return Err(DeriveError::Undefined {
            rule_set: walk.scope,
            nodes: vec![Unsupported::new(node, &emit.graph, reason)],
        });
    }
    let mut read = node
        .inputs
        .iter()
        .zip(active)
        .filter(|(_, active)| **active);
    let of_integers = read.any(|(input, _)| {
        let found = emit.value_type(input);
        found.is_ok_and(|found| !found.element.is_float())
    });
    let rules = match node.domain.as_str() {
        "" if of_integers && !OF_INTEGERS.contains(&node.op_type.as_str()) => {
            let reason = "no gradient passes arithmetic of quantised integers: use the float model that this one was made of";
            return Err(unsupported_at(emit, node, reason.to_owned()));
        }
        "" => walk.set.rules(&node.op_type, role(node, &emit.graph)),
        _ => Vec::new(),
    };
    let mut ctx = VjpContext {
        emit,
        node,
        active,
        cotangents,
        overridden: &rules,
        unruled: table::reason(node),
        pattern: walk.patterns.get(node.outputs[0].as_str()).copied(),
        rule_set: walk.scope,
        relevance: walk.relevance,
        weight: None,
    };
    let mut given = ctx.base(Overrides::default())?.0;
    given.resize(node.inputs.len(), None);
    let mut result = Vec::with_capacity(given.len());
    for (index, cotangent) in given.into_iter().enumerate() {
        result.push(if active[index] {
            let cotangent = cotangent
                .ok_or_else(|| ctx.refusal(format!("no gradient with respect to input {index}")))?;
            let shape = ctx.emit.shape(&node.inputs[index])?;
            unbroadcast(ctx.emit, &cotangent, &shape)?
        } else {
            String::new()
        });
    }
    Ok(result)
}

/// Ops through which cotangents of integers pass: they move or compare them, or give floats.
const OF_INTEGERS: &[&str] = &[
    "Cast",
    "Concat",
    "DepthToSpace",
    "DequantizeLinear",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// The values that depend on any of `wrt` through differentiable ops, and integers of quantised
/// values.
pub(super) fn varying(emit: &Emitter, nodes: &[Node], wrt: &[&str]) -> HashSet<String> {
    let mut varies: HashSet<String> = wrt.iter().map(|&value| value.to_owned()).collect();
    for node in nodes {
        let row = table::gradient(&node.op_type).filter(|_| node.domain.is_empty());
        if matches!(row, Some(Gradient::Flat))
            || !node.inputs.iter().any(|input| varies.contains(input))
        {
            continue;
        }
        let is_integer = |value: &str| {
            let found = emit.value_type(value);
            found.is_ok_and(|found| !found.element.is_float())
        };
        // Integers do not vary, but those of quantised values, and of an op that is refused: the
        // refusal is to be told.
        let mut reads = node.inputs.iter().filter(|input| varies.contains(*input));
        let kept = match row {
            Some(Gradient::Missing(_) | Gradient::Surrogate(_)) => true,
            Some(Gradient::Discrete) => false,
            _ => reads.any(|input| is_integer(input)),
        };
        let integer = |value: &str| !kept && is_integer(value);
        varies.extend(
            node.outputs
                .iter()
                .filter(|output| !output.is_empty() && !integer(output))
                .cloned(),
        );
    }
    varies
}

fn sum(emit: &mut Emitter, parts: Vec<String>) -> Result<Option<String>, DeriveError> {
    if parts.is_empty() {
        Ok(None)
    } else {
        emit.sum(&parts).map(Some)
    }
}

/// Sums over the axes along which a value of `shape` was broadcast.
fn unbroadcast(emit: &mut Emitter, cotangent: &str, shape: &[Dim]) -> Result<String, DeriveError> {
    let from = emit.shape(cotangent)?;
    let lead = from.len().saturating_sub(shape.len());
    let widened =
        |axis: usize| shape.get(axis - lead) == Some(&Dim::Known(1)) && from[axis] != Dim::Known(1);
    let axes: Vec<usize> = (0..from.len())
        .filter(|&axis| axis < lead || widened(axis))
        .collect();
    let summed = emit.reduce_sum(cotangent, &axes)?;
    emit.reshape(&summed, shape)
}
