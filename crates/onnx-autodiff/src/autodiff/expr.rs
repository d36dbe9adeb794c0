//! Expressions over values of a graph: `dy * (1.0 - y.square())` stands for the nodes that compute
//! it and reads like the formula of the derivative. [`Expr::emit`] emits the nodes from left to
//! right, and shared sub-expressions once.

use std::{
    collections::HashMap,
    ops::{Add, Div, Mul, Neg, Sub},
    rc::Rc,
};

use super::{
    DeriveError,
    emit::{Emitter, attributes},
};
use crate::onnx::graph::Element;

/// An expression. Clones share it, are cheap, and are emitted once.
#[derive(Clone)]
pub struct Expr(Rc<Term>);

enum Term {
    Value(String),
    /// A constant, in the element type of the expression's values.
    Number(f32),
    Unary(&'static str, Expr),
    Binary(&'static str, Expr, Expr),
    Equal(Expr, Expr),
    /// A product with a number; the number 1 emits no node.
    Scaled(Expr, f32),
    Step {
        x: Expr,
        sign: f32,
        bound: f32,
    },
    HardSigmoid {
        x: Expr,
        alpha: f32,
        beta: f32,
    },
    Cast(Expr, Element),
    /// A reduction over axes, which stay as ones.
    Reduced(&'static str, Expr, Vec<usize>),
}

impl Expr {
    /// A value of the graph.
    pub fn value(name: impl Into<String>) -> Self {
        Self::of(Term::Value(name.into()))
    }

    fn of(term: Term) -> Self {
        Self(Rc::new(term))
    }

    fn unary(&self, op: &'static str) -> Self {
        Self::of(Term::Unary(op, self.clone()))
    }

    fn binary(&self, op: &'static str, other: impl Into<Self>) -> Self {
        Self::of(Term::Binary(op, self.clone(), other.into()))
    }

    pub fn abs(&self) -> Self {
        self.unary("Abs")
    }

    pub fn cos(&self) -> Self {
        self.unary("Cos")
    }

    pub fn cosh(&self) -> Self {
        self.unary("Cosh")
    }

    pub fn exp(&self) -> Self {
        self.unary("Exp")
    }

    pub fn log(&self) -> Self {
        self.unary("Log")
    }

    pub fn relu(&self) -> Self {
        self.unary("Relu")
    }

    pub fn round(&self) -> Self {
        self.unary("Round")
    }

    pub fn sigmoid(&self) -> Self {
        self.unary("Sigmoid")
    }

    pub fn sign(&self) -> Self {
        self.unary("Sign")
    }

    pub fn sin(&self) -> Self {
        self.unary("Sin")
    }

    pub fn sinh(&self) -> Self {
        self.unary("Sinh")
    }

    pub fn softplus(&self) -> Self {
        self.unary("Softplus")
    }

    pub fn sqrt(&self) -> Self {
        self.unary("Sqrt")
    }

    pub fn tanh(&self) -> Self {
        self.unary("Tanh")
    }

    pub fn square(&self) -> Self {
        self * self
    }

    pub fn min(&self, other: impl Into<Self>) -> Self {
        self.binary("Min", other)
    }

    pub fn pow(&self, exponent: impl Into<Self>) -> Self {
        self.binary("Pow", exponent)
    }

    /// Whether it equals `other`, elementwise: bool.
    pub fn equals(&self, other: &Self) -> Self {
        Self::of(Term::Equal(self.clone(), other.clone()))
    }

    /// 1 where it is above `bound`, else 0, by [`Emitter::step`].
    pub fn above(&self, bound: f32) -> Self {
        self.step(1.0, bound)
    }

    /// 1 where it is below `bound`, else 0.
    pub fn below(&self, bound: f32) -> Self {
        self.step(-1.0, bound)
    }

    fn step(&self, sign: f32, bound: f32) -> Self {
        let x = self.clone();
        Self::of(Term::Step { x, sign, bound })
    }

    /// min(max(alpha x + beta, 0), 1).
    pub fn hard_sigmoid(&self, alpha: f32, beta: f32) -> Self {
        let x = self.clone();
        Self::of(Term::HardSigmoid { x, alpha, beta })
    }

    pub fn cast(&self, element: Element) -> Self {
        Self::of(Term::Cast(self.clone(), element))
    }

    /// Over `axes`, which stay as ones.
    pub fn sum(&self, axes: &[usize]) -> Self {
        self.reduced("ReduceSum", axes)
    }

    /// Over `axes`, which stay as ones.
    pub fn mean(&self, axes: &[usize]) -> Self {
        self.reduced("ReduceMean", axes)
    }

    /// Over `axes`, which stay as ones.
    pub fn product(&self, axes: &[usize]) -> Self {
        self.reduced("ReduceProd", axes)
    }

    fn reduced(&self, op: &'static str, axes: &[usize]) -> Self {
        Self::of(Term::Reduced(op, self.clone(), axes.to_vec()))
    }

    /// Emits the nodes; returns the name of the result.
    pub fn emit(&self, emit: &mut Emitter) -> Result<String, DeriveError> {
        Emission::of(emit).value(self, None)
    }

    /// The leftmost value of the graph in the expression.
    fn leaf(&self) -> Option<&str> {
        match &*self.0 {
            Term::Value(name) => Some(name),
            Term::Number(_) => None,
            Term::Binary(_, a, b) | Term::Equal(a, b) => a.leaf().or_else(|| b.leaf()),
            Term::Unary(_, x)
            | Term::Scaled(x, _)
            | Term::Step { x, .. }
            | Term::HardSigmoid { x, .. }
            | Term::Cast(x, _)
            | Term::Reduced(_, x, _) => x.leaf(),
        }
    }
}

/// Emits several expressions, with shared sub-expressions once.
pub(super) struct Emission<'a> {
    emit: &'a mut Emitter,
    done: HashMap<*const Term, String>,
}

impl<'a> Emission<'a> {
    pub(super) fn of(emit: &'a mut Emitter) -> Self {
        Self {
            emit,
            done: HashMap::new(),
        }
    }

    /// The name of the value of `expr`. Numbers get the element type of `like`.
    pub(super) fn value(&mut self, expr: &Expr, like: Option<&str>) -> Result<String, DeriveError> {
        let key = Rc::as_ptr(&expr.0);
        if let Some(name) = self.done.get(&key) {
            return Ok(name.clone());
        }
        let name = match &*expr.0 {
            Term::Value(name) => name.clone(),
            Term::Number(number) => self.emit.scalar(*number, like.unwrap_or_default())?,
            Term::Unary(op, x) => {
                let x = self.value(x, None)?;
                self.emit.unary(op, &x)?
            }
            Term::Binary(op, a, b) => {
                let like = a.leaf().or_else(|| b.leaf());
                let (a, b) = (self.value(a, like)?, self.value(b, like)?);
                self.emit.binary(op, &a, &b)?
            }
            Term::Equal(a, b) => {
                let (a, b) = (self.value(a, None)?, self.value(b, None)?);
                self.emit.compare("Equal", &a, &b)?
            }
            Term::Scaled(x, factor) => {
                let x = self.value(x, None)?;
                self.emit.scale(&x, *factor)?
            }
            Term::Step { x, sign, bound } => {
                let x = self.value(x, None)?;
                self.emit.step(&x, *sign, *bound)?
            }
            Term::HardSigmoid { x, alpha, beta } => {
                let x = self.value(x, None)?;
                let ramp = attributes([("alpha", (*alpha).into()), ("beta", (*beta).into())]);
                let output = self.emit.value_type(&x)?;
                self.emit.node("HardSigmoid", &[&x], ramp, output)
            }
            Term::Cast(x, element) => {
                let x = self.value(x, None)?;
                self.emit.cast(&x, *element)?
            }
            Term::Reduced(op, x, axes) => {
                let x = self.value(x, None)?;
                self.emit.reduce(op, &x, axes)?
            }
        };
        self.done.insert(key, name.clone());
        Ok(name)
    }
}

impl From<&Expr> for Expr {
    fn from(expr: &Expr) -> Self {
        expr.clone()
    }
}

impl From<f32> for Expr {
    fn from(number: f32) -> Self {
        Self::of(Term::Number(number))
    }
}

macro_rules! operators {
    ($($operator:ident, $method:ident, $op:literal;)*) => {
        $(
            operators!(@pair $operator, $method, $op, Expr, Expr);
            operators!(@pair $operator, $method, $op, Expr, &Expr);
            operators!(@pair $operator, $method, $op, &Expr, Expr);
            operators!(@pair $operator, $method, $op, &Expr, &Expr);
            operators!(@pair $operator, $method, $op, f32, Expr);
            operators!(@pair $operator, $method, $op, f32, &Expr);
        )*
    };
    (@pair $operator:ident, $method:ident, $op:literal, $left:ty, $right:ty) => {
        impl $operator<$right> for $left {
            type Output = Expr;

            fn $method(self, other: $right) -> Expr {
                Expr::from(self).binary($op, other)
            }
        }
    };
}
operators! {
    Add, add, "Add";
    Sub, sub, "Sub";
    Mul, mul, "Mul";
    Div, div, "Div";
}

macro_rules! with_number {
    ($($left:ty),*) => {
        $(
            impl Mul<f32> for $left {
                type Output = Expr;

                fn mul(self, factor: f32) -> Expr {
                    Expr::of(Term::Scaled(self.into(), factor))
                }
            }

            impl Add<f32> for $left {
                type Output = Expr;

                fn add(self, number: f32) -> Expr {
                    Expr::from(self).binary("Add", number)
                }
            }

            impl Neg for $left {
                type Output = Expr;

                fn neg(self) -> Expr {
                    Expr::from(self).unary("Neg")
                }
            }
        )*
    };
}
with_number!(Expr, &Expr);
