//! Renames values of a graph to their public names and makes them outputs. Other values with such a
//! name are renamed.

use super::{emit::Emitter, spec::RuleSetId};
use crate::onnx::graph::{Graph, ValueInfo};

/// Whether derived graphs have an input or output of this name, so that a model's input cannot have
/// it.
pub fn is_reserved(name: &str) -> bool {
    let own = [
        "seed",
        "target",
        "logits",
        "probabilities",
        "loss",
        "activation",
    ];
    own.contains(&name) || RuleSetId::ALL.iter().any(|set| set.id() == name)
}

/// Makes each (value, public name) an output, in this order. No nodes may be emitted afterwards.
pub(super) fn publish(
    mut emit: Emitter,
    wanted: &[(String, String)],
) -> Result<Graph, super::DeriveError> {
    let taken: Vec<String> = emit
        .graph
        .inputs
        .iter()
        .map(|input| input.name.clone())
        .collect();
    let clash: Vec<String> = wanted
        .iter()
        .filter(|(_, public)| taken.contains(public))
        .map(|(_, public)| public.clone())
        .collect();
    if !clash.is_empty() {
        return Err(super::DeriveError::ReservedInput { names: clash });
    }
    emit.graph.outputs.clear();
    emit.set_scope("outputs".into());
    let mut used: Vec<String> = Vec::new();
    for (value, _) in wanted {
        let value_type = emit.value_type(value)?;
        let fixed = taken.contains(value) || used.contains(value) || emit.literal(value).is_some();
        let source = if fixed {
            emit.unary("Identity", value)?
        } else {
            value.clone()
        };
        emit.graph.outputs.push(ValueInfo {
            name: source.clone(),
            value_type,
        });
        used.push(source);
    }
    for (index, (_, public)) in wanted.iter().enumerate() {
        if used[index] == *public {
            continue;
        }
        let aside = emit.fresh(&format!("{public}/source"));
        rename(&mut emit.graph, public, &aside);
        used.iter_mut()
            .filter(|source| *source == public)
            .for_each(|source| source.clone_from(&aside));
    }
    for ((_, public), source) in wanted.iter().zip(&used) {
        rename(&mut emit.graph, source, public);
    }
    Ok(emit.graph)
}

pub(crate) fn rename(graph: &mut Graph, from: &str, to: &str) {
    let nodes = graph
        .nodes
        .iter_mut()
        .flat_map(|node| node.inputs.iter_mut().chain(&mut node.outputs));
    let outputs = graph.outputs.iter_mut().map(|output| &mut output.name);
    nodes
        .chain(outputs)
        .filter(|name| *name == from)
        .for_each(|name| to.clone_into(name));
    if let Some(index) = graph.initializers.get_index_of(from) {
        // Keeps the order, which the written file has too.
        if let Some((_, literal)) = graph.initializers.shift_remove_entry(from) {
            graph
                .initializers
                .shift_insert(index, to.to_owned(), literal);
        }
    }
}
