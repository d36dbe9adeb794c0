//! Graph rewriting, for all passes: [`replace`] matches a pattern around each node and replaces it
//! by other nodes; a [`Rewriter`] visits the nodes in order, for passes that keep state from node
//! to node.
//!
//! Cost: linear in the graph, times the work of a pass per node.

use std::collections::{HashMap, HashSet};

use super::graph::{Graph, Literal, Names, Node};

/// The producer and the consumers of each value of a graph.
pub struct Edges<'a> {
    /// The graph itself.
    pub graph: &'a Graph,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    pinned: HashSet<String>,
}

impl<'a> Edges<'a> {
    /// The edges of all nodes of `graph`.
    pub fn of(graph: &'a Graph) -> Self {
        Self {
            producers: graph.producers(),
            consumers: graph.consumers(),
            pinned: graph.pinned(),
            graph,
        }
    }

    /// The producer of `value`; `None` for inputs and constants.
    pub fn producer(&self, value: &str) -> Option<&'a Node> {
        self.producers
            .get(value)
            .map(|&index| &self.graph.nodes[index])
    }

    /// The consumers of `value`, in order, each once.
    pub fn readers(&self, value: &str) -> impl Iterator<Item = &'a Node> {
        let indices = self.consumers.get(value).into_iter().flatten();
        indices.map(|&index| &self.graph.nodes[index])
    }

    /// The only consumer of `value`; `None` if there are several, or if it is an output of the
    /// graph or read by a sub-graph.
    pub fn only_reader(&self, value: &str) -> Option<&'a Node> {
        let mut readers = self.readers(value).filter(|_| !self.is_pinned(value));
        readers.next().filter(|_| readers.next().is_none())
    }

    /// Whether `value` must keep its name: see [`Graph::pinned`].
    pub fn is_pinned(&self, value: &str) -> bool {
        self.pinned.contains(value)
    }

    /// The constant of this name.
    pub fn constant(&self, value: &str) -> Option<&'a Literal> {
        self.graph.initializers.get(value)
    }
}

/// What stands in the place of a node.
#[derive(Default)]
pub struct Edit {
    /// The nodes in its position; empty to remove the node.
    pub nodes: Vec<Node>,
    /// Further nodes to remove, each given by one of its outputs.
    pub removed: Vec<String>,
    /// Values, and the values that replace them.
    pub renamed: Vec<(String, String)>,
    /// New constants.
    pub constants: Vec<(String, Literal)>,
}

impl Edit {
    /// Nodes in the place of one.
    pub fn with(nodes: impl IntoIterator<Item = Node>) -> Self {
        Self {
            nodes: nodes.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Calls `edit` for every node of the original `graph` and applies the edits; returns whether there
/// were any. Values without consumers stay: run `prune` afterwards.
pub fn replace(graph: &mut Graph, mut edit: impl FnMut(&Edges, &Node) -> Option<Edit>) -> bool {
    let edges = Edges::of(graph);
    let found: Vec<_> = graph.nodes.iter().map(|node| edit(&edges, node)).collect();
    let is_changed = found.iter().any(Option::is_some);
    let removed: HashSet<String> = found
        .iter()
        .flatten()
        .flat_map(|edit| edit.removed.iter().cloned())
        .collect();
    let mut renamed = HashMap::new();
    for (node, edit) in std::mem::take(&mut graph.nodes).into_iter().zip(found) {
        if node.outputs.iter().any(|output| removed.contains(output)) {
            continue;
        }
        let Some(edit) = edit else {
            graph.nodes.push(node);
            continue;
        };
        renamed.extend(edit.renamed);
        graph.initializers.extend(edit.constants);
        graph.nodes.extend(edit.nodes);
    }
    let inputs = graph.nodes.iter_mut().flat_map(|node| &mut node.inputs);
    inputs.for_each(|input| follow(&renamed, input));
    is_changed
}

/// Visits the nodes of a graph in order. A pass keeps each node, or returns nodes in its place; it
/// may add constants, and replace values for the nodes that follow.
pub struct Rewriter {
    /// The graph with the nodes rewritten so far.
    pub graph: Graph,
    names: Names,
    renamed: HashMap<String, String>,
}

impl Rewriter {
    /// Before the first node.
    pub fn of(graph: Graph) -> Self {
        Self {
            names: Names::of(&graph),
            graph,
            renamed: HashMap::new(),
        }
    }

    /// A fresh name: `wish` if it is free.
    pub fn value(&mut self, wish: &str) -> String {
        self.names.fresh(wish)
    }

    /// Adds a constant; returns its name, `wish` if that is free.
    pub fn constant(&mut self, wish: &str, literal: Literal) -> String {
        let name = self.names.fresh(wish);
        self.graph.initializers.insert(name.clone(), literal);
        name
    }

    /// Nodes that follow read `instead` in place of `value`.
    pub fn rename(&mut self, value: &str, instead: &str) {
        self.renamed.insert(value.into(), instead.into());
    }

    /// The graph with each node rewritten by `pass`. Stops at the first error.
    pub fn walk<E>(
        mut self,
        mut pass: impl FnMut(&mut Self, Node) -> Result<Vec<Node>, E>,
    ) -> Result<Graph, E> {
        for mut node in std::mem::take(&mut self.graph.nodes) {
            let inputs = node.inputs.iter_mut();
            inputs.for_each(|input| follow(&self.renamed, input));
            let nodes = pass(&mut self, node)?;
            self.graph.nodes.extend(nodes);
        }
        Ok(self.graph)
    }
}

fn follow(renamed: &HashMap<String, String>, input: &mut String) {
    while let Some(instead) = renamed.get(input) {
        input.clone_from(instead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: Vec<Node>) -> Graph {
        Graph {
            nodes,
            ..Graph::default()
        }
    }

    fn chain() -> Graph {
        graph(vec![
            Node::new("Relu", ["x"], ["a"]),
            Node::new("Identity", ["a"], ["b"]),
            Node::new("Identity", ["b"], ["c"]),
            Node::new("Neg", ["c"], ["y"]),
        ])
    }

    #[test]
    fn a_value_that_stands_for_another_is_followed_to_the_end() {
        let mut graph = chain();
        let found = replace(&mut graph, |_, node| {
            let (from, to) = (node.input(0)?, node.output(0)?);
            node.is("Identity").then(|| Edit {
                renamed: vec![(to.into(), from.into())],
                ..Edit::default()
            })
        });
        assert!(found);
        let expected = [
            Node::new("Relu", ["x"], ["a"]),
            Node::new("Neg", ["a"], ["y"]),
        ];
        assert_eq!(graph.nodes, expected);
        assert!(!replace(&mut graph, |_, _| None));
    }

    #[test]
    fn an_edit_takes_further_nodes_away_and_adds_constants() {
        let mut graph = chain();
        replace(&mut graph, |edges, node| {
            let next = edges.only_reader(node.output(0)?)?;
            node.is("Relu").then(|| Edit {
                removed: next.outputs.clone(),
                constants: vec![("zero".into(), Literal::scalar_f32(0.0))],
                ..Edit::with([Node::new("Max", ["x", "zero"], ["b"])])
            })
        });
        let ops: Vec<_> = graph
            .nodes
            .iter()
            .map(|node| node.op_type.as_str())
            .collect();
        assert_eq!(ops, ["Max", "Identity", "Neg"]);
        assert!(graph.initializers.contains_key("zero"));
    }

    #[test]
    fn a_walk_hands_names_and_constants_on_to_later_nodes() {
        let rewritten = Rewriter::of(chain()).walk(|rewriter, node| {
            if node.is("Identity") {
                rewriter.rename(&node.outputs[0], &node.inputs[0]);
                return Ok::<_, ()>(vec![]);
            }
            let name = rewriter.constant("a", Literal::scalar_f32(1.0));
            assert_ne!(name, "a");
            Ok(vec![node])
        });
        let rewritten = rewritten.unwrap();
        assert_eq!(rewritten.nodes[1], Node::new("Neg", ["a"], ["y"]));
        assert_eq!(rewritten.initializers.len(), 2);
    }
}
