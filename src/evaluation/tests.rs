//! Cases without a model behind them, and answers to what metrics ask.

use std::{collections::BTreeMap, sync::Arc};

use super::{progressive::CHUNK, *};
use crate::{
    driver::{Driver, Resources},
    engine::{Caller, Engine, EngineSettings, Point, Priority, Provider, Row},
    methods::{
        Answer, Answers, Attribution, Explained, ExplainedTarget, Prediction, Question, Step,
        Timing, parameters::Parameters, reference::points_of, registry,
    },
    pool::Pool,
};
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers},
    onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};

pub(super) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_shape_vec(shape.to_vec(), values.to_vec()).unwrap()
}

/// The map of one method, read in these ways.
pub(super) fn case(scores: Tensor, rows: &[Score]) -> Case {
    let method = registry::find("gradient").unwrap();
    let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
    let map = AttributionMap {
        request: Request::of(parameters),
        scores: Arc::new(scores.clone()),
        difference: None,
        compared: None,
    };
    Case {
        model: Arc::new(Model::bare("net", Default::default())),
        variants: Arc::new([]),
        input: Arc::new(Tensor::zeros(scores.raw_dim())),
        twin: None,
        class: 0,
        clean: 1.0,
        right: None,
        region: None,
        maps: Arc::new([map]),
        rows: rows
            .iter()
            .map(|&score| CaseRow { map: 0, score })
            .collect(),
        seed: 0,
    }
}

/// What a run that asks for nothing comes to.
pub(super) fn ended(run: MetricRun) -> Vec<Measurement> {
    answered(run, |_| panic!("the run asks")).unwrap()
}

/// What a run comes to whose explanations are these maps, each of one question.
pub(super) fn answered(
    mut run: MetricRun,
    mut map: impl FnMut(&Request) -> Tensor,
) -> Result<Vec<Measurement>, NotFinite> {
    let mut answers = Answers::none();
    loop {
        let questions = match run.step(answers) {
            Step::Done(output) => return output,
            Step::Ask(questions) => questions,
        };
        let answer = |question: Question| match question {
            Question::Explain { request, .. } => {
                Answer::Explained(vec![explained(map(&request), request)])
            }
            Question::Rows { .. } => panic!("the run asks for rows"),
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}

/// What a run over rows measures of a net whose class 1 has this logit and score, and the rows that it asks
/// for, a few at once.
pub(super) fn followed(
    mut run: MetricRun,
    net: &dyn Fn(&Tensor) -> f64,
) -> (Vec<Measurement>, usize) {
    let (mut answers, mut asked) = (Answers::none(), 0);
    loop {
        let points = match run.step(answers) {
            Step::Done(curve) => return (curve.unwrap(), asked),
            asking => points_of(asking),
        };
        assert!(!points.is_empty() && points.len() <= CHUNK);
        asked += points.len();
        let row = |point: &Point| {
            let scores = vec![0.0, net(&point.input) as f32];
            Row {
                logits: scores.clone(),
                probabilities: scores,
                ..Row::default()
            }
        };
        answers = points.iter().map(row).collect::<Vec<_>>().into();
    }
}

pub(super) fn explained(scores: Tensor, request: Request) -> Explained {
    let class = Prediction {
        index: 0,
        label: None,
        score: 1.0,
    };
    Explained {
        target: ExplainedTarget {
            class,
            against: None,
        },
        predictions: Vec::new(),
        parameters: Arc::new(request.parameters),
        attribution: Attribution::of(scores),
        timing: Timing::default(),
        evaluations: 1,
    }
}

/// y = W x, of an input of 1 x 2 x 3 and two classes.
pub(super) fn linear(weights: &[f32]) -> Model {
    let value = |name: &str, sides: &[usize]| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(
            Element::Float,
            [Dim::Symbol("N".into())]
                .into_iter()
                .chain(sides.iter().map(|&side| Dim::Known(side)))
                .collect(),
        ),
    };
    let graph = Graph {
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![value("x", &[1, 2, 3])],
        outputs: vec![value("y", &[2])],
        initializers: [("w".to_owned(), Literal::from_f32s(&[2, 6], weights))]
            .into_iter()
            .collect(),
        nodes: vec![
            Node::new("Flatten", ["x"], ["flat"]),
            Node::new("Gemm", ["flat", "w"], ["y"]).with("transB", 1_i64),
        ],
        ..Graph::default()
    };
    Model::bare("linear", Arc::new(graph))
}

/// What runs measure that ask the model of the case itself, and the rows that are evaluated for
/// them, once the clean input is known.
pub(super) async fn driven(case: &Case, runs: Vec<MetricRun>) -> (Vec<Measurement>, usize) {
    let settings = EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 1,
        convolution_error: 2e-5,
        queue_rows: 100,
        batch_rows: 8,
        batch_bytes: 1 << 20,
        session_bytes: 1 << 30,
    };
    let (engine, pool) = (Engine::start(&settings).unwrap(), Pool::new(1));
    let caller = Caller::new(Priority::Job, None);
    let resources = Resources {
        engine: &engine,
        pool: &pool,
        caller: &caller,
        pictures: None,
        supports: None,
        attn_lrp: false,
    };
    let driver = Driver::new(resources, &case.model, case.input.clone());
    driver.predict(1).await.unwrap();
    let driven = driver.drive(runs).await.unwrap();
    let outputs = driven.outputs.into_iter();
    let found = outputs.flat_map(|(found, _)| found.unwrap()).collect();
    (found, driven.effort.evaluations)
}
