//! Whole batches: they give way to requests, keep to the memory for a batch, and fail clearly.

use super::*;
use onnx_autodiff::autodiff::parameters::{Parameters, parameter_gradients};

fn value(name: &str, shape: Vec<Dim>) -> ValueInfo {
    ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    }
}

fn graph(inputs: Vec<ValueInfo>, nodes: Vec<Node>, outputs: Vec<ValueInfo>) -> Graph {
    Graph {
        name: "whole".into(),
        opset_imports: [(String::new(), 17)].into(),
        inputs,
        outputs,
        nodes,
        ..Graph::default()
    }
}

/// `y = relu(x)`, rows of two numbers: 16 bytes each, four of them within the memory for a batch.
fn relu(op_type: &str) -> Arc<WholeGraph> {
    let rows = || vec!["batch".into(), 2.into()];
    let nodes = vec![Node::new(op_type, ["x"], ["y"])];
    let graph = graph(vec![value("x", rows())], nodes, vec![value("y", rows())]);
    Arc::new(WholeGraph::new(number_model(), "relu", graph).unwrap())
}

fn batch(rows: usize) -> NamedInputs {
    vec![("x".into(), Arc::new(Tensor::from_elem(vec![rows, 2], 1.5)))]
}

#[tokio::test]
async fn a_whole_batch_gives_its_outputs_by_name() {
    let (engine, counts) = engine(100, 1);
    let outputs = engine
        .run_whole(&relu("Relu"), batch(3), &caller(1))
        .await
        .unwrap();
    assert_eq!(outputs["x"], Tensor::from_elem(vec![3, 2], 3.0));
    assert_eq!(*counts.batches.lock().unwrap(), [WHOLE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_batches_begin_when_no_request_is_left() {
    // A second worker is free all the time.
    let (engine, counts) = engine_of(1000, 10, 2, 1);
    let (model, spec, relu) = (number_model(), spec(&[]), relu("Relu"));
    let (one, job) = (caller(1), caller(2));
    let (answer, whole) = tokio::join!(
        engine.evaluate(&model, &spec, points(&[1.0; 40]), &one),
        engine.run_whole(&relu, batch(1), &job)
    );
    assert!(answer.is_ok() && whole.is_ok());
    assert_eq!(*counts.batches.lock().unwrap(), [8, 8, 8, 8, 8, WHOLE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_batches_begin_when_the_last_request_is_given_up() {
    let (engine, counts) = engine_of(1000, 50, 2, 1);
    let (model, spec, relu) = (number_model(), spec(&[]), relu("Relu"));
    let (one, job) = (caller(1), caller(2));
    let leaves = tokio::time::timeout(
        Duration::from_millis(20),
        engine.evaluate(&model, &spec, points(&[1.0; 800]), &one),
    );
    let (left, whole) = tokio::join!(leaves, engine.run_whole(&relu, batch(1), &job));
    assert!(left.is_err() && whole.is_ok());
    assert_eq!(*counts.batches.lock().unwrap(), [WHOLE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_batches_take_turns_with_the_rows_of_jobs() {
    let (engine, counts) = engine(1000, 5);
    let (model, spec, relu) = (number_model(), spec(&[]), relu("Relu"));
    let (one, two) = (caller(1), caller(2));
    let job = Caller {
        priority: Priority::Job,
        ..one
    };
    let (rows, whole) = tokio::join!(
        engine.evaluate(&model, &spec, points(&[1.0; 400]), &job),
        engine.run_whole(&relu, batch(1), &two)
    );
    assert!(rows.is_ok() && whole.is_ok());
    let batches = counts.batches.lock().unwrap();
    let turn = batches.iter().position(|size| *size == WHOLE);
    assert!(turn.is_some_and(|turn| turn < 10), "{turn:?}");
}

#[tokio::test]
async fn batches_beyond_the_memory_or_with_other_inputs_are_refused_before_they_wait() {
    let (engine, counts) = engine(100, 1);
    let relu = relu("Relu");
    assert_eq!(engine.most_batch_rows(&relu), 4);
    let named = |name: &str, shape: Vec<usize>| (name.to_owned(), Arc::new(Tensor::zeros(shape)));
    let cases = [
        (batch(5), "5 rows of 16 bytes"),
        (vec![], "0 inputs were given"),
        (vec![named("z", vec![1, 2])], "input x is missing"),
        (vec![named("x", vec![1, 3])], "input x has shape [1, 3]"),
        (vec![named("x", vec![2])], "the graph takes [batch, 2]"),
    ];
    for (inputs, words) in cases {
        match engine.run_whole(&relu, inputs, &caller(1)).await {
            Err(EngineError::InvalidBatch { reason }) if reason.contains(words) => {}
            other => panic!("{words}: {other:?}"),
        }
    }
    assert!(counts.batches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_whole_batch_stops_when_its_caller_leaves() {
    let (engine, counts) = engine(100, 60_000);
    let (relu, leaver) = (relu("Relu"), caller(1));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        leaver.cancel.cancel();
    };
    let (answer, ()) = tokio::join!(engine.run_whole(&relu, batch(1), &leaver), leave);
    assert!(matches!(answer, Err(EngineError::Cancelled)), "{answer:?}");
    assert!(settled(|| counts.stopped.load(Ordering::SeqCst)).await);
}

fn real_settings() -> EngineSettings {
    EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 2,
        convolution_error: 2e-5,
        queue_rows: 100,
        batch_rows: 4,
        batch_bytes: 1 << 20,
        session_bytes: 1 << 30,
    }
}

#[tokio::test]
async fn a_graph_that_onnx_runtime_refuses_fails_its_caller_with_the_reason() {
    let engine = Engine::start(&real_settings()).unwrap();
    let unknown = relu("NoSuchOperator");
    for (graph, words) in [(unknown, Some("NoSuchOperator")), (relu("Relu"), None)] {
        match (engine.run_whole(&graph, batch(2), &caller(1)).await, words) {
            (Err(EngineError::Runtime { reason }), Some(words)) if reason.contains(words) => {}
            (Ok(outputs), None) => assert_eq!(outputs["y"], Tensor::from_elem(vec![2, 2], 1.5)),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_session_of_a_whole_batch_is_kept_until_nobody_can_ask_for_it() {
    let sessions = Sessions::new(
        load_runtime(None, 0).unwrap(),
        Provider::Cpu,
        &real_settings(),
    );
    let handle = relu("Relu");
    let load = || sessions.load(&Arc::new(SessionKey::Whole(handle.clone())), 1, false);
    load().unwrap();
    load().unwrap();
    sessions.release_memory();
    assert_eq!(sessions.count(), 1);
    drop(handle);
    sessions.release_memory();
    assert_eq!(sessions.count(), 0);
}

/// `out = x W`: the gradient of `seed · out` with respect to W is `xᵀ seed`, summed over the batch.
#[tokio::test]
async fn gradients_of_parameters_are_summed_over_the_batch() {
    let mut source = graph(
        vec![value("x", vec!["n".into(), 2.into()])],
        vec![Node::new("MatMul", ["x", "w"], ["out"])],
        vec![value("out", vec!["n".into(), 3.into()])],
    );
    let weight = Literal::from_f32s(&[2, 3], &[1.0, 0.0, -1.0, 0.5, 2.0, 0.0]);
    source.initializers.insert("w".into(), weight);
    let derived = parameter_gradients(&source, Head::Logits, &Parameters::All).unwrap();
    let name = derived.parameters[0].gradient.clone();
    let graph = WholeGraph::new(number_model(), "gradients of parameters", derived.graph).unwrap();
    let engine = Engine::start(&real_settings()).unwrap();
    let x = Tensor::from_shape_vec(vec![2, 2], vec![1.0, 2.0, 3.0, -1.0]).unwrap();
    let seed = Tensor::from_shape_vec(vec![2, 3], vec![1.0, 0.0, 2.0, 0.0, -1.0, 1.0]).unwrap();
    // Other weights than the model's: they are inputs.
    let w = Tensor::from_elem(vec![2, 3], 1.0);
    let inputs = [("x", x), ("w", w), ("seed", seed)]
        .map(|(name, tensor)| (name.to_owned(), Arc::new(tensor)));
    let outputs = engine
        .run_whole(&Arc::new(graph), inputs.to_vec(), &caller(1))
        .await
        .unwrap();
    let logits = Tensor::from_shape_vec(vec![2, 3], vec![3.0, 3.0, 3.0, 2.0, 2.0, 2.0]).unwrap();
    let expected = Tensor::from_shape_vec(vec![2, 3], vec![1.0, -3.0, 5.0, 2.0, 1.0, 3.0]).unwrap();
    assert_eq!((&outputs["logits"], &outputs[&name]), (&logits, &expected));
}
