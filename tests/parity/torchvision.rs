//! torchvision's classifiers as PyTorch exports them: derived gradients against PyTorch autograd in f64 (generate.py tells what is stored).
//! Tolerance: f32 programs differ by rounding, and near a kink by its side. PyTorch's own f32 gradient and f64 gradients with rounding noise
//! in every layer are the yardsticks; four times the larger one covers the other order of sums of ONNX Runtime's kernels.

use std::{collections::HashMap, fs, path::PathBuf};

use explaind::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    onnx::read_model,
    tensor::Tensor,
};
use ndarray::{Axis, IxDyn};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::session::{distance, first, run};

const YARDSTICKS: f64 = 4.0;
/// Units in the last place that a sum of thousands of terms may lose in any order.
const SUMMATION: f64 = 2e-6;
const LOGITS: f64 = 1e-5;

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
    alexnet densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 mnasnet mobilenet_v2 mobilenet_v2_bn
    mobilenet_v3_large mobilenet_v3_small regnet_x regnet_y resnet18 resnet18_bn resnet50 resnext50 shufflenet_v2
    squeezenet1_0 squeezenet1_1 vgg11 vgg16 vgg16_bn
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/torchvision")
}

/// Names of the stored files, sorted.
fn files() -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[derive(Deserialize)]
struct Drawn {
    seed: u64,
    scale: f32,
    shape: Vec<usize>,
}

struct Reference {
    input: Vec<f32>,
    shape: Vec<usize>,
    target: usize,
    tolerance: f64,
    /// What `weights.bin` holds.
    weights: Vec<u8>,
    logits: Vec<f32>,
    maps: Vec<(RuleSetId, Vec<f32>)>,
}

fn read_reference(net: &str) -> Reference {
    let bytes = fs::read(folder().join(format!("{net}.safetensors"))).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata: &HashMap<String, String> = metadata.metadata().as_ref().unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> Option<Vec<f32>> {
        let (chunks, _) = tensors.tensor(name).ok()?.data().as_chunks::<4>();
        Some(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
    };
    let input: Drawn = serde_json::from_str(&metadata["input"]).unwrap();
    let weights: Vec<(u64, f32, f32, usize)> = serde_json::from_str(&metadata["weights"]).unwrap();
    let yardstick = |name: &str| metadata[name].parse::<f64>().unwrap();
    let maps = [RuleSetId::Gradient, RuleSetId::GuidedBackprop, RuleSetId::Deconvnet];
    Reference {
        input: uniform(input.seed, input.shape.iter().product()).map(|u| input.scale * u).collect(),
        shape: input.shape,
        target: metadata["target"].parse().unwrap(),
        tolerance: YARDSTICKS * yardstick("float32").max(yardstick("rounding")).max(SUMMATION),
        weights: weights
            .into_iter()
            .flat_map(|(seed, shift, scale, count)| uniform(seed, count).map(move |u| shift + scale * u))
            .flat_map(f32::to_le_bytes)
            .collect(),
        logits: tensor("logits").unwrap(),
        maps: maps.into_iter().filter_map(|set| Some((set, tensor(set.id())?))).collect(),
    }
}

/// Numbers in [-1, 1) by splitmix64: generate.py draws the same.
fn uniform(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    (1..=count as u64).map(move |index| {
        let z = (seed << 32).wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 * 2f32.powi(-23) - 1.0
    })
}

/// Inputs and seeds. The second sample differs: an answer must not depend on who shares its batch.
fn two_samples(reference: &Reference) -> [Tensor; 2] {
    let pixels = reference.input.iter().chain(reference.input.iter().rev()).copied().collect();
    let batch = Tensor::from_shape_vec([&[2], reference.shape.as_slice()].concat(), pixels).unwrap();
    let mut seed = Tensor::zeros(IxDyn(&[2, reference.logits.len()]));
    seed[[0, reference.target]] = 1.0;
    seed[[1, 0]] = 1.0;
    [batch, seed]
}

fn agrees_with_pytorch(net: &str) {
    let reference = read_reference(net);
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("weights.bin"), &reference.weights).unwrap();
    let exports: Vec<_> =
        files().into_iter().filter(|name| name.starts_with(&format!("{net}.")) && name.ends_with(".onnx")).collect();
    assert!(!exports.is_empty());

    let spec = DeriveSpec {
        rule_sets: reference.maps.iter().map(|(set, _)| *set).collect(),
        wrt: Wrt::Input,
        head: Head::Logits,
        seed: SeedRule::One,
        pattern_layers: PatternLayers::All,
    };

    let mut faults = Vec::new();
    for export in exports {
        let path = scratch.path().join(&export);
        fs::copy(folder().join(&export), &path).unwrap();
        let source = match read_model(&path) {
            Ok(source) => source,
            Err(error) => {
                faults.push(format!("{export}: {error}"));
                continue;
            }
        };
        // A graph exported for a batch of one stays so.
        let rows = source.inputs[0].value_type.shape[0].known().unwrap_or(2);
        let [batch, seed] = two_samples(&reference).map(|pair| pair.slice_axis(Axis(0), (..rows).into()).to_owned());
        let forward = run(&source, &[("input", &batch)]);
        let derived = match derive(&source, &spec, None) {
            Ok(derived) => derived.graph,
            Err(error) => {
                faults.push(format!("{export}: {error}"));
                continue;
            }
        };
        let answers = run(&derived, &[("input", &batch), ("seed", &seed)]);
        let mut compare = |what: &str, found: &[f32], expected: &[f32], tolerance: f64| {
            let gap = distance(found, expected);
            eprintln!("{export}: {what} {gap:.1e} of {tolerance:.1e}");
            if gap.is_nan() || gap > tolerance {
                faults.push(format!("{export}: {what} is {gap:.1e} away, more than {tolerance:.1e}"));
            }
        };
        compare("logits of the export", &first(&forward["logits"]), &reference.logits, LOGITS);
        compare("derived logits", answers["logits"].as_slice().unwrap(), forward["logits"].as_slice().unwrap(), LOGITS);
        for (set, expected) in &reference.maps {
            compare(set.id(), &first(&answers[set.id()]), expected, reference.tolerance);
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
