//! Inputs that are not explained: model.toml gives their value, a number, a list of numbers or an
//! npy file, and the graph gets it as a constant, repeated for every row of the batch. A request may
//! give another: a constant of its own in its place.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Component, Path},
    sync::Arc,
};

use onnx_autodiff::onnx::graph::{Dim, Element, Graph, Literal, Names, Node, ValueInfo};
use serde_json::Number;
use sha2::{Digest, Sha256};

use super::{
    Model, foreign,
    manifest::{FixedInput, Slot, ValueSource},
};
use crate::{
    files,
    tensor::{Npy, Numbers},
};

/// The value that model.toml gives of an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Number(f64),
    List(Vec<f64>),
    /// An npy file beside model.toml.
    File(String),
}

/// A value for an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Offer {
    /// One number, for each of the input's.
    Fill(Numbers),
    /// All numbers, row-major.
    Flat(Numbers),
    Shaped(Vec<usize>, Numbers),
}

/// The most numbers of all of these inputs.
const MOST: usize = 1 << 22;
/// The most numbers of an input that are told.
const TOLD: usize = 16;

/// Makes constants of these inputs, in a graph that explains `input`. Says what each of them is, or
/// every fault.
pub(super) fn fix(
    graph: &mut Graph,
    input: &str,
    given: &BTreeMap<String, Given>,
    folder: Option<&Path>,
) -> Result<BTreeMap<String, FixedInput>, Vec<String>> {
    let (mut fixed, mut faults) = (BTreeMap::new(), Vec::new());
    let batch = graph.inputs.iter().find(|info| info.name == input);
    let batch = batch
        .and_then(|info| info.value_type.shape.first())
        .cloned();
    let (mut made, mut left) = (Vec::new(), MOST);
    for (name, given) in given {
        let Some(info) = graph.inputs.iter().find(|info| info.name == *name).cloned() else {
            continue;
        };
        let (slot, nodes) = slot(graph, input, &info, batch.as_ref());
        let read = offer(given, folder).and_then(|offer| fit(&slot, offer, &mut left));
        match read {
            Ok(literal) => {
                let value = FixedInput::new(slot, &literal, ValueSource::Model);
                value.put(graph, literal);
                fixed.insert(name.clone(), value);
                made.extend(nodes);
            }
            Err(reason) => faults.push(format!("inputs.{name}: {reason}")),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    graph.inputs.retain(|info| !fixed.contains_key(&info.name));
    graph.nodes.splice(0..0, made);
    Ok(fixed)
}

/// The model with these values in place of those that it has. The faults name inputs.
pub fn with_values(
    model: &Model,
    offers: BTreeMap<String, Offer>,
) -> Result<Model, Vec<(String, String)>> {
    let mut manifest = model.manifest.clone();
    let mut graph = model.graph.as_ref().clone();
    let (mut faults, mut left) = (Vec::new(), MOST);
    for (name, offer) in offers {
        let Some(fixed) = manifest.reading.fixed.get_mut(&name) else {
            let message = "the model has no such input beside the one that is explained";
            faults.push((name, message.to_owned()));
            continue;
        };
        let Some(slot) = fixed.slot.clone() else {
            continue;
        };
        match fit(&slot, offer, &mut left) {
            Ok(literal) => {
                let is_read = graph.initializers.contains_key(&slot.constant);
                *fixed = FixedInput::new(slot, &literal, ValueSource::Request);
                if is_read {
                    fixed.put(&mut graph, literal);
                }
            }
            Err(reason) => faults.push((name, reason)),
        }
    }
    match faults.is_empty() {
        true => Ok(Model {
            manifest,
            graph: Arc::new(graph),
            supports: Arc::default(),
            ..model.clone()
        }),
        false => Err(faults),
    }
}

/// Whether an input has a row for each row of the batch. Exporters call the batch of each input by
/// another name; a single axis of another name is a length.
fn is_row(info: &ValueInfo, batch: Option<&Dim>) -> bool {
    match &info.value_type.shape[..] {
        [] => false,
        [first, rest @ ..] => {
            Some(first) == batch || !rest.is_empty() && matches!(first, Dim::Symbol(_))
        }
    }
}

/// Where the value of an input goes, and the nodes that make the input of it: one row, repeated
/// along the batch of `input`.
fn slot(
    graph: &mut Graph,
    input: &str,
    info: &ValueInfo,
    batch: Option<&Dim>,
) -> (Slot, Vec<Node>) {
    let (element, shape) = (info.value_type.element, &info.value_type.shape);
    let own = info.name.as_str();
    if !is_row(info, batch) {
        let slot = Slot {
            element,
            dims: shape.clone(),
            constant: own.to_owned(),
            sizes: None,
        };
        return (slot, Vec::new());
    }
    let mut names = Names::of(graph);
    let mut value = |role: &str| names.fresh(&format!("{own}.{role}"));
    let [row, first, sizes, all, rows, whole] =
        ["row", "first", "sizes", "input_shape", "rows", "shape"].map(&mut value);
    let zero = Literal::vector_i64(&[0]);
    graph.initializers.insert(first.clone(), zero);
    let nodes = vec![
        Node::new("Shape", [input], [all.as_str()]),
        Node::new("Gather", [all.as_str(), &first], [rows.as_str()]).with("axis", 0_i64),
        Node::new("Concat", [rows.as_str(), &sizes], [whole.as_str()]).with("axis", 0_i64),
        Node::new("Expand", [row.as_str(), &whole], [own]),
    ];
    let slot = Slot {
        element,
        dims: shape[1..].to_vec(),
        constant: row,
        sizes: Some(sizes),
    };
    (slot, nodes)
}

impl FixedInput {
    fn new(slot: Slot, literal: &Literal, from: ValueSource) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(&literal.bytes);
        Self {
            shape: literal.shape.clone(),
            element: slot.element.to_string(),
            hash: files::hex(&hasher.finalize()),
            from,
            values: (literal.len() <= TOLD).then(|| told(literal)),
            slot: Some(slot),
        }
    }

    /// Makes the value a constant of the graph, whose floats may be of another width by now.
    fn put(&self, graph: &mut Graph, literal: Literal) {
        let Some(slot) = &self.slot else { return };
        let before = graph.initializers.get(&slot.constant);
        let element = before.map_or(literal.element, |before| before.element);
        let literal = match element == literal.element {
            true => literal,
            false => Literal::from_f64s(element, &literal.shape, &literal.to_f64s()),
        };
        let mut shape = literal.shape.clone();
        if let Some(sizes) = &slot.sizes {
            let rest: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
            let rest = Literal::vector_i64(&rest);
            graph.initializers.insert(sizes.clone(), rest);
            shape.insert(0, 1);
        }
        let literal = Literal { shape, ..literal };
        graph.initializers.insert(slot.constant.clone(), literal);
    }
}

fn told(literal: &Literal) -> Vec<Number> {
    match literal.to_i64s() {
        Some(values) => values.into_iter().map(Number::from).collect(),
        None => {
            let values = literal.to_f64s().into_iter();
            values.filter_map(Number::from_f64).collect()
        }
    }
}

/// A value in the input's shape, without the batch, and of its type, which holds it. Takes as many
/// of the numbers that are `left` as it has.
fn fit(slot: &Slot, offer: Offer, left: &mut usize) -> Result<Literal, String> {
    let Slot { element, dims, .. } = slot;
    let shown = || {
        let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
        format!("[{}]", dims.join(", "))
    };
    let (shape, numbers) = match offer {
        Offer::Shaped(shape, numbers) => {
            let own = match &shape[..] {
                [1, own @ ..] if own.len() == dims.len() => own,
                own => own,
            };
            let mut pairs = dims.iter().zip(own);
            let fits = own.len() == dims.len()
                && pairs.all(|(dim, size)| dim.known().is_none_or(|dim| dim == *size));
            if numbers.len() > *left {
                return Err(too_many());
            }
            if !fits {
                let takes = shown();
                return Err(format!(
                    "it has shape {shape:?}, and the input takes {takes}"
                ));
            }
            (own.to_vec(), numbers)
        }
        Offer::Fill(numbers) | Offer::Flat(numbers)
            if dims.iter().any(|dim| dim.known().is_none()) =>
        {
            return Err(format!(
                "{} number(s), and its size {} is not fixed by the graph: give an npy file, file = \"NAME.npy\" in model.toml",
                numbers.len(),
                shown()
            ));
        }
        offer => {
            let shape: Vec<usize> = dims.iter().filter_map(Dim::known).collect();
            let count = shape
                .iter()
                .try_fold(1_usize, |all, &size| all.checked_mul(size));
            let count = count.filter(|&count| count <= *left);
            let count = count.ok_or_else(too_many)?;
            let numbers = match offer {
                Offer::Fill(one) => repeat(&one, count),
                Offer::Flat(numbers) | Offer::Shaped(_, numbers) => numbers,
            };
            if numbers.len() != count {
                return Err(format!(
                    "{} numbers where {} takes {count}",
                    numbers.len(),
                    shown()
                ));
            }
            (shape, numbers)
        }
    };
    *left -= numbers.len();
    held(*element, &shape, &numbers)
}

fn repeat(one: &Numbers, count: usize) -> Numbers {
    match one {
        Numbers::Floats(values) => Numbers::Floats(values.repeat(count)),
        Numbers::Integers(values) => Numbers::Integers(values.repeat(count)),
    }
}

/// The numbers in a type that holds each of them.
fn held(element: Element, shape: &[usize], numbers: &Numbers) -> Result<Literal, String> {
    let refuse = |number: &dyn std::fmt::Display| {
        Err(format!("the input's type, {element}, has no {number}"))
    };
    let values = match (element, numbers) {
        (Element::Int64, Numbers::Integers(values)) => {
            return Ok(Literal::from_i64s(shape, values));
        }
        (_, Numbers::Integers(values)) => {
            let is_rounded = |value: &&i64| **value as f64 as i64 != **value;
            if let Some(value) = values
                .iter()
                .find(is_rounded)
                .filter(|_| !element.is_float())
            {
                return refuse(value);
            }
            values.iter().map(|value| *value as f64).collect()
        }
        (_, Numbers::Floats(values)) => values.clone(),
    };
    let literal = Literal::from_f64s(element, shape, &values);
    let back = literal.to_f64s();
    // The largest int64 is rounded to 2^63, as which 2^63 itself comes back.
    let is_beyond = |number: f64| element == Element::Int64 && number >= 2_f64.powi(63);
    let is_held = |(number, held): &(&f64, &f64)| match element.is_float() {
        true => held.is_finite(),
        false => number == held && !is_beyond(**number),
    };
    match values.iter().zip(&back).find(|pair| !is_held(pair)) {
        Some((number, _)) => refuse(number),
        None => Ok(literal),
    }
}

fn too_many() -> String {
    format!("the inputs with values have more than {MOST} numbers together")
}

fn offer(given: &Given, folder: Option<&Path>) -> Result<Offer, String> {
    match given {
        Given::Number(number) => Ok(Offer::Fill(Numbers::Floats(vec![*number]))),
        Given::List(numbers) => Ok(Offer::Flat(Numbers::Floats(numbers.clone()))),
        Given::File(name) => {
            let bytes = read_file(folder, name)?;
            Offer::of_npy(&bytes).map_err(|reason| format!("{name}: {reason}"))
        }
    }
}

impl Offer {
    /// An npy file of numbers of any type.
    pub fn of_npy(bytes: &[u8]) -> Result<Self, String> {
        let file = Npy::read(bytes, "numbers or bools").map_err(|error| error.to_string())?;
        let count = file.shape().iter().product::<usize>();
        if count > MOST {
            return Err(too_many());
        }
        let numbers = file.numbers().map_err(|error| error.to_string())?;
        Ok(Self::Shaped(file.shape().to_vec(), numbers))
    }
}

/// A file of the model's own folder.
fn read_file(folder: Option<&Path>, name: &str) -> Result<Vec<u8>, String> {
    let is_name = Path::new(name)
        .components()
        .eq([Component::Normal(name.as_ref())]);
    let folder = folder.filter(|_| is_name);
    let folder =
        folder.ok_or_else(|| format!("{name:?} is not the name of a file beside model.toml"))?;
    let limit = (MOST * size_of::<f64>()) as u64 + (1 << 16);
    let mut bytes = Vec::new();
    let read = foreign::open_regular(&folder.join(name))
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    let read = read.and_then(|size| match size as u64 > limit {
        true => Err(io::Error::other(format!("it is larger than {limit} bytes"))),
        false => Ok(()),
    });
    read.map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}
