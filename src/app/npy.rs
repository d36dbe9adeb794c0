//! NumPy's .npy, float32 alone: what a request may carry and what an answer may be.
//! The header is bounded before it is parsed, and the data's length before it is stored.

use std::io::Cursor;

use ndarray::{Axis, IxDyn, ShapeBuilder};
use ndarray_npy::{WriteNpyExt, npy::header::Header};

use crate::tensor::Tensor;

/// Content type of the format.
pub const CONTENT_TYPE: &str = "application/x-npy";

/// NumPy writes 118 bytes for any usual array. Longer ones are refused: the header is a nested Python literal.
const MAX_HEADER_BYTES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    #[error("this is no .npy file: {reason}")]
    Header { reason: String },
    #[error("the array has dtype {found}; float32 is wanted (`array.astype(numpy.float32)`)")]
    Dtype { found: String },
    #[error("the array's shape {shape:?} asks for {expected} bytes of data; {found} are there")]
    Length { shape: Vec<usize>, expected: String, found: usize },
    #[error("the array cannot be written: {reason}")]
    Write { reason: String },
}

/// Reads a float32 array of any rank and byte order, in C or Fortran order.
pub fn read(bytes: &[u8]) -> Result<Tensor, NpyError> {
    check_header_length(bytes)?;
    let mut cursor = Cursor::new(bytes);
    let header = Header::from_reader(&mut cursor).map_err(|e| NpyError::Header { reason: e.to_string() })?;
    let dtype = header.type_descriptor.as_string().cloned().unwrap_or_else(|| header.type_descriptor.to_string());
    let read: fn([u8; 4]) -> f32 = match dtype.as_str() {
        "<f4" | "=f4" => f32::from_le_bytes,
        ">f4" => f32::from_be_bytes,
        _ => return Err(NpyError::Dtype { found: dtype }),
    };
    let data = bytes.get(cursor.position() as usize..).unwrap_or_default();
    let expected = header.shape.iter().try_fold(4_usize, |bytes, side| bytes.checked_mul(*side));
    let wrong_length = || NpyError::Length {
        shape: header.shape.clone(),
        expected: expected.map_or_else(|| "too many".to_owned(), |bytes| bytes.to_string()),
        found: data.len(),
    };
    if expected != Some(data.len()) {
        return Err(wrong_length());
    }
    let (quads, _) = data.as_chunks::<4>();
    let values = quads.iter().map(|quad| read(*quad)).collect();
    Tensor::from_shape_vec(IxDyn(&header.shape).set_f(header.layout.is_fortran()), values).map_err(|_| wrong_length())
}

fn check_header_length(bytes: &[u8]) -> Result<(), NpyError> {
    let length = match bytes {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => usize::from(u16::from_le_bytes([*a, *b])),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => return Err(NpyError::Header { reason: "it does not start as one".into() }),
    };
    if length > MAX_HEADER_BYTES {
        let reason = format!("its header has {length} bytes; at most {MAX_HEADER_BYTES} are read");
        return Err(NpyError::Header { reason });
    }
    Ok(())
}

/// Writes float32, little-endian, C order.
pub fn write(tensor: &Tensor) -> Result<Vec<u8>, NpyError> {
    let mut bytes = Vec::with_capacity(128 + 4 * tensor.len());
    let written = match tensor.is_standard_layout() {
        true => tensor.write_npy(&mut bytes),
        false => tensor.as_standard_layout().write_npy(&mut bytes),
    };
    written.map_err(|e| NpyError::Write { reason: e.to_string() })?;
    Ok(bytes)
}

/// Writes tensors of one shape as one array with a leading axis.
pub fn write_stack<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<u8>, NpyError> {
    let views: Vec<_> = tensors.into_iter().map(|tensor| tensor.view()).collect();
    let stacked = ndarray::stack(Axis(0), &views).map_err(|e| NpyError::Write { reason: e.to_string() })?;
    write(&stacked)
}

/// The tensor's values in C order, little-endian.
pub fn little_endian_bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    fn sample() -> Tensor {
        arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]).into_dyn()
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(read(&write(&sample()).unwrap()).unwrap(), sample());
        let transposed = sample().reversed_axes();
        assert_eq!(read(&write(&transposed).unwrap()).unwrap(), transposed);
    }

    #[test]
    fn fortran_order_and_big_endian_are_read() {
        let mut bytes = write(&sample()).unwrap();
        let at = bytes.windows(5).position(|window| window == b"False").unwrap();
        bytes.splice(at..at + 5, *b"True ");
        let at = bytes.windows(3).position(|window| window == b"<f4").unwrap();
        bytes[at] = b'>';
        let data = bytes.len() - 24;
        bytes[data..].chunks_exact_mut(4).for_each(<[u8]>::reverse);
        let read = read(&bytes).unwrap();
        assert_eq!(read, arr2(&[[1.0, 3.0, 5.0], [2.0, 4.0, 6.5]]).into_dyn());
    }

    #[test]
    fn a_stack_has_a_leading_axis() {
        let stack = read(&write_stack([&sample(), &sample()]).unwrap()).unwrap();
        assert_eq!(stack.shape(), [2, 2, 3]);
    }

    #[test]
    fn other_dtypes_are_refused_by_name() {
        let mut bytes = write(&sample()).unwrap();
        let at = bytes.windows(3).position(|window| window == b"<f4").unwrap();
        bytes[at + 2] = b'8';
        assert_eq!(read(&bytes), Err(NpyError::Dtype { found: "<f8".into() }));
    }

    #[test]
    fn a_shape_beyond_the_data_is_refused_before_anything_is_stored() {
        let mut bytes = write(&sample()).unwrap();
        let at = bytes.windows(6).position(|window| window == b"(2, 3)").unwrap();
        bytes.splice(at..at + 6, *b"(9, 9)");
        assert!(matches!(read(&bytes), Err(NpyError::Length { found: 24, .. })));
        let header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,)}\n";
        let mut huge = b"\x93NUMPY\x01\x00".to_vec();
        huge.extend((header.len() as u16).to_le_bytes());
        huge.extend(header);
        huge.extend([0; 24]);
        assert!(matches!(read(&huge), Err(NpyError::Length { found: 24, .. })));
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed() {
        let mut bytes = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f".to_vec();
        bytes.extend([b'('; 4096]);
        assert!(matches!(read(&bytes), Err(NpyError::Header { .. })));
        assert!(matches!(read(b"\x93NUMPY"), Err(NpyError::Header { .. })));
        assert!(matches!(read(&[]), Err(NpyError::Header { .. })));
    }
}
