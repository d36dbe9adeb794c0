use std::path::Path;

use ndarray::{Axis, Slice};
use serde_json::json;

use super::*;
use crate::{
    engine::{EngineSettings, Priority, Provider},
    methods::parameters::Parameters,
    model::registry::Registry,
};

/// Asks for inputs in chunks and keeps the first class's logit of each.
struct Asks {
    model: Arc<Model>,
    chunks: Vec<Vec<Arc<Tensor>>>,
    nearby: bool,
    logits: Vec<f32>,
}

impl Run for Asks {
    type Output = Vec<f32>;

    fn step(&mut self, answers: Answers) -> Step<Vec<f32>> {
        let first = |row: &Row| row.logits[0];
        self.logits.extend(answers.rows().iter().map(first));
        if self.chunks.is_empty() {
            return Step::Done(mem::take(&mut self.logits));
        }
        let inputs = self.chunks.remove(0);
        Step::Ask(vec![match self.nearby {
            true => Question::nearby(&self.model, inputs),
            false => Question::forward(&self.model, inputs),
        }])
    }
}

fn engine() -> Engine {
    let settings = EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 2,
        convolution_error: 2e-5,
        queue_rows: 1000,
        batch_rows: 8,
        batch_bytes: 1 << 30,
        session_bytes: 1 << 30,
    };
    Engine::start(&settings).unwrap()
}

fn squeezenet() -> (Arc<Model>, Tensor) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model = Registry::load(&folder, None)
        .unwrap()
        .get("squeezenet1_1")
        .unwrap();
    let input = Tensor::from_shape_fn(vec![3, 224, 224], |i| {
        ((i[1] * 7 + i[2] * 3 + i[0]) % 31) as f32 / 16.0 - 1.0
    });
    (model, input)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_network_answers_incrementally_as_it_does_whole() {
    let (model, mut input) = squeezenet();
    let (engine, pool, caller) = (engine(), Pool::new(2), Caller::new(Priority::Job, None));
    let resources = Resources {
        engine: &engine,
        pool: &pool,
        caller: &caller,
        pictures: None,
        supports: None,
        attn_lrp: false,
    };
    let clean = Arc::new(input.clone());
    // Patches at corners and between; one change that is larger than what the stages are made for.
    let changes = [
        ([0, 0], 9),
        ([215, 215], 9),
        ([0, 215], 9),
        ([100, 37], 9),
        ([60, 60], 120),
        ([113, 9], 8),
        ([9, 113], 1),
    ];
    let inputs: Vec<Arc<Tensor>> = changes
        .iter()
        .map(|&(at, size)| {
            let patch = |axis: usize| Slice::from(at[axis]..at[axis] + size);
            input
                .slice_axis_mut(Axis(1), patch(0))
                .slice_axis_mut(Axis(2), patch(1))
                .fill(0.5);
            Arc::new(input.clone())
        })
        .collect();
    let chunks = [&inputs[..3], &inputs[3..5], &inputs[5..]];
    let run = |nearby| {
        Box::new(Asks {
            model: model.clone(),
            chunks: chunks.map(<[_]>::to_vec).into(),
            nearby,
            logits: Vec::new(),
        }) as Box<dyn Run<Output = Vec<f32>>>
    };
    let plan = Arc::new(Plan::new(&model, [9, 9]).unwrap());
    assert!(plan.values().len() > 1);
    let driver = Driver::new(resources, &model, clean).incrementally(Some(plan));
    let driven = driver.drive(vec![run(true), run(false)]).await.unwrap();
    let [(found, _), (expected, _)] = &driven.outputs[..] else {
        panic!("two runs have two outputs")
    };
    assert_eq!(found.len(), changes.len());
    let largest = expected
        .iter()
        .fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-5 * largest, "{worst} of {largest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clean_input_is_evaluated_once_for_all_that_is_asked_about_it() {
    let (model, input) = squeezenet();
    let (engine, pool, caller) = (engine(), Pool::new(2), Caller::new(Priority::Job, None));
    let resources = Resources {
        engine: &engine,
        pool: &pool,
        caller: &caller,
        pictures: None,
        supports: None,
        attn_lrp: false,
    };
    let input = Arc::new(input);
    let plan = Plan::new(&model, [9, 9]).map(Arc::new);
    let driver = Driver::new(resources, &model, input.clone()).incrementally(plan);
    let run = |inputs: &[&Arc<Tensor>], nearby| {
        Box::new(Asks {
            model: model.clone(),
            chunks: vec![inputs.iter().map(|input| (*input).clone()).collect()],
            nearby,
            logits: Vec::new(),
        }) as Box<dyn Run<Output = Vec<f32>>>
    };
    let mut changed = input.as_ref().clone();
    changed[[0, 100, 100]] = 1.0;
    // The forward pass of the clean input, and one near it.
    let first = driver
        .drive(vec![run(&[&Arc::new(changed)], true)])
        .await
        .unwrap();
    assert_eq!(first.effort.evaluations, 2);
    driver.predict(1).await.unwrap();
    let clean = driver.drive(vec![run(&[&input], false)]).await.unwrap();
    assert_eq!(clean.effort.evaluations, 0);
    // Nor is it told of the run that asked: it is counted with the predictions.
    assert_eq!(clean.outputs[0].1.evaluations, 0);
    // Methods that do not ask the model take no evaluation beside that of the clean input.
    let given = json!({"method": "edges", "target": "predicted"});
    let facts = model_defaults(&model);
    let parameters = Parameters::parse(given.as_object().unwrap(), &facts).unwrap();
    let explained = driver
        .explain(&[Request::of(parameters)], None)
        .await
        .unwrap();
    assert_eq!(explained.evaluations, 0);
    assert_eq!(
        explained.explained[0][0].predictions[0],
        driver.predict(1).await.unwrap().0[0]
    );
}
