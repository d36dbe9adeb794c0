//! Vector-Jacobian products of derived graphs, run on ONNX Runtime, against difference quotients
//! and naive twins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod case;
mod cases;
mod explainers;
mod heads;
mod incremental;
mod kinks;
mod limits;
mod models;
mod overlays;
mod parameters;
mod quantised;
mod refusals;
mod relevance;
mod run;

use std::collections::BTreeSet;

use case::{BATCH, Case, noise};
use onnx_autodiff::{
    Tensor,
    autodiff::{differentiable_ops, spec::RuleSetId},
    onnx::graph::Graph,
};
use run::{Net, derive, dot, spec, tensor};

/// Half the distance of the difference quotient: below half the spacing of the inputs, so that no
/// kink lies between.
const STEP: f32 = 4e-3;

#[test]
fn every_rule_has_a_row() {
    let rows: BTreeSet<&str> = cases::all().iter().map(|case| case.op).collect();
    let missing: Vec<&str> = differentiable_ops()
        .filter(|op| !rows.contains(op))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn products_equal_difference_quotients() {
    let faults: Vec<String> = cases::all()
        .iter()
        .filter_map(|case| {
            check(case)
                .err()
                .map(|why| format!("{} ({}): {why}", case.op, case.about))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "{} of the rows:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

fn check(case: &Case) -> Result<(), String> {
    let mut shape = vec![BATCH];
    shape.extend(&case.x);
    agrees(&case.graph(), &tensor(&shape, case.input()), case.tolerance)
}

/// <v, vjp(u)> against <u, f(x + hv) - f(x - hv)> / 2h, and the derived logits against the source's
/// output.
fn agrees(source: &Graph, x: &Tensor, tolerance: f64) -> Result<(), String> {
    let graph =
        derive(source, &spec(&[RuleSetId::Gradient]), None).map_err(|error| error.to_string())?;
    let mut net = Net::open(&graph)?;
    let output = Net::open(source)?
        .run(&[("x", x)])?
        .remove("out")
        .ok_or("no output")?;
    let u = tensor(output.shape(), noise(2, output.len()));
    let v = tensor(x.shape(), noise(3, x.len()));
    let answer = net.run(&[("x", x), ("seed", &u)])?;
    let apart = (&answer["logits"] - &output)
        .iter()
        .fold(0.0f32, |most, d| most.max(d.abs()));
    let scale = output.iter().fold(1.0f32, |most, y| most.max(y.abs()));
    if apart.is_nan() || apart > 1e-5 * scale {
        return Err(format!("logits are {apart} from the source's"));
    }
    let mut at = |sign: f32| net.run(&[("x", &(x + &(&v * (sign * STEP)))), ("seed", &u)]);
    let (above, below) = (at(1.0)?, at(-1.0)?);
    let expected =
        (dot(&u, &above["logits"]) - dot(&u, &below["logits"])) / (2.0 * f64::from(STEP));
    let found = dot(&v, &answer["gradient"]);
    let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
    if close {
        Ok(())
    } else {
        Err(format!("{found}, the difference quotient is {expected}"))
    }
}
