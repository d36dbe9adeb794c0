//! Inputs that are not explained: model.toml gives their value, a number, a list of numbers or an
//! npy file, and the graph gets it as a constant, repeated for every row of the batch.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Component, Path},
};

use onnx_autodiff::onnx::graph::{Dim, Graph, Literal, Names, Node, ValueInfo};
use sha2::{Digest, Sha256};

use super::{foreign, manifest::FixedInput};
use crate::{files, tensor::read_npy};

/// The value that model.toml gives of an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Number(f64),
    List(Vec<f64>),
    /// An npy file beside model.toml.
    File(String),
}

/// The most numbers of all of these inputs.
const MOST: usize = 1 << 22;

/// An input's value, in the order of its shape.
struct Value {
    shape: Vec<usize>,
    numbers: Vec<f64>,
}

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
        match read(&info, batch.as_ref(), given, folder, left) {
            Ok(value) => {
                left -= value.numbers.len();
                let mut hasher = Sha256::new();
                let numbers = value.numbers.iter();
                numbers.for_each(|number| hasher.update(number.to_le_bytes()));
                let shape = value.shape.clone();
                let hash = files::hex(&hasher.finalize());
                fixed.insert(name.clone(), FixedInput { shape, hash });
                made.extend(constant(
                    graph,
                    input,
                    &info,
                    is_row(&info, batch.as_ref()),
                    &value,
                ));
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

/// A value of at most `left` numbers, each of which the input's type holds.
fn read(
    info: &ValueInfo,
    batch: Option<&Dim>,
    given: &Given,
    folder: Option<&Path>,
    left: usize,
) -> Result<Value, String> {
    let value = read_numbers(info, batch, given, folder, left)?;
    let element = info.value_type.element;
    let held = Literal::from_f64s(element, &value.shape, &value.numbers).to_f64s();
    let is_held = |(&number, &held): (&f64, &f64)| match element.is_float() {
        true => held.is_finite(),
        false => number == held,
    };
    let mut pairs = value.numbers.iter().zip(&held);
    match pairs.find(|pair| !is_held(*pair)) {
        Some((number, _)) => Err(format!("the input's type, {element:?}, has no {number}")),
        None => Ok(value),
    }
}

fn read_numbers(
    info: &ValueInfo,
    batch: Option<&Dim>,
    given: &Given,
    folder: Option<&Path>,
    left: usize,
) -> Result<Value, String> {
    let dims = &info.value_type.shape[usize::from(is_row(info, batch))..];
    let shape = dims.iter().map(Dim::known).collect::<Option<Vec<_>>>();
    let shown = || {
        let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
        format!("[{}]", dims.join(", "))
    };
    if let Given::File(name) = given {
        let tensor = read_file(folder, name)?;
        let own = match tensor.shape() {
            [1, own @ ..] if own.len() == dims.len() => own,
            own => own,
        };
        let fits = own.len() == dims.len()
            && dims
                .iter()
                .zip(own)
                .all(|(dim, size)| dim.known().is_none_or(|dim| dim == *size));
        if tensor.len() > left {
            return Err(too_many());
        }
        if !fits {
            return Err(format!(
                "{name} has shape {:?}, and the input takes {}",
                tensor.shape(),
                shown()
            ));
        }
        return Ok(Value {
            shape: own.to_vec(),
            numbers: tensor.iter().copied().map(f64::from).collect(),
        });
    }
    let Some(shape) = shape else {
        return Err(format!(
            "its size {} is not fixed by the graph: give file = \"NAME.npy\"",
            shown()
        ));
    };
    let count = shape
        .iter()
        .try_fold(1_usize, |all, &size| all.checked_mul(size));
    let count = count.filter(|&count| count <= left);
    let count = count.ok_or_else(too_many)?;
    let numbers = match given {
        Given::Number(number) => vec![*number; count],
        Given::List(numbers) if numbers.len() == count => numbers.clone(),
        Given::List(numbers) => {
            return Err(format!(
                "{} numbers where {} takes {count}",
                numbers.len(),
                shown()
            ));
        }
        Given::File(_) => Vec::new(),
    };
    Ok(Value { shape, numbers })
}

fn too_many() -> String {
    format!("the inputs with values have more than {MOST} numbers together")
}

/// A file of the model's own folder.
fn read_file(folder: Option<&Path>, name: &str) -> Result<crate::tensor::Tensor, String> {
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
    let tensor = read_npy(&bytes).map_err(|error| format!("{name}: {error}"))?;
    match tensor.iter().all(|number| number.is_finite()) {
        true => Ok(tensor),
        false => Err(format!("{name} holds numbers that are not finite")),
    }
}

/// The nodes that make the value of the input: a constant, repeated along the batch of `input`.
fn constant(
    graph: &mut Graph,
    input: &str,
    info: &ValueInfo,
    is_row: bool,
    Value { shape, numbers }: &Value,
) -> Vec<Node> {
    let element = info.value_type.element;
    if !is_row {
        let literal = Literal::from_f64s(element, shape, numbers);
        graph.initializers.insert(info.name.clone(), literal);
        return Vec::new();
    }
    let mut names = Names::of(graph);
    let mut value = |role: &str| names.fresh(&format!("{}.{role}", info.name));
    let [row, first, sizes, all, rows, whole] =
        ["row", "first", "sizes", "input_shape", "rows", "shape"].map(&mut value);
    let one_row: Vec<usize> = [1].iter().chain(shape).copied().collect();
    let rest: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    graph.initializers.extend([
        (row.clone(), Literal::from_f64s(element, &one_row, numbers)),
        (first.clone(), Literal::vector_i64(&[0])),
        (sizes.clone(), Literal::vector_i64(&rest)),
    ]);
    let own = info.name.as_str();
    vec![
        Node::new("Shape", [input], [all.as_str()]),
        Node::new("Gather", [all.as_str(), &first], [rows.as_str()]).with("axis", 0_i64),
        Node::new("Concat", [rows.as_str(), &sizes], [whole.as_str()]).with("axis", 0_i64),
        Node::new("Expand", [row.as_str(), &whole], [own]),
    ]
}
