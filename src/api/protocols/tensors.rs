//! Tensors of the Open Inference Protocol: as JSON, or as bytes behind the JSON (the extension
//! `binary_tensor_data`).

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    api::{
        codes::ApiError,
        contents::{MAX_IMAGES, too_many},
        json_body::{AtMost, JsonTensor, decode, read},
    },
    app::{AppError, Input},
    faults::{Fault, Faults},
    tensor::{MAX_AXES, ShapedData, npy_of},
    text::excerpt,
};

/// Datatypes of tensors in the model's input space, and of pixels: how npy writes them, and the bytes
/// of an element.
const DATATYPES: [(&str, &str, usize); 4] = [
    ("FP16", "<f2", 2),
    ("FP32", "<f4", 4),
    ("FP64", "<f8", 8),
    (UINT8, "|u1", 1),
];
const UINT8: &str = "UINT8";
/// Elements of any length: here encoded images.
const BYTES: &str = "BYTES";

/// A tensor of a request, its values in `data` or behind the JSON.
#[derive(Deserialize)]
pub(super) struct Sent<'t> {
    pub name: String,
    pub shape: AtMost<usize>,
    pub datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'t RawValue>,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
}

impl Sent<'_> {
    /// The inputs that it holds; bytes of its own are taken from the front of `blobs`.
    pub(super) fn inputs(&self, blobs: &mut Bytes) -> Result<Vec<Input>, ApiError> {
        let AtMost(shape) = &self.shape;
        match (self.data, self.parameters.binary_data_size) {
            (Some(data), None) => self.read_json(shape, data.get().as_bytes()),
            (None, Some(size)) if size <= blobs.len() => self.read_bytes(shape, blobs.split_to(size)),
            (None, Some(size)) => Err(self.refuse(
                format!("has binary_data_size {size}, and {} bytes follow", blobs.len()),
                "as many bytes as follow the JSON",
            )),
            _ => Err(self.refuse(
                "has to have its values either in data or, with binary_data_size among its parameters, behind the JSON",
                "one of the two",
            )),
        }
    }

    fn read_json(&self, shape: &[usize], data: &[u8]) -> Result<Vec<Input>, ApiError> {
        if self.datatype == BYTES {
            let AtMost(texts) = read::<AtMost<String>>(data)?;
            self.check_count(shape, texts.len())?;
            return texts.iter().map(|text| decode(text, "data")).collect();
        }
        let (datatype, ..) = self.layout()?;
        let JsonTensor(ShapedData { data, .. }) = read(data)?;
        if datatype == UINT8 {
            let pixels: Vec<u8> = data.iter().map(|value| *value as u8).collect();
            let is_same = |(pixel, value): (&u8, &f32)| f32::from(*pixel) == *value;
            if !pixels.iter().zip(&data).all(is_same) {
                return Err(self.refuse(
                    "holds values that are no whole numbers from 0 to 255",
                    "pixels",
                ));
            }
            return self.read_bytes(shape, pixels.into());
        }
        let shape = shape.to_vec();
        let shaped = JsonTensor(ShapedData { shape, data });
        Ok(vec![shaped.input(&self.name)?])
    }

    fn read_bytes(&self, shape: &[usize], bytes: Bytes) -> Result<Vec<Input>, ApiError> {
        if self.datatype == BYTES {
            let Some(images) = elements(bytes) else {
                let allowed = "elements, each with its length before it as 4 bytes";
                return Err(self.refuse("ends inside an element", allowed));
            };
            self.check_count(shape, images.len())?;
            return Ok(images.into_iter().map(Input::of).collect());
        }
        let (_, descr, size) = self.layout()?;
        if !bytes.len().is_multiple_of(size) {
            let message = format!("has {} bytes, elements have {size}", bytes.len());
            return Err(self.refuse(message, AGREE));
        }
        self.check_shape(shape, bytes.len() / size)?;
        Ok(vec![Input::Npy(npy_of(descr, shape, &bytes).into())])
    }

    fn layout(&self) -> Result<(&'static str, &'static str, usize), ApiError> {
        let mut known = DATATYPES.iter();
        let found = known.find(|(name, ..)| *name == self.datatype);
        found.copied().ok_or_else(|| {
            let names = DATATYPES.iter().map(|(name, ..)| *name).chain([BYTES]);
            let message = format!("cannot be of datatype {}", excerpt(&self.datatype));
            AppError::from(Faults::from(Fault::new(&self.name, message, names))).into()
        })
    }

    fn check_count(&self, shape: &[usize], images: usize) -> Result<(), ApiError> {
        if images > MAX_IMAGES {
            return Err(too_many(&self.name));
        }
        self.check_shape(shape, images)
    }

    fn check_shape(&self, shape: &[usize], found: usize) -> Result<(), ApiError> {
        let expected = shape
            .iter()
            .fold(1, |count: u128, side| count.saturating_mul(*side as u128));
        if expected == found as u128 && shape.len() <= MAX_AXES {
            return Ok(());
        }
        let message = format!("has shape {shape:?} and {found} elements");
        Err(self.refuse(message, AGREE))
    }

    fn refuse(&self, message: impl Into<String>, allowed: &str) -> ApiError {
        AppError::from(Faults::from(Fault::new(&self.name, message, [allowed]))).into()
    }
}

const AGREE: &str = "shape and values that agree";

/// Elements with their lengths before them; none where the bytes end inside one. What comes after
/// those of one request more than may be is left out.
fn elements(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut found = Vec::new();
    while !bytes.is_empty() && found.len() <= MAX_IMAGES {
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        found.push(bytes.split_to(length));
    }
    Some(found)
}

/// A tensor of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutputTensor {
    #[schema(example = "scores")]
    pub name: &'static str,
    #[schema(example = json!([1, 1000]))]
    pub shape: Vec<usize>,
    /// FP32 or INT64.
    #[schema(example = "FP32")]
    pub datatype: &'static str,
    /// Where the values are behind the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BinarySize>,
    /// In row-major order; absent where the values are behind the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Values>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BinarySize {
    /// Bytes of the values, little-endian.
    pub binary_data_size: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl OutputTensor {
    /// With its values as bytes put behind the others, if `is_binary`.
    pub(super) fn new(
        name: &'static str,
        shape: Vec<usize>,
        values: Values,
        is_binary: bool,
        blobs: &mut Vec<u8>,
    ) -> Self {
        let datatype = match &values {
            Values::Floats(_) => "FP32",
            Values::Integers(_) => "INT64",
        };
        let before = blobs.len();
        match &values {
            _ if !is_binary => {}
            Values::Floats(values) => {
                blobs.extend(values.iter().flat_map(|value| value.to_le_bytes()))
            }
            Values::Integers(values) => {
                blobs.extend(values.iter().flat_map(|value| value.to_le_bytes()))
            }
        }
        Self {
            name,
            shape,
            datatype,
            parameters: is_binary.then(|| BinarySize {
                binary_data_size: blobs.len() - before,
            }),
            data: (!is_binary).then_some(values),
        }
    }
}
