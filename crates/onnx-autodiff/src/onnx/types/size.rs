//! A size as a product of a number and symbols (`2*batch`), which is enough for reshapes of a
//! symbolic batch.

use crate::onnx::graph::{Dim, Literal};
use crate::onnx::limits::LONGEST_SHAPE;

/// Symbols of one size, powers counted.
const MOST_SYMBOLS: usize = 16;

/// `factor` times the symbols. Negative only in values, such as the -1 of Reshape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    factor: i64,
    /// Sorted; a symbol occurs as often as its power.
    symbols: Vec<String>,
}

impl Size {
    /// A number.
    pub fn known(factor: i64) -> Self {
        Self {
            factor,
            symbols: vec![],
        }
    }

    /// The number, unless symbols are left.
    pub fn as_known(&self) -> Option<i64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// The product; none where it is too large.
    pub fn times(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Self::known(0));
        }
        if self.symbols.len() + other.symbols.len() > MOST_SYMBOLS {
            return None;
        }
        let mut symbols = [self.symbols.as_slice(), &other.symbols].concat();
        symbols.sort();
        Some(Self { factor, symbols })
    }

    /// The sum, of multiples of the same symbols.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_add(other.factor)?;
        match factor {
            _ if self.symbols != other.symbols => None,
            0 => Some(Self::known(0)),
            factor => Some(Self {
                factor,
                symbols: self.symbols.clone(),
            }),
        }
    }

    /// The quotient, if it is exact.
    pub fn over(&self, other: &Self) -> Option<Self> {
        if self.factor.checked_rem(other.factor)? != 0 {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            symbols.remove(symbols.iter().position(|s| s == symbol)?);
        }
        Some(Self {
            factor: self.factor / other.factor,
            symbols,
        })
    }

    /// The size as a dimension; none when it is negative.
    pub fn to_dim(&self) -> Option<Dim> {
        if self.symbols.is_empty() {
            return usize::try_from(self.factor).ok().map(Dim::Known);
        }
        let names = self.symbols.join("*");
        match self.factor {
            1 => Some(Dim::Symbol(names)),
            factor => (factor > 0).then(|| Dim::Symbol(format!("{factor}*{names}"))),
        }
    }
}

impl From<&Dim> for Size {
    fn from(dim: &Dim) -> Self {
        match dim {
            Dim::Known(size) => Self::known(i64::try_from(*size).unwrap_or(i64::MAX)),
            Dim::Symbol(text) => {
                let (numbers, mut symbols): (Vec<&str>, Vec<&str>) = text
                    .split('*')
                    .partition(|part| part.parse::<i64>().is_ok());
                symbols.sort_unstable();
                let factor = numbers
                    .iter()
                    .filter_map(|n| n.parse::<i64>().ok())
                    .fold(1i64, i64::saturating_mul);
                Self {
                    factor,
                    symbols: symbols.into_iter().map(String::from).collect(),
                }
            }
        }
    }
}

/// Product of the sizes of `dims`; none when it overflows.
pub fn product(dims: &[Dim]) -> Option<Size> {
    dims.iter()
        .try_fold(Size::known(1), |all, dim| all.times(&Size::from(dim)))
}

/// A scalar or vector of integers, some of them known: a shape computed by Gather, Concat and other
/// ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Whether it has no axis.
    pub scalar: bool,
    /// In order; none where it is not known.
    pub items: Vec<Option<Size>>,
}

impl Sizes {
    /// Of one axis.
    pub fn vector(items: Vec<Option<Size>>) -> Self {
        Self {
            scalar: false,
            items,
        }
    }

    /// Without axis.
    pub fn scalar(item: Option<Size>) -> Self {
        Self {
            scalar: true,
            items: vec![item],
        }
    }

    /// The values of a short integer constant.
    pub fn of_literal(literal: &Literal) -> Option<Self> {
        if literal.shape.len() > 1 || literal.len() > LONGEST_SHAPE {
            return None;
        }
        let items = literal
            .to_i64s()?
            .into_iter()
            .map(|v| Some(Size::known(v)))
            .collect();
        Some(Self {
            scalar: literal.shape.is_empty(),
            items,
        })
    }

    /// The numbers, when all are known.
    pub fn as_known(&self) -> Option<Vec<i64>> {
        self.items
            .iter()
            .map(|item| item.as_ref().and_then(Size::as_known))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_multiply_and_divide_as_monomials() {
        let batch = Size::from(&Dim::from("N"));
        let six = batch.times(&Size::known(6)).unwrap();
        assert_eq!(six.to_dim(), Some(Dim::from("6*N")));
        assert_eq!(Size::from(&Dim::from("6*N")), six);
        assert_eq!(
            six.over(&Size::known(6)).unwrap().to_dim(),
            Some(Dim::from("N"))
        );
        assert_eq!(six.over(&batch).unwrap().to_dim(), Some(Dim::Known(6)));
        assert_eq!(six.over(&Size::known(4)), None);
        assert_eq!(Size::known(6).over(&batch), None);
        assert_eq!(
            product(&[Dim::from("N"), Dim::Known(2), Dim::Known(3)]),
            Some(six)
        );
    }
}
