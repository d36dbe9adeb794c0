//! Heads behind the blocks of a transformer, as if the network ended there: its tail, from the last
//! block's tokens to the head, once more for the tokens of each block, of which it reads the mean.
//! LeGrad (Bousselham et al. 2024) takes derivatives of them.

use std::collections::{HashMap, HashSet};

use super::{
    DeriveError,
    emit::Emitter,
    spec::{Attention, Exit, Wrt},
};
use crate::onnx::graph::{Dim, Node};

/// The exits behind each layer of an attention, or what stands in the way. `tokens` tells of values
/// that hold one row for each token the axis of these.
pub(super) fn exits(
    emit: &Emitter,
    nodes: &[Node],
    head: &str,
    attention: &Attention,
    tokens: impl Fn(&str) -> Option<usize>,
) -> Result<Vec<Exit>, String> {
    let needed = behind(nodes, head);
    let place = |value: &str| {
        let makes = |node: &Node| node.outputs.iter().any(|output| output == value);
        nodes.iter().position(makes).unwrap_or(nodes.len())
    };
    let starts: Vec<usize> = attention
        .layers
        .iter()
        .map(|layer| place(&layer.weights))
        .collect();
    let is_sum = |node: &Node| {
        node.is("Add")
            && node
                .inputs
                .iter()
                .all(|input| emit.literal(input).is_none())
    };
    let mut found = Vec::new();
    for (at, layer) in attention.layers.iter().enumerate() {
        let end = starts.get(at + 1).copied().unwrap_or(nodes.len());
        let sums = bottlenecks(nodes, &layer.weights, &needed)
            .into_iter()
            .filter(|&place| place < end && is_sum(&nodes[place]))
            .map(|place| &nodes[place].outputs[0]);
        let last = sums
            .filter_map(|sum| Some((sum, tokens(sum)?)))
            .last()
            .ok_or_else(|| {
                format!(
                    "no sum of tokens follows `{}` that all of its effect goes through, as behind a block of a transformer",
                    layer.node
                )
            })?;
        found.push((layer, last));
    }
    let Some((_, (last, axis))) = found.last().copied() else {
        return Ok(Vec::new());
    };
    let exits = found.into_iter().map(|(layer, (sum, own))| {
        let exit = Exit {
            value: layer.weights.clone(),
            tokens: sum.clone(),
            last: last.clone(),
            axis,
        };
        (own == axis).then_some(exit).ok_or_else(|| {
            format!(
                "the tokens behind `{}` are not laid out as the last",
                layer.node
            )
        })
    });
    exits.collect()
}

/// What a value is made of.
pub(super) fn behind<'a>(nodes: &'a [Node], value: &'a str) -> HashSet<&'a str> {
    let mut found = HashSet::from([value]);
    for node in nodes.iter().rev() {
        if node
            .outputs
            .iter()
            .any(|output| found.contains(output.as_str()))
        {
            found.extend(node.inputs.iter().map(String::as_str));
        }
    }
    found
}

/// The nodes that are made of `source` and needed, by number.
fn between<'a>(nodes: &'a [Node], source: &'a str, needed: &HashSet<&str>) -> Vec<usize> {
    let mut made = HashSet::from([source]);
    let mut found = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let reads = node
            .inputs
            .iter()
            .any(|input| made.contains(input.as_str()));
        if reads
            && node
                .outputs
                .iter()
                .any(|output| needed.contains(output.as_str()))
        {
            made.extend(node.outputs.iter().map(String::as_str));
            found.push(at);
        }
    }
    found
}

/// The nodes whose first output all that `source` does to the needed values goes through.
fn bottlenecks(nodes: &[Node], source: &str, needed: &HashSet<&str>) -> Vec<usize> {
    let inner = between(nodes, source, needed);
    let mut last_read: HashMap<&str, usize> = HashMap::new();
    for &at in &inner {
        last_read.extend(nodes[at].inputs.iter().map(|input| (input.as_str(), at)));
    }
    // Values that later nodes read.
    let mut open = HashSet::from([source]);
    let mut found = Vec::new();
    for &at in &inner {
        let is_read = |value: &str| last_read.get(value).is_some_and(|&last| last > at);
        let outputs = nodes[at].outputs.iter().map(String::as_str);
        open.extend(outputs);
        open.retain(|value| is_read(value));
        if open.len() == 1 && open.contains(nodes[at].outputs[0].as_str()) {
            found.push(at);
        }
    }
    found
}

/// A value that a backward walk starts at, and which of the values of `wrt` it is for.
pub(super) struct WalkStart {
    pub head: String,
    pub wrt: Vec<usize>,
}

impl WalkStart {
    /// Of all of them.
    pub(super) fn of_all<T>(head: &str, wrt: &[T]) -> Self {
        Self {
            head: head.to_owned(),
            wrt: (0..wrt.len()).collect(),
        }
    }
}

/// Where backward walks from `head` to `wrt` start. The nodes of other heads are added.
pub(super) fn starts(
    emit: &mut Emitter,
    nodes: &mut Vec<Node>,
    head: &str,
    wrt: &[Wrt],
) -> Result<Vec<WalkStart>, DeriveError> {
    let own = nodes.len();
    let mut found: Vec<WalkStart> = Vec::new();
    let plain: Vec<usize> = (0..wrt.len())
        .filter(|&at| !matches!(wrt[at], Wrt::Exit(_)))
        .collect();
    if !plain.is_empty() {
        found.push(WalkStart {
            head: head.to_owned(),
            wrt: plain,
        });
    }
    for (at, wrt) in wrt.iter().enumerate() {
        let Wrt::Exit(exit) = wrt else { continue };
        let before = emit.graph.nodes.len();
        let head = head_behind(emit, &nodes[..own], head, exit)?;
        nodes.extend_from_slice(&emit.graph.nodes[before..]);
        found.push(WalkStart {
            head,
            wrt: vec![at],
        });
    }
    Ok(found)
}

/// The head that reads the mean of the exit's tokens in place of the last ones.
fn head_behind(
    emit: &mut Emitter,
    nodes: &[Node],
    head: &str,
    exit: &Exit,
) -> Result<String, DeriveError> {
    emit.set_scope(format!("exit/{}", exit.value));
    let shape: Vec<Dim> = emit.shape(&exit.last)?;
    let mean = emit.reduce_mean(&exit.tokens, &[exit.axis])?;
    let mut renamed = HashMap::from([(exit.last.clone(), emit.expand(&mean, &shape)?)]);
    let needed = behind(nodes, head);
    for at in between(nodes, &exit.last, &needed) {
        let mut node = nodes[at].clone();
        node.name = emit.fresh(&format!("exit/{}", node.name));
        for input in &mut node.inputs {
            if let Some(name) = renamed.get(input) {
                input.clone_from(name);
            }
        }
        for output in node.outputs.iter_mut().filter(|output| !output.is_empty()) {
            let name = emit.fresh(&format!("exit/{output}"));
            let value_type = emit.value_type(output)?;
            emit.declare(&name, value_type);
            renamed.insert(std::mem::replace(output, name.clone()), name);
        }
        emit.graph.nodes.push(node);
    }
    let found = renamed.remove(head);
    found.ok_or_else(|| DeriveError::Detached {
        wrt: exit.value.clone(),
        head: head.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        autodiff::spec::{AttentionLayer, Grid},
        onnx::{Types, graph::Graph},
    };

    /// Two blocks whose attention is added to the stream, the first with a branch behind it.
    fn nodes() -> Vec<Node> {
        [
            ("Softmax", &["x"][..], "first"),
            ("MatMul", &["first", "x"], "mixed"),
            ("Add", &["mixed", "x"], "attended"),
            ("Relu", &["attended"], "branch"),
            ("Add", &["attended", "branch"], "stream"),
            ("Softmax", &["stream"], "second"),
            ("MatMul", &["second", "stream"], "again"),
            ("Add", &["again", "stream"], "last"),
            ("MatMul", &["last", "w"], "head"),
        ]
        .into_iter()
        .map(|(op, inputs, output)| Node::new(op, inputs.iter().copied(), [output]))
        .collect()
    }

    fn found(nodes: &[Node]) -> Result<Vec<Exit>, String> {
        let emit = Emitter::new(Graph::default(), Types::default());
        let layer = |name: &str| AttentionLayer {
            node: name.to_owned(),
            weights: name.to_owned(),
            heads: 1,
        };
        let attention = Attention {
            layers: ["first", "second"].map(layer).into(),
            tokens: 4,
            grid: Grid {
                channels: 1,
                first: 0,
                height: 2,
                width: 2,
            },
            read: vec![0],
            exits: Ok(Vec::new()),
        };
        exits(&emit, nodes, "head", &attention, |_| Some(1))
    }

    #[test]
    fn the_exit_of_a_block_is_the_last_sum_that_all_goes_through() {
        let found = found(&nodes()).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|exit| (&exit.value[..], &exit.tokens[..], &exit.last[..]))
            .collect();
        assert_eq!(
            told,
            [("first", "stream", "last"), ("second", "last", "last")]
        );
    }

    #[test]
    fn attention_that_goes_on_beside_every_sum_is_named() {
        let mut nodes = nodes();
        // What the first block mixes is read once more at the end.
        nodes[8].inputs[1] = "mixed".into();
        let refused = found(&nodes).unwrap_err();
        assert!(refused.contains("`first`"), "{refused}");
    }
}
