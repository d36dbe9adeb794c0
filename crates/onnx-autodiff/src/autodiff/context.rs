//! The context of a rule: its node with typed attributes, primal values and shapes, the cotangents
//! of the outputs, the active inputs, an emitter, and the rules that this rule overrides.

use super::{
    DeriveError, Unsupported,
    emit::{CONSTANTS, Emitter},
    expr::{Emission, Expr},
    relevance::Relevance,
    spec::PatternSource,
};
use crate::{Tensor, onnx::graph::Node};

/// Computes the cotangents of a node's inputs from those of its outputs.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// dx of an op with one input, from the node's attributes, dy, x and y.
    Formula(fn(&Node, &Expr, &Expr, &Expr) -> Expr),
    Vjp(Vjp),
}

/// The cotangents of all inputs.
pub(super) type Vjp = fn(&mut VjpContext) -> Result<Cotangents, DeriveError>;

/// One cotangent per input, `None` for inputs without one. A cotangent may have the broadcast
/// shape: the walk sums it to the input's shape.
#[derive(Default)]
pub(crate) struct Cotangents(pub Vec<Option<String>>);

impl Cotangents {
    pub(crate) fn first(cotangent: String) -> Self {
        Self(vec![Some(cotangent)])
    }
}

/// The source of the pattern of one Linear node.
#[derive(Clone, Copy)]
pub(crate) struct PatternOf<'a> {
    pub source: &'a dyn PatternSource,
    pub layer: &'a str,
}

impl PatternOf<'_> {
    /// The pattern, in the shape of the node's weight.
    pub(crate) fn read(&self) -> Result<Tensor, DeriveError> {
        let unreadable = |source| DeriveError::PatternFile {
            layer: self.layer.to_owned(),
            source,
        };
        self.source.read(self.layer).map_err(unreadable)
    }
}

/// The change of an overlay rule before it runs the overridden rule.
#[derive(Default)]
pub(crate) struct Overrides {
    pub cotangent: Option<String>,
    /// Replaces the weight of a Linear node by the constant of this name.
    pub weight: Option<String>,
}

pub(crate) struct VjpContext<'a> {
    pub emit: &'a mut Emitter,
    pub node: &'a Node,
    pub active: &'a [bool],
    pub cotangents: &'a [Option<String>],
    /// The overridden rules, the most specific first.
    pub overridden: &'a [Rule],
    /// Why the node is refused where there is none.
    pub unruled: &'static str,
    /// The pattern of this Linear node, if the rule set uses one here.
    pub pattern: Option<PatternOf<'a>>,
    /// The name of the rule set.
    pub rule_set: &'static str,
    /// Of a walk that shares out relevance.
    pub relevance: Option<&'a Relevance<'a>>,
    /// The replacement of input 1 by an overlay.
    pub weight: Option<String>,
}

impl VjpContext<'_> {
    /// Runs the most specific overridden rule.
    pub(crate) fn base(&mut self, overrides: Overrides) -> Result<Cotangents, DeriveError> {
        let (rule, overridden) = self
            .overridden
            .split_first()
            .ok_or_else(|| self.refusal(self.unruled))?;
        let mut cotangents = self.cotangents.to_vec();
        if let (Some(first), Some(cotangent)) = (cotangents.first_mut(), overrides.cotangent) {
            *first = Some(cotangent);
        }
        let mut ctx = VjpContext {
            emit: self.emit,
            node: self.node,
            active: self.active,
            cotangents: &cotangents,
            overridden,
            unruled: self.unruled,
            pattern: self.pattern,
            rule_set: self.rule_set,
            relevance: self.relevance,
            weight: overrides.weight.or_else(|| self.weight.clone()),
        };
        match rule {
            Rule::Vjp(rule) => rule(&mut ctx),
            Rule::Formula(formula) => {
                let [dy, x, y] = [ctx.cotangent()?, ctx.input(0)?, ctx.output()].map(Expr::value);
                let dx = formula(ctx.node, &dy, &x, &y).emit(ctx.emit)?;
                Ok(Cotangents::first(dx))
            }
        }
    }

    pub(crate) fn refusal(&self, reason: impl Into<String>) -> DeriveError {
        DeriveError::Unsupported {
            nodes: vec![Unsupported::new(self.node, &self.emit.graph, reason.into())],
        }
    }

    /// Refuses a node of which the gradient is defined, and this rule set is not.
    pub(crate) fn undefined(&self, reason: &str) -> DeriveError {
        let nodes = vec![Unsupported::new(
            self.node,
            &self.emit.graph,
            reason.to_owned(),
        )];
        DeriveError::Undefined {
            rule_set: self.rule_set,
            nodes,
        }
    }

    /// Refuses the node if a constant of this shape would exceed the limit for constants.
    pub(crate) fn fits_constant(&mut self, shape: &[usize]) -> Result<(), DeriveError> {
        let elements = shape
            .iter()
            .fold(1, |all: usize, &size| all.saturating_mul(size));
        let left = self.emit.constants_left;
        let rest = left.checked_sub(elements).ok_or_else(|| {
            self.refusal(format!(
                "its gradient needs a constant of {elements} elements, and {left} of {CONSTANTS} for the whole graph are left"
            ))
        })?;
        self.emit.constants_left = rest;
        Ok(())
    }

    /// Emits one expression per input, for active inputs that have one.
    pub(crate) fn emit_active<E: Into<Option<Expr>>>(
        &mut self,
        formulas: impl IntoIterator<Item = E>,
    ) -> Result<Cotangents, DeriveError> {
        // One emitter for all expressions, because they share sub-expressions.
        let formulas: Vec<Option<Expr>> = formulas.into_iter().map(Into::into).collect();
        let mut emission = Emission::of(self.emit);
        let cotangents = formulas.iter().zip(self.active).map(|(formula, active)| {
            let formula = formula.as_ref().filter(|_| *active);
            formula
                .map(|formula| emission.value(formula, None))
                .transpose()
        });
        Ok(Cotangents(cotangents.collect::<Result<_, _>>()?))
    }

    /// The cotangent of the node's first output.
    pub(crate) fn cotangent(&self) -> Result<String, DeriveError> {
        let first = self.cotangents.first().cloned().flatten();
        first.ok_or_else(|| self.refusal("only its first output has a gradient"))
    }

    /// Primal input by position; absent optional inputs are `None`.
    pub(crate) fn optional(&self, index: usize) -> Option<String> {
        self.node.input(index).map(str::to_owned)
    }

    pub(crate) fn input(&self, index: usize) -> Result<String, DeriveError> {
        self.optional(index)
            .ok_or_else(|| self.refusal(format!("input {index} is absent")))
    }

    /// Primal value of the node's first output.
    pub(crate) fn output(&self) -> String {
        self.node.outputs[0].clone()
    }

    pub(crate) fn is_active(&self, index: usize) -> bool {
        self.active.get(index).copied().unwrap_or(false)
    }

    /// The weight of a Linear node (input 1), or its replacement by an overlay.
    pub(crate) fn weight(&self) -> Result<String, DeriveError> {
        self.weight.clone().map_or_else(|| self.input(1), Ok)
    }

    /// An input that must be a constant list of integers.
    pub(crate) fn constant_i64(&self, index: usize) -> Result<Option<Vec<i64>>, DeriveError> {
        let Some(name) = self.optional(index) else {
            return Ok(None);
        };
        let values = self
            .emit
            .literal(&name)
            .and_then(|literal| literal.to_i64s());
        values
            .map(Some)
            .ok_or_else(|| self.refusal(format!("input `{name}` is not a constant of integers")))
    }

    /// An input that must be a constant list of floats.
    pub(crate) fn constant_f32(&self, index: usize) -> Result<Option<Vec<f32>>, DeriveError> {
        let Some(name) = self.optional(index) else {
            return Ok(None);
        };
        let values = self.emit.literal_f32(&name);
        values
            .map(Some)
            .ok_or_else(|| self.refusal(format!("input `{name}` is not a constant of f32")))
    }

    /// `axis` attribute or list element as a position in a shape of `rank` dims.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, DeriveError> {
        let position = if axis < 0 { axis + rank as i64 } else { axis };
        let valid = usize::try_from(position)
            .ok()
            .filter(|&position| position < rank.max(1));
        valid.ok_or_else(|| self.refusal(format!("axis {axis} is outside rank {rank}")))
    }
}
