//! Conversion of ops of other opsets to opset 18: attributes that became inputs, ops with another
//! name or meaning, and ops that are decomposed into others. For inference: forms that only
//! training needs are refused.

pub(super) mod arguments;
pub(super) mod attention;
mod body;
pub(super) mod branch;
pub(super) mod decompose;
pub(super) mod grid_sample;
pub(super) mod inference;
pub(super) mod microsoft;
pub(super) mod quantisation;
pub(super) mod repeat;

use std::collections::HashSet;

use super::graph::{Literal, Node};
use super::rewrite::Rewriter;
use super::types::Types;

/// The rewritten nodes, or why the node cannot be converted.
pub(super) type Rewritten = Result<Vec<Node>, String>;

/// The conversion of an op to opset 18.
#[derive(Clone, Copy)]
pub struct Spelling {
    /// Converts only nodes of opsets below this one; `None`: of all opsets.
    pub before: Option<i64>,
    pub rewrite: fn(&mut Context<'_>, Node) -> Rewritten,
}

/// The context of a conversion: opset of the source, types of the values so far, the values that are
/// read, those that depend on the input, the rewriter, for new names and constants, and how many
/// nodes of graphs inside nodes may still be written.
pub struct Context<'a> {
    pub opset: i64,
    pub types: &'a Types,
    pub used: &'a HashSet<String>,
    pub varying: &'a HashSet<String>,
    pub rewriter: &'a mut Rewriter,
    pub room: &'a mut usize,
}

impl Context<'_> {
    /// Adds a constant named after `node` and `role`; returns its name.
    fn constant(&mut self, node: &Node, role: &str, literal: Literal) -> String {
        self.rewriter
            .constant(&format!("{}.{role}", node.label()), literal)
    }

    /// A fresh name for a value, after `node` and `role`.
    fn value(&mut self, node: &Node, role: &str) -> String {
        self.rewriter.value(&format!("{}.{role}", node.label()))
    }

    /// The constant of this name in the graph rewritten so far.
    fn literal(&self, name: &str) -> Option<&Literal> {
        self.rewriter.graph.initializers.get(name)
    }
}

fn without(mut node: Node, attribute: &str) -> Node {
    node.attributes.remove(attribute);
    node
}
