//! Ops whose output has the shape of their input, or the broadcast shape of their operands.

use super::site::{Inferred, Site, Stop, one, wrong};
use crate::onnx::graph::{Element, ValueType};

pub fn infer(site: &Site<'_>) -> Option<Inferred> {
    Some(match site.node.op_type.as_str() {
        "Abs"
        | "Acos"
        | "Acosh"
        | "Asin"
        | "Asinh"
        | "Atan"
        | "Atanh"
        | "Celu"
        | "Ceil"
        | "Clip"
        | "Cos"
        | "Cosh"
        | "CumSum"
        | "Elu"
        | "Erf"
        | "Exp"
        | "Floor"
        | "Gelu"
        | "GroupNormalization"
        | "HardSigmoid"
        | "HardSwish"
        | "Hardmax"
        | "Identity"
        | "InstanceNormalization"
        | "LRN"
        | "LayerNormalization"
        | "LeakyRelu"
        | "Log"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Mish"
        | "Neg"
        | "Not"
        | "PRelu"
        | "Reciprocal"
        | "Relu"
        | "Round"
        | "Scatter"
        | "ScatterElements"
        | "ScatterND"
        | "Selu"
        | "Shrink"
        | "Sigmoid"
        | "Sign"
        | "Sin"
        | "Sinh"
        | "Softmax"
        | "Softplus"
        | "Softsign"
        | "Sqrt"
        | "Tan"
        | "Tanh"
        | "ThresholdedRelu"
        | "Trilu" => same(site),
        "BatchNormalization" => batch_normalization(site),
        "Dropout" => site.value_type(0).map(|t| {
            let mask = ValueType {
                element: Element::Bool,
                shape: t.shape.clone(),
            };
            vec![Some(t), Some(mask)]
        }),
        "Cast" | "CastLike" => cast(site),
        "IsNaN" | "IsInf" => site.shape(0).and_then(|shape| one(Element::Bool, shape)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Sum" | "Mean" | "Min" | "Max"
        | "BitShift" => site
            .element(0)
            .and_then(|element| broadcast(site, element, 0)),
        "And" | "Or" | "Xor" | "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => {
            broadcast(site, Element::Bool, 0)
        }
        "Where" => site
            .element(1)
            .and_then(|element| broadcast(site, element, 0)),
        _ => return None,
    })
}

fn same(site: &Site<'_>) -> Inferred {
    site.value_type(0).map(|value_type| vec![Some(value_type)])
}

fn batch_normalization(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    if let (Some(channels), Ok(scale)) = (
        input.shape.get(1).and_then(|dim| dim.known()),
        site.shape(1),
    ) && scale
        .first()
        .and_then(|dim| dim.known())
        .is_some_and(|found| found != channels)
    {
        return wrong(format!(
            "the scale has {} values for {channels} channels",
            scale[0]
        ));
    }
    Ok(vec![Some(input)])
}

fn cast(site: &Site<'_>) -> Inferred {
    let element = if site.node.is("CastLike") {
        site.element(1)?
    } else {
        let code = site
            .node
            .int("to")
            .and_then(|code| i32::try_from(code).ok());
        code.and_then(Element::from_code).ok_or(Stop::Unknown)?
    };
    one(element, site.shape(0)?)
}

fn broadcast(site: &Site<'_>, element: Element, first: usize) -> Inferred {
    let shapes = (first..site.node.inputs.len())
        .map(|i| site.shape(i))
        .collect::<Result<Vec<_>, _>>()?;
    one(element, site.broadcast(&shapes)?)
}
