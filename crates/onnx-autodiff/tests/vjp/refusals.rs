//! What has no rule is refused with the node's name, its op and the reason.

use onnx_autodiff::{autodiff::spec::RuleSetId, onnx::graph::Graph};

use crate::{
    case::{Case, In},
    run::{derive, spec},
};

fn refusal(source: &Graph) -> String {
    let derived = derive(source, &spec(&[RuleSetId::Gradient]), None);
    derived.unwrap_err().to_string()
}

#[test]
fn what_has_no_rule_is_told_by_name() {
    let noise = |shape: &[usize]| In::Noise(shape.to_vec());
    let scales = In::Floats(vec![1.0, 1.0, 0.6, 0.6]);
    let resize = || {
        Case::new(
            "Resize",
            "",
            &[2, 5, 5],
            &[In::X, In::Absent, scales.clone()],
        )
    };
    let parts = [In::Part(0, 1), In::Part(1, 2), In::Part(2, 3)];
    let attention = || Case::new("Attention", "", &[3, 2, 4], &parts).opset(23);
    let recurrent = |op, gates: usize| {
        let weights = [In::X, noise(&[1, 2 * gates, 3]), noise(&[1, 2 * gates, 2])];
        Case::new(op, "", &[4, 3], &weights).with("hidden_size", 2)
    };
    let cases = [
        (
            Case::new("Einsum", "", &[3, 3], &[In::X]).with("equation", "bii->bi"),
            "a label twice",
        ),
        (
            Case::new("Einsum", "", &[3, 3], &[In::X]).with("equation", "bij->bk"),
            "each label of the output",
        ),
        (
            resize()
                .with("mode", "linear")
                .with("coordinate_transformation_mode", "tf_crop_and_resize"),
            "tf_crop_and_resize",
        ),
        (
            Case::new(
                "ScatterElements",
                "",
                &[4, 2],
                &[In::X, In::Order(2), In::Part(0, 2)],
            )
            .with("axis", 1)
            .with("reduction", "mul"),
            "reduction mul",
        ),
        (
            attention()
                .with("qk_matmul_output_mode", 2)
                .outputs(4, &[0, 3]),
            "qk_matmul_output_mode 2",
        ),
        (recurrent("LSTM", 4), "recurrent layers"),
        (recurrent("GRU", 3), "recurrent layers"),
        (recurrent("RNN", 1), "recurrent layers"),
        (
            Case::new("Bernoulli", "", &[3], &[In::X]),
            "export the model for evaluation",
        ),
        (
            Case::new("FusedMatMul", "", &[3, 3], &[In::X, In::X])
                .with("transBatchA", 1)
                .domain("com.microsoft"),
            "transBatchA",
        ),
        (
            Case::new("MultiHeadAttention", "", &[3, 4], &[In::X, In::X, In::X])
                .with("num_heads", 2)
                .domain("com.microsoft"),
            "without fusing attention",
        ),
        (
            Case::new("Conv", "", &[8, 4, 4], &[In::X, noise(&[8, 8, 3, 3])])
                .domain("com.microsoft.nchwc"),
            "at the extended level at most",
        ),
    ];
    let unlike = cases.iter().filter_map(|(case, reason)| {
        let error = refusal(&case.graph());
        let told = error.contains(case.op) && error.contains(reason);
        (!told).then(|| format!("{} ({reason}): {error}", case.op))
    });
    let unlike: Vec<String> = unlike.collect();
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}
