//! f32 data with a shape, row-major: the type of images, model inputs and attributions; and its npy
//! and JSON forms. A header or a shape is trusted only when the data really has that many elements,
//! so a false claim costs no memory.

use ndarray::{ArrayD, ShapeBuilder};
use ndarray_npy::{WriteNpyExt, npy::header::Header};
use serde::{Deserialize, Serialize};

use crate::text::{LINE_BREAKS_STRIPPED, excerpt};

/// A dense float tensor. One sample has no batch axis (`[3, 224, 224]`); a batch has it first.
pub type Tensor = ArrayD<f32>;

/// The limit of numpy before 2.0; more axes than any classifier has.
pub const MAX_AXES: usize = 32;
/// The magic bytes of an npy file.
pub const NPY_MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is parsed: NumPy writes 118 bytes for a usual array, and the parser
/// takes many times the header's size in memory.
const MAX_HEADER_BYTES: usize = 1024;
/// Brackets in the header of a plain array: one dict, one shape. The parser recurses into deeper
/// nesting.
const MAX_HEADER_BRACKETS: usize = 4;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TensorError {
    #[error("this is no npy file: {reason}")]
    Npy { reason: String },
    #[error("the npy file holds {found}; expected {expected}")]
    ElementType {
        found: String,
        expected: &'static str,
    },
    #[error(
        "the npy header gives shape {shape:?}, which takes {expected_bytes} bytes; {found_bytes} bytes follow"
    )]
    NpyLength {
        shape: Vec<usize>,
        expected_bytes: u128,
        found_bytes: usize,
    },
    #[error("the tensor cannot be written as npy: {reason}")]
    Write { reason: String },
    #[error("shape {shape:?} takes {expected} numbers; data has {found}")]
    Count {
        shape: Vec<usize>,
        expected: u128,
        found: usize,
    },
    #[error("the tensor has {axes} axes; at most {MAX_AXES} are allowed")]
    Axes { axes: usize },
    #[error("the tensor is empty: shape {shape:?}")]
    Empty { shape: Vec<usize> },
    #[error("{count} of {total} elements are NaN or infinite, the first at {first:?}")]
    NotFinite {
        count: usize,
        total: usize,
        first: Vec<usize>,
    },
}

/// float32 values in row-major order: the JSON form, `{"shape": [2, 2], "data": [1, 2, 3, 4]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShapedData {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl TryFrom<ShapedData> for Tensor {
    type Error = TensorError;

    fn try_from(ShapedData { shape, data }: ShapedData) -> Result<Self, TensorError> {
        let expected = element_count(&shape)?;
        let found = data.len();
        if expected != found as u128 {
            return Err(TensorError::Count {
                shape,
                expected,
                found,
            });
        }
        Tensor::from_shape_vec(shape.clone(), data).map_err(|_| TensorError::Count {
            shape,
            expected,
            found,
        })
    }
}

impl From<&Tensor> for ShapedData {
    fn from(tensor: &Tensor) -> Self {
        ShapedData {
            shape: tensor.shape().to_vec(),
            data: tensor.iter().copied().collect(),
        }
    }
}

/// What [`read_npy`] accepts, for error messages.
const FLOATS: &str = "float32 or float64 (numpy: x.astype('float32'))";

/// Reads an npy file of floats (float16 and float64 are converted to float32) in any byte order, C
/// or Fortran order; the result is row-major.
pub fn read_npy(bytes: &[u8]) -> Result<Tensor, TensorError> {
    Npy::read(bytes, FLOATS)?.tensor()
}

/// The element types of npy files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Floats,
    /// uint8.
    Bytes,
    /// An integer of any other width and sign.
    Integers,
    Bools,
}

/// The values of an array, row-major; integers are not rounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    Floats(Vec<f64>),
    Integers(Vec<i64>),
}

impl Numbers {
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Copy)]
enum ReadElement {
    Float(fn(&[u8]) -> f64),
    Integer(fn(&[u8]) -> i64),
}

struct ElementType {
    /// The type as the header spells it.
    descr: &'static str,
    name: &'static str,
    holds: Holds,
    bytes: usize,
    read: ReadElement,
}

/// A row for each type: `(name, holds, type, one conversion for both byte orders)`.
macro_rules! element_types {
    ($(($little:literal, $big:literal, $name:literal, $holds:ident, $type:ty, $read:ident, $convert:expr)),* $(,)?) => {
        &[$(
            ElementType {
                descr: $little, name: $name, holds: Holds::$holds, bytes: size_of::<$type>(),
                read: ReadElement::$read(|bytes| $convert(<$type>::from_le_bytes(bytes.try_into().unwrap_or_default()))),
            },
            ElementType {
                descr: $big, name: $name, holds: Holds::$holds, bytes: size_of::<$type>(),
                read: ReadElement::$read(|bytes| $convert(<$type>::from_be_bytes(bytes.try_into().unwrap_or_default()))),
            },
        )*]
    };
}

static ELEMENT_TYPES: &[ElementType] = element_types![
    ("<f2", ">f2", "float16", Floats, half::f16, Float, f64::from),
    ("<f4", ">f4", "float32", Floats, f32, Float, f64::from),
    ("<f8", ">f8", "float64", Floats, f64, Float, f64::from),
    ("|b1", "?", "bool", Bools, u8, Integer, i64::from),
    ("|u1", "u1", "uint8", Bytes, u8, Integer, i64::from),
    ("|i1", "i1", "int8", Integers, i8, Integer, i64::from),
    ("<u2", ">u2", "uint16", Integers, u16, Integer, i64::from),
    ("<i2", ">i2", "int16", Integers, i16, Integer, i64::from),
    ("<u4", ">u4", "uint32", Integers, u32, Integer, i64::from),
    ("<i4", ">i4", "int32", Integers, i32, Integer, i64::from),
    (
        "<u8",
        ">u8",
        "uint64",
        Integers,
        u64,
        Integer,
        |label: u64| i64::try_from(label).unwrap_or(i64::MAX)
    ),
    ("<i8", ">i8", "int64", Integers, i64, Integer, i64::from),
];

/// An npy file whose header has been parsed and whose data has the length that the header gives.
/// Elements are converted as they are read.
pub struct Npy<'a> {
    shape: Vec<usize>,
    element: &'static ElementType,
    fortran_order: bool,
    data: &'a [u8],
    expected: &'static str,
}

impl<'a> Npy<'a> {
    /// `expected` names the accepted element types, for the error message.
    pub fn read(bytes: &'a [u8], expected: &'static str) -> Result<Self, TensorError> {
        let mut data = bytes;
        let Header {
            type_descriptor,
            layout,
            shape,
            ..
        } = header(&mut data)?;
        let descr = type_descriptor.to_string();
        let descr = descr.trim_matches(['\'', '"']);
        let Some(element) = ELEMENT_TYPES.iter().find(|known| known.descr == descr) else {
            return Err(TensorError::ElementType {
                found: excerpt(descr).into_owned(),
                expected,
            });
        };
        let expected_bytes = element_count(&shape)?.saturating_mul(element.bytes as u128);
        if expected_bytes != data.len() as u128 {
            return Err(TensorError::NpyLength {
                shape,
                expected_bytes,
                found_bytes: data.len(),
            });
        }
        Ok(Npy {
            shape,
            element,
            fortran_order: layout.is_fortran(),
            data,
            expected,
        })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn holds(&self) -> Holds {
        self.element.holds
    }

    /// All elements, row-major. Fails unless the file holds floats.
    pub fn tensor(&self) -> Result<Tensor, TensorError> {
        let ReadElement::Float(read) = self.element.read else {
            return Err(self.wrong_element());
        };
        self.in_rows(|bytes| read(bytes) as f32)
    }

    /// All elements, row-major, of any type.
    pub fn numbers(&self) -> Result<Numbers, TensorError> {
        match self.element.read {
            ReadElement::Float(read) => {
                let values = self.in_rows(read)?;
                Ok(Numbers::Floats(values.into_raw_vec_and_offset().0))
            }
            ReadElement::Integer(read) => {
                let values = self.in_rows(read)?.into_raw_vec_and_offset().0;
                match self.element.name == "uint64" && values.contains(&i64::MAX) {
                    true => Err(unreadable(&"it holds integers beyond int64")),
                    false => Ok(Numbers::Integers(values)),
                }
            }
        }
    }

    fn in_rows<T: Clone>(&self, read: impl Fn(&[u8]) -> T) -> Result<ArrayD<T>, TensorError> {
        let elements = self.data.chunks_exact(self.element.bytes);
        let values = elements.map(read).collect();
        let shape = self.shape.clone().set_f(self.fortran_order);
        let array = ArrayD::from_shape_vec(shape, values).map_err(|fault| unreadable(&fault))?;
        Ok(if array.is_standard_layout() {
            array
        } else {
            array.as_standard_layout().into_owned()
        })
    }

    /// The integer (of a bool: 0 or 1) at an index per axis; `None` out of range, and for floats.
    pub fn integer(&self, index: &[usize]) -> Option<i64> {
        let ReadElement::Integer(read) = self.element.read else {
            return None;
        };
        let step =
            |place: usize, (at, side): (&usize, &usize)| (at < side).then(|| place * side + at);
        let place = match self.fortran_order {
            false => index.iter().zip(&self.shape).try_fold(0, step)?,
            true => index.iter().zip(&self.shape).rev().try_fold(0, step)?,
        };
        let from = place * self.element.bytes;
        self.data.get(from..from + self.element.bytes).map(read)
    }

    pub fn wrong_element(&self) -> TensorError {
        TensorError::ElementType {
            found: self.element.name.to_owned(),
            expected: self.expected,
        }
    }
}

fn unreadable(fault: &dyn std::fmt::Display) -> TensorError {
    TensorError::Npy {
        reason: excerpt(&fault.to_string()).into_owned(),
    }
}

fn header(bytes: &mut &[u8]) -> Result<Header, TensorError> {
    let text = header_text(bytes);
    let brackets = text.iter().filter(|byte| b"([{".contains(byte)).count();
    if text.len() > MAX_HEADER_BYTES || brackets > MAX_HEADER_BRACKETS {
        return Err(unreadable(&"its header is not that of a plain array"));
    }
    // The header ends with a line break.
    let stripped = !bytes.contains(&b'\n');
    Header::from_reader(bytes).map_err(|fault| {
        if stripped {
            unreadable(&LINE_BREAKS_STRIPPED)
        } else {
            unreadable(&fault)
        }
    })
}

/// Writes an npy file of version 1: float32, little-endian, C order.
pub fn write_npy(tensor: &Tensor) -> Result<Vec<u8>, TensorError> {
    let mut bytes = Vec::with_capacity(128 + 4 * tensor.len());
    let rows = tensor.as_standard_layout();
    rows.write_npy(&mut bytes)
        .map_err(|fault| TensorError::Write {
            reason: fault.to_string(),
        })?;
    Ok(bytes)
}

/// An npy file of version 1 of these bytes: elements as `descr` says, in C order.
pub fn npy_of(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
    // Magic, version, length and header end at a multiple of 64, with a line break.
    let length =
        (NPY_MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - NPY_MAGIC.len() - 4;
    let mut file = Vec::with_capacity(NPY_MAGIC.len() + 4 + length + data.len());
    file.extend(NPY_MAGIC);
    file.extend([1, 0]);
    file.extend((length as u16).to_le_bytes());
    file.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    file.extend(data);
    file
}

/// Refuses NaN and infinities; the error names the first and how many there are.
pub fn check_finite(tensor: &Tensor) -> Result<(), TensorError> {
    let mut faulty = tensor
        .indexed_iter()
        .filter(|(_, value)| !value.is_finite());
    match faulty.next() {
        None => Ok(()),
        Some((first, _)) => Err(TensorError::NotFinite {
            first: ndarray::Dimension::slice(&first).to_vec(),
            count: 1 + faulty.count(),
            total: tensor.len(),
        }),
    }
}

/// The header text by the npy format; fewer bytes when the file ends before.
fn header_text(bytes: &[u8]) -> &[u8] {
    let (start, length): (usize, usize) = match bytes {
        [_, _, _, _, _, _, 1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => {
            (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize)
        }
        _ => (0, 0),
    };
    &bytes[start..bytes.len().min(start.saturating_add(length))]
}

/// The number of elements of a shape: at least one, with at most the allowed number of axes.
fn element_count(shape: &[usize]) -> Result<u128, TensorError> {
    if shape.len() > MAX_AXES {
        return Err(TensorError::Axes { axes: shape.len() });
    }
    if shape.contains(&0) {
        return Err(TensorError::Empty {
            shape: shape.to_vec(),
        });
    }
    Ok(shape
        .iter()
        .fold(1u128, |product, side| product.saturating_mul(*side as u128)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let text =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn written_npy_reads_back_bit_for_bit() {
        let tensor = Tensor::from_shape_fn(vec![2, 3, 4], |at| {
            at[0] as f32 - 0.1 * at[1] as f32 + 1e-30 * at[2] as f32
        });
        assert_eq!(read_npy(&write_npy(&tensor).unwrap()).unwrap(), tensor);
    }

    #[test]
    fn a_file_of_bytes_is_read_again() {
        for shape in [vec![2, 3], vec![6], vec![1; MAX_AXES - 1], vec![]] {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| i as f32 - 0.5).collect();
            let read = read_npy(&npy_of("<f4", &shape, &floats(&values))).unwrap();
            assert_eq!(
                (read.shape(), read.as_slice().unwrap()),
                (&shape[..], &values[..])
            );
        }
    }

    #[test]
    fn fortran_order_becomes_row_major() {
        let read = read_npy(&npy(
            "<f4",
            "True",
            "(2, 3)",
            &floats(&[1., 4., 2., 5., 3., 6.]),
        ))
        .unwrap();
        assert_eq!(read.as_slice().unwrap(), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(read.shape(), [2, 3]);
    }

    #[test]
    fn a_tensor_in_fortran_order_is_written_row_major() {
        let tensor = Tensor::from_shape_vec(vec![2, 3].f(), vec![1., 4., 2., 5., 3., 6.]).unwrap();
        let bytes = write_npy(&tensor).unwrap();
        assert!(bytes.ends_with(&floats(&[1., 2., 3., 4., 5., 6.])));
    }

    #[test]
    fn float64_is_rounded_to_float32() {
        let data: Vec<u8> = [0.1f64, -2.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(
            read_npy(&npy("<f8", "False", "(2,)", &data))
                .unwrap()
                .as_slice()
                .unwrap(),
            [0.1f32, -2.0]
        );
    }

    #[test]
    fn integers_are_read_whole_and_floats_in_their_own_precision() {
        let large = (1_i64 << 53) + 1;
        let data: Vec<u8> = [large, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let read = |descr, fortran, shape, data: &[u8]| {
            let file = npy(descr, fortran, shape, data);
            Npy::read(&file, "").unwrap().numbers()
        };
        let numbers = read("<i8", "False", "(2,)", &data).unwrap();
        assert_eq!(numbers, Numbers::Integers(vec![large, -1]));
        let data: Vec<u8> = [0.1_f64, 0.2]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let numbers = read("<f8", "False", "(1, 2)", &data).unwrap();
        assert_eq!(numbers, Numbers::Floats(vec![0.1, 0.2]));
        let columns = read("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6]).unwrap();
        assert_eq!(columns, Numbers::Integers(vec![1, 2, 3, 4, 5, 6]));
        let flags = read("|b1", "False", "(2,)", &[1, 0]).unwrap();
        assert_eq!(flags, Numbers::Integers(vec![1, 0]));
        let beyond = read("<u8", "False", "(1,)", &u64::MAX.to_le_bytes());
        assert!(matches!(beyond, Err(TensorError::Npy { .. })));
    }

    #[test]
    fn big_endian_is_read() {
        let data: Vec<u8> = [0.1f32, -2.0]
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect();
        assert_eq!(
            read_npy(&npy(">f4", "False", "(2,)", &data))
                .unwrap()
                .as_slice()
                .unwrap(),
            [0.1f32, -2.0]
        );
    }

    #[test]
    fn an_array_that_curl_stripped_of_line_breaks_is_told_so() {
        let bytes = npy("<f4", "False", "(2,)", &[9; 8]);
        let stripped: Vec<u8> = bytes
            .into_iter()
            .filter(|byte| !b"\r\n\0".contains(byte))
            .collect();
        assert!(
            read_npy(&stripped)
                .unwrap_err()
                .to_string()
                .contains("--data-binary")
        );
    }

    #[test]
    fn float16_is_read() {
        let data: Vec<u8> = [0.5f32, -2.0]
            .iter()
            .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
            .collect();
        assert_eq!(
            read_npy(&npy("<f2", "False", "(2,)", &data))
                .unwrap()
                .as_slice()
                .unwrap(),
            [0.5f32, -2.0]
        );
    }

    #[test]
    fn other_element_types_are_refused_by_name() {
        for (descr, bytes, name) in [
            ("|u1", 1, "uint8"),
            ("<i8", 8, "int64"),
            ("|b1", 1, "bool"),
            ("<c8", 8, "<c8"),
        ] {
            let error = read_npy(&npy(descr, "False", "(1,)", &vec![0; bytes])).unwrap_err();
            assert!(
                matches!(error, TensorError::ElementType { found, .. } if found == name),
                "{descr}"
            );
        }
    }

    #[test]
    fn integers_of_every_width_and_bools_are_read_where_they_lie() {
        for (descr, bytes) in [
            ("|u1", vec![0u8, 255]),
            ("<u2", vec![0, 0, 255, 0]),
            (">i2", vec![0, 0, 0, 255]),
            ("<u4", vec![0, 0, 0, 0, 255, 0, 0, 0]),
            (">u8", [vec![0; 15], vec![255]].concat()),
        ] {
            let bytes = npy(descr, "False", "(2,)", &bytes);
            let labels = Npy::read(&bytes, "labels").unwrap();
            assert_eq!(
                [0, 1, 2].map(|at| labels.integer(&[at])),
                [Some(0), Some(255), None],
                "{descr}"
            );
        }
        let negative = npy("|i1", "False", "(1,)", &[254]);
        assert_eq!(
            Npy::read(&negative, "labels").unwrap().integer(&[0]),
            Some(-2)
        );
        let masks = npy("|b1", "False", "(1, 2)", &[0, 1]);
        let masks = Npy::read(&masks, "masks").unwrap();
        assert_eq!(
            (masks.holds(), masks.integer(&[0, 1])),
            (Holds::Bools, Some(1))
        );
        for order in ["False", "True"] {
            let bytes = npy("|u1", order, "(2, 3)", &[0, 1, 2, 3, 4, 5]);
            let found = Npy::read(&bytes, "labels").unwrap().integer(&[1, 2]);
            assert_eq!(found, Some(5));
            let found = Npy::read(&bytes, "labels").unwrap().integer(&[1, 0]);
            assert_eq!(found, Some(if order == "True" { 1 } else { 3 }));
        }
        assert!(matches!(
            Npy::read(&npy("<i8", "False", "(9999999,)", &[]), "labels"),
            Err(TensorError::NpyLength { .. })
        ));
    }

    #[test]
    fn a_header_that_claims_more_than_the_file_has_costs_no_memory() {
        for shape in [
            "(1000000000000,)",
            "(18446744073709551615, 18446744073709551615)",
            "(5,)",
            "(3,)",
        ] {
            let error = read_npy(&npy("<f4", "False", shape, &floats(&[1.; 4]))).unwrap_err();
            assert!(
                matches!(
                    error,
                    TensorError::NpyLength {
                        found_bytes: 16,
                        ..
                    }
                ),
                "{shape}: {error}"
            );
        }
    }

    #[test]
    fn a_deeply_nested_header_is_refused_before_it_is_parsed() {
        let nested = format!("\n{}1{}", "(".repeat(20_000), ")".repeat(20_000));
        assert!(matches!(
            read_npy(&npy("<f4", "False", &nested, &[])),
            Err(TensorError::Npy { .. })
        ));
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed() {
        let long = format!("(4,{})", " ".repeat(MAX_HEADER_BYTES));
        assert!(matches!(
            read_npy(&npy("<f4", "False", &long, &floats(&[1.; 4]))),
            Err(TensorError::Npy { .. })
        ));
    }

    #[test]
    fn empty_shapes_and_too_many_axes_are_refused() {
        let shaped =
            |shape: Vec<usize>, data: Vec<f32>| Tensor::try_from(ShapedData { shape, data });
        assert_eq!(
            shaped(vec![0, 3], vec![]),
            Err(TensorError::Empty { shape: vec![0, 3] })
        );
        assert_eq!(
            shaped(vec![1; 33], vec![1.]),
            Err(TensorError::Axes { axes: 33 })
        );
        assert!(matches!(
            read_npy(&npy("<f4", "False", "(0,)", &[])),
            Err(TensorError::Empty { .. })
        ));
    }

    #[test]
    fn json_counts_must_agree_with_the_shape() {
        let shaped = ShapedData {
            shape: vec![2, 3],
            data: vec![0.; 5],
        };
        let error = Tensor::try_from(shaped).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape [2, 3] takes 6 numbers; data has 5"
        );
        let huge = ShapedData {
            shape: vec![usize::MAX; 3],
            data: vec![],
        };
        assert!(matches!(
            Tensor::try_from(huge),
            Err(TensorError::Count {
                expected: u128::MAX,
                ..
            })
        ));
        let scalar: ShapedData = serde_json::from_str(r#"{"shape": [], "data": [7]}"#).unwrap();
        assert_eq!(Tensor::try_from(scalar).unwrap().ndim(), 0);
    }

    #[test]
    fn json_form_lists_any_memory_order_row_major() {
        let tensor = Tensor::from_shape_vec(vec![2, 2].f(), vec![1., 3., 2., 4.]).unwrap();
        assert_eq!(
            ShapedData::from(&tensor),
            ShapedData {
                shape: vec![2, 2],
                data: vec![1., 2., 3., 4.]
            }
        );
    }

    #[test]
    fn nan_and_infinity_are_counted_and_the_first_is_named() {
        let mut tensor = Tensor::zeros(vec![2, 3]);
        assert_eq!(check_finite(&tensor), Ok(()));
        tensor[[0, 2]] = f32::NAN;
        tensor[[1, 1]] = f32::NEG_INFINITY;
        assert_eq!(
            check_finite(&tensor),
            Err(TensorError::NotFinite {
                count: 2,
                total: 6,
                first: vec![0, 2]
            })
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_npy(&bytes);
        }

        #[test]
        fn a_damaged_npy_never_panics(at in 0usize..140, byte: u8, length in 0usize..200) {
            let mut bytes = write_npy(&Tensor::zeros(vec![2, 5])).unwrap();
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(length);
            let _ = read_npy(&bytes);
        }
    }
}
