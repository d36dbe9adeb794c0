//! The JSON body as people send it: with a byte order mark or in UTF-16, `null` for what is absent,
//! base64 as data URLs, wrapped or URL-safe, tensors as nested lists. Messages are in words, with
//! line and column, and repeat little of what was sent.

use std::{borrow::Cow, fmt, marker::PhantomData};

use axum::body::Bytes;
use base64::{
    DecodeError, Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

use super::{
    codes::ApiError,
    contents::{Contents, MAX_IMAGES, Named, too_many},
};
use crate::{
    app::{AppError, Input, Uploads},
    faults::{Fault, Faults},
    tensor::{MAX_AXES, ShapedData, Tensor},
    text::{cut, excerpt},
};

/// Whether this starts as a JSON object or list, in UTF-8 or UTF-16, with or without a byte order
/// mark.
pub(super) fn starts_as_json(bytes: &[u8]) -> bool {
    let marks = [0, 0xEF, 0xBB, 0xBF, 0xFE, 0xFF];
    let head = bytes.iter().take(64).filter(|byte| !marks.contains(byte));
    head.copied()
        .find(|byte| !byte.is_ascii_whitespace())
        .is_some_and(|byte| b"{[".contains(&byte))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Contents, ApiError> {
    let text = utf8(bytes)?;
    let body: JsonBody = read(&text)?;
    let parameters = body.parameters.finish("in the body")?;
    let one = one_of(body.image, "image", body.tensor, "tensor")?;
    let inputs = match (one, body.images) {
        (Some(input), None) => vec![input],
        (None, Some(AtMost(images))) if images.len() > MAX_IMAGES => {
            return Err(too_many("images"));
        }
        (None, Some(AtMost(images))) => images
            .iter()
            .map(|text| decode(text, "images"))
            .collect::<Result<_, _>>()?,
        _ => {
            return Err(ApiError::AmbiguousBody {
                wanted: "image (base64), images (a list of those), tensor",
            });
        }
    };
    let baseline = one_of(
        body.baseline_image,
        "baseline_image",
        body.baseline_tensor,
        "baseline_tensor",
    )?;
    let segments = body
        .segments_file
        .map(|text| decode_base64(&text, "segments_file"))
        .transpose()?;
    let reference = one_of(
        body.reference_image,
        "reference_image",
        body.reference_tensor,
        "reference_tensor",
    )?;
    let uploads = Uploads {
        baseline,
        reference,
        segments,
    };
    Ok(Contents {
        inputs,
        uploads,
        parameters,
    })
}

pub(super) fn read<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(text).map_err(|error| broken(text, &error))
}

/// The parameters of a multipart form.
pub(super) fn parse_parameters(bytes: &[u8]) -> Result<Named, ApiError> {
    read(&utf8(bytes)?).map_err(|error| match error {
        ApiError::BrokenJson { reason } => ApiError::BrokenJson {
            reason: format!("params: {reason}"),
        },
        other => other,
    })
}

pub(super) fn utf8(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ApiError> {
    let (units, from_pair): (_, fn([u8; 2]) -> u16) = match bytes {
        [0xFF, 0xFE, units @ ..] => (units, u16::from_le_bytes),
        [0xFE, 0xFF, units @ ..] => (units, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => (bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => (bytes, u16::from_be_bytes),
        _ => {
            return Ok(Cow::Borrowed(
                bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes),
            ));
        }
    };
    let (pairs, rest) = units.as_chunks::<2>();
    let text = char::decode_utf16(pairs.iter().map(|pair| from_pair(*pair)))
        .collect::<Result<String, _>>();
    match text {
        Ok(text) if rest.is_empty() => Ok(Cow::Owned(text.into_bytes())),
        _ => Err(ApiError::BrokenJson {
            reason: "it is UTF-16 that is broken; send UTF-8".to_owned(),
        }),
    }
}

/// What no JSON has, and what to do about it, by how it starts.
const NOT_JSON: [(&str, &str); 8] = [
    ("NaN", NOT_FINITE),
    ("nan", NOT_FINITE),
    ("Infinity", NOT_FINITE),
    ("inf", NOT_FINITE),
    ("None", PYTHON),
    ("True", PYTHON),
    ("False", PYTHON),
    ("'", PYTHON),
];
const NOT_FINITE: &str = "NaN and Infinity are no JSON, though Python writes them, and every value of an input has to be finite";
const PYTHON: &str = "this is Python's notation, not JSON: write it with json.dumps";

/// What the parser says, in words.
const IN_WORDS: [(&str, &str); 21] = [
    ("invalid type: sequence", "found a list"),
    ("invalid type: map", "found an object"),
    ("invalid type: string", "found the text"),
    ("invalid type: integer", "found the number"),
    ("invalid type: floating point", "found the number"),
    ("invalid type: boolean", "found"),
    ("invalid type: null", "found null"),
    ("invalid value: integer", "found the number"),
    ("invalid value: floating point", "found the number"),
    ("expected usize", "expected a whole number from 0"),
    ("EOF while parsing", "it ends inside"),
    ("expected value", "a value is expected here"),
    ("expected ident", "an unknown word stands here"),
    (
        "key must be a string",
        "a name in double quotes is expected here",
    ),
    ("trailing characters", "something follows its end"),
    (
        "trailing comma",
        "a comma stands before the end of a list or object",
    ),
    ("recursion limit exceeded", "it is nested too deep"),
    ("invalid unicode code point", "a text is not UTF-8"),
    ("number out of range", "a number is too large"),
    (
        "invalid escape",
        "a text has a backslash before a letter that it cannot escape",
    ),
    (
        "control character (\\u0000-\\u001F) found while parsing a string",
        "a line break or another control character stands in a text",
    ),
];

/// What is wrong with a text that was to be JSON, and where.
pub(super) fn broken(text: &[u8], error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let told = error.to_string();
    let told = told
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&told);
    let reason = match not_json(text, line, column) {
        Some(reason) if error.is_syntax() => reason.to_owned(),
        _ => {
            let (found, expected) = told
                .rsplit_once(", expected ")
                .map_or((told, None), |(f, e)| (f, Some(e)));
            let mut words = cut(found, 80).into_owned();
            if let Some(expected) = expected {
                words = format!("{words}, expected {}", excerpt(expected));
            }
            IN_WORDS
                .iter()
                .fold(words, |words, (term, plain)| words.replace(term, plain))
        }
    };
    ApiError::BrokenJson {
        reason: format!("{reason} (line {line}, column {column})"),
    }
}

fn not_json(text: &[u8], line: usize, column: usize) -> Option<&'static str> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .take(line.saturating_sub(1));
    let at = lines.map(|line| line.len() + 1).sum::<usize>() + column;
    // The parser may have read a character or two of it.
    (at.saturating_sub(2)..=at).find_map(|at| {
        let rest = text.get(at..)?;
        NOT_JSON
            .iter()
            .find(|(token, _)| rest.starts_with(token.as_bytes()))
            .map(|(_, reason)| *reason)
    })
}

fn one_of(
    image: Option<String>,
    image_field: &'static str,
    tensor: Option<JsonTensor>,
    tensor_field: &'static str,
) -> Result<Option<Input>, ApiError> {
    match (image, tensor) {
        (None, None) => Ok(None),
        (Some(text), None) => decode(&text, image_field).map(Some),
        (None, Some(tensor)) => tensor.input(tensor_field).map(Some),
        (Some(_), Some(_)) => Err(ApiError::AmbiguousBody {
            wanted: "an image, a tensor",
        }),
    }
}

pub(super) fn decode(text: &str, field: &'static str) -> Result<Input, ApiError> {
    decode_base64(text, field).map(Input::of)
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Of a data URL the data; white space is passed over, and either alphabet taken, with or without
/// padding.
fn decode_base64(text: &str, field: &'static str) -> Result<Bytes, ApiError> {
    let refuse = |reason: String| ApiError::BrokenBase64 { field, reason };
    let text = text.trim();
    if text.starts_with("b'") || text.starts_with("b\"") {
        return Err(refuse(
            "it is Python's notation of bytes, b'...'; send the text, .decode() of it".to_owned(),
        ));
    }
    if ["http://", "https://", "file://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return Err(refuse(
            "it is a URL; send the file itself: no address is fetched".to_owned(),
        ));
    }
    let is_url = text
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let data = match is_url.then(|| text.split_once(',')) {
        None => text,
        Some(Some((head, data))) if head.to_ascii_lowercase().ends_with(";base64") => data,
        Some(_) => {
            return Err(refuse(
                "a data URL has `;base64,` before its data".to_owned(),
            ));
        }
    };
    let is_plain = |byte: &u8| !byte.is_ascii_whitespace() && !b"-_".contains(byte);
    let symbols = match data.bytes().all(|byte| is_plain(&byte)) {
        true => Cow::Borrowed(data.as_bytes()),
        false => data
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            })
            .collect(),
    };
    BASE64.decode(&symbols).map(Bytes::from).map_err(|error| {
        refuse(match error {
            DecodeError::InvalidByte(at, byte) => {
                format!(
                    "symbol {at} (counted from 0, without white space) is `{}`",
                    byte.escape_ascii()
                )
            }
            _ => format!(
                "its {} symbols end early or are padded wrongly",
                symbols.len()
            ),
        })
    })
}

/// Large fields are read straight into their types; what is left are parameters. `null` is absent.
#[derive(Default)]
struct JsonBody {
    image: Option<String>,
    images: Option<AtMost<String>>,
    tensor: Option<JsonTensor>,
    baseline_image: Option<String>,
    baseline_tensor: Option<JsonTensor>,
    reference_image: Option<String>,
    reference_tensor: Option<JsonTensor>,
    segments_file: Option<String>,
    parameters: Named,
}

const FIELDS: [&str; 8] = [
    "image",
    "images",
    "tensor",
    "baseline_image",
    "baseline_tensor",
    "reference_image",
    "reference_tensor",
    "segments_file",
];

impl<'de> Deserialize<'de> for JsonBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JsonBodyVisitor)
    }
}

struct JsonBodyVisitor;

impl<'de> Visitor<'de> for JsonBodyVisitor {
    type Value = JsonBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `image` (base64), `images` or `tensor`, and parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonBody, A::Error> {
        let mut body = JsonBody::default();
        let mut given = [false; FIELDS.len()];
        while let Some(name) = map.next_key::<String>()? {
            if let Some(place) = FIELDS.iter().position(|field| *field == name)
                && std::mem::replace(&mut given[place], true)
            {
                body.parameters.repeat(&name);
            }
            match name.as_str() {
                "image" => body.image = map.next_value()?,
                "images" => body.images = map.next_value()?,
                "tensor" => body.tensor = map.next_value()?,
                "baseline_image" => body.baseline_image = map.next_value()?,
                "baseline_tensor" => body.baseline_tensor = map.next_value()?,
                "reference_image" => body.reference_image = map.next_value()?,
                "reference_tensor" => body.reference_tensor = map.next_value()?,
                "segments_file" => body.segments_file = map.next_value()?,
                _ => body.parameters.read(name, &mut map)?,
            }
        }
        Ok(body)
    }
}

/// The elements of a list, up to one more than there may be inputs.
pub(super) struct AtMost<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AtMost<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = AtMost<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of images, or of other inputs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AtMost<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() <= MAX_IMAGES {
                        elements.push(element);
                    }
                }
                Ok(AtMost(elements))
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// `{"shape": [2, 2], "data": [1, 2, 3, 4]}`, or `[[1, 2], [3, 4]]`.
pub(super) struct JsonTensor(pub(super) ShapedData);

impl<'de> Deserialize<'de> for JsonTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TensorVisitor)
    }
}

impl JsonTensor {
    pub(super) fn input(self, field: &str) -> Result<Input, ApiError> {
        let tensor = Tensor::try_from(self.0).map_err(|error| {
            let fault = Fault::new(field, error.to_string(), ["shape and data that agree"]);
            AppError::from(Faults::from(fault))
        })?;
        Ok(Input::Tensor(tensor))
    }
}

const TENSOR_FORMS: &str = "nested lists of numbers, or an object of `shape` and `data`";

struct TensorVisitor;

impl<'de> Visitor<'de> for TensorVisitor {
    type Value = JsonTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TENSOR_FORMS)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<JsonTensor, E> {
        Err(E::custom(format!("found a text, expected {TENSOR_FORMS}")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<JsonTensor, A::Error> {
        let mut nested = Nested::default();
        Element(&mut nested).visit_seq(list)?;
        Ok(JsonTensor(ShapedData {
            shape: nested.shape,
            data: nested.data,
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonTensor, A::Error> {
        let (mut shape, mut data) = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            let again = match name.as_str() {
                "shape" => shape.replace(map.next_value::<Sides>()?).is_some(),
                "data" => {
                    let mut nested = Nested::default();
                    map.next_value_seed(Element(&mut nested))?;
                    data.replace(nested).is_some()
                }
                other => {
                    let message = format!(
                        "`{}` is no field of a tensor; it has `shape` and `data`",
                        excerpt(other)
                    );
                    return Err(A::Error::custom(message));
                }
            };
            if again {
                return Err(A::Error::custom(format!("`{name}` is given twice")));
            }
        }
        let (
            Some(Sides(shape)),
            Some(Nested {
                shape: sides, data, ..
            }),
        ) = (shape, data)
        else {
            return Err(A::Error::custom("a tensor has `shape` and `data`"));
        };
        if sides.len() != 1 && sides != shape {
            return Err(A::Error::custom(
                "`data` is one list of numbers, row by row, or nested as `shape` says",
            ));
        }
        Ok(JsonTensor(ShapedData { shape, data }))
    }
}

/// A shape of no more axes than a tensor may have, and one.
struct Sides(Vec<usize>);

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SidesVisitor;
        impl<'de> Visitor<'de> for SidesVisitor {
            type Value = Sides;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sides, A::Error> {
                let mut sides = Vec::new();
                while let Some(side) = list.next_element()? {
                    if sides.len() <= MAX_AXES {
                        sides.push(side);
                    }
                }
                Ok(Sides(sides))
            }
        }
        deserializer.deserialize_seq(SidesVisitor)
    }
}

/// Numbers as they are read out of nested lists.
#[derive(Default)]
struct Nested {
    /// Of the lists that were read to their end.
    shape: Vec<usize>,
    data: Vec<f32>,
    /// Where the element stands that is being read.
    place: Vec<usize>,
    /// In how many lists the numbers stand, once the first was read.
    depth: Option<usize>,
}

impl Nested {
    /// Where the element stands.
    fn here(&self) -> String {
        match self.place.as_slice() {
            [] => "in the tensor".to_owned(),
            place => format!("at {place:?} of the tensor"),
        }
    }
}

/// One number, or one list of elements.
struct Element<'n>(&'n mut Nested);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number {}", self.0.here())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let Nested {
            data, place, depth, ..
        } = self.0;
        if *depth.get_or_insert(place.len()) != place.len() {
            return Err(E::custom(format!(
                "a number stands at {place:?} of the tensor, where others have a list"
            )));
        }
        let rounded = value as f32;
        if !rounded.is_finite() {
            return Err(E::custom(format!(
                "the number at {place:?} of the tensor is beyond float32"
            )));
        }
        data.push(rounded);
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(format!(
            "found a text, expected a number {}",
            self.0.here()
        )))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let nested = self.0;
        let axis = nested.place.len();
        if axis == MAX_AXES {
            return Err(A::Error::custom(format!(
                "the tensor has more than {MAX_AXES} axes"
            )));
        }
        if nested.depth.is_some_and(|depth| depth <= axis) {
            let place = &nested.place;
            return Err(A::Error::custom(format!(
                "a list stands at {place:?} of the tensor, where others have a number"
            )));
        }
        let mut count = 0;
        loop {
            nested.place.push(count);
            let more = list.next_element_seed(Element(nested))?.is_some();
            nested.place.pop();
            if !more {
                break;
            }
            count += 1;
        }
        // Lists end from the innermost outwards.
        while nested.shape.len() <= axis {
            nested.shape.push(usize::MAX);
        }
        let expected = std::mem::replace(&mut nested.shape[axis], count);
        if expected != usize::MAX && expected != count {
            let place = &nested.place;
            let message = format!(
                "the list at {place:?} of the tensor is of length {count}, and those before it of {expected}"
            );
            return Err(A::Error::custom(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn reason(body: impl AsRef<[u8]>) -> String {
        match parse(body.as_ref()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{} was taken", body.as_ref().escape_ascii()),
        }
    }

    fn tensor(body: &str) -> Tensor {
        match parse(body.as_bytes()).map(|mut contents| contents.inputs.remove(0)) {
            Ok(Input::Tensor(tensor)) => tensor,
            other => panic!("{body}: {:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn null_is_absent_and_twice_is_a_fault() {
        let body = r#"{"image": null, "images": null, "tensor": [1], "baseline_image": null, "baseline_tensor": null,
            "segments_file": null, "n_steps": null, "method": "gradient"}"#;
        let contents = parse(body.as_bytes()).unwrap();
        assert_eq!(contents.inputs.len(), 1);
        assert!(contents.uploads.baseline.is_none() && contents.uploads.segments.is_none());
        assert_eq!(contents.parameters.keys().collect::<Vec<_>>(), ["method"]);
        for name in FIELDS {
            assert!(
                reason(format!(
                    r#"{{"{name}": null, "tensor": [1], "{name}": null}}"#
                ))
                .contains("twice"),
                "{name}"
            );
        }
    }

    #[test]
    fn tensors_come_nested_or_with_their_shape() {
        let expected = Tensor::from_shape_vec(vec![2, 3], vec![1., 2., 3., 4., 5., 6.5]).unwrap();
        for form in [
            "[[1, 2, 3], [4, 5, 6.5]]",
            r#"{"shape": [2, 3], "data": [1, 2, 3, 4, 5, 6.5]}"#,
            r#"{"data": [[1, 2, 3], [4, 5, 6.5]], "shape": [2, 3]}"#,
        ] {
            assert_eq!(
                tensor(&format!(r#"{{"tensor": {form}}}"#)),
                expected,
                "{form}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_told_with_its_place() {
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        for (form, expected) in [
            (
                "[[1, 2], [3]]",
                "the list at [1] of the tensor is of length 1, and those before it of 2",
            ),
            (
                "[[1, 2], 3]",
                "a number stands at [1] of the tensor, where others have a list",
            ),
            (
                "[1, [2]]",
                "a list stands at [1] of the tensor, where others have a number",
            ),
            (
                "[[1, null]]",
                "found null, expected a number at [0, 1] of the tensor",
            ),
            ("[[1, true]]", "expected a number at [0, 1] of the tensor"),
            (
                "[[1, 1e39]]",
                "the number at [0, 1] of the tensor is beyond float32",
            ),
            ("7", "found the number `7`, expected nested lists"),
            (r#"{"shape": [1]}"#, "a tensor has `shape` and `data`"),
            (
                r#"{"shape": [-1], "data": [1]}"#,
                "expected a whole number from 0",
            ),
            (r#"{"shape": [2, 2], "data": [[1, 2, 3, 4]]}"#, "row by row"),
            (
                r#"{"shape": [1], "shape": [1], "data": [1]}"#,
                "`shape` is given twice",
            ),
            (deep.as_str(), "more than 32 axes"),
            ("[]", "the tensor is empty: shape [0]"),
        ] {
            let told = reason(format!(r#"{{"tensor": {form}}}"#));
            assert!(told.contains(expected), "{form}: {told}");
            assert!(
                !["usize", "f32", "sequence", "EOF", "ident"]
                    .iter()
                    .any(|term| told.contains(term)),
                "{told}"
            );
        }
    }

    #[test]
    fn what_python_writes_that_is_no_json_is_named() {
        for (body, expected) in [
            (
                "{\"tensor\": {\"shape\": [2],\n \"data\": [1, NaN]}}",
                "NaN and Infinity are no JSON",
            ),
            ("{\"tensor\": [-Infinity]}", "NaN and Infinity are no JSON"),
            ("{\"tensor\": [Infinity]}", "NaN and Infinity are no JSON"),
            ("{\"image\": None}", "json.dumps"),
            ("{'image': 1}", "json.dumps"),
            ("{\"x\": True}", "json.dumps"),
        ] {
            assert!(reason(body).contains(expected), "{body}: {}", reason(body));
        }
        assert!(reason("{\"tensor\": {\"shape\": [2],\n \"data\": [1, NaN]}}").contains("line 2"));
    }

    #[test]
    fn broken_bodies_are_told_in_words() {
        for (body, expected) in [
            ("", "it ends inside a value"),
            ("{", "it ends inside an object"),
            ("[1]", "found a list, expected an object with `image`"),
            (r#"{"image": 7}"#, "found the number `7`, expected a string"),
            (r#"{"image": "x",}"#, "comma"),
            (
                r#"{"images": {}}"#,
                "found an object, expected a list of images",
            ),
            (r#"{"x": 1} {"#, "something follows"),
        ] {
            assert!(reason(body).contains(expected), "{body}: {}", reason(body));
        }
    }

    #[test]
    fn errors_repeat_little_of_the_body() {
        let long = "A".repeat(1 << 20);
        for body in [
            format!(r#"{{"tensor": "{long}"}}"#),
            format!(r#"{{"tensor": ["{long}"]}}"#),
            format!(r#"{{"tensor": {{"{long}": 1}}}}"#),
            format!(r#"{{"tensor": {{"shape": ["{long}"], "data": []}}}}"#),
            format!(r#"{{"images": "{long}"}}"#),
            format!(r#""{long}""#),
            format!(r#"{{"image": "b'{long}"}}"#),
            format!(r#"{{"image": "{long}~"}}"#),
        ] {
            assert!(reason(&body).len() < 500, "{}", &reason(&body)[..500]);
        }
    }

    #[test]
    fn a_byte_order_mark_and_utf_16_are_read() {
        let body = r#"{"tensor": [1, 2.5], "target": "Käfer 猫"}"#;
        let wide = |convert: fn(u16) -> [u8; 2]| {
            body.encode_utf16().flat_map(convert).collect::<Vec<u8>>()
        };
        let forms = [
            [b"\xEF\xBB\xBF", body.as_bytes()].concat(),
            [b"\xFF\xFE", &wide(u16::to_le_bytes)[..]].concat(),
            [b"\xFE\xFF", &wide(u16::to_be_bytes)[..]].concat(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
        ];
        for form in forms {
            assert!(starts_as_json(&form));
            let contents = parse(&form).unwrap();
            assert_eq!(contents.parameters["target"], "Käfer 猫");
            let half = reason(&form[..form.len() - 1]);
            assert!(
                half.contains("broken") || half.contains("ends inside"),
                "{half}"
            );
        }
        assert!(!starts_as_json(b"\x89PNG\r\n") && !starts_as_json(b""));
    }

    #[test]
    fn base64_is_taken_as_people_have_it() {
        let bytes: Vec<u8> = (0..=255)
            .cycle()
            .take(1000)
            .chain([0xFB, 0xFF, 0xFE])
            .collect();
        let plain = BASE64_STANDARD.encode(&bytes);
        let wrapped = |gap: &str| {
            plain
                .as_bytes()
                .chunks(76)
                .map(|l| std::str::from_utf8(l).unwrap())
                .collect::<Vec<_>>()
                .join(gap)
        };
        for text in [
            plain.clone(),
            format!("data:image/png;base64,{plain}"),
            format!("data:;charset=utf-8;base64,{plain}"),
            format!("DATA:IMAGE/PNG;BASE64,{plain}"),
            wrapped("\n"),
            wrapped("\r\n"),
            wrapped(" "),
            format!("  {plain}\n"),
            plain.trim_end_matches('=').to_owned(),
            BASE64_URL_SAFE_NO_PAD.encode(&bytes),
        ] {
            assert_eq!(decode_base64(&text, "image").unwrap(), bytes, "{text}");
        }
        for (text, expected) in [
            ("b'iVBORw0KGgo='", "Python"),
            ("https://example.org/a.png", "URL"),
            ("data:image/png,%89PNG", ";base64,"),
            (
                "iVBO*",
                "symbol 4 (counted from 0, without white space) is `*`",
            ),
            ("iVBOR", "end early"),
        ] {
            let told = decode_base64(text, "image").unwrap_err().to_string();
            assert!(told.contains(expected), "{text}: {told}");
        }
    }
}
