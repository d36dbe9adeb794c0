//! Small nets built as graph values, and an engine to run them: the whole way from a request to its
//! answers.

use std::{collections::BTreeMap, sync::Arc};

use explaind::{
    driver::{Driver, DriverError, Resources, model_defaults},
    engine::{Caller, Engine, EngineSettings, Priority, provider::Provider},
    methods::{Explained, Request, parameters::Parameters},
    model::{
        Model,
        manifest::{Input, Manifest},
    },
    pool::Pool,
    tensor::Tensor,
};
use ndarray::{Array1, ArrayD, IxDyn};
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers, Patterns},
    onnx::graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A dense layer: `[outputs][inputs]` weights and a bias per output.
pub struct Dense {
    pub weights: Vec<Vec<f32>>,
    pub bias: Vec<f32>,
    pub pattern: Option<Vec<f32>>,
}

/// Dense layers with rectifiers between them; the layer i gives value `layer_i`.
pub fn dense_net(layers: Vec<Dense>) -> Arc<Model> {
    let (inputs, outputs) = (
        layers[0].weights[0].len(),
        layers[layers.len() - 1].bias.len(),
    );
    let (mut nodes, mut initializers, mut patterns) =
        (Vec::new(), indexmap::IndexMap::new(), BTreeMap::new());
    let mut value = "x".to_owned();
    for (i, layer) in layers.into_iter().enumerate() {
        if i > 0 {
            nodes.push(node("Relu", &[&value], &format!("on_{i}"), BTreeMap::new()));
            value = format!("on_{i}");
        }
        let (weight, bias, output) = (format!("w_{i}"), format!("b_{i}"), format!("layer_{i}"));
        let shape = vec![layer.weights.len(), layer.weights[0].len()];
        initializers.insert(weight.clone(), literal(&shape, layer.weights.concat()));
        initializers.insert(bias.clone(), literal(&[layer.bias.len()], layer.bias));
        let transposed = BTreeMap::from([("transB".to_owned(), Attribute::Int(1))]);
        nodes.push(node("Gemm", &[&value, &weight, &bias], &output, transposed));
        if let Some(pattern) = layer.pattern {
            patterns.insert(
                output.clone(),
                ArrayD::from_shape_vec(IxDyn(&shape), pattern).unwrap(),
            );
        }
        value = output;
    }
    let graph = Graph {
        name: "dense".into(),
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![rows("x", inputs)],
        outputs: vec![rows(&value, outputs)],
        initializers,
        nodes,
        ..Graph::default()
    };
    Arc::new(Model {
        id: "dense".into(),
        folder: None,
        manifest: Manifest {
            input: Input {
                name: "x".into(),
                shape: vec![inputs],
                preprocess: None,
                open: None,
            },
            head: Head::Logits,
            pattern_layers: PatternLayers::All,
            output: None,
            layer: None,
            assumed: None,
            reading: Default::default(),
        },
        labels: Default::default(),
        hash: "dense".into(),
        graph: Arc::new(graph),
        rule_sets: Default::default(),
        layers: Vec::new(),
        attention: Err("none".to_owned()),
        patterns: (!patterns.is_empty()).then(|| Patterns {
            id: "given".into(),
            source: Arc::new(patterns),
        }),
        provenance: None,
        supports: Arc::default(),
        outputs: Default::default(),
        warnings: Vec::new(),
        notes: Vec::new(),
    })
}

fn node(
    op_type: &str,
    inputs: &[&str],
    output: &str,
    attributes: BTreeMap<String, Attribute>,
) -> Node {
    Node {
        name: output.to_owned(),
        op_type: op_type.to_owned(),
        domain: String::new(),
        inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
        outputs: vec![output.to_owned()],
        attributes,
    }
}

fn literal(shape: &[usize], values: Vec<f32>) -> Literal {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Literal {
        element: Element::Float,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    }
}

fn rows(name: &str, width: usize) -> ValueInfo {
    let shape = vec![Dim::Symbol("batch".into()), Dim::Known(width)];
    ValueInfo {
        name: name.to_owned(),
        value_type: ValueType {
            element: Element::Float,
            shape,
        },
    }
}

pub fn engine() -> Engine {
    Engine::start(&EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 1,
        convolution_error: 2e-5,
        queue_rows: 10_000,
        batch_rows: 128,
        batch_bytes: 1 << 28,
        session_bytes: 1 << 30,
    })
    .unwrap()
}

pub fn caller() -> Caller {
    Caller {
        id: 1,
        priority: Priority::Interactive,
        cancel: CancellationToken::new(),
        deadline: None,
    }
}

pub fn tensor(values: &[f32]) -> Arc<Tensor> {
    Arc::new(Array1::from_vec(values.to_vec()).into_dyn())
}

/// A request as it is posted.
pub async fn ask(
    engine: &Engine,
    model: &Arc<Model>,
    input: &[f32],
    given: &Value,
    max_evaluations: Option<usize>,
) -> Result<Vec<Explained>, DriverError> {
    let parameters = Parameters::parse(given.as_object().unwrap(), &model_defaults(model))?;
    let request = Request::of(parameters);
    let (pool, caller) = (Pool::new(1), caller());
    let resources = Resources {
        engine,
        pool: &pool,
        caller: &caller,
        pictures: None,
        supports: None,
        attn_lrp: false,
    };
    let answered = Driver::new(resources, model, tensor(input))
        .explain(&[request], max_evaluations)
        .await?;
    Ok(answered.explained.into_iter().flatten().collect())
}
