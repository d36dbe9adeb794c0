//! Checks that a graph is well formed: each value is defined once and before its consumers, and
//! every output is produced. Cost: linear.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::onnx::error::{Fault, OnnxError};
use crate::onnx::graph::{Graph, Node};

/// The graph, if it is well formed; an error names `pass` and every fault.
pub fn checked(pass: &'static str, graph: Graph) -> Result<Graph, OnnxError> {
    check(pass, &graph).map(|()| graph)
}

/// An error names `pass` and every fault.
pub fn check(pass: &'static str, graph: &Graph) -> Result<(), OnnxError> {
    let faults = find_faults(graph);
    if faults.is_empty() {
        Ok(())
    } else {
        Err(OnnxError::Pass { pass, faults })
    }
}

/// Duplicate names, reads of unknown or later values, outputs that nothing produces.
pub fn find_faults(graph: &Graph) -> Vec<Fault> {
    let mut faults = find_duplicates(graph);
    let produced: HashSet<&str> = graph.nodes.iter().flat_map(outputs).collect();
    let mut known: HashSet<&str> = sources(graph).collect();
    for node in &graph.nodes {
        for input in node
            .inputs
            .iter()
            .map(String::as_str)
            .filter(|i| !i.is_empty() && !known.contains(i))
        {
            let (node, op, value) = (
                node.label().to_string(),
                node.op_type.clone(),
                input.to_string(),
            );
            faults.push(if produced.contains(input) {
                Fault::Order { node, op, value }
            } else {
                Fault::MissingInput { node, op, value }
            });
        }
        known.extend(outputs(node));
    }
    for output in graph
        .outputs
        .iter()
        .filter(|output| !known.contains(output.name.as_str()))
    {
        faults.push(Fault::MissingOutput {
            value: output.name.clone(),
        });
    }
    faults
}

fn find_duplicates(graph: &Graph) -> Vec<Fault> {
    let mut seen = HashSet::new();
    let names = sources(graph).chain(graph.nodes.iter().flat_map(outputs));
    names
        .filter(|&name| !seen.insert(name))
        .map(|name| Fault::Duplicate { value: name.into() })
        .collect()
}

fn sources(graph: &Graph) -> impl Iterator<Item = &str> {
    graph
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .chain(graph.initializers.keys().map(String::as_str))
}

fn outputs(node: &Node) -> impl Iterator<Item = &str> {
    node.outputs
        .iter()
        .map(String::as_str)
        .filter(|output| !output.is_empty())
}

/// Sorts nodes topologically and keeps the given order where possible. The error for a cycle names
/// its nodes.
pub fn sort(graph: &mut Graph) -> Result<(), Fault> {
    let producers = graph.producers();
    let mut waiting = vec![0usize; graph.nodes.len()];
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let captured = node.captured();
        let reads = node
            .inputs
            .iter()
            .chain(&captured)
            .filter_map(|name| producers.get(name.as_str()).copied());
        for producer in reads.collect::<HashSet<_>>() {
            waiting[index] += 1;
            readers.entry(producer).or_default().push(index);
        }
    }
    let mut ready: BinaryHeap<_> = (0..waiting.len())
        .filter(|&i| waiting[i] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &reader in readers.get(&index).into_iter().flatten() {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() < waiting.len() {
        let stuck = (0..waiting.len()).filter(|&i| waiting[i] > 0);
        return Err(Fault::Cycle {
            nodes: stuck.map(|i| graph.nodes[i].label().to_string()).collect(),
        });
    }
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes)
        .into_iter()
        .map(Some)
        .collect();
    graph.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
    Ok(())
}
