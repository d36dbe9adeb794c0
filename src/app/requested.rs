//! What a request says of the model beside its id: the output that is explained, the size of the
//! input, and the values of the other inputs.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    faults::{Fault, Reader},
    model::{
        Model,
        fixed::{Offer, with_values},
        manifest::{FixedInput, SizeSource, ValueSource},
        resized::{LARGEST_SIDE, of_image, with_size},
    },
    tensor::{MAX_AXES, Numbers},
    text::{excerpt, shown},
};

const OUTPUT: &str = "output";
const SIZE: &str = "input_size";
const INPUTS: &str = "inputs";
/// Before the name of an input, in queries and forms.
pub const INPUT_PREFIX: &str = "inputs.";

/// A parameter of every request about an input: name and description.
pub const PARAMETERS: [(&str, &str); 2] = [
    (
        OUTPUT,
        "The output that is explained, of a model that has several: `manifest.outputs` of GET /models/{id} lists them. Default: that of model.toml.",
    ),
    (
        SIZE,
        "Of a model whose graph leaves height and width open: the size that images are brought to, `WIDTHxHEIGHT` in pixels, or `image`: each \
         image's own. A tensor has its own size. Default: that of model.toml.",
    ),
];
pub const INPUTS_DOC: &str = "Values of the model's other inputs, by name, in place of those of model.toml: a number (for each of the input's), nested lists, \
     `{\"shape\": [...], \"data\": [...]}`, or an npy file of numbers in base64; at most 4194304 numbers together, and 1 MiB of JSON. Each has to fit the input's shape, without the \
     batch, and its type. In a query or form each is a field `inputs.NAME` of its own: JSON, or in a form an npy file. A value that was not sent before takes \
     a session of its own, which is opened first.";

/// Each image's own size.
const OF_IMAGE: &str = "image";
const SIZE_FORMS: [&str; 2] = ["WIDTHxHEIGHT, such as 320x240", OF_IMAGE];
const VALUE_FORMS: [&str; 4] = [
    "a number",
    "nested lists of numbers",
    "{\"shape\": [...], \"data\": [...]}",
    "an npy file (in JSON in base64)",
];

/// What is asked for.
struct Asked {
    output: Option<Value>,
    size: Option<Value>,
    values: Vec<(String, Value)>,
}

impl Asked {
    fn take(given: &mut Reader) -> Self {
        let mut values = given.object(INPUTS).prefixed("");
        let in_fields = given.prefixed(INPUT_PREFIX).into_iter();
        let bare = |(name, value): (String, Value)| (name[INPUT_PREFIX.len()..].to_owned(), value);
        values.extend(in_fields.map(bare));
        Self {
            output: given.raw(OUTPUT),
            size: given.raw(SIZE),
            values,
        }
    }
}

/// Leaves out what cannot be judged without a model.
pub(super) fn skip(given: &mut Reader) {
    let _unjudged = Asked::take(given);
}

/// The model as the request wants it; of a fault nothing.
pub(super) fn take(
    given: &mut Reader,
    model: Arc<Model>,
    max_elements: usize,
) -> Option<Arc<Model>> {
    let Asked {
        output,
        size,
        values,
    } = Asked::take(given);
    let before = given.faults.len();
    let model = match output {
        None => Some(model),
        Some(output) => with_output(given, &model, &output),
    }?;
    let model = match values.is_empty() {
        true => Some(model),
        false => with_inputs(given, &model, values),
    };
    let model = model.and_then(|model| match size {
        None => Some(model),
        Some(size) => resized(given, &model, &size, max_elements),
    });
    model.filter(|_| given.faults.len() == before)
}

fn with_output(given: &mut Reader, model: &Arc<Model>, asked: &Value) -> Option<Arc<Model>> {
    let found = match asked {
        Value::String(name) => model
            .with_output(name)
            .map_err(|reason| excerpt(&reason).into_owned()),
        other => Err(format!("{} is no name of an output", shown(other))),
    };
    let own = model.manifest.output.as_deref();
    let outputs = &model.manifest.reading.outputs;
    let names: Vec<&str> = match outputs.is_empty() {
        true => own.into_iter().collect(),
        false => outputs.iter().map(String::as_str).collect(),
    };
    found
        .map_err(|message| given.refuse(OUTPUT, message, &names))
        .ok()
}

fn with_inputs(
    given: &mut Reader,
    model: &Arc<Model>,
    values: Vec<(String, Value)>,
) -> Option<Arc<Model>> {
    let mut offers = BTreeMap::new();
    let before = given.faults.len();
    let names: Vec<&str> = model
        .manifest
        .reading
        .fixed
        .keys()
        .map(String::as_str)
        .collect();
    for (name, value) in values {
        let param = format!("{INPUT_PREFIX}{name}");
        match offer(&value) {
            Err(message) => given.refuse(&param, message, &VALUE_FORMS),
            Ok(_) if offers.contains_key(&name) => {
                given.refuse(&param, "is given twice", &[]);
            }
            Ok(offer) => {
                offers.insert(name, offer);
            }
        }
    }
    if given.faults.len() > before {
        return None;
    }
    match with_values(model, offers) {
        Ok(found) => Some(Arc::new(found)),
        Err(faults) => {
            for (name, message) in faults {
                let allowed = match names.contains(&name.as_str()) {
                    true => &[][..],
                    false => &names,
                };
                given.refuse(&format!("{INPUT_PREFIX}{name}"), message, allowed);
            }
            None
        }
    }
}

fn resized(
    given: &mut Reader,
    model: &Arc<Model>,
    asked: &Value,
    max_elements: usize,
) -> Option<Arc<Model>> {
    let sides = |text: &str| {
        let (width, height) = text.split_once(['x', 'X'])?;
        let side = |text: &str| {
            let side = text.trim().parse().ok()?;
            (1..=LARGEST_SIDE).contains(&side).then_some(side)
        };
        Some([side(height)?, side(width)?])
    };
    let found = match asked.as_str() {
        Some(OF_IMAGE) => of_image(model),
        Some(text) if let Some(sides) = sides(text) => {
            with_size(model, sides, SizeSource::Request, max_elements)
        }
        _ => {
            let message = format!("{} is no size", shown(asked));
            given.refuse(SIZE, message, &SIZE_FORMS);
            return None;
        }
    };
    found
        .map_err(|error| given.refuse(SIZE, error.to_string(), &[]))
        .ok()
        .map(Arc::new)
}

/// The value of an input as JSON has it, or a text of JSON or base64.
fn offer(value: &Value) -> Result<Offer, String> {
    match value {
        Value::Number(_) => {
            let mut numbers = Vec::new();
            nested(value, &mut Vec::new(), 0, &mut numbers)?;
            Ok(Offer::Fill(exact(numbers)?))
        }
        Value::Array(_) => {
            let (mut shape, mut numbers) = (Vec::new(), Vec::new());
            nested(value, &mut shape, 0, &mut numbers)?;
            Ok(Offer::Shaped(shape, exact(numbers)?))
        }
        Value::Object(fields) => of_object(fields),
        Value::String(text) => {
            let text = text.trim();
            match text.starts_with(|first: char| first.is_ascii_digit() || "[{-".contains(first)) {
                true => match serde_json::from_str(text) {
                    Ok(Value::String(_)) | Err(_) => Err("it is no JSON of numbers".to_owned()),
                    Ok(value) => offer(&value),
                },
                false => {
                    let bytes = BASE64_STANDARD.decode(text);
                    let bytes = bytes.map_err(|_| "it is neither JSON nor base64".to_owned())?;
                    Offer::of_npy(&bytes)
                }
            }
        }
        Value::Bool(_) | Value::Null => Err(format!("{value} is no number")),
    }
}

fn of_object(fields: &Map<String, Value>) -> Result<Offer, String> {
    let (Some(shape), Some(data), 2) = (fields.get("shape"), fields.get("data"), fields.len())
    else {
        return Err("an object has `shape` and `data`".to_owned());
    };
    let sides = shape.as_array().filter(|sides| sides.len() <= MAX_AXES);
    let shape = sides.and_then(|sides| {
        let side = |side: &Value| usize::try_from(side.as_u64()?).ok();
        sides.iter().map(side).collect::<Option<Vec<_>>>()
    });
    let shape = shape.ok_or("`shape` is a list of whole numbers")?;
    let (mut sides, mut numbers) = (Vec::new(), Vec::new());
    nested(data, &mut sides, 0, &mut numbers)?;
    let count = shape
        .iter()
        .try_fold(1_usize, |all, side| all.checked_mul(*side));
    if count != Some(numbers.len()) || sides.len() > 1 && sides != shape {
        return Err(format!(
            "`data` has {} numbers, and its shape is {shape:?}",
            numbers.len()
        ));
    }
    Ok(Offer::Shaped(shape, exact(numbers)?))
}

/// Reads lists of equal lengths; `shape` is that of the lists from `depth` on that were read.
fn nested(
    value: &Value,
    shape: &mut Vec<usize>,
    depth: usize,
    numbers: &mut Vec<serde_json::Number>,
) -> Result<(), String> {
    let uneven = || "its lists are of different lengths".to_owned();
    match value {
        Value::Number(_) if depth < shape.len() => Err(uneven()),
        Value::Number(number) => {
            numbers.push(number.clone());
            Ok(())
        }
        Value::Array(items) if items.is_empty() || depth >= MAX_AXES => {
            Err("a list is empty, or nested too deep".to_owned())
        }
        Value::Array(items) => {
            match shape.get(depth) {
                Some(length) if *length != items.len() => return Err(uneven()),
                None if !numbers.is_empty() => return Err(uneven()),
                Some(_) => {}
                None => shape.push(items.len()),
            }
            items
                .iter()
                .try_for_each(|item| nested(item, shape, depth + 1, numbers))
        }
        other => Err(format!("{} is no number", shown(other))),
    }
}

/// As integers, where all are; else none may be rounded.
fn exact(numbers: Vec<serde_json::Number>) -> Result<Numbers, String> {
    let whole: Vec<Option<i64>> = numbers.iter().map(serde_json::Number::as_i64).collect();
    if let Some(whole) = whole.iter().copied().collect::<Option<Vec<_>>>() {
        return Ok(Numbers::Integers(whole));
    }
    let mut whole = whole.into_iter().flatten();
    if let Some(rounded) = whole.find(|value| i128::from(*value) != *value as f64 as i128) {
        return Err(format!(
            "{rounded} stands beside numbers that are no int64, and no float64 holds it"
        ));
    }
    let floats = numbers.iter().filter_map(serde_json::Number::as_f64);
    Ok(Numbers::Floats(floats.collect()))
}

/// What a request says to get this model, as answers state it: posted again it gives the model
/// again, but for values of inputs that are too many to be told.
pub(super) fn stated(model: &Model) -> Map<String, Value> {
    let mut stated = Map::new();
    if let Some(output) = model.output() {
        stated.insert(OUTPUT.to_owned(), output.into());
    }
    if let Some(size) = size(model) {
        let size = match model.manifest.input.is_of_image() {
            true => OF_IMAGE.to_owned(),
            false => size,
        };
        stated.insert(SIZE.to_owned(), size.into());
    }
    let inputs = model.manifest.reading.fixed.iter();
    let sent = inputs.filter(|(_, fixed)| fixed.from == ValueSource::Request);
    let sent = sent.filter_map(|(name, fixed)| Some((name.clone(), value_of(fixed)?)));
    let sent: Map<String, Value> = sent.collect();
    if !sent.is_empty() {
        stated.insert(INPUTS.to_owned(), sent.into());
    }
    stated
}

/// The size of the model's input, where its graph leaves it open.
pub(super) fn size(model: &Model) -> Option<String> {
    let input = &model.manifest.input;
    let [height, width] = input
        .sides_of(&input.shape)
        .filter(|_| input.open.is_some())?;
    Some(format!("{width}x{height}"))
}

fn value_of(fixed: &FixedInput) -> Option<Value> {
    let values = fixed.values.as_ref()?;
    Some(match &fixed.shape[..] {
        [] => values.first()?.clone().into(),
        [_] => json!(values),
        shape => json!({ "shape": shape, "data": values }),
    })
}

/// Names of parameters that say something of the model.
pub(super) fn names() -> [&'static str; 3] {
    [OUTPUT, SIZE, INPUTS]
}

/// Another method of a comparison cannot be about another model.
pub(super) fn differs(own: &mut Map<String, Value>, model: &Model) -> Option<Fault> {
    let stated = stated(model);
    let asked = names()
        .into_iter()
        .filter_map(|name| Some((name, own.remove(name)?)));
    let other = asked.filter(|(name, value)| stated.get(*name) != Some(value));
    let (name, value) = other.last()?;
    let message = format!(
        "has {name} {}: all methods of a comparison explain the same; give it beside them",
        shown(&value)
    );
    Some(Fault::says("methods", message))
}
