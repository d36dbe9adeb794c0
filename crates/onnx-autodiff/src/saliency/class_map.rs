//! Grad-CAM and its kin in a graph.

use super::{MAP, Open, Saliency, Weights, seed};
use crate::{
    autodiff::{
        DeriveError,
        emit::{Emitter, attributes},
        spec::{DeriveSpec, Layer, PatternLayers, RuleSetId, Wrt},
    },
    onnx::graph::{Dim, Graph},
};

pub(super) struct ClassMap<'a> {
    pub layer: &'a Layer,
    pub weights: Weights,
    pub guided: bool,
    pub channels_last: bool,
}

/// The map `[batch, 1, height, width]`, or with the channel last; guided, in the input's shape.
pub(super) fn class_map(
    derived: &dyn Fn(&DeriveSpec) -> Result<Graph, DeriveError>,
    ClassMap {
        layer,
        weights,
        guided,
        channels_last,
    }: ClassMap<'_>,
    saliency: &Saliency,
) -> Result<(Emitter, String), DeriveError> {
    let gradient = RuleSetId::Gradient;
    let mut spec = DeriveSpec {
        rule_sets: vec![gradient],
        outputs: vec![layer.name.clone()],
        wrt: vec![Wrt::Activation(layer.name.clone())],
        pattern_layers: PatternLayers::All,
        ..saliency.spec.clone()
    };
    if guided {
        let others = saliency.spec.rule_sets.iter().filter(|id| **id != gradient);
        spec.rule_sets.extend(others);
        spec.wrt.push(Wrt::Input);
        spec.pattern_layers = saliency.spec.pattern_layers.clone();
    }
    let mut open = Open::of(derived(&spec)?)?;
    let target = seed::seed(&mut open.emit, &saliency.target)?;
    open.give("seed", &target);
    // Cotangents of the first rule set, of the last, and the layer's value.
    let count = spec.rule_sets.len() * spec.wrt.len();
    let (cotangent, guide, value) = (
        open.output(2)?,
        open.output(1 + count)?,
        open.output(2 + count)?,
    );
    let Open { mut emit, input } = open;
    emit.set_scope(MAP.into());
    let value = by_channel(&mut emit, &value, layer)?;
    let cotangent = by_channel(&mut emit, &cotangent, layer)?;
    let weights = match weights {
        Weights::Mean => emit.reduce_mean(&cotangent, &[2, 3])?,
        Weights::Positive => emit.unary("Relu", &cotangent)?,
        Weights::Own => cotangent,
    };
    let weighted = emit.mul(&weights, &value)?;
    let sum = emit.reduce_sum(&weighted, &[1])?;
    let mut map = emit.unary("Relu", &sum)?;
    if guided || saliency.upsample {
        let first = if channels_last { 1 } else { 2 };
        let sides = [emit.size(&input, first)?, emit.size(&input, first + 1)?];
        map = resize(&mut emit, &map, sides)?;
    }
    if channels_last {
        map = emit.transpose(&map, &[0, 2, 3, 1])?;
    }
    if guided {
        map = emit.mul(&map, &guide)?;
    }
    Ok((emit, map))
}

/// `[batch, channels, height, width]` of a value of the layer.
fn by_channel(emit: &mut Emitter, value: &str, layer: &Layer) -> Result<String, DeriveError> {
    let grid = layer.grid;
    let shape = emit.shape(value)?;
    let channels = grid.channels + 1;
    let others = (1..shape.len()).filter(|axis| *axis != channels);
    let order: Vec<usize> = [0, channels].into_iter().chain(others).collect();
    let mut turned = value.to_owned();
    if !order.is_sorted() {
        turned = emit.transpose(&turned, &order)?;
    }
    let count = layer.shape[grid.channels];
    let (places, inside) = (
        layer.shape.iter().product::<usize>() / count.max(1),
        grid.height * grid.width,
    );
    if places != inside {
        let (batch, count) = (shape[0].clone(), count.into());
        turned = emit.reshape(&turned, &[batch, count, places.into()])?;
        turned = emit.slice(&turned, &[(2, grid.first, grid.first + inside)])?;
    }
    let sides = [count, grid.height, grid.width].map(Dim::Known);
    let shape: Vec<Dim> = [shape[0].clone()].into_iter().chain(sides).collect();
    emit.reshape(&turned, &shape)
}

/// To this height and width.
fn resize(emit: &mut Emitter, map: &str, sides: [usize; 2]) -> Result<String, DeriveError> {
    let mut output = emit.value_type(map)?;
    if output.shape[2..] == sides.map(Dim::Known) {
        return Ok(map.to_owned());
    }
    output.shape[2..].clone_from_slice(&sides.map(Dim::Known));
    let shape = emit.shape_of(map)?;
    let kept = emit.slice(&shape, &[(0, 0, 2)])?;
    let sides = emit.i64s(&sides.map(|side| side as i64));
    let sizes = emit.concat(&[&kept, &sides], 0)?;
    let bilinear = attributes([
        ("mode", "linear".into()),
        ("coordinate_transformation_mode", "half_pixel".into()),
    ]);
    Ok(emit.node("Resize", &[map, "", "", &sizes], bilinear, output))
}
