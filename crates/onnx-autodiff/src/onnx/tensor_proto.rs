//! `TensorProto` <-> `Literal`: raw bytes (shared), typed fields (converted) and external data
//! (mapped).

use bytes::Bytes;

use super::error::TensorFault;
use super::external::ExternalFiles;
use super::graph::{Element, Literal};
use super::limits::{LARGEST_RANK, LARGEST_SIZE};
use super::proto::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};

/// Reads one stored tensor; its byte count is checked against its shape.
pub(super) fn read_tensor(
    tensor: &TensorProto,
    files: &mut ExternalFiles,
) -> Result<Literal, TensorFault> {
    let code = tensor.data_type.unwrap_or_default();
    let element = Element::from_code(code).ok_or(TensorFault::Element(code))?;
    let bad_shape = || TensorFault::Shape(tensor.dims.iter().copied().take(LARGEST_RANK).collect());
    let shape: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<_>>()
        .ok_or_else(bad_shape)?;
    if shape.len() > LARGEST_RANK || shape.iter().any(|&size| size > LARGEST_SIZE) {
        return Err(bad_shape());
    }
    let len = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or_else(bad_shape)?;
    let expected = len.checked_mul(element.size()).ok_or_else(bad_shape)?;
    if tensor.segment.is_some() {
        return Err(TensorFault::Segment);
    }
    let bytes = if tensor.data_location == Some(DataLocation::External as i32) {
        read_external(&tensor.external_data, expected, files)?
    } else if let Some(raw) = &tensor.raw_data {
        raw.clone()
    } else {
        typed_bytes(tensor, element, len)?
    };
    if bytes.len() != expected {
        return Err(TensorFault::Bytes {
            expected,
            found: bytes.len(),
        });
    }
    Ok(Literal {
        element,
        shape,
        bytes,
    })
}

fn read_external(
    fields: &[StringStringEntryProto],
    expected: usize,
    files: &mut ExternalFiles,
) -> Result<Bytes, TensorFault> {
    let field = |key: &str| fields.iter().find(|f| f.key() == key).map(|f| f.value());
    let number = |key: &str, absent: u64| match field(key) {
        None => Ok(absent),
        Some(text) => text.parse().map_err(|_| TensorFault::Field {
            key: key.into(),
            value: text.into(),
        }),
    };
    let (offset, length) = (number("offset", 0)?, number("length", expected as u64)?);
    if length != expected as u64 {
        return Err(TensorFault::Bytes {
            expected,
            found: usize::try_from(length).unwrap_or(usize::MAX),
        });
    }
    files.slice(field("location").unwrap_or_default(), offset, expected)
}

fn typed_bytes(tensor: &TensorProto, element: Element, len: usize) -> Result<Bytes, TensorFault> {
    fn narrow<T: TryFrom<i64>>(
        values: &[i64],
        to: impl Fn(T) -> Vec<u8>,
    ) -> Result<Vec<u8>, TensorFault> {
        let mut bytes = Vec::new();
        for &value in values {
            bytes.extend(to(
                T::try_from(value).map_err(|_| TensorFault::Range(value))?
            ));
        }
        Ok(bytes)
    }
    let (found, ints): (usize, Vec<i64>) = match element {
        Element::Float => (tensor.float_data.len(), vec![]),
        Element::Double => (tensor.double_data.len(), vec![]),
        Element::Int64 => (tensor.int64_data.len(), vec![]),
        Element::Uint64 => (tensor.uint64_data.len(), vec![]),
        Element::Uint32 => (
            tensor.uint64_data.len(),
            tensor.uint64_data.iter().map(|&v| v as i64).collect(),
        ),
        _ => (
            tensor.int32_data.len(),
            tensor.int32_data.iter().map(|&v| v.into()).collect(),
        ),
    };
    if found != len {
        return Err(TensorFault::Count {
            expected: len,
            found,
        });
    }
    let bytes = match element {
        Element::Float => tensor
            .float_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        Element::Double => tensor
            .double_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        Element::Int64 => tensor
            .int64_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        Element::Uint64 => tensor
            .uint64_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        Element::Uint32 => narrow(&ints, |v: u32| v.to_le_bytes().to_vec())?,
        Element::Int32 => narrow(&ints, |v: i32| v.to_le_bytes().to_vec())?,
        Element::Int16 => narrow(&ints, |v: i16| v.to_le_bytes().to_vec())?,
        Element::Int8 => narrow(&ints, |v: i8| v.to_le_bytes().to_vec())?,
        Element::Uint16 | Element::Float16 | Element::Bfloat16 => {
            narrow(&ints, |v: u16| v.to_le_bytes().to_vec())?
        }
        Element::Uint8 | Element::Bool => narrow(&ints, |v: u8| vec![v])?,
    };
    Ok(bytes.into())
}

/// The tensor with its data inside.
pub(super) fn write_tensor(name: &str, literal: &Literal) -> TensorProto {
    TensorProto {
        raw_data: Some(literal.bytes.clone()),
        ..describe_tensor(name, literal)
    }
}

/// The tensor without its data.
pub(super) fn describe_tensor(name: &str, literal: &Literal) -> TensorProto {
    TensorProto {
        dims: literal.shape.iter().map(|&d| d as i64).collect(),
        data_type: Some(literal.element as i32),
        name: (!name.is_empty()).then(|| name.to_string()),
        ..TensorProto::default()
    }
}
