//! How older and newer opsets spell what opset 18 says, op by op: attributes that became inputs, ops
//! that got another name or meaning, and ops that are written with others. For inference: what only
//! training needs is refused.

pub mod arguments;
pub mod decompose;
pub mod inference;

use std::collections::HashSet;

use super::graph::{Literal, Node};
use super::rewrite::Rewriter;
use super::types::Types;

/// The rewritten nodes, or why there are none.
pub type Rewritten = Result<Vec<Node>, String>;

/// How an op of some opsets is written in opset 18.
#[derive(Clone, Copy)]
pub struct Spelling {
    /// Only nodes of older opsets are rewritten; none: all are.
    pub before: Option<i64>,
    pub rewrite: fn(&mut Context<'_>, Node) -> Rewritten,
}

/// What rewriting a node may use: the source's types and opset, which values are read, and new
/// names and constants.
pub struct Context<'a> {
    pub opset: i64,
    pub types: &'a Types,
    pub used: &'a HashSet<String>,
    pub rewriter: &'a mut Rewriter,
}

impl Context<'_> {
    /// Adds a constant named after `node` and `role`; its value's name.
    fn constant(&mut self, node: &Node, role: &str, literal: Literal) -> String {
        self.rewriter
            .constant(&format!("{}.{role}", node.label()), literal)
    }

    /// A new value named after `node` and `role`.
    fn value(&mut self, node: &Node, role: &str) -> String {
        self.rewriter.value(&format!("{}.{role}", node.label()))
    }

    /// The constant of this name, as far as the walk has come.
    fn literal(&self, name: &str) -> Option<&Literal> {
        self.rewriter.graph.initializers.get(name)
    }
}

fn without(mut node: Node, attribute: &str) -> Node {
    node.attributes.remove(attribute);
    node
}
