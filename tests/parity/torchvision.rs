//! torchvision's classifiers as PyTorch exports them: derived gradients against PyTorch autograd in f64 (generate.py tells what is stored).

use std::{fs, iter};

use explaind::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    onnx::read_model,
    tensor::Tensor,
};
use ndarray::{Axis, IxDyn};
use serde::Deserialize;

use crate::{
    session::{distance, open, run, sample},
    stored,
};

const LOGITS: f64 = 1e-5;
/// 2^-23: between two neighbours of 2^24 numbers in [-1, 1).
const STEP: f32 = 1.0 / 8_388_608.0;

macro_rules! nets {
    ($($net:ident)*) => {
        $(#[test] fn $net() { agrees_with_pytorch(stringify!($net)) })*

        #[test]
        fn every_stored_net_is_tested() {
            let stored = files().into_iter().filter_map(|name| name.strip_suffix(".safetensors").map(str::to_owned));
            assert_eq!(stored.collect::<Vec<_>>(), [$(stringify!($net)),*]);
        }
    };
}

nets! {
    alexnet densenet121 efficientnet_b0 googlenet inception_v3 mnasnet mobilenet_v2 mobilenet_v2_bn mobilenet_v3_large mobilenet_v3_small regnet_x regnet_y
    resnet18 resnet18_bn resnet50 resnext50 shufflenet_v2 squeezenet1_0 squeezenet1_1 vgg11 vgg16 vgg16_bn
}

/// Names of the stored files, sorted.
fn files() -> Vec<String> {
    let folder = fs::read_dir(stored::path("torchvision")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[derive(Deserialize)]
struct Drawn {
    seed: u64,
    scale: f32,
    shape: Vec<usize>,
}

/// Numbers in [-1, 1) by splitmix64: generate.py draws the same.
fn uniform(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    (1..=count as u64).map(move |index| {
        let z = (seed << 32).wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 * STEP - 1.0
    })
}

/// A batch of up to two samples: the stored input, then another, for an answer must not depend on who shares its batch.
fn batch(input: &Drawn, rows: usize) -> Tensor {
    let pixels: Vec<f32> = uniform(input.seed, input.shape.iter().product()).map(|u| input.scale * u).collect();
    let other = pixels.iter().rev().copied().collect();
    let pair = [pixels, other].map(|pixels| Tensor::from_shape_vec(input.shape.clone(), pixels).unwrap());
    ndarray::stack(Axis(0), &pair.each_ref().map(|tensor| tensor.view())[..rows]).unwrap()
}

fn agrees_with_pytorch(net: &str) {
    let reference = stored::read(&format!("torchvision/{net}.safetensors"));
    let (input, target): (Drawn, usize) = (reference.json("input"), reference.json("target"));
    let logits = reference.floats("logits").unwrap();
    let rule_sets = [RuleSetId::Gradient, RuleSetId::GuidedBackprop, RuleSetId::Deconvnet];
    let maps: Vec<_> = rule_sets.into_iter().filter_map(|set| Some((set, reference.floats(set.id())?))).collect();
    let spec = DeriveSpec {
        rule_sets: maps.iter().map(|(set, _)| *set).collect(),
        wrt: Wrt::Input,
        head: Head::Logits,
        seed: SeedRule::One,
        pattern_layers: PatternLayers::All,
    };

    let scratch = tempfile::tempdir().unwrap();
    let mut weights = Vec::new();
    for (seed, shift, scale, count) in reference.json::<Vec<(u64, f32, f32, usize)>>("weights") {
        uniform(seed, count).for_each(|u| weights.extend_from_slice(&(shift + scale * u).to_le_bytes()));
    }
    fs::write(scratch.path().join("weights.bin"), weights).unwrap();

    let mut faults = Vec::new();
    let exports = files().into_iter().filter(|name| name.starts_with(&format!("{net}.")) && name.ends_with(".onnx"));
    for export in exports {
        let path = scratch.path().join(&export);
        fs::copy(stored::path("torchvision").join(&export), &path).unwrap();
        let source = read_model(&path).unwrap_or_else(|error| panic!("{export}: {error}"));
        // A graph exported for a batch of one stays so.
        let rows = source.inputs[0].value_type.shape[0].known().unwrap_or(2);
        let batch = batch(&input, rows);
        let mut seed = Tensor::zeros(IxDyn(&[rows, logits.len()]));
        for (mut row, class) in iter::zip(seed.rows_mut(), [target, 0]) {
            row[class] = 1.0;
        }
        let forward = run(&mut open(&source), &[("input", &batch)]).swap_remove("logits").unwrap();
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
                faults.push(format!("{export}: {what} is {gap:.1e} away, more than {tolerance:.1e}"));
            }
        };
        compare("logits of the export", &sample(&forward, 0), &logits, LOGITS);
        for row in 0..rows {
            compare("derived logits", &sample(&answers["logits"], row), &sample(&forward, row), LOGITS);
        }
        for (set, expected) in &maps {
            compare(set.id(), &sample(&answers[set.id()], 0), expected, reference.tolerance("gradient"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
