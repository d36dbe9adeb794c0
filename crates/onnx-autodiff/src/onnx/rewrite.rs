//! The one way in which passes change the nodes of a graph: [`replace`] finds a pattern around a
//! node and puts other nodes in its place; a [`Rewriter`] goes along the nodes in their order, for
//! passes that carry what they have learned from one to the next.
//!
//! Cost: linear in the graph, times what a pass looks up for a node.

use std::collections::{HashMap, HashSet};

use super::graph::{Graph, Literal, Names, Node};

/// The nodes that make and read each value of a graph.
pub struct Edges<'a> {
    /// The graph itself.
    pub graph: &'a Graph,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    pinned: HashSet<String>,
}

impl<'a> Edges<'a> {
    /// Of all nodes of `graph`.
    pub fn of(graph: &'a Graph) -> Self {
        Self {
            producers: graph.producers(),
            consumers: graph.consumers(),
            pinned: graph.pinned(),
            graph,
        }
    }

    /// The node that makes `value`; none for inputs and constants.
    pub fn producer(&self, value: &str) -> Option<&'a Node> {
        self.producers
            .get(value)
            .map(|&index| &self.graph.nodes[index])
    }

    /// The nodes that read `value`, in their order, each once.
    pub fn readers(&self, value: &str) -> impl Iterator<Item = &'a Node> {
        let indices = self.consumers.get(value).into_iter().flatten();
        indices.map(|&index| &self.graph.nodes[index])
    }

    /// The only node that reads `value`; none where several do, or where the graph's outputs or a
    /// sub-graph need it.
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
    /// In its position. None: the node goes.
    pub nodes: Vec<Node>,
    /// Further nodes that go, each by a value that it makes.
    pub removed: Vec<String>,
    /// Values, and those that are read instead of them.
    pub renamed: Vec<(String, String)>,
    /// Constants that are added.
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

/// Applies what `edit` finds around every node of `graph`, which it sees as it was before; whether
/// there was anything. Values that only replaced nodes read stay: run `prune` afterwards.
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

/// Goes along the nodes of a graph in their order. A pass leaves each node as it is, or returns
/// others in its place, after it has added constants and said which values are read instead of
/// others.
pub struct Rewriter {
    /// With the nodes that have been passed, as they came out.
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

    /// A name that no value has yet: `wish` where it is free.
    pub fn value(&mut self, wish: &str) -> String {
        self.names.fresh(wish)
    }

    /// Adds a constant; its name, which is `wish` where that is free.
    pub fn constant(&mut self, wish: &str, literal: Literal) -> String {
        let name = self.names.fresh(wish);
        self.graph.initializers.insert(name.clone(), literal);
        name
    }

    /// From here on nodes read `instead` where they read `value`.
    pub fn rename(&mut self, value: &str, instead: &str) {
        self.renamed.insert(value.into(), instead.into());
    }

    /// The graph with what `pass` makes of each node in its place; the first error ends it.
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
