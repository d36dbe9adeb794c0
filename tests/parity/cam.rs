//! Maps of layers against pytorch-grad-cam, and of attention against hooks in PyTorch, on small nets
//! at their default layers (cam.py tells what is stored).

use std::sync::Arc;

use explaind::{
    methods::{
        RunInputs,
        parameters::{Facts, Parameters},
        registry::METHODS,
    },
    model::{
        Model,
        labels::{Classes, Labels},
        manifest::OutputKind,
    },
    picture::preprocess::Layout,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::{
        Spatial, spatial,
        spec::{Head, PatternLayers},
    },
    onnx::{graph::Graph, read_model},
};
use serde_json::json;

use crate::{captum, session::distance, stored, torchvision::Drawn};

const CLASSES: usize = 5;

/// A net's export; its default layer's shape, height, width, and tokens that are left out; what the
/// head reads of its attention, or why there is none to look at.
struct Net {
    export: &'static str,
    layer: (&'static [usize], [usize; 3]),
    attention: Result<&'static [usize], &'static str>,
}

/// One window holds all tokens of so small a picture.
const WINDOWS: &str = "and not [batch, heads, tokens, tokens]";
const NONE: &str = "no attention";
const PATCHES: [usize; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

const fn net(
    export: &'static str,
    layer: (&'static [usize], [usize; 3]),
    attention: Result<&'static [usize], &'static str>,
) -> Net {
    Net {
        export,
        layer,
        attention,
    }
}

const NETS: &[Net] = &[
    net("cam/cnn.dynamo18", (&[16, 8, 8], [8, 8, 0]), Err(NONE)),
    net(
        "families/convnext.dynamo18",
        (&[32, 4, 4], [4, 4, 0]),
        Err(NONE),
    ),
    net(
        "families/convnext.script17",
        (&[32, 4, 4], [4, 4, 0]),
        Err(NONE),
    ),
    net(
        "families/swin.dynamo18",
        (&[4, 4, 32], [4, 4, 0]),
        Err(WINDOWS),
    ),
    net(
        "families/swin.script17",
        (&[4, 4, 32], [4, 4, 0]),
        Err(WINDOWS),
    ),
    net("families/vit.dynamo18", (&[17, 16], [4, 4, 1]), Ok(&[0])),
    net("families/vit.script17", (&[17, 16], [4, 4, 1]), Ok(&[0])),
    net(
        "families/deit.dynamo18",
        (&[18, 24], [4, 4, 2]),
        Ok(&[0, 1]),
    ),
    net(
        "families/deit.script17",
        (&[18, 24], [4, 4, 2]),
        Ok(&[0, 1]),
    ),
    net("cam/registers.dynamo18", (&[20, 16], [4, 4, 4]), Ok(&[0])),
    net("cam/pooled.dynamo18", (&[17, 16], [4, 4, 1]), Ok(&PATCHES)),
];

fn read(net: &Net) -> (Graph, Spatial) {
    let source = read_model(&stored::path(&format!("{}.onnx", net.export))).unwrap();
    let seen = spatial(&source).unwrap();
    (source, seen)
}

#[test]
fn layers_and_attention_are_found_in_exports() {
    let mut faults = Vec::new();
    for net in NETS {
        let (_, seen) = read(net);
        let default = seen.default.as_deref();
        let layer = seen
            .layers
            .iter()
            .find(|layer| Some(layer.name.as_str()) == default);
        let found = layer.map(|layer| {
            let grid = layer.grid;
            (&layer.shape[..], [grid.height, grid.width, grid.first])
        });
        let attention = match (&seen.attention, net.attention) {
            (Ok(found), Ok(read)) => {
                let exits = found.exits.as_ref().map(Vec::len);
                found.read == read && exits == Ok(found.layers.len())
            }
            (Err(reason), Err(word)) => reason.contains(word),
            _ => false,
        };
        println!("{}: {default:?} {found:?} {:?}", net.export, seen.attention);
        if found != Some(net.layer) || !attention {
            faults.push(format!(
                "{}: {default:?} {found:?} {:?}",
                net.export, seen.attention
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn maps_agree_with_pytorch() {
    let mut faults = Vec::new();
    for net in NETS {
        let (source, seen) = read(net);
        let name = net.export.split(['/', '.']).nth(1).unwrap();
        let reference = stored::read(&format!("cam/{name}.safetensors"));
        let (input, target): (Drawn, usize) = (reference.json("input"), reference.json("target"));
        let attention = seen.attention.map(Arc::new);
        let model = Arc::new(Model::bare(name, Arc::new(source.clone())));
        let facts = Facts {
            model: name,
            head: Head::Logits,
            kind: OutputKind::Classes,
            pattern_layers: &PatternLayers::All,
            classes: Classes {
                labels: &Labels::default(),
                count: Some(CLASSES),
            },
            has_patterns: false,
            layer: seen.default.as_deref(),
            layers: &seen.layers,
            attention: attention.as_ref().map_err(String::as_str),
            supports: &[],
            input: &model.manifest.input,
            graph: &model.graph,
            rule_sets: &model.rule_sets,
        };
        for method in METHODS {
            let Some(expected) = reference.floats(method.id) else {
                continue;
            };
            let given = json!({"method": method.id, "target": target});
            let parameters = Parameters::parse(given.as_object().unwrap(), &facts).unwrap();
            let inputs = RunInputs {
                model: model.clone(),
                input: Arc::new(
                    Tensor::from_shape_vec(input.shape.clone(), input.values()).unwrap(),
                ),
                seed: Arc::new([(target, 1.0)]),
                input_value: None,
                baselines: Vec::new(),
                layout: Layout::Nchw,
                luma: None,
                segmentation: Arc::default(),
                supports: Arc::default(),
                parameters: Arc::new(parameters),
            };
            let scores = captum::explain(&source, inputs, CLASSES);
            let map: Vec<f32> = scores.iter().copied().collect();
            let (gap, tolerance) = (distance(&map, &expected), reference.tolerance(method.id));
            println!("{}: {} {gap:.1e} of {tolerance:.1e}", net.export, method.id);
            if gap.is_nan() || gap > tolerance {
                faults.push(format!(
                    "{}: {} is {gap:.1e} away, more than {tolerance:.1e}",
                    net.export, method.id
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
