//! What happens where a function has no derivative: decided once, one test each. And the ties of
//! max pools.

use onnx_autodiff::autodiff::spec::RuleSetId;

use crate::{
    case::{Case, In},
    run::{Net, derive, spec, tensor},
};

/// The gradient at `x` (a batch of one) for a seed of ones.
fn gradient(case: &Case, x: &[f32]) -> Vec<f32> {
    let graph = derive(&case.graph(), &spec(&[RuleSetId::Gradient]), None).unwrap();
    let mut shape = vec![1];
    shape.extend(&case.x);
    let x = tensor(&shape, x.to_vec());
    let mut net = Net::open(&graph).unwrap();
    let classes = graph.outputs[0].value_type.shape[1].known().unwrap();
    let seed = tensor(&[1, classes], vec![1.0; classes]);
    net.run(&[("x", &x), ("seed", &seed)]).unwrap()["gradient"]
        .iter()
        .copied()
        .collect()
}

fn unary(op: &'static str, x: &[f32]) -> Vec<f32> {
    gradient(&Case::new(op, "", &[x.len()], &[In::X]), x)
}

const SMALLEST_NORMAL: f32 = f32::MIN_POSITIVE;

#[test]
fn relu_passes_nothing_at_zero_and_all_of_the_smallest_normal_number() {
    let x = [
        -1.0,
        -0.0,
        0.0,
        SMALLEST_NORMAL,
        SMALLEST_NORMAL / 2.0,
        1e-30,
        f32::MAX,
    ];
    assert_eq!(unary("Relu", &x), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn clip_passes_strictly_inside() {
    let next = |bound: f32, down: bool| {
        f32::from_bits(if down {
            bound.to_bits() - 1
        } else {
            bound.to_bits() + 1
        })
    };
    for (low, high) in [(0.0f32, 6.0f32), (0.1, 0.3), (1.5, 1234.567)] {
        let case = Case::new(
            "Clip",
            "",
            &[5],
            &[In::X, In::Scalar(low), In::Scalar(high)],
        );
        let x = [
            low,
            next(low.max(SMALLEST_NORMAL), false),
            next(high, true),
            high,
            high + 1.0,
        ];
        assert_eq!(
            gradient(&case, &x),
            [0.0, 1.0, 1.0, 0.0, 0.0],
            "{low}..{high}"
        );
    }
}

#[test]
fn abs_passes_nothing_at_zero() {
    assert_eq!(unary("Abs", &[-2.0, 0.0, 3.0]), [-1.0, 0.0, 1.0]);
}

#[test]
fn leaky_relu_has_its_left_slope_at_zero() {
    let found = gradient(
        &Case::new("LeakyRelu", "", &[3], &[In::X]).with("alpha", 0.25f32),
        &[-1.0, 0.0, 1.0],
    );
    assert_eq!(found, [0.25, 0.25, 1.0]);
}

#[test]
fn hard_sigmoid_passes_strictly_inside() {
    let case = Case::new("HardSigmoid", "", &[5], &[In::X])
        .with("alpha", 0.25f32)
        .with("beta", 0.5f32);
    assert_eq!(
        gradient(&case, &[-3.0, -2.0, 0.0, 2.0, 3.0]),
        [0.0, 0.0, 0.25, 0.0, 0.0]
    );
}

#[test]
fn max_pool_tie_goes_to_the_first() {
    let pool = |kernel: &[i64], strides: &[i64]| {
        Case::new("MaxPool", "", &[1, 4, 4], &[In::X])
            .ints("kernel_shape", kernel)
            .ints("strides", strides)
    };
    let mut first = [0.0; 16];
    for corner in [0, 2, 8, 10] {
        first[corner] = 1.0;
    }
    assert_eq!(gradient(&pool(&[2, 2], &[2, 2]), &[3.0; 16]), first);
    let mut overlapping = [0.0; 16];
    for corner in [0, 1, 4, 5] {
        overlapping[corner] = 1.0;
    }
    assert_eq!(gradient(&pool(&[3, 3], &[1, 1]), &[3.0; 16]), overlapping);
}

#[test]
fn overlapping_max_pools_add_up_where_they_agree() {
    let case = Case::new("MaxPool", "", &[1, 1, 5], &[In::X])
        .ints("kernel_shape", &[1, 3])
        .ints("strides", &[1, 2]);
    assert_eq!(
        gradient(&case, &[0.0, 1.0, 9.0, 1.0, 0.0]),
        [0.0, 0.0, 2.0, 0.0, 0.0]
    );
}

#[test]
fn global_max_pool_tie_goes_to_the_first() {
    let case = Case::new("GlobalMaxPool", "", &[1, 2, 2], &[In::X]);
    assert_eq!(gradient(&case, &[1.0, 2.0, 2.0, 0.0]), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn reduce_max_tie_goes_to_the_first() {
    let case = Case::new("ReduceMax", "", &[4], &[In::X]).ints("axes", &[1]);
    assert_eq!(gradient(&case, &[1.0, 2.0, 2.0, 0.0]), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn reduce_min_tie_goes_to_the_first() {
    let case = Case::new("ReduceMin", "", &[4], &[In::X]).ints("axes", &[1]);
    assert_eq!(gradient(&case, &[1.0, 0.0, 2.0, 0.0]), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn norms_pass_nothing_at_the_zero_vector() {
    let norm = |op| Case::new(op, "", &[2], &[In::X]).ints("axes", &[1]);
    assert_eq!(gradient(&norm("ReduceL2"), &[0.0, 0.0]), [0.0, 0.0]);
    assert_eq!(gradient(&norm("ReduceL2"), &[3.0, -4.0]), [0.6, -0.8]);
    assert_eq!(gradient(&norm("ReduceL1"), &[0.0, -4.0]), [0.0, -1.0]);
    assert_eq!(unary("LpNormalization", &[0.0, 0.0]), [0.0, 0.0]);
    for p in [1, 2, 3] {
        let pool = |op| Case::new(op, "", &[1, 2, 2], &[In::X]).with("p", p);
        let pools = [
            pool("GlobalLpPool"),
            pool("LpPool").ints("kernel_shape", &[2, 2]),
        ];
        assert!(
            pools
                .iter()
                .all(|pool| gradient(pool, &[0.0; 4]) == [0.0; 4])
        );
    }
}

#[test]
fn a_product_over_zeros_is_that_of_the_others() {
    let product = Case::new("ReduceProd", "", &[3], &[In::X]).ints("axes", &[1]);
    for (x, expected) in [
        ([2.0, 3.0, -5.0], [-15.0, -10.0, 6.0]),
        ([2.0, 0.0, -5.0], [0.0, -10.0, 0.0]),
        ([0.0, 0.0, -5.0], [0.0, 0.0, 0.0]),
    ] {
        assert_eq!(gradient(&product, &x), expected);
    }
}

#[test]
fn powers_of_zero() {
    for (exponent, expected) in [(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)] {
        let case = Case::new("Pow", "", &[1], &[In::X, In::Scalar(exponent)]);
        assert_eq!(gradient(&case, &[0.0]), [expected], "x^{exponent}");
    }
    let varying = Case::new("Pow", "", &[2], &[In::Part(0, 1), In::Part(1, 2)]);
    assert_eq!(gradient(&varying, &[0.0, 0.0]), [0.0, 0.0]);
    assert_eq!(gradient(&varying, &[0.0, 2.0]), [0.0, 0.0]);
    let log_2 = std::f32::consts::LN_2;
    assert_eq!(gradient(&varying, &[2.0, 3.0]), [12.0, 8.0 * log_2]);
}

#[test]
fn a_query_without_keys_gives_and_gets_nothing() {
    let mask = In::Truths(vec![2, 2], vec![true, true, false, false]);
    let parts = [In::Part(0, 1), In::Part(1, 2), In::Part(2, 3), mask];
    let case = Case::new("Attention", "", &[3, 2, 1], &parts).opset(23);
    let found = gradient(&case, &[1.0, 2.0, 0.5, -0.5, 1.0, 3.0]);
    assert!(found.iter().all(|value| value.is_finite()), "{found:?}");
    assert_eq!(found[1], 0.0);
    // The weights of the only other query sum to one.
    assert!((found[4] + found[5] - 1.0).abs() < 1e-6);
}

#[test]
fn max_tie_goes_to_the_first_input() {
    let case = Case::new("Max", "", &[4], &[In::Part(0, 2), In::Part(2, 4)]);
    assert_eq!(gradient(&case, &[1.0, 5.0, 1.0, 2.0]), [1.0, 1.0, 0.0, 0.0]);
}
