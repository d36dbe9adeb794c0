//! Constant tensors: made from and turned into numbers. A scalar has the empty shape.

use bytes::Bytes;
use half::{bf16, f16};

use super::graph::{Dim, Element, Literal, ValueType};

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::Uint8 | Element::Int8 | Element::Bool => 1,
            Element::Uint16 | Element::Int16 | Element::Float16 | Element::Bfloat16 => 2,
            Element::Float | Element::Int32 | Element::Uint32 => 4,
            Element::Int64 | Element::Double | Element::Uint64 => 8,
        }
    }

    /// Whether it is a float of any width.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Element::Float | Element::Float16 | Element::Double | Element::Bfloat16
        )
    }

    /// The element type that ONNX numbers `code`; none for strings, complex numbers and the
    /// sub-byte types.
    pub fn from_code(code: i32) -> Option<Self> {
        use Element::*;
        [
            Float, Uint8, Int8, Uint16, Int16, Int32, Int64, Bool, Float16, Double, Uint32, Uint64,
            Bfloat16,
        ]
        .into_iter()
        .find(|element| *element as i32 == code)
    }
}

/// Numbers that stand in memory as their little-endian bytes.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Literal {
    /// `values` are row-major and as many as `shape` asks for.
    pub fn from_f32s(shape: &[usize], values: &[f32]) -> Self {
        Self::from_numbers(Element::Float, shape, bytes_of(values, f32::to_le_bytes))
    }

    /// As [`Self::from_f32s`], without copying: for large weights.
    pub fn from_f32_vec(shape: &[usize], mut values: Vec<f32>) -> Self {
        values
            .iter_mut()
            .for_each(|value| *value = f32::from_bits(value.to_bits().to_le()));
        Self {
            element: Element::Float,
            shape: shape.to_vec(),
            bytes: Bytes::from_owner(Floats(values)),
        }
    }

    /// The same numbers, at an address that float32 may have: copied where they lie in a file at
    /// any other.
    pub fn aligned(self) -> Self {
        if self.element != Element::Float || self.bytes.as_ptr().cast::<f32>().is_aligned() {
            return self;
        }
        Self::from_f32_vec(&self.shape, self.decode(f32::from_le_bytes))
    }

    /// A copy of the same numbers that shares no mapped file, at an address that they may have.
    pub fn detached(&self) -> Self {
        match self.element {
            Element::Float => Self::from_f32_vec(&self.shape, self.decode(f32::from_le_bytes)),
            _ => Self {
                bytes: Bytes::copy_from_slice(&self.bytes),
                ..self.clone()
            },
        }
    }

    /// `values` are row-major and as many as `shape` asks for.
    pub fn from_i64s(shape: &[usize], values: &[i64]) -> Self {
        Self::from_numbers(Element::Int64, shape, bytes_of(values, i64::to_le_bytes))
    }

    /// `values` are row-major and as many as `shape` asks for.
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Self {
        Self::from_numbers(
            Element::Bool,
            shape,
            values.iter().map(|&v| u8::from(v)).collect(),
        )
    }

    /// A single float, without axes.
    pub fn scalar_f32(value: f32) -> Self {
        Self::from_f32s(&[], &[value])
    }

    /// A single integer, without axes.
    pub fn scalar_i64(value: i64) -> Self {
        Self::from_i64s(&[], &[value])
    }

    /// A vector of int64, as shapes, axes and pads are given.
    pub fn vector_i64(values: &[i64]) -> Self {
        Self::from_i64s(&[values.len()], values)
    }

    /// `values` converted to `element`: floats are rounded to nearest, integers truncate towards
    /// zero and saturate.
    pub fn from_f64s(element: Element, shape: &[usize], values: &[f64]) -> Self {
        let mut bytes = Vec::with_capacity(values.len() * element.size());
        for &v in values {
            match element {
                Element::Float => bytes.extend((v as f32).to_le_bytes()),
                Element::Double => bytes.extend(v.to_le_bytes()),
                Element::Float16 => bytes.extend(f16::from_f64(v).to_le_bytes()),
                Element::Bfloat16 => bytes.extend(bf16::from_f64(v).to_le_bytes()),
                Element::Bool => bytes.push(u8::from(v != 0.0)),
                Element::Uint8 => bytes.push(v as u8),
                Element::Int8 => bytes.extend((v as i8).to_le_bytes()),
                Element::Uint16 => bytes.extend((v as u16).to_le_bytes()),
                Element::Int16 => bytes.extend((v as i16).to_le_bytes()),
                Element::Uint32 => bytes.extend((v as u32).to_le_bytes()),
                Element::Int32 => bytes.extend((v as i32).to_le_bytes()),
                Element::Uint64 => bytes.extend((v as u64).to_le_bytes()),
                Element::Int64 => bytes.extend((v as i64).to_le_bytes()),
            }
        }
        Self::from_numbers(element, shape, bytes)
    }

    fn from_numbers(element: Element, shape: &[usize], bytes: Vec<u8>) -> Self {
        debug_assert_eq!(
            bytes.len(),
            shape.iter().product::<usize>() * element.size()
        );
        Self {
            element,
            shape: shape.to_vec(),
            bytes: Bytes::from(bytes),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its element type and shape.
    pub fn value_type(&self) -> ValueType {
        ValueType {
            element: self.element,
            shape: self.shape.iter().map(|&d| Dim::Known(d)).collect(),
        }
    }

    /// The values of a float tensor of any width; none for integers and bools.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        match self.element {
            Element::Float => Some(self.decode(f32::from_le_bytes)),
            Element::Float16 => Some(self.decode(|b| f16::from_le_bytes(b).to_f32())),
            Element::Bfloat16 => Some(self.decode(|b| bf16::from_le_bytes(b).to_f32())),
            Element::Double => Some(self.decode(|b| f64::from_le_bytes(b) as f32)),
            _ => None,
        }
    }

    /// The values of an integer or bool tensor; none for floats. Values of uint64 beyond int64
    /// wrap.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        match self.element {
            Element::Int64 => Some(self.decode(i64::from_le_bytes)),
            Element::Int32 => Some(self.decode(|b| i32::from_le_bytes(b).into())),
            Element::Int16 => Some(self.decode(|b| i16::from_le_bytes(b).into())),
            Element::Int8 => Some(self.decode(|b| i8::from_le_bytes(b).into())),
            Element::Uint64 => Some(self.decode(|b| u64::from_le_bytes(b) as i64)),
            Element::Uint32 => Some(self.decode(|b| u32::from_le_bytes(b).into())),
            Element::Uint16 => Some(self.decode(|b| u16::from_le_bytes(b).into())),
            Element::Uint8 => Some(self.decode(|b: [u8; 1]| b[0].into())),
            Element::Bool => Some(self.decode(|b: [u8; 1]| i64::from(b[0] != 0))),
            _ => None,
        }
    }

    /// The values as f64; integers beyond 2^53 are rounded.
    pub fn to_f64s(&self) -> Vec<f64> {
        match self.element {
            Element::Double => self.decode(f64::from_le_bytes),
            Element::Float => self.decode(|b| f32::from_le_bytes(b).into()),
            Element::Float16 => self.decode(|b| f16::from_le_bytes(b).to_f64()),
            Element::Bfloat16 => self.decode(|b| bf16::from_le_bytes(b).to_f64()),
            Element::Uint64 => self.decode(|b| u64::from_le_bytes(b) as f64),
            _ => self
                .to_i64s()
                .unwrap_or_default()
                .into_iter()
                .map(|v| v as f64)
                .collect(),
        }
    }

    /// The one value of a float tensor with one element.
    pub fn as_f32(&self) -> Option<f32> {
        self.to_f32s().filter(|v| v.len() == 1).map(|v| v[0])
    }

    /// The one value of an integer or bool tensor with one element.
    pub fn as_i64(&self) -> Option<i64> {
        self.to_i64s().filter(|v| v.len() == 1).map(|v| v[0])
    }

    fn decode<const N: usize, T>(&self, from: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (values, _) = self.bytes.as_chunks::<N>();
        values.iter().map(|&b| from(b)).collect()
    }
}

/// Whole elements are collected, for flattening one iterator per element is many times slower.
fn bytes_of<const N: usize, T: Copy>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values
        .iter()
        .map(|&value| to_bytes(value))
        .collect::<Vec<_>>()
        .into_flattened()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_numbers_are_copied_and_aligned_ones_stay() {
        let whole = Bytes::from_owner(Floats(vec![0.0; 4]));
        let at = |start: usize| Literal {
            element: Element::Float,
            shape: vec![2],
            bytes: whole.slice(start..start + 8),
        };
        assert_eq!(at(4).aligned().bytes.as_ptr(), at(4).bytes.as_ptr());
        let copied = at(1).aligned();
        assert!(copied.bytes.as_ptr().cast::<f32>().is_aligned());
        assert_eq!(copied, at(1));
    }

    #[test]
    fn detached_numbers_are_the_same_elsewhere_and_floats_are_aligned() {
        let whole = Bytes::from_owner(Floats(vec![0.5; 4]));
        for (element, start) in [
            (Element::Float, 4),
            (Element::Float, 1),
            (Element::Uint8, 1),
        ] {
            let shape = vec![8 / element.size()];
            let literal = Literal {
                element,
                shape,
                bytes: whole.slice(start..start + 8),
            };
            let copied = literal.detached();
            assert_eq!(copied, literal);
            assert_ne!(copied.bytes.as_ptr(), literal.bytes.as_ptr());
            assert!(element != Element::Float || copied.bytes.as_ptr().cast::<f32>().is_aligned());
        }
    }

    #[test]
    fn numbers_come_back_from_every_element_type() {
        let codes = [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16];
        for element in codes.map(|code| Element::from_code(code).unwrap()) {
            let literal = Literal::from_f64s(element, &[3], &[0.0, 1.0, 64.0]);
            assert_eq!(literal.to_f64s(), [0.0, 1.0, 64.0], "{element}");
            assert_eq!(literal.to_f32s().is_some(), element.is_float());
            assert_eq!(literal.to_i64s().is_none(), element.is_float());
        }
        assert_eq!(
            Literal::from_bools(&[2], &[true, false]).to_i64s().unwrap(),
            [1, 0]
        );
        assert!(Element::from_code(8).is_none());
    }
}
