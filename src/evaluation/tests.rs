//! Cases without a model behind them, and answers to what metrics ask.

use std::sync::Arc;

use super::{progressive::CHUNK, *};
use crate::{
    engine::{Point, Row},
    methods::{
        Answer, Answers, Attribution, Explained, ExplainedTarget, Prediction, Question, Step,
        Timing, parameters::Parameters, reference::points_of, registry,
    },
};
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

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
    };
    Case {
        model: Arc::new(Model::bare("net", Default::default())),
        variants: Arc::new([]),
        input: Arc::new(Tensor::zeros(scores.raw_dim())),
        class: 0,
        clean: 1.0,
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

/// What a run over rows measures of a net whose class 1 has this score, and the rows that it asks
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
        let row = |point: &Point| Row {
            logits: vec![0.0, 0.0],
            probabilities: vec![0.0, net(&point.input) as f32],
            ..Row::default()
        };
        answers = points.iter().map(row).collect::<Vec<_>>().into();
    }
}

fn explained(scores: Tensor, request: Request) -> Explained {
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
