//! Every method of the registry against a naive reference on a two-layer net, its evaluations counted;
//! and what the tests of this room share: a net by formula in place of the engine.

use std::{collections::BTreeSet, sync::Arc};

use rand::RngExt;
use serde_json::{Value, json};

use super::{
    Answer, Answers, Attribution, Question, Run, RunInputs, Step,
    coalitions::permutation,
    gad,
    parameters::{Facts, Parameters},
    registry::{self, METHODS},
};
use crate::{
    engine::{GraphKey, Point, Row},
    model::{
        Model, RuleSets,
        labels::{Classes, Labels},
        manifest::{Input, OutputKind},
        supports::{Support, SupportSet},
    },
    picture::preprocess::Layout,
    random::generator,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::spec::{
        Attention, AttentionLayer, DeriveSpec, Exit, Grid, Head, Layer, PatternLayers, RuleSetId,
        SeedRule, Wrt,
    },
    onnx::graph::Graph,
};

const GRID: Grid = Grid {
    channels: 0,
    first: 0,
    height: 2,
    width: 2,
};
/// A class token, and those of the grid.
const TOKENS: usize = 5;

fn attention_layer(name: &str) -> AttentionLayer {
    AttentionLayer {
        node: name.into(),
        weights: name.into(),
        heads: 2,
    }
}

pub(crate) fn tensor(values: impl IntoIterator<Item = f32>) -> Arc<Tensor> {
    Arc::new(ndarray::Array1::from_iter(values).into_dyn())
}

/// Target: the class given, else 0. Methods that need supports are given two, called by their
/// alphas.
pub(crate) fn inputs(given: &Value, input: &[f32], baselines: &[&[f32]]) -> RunInputs {
    inputs_of_layer([2, 2, 2], given, input, baselines)
}

/// As [`inputs`], where the layer `hidden` has this shape: channels, height and width.
pub(crate) fn inputs_of_layer(
    shape: [usize; 3],
    given: &Value,
    input: &[f32],
    baselines: &[&[f32]],
) -> RunInputs {
    let [_, height, width] = shape;
    let sets = [Arc::new(SupportSet::example("pair", &[2.0, 4.0]))];
    let attention = Arc::new(Attention {
        layers: ["first", "second"].map(attention_layer).into(),
        tokens: TOKENS,
        grid: Grid { first: 1, ..GRID },
        read: vec![0],
        exits: Ok(["first", "second"].map(exit).into()),
    });
    let facts = Facts {
        model: "tiny",
        head: Head::Logits,
        kind: OutputKind::Classes,
        pattern_layers: &PatternLayers::All,
        classes: Classes {
            labels: &Labels::default(),
            count: Some(2),
        },
        has_patterns: true,
        layers: &[Layer {
            name: "hidden".into(),
            shape: shape.into(),
            grid: Grid {
                height,
                width,
                ..GRID
            },
        }],
        layer: Some("hidden"),
        attention: Ok(&attention),
        supports: &sets,
        input: &Input {
            name: "x".to_owned(),
            shape: vec![input.len()],
            preprocess: None,
            open: None,
        },
        graph: &Graph::default(),
        rule_sets: &RuleSets::default(),
    };
    let parameters = Parameters::parse(given.as_object().unwrap(), &facts).unwrap();
    let bare = |name: &str| Arc::new(Model::bare(name, Arc::new(Graph::default())));
    let support = |alpha: f64| Support {
        alpha,
        model: bare(&alpha.to_string()),
    };
    let supports = gad::supports(&parameters).map(|set| set.alphas().map(support).collect());
    RunInputs {
        model: bare("tiny"),
        input: tensor(input.iter().copied()),
        seed: Arc::new([(parameters.target.largest().unwrap_or(0), 1.0)]),
        input_value: None,
        baselines: baselines
            .iter()
            .map(|baseline| tensor(baseline.iter().copied()))
            .collect(),
        layout: Layout::Nchw,
        luma: None,
        segmentation: Arc::default(),
        supports: supports.unwrap_or_default(),
        parameters: Arc::new(parameters),
    }
}

/// Runs to the end; counts evaluations.
pub(crate) fn drive<T: Send>(
    run: Box<dyn Run<Output = T>>,
    mut evaluate: impl FnMut(&DeriveSpec, &Point) -> Row,
) -> (T, usize) {
    drive_models(run, |graph, point| evaluate(&graph.spec, point))
}

/// As [`drive`], of runs that ask several models.
pub(crate) fn drive_models<T: Send>(
    mut run: Box<dyn Run<Output = T>>,
    mut evaluate: impl FnMut(&GraphKey, &Point) -> Row,
) -> (T, usize) {
    let (mut answers, mut count) = (Answers::none(), 0);
    loop {
        let questions = match run.step(answers) {
            Step::Done(output) => return (output, count),
            Step::Ask(questions) => questions,
        };
        let answer = |question| {
            let Question::Rows { graph, points, .. } = question else {
                panic!("a run over rows alone")
            };
            count += points.len();
            Answer::Rows(points.iter().map(|point| evaluate(&graph, point)).collect())
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}

/// All points that a step asks for.
pub(crate) fn points_of<T>(step: Step<T>) -> Vec<Point> {
    let Step::Ask(questions) = step else {
        panic!("the run has ended")
    };
    let points = questions.into_iter().map(|question| match question {
        Question::Rows { points, .. } => points,
        Question::Explain { .. } => Vec::new(),
    });
    points.flatten().collect()
}

pub(crate) fn row(logits: &[f64], cotangent: &[f64]) -> Row {
    Row {
        logits: logits.iter().map(|&v| v as f32).collect(),
        probabilities: Vec::new(),
        cotangents: vec![tensor(cotangent.iter().map(|&v| v as f32)).as_ref().clone()],
        activations: Vec::new(),
    }
}

const W1: [[f64; 2]; 3] = [[1.0, -2.0], [0.5, 1.5], [-1.0, 0.25]];
const B1: [f64; 3] = [0.1, -0.2, 1.5];
const W2: [[f64; 3]; 2] = [[1.0, 0.5, -0.5], [1.5, 2.0, -0.75]];
const B2: [f64; 2] = [0.3, -0.4];
const P1: [[f64; 2]; 3] = [[0.3, -0.4], [0.2, 0.7], [-0.9, 0.1]];
const P2: [[f64; 3]; 2] = [[0.5, 0.25, -0.1], [-0.2, 0.6, 0.4]];
const X: [f64; 2] = [0.8, 0.6];
const START: [f64; 2] = [-0.5, 0.25];
const CLASS: usize = 1;

fn hidden(x: [f64; 2]) -> [f64; 3] {
    std::array::from_fn(|h| W1[h][0] * x[0] + W1[h][1] * x[1] + B1[h])
}

fn logits(x: [f64; 2]) -> [f64; 2] {
    let on = hidden(x).map(|v| v.max(0.0));
    std::array::from_fn(|c| (0..3).map(|h| W2[c][h] * on[h]).sum::<f64>() + B2[c])
}

/// By the rule epsilon at the second layer, in equal shares at the first.
fn relevance(x: [f64; 2], class: usize) -> [f64; 2] {
    let score = logits(x)[class];
    let on = hidden(x).map(|v| v.max(0.0));
    let flat = |h: usize| on[h] * W2[class][h] * score / (score + 1e-6 * score.signum()) / 2.0;
    [(0..3).map(flat).sum(); 2]
}

/// In place of the engine: what a derived graph of the net answers.
fn net(spec: &DeriveSpec, point: &Point) -> Row {
    let x = [f64::from(point.input[0]), f64::from(point.input[1])];
    if spec.rule_sets == [RuleSetId::Lrp] {
        return row(&logits(x), &relevance(x, point.seed[0].0));
    }
    // Without a seed there is no way back: a class as good as any.
    let (class, weight) = point.seed.first().copied().unwrap_or((0, 0.0));
    let value = if spec.seed == SeedRule::Value {
        logits(x)[class]
    } else {
        1.0
    };
    let rule_set = spec.rule_sets.first();
    let weigh = |w: f64, p: f64| match rule_set {
        Some(RuleSetId::PatternAttribution) => w * p,
        Some(RuleSetId::PatternNet) => p,
        _ => w,
    };
    let gate = |on: f64, cotangent: f64| match rule_set {
        Some(RuleSetId::Deconvnet) => cotangent.max(0.0),
        Some(RuleSetId::GuidedBackprop) if on > 0.0 => cotangent.max(0.0),
        _ if on > 0.0 => cotangent,
        _ => 0.0,
    };
    let seed = f64::from(weight) * value;
    let inner: [f64; 3] =
        std::array::from_fn(|h| gate(hidden(x)[h], seed * weigh(W2[class][h], P2[class][h])));
    let cotangent = [0, 1].map(|i| {
        (0..3)
            .map(|h| inner[h] * weigh(W1[h][i], P1[h][i]))
            .sum::<f64>()
    });
    let [one, other] = logits(x).map(f64::exp);
    Row {
        probabilities: [one, other].map(|v| (v / (one + other)) as f32).to_vec(),
        ..row(&logits(x), &cotangent)
    }
}

fn numeric_gradient(x: [f64; 2]) -> Vec<f64> {
    let step = 1e-6;
    let shifted = |i: usize, by: f64| {
        let mut x = x;
        x[i] += by;
        logits(x)[CLASS]
    };
    (0..2)
        .map(|i| (shifted(i, step) - shifted(i, -step)) / (2.0 * step))
        .collect()
}

/// Σ over hidden units of `path(h, i)`.
fn through(path: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..2).map(|i| (0..3).map(|h| path(h, i)).sum()).collect()
}

fn on(x: [f64; 2], h: usize) -> f64 {
    f64::from(u8::from(hidden(x)[h] > 0.0))
}

fn guided() -> Vec<f64> {
    through(|h, i| on(X, h) * W2[CLASS][h].max(0.0) * W1[h][i])
}

fn deconvnet() -> Vec<f64> {
    through(|h, i| W2[CLASS][h].max(0.0) * W1[h][i])
}

fn pattern_attribution(x: [f64; 2]) -> Vec<f64> {
    through(|h, i| on(x, h) * W2[CLASS][h] * P2[CLASS][h] * W1[h][i] * P1[h][i])
}

fn times(factors: impl IntoIterator<Item = f64>, values: Vec<f64>) -> Vec<f64> {
    factors
        .into_iter()
        .zip(values)
        .map(|(factor, value)| factor * value)
        .collect()
}

/// Eq. 1 as printed: 25 right Riemann points.
fn integrated(g: impl Fn([f64; 2]) -> Vec<f64>) -> Vec<f64> {
    integrated_from(X, g)
}

fn integrated_from(x: [f64; 2], g: impl Fn([f64; 2]) -> Vec<f64>) -> Vec<f64> {
    let mut mean = vec![0.0; 2];
    for k in 1..=25 {
        let at = [0, 1].map(|i| START[i] + f64::from(k) / 25.0 * (x[i] - START[i]));
        g(at)
            .iter()
            .zip(&mut mean)
            .for_each(|(g, mean)| *mean += g / 25.0);
    }
    times([x[0] - START[0], x[1] - START[1]], mean)
}

/// The points of `noise_level` 0.15 around X.
fn noisy() -> Vec<[f64; 2]> {
    let mut asked = Vec::new();
    let inputs = inputs(
        &json!({"method": "smooth_grad", "target": CLASS}),
        &X.map(|v| v as f32),
        &[],
    );
    drive((inputs.parameters.method.build)(inputs), |spec, point| {
        asked.push([0, 1].map(|i| f64::from(point.input[i])));
        net(spec, point)
    });
    asked
}

fn mean_of(maps: impl Iterator<Item = Vec<f64>>) -> Vec<f64> {
    let maps: Vec<_> = maps.collect();
    (0..2)
        .map(|i| maps.iter().map(|map| map[i]).sum::<f64>() / maps.len() as f64)
        .collect()
}

fn smooth(statistic: fn(f64) -> f64) -> Vec<f64> {
    mean_of(
        noisy()
            .into_iter()
            .map(|x| numeric_gradient(x).into_iter().map(statistic).collect()),
    )
}

fn variance() -> Vec<f64> {
    let mean = smooth(|g| g);
    let squares = |x| {
        numeric_gradient(x)
            .iter()
            .zip(&mean)
            .map(|(g, mean)| (g - mean).powi(2))
            .collect()
    };
    mean_of(noisy().into_iter().map(squares))
}

fn expected() -> Vec<f64> {
    let way = [0, 1].map(|i| X[i] - START[i]);
    let alphas = (0..49).map(|sample| {
        let mut generator = generator(0, sample);
        let _baseline: f64 = generator.random();
        generator.random::<f64>()
    });
    mean_of(alphas.map(|alpha| {
        times(
            way,
            numeric_gradient([0, 1].map(|i| START[i] + alpha * way[i])),
        )
    }))
}

const PICTURE: [f64; 4] = [0.3, -0.2, 0.9, 0.6];
/// Per class, channel and pixel: the head over two channels of rectified pixels, x and 1 - 2x.
const HEAD: [[[f64; 4]; 2]; 2] = [
    [[1.0, -1.0, 0.5, 2.0], [0.0, 1.0, -0.5, 0.5]],
    [[0.5, -2.0, 1.5, 1.0], [2.0, -1.0, 1.0, -0.5]],
];
const SLOPES: [f64; 2] = [1.0, -2.0];
const SHIFTS: [f64; 2] = [0.0, 1.0];

fn channel(k: usize, x: f64) -> f64 {
    (SLOPES[k] * x + SHIFTS[k]).max(0.0)
}

/// In place of the engine, for methods that look at a layer.
fn spatial_net(spec: &DeriveSpec, point: &Point) -> Row {
    let x: Vec<f64> = point.input.iter().map(|&v| f64::from(v)).collect();
    let value = |c: usize| {
        (0..2)
            .map(|k| {
                (0..4)
                    .map(|at| HEAD[c][k][at] * channel(k, x[at]))
                    .sum::<f64>()
            })
            .sum::<f64>()
    };
    // Without a seed there is no way back: a class as good as any.
    let class = point.seed.first().map_or(0, |&(class, _)| class);
    let shaped = |values: Vec<f64>, channels: usize| {
        Tensor::from_shape_vec(
            vec![channels, 2, 2],
            values.iter().map(|&v| v as f32).collect(),
        )
        .unwrap()
    };
    let hidden = || {
        let values = (0..2)
            .flat_map(|k| x.iter().map(move |&x| channel(k, x)))
            .collect();
        vec![shaped(values, 2)]
    };
    let (cotangent, activations) = match &spec.wrt[0] {
        Wrt::Exit(_) => panic!("layers have no exits"),
        _ if spec.rule_sets.is_empty() => {
            let is_asked = spec.outputs == ["hidden"];
            let activations = if is_asked { hidden() } else { Vec::new() };
            (shaped(vec![0.0; 4], 1), activations)
        }
        Wrt::Activation(name) => {
            assert_eq!(
                (name.as_str(), &spec.outputs[..]),
                ("hidden", &["hidden".to_owned()][..])
            );
            assert_eq!(spec.rule_sets, [RuleSetId::Gradient]);
            (shaped(HEAD[class].as_flattened().to_vec(), 2), hidden())
        }
        Wrt::Input => {
            assert_eq!(spec.rule_sets, [RuleSetId::GuidedBackprop]);
            (shaped(guided_picture(class), 1), Vec::new())
        }
    };
    let logits = [value(0) as f32, value(1) as f32];
    Row {
        logits: logits.to_vec(),
        probabilities: Vec::new(),
        cotangents: vec![cotangent],
        activations,
    }
}

fn guided_picture(class: usize) -> Vec<f64> {
    let through = |k: usize, at: usize| {
        let on = f64::from(u8::from(channel(k, PICTURE[at]) > 0.0));
        on * HEAD[class][k][at].max(0.0) * SLOPES[k]
    };
    (0..4).map(|at| through(0, at) + through(1, at)).collect()
}

/// Rows of softmaxes, of a layer and a head.
fn weights(layer: usize, head: usize) -> [[f64; TOKENS]; TOKENS] {
    let score = |row: usize, column: usize| {
        let at = 7 * layer + 5 * head + 3 * row + 2 * column + row * column;
        ((at % 11) as f64 / 4.0).exp()
    };
    std::array::from_fn(|row| {
        let total: f64 = (0..TOKENS).map(|column| score(row, column)).sum();
        std::array::from_fn(|column| score(row, column) / total)
    })
}

/// The derivative of a class there.
fn slope(layer: usize, head: usize, row: usize, column: usize) -> f64 {
    let at = 3 * layer + 2 * head + 5 * row + 4 * column + CLASS;
    (at % 7) as f64 - 3.0
}

/// In place of the engine, for methods that look at attention.
fn attention_net(spec: &DeriveSpec, point: &Point) -> Row {
    let of_layer = |layer: usize, value: fn(usize, usize, usize, usize) -> f64| {
        Tensor::from_shape_fn(vec![2, TOKENS, TOKENS], |at| {
            value(layer, at[0], at[1], at[2]) as f32
        })
    };
    let both =
        |value: fn(usize, usize, usize, usize) -> f64| vec![of_layer(0, value), of_layer(1, value)];
    let cotangents = match spec.rule_sets[..] {
        [] => Vec::new(),
        _ => {
            let wrt = match spec.outputs.is_empty() {
                true => ["first", "second"].map(|name| Wrt::Exit(exit(name))),
                false => ["first", "second"].map(|name| Wrt::Activation(name.into())),
            };
            assert_eq!(spec.wrt, wrt);
            assert_eq!(point.seed[..], [(CLASS, 1.0)]);
            both(slope)
        }
    };
    Row {
        logits: vec![0.0; 2],
        probabilities: Vec::new(),
        cotangents,
        activations: match &spec.outputs[..] {
            [] => Vec::new(),
            outputs => {
                assert_eq!(outputs, ["first", "second"]);
                both(|layer, head, row, column| weights(layer, head)[row][column])
            }
        },
    }
}

/// Behind the block of a layer.
fn exit(layer: &str) -> Exit {
    Exit {
        value: layer.to_owned(),
        tokens: format!("behind {layer}"),
        last: "behind second".to_owned(),
        axis: 1,
    }
}

/// The product of both layers' matrices, of which `of_heads` makes one, in the row of the class
/// token, on the grid.
fn product(of_heads: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
    let at = |column: usize| {
        (0..TOKENS)
            .map(|between| of_heads(1, 0, between) * of_heads(0, between, column))
            .sum()
    };
    (1..TOKENS).map(at).collect()
}

fn identity(row: usize, column: usize) -> f64 {
    f64::from(u8::from(row == column))
}

fn rollout() -> Vec<f64> {
    product(|layer, row, column| {
        let mean = (0..2)
            .map(|head| weights(layer, head)[row][column] / 2.0)
            .sum::<f64>();
        (mean + identity(row, column)) / 2.0
    })
}

fn gradient_rollout() -> Vec<f64> {
    product(|layer, row, column| {
        let positive = |head: usize| {
            let product = weights(layer, head)[row][column] * slope(layer, head, row, column);
            product.max(0.0) / 2.0
        };
        positive(0) + positive(1) + identity(row, column)
    })
}

fn sensitivity() -> Vec<f64> {
    let positive = |column: usize| -> f64 {
        let places = (0..2 * 2 * TOKENS).map(|at| (at / TOKENS / 2, at / TOKENS % 2, at % TOKENS));
        places
            .map(|(layer, head, row)| slope(layer, head, row, column).max(0.0))
            .sum()
    };
    (1..TOKENS)
        .map(|column| positive(column) / (2 * TOKENS) as f64)
        .collect()
}

/// ReLU(Σ over channels of `weigh(k, at)` A_k).
fn summed(weigh: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let at = |at: usize| {
        (0..2)
            .map(|k| weigh(k, at) * channel(k, PICTURE[at]))
            .sum::<f64>()
            .max(0.0)
    };
    (0..4).map(at).collect()
}

/// The component of a covariance of two by two, in closed form.
fn principal() -> Vec<f64> {
    let centred = [0, 1].map(|k| {
        let mean = PICTURE.map(|x| channel(k, x)).iter().sum::<f64>() / 4.0;
        PICTURE.map(|x| channel(k, x) - mean)
    });
    let covariance = |a: usize, b: usize| {
        (0..4)
            .map(|at| centred[a][at] * centred[b][at])
            .sum::<f64>()
    };
    let angle = 0.5 * (2.0 * covariance(0, 1)).atan2(covariance(0, 0) - covariance(1, 1));
    let scores =
        [0, 1, 2, 3].map(|at: usize| angle.cos() * centred[0][at] + angle.sin() * centred[1][at]);
    let extreme = scores
        .into_iter()
        .fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    scores
        .map(|score| (score * extreme.signum()).max(0.0))
        .to_vec()
}

fn score_map() -> Vec<f64> {
    let scores = [0, 1].map(|k| {
        let values = PICTURE.map(|x| channel(k, x));
        let least = values.into_iter().fold(f64::INFINITY, f64::min);
        let most = values.into_iter().fold(f64::NEG_INFINITY, f64::max);
        (0..4)
            .map(|at| {
                let x = PICTURE[at] * (values[at] - least) / (most - least + 1e-8);
                HEAD[CLASS][0][at] * channel(0, x) + HEAD[CLASS][1][at] * channel(1, x)
            })
            .sum::<f64>()
            .exp()
    });
    summed(|k, _| scores[k] / (scores[0] + scores[1]))
}

fn class_map() -> Vec<f64> {
    let weight = |k: usize| HEAD[CLASS][k].iter().sum::<f64>() / 4.0;
    PICTURE
        .map(|x| (weight(0) * channel(0, x) + weight(1) * channel(1, x)).max(0.0))
        .to_vec()
}

/// By how much the first element of its input differs from what a support sees of it.
fn shift(alpha: f64) -> f64 {
    alpha / 4.0
}

/// The net, and supports that see their input shifted.
fn nets(graph: &GraphKey, point: &Point) -> Row {
    let alpha: f64 = graph.model.hash.parse().unwrap_or(0.0);
    let mut input = point.input.as_ref().clone();
    input[0] += shift(alpha) as f32;
    let point = Point {
        input: Arc::new(input),
        ..point.clone()
    };
    net(&graph.spec, &point)
}

/// τ = 0.1 of the positive parts of integrated gradients, by the net and two supports. The second
/// element speaks against the class in the last of them.
fn persistent() -> Vec<f64> {
    let map = |alpha: f64| {
        let positive = |value: f64| value.max(0.0);
        let map = integrated(|x| numeric_gradient([x[0] + shift(alpha), x[1]]));
        map.into_iter().map(positive).collect::<Vec<_>>()
    };
    let maps = [0.0, 2.0, 4.0].map(map);
    let is_in = |map: &Vec<f64>, at: usize| map[at] > 0.1 * map[0].max(map[1]);
    let kept = |at: usize| maps.iter().all(|map| is_in(map, at));
    let kept = [kept(0), kept(1)];
    assert_eq!(kept, [true, false]);
    vec![maps[0][0], 0.0]
}

/// Masks of a row of two cells, enlarged to three pixels of which two are cut out.
fn masked() -> Vec<f64> {
    let mut sums = vec![0.0; 2];
    for sample in 0..4000 {
        let mut generator = generator(0, sample);
        let cells = [(); 2].map(|()| f64::from(u8::from(generator.random::<f64>() < 0.5)));
        let middle = (cells[0] + cells[1]) / 2.0;
        // The first pixel's centre is a sixth of a cell beyond that of the first cell.
        let mask = [cells[0] + (cells[1] - cells[0]) / 6.0, middle];
        let x = [0, 1].map(|i| X[i] * mask[i]);
        let shares = logits(x).map(f64::exp);
        let share = shares[CLASS] / (shares[0] + shares[1]);
        sums.iter_mut()
            .zip(mask)
            .for_each(|(sum, mask)| *sum += share * mask / (4000.0 * 0.5));
    }
    sums
}

/// The value where these elements are those of the input, and the others those of the baseline.
fn value_of(shown: [bool; 2]) -> f64 {
    logits([0, 1].map(|i| if shown[i] { X[i] } else { START[i] }))[CLASS]
}

/// What an element adds before the other, and after it.
fn gains(i: usize) -> [f64; 2] {
    let alone = [0, 1].map(|other| other == i);
    let other = alone.map(|shown| !shown);
    [
        value_of(alone) - value_of([false; 2]),
        value_of([true; 2]) - value_of(other),
    ]
}

fn shapley() -> Vec<f64> {
    let mean = |[before, after]: [f64; 2]| (before + after) / 2.0;
    [0, 1].map(|i| mean(gains(i))).into()
}

/// Over 25 random orders.
fn sampled_shapley() -> Vec<f64> {
    let orders: Vec<Vec<usize>> = (0..25)
        .map(|sample| permutation(2, &mut generator(0, sample)))
        .collect();
    let mean = |i: usize| {
        let gain = |order: &Vec<usize>| gains(i)[usize::from(order[0] != i)];
        orders.iter().map(gain).sum::<f64>() / 25.0
    };
    vec![mean(0), mean(1)]
}

/// The normal equations of intercept and two coefficients, by elimination.
fn local_line() -> Vec<f64> {
    let mut rows = [[0.0; 4]; 3];
    for sample in 0..1000 {
        let mut generator = generator(0, sample);
        let shown = [0, 1].map(|_| generator.random::<bool>() || sample == 0);
        let count = shown.iter().filter(|shown| **shown).count() as f64;
        let distance = 1.0 - count / (count * 2.0).sqrt().max(1e-300);
        let weight = (-(distance / 0.25).powi(2)).exp().sqrt();
        let z = [
            1.0,
            f64::from(u8::from(shown[0])),
            f64::from(u8::from(shown[1])),
        ];
        for (row, own) in rows.iter_mut().zip(z) {
            z.iter()
                .zip(row.iter_mut())
                .for_each(|(z, sum)| *sum += weight * own * z);
            row[3] += weight * own * value_of(shown);
        }
    }
    rows[1][1] += 1.0;
    rows[2][2] += 1.0;
    for pivot in 0..3 {
        for row in (0..3).filter(|row| *row != pivot) {
            let factor = rows[row][pivot] / rows[pivot][pivot];
            (0..4).for_each(|column| rows[row][column] -= factor * rows[pivot][column]);
        }
    }
    vec![rows[1][3] / rows[1][1], rows[2][3] / rows[2][2]]
}

struct Case {
    method: &'static str,
    /// `None` for methods that do not ask the model.
    reference: Option<fn() -> Vec<f64>>,
    evaluations: usize,
}

const CASES: &[Case] = &[
    Case {
        method: "gradient",
        reference: Some(|| numeric_gradient(X)),
        evaluations: 1,
    },
    Case {
        method: "input_x_gradient",
        reference: Some(|| times(X, numeric_gradient(X))),
        evaluations: 1,
    },
    Case {
        method: "integrated_gradients",
        reference: Some(|| integrated(numeric_gradient)),
        evaluations: 26,
    },
    Case {
        method: "guided_backprop",
        reference: Some(guided),
        evaluations: 1,
    },
    Case {
        method: "deconvnet",
        reference: Some(deconvnet),
        evaluations: 1,
    },
    Case {
        method: "pattern_attribution",
        reference: Some(|| times([logits(X)[CLASS]; 2], pattern_attribution(X))),
        evaluations: 1,
    },
    Case {
        method: "pattern_net",
        reference: Some(|| through(|h, i| on(X, h) * P2[CLASS][h] * P1[h][i])),
        evaluations: 1,
    },
    Case {
        method: "pgig",
        reference: Some(|| integrated(pattern_attribution)),
        evaluations: 25,
    },
    Case {
        method: "lrp",
        reference: Some(|| relevance(X, CLASS).to_vec()),
        evaluations: 1,
    },
    Case {
        method: "smooth_grad",
        reference: Some(|| smooth(|g| g)),
        evaluations: 25,
    },
    Case {
        method: "smooth_grad_sq",
        reference: Some(|| smooth(|g| g * g)),
        evaluations: 25,
    },
    Case {
        method: "var_grad",
        reference: Some(variance),
        evaluations: 25,
    },
    Case {
        method: "smooth_grad_ig",
        reference: Some(|| {
            mean_of(
                noisy()
                    .into_iter()
                    .map(|x| integrated_from(x, numeric_gradient)),
            )
        }),
        evaluations: 625,
    },
    Case {
        method: "expected_gradients",
        reference: Some(expected),
        evaluations: 49,
    },
    Case {
        method: "grad_cam",
        reference: Some(class_map),
        evaluations: 1,
    },
    Case {
        method: "guided_grad_cam",
        reference: Some(|| {
            guided_picture(CLASS)
                .iter()
                .zip(class_map())
                .map(|(g, map)| g * map)
                .collect()
        }),
        evaluations: 2,
    },
    Case {
        method: "layer_cam",
        reference: Some(|| summed(|k, at| HEAD[CLASS][k][at].max(0.0))),
        evaluations: 1,
    },
    Case {
        method: "hires_cam",
        reference: Some(|| summed(|k, at| HEAD[CLASS][k][at])),
        evaluations: 1,
    },
    Case {
        method: "eigen_cam",
        reference: Some(principal),
        evaluations: 1,
    },
    Case {
        method: "score_cam",
        reference: Some(score_map),
        evaluations: 3,
    },
    Case {
        method: "attention_rollout",
        reference: Some(rollout),
        evaluations: 1,
    },
    Case {
        method: "gradient_rollout",
        reference: Some(gradient_rollout),
        evaluations: 1,
    },
    Case {
        method: "legrad",
        reference: Some(sensitivity),
        evaluations: 1,
    },
    Case {
        method: "gad",
        reference: Some(persistent),
        evaluations: 3 * 26,
    },
    Case {
        method: "rise",
        reference: Some(masked),
        evaluations: 4000,
    },
    Case {
        // Each of both elements is a window.
        method: "occlusion",
        reference: Some(|| {
            let without = |i: usize| {
                let mut x = X;
                x[i] = START[i];
                logits(X)[CLASS] - logits(x)[CLASS]
            };
            vec![without(0), without(1)]
        }),
        evaluations: 2,
    },
    Case {
        method: "edges",
        reference: None,
        evaluations: 0,
    },
    Case {
        // Without regions one value for the whole picture, which here is one pixel.
        method: "xrai",
        reference: Some(|| {
            vec![
                integrated(numeric_gradient)
                    .into_iter()
                    .fold(f64::MIN, f64::max),
            ]
        }),
        evaluations: 52,
    },
    Case {
        method: "feature_ablation",
        reference: Some(|| vec![gains(0)[1], gains(1)[1]]),
        evaluations: 3,
    },
    Case {
        method: "lime",
        reference: Some(local_line),
        evaluations: 1000,
    },
    Case {
        method: "kernel_shap",
        reference: Some(shapley),
        evaluations: 4,
    },
    Case {
        method: "shapley_sampling",
        reference: Some(sampled_shapley),
        evaluations: 27,
    },
    Case {
        method: "random",
        reference: None,
        evaluations: 0,
    },
];

/// Each of both elements is a region.
fn asked(method: &str) -> Value {
    let mut given = json!({"method": method, "target": CLASS});
    if registry::find(method).unwrap().takes("max_segments") {
        given["max_segments"] = json!(2);
    }
    given
}

fn run(given: &Value) -> (Attribution, usize) {
    let method = registry::find(given["method"].as_str().unwrap()).unwrap();
    if method.takes("layer") || method.looks_at_attention() {
        let net = match method.looks_at_attention() {
            true => attention_net,
            false => spatial_net,
        };
        let picture = PICTURE.map(|v| v as f32);
        let inputs = RunInputs {
            input: Arc::new(Tensor::from_shape_vec(vec![1, 2, 2], picture.to_vec()).unwrap()),
            ..inputs(given, &picture, &[])
        };
        return drive((inputs.parameters.method.build)(inputs), net);
    }
    let [input, start] = [X, START].map(|values| values.map(|v| v as f32));
    // As many baselines as the parameters name, all the same: their average is that of one.
    let count = inputs(given, &input, &[]).parameters.baselines().max(1);
    let inputs = inputs(given, &input, &vec![start.as_slice(); count]);
    let is_given = (inputs.parameters.method.cost.change)(&inputs.parameters).is_some();
    let inputs = RunInputs {
        input_value: is_given.then(|| logits(X)[CLASS]),
        ..inputs
    };
    drive_models((inputs.parameters.method.build)(inputs), nets)
}

#[test]
fn every_method_has_a_case() {
    let cases: BTreeSet<_> = CASES.iter().map(|case| case.method).collect();
    let rows: BTreeSet<_> = METHODS.iter().map(|method| method.id).collect();
    assert_eq!(cases, rows);
    assert_eq!(METHODS.len(), rows.len());
}

#[test]
fn every_method_equals_its_naive_twin() {
    for case in CASES {
        let Some(reference) = case.reference else {
            continue;
        };
        let (map, _) = run(&asked(case.method));
        for (&score, expected) in map.scores.iter().zip(reference()) {
            // f32 rows against central differences in f64.
            assert!(
                (f64::from(score) - expected).abs() < 1e-5,
                "{}: {} against {:?}",
                case.method,
                map.scores,
                reference()
            );
        }
    }
}

#[test]
fn every_method_costs_what_it_says() {
    for case in CASES {
        let given = asked(case.method);
        let (_, evaluations) = run(&given);
        assert_eq!(evaluations, case.evaluations, "{}", case.method);
        let parameters = inputs(&given, &X.map(|v| v as f32), &[]).parameters;
        let asks_input = (parameters.method.cost.asks_input)(&parameters);
        // The driver asks for the input where the run does not.
        assert_eq!(
            parameters.cost(false),
            evaluations + usize::from(!asks_input),
            "{}",
            case.method
        );
    }
}

#[test]
fn completeness_figures_are_given_only_where_scores_add_up() {
    for case in CASES {
        let (map, _) = run(&asked(case.method));
        assert_eq!(
            map.convergence_delta.is_some(),
            ["integrated_gradients", "xrai"].contains(&case.method),
            "{}",
            case.method
        );
    }
}

#[test]
fn noise_repeats_by_its_seed_and_fills_its_range() {
    let noise = |seed: u64| run(&json!({"method": "random", "seed": seed})).0.scores;
    assert_eq!(noise(3), noise(3));
    assert_ne!(noise(3), noise(4));
    assert!(noise(3).iter().all(|v| v.abs() <= 1.0));
}

#[test]
fn on_one_linear_layer_pgig_is_the_pattern_times_integrated_gradients() {
    let (weights, pattern) = ([2.0, -1.0, 0.5], [0.25, 0.5, -3.0]);
    let map = |method: &str| {
        let inputs = inputs(
            &json!({"method": method}),
            &[1.0, 2.0, -3.0],
            &[&[0.5, 0.0, 1.0]],
        );
        let run = (inputs.parameters.method.build)(inputs);
        let (map, _) = drive(run, |spec, point| {
            let value = point
                .input
                .iter()
                .zip(weights)
                .map(|(&x, w)| f64::from(x) * w)
                .sum();
            let cotangent = match spec.rule_sets[0] {
                RuleSetId::PatternAttribution => times(weights, pattern.to_vec()),
                _ => weights.to_vec(),
            };
            row(&[value], &cotangent)
        });
        map.scores
    };
    for ((pgig, ig), p) in map("pgig")
        .iter()
        .zip(map("integrated_gradients").iter())
        .zip(pattern)
    {
        assert!((f64::from(*pgig) - p * f64::from(*ig)).abs() < 1e-6);
    }
}
