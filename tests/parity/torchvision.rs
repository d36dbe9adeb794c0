//! torchvision's classifiers as PyTorch exports them: derived gradients against PyTorch autograd in
//! f64 (generate.py tells what is stored).

use std::{fs, iter, path::Path};

use explaind::tensor::Tensor;
use ndarray::{Axis, IxDyn};
use onnx_autodiff::{
    autodiff::{
        derive, spatial_layers,
        spec::{DeriveSpec, RuleSetId},
    },
    onnx::{
        graph::{Dim, Graph},
        read_model,
    },
};
use serde::Deserialize;

use crate::{
    session::{distance, open, run, sample},
    stored,
};

pub const LOGITS: f64 = 1e-5;
/// 2^-23: between two neighbours of 2^24 numbers in [-1, 1).
const STEP: f32 = 1.0 / 8_388_608.0;

stored::nets! { "torchvision":
    alexnet densenet121 efficientnet_b0 googlenet inception_v3 mnasnet mobilenet_v2 mobilenet_v2_bn mobilenet_v3_large mobilenet_v3_small regnet_x regnet_y
    resnet18 resnet18_bn resnet50 resnext50 shufflenet_v2 squeezenet1_0 squeezenet1_1 vgg11 vgg16 vgg16_bn
}

/// What Grad-CAM looks at by default: the op that makes it, and its shape.
const LAYERS: &[(&str, &str, [usize; 3])] = &[
    ("alexnet", "Relu", [256, 5, 5]),
    ("densenet121", "Relu", [1024, 2, 2]),
    ("efficientnet_b0", "Mul", [1280, 2, 2]),
    ("googlenet", "Concat", [1024, 2, 2]),
    ("inception_v3", "Concat", [2048, 8, 8]),
    ("mnasnet", "Relu", [1280, 2, 2]),
    ("mobilenet_v2", "Clip", [1280, 2, 2]),
    ("mobilenet_v2_bn", "Clip", [1280, 2, 2]),
    ("mobilenet_v3_large", "HardSwish", [960, 2, 2]),
    ("mobilenet_v3_small", "HardSwish", [576, 2, 2]),
    ("regnet_x", "Relu", [400, 2, 2]),
    ("regnet_y", "Relu", [440, 2, 2]),
    ("resnet18", "Relu", [512, 2, 2]),
    ("resnet18_bn", "Relu", [512, 2, 2]),
    ("resnet50", "Relu", [2048, 2, 2]),
    ("resnext50", "Relu", [2048, 2, 2]),
    ("shufflenet_v2", "Relu", [1024, 2, 2]),
    ("squeezenet1_0", "Relu", [20, 3, 3]),
    ("squeezenet1_1", "Relu", [20, 3, 3]),
    ("vgg11", "Relu", [512, 4, 4]),
    ("vgg16", "Relu", [512, 4, 4]),
    ("vgg16_bn", "Relu", [512, 4, 4]),
];

#[derive(Deserialize)]
pub struct Drawn {
    pub seed: u64,
    pub scale: f32,
    pub shape: Vec<usize>,
}

impl Drawn {
    pub fn values(&self) -> Vec<f32> {
        uniform(self.seed, self.shape.iter().product())
            .map(|u| self.scale * u)
            .collect()
    }
}

/// Numbers in [-1, 1) by splitmix64: generate.py draws the same.
pub fn uniform(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    (1..=count as u64).map(move |index| {
        let z = (seed << 32).wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 * STEP - 1.0
    })
}

/// A batch of up to two samples: the stored input, then another, for an answer must not depend on
/// who shares its batch.
pub fn batch(input: &Drawn, rows: usize) -> Tensor {
    let pixels = input.values();
    let other = pixels.iter().rev().copied().collect();
    let pair =
        [pixels, other].map(|pixels| Tensor::from_shape_vec(input.shape.clone(), pixels).unwrap());
    ndarray::stack(
        Axis(0),
        &pair.each_ref().map(|tensor| tensor.view())[..rows],
    )
    .unwrap()
}

/// Writes the weights that the metadata tells, for exports to be read there.
pub fn write_weights(reference: &stored::Stored, folder: &Path) {
    let mut weights = Vec::new();
    for (seed, shift, scale, count) in reference.json::<Vec<(u64, f32, f32, usize)>>("weights") {
        uniform(seed, count)
            .for_each(|u| weights.extend_from_slice(&(shift + scale * u).to_le_bytes()));
    }
    fs::write(folder.join("weights.bin"), weights).unwrap();
}

/// An export whose weights were written to `folder`.
pub fn read_export(export: &str, folder: &Path) -> Graph {
    let path = folder.join(export);
    fs::copy(stored::path("torchvision").join(export), &path).unwrap();
    read_model(&path).unwrap_or_else(|error| panic!("{export}: {error}"))
}

/// What is wrong with the default layer. Inception's last layers have more than one pixel at its
/// own input size alone.
fn layer_fault(net: &str, source: &Graph) -> Option<String> {
    let (_, op, shape) = LAYERS.iter().find(|row| row.0 == net)?;
    let mut source = source.clone();
    if net == "inception_v3" {
        source.inputs[0].value_type.shape[2..].fill(Dim::Known(299));
    }
    let layer = spatial_layers(&source).unwrap().pop()?;
    let made_by = &source
        .nodes
        .iter()
        .find(|node| node.outputs.contains(&layer.name))?
        .op_type;
    // Before opset 14 HardSwish was written out.
    let fits = made_by == op || (*op == "HardSwish" && ["Mul", "Div"].contains(&made_by.as_str()));
    (!fits || layer.shape != *shape)
        .then(|| format!("the default layer is {made_by} {:?}", layer.shape))
}

fn agrees_with_pytorch(net: &str) {
    let reference = stored::read(&format!("torchvision/{net}.safetensors"));
    let (input, target): (Drawn, usize) = (reference.json("input"), reference.json("target"));
    let logits = reference.floats("logits").unwrap();
    let rule_sets = [
        RuleSetId::Gradient,
        RuleSetId::GuidedBackprop,
        RuleSetId::Deconvnet,
    ];
    let maps: Vec<_> = rule_sets
        .into_iter()
        .filter_map(|set| Some((set, reference.floats(set.id())?)))
        .collect();
    let spec = DeriveSpec::of(maps.iter().map(|(set, _)| *set).collect::<Vec<_>>());

    let scratch = tempfile::tempdir().unwrap();
    write_weights(&reference, scratch.path());

    assert!(LAYERS.iter().any(|row| row.0 == net));
    let mut faults = Vec::new();
    for export in stored::exports("torchvision", net) {
        let source = read_export(&export, scratch.path());
        faults.extend(layer_fault(net, &source).map(|fault| format!("{export}: {fault}")));
        // A graph exported for a batch of one stays so.
        let rows = source.inputs[0].value_type.shape[0].known().unwrap_or(2);
        let batch = batch(&input, rows);
        let mut seed = Tensor::zeros(IxDyn(&[rows, logits.len()]));
        for (mut row, class) in iter::zip(seed.rows_mut(), [target, 0]) {
            row[class] = 1.0;
        }
        let forward = run(&mut open(&source), &[("input", &batch)])
            .swap_remove("logits")
            .unwrap();
        let derived = match derive(&source, &spec, None) {
            Ok(derived) => derived.graph,
            Err(error) => {
                faults.push(format!("{export}: {error}"));
                continue;
            }
        };
        let answers = run(&mut open(&derived), &[("input", &batch), ("seed", &seed)]);
        let mut compare = |what: &str, found: &[f32], expected: &[f32], tolerance: f64| {
            let gap = distance(found, expected);
            println!("{export}: {what} {gap:.1e} of {tolerance:.1e}");
            if gap.is_nan() || gap > tolerance {
                faults.push(format!(
                    "{export}: {what} is {gap:.1e} away, more than {tolerance:.1e}"
                ));
            }
        };
        compare(
            "logits of the export",
            &sample(&forward, 0),
            &logits,
            LOGITS,
        );
        for row in 0..rows {
            compare(
                "derived logits",
                &sample(&answers["logits"], row),
                &sample(&forward, row),
                LOGITS,
            );
        }
        for (set, expected) in &maps {
            compare(
                set.id(),
                &sample(&answers[set.id()], 0),
                expected,
                reference.tolerance("gradient"),
            );
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
