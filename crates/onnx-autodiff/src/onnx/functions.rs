//! Functions that a model defines for itself: every call becomes the nodes of the function's body.
//! Inner values get names that are free in the whole file; attributes that the body takes from the
//! call are filled in, or left out where the call gives none and the function has no default.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::error::Fault;
use super::limits::MAX_NODES;
use super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// Functions that call one another deeper than this are taken for recursive, which ONNX forbids.
const DEEPEST: usize = 64;

/// The model with no calls left; it imports the operator sets that the bodies need.
pub(super) fn inline(model: &mut ModelProto) -> Result<(), Fault> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = model.graph.as_mut().filter(|_| !functions.is_empty()) else {
        return Ok(());
    };
    let mut known = HashMap::new();
    for function in &functions {
        known.insert(key_of(function), function);
    }
    let imports: HashMap<&str, i64> = (model.opset_import.iter())
        .map(|import| (domain(import.domain()), import.version()))
        .collect();
    let mut missing = Vec::new();
    for function in &functions {
        for import in &function.opset_import {
            let (name, version) = (domain(import.domain()), import.version());
            match imports.get(name) {
                Some(&own) if own != version && name.is_empty() => {
                    return Err(Fault::Function {
                        function: function.name().to_owned(),
                        reason: format!(
                            "it is written for opset {version}, and the model for {own}: export both with one opset"
                        ),
                    });
                }
                Some(_) => {}
                None => missing.push(import.clone()),
            }
        }
    }
    let mut taken = HashSet::new();
    names_of(graph, &mut taken);
    let mut calls = Calls {
        known,
        taken,
        count: 0,
        made: 0,
    };
    calls.expand_graph(graph, 0)?;
    model.opset_import.extend(missing);
    let is_function = |name: &str| functions.iter().any(|of| domain(of.domain()) == name);
    let is_used = |name: &str| uses(graph, name);
    (model.opset_import).retain(|import| {
        let name = domain(import.domain());
        name.is_empty() || !is_function(name) || is_used(name)
    });
    Ok(())
}

/// The default domain has two spellings.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

type Key<'a> = (&'a str, &'a str, &'a str);

fn key_of(function: &FunctionProto) -> Key<'_> {
    (
        domain(function.domain()),
        function.name(),
        function.overload(),
    )
}

struct Calls<'a> {
    known: HashMap<Key<'a>, &'a FunctionProto>,
    /// Every name of a value in the file so far.
    taken: HashSet<String>,
    /// Of calls.
    count: usize,
    /// Nodes made by calls.
    made: usize,
}

impl Calls<'_> {
    fn expand_graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), Fault> {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.expand(nodes, depth)?;
        Ok(())
    }

    fn expand(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, Fault> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.expand_graph(graph, depth)?;
                }
            }
            let key = (domain(node.domain()), node.op_type(), node.overload());
            let Some(function) = self.known.get(&key).copied() else {
                expanded.push(node);
                continue;
            };
            if depth == DEEPEST {
                return Err(Fault::Function {
                    function: function.name().to_owned(),
                    reason:
                        "it calls itself, or others too deeply: export the model without functions"
                            .to_owned(),
                });
            }
            let body = self.body(function, &node)?;
            expanded.extend(self.expand(body, depth + 1)?);
        }
        Ok(expanded)
    }

    /// The nodes that stand for a call.
    fn body(
        &mut self,
        function: &FunctionProto,
        call: &NodeProto,
    ) -> Result<Vec<NodeProto>, Fault> {
        self.count += 1;
        self.made += function.node.len() + function.output.len();
        if self.made > MAX_NODES {
            return Err(Fault::TooManyNodes {
                nodes: self.made,
                most: MAX_NODES,
            });
        }
        let mut names: HashMap<String, String> = HashMap::new();
        for (at, formal) in function.input.iter().enumerate() {
            let given = call.input.get(at).cloned().unwrap_or_default();
            names.insert(formal.clone(), given);
        }
        let mut body = GraphProto {
            node: function.node.clone(),
            ..GraphProto::default()
        };
        let mut defined = HashSet::new();
        body.node
            .iter()
            .for_each(|node| defined_by(node, &mut defined));
        // An output that the body does not make is an input handed on.
        let mut handed_on = Vec::new();
        for (formal, output) in function.output.iter().zip(&call.output) {
            let is_made = defined.contains(formal) && !names.contains_key(formal);
            match is_made {
                _ if output.is_empty() => {}
                true => {
                    names.insert(formal.clone(), output.clone());
                }
                false => {
                    let source = names.get(formal).unwrap_or(formal).clone();
                    handed_on.push((source, output.clone()));
                }
            }
        }
        let mut inner: Vec<String> = defined.into_iter().collect();
        inner.sort();
        for name in inner {
            if let Entry::Vacant(place) = names.entry(name) {
                let name = place.key();
                let fresh = format!("{}.{}/{name}", function.name(), self.count);
                place.insert(self.fresh(&fresh));
            }
        }
        for node in &mut body.node {
            fill(node, function, call);
        }
        rename(&mut body, &names);
        for node in body.node.iter_mut().filter(|node| !node.name().is_empty()) {
            node.name = Some(format!("{}/{}", call.name(), node.name()));
        }
        body.node
            .extend(handed_on.into_iter().map(|(source, output)| NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![source],
                output: vec![output],
                ..NodeProto::default()
            }));
        Ok(body.node)
    }

    fn fresh(&mut self, wish: &str) -> String {
        let mut name = wish.to_owned();
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

/// Fills in what a node of a body takes from the attributes of the call.
fn fill(node: &mut NodeProto, function: &FunctionProto, call: &NodeProto) {
    node.attribute.retain_mut(|attribute| {
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            graph
                .node
                .iter_mut()
                .for_each(|node| fill(node, function, call));
        }
        let Some(wanted) = attribute.ref_attr_name.clone() else {
            return true;
        };
        let is_wanted = |given: &&AttributeProto| given.name() == wanted;
        let mut given = call.attribute.iter().chain(&function.attribute_proto);
        let Some(given) = given.find(is_wanted) else {
            return false;
        };
        *attribute = AttributeProto {
            name: attribute.name.clone(),
            ..given.clone()
        };
        true
    });
}

/// Renames values in a graph and in the graphs inside its nodes; names are unique across them.
pub(super) fn rename(graph: &mut GraphProto, names: &HashMap<String, String>) {
    let new = |name: &mut String| {
        if let Some(instead) = names.get(name) {
            name.clone_from(instead);
        }
    };
    let constants = graph.initializer.iter_mut().map(|tensor| &mut tensor.name);
    let ends = graph.input.iter_mut().chain(&mut graph.output);
    let ends = ends.map(|end| &mut end.name);
    constants.chain(ends).flatten().for_each(new);
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(new);
        for attribute in &mut node.attribute {
            let inner = attribute.g.iter_mut().chain(&mut attribute.graphs);
            inner.for_each(|inner| rename(inner, names));
        }
    }
}

/// What a node makes, and what the graphs inside of it do.
fn defined_by(node: &NodeProto, names: &mut HashSet<String>) {
    names.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(graph.input.iter().map(|input| input.name().to_owned()));
            let constants = graph.initializer.iter();
            names.extend(constants.map(|tensor| tensor.name().to_owned()));
            graph.node.iter().for_each(|node| defined_by(node, names));
        }
    }
}

/// Every name of a value in a graph.
fn names_of(graph: &GraphProto, names: &mut HashSet<String>) {
    let ends = graph.input.iter().chain(&graph.output);
    names.extend(ends.map(|end| end.name().to_owned()));
    names.extend(
        graph
            .initializer
            .iter()
            .map(|tensor| tensor.name().to_owned()),
    );
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        for attribute in &node.attribute {
            let inner = attribute.g.iter().chain(&attribute.graphs);
            inner.for_each(|inner| names_of(inner, names));
        }
    }
}

/// Whether any node is of this domain.
fn uses(graph: &GraphProto, name: &str) -> bool {
    graph.node.iter().any(|node| {
        let inner = |attribute: &AttributeProto| {
            let mut graphs = attribute.g.iter().chain(&attribute.graphs);
            graphs.any(|graph| uses(graph, name))
        };
        domain(node.domain()) == name || node.attribute.iter().any(inner)
    })
}
