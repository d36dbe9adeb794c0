//! Adapts a graph's input and output to the service: float32 inside, a float32 input, and class
//! scores as the only output. Integer pixels that the graph makes floats of become float inputs;
//! where nodes need integers, a Cast stands in front, which no gradient passes. A final ArgMax is
//! dropped: an index has no gradient. A Sigmoid over one score becomes two classes, 1 with its
//! probability p and 0 with 1 - p. Probabilities that do not come from one Softmax get the logits
//! log p, of which Softmax makes p again.

use std::collections::HashSet;

use super::{outputs::is_vector, pixels};
use onnx_autodiff::{
    autodiff,
    onnx::{
        OnnxError,
        graph::{Dim, Element, Graph, Literal, Names, Node, ValueInfo, ValueType},
        infer, passes,
    },
};

use super::{
    manifest::{OutputKind, Scores},
    manifest_file::Ends as Said,
};

#[derive(Debug, thiserror::Error)]
pub(super) enum EndsError {
    #[error(
        "input {input} is {element}, which pixels from 0 to 255 do not fit: export the model with a float32 or uint8 input"
    )]
    Narrow { input: String, element: Element },
    #[error(
        "the model has {} outputs that may be class scores: name one in model.toml, output = \"NAME\": {}",
        names.len(), names.join(", ")
    )]
    Several { names: Vec<String> },
    #[error("no output holds class scores as floats [batch, classes]: {}; export the model with its scores", outputs.join(", "))]
    NoScores { outputs: Vec<String> },
    #[error(
        "output {name} ends in node {node} ({op}), which chooses a class: {reason}; export the model with its scores"
    )]
    Chosen {
        name: String,
        node: String,
        op: String,
        reason: String,
    },
    #[error(
        "output {name} is {found}: an embedding is [batch, numbers], with its size in the file"
    )]
    NoVector { name: String, found: String },
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

/// The adapted graph.
pub(super) struct Ends {
    pub graph: Graph,
    /// The name of its input: another where derived graphs use the model's own, or need floats.
    pub input: String,
    /// The name of the output that was chosen.
    pub output: String,
    /// Whether two classes were made of a Sigmoid over one score.
    pub is_binary: bool,
    pub warnings: Vec<String>,
    /// What the adapted input means for derivatives.
    pub notes: Vec<String>,
}

/// `said` is what model.toml says of them.
pub(super) fn adapt(graph: Graph, said: Said<'_>) -> Result<Ends, EndsError> {
    let Said {
        input,
        output,
        scores,
        kind,
    } = said;
    // Doubles inside of a float32 network stay.
    let mut ends = graph.inputs.iter().chain(&graph.outputs);
    let doubles = ends.any(|info| info.value_type.element == Element::Double);
    let mut graph = passes::single(graph, doubles)?;
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    let fed = take_floats(&mut graph, input, &mut warnings, &mut notes)?;
    let name = choose_output(&graph, output)?;
    let chosen = before_choice(&graph, &name, &mut warnings)?;
    let declared = graph
        .outputs
        .iter()
        .find(|output| output.name == chosen)
        .map(|output| output.value_type.clone());
    let value_type = infer(&graph)?.get(&chosen).cloned().or(declared);
    let value_type = value_type.ok_or_else(|| EndsError::NoScores {
        outputs: vec![chosen.clone()],
    })?;
    let mut info = ValueInfo {
        name: chosen,
        value_type,
    };
    if scores == Some(Scores::MultiLabel) {
        info = sigmoids(&mut graph, info);
    }
    let logit = binary_logit(&graph, &info).filter(|_| kind == OutputKind::Classes);
    graph.is_regression = kind != OutputKind::Classes;
    if kind == OutputKind::Embedding {
        info = unit_vector(&mut graph, info)?;
    } else if let Some(logit) = &logit {
        info = two_classes(&mut graph, logit, info.value_type);
    } else if kind == OutputKind::Classes
        && holds_shares(&graph, &info.name, scores)
        && !ends_in_softmax(&graph, &info.name)
    {
        if scores.is_none() {
            warnings.push(format!(
                "output {} is made of Softmaxes, shares or votes, and taken for probabilities: their logarithms stand for logits",
                info.name
            ));
        }
        info = logarithms(&mut graph, info);
    }
    let output = info.name.clone();
    graph.outputs = vec![info];
    let graph = passes::prune(graph)?;
    refuse_choices(&graph, input, &output)?;
    Ok(Ends {
        graph,
        input: fed,
        output: name,
        is_binary: logit.is_some(),
        warnings,
        notes,
    })
}

/// Makes an integer input float32 where the graph makes floats of it after moving its numbers
/// alone: differentiable. Else a Cast to integers stands in front of the graph. So does an Identity
/// where derived graphs have an input or output of this name. Returns the name of the input then.
fn take_floats(
    graph: &mut Graph,
    input: &str,
    warnings: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<String, EndsError> {
    let Some(info) = graph.inputs.iter_mut().find(|info| info.name == input) else {
        return Ok(input.to_owned());
    };
    let element = std::mem::replace(&mut info.value_type.element, Element::Float);
    if matches!(element, Element::Int8 | Element::Bool) {
        return Err(EndsError::Narrow {
            input: input.to_owned(),
            element,
        });
    }
    if element != Element::Float {
        if let Err(node) = pixels::as_floats(graph, input, element, warnings) {
            warnings.push(format!(
                "input {input} is {element}, and node {node} needs it so: no gradient reaches it; export the model with a float32 input"
            ));
            let code = element as i64;
            return Ok(stand_in_front(graph, input, |names| {
                Node::new("Cast", names, [input]).with("to", code)
            }));
        }
        notes.push(format!(
            "input {input} is {element}: what is explained is the network behind the floats that it makes of the pixels, and derivatives are by these numbers from 0 to 255"
        ));
    }
    if autodiff::is_reserved(input) {
        let node = |names: [&str; 1]| Node::new("Identity", names, [input]);
        return Ok(stand_in_front(graph, input, node));
    }
    Ok(input.to_owned())
}

/// Puts a node in front of the graph that makes `input` of a new input; returns its name.
fn stand_in_front(graph: &mut Graph, input: &str, node: impl FnOnce([&str; 1]) -> Node) -> String {
    let name = Names::of(graph).fresh(&format!("{input}.input"));
    graph.nodes.insert(0, node([&name]));
    let infos = graph.inputs.iter_mut();
    infos
        .filter(|info| info.name == input)
        .for_each(|info| info.name.clone_from(&name));
    name
}

/// Ops that keep the elements of their first input in their order.
const LAYOUT: &[&str] = &[
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
];

/// Whether the value has logits in front: derived graphs find them.
fn ends_in_softmax(graph: &Graph, value: &str) -> bool {
    let node = last_node(graph, value, LAYOUT);
    node.is_some_and(|node| node.is("Softmax") || node.is("Sigmoid"))
}

/// Whether a value holds probabilities: `scores` says so, or it is made of Softmaxes by ops that
/// clip, scale or add them up.
fn holds_shares(graph: &Graph, value: &str, scores: Option<Scores>) -> bool {
    let is_made = |value: &str| is_made_of_softmax(graph, value, &mut HashSet::new(), 0);
    scores.map_or_else(|| is_made(value), |scores| scores == Scores::Probabilities)
}

/// `seen` are values that were looked at: all have to be made so, and each is looked at once.
fn is_made_of_softmax<'g>(
    graph: &'g Graph,
    value: &'g str,
    seen: &mut HashSet<&'g str>,
    depth: usize,
) -> bool {
    const DEEPEST: usize = 16;
    if !seen.insert(value) {
        return true;
    }
    let Some(node) = last_node(graph, value, LAYOUT).filter(|_| depth < DEEPEST) else {
        return graph.nodes.iter().any(|node| is_vote(node, value));
    };
    let is_constant = |input: &&String| graph.initializers.contains_key(*input);
    let mut of = |input: &'g String| is_made_of_softmax(graph, input, seen, depth + 1);
    let mut varying = node.inputs.iter().filter(|input| !is_constant(input));
    match node.op_type.as_str() {
        "Softmax" => true,
        "Clip" => node.inputs.first().is_some_and(&mut of),
        "Div" if is_share(graph, node) => true,
        "LpNormalization" => node.int_or("p", 2) == 1,
        "Mul" | "Div" => varying.next().is_some_and(&mut of) && varying.next().is_none(),
        "Add" | "Sum" | "Mean" => node.inputs.len() > 1 && node.inputs.iter().all(of),
        _ => false,
    }
}

/// x over the sum of its row's magnitudes.
fn is_share(graph: &Graph, node: &Node) -> bool {
    let total = node.input(1).and_then(|total| last_node(graph, total, &[]));
    total.is_some_and(|total| total.is("ReduceL1") && total.input(0) == node.input(0))
}

/// The shares of the trees that are for each class, as a random forest has them.
fn is_vote(node: &Node, value: &str) -> bool {
    let is_forest = node.domain == "ai.onnx.ml" && node.op_type == "TreeEnsembleClassifier";
    let is_plain = node
        .string("post_transform")
        .is_none_or(|after| after == "NONE");
    is_forest && is_plain && node.output(1) == Some(value)
}

/// Sigmoid behind the logits of classes that do not exclude one another; none where there is one.
fn sigmoids(graph: &mut Graph, logits: ValueInfo) -> ValueInfo {
    let has_one = last_node(graph, &logits.name, LAYOUT).is_some_and(|node| node.is("Sigmoid"));
    if has_one {
        return logits;
    }
    let name = Names::of(graph).fresh(&format!("{}.probabilities", logits.name));
    graph.nodes.push(Node::new(
        "Sigmoid",
        [logits.name.as_str()],
        [name.as_str()],
    ));
    ValueInfo { name, ..logits }
}

/// x / |x|, with 1e-12 where |x| is less, as PyTorch's `normalize` has it.
fn unit_vector(graph: &mut Graph, vector: ValueInfo) -> Result<ValueInfo, EndsError> {
    let mut names = Names::of(graph);
    let mut value = |role: &str| names.fresh(&format!("{}.{role}", vector.name));
    let [shape, flat, squares, total, length, least, divisor, unit] = [
        "flat_shape",
        "flat",
        "squares",
        "total",
        "length",
        "least",
        "divisor",
        "unit",
    ]
    .map(&mut value);
    let rest = vector.value_type.shape.get(1..).unwrap_or_default();
    let sizes = rest.iter().map(Dim::known).collect::<Option<Vec<_>>>();
    let size = sizes.map(|sizes| sizes.iter().product::<usize>());
    let Some(size) = size.filter(|&size| size > 0 && !rest.is_empty()) else {
        return Err(EndsError::NoVector {
            name: vector.name,
            found: vector.value_type.to_string(),
        });
    };
    let ones = value("ones");
    graph.initializers.extend([
        (shape.clone(), Literal::vector_i64(&[-1, size as i64])),
        (least.clone(), Literal::scalar_f32(1e-12)),
        (
            ones.clone(),
            Literal::from_f32s(&[size, 1], &vec![1.0; size]),
        ),
    ]);
    // A product with ones is a sum in every opset.
    graph.nodes.extend([
        Node::new("Reshape", [vector.name.as_str(), &shape], [flat.as_str()]),
        Node::new("Mul", [flat.as_str(), &flat], [squares.as_str()]),
        Node::new("MatMul", [squares.as_str(), &ones], [total.as_str()]),
        Node::new("Sqrt", [total.as_str()], [length.as_str()]),
        Node::new("Max", [length.as_str(), &least], [divisor.as_str()]),
        Node::new("Div", [flat.as_str(), &divisor], [unit.as_str()]),
    ]);
    let batch = vector.value_type.shape.first().cloned();
    let shape = batch.into_iter().chain([Dim::Known(size)]).collect();
    Ok(ValueInfo {
        name: unit,
        value_type: ValueType {
            shape,
            ..vector.value_type
        },
    })
}

/// `log p` for probabilities p, and a Softmax behind it, which gives p again.
fn logarithms(graph: &mut Graph, shares: ValueInfo) -> ValueInfo {
    let mut names = Names::of(graph);
    let mut value = |role: &str| names.fresh(&format!("{}.{role}", shares.name));
    let [least, above, logits, probabilities] =
        ["least", "above", "logits", "probabilities"].map(&mut value);
    graph
        .initializers
        .insert(least.clone(), Literal::scalar_f32(f32::MIN_POSITIVE));
    graph.nodes.extend([
        Node::new("Max", [shares.name.as_str(), &least], [above.as_str()]),
        Node::new("Log", [above.as_str()], [logits.as_str()]),
        Node::new("Softmax", [logits.as_str()], [probabilities.as_str()]).with("axis", 1_i64),
    ]);
    ValueInfo {
        name: probabilities,
        ..shares
    }
}

/// Ops whose output is a decision or a table entry chosen by the scores: no gradient flows through
/// them.
const DECISIONS: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Hardmax",
    "OneHot",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Equal",
    "And",
    "Or",
    "Xor",
    "Not",
    "NonZero",
    "IsNaN",
    "IsInf",
];

/// Refuses a graph whose output depends on the input only through decisions; the error names the
/// last one.
fn refuse_choices(graph: &Graph, input: &str, output: &str) -> Result<(), EndsError> {
    let mut scores = HashSet::from([input]);
    let mut last = None;
    for node in &graph.nodes {
        // The index of a Gather, the condition of a Where and the indices of a OneHot carry no
        // gradient.
        let from = match node.op_type.as_str() {
            "Gather" | "GatherElements" | "GatherND" => &node.inputs[..node.inputs.len().min(1)],
            "Where" => &node.inputs[node.inputs.len().min(1)..],
            _ => &node.inputs[..],
        };
        let to = node
            .int("to")
            .and_then(|code| Element::from_code(i32::try_from(code).ok()?));
        let is_cast = node.is("Cast") && to.is_some_and(|to| !to.is_float());
        let decides = is_cast || DECISIONS.contains(&node.op_type.as_str());
        let reads = |value: &String| scores.contains(value.as_str());
        if !from.iter().any(reads) && !node.captured().iter().any(reads) {
            continue;
        }
        match decides {
            true => last = Some(node),
            false => scores.extend(node.outputs.iter().map(String::as_str)),
        }
    }
    match last.filter(|_| !scores.contains(output)) {
        None => Ok(()),
        Some(node) => {
            let (name, node, op) = (
                output.to_owned(),
                node.label().to_owned(),
                node.op_type.clone(),
            );
            Err(EndsError::Chosen {
                name,
                node,
                op,
                reason: "no score reaches the output behind it".to_owned(),
            })
        }
    }
}

/// The output with class scores: the named one, the only one, or the only float one of shape
/// `[batch, classes]`.
fn choose_output(graph: &Graph, named: Option<&str>) -> Result<String, EndsError> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    if let [only] = graph.outputs.as_slice() {
        return Ok(only.name.clone());
    }
    let types = infer(graph)?;
    let type_of = |output: &ValueInfo| {
        types
            .get(&output.name)
            .unwrap_or(&output.value_type)
            .clone()
    };
    let floats: Vec<_> = graph
        .outputs
        .iter()
        .filter(|output| type_of(output).element.is_float())
        .collect();
    let vectors: Vec<_> = floats
        .iter()
        .filter(|output| is_vector(&type_of(output)))
        .collect();
    let describe = |output: &ValueInfo| {
        let ValueType { element, shape } = type_of(output);
        let dims = shape
            .iter()
            .map(Dim::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        format!("{} {element} [{dims}]", output.name)
    };
    match (vectors.as_slice(), floats.as_slice()) {
        ([only], _) => Ok(only.name.clone()),
        ([], [only]) => Ok(only.name.clone()),
        ([], []) => Err(EndsError::NoScores {
            outputs: graph.outputs.iter().map(describe).collect(),
        }),
        ([], several) => Err(EndsError::Several {
            names: several.iter().map(|output| describe(output)).collect(),
        }),
        (several, _) => Err(EndsError::Several {
            names: several.iter().map(|output| describe(output)).collect(),
        }),
    }
}

/// The value itself, or the input of the ArgMax or TopK that makes it.
fn before_choice(
    graph: &Graph,
    output: &str,
    warnings: &mut Vec<String>,
) -> Result<String, EndsError> {
    let Some(choice) = last_node(graph, output, LAYOUT)
        .filter(|node| ["ArgMax", "ArgMin", "TopK", "Hardmax"].contains(&node.op_type.as_str()))
    else {
        return Ok(output.to_owned());
    };
    let types = infer(graph)?;
    let refuse = |reason: &str| {
        let (name, node, op) = (
            output.to_owned(),
            choice.label().to_owned(),
            choice.op_type.clone(),
        );
        Err(EndsError::Chosen {
            name,
            node,
            op,
            reason: reason.to_owned(),
        })
    };
    let default_axis = if choice.is("ArgMax") { 0 } else { -1 };
    let (Some(scores), "ArgMax" | "TopK") = (choice.input(0), choice.op_type.as_str()) else {
        return refuse("only ArgMax and TopK over class scores are left out");
    };
    let Some(scores_type) = types
        .get(scores)
        .filter(|found| found.element.is_float() && is_vector(found))
    else {
        return refuse("what it chooses from is not [batch, classes]");
    };
    let rank = scores_type.shape.len() as i64;
    let axis = choice.int_or("axis", default_axis);
    if ![1, 1 - rank].contains(&axis) {
        return refuse("it does not choose along the classes");
    }
    warnings.push(format!(
        "output {output} is the choice of node {} ({}): the scores in front of it, {scores}, are what is predicted and explained",
        choice.label(),
        choice.op_type
    ));
    Ok(scores.to_owned())
}

/// The node that produces a value, skipping ops of `passed`.
fn last_node<'a>(graph: &'a Graph, value: &str, passed: &[&str]) -> Option<&'a Node> {
    let mut value = value;
    for node in graph
        .nodes
        .iter()
        .rev()
        .filter(|node| node.domain.is_empty())
    {
        if !node.outputs.iter().any(|output| output == value) {
            continue;
        }
        if !passed.contains(&node.op_type.as_str()) {
            return Some(node);
        }
        value = node.input(0)?;
    }
    None
}

/// The logit, where a Sigmoid makes the only score of a row.
fn binary_logit(graph: &Graph, scores: &ValueInfo) -> Option<String> {
    let (_, rest) = scores.value_type.shape.split_first()?;
    let passed = [
        "Flatten",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Dropout",
        "Cast",
    ];
    let node = last_node(graph, &scores.name, &passed).filter(|node| node.is("Sigmoid"))?;
    rest.iter()
        .all(|dim| *dim == Dim::Known(1))
        .then(|| node.input(0).map(str::to_owned))?
}

/// Sigmoid over `[-z, z]`: the probabilities of both classes, and their logits.
fn two_classes(graph: &mut Graph, logit: &str, scores: ValueType) -> ValueInfo {
    let mut names = Names::of(graph);
    let mut value = |role: &str| names.fresh(&format!("{logit}.{role}"));
    let [shape, column, negative, both, probabilities] = [
        "column_shape",
        "positive",
        "negative",
        "both",
        "probabilities",
    ]
    .map(&mut value);
    graph
        .initializers
        .insert(shape.clone(), Literal::vector_i64(&[-1, 1]));
    graph.nodes.extend([
        Node::new("Reshape", [logit, &shape], [column.as_str()]),
        Node::new("Neg", [column.as_str()], [negative.as_str()]),
        Node::new("Concat", [negative.as_str(), &column], [both.as_str()]).with("axis", 1_i64),
        Node::new("Sigmoid", [both.as_str()], [probabilities.as_str()]),
    ]);
    let batch = scores.shape.first().cloned().unwrap_or(Dim::Known(1));
    let value_type = ValueType {
        element: scores.element,
        shape: vec![batch, Dim::Known(2)],
    };
    ValueInfo {
        name: probabilities,
        value_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fourteen sums of eight times the sum before: 8^14 ways lead to the Softmax.
    #[test]
    fn each_value_of_a_chain_of_sums_is_looked_at_once() {
        let mut graph = Graph::default();
        graph.nodes.push(Node::new("Softmax", ["x"], ["sum0"]));
        for step in 0..14 {
            let before = format!("sum{step}");
            let node = Node::new("Sum", ["x"], [format!("sum{}", step + 1).as_str()]);
            graph.nodes.push(Node {
                inputs: vec![before; 8],
                ..node
            });
        }
        assert!(holds_shares(&graph, "sum14", None));
        let last = graph.nodes.last_mut().unwrap();
        last.inputs[7] = "x".into();
        assert!(!holds_shares(&graph, "sum14", None));
    }
}
