//! The engine over a backend that counts rows: no answer is lost, no work is done for nobody, and
//! shutting down keeps promises.

mod whole;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{
    backend::{Executable, LoadedGraph, StopSignal},
    backend_ort::load_runtime,
    sessions::Sessions,
    *,
};
use crate::model::manifest::{Input, Manifest};
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers, RuleSetId},
    onnx::{
        graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
        read_model,
    },
};

/// Answers `2 x` as logits, after `delay` per batch, which a stop cuts short.
#[derive(Clone, Default)]
struct Counts {
    rows: Arc<AtomicUsize>,
    batches: Arc<Mutex<Vec<usize>>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    discarded: Arc<AtomicUsize>,
    idles: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Fake {
    counts: Counts,
    delay: Duration,
    workers: usize,
    max_concurrent: usize,
}

const IDLE: Duration = Duration::from_millis(300);
const PANICS: f32 = -666.0;
const FAILS: f32 = -777.0;
/// Stands for a whole batch among the sizes of batches.
const WHOLE: usize = usize::MAX;
/// Memory for the activations of one batch.
const BATCH_BYTES: usize = 64;

/// A batch that runs.
struct Running<'a> {
    counts: &'a Counts,
    others: usize,
}

impl<'a> Running<'a> {
    fn start(counts: &'a Counts) -> Self {
        let others = counts.running.fetch_add(1, Ordering::SeqCst);
        counts.most_running.fetch_max(others + 1, Ordering::SeqCst);
        Self { counts, others }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Fake {
    fn workers(&self) -> usize {
        self.workers
    }

    fn load(&self, graph: &Arc<SessionKey>, _: usize, _: bool) -> Result<LoadedGraph, EngineError> {
        if let SessionKey::Rows(key) = graph.as_ref()
            && key.spec.outputs == ["nowhere"]
        {
            return Err(EngineError::Runtime {
                reason: "cannot be loaded".into(),
            });
        }
        Ok(LoadedGraph {
            executable: Arc::new(self.clone()),
            batch_rows: match **graph {
                SessionKey::Rows(_) => 8,
                SessionKey::Whole(_) => 1,
            },
            max_concurrent: self.max_concurrent,
            classes: Some(3),
        })
    }

    fn release_memory(&self) {
        self.counts.idles.fetch_add(1, Ordering::SeqCst);
    }

    fn discard(&self, _: &Arc<SessionKey>) {
        self.counts.discarded.fetch_add(1, Ordering::SeqCst);
    }

    fn close_outdated(&self, _: &dyn Fn(&Model) -> bool) -> usize {
        0
    }
}

impl Executable for Fake {
    fn run(
        &self,
        input: &BatchInput,
        alone: bool,
        stop: &StopSignal,
    ) -> Result<BatchOutput, EngineError> {
        let running = Running::start(&self.counts);
        assert!(!alone || running.others == 0);
        let (send, stopped) = mpsc::channel();
        stop.on_stop(move || send.send(()).unwrap_or_default());
        if stopped.recv_timeout(self.delay).is_ok() {
            self.counts.stopped.store(true, Ordering::SeqCst);
            return Err(EngineError::Cancelled);
        }
        let points = match input {
            BatchInput::Rows(points) => points,
            BatchInput::Whole(inputs) => {
                self.counts.batches.lock().unwrap().push(WHOLE);
                let doubled = |(name, x): &(String, Arc<Tensor>)| (name.clone(), 2.0_f32 * &**x);
                return Ok(BatchOutput::Whole(inputs.iter().map(doubled).collect()));
            }
        };
        self.counts.rows.fetch_add(points.len(), Ordering::SeqCst);
        self.counts.batches.lock().unwrap().push(points.len());
        let values: Vec<f32> = points.iter().map(|point| point.input[[0]]).collect();
        assert!(!values.contains(&PANICS), "a row that panics");
        if values.contains(&FAILS) {
            return Err(EngineError::Runtime {
                reason: "a row that fails".into(),
            });
        }
        let row = |x: f32| Row {
            logits: vec![2.0 * x],
            probabilities: vec![],
            cotangents: vec![],
            activations: Vec::new(),
        };
        Ok(BatchOutput::Rows(values.into_iter().map(row).collect()))
    }
}

fn engine(queue_rows: usize, delay_ms: u64) -> (Engine, Counts) {
    engine_of(queue_rows, delay_ms, 1, 1)
}

fn engine_of(
    queue_rows: usize,
    delay_ms: u64,
    workers: usize,
    max_concurrent: usize,
) -> (Engine, Counts) {
    let counts = Counts::default();
    let fake = Fake {
        counts: counts.clone(),
        delay: Duration::from_millis(delay_ms),
        workers,
        max_concurrent,
    };
    let limits = Limits {
        queue_rows,
        batch_bytes: BATCH_BYTES,
        idle_after: IDLE,
    };
    let engine = Engine::with_backends(&limits, vec![Provider::Cpu], vec![Arc::new(fake)]);
    (engine.unwrap(), counts)
}

pub(super) fn spec(rule_sets: &[RuleSetId]) -> DeriveSpec {
    DeriveSpec::of(rule_sets)
}

fn model(id: &str, name: &str, shape: &[usize], graph: Arc<Graph>) -> Arc<Model> {
    Arc::new(Model {
        id: id.into(),
        folder: None,
        manifest: Manifest {
            input: Input {
                name: name.into(),
                shape: shape.to_vec(),
                preprocess: None,
                open: None,
            },
            head: Head::Logits,
            pattern_layers: PatternLayers::All,
            output: None,
            reading: Default::default(),
            layer: None,
            assumed: None,
        },
        labels: Default::default(),
        hash: id.into(),
        graph,
        rule_sets: Default::default(),
        layers: Vec::new(),
        attention: Err("none".to_owned()),
        patterns: None,
        provenance: None,
        supports: Arc::default(),
        outputs: Default::default(),
        warnings: Vec::new(),
        notes: Vec::new(),
    })
}

pub(super) fn number_model() -> Arc<Model> {
    let graph = Graph {
        name: "none".into(),
        opset_imports: Default::default(),
        ..Graph::default()
    };
    model("numbers", "x", &[1], Arc::new(graph))
}

fn points(values: &[f32]) -> Vec<Point> {
    let point = |&x: &f32| Point {
        input: Arc::new(Tensor::from_elem(vec![1], x)),
        seed: Arc::from([(0, 1.0)]),
    };
    values.iter().map(point).collect()
}

fn caller(id: u64) -> Caller {
    Caller {
        id,
        priority: Priority::Interactive,
        cancel: CancellationToken::new(),
        deadline: None,
    }
}

#[test]
fn a_job_and_a_request_are_never_the_same_caller() {
    let callers = [Priority::Job, Priority::Interactive, Priority::Job]
        .map(|priority| Caller::new(priority, None).id);
    assert_eq!(std::collections::HashSet::from(callers).len(), 3);
}

async fn settled(condition: impl Fn() -> bool) -> bool {
    for _ in 0..200 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_callers_get_their_own_rows_back() {
    let (engine, counts) = engine(10_000, 1);
    let model = number_model();
    let calls = (0..100_u64).map(|id| {
        let (engine, model) = (engine.clone(), model.clone());
        tokio::spawn(async move {
            let values: Vec<f32> = (0..id % 30 + 1).map(|i| (100 * id + i) as f32).collect();
            let evaluated = engine
                .evaluate(&model, &spec(&[]), points(&values), &caller(id))
                .await
                .unwrap();
            let expected: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
            assert_eq!(
                evaluated
                    .rows
                    .iter()
                    .map(|row| row.logits[0])
                    .collect::<Vec<_>>(),
                expected
            );
            values.len()
        })
    });
    let total: usize = join_all(calls).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(counts.rows.load(Ordering::SeqCst), total);
    assert!(counts.batches.lock().unwrap().iter().all(|rows| *rows <= 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_batches_of_a_graph_run_at_once_as_it_has_sessions_for() {
    let model = number_model();
    for (workers, max_concurrent, both) in [(1, 3, 1), (3, 1, 2), (3, 2, 3), (4, 3, 4)] {
        let (engine, counts) = engine_of(1000, 10, workers, max_concurrent);
        let (one, other, caller) = (spec(&[]), spec(&[RuleSetId::Gradient]), caller(1));
        let answer = engine
            .evaluate(&model, &one, points(&[1.0; 100]), &caller)
            .await
            .unwrap();
        assert_eq!(answer.rows.len(), 100);
        assert_eq!(
            counts.most_running.swap(0, Ordering::SeqCst),
            workers.min(max_concurrent)
        );
        let (a, b) = tokio::join!(
            engine.evaluate(&model, &one, points(&[1.0; 100]), &caller),
            engine.evaluate(&model, &other, points(&[2.0; 100]), &caller)
        );
        assert_eq!((a.unwrap().rows.len(), b.unwrap().rows.len()), (100, 100));
        assert_eq!(counts.most_running.load(Ordering::SeqCst), both);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let (engine, _) = engine(16, 20);
    let model = number_model();
    let calls = (0..100).map(|id| {
        let (engine, model) = (engine.clone(), model.clone());
        async move {
            engine
                .evaluate(&model, &spec(&[]), points(&[1.0; 4]), &caller(id))
                .await
        }
    });
    let (mut answered, mut refused) = (0, 0);
    for answer in join_all(calls).await {
        match answer {
            Ok(evaluated) => answered += evaluated.rows.len() / 4,
            Err(EngineError::Overloaded {
                retry_after,
                limit_rows: 16,
                waiting_rows,
            }) => {
                assert!(retry_after >= Duration::from_secs(1) && waiting_rows > 12);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        answered >= 4 && refused > 0 && answered + refused == 100,
        "{answered} answered, {refused} refused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_for_room_and_requests_go_before_them_all() {
    let (engine, counts) = engine(16, 20);
    let model = number_model();
    let jobs = tokio::spawn(join_all((0..20).map(|id| {
        let (engine, model) = (engine.clone(), model.clone());
        let job = Caller {
            priority: Priority::Job,
            ..caller(id)
        };
        async move {
            engine
                .evaluate(&model, &spec(&[]), points(&[1.0; 16]), &job)
                .await
                .unwrap()
                .rows
                .len()
        }
    })));
    assert!(settled(|| counts.rows.load(Ordering::SeqCst) > 0).await);
    for _ in 0..5 {
        engine
            .evaluate(&model, &spec(&[]), points(&[1.0; 16]), &caller(100))
            .await
            .unwrap();
    }
    assert!(
        counts.rows.load(Ordering::SeqCst) < 20 * 16,
        "the jobs came first"
    );
    assert_eq!(jobs.await.unwrap().iter().sum::<usize>(), 20 * 16);
}

#[tokio::test]
async fn a_running_batch_stops_when_its_only_caller_leaves() {
    let (engine, counts) = engine(100, 60_000);
    let model = number_model();
    let (engine_, model_) = (engine.clone(), model.clone());
    let call = tokio::spawn(async move {
        engine_
            .evaluate(&model_, &spec(&[]), points(&[1.0; 20]), &caller(1))
            .await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    call.abort();
    assert!(settled(|| counts.stopped.load(Ordering::SeqCst)).await);
    assert_eq!(counts.rows.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_batch_goes_on_while_one_of_its_callers_waits() {
    let (engine, counts) = engine(100, 150);
    let model = number_model();
    let spec = spec(&[]);
    let (busy, leaver) = (caller(1), caller(2));
    let (first, second, third) = tokio::join!(
        // Keeps the device busy, so that the next two share a batch.
        engine.evaluate(&model, &spec, points(&[0.0]), &busy),
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let call = engine.evaluate(&model, &spec, points(&[1.0]), &leaver);
            let leave = async {
                tokio::time::sleep(Duration::from_millis(180)).await;
                leaver.cancel.cancel();
            };
            tokio::join!(call, leave).0
        },
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            engine
                .evaluate(&model, &spec, points(&[2.0]), &caller(3))
                .await
        }
    );
    assert!(matches!(second, Err(EngineError::Cancelled)));
    assert_eq!(
        (
            first.unwrap().rows[0].logits[0],
            third.unwrap().rows[0].logits[0]
        ),
        (0.0, 4.0)
    );
    assert!(!counts.stopped.load(Ordering::SeqCst));
    assert_eq!(*counts.batches.lock().unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_the_work() {
    let (engine, counts) = engine(100, 60_000);
    let hasty = Caller {
        deadline: Some(Instant::now() + Duration::from_millis(60)),
        ..caller(1)
    };
    let answer = engine
        .evaluate(&number_model(), &spec(&[]), points(&[1.0]), &hasty)
        .await;
    assert!(
        matches!(answer, Err(EngineError::DeadlineExceeded)),
        "{answer:?}"
    );
    assert!(settled(|| counts.stopped.load(Ordering::SeqCst)).await);
}

#[tokio::test]
async fn a_panic_fails_its_batch_and_the_worker_goes_on() {
    let (engine, counts) = engine(100, 1);
    let (model, spec) = (number_model(), spec(&[]));
    for poison in [PANICS, FAILS] {
        let answer = engine
            .evaluate(&model, &spec, points(&[poison]), &caller(1))
            .await;
        assert!(
            matches!(answer, Err(EngineError::Runtime { reason }) if reason.contains("a row that"))
        );
    }
    assert_eq!(counts.discarded.load(Ordering::SeqCst), 1);
    assert_eq!(
        engine
            .evaluate(&model, &spec, points(&[4.0]), &caller(1))
            .await
            .unwrap()
            .rows[0]
            .logits,
        [8.0]
    );
}

#[tokio::test]
async fn an_idle_device_gives_memory_back_once_and_works_again() {
    let (engine, counts) = engine_of(100, 1, 2, 2);
    let (model, spec) = (number_model(), spec(&[]));
    for turns in 1..=2 {
        engine
            .evaluate(&model, &spec, points(&[1.0]), &caller(1))
            .await
            .unwrap();
        tokio::time::sleep(2 * IDLE).await;
        assert_eq!(counts.idles.load(Ordering::SeqCst), turns);
    }
}

#[tokio::test]
async fn a_graph_that_cannot_be_loaded_fails_its_callers_only() {
    let (engine, _) = engine(100, 1);
    let model = number_model();
    let broken = DeriveSpec {
        outputs: vec!["nowhere".into()],
        ..spec(&[])
    };
    let (spec, one, two) = (spec(&[]), caller(1), caller(2));
    let (bad, good) = tokio::join!(
        engine.evaluate(&model, &broken, points(&[1.0]), &one),
        engine.evaluate(&model, &spec, points(&[1.0]), &two)
    );
    assert!(matches!(bad, Err(EngineError::Runtime { .. })) && good.is_ok());
}

#[tokio::test]
async fn a_seed_beyond_the_classes_fails_alone() {
    let (engine, _) = engine(100, 1);
    let (model, spec) = (number_model(), spec(&[]));
    let mut wrong = points(&[1.0]);
    wrong[0].seed = Arc::from([(3, 1.0)]);
    let (one, two) = (caller(1), caller(2));
    let (bad, good) = tokio::join!(
        engine.evaluate(&model, &spec, wrong, &one),
        engine.evaluate(&model, &spec, points(&[1.0]), &two)
    );
    assert!(
        matches!(bad, Err(EngineError::Runtime { reason }) if reason.contains("it has 3"))
            && good.is_ok()
    );
}

#[tokio::test]
async fn draining_answers_what_was_admitted_and_refuses_the_rest() {
    let (engine, _) = engine(100, 50);
    let (model, spec, one) = (number_model(), spec(&[]), caller(1));
    let admitted = engine.evaluate(&model, &spec, points(&[1.0; 20]), &one);
    let late = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let drain = engine.drain(Duration::from_secs(10));
        let refused = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            engine
                .evaluate(&model, &spec, points(&[1.0]), &caller(2))
                .await
        };
        tokio::join!(drain, refused).1
    };
    let (admitted, late) = tokio::join!(admitted, late);
    assert_eq!(admitted.unwrap().rows.len(), 20);
    assert!(matches!(late, Err(EngineError::Draining)));
}

#[tokio::test]
async fn draining_stops_what_takes_too_long() {
    let (engine, counts) = engine(100, 60_000);
    let (model, spec, one) = (number_model(), spec(&[]), caller(1));
    let drain = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        engine.drain(Duration::from_millis(50)).await;
    };
    let (answer, ()) = tokio::join!(
        engine.evaluate(&model, &spec, points(&[1.0; 20]), &one),
        drain
    );
    assert!(matches!(answer, Err(EngineError::Draining)));
    assert!(settled(|| counts.stopped.load(Ordering::SeqCst)).await);
}

#[tokio::test]
async fn times_add_up_to_the_whole_wait() {
    let (model, spec) = (number_model(), spec(&[]));
    // Batches of eight, one after another and at once.
    for (workers, least) in [(1, 80), (2, 40)] {
        let (engine, _) = engine_of(100, 40, workers, workers);
        let started = Instant::now();
        let evaluated = engine
            .evaluate(&model, &spec, points(&[1.0; 16]), &caller(1))
            .await
            .unwrap();
        let whole = started.elapsed();
        assert!(
            evaluated.model >= Duration::from_millis(least)
                && evaluated.queue + evaluated.model <= whole
        );
    }
}

#[tokio::test]
async fn a_wrong_shape_is_refused_before_it_waits() {
    let (engine, counts) = engine(100, 1);
    let wrong = vec![Point {
        input: Arc::new(Tensor::zeros(vec![2])),
        seed: Arc::from([]),
    }];
    assert!(
        engine
            .evaluate(&number_model(), &spec(&[]), wrong, &caller(1))
            .await
            .is_err()
    );
    assert_eq!(counts.rows.load(Ordering::SeqCst), 0);
}

/// Asks for the gradients of five points, and for one of them alone.
async fn assert_rows_do_not_depend_on_their_batch(
    model: &Arc<Model>,
    threads: usize,
    batch_bytes: usize,
    session_bytes: usize,
) {
    let settings = EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads,
        convolution_error: 2e-5,
        queue_rows: 100,
        batch_rows: 4,
        batch_bytes,
        session_bytes,
    };
    let engine = Engine::start(&settings).unwrap();
    let shape = &model.manifest.input.shape;
    let point = |shift: usize| Point {
        input: Arc::new(Tensor::from_shape_fn(shape.clone(), |i| {
            ((i[1] * 7 + i[2] * 3 + shift) % 31) as f32 / 16.0
        })),
        seed: Arc::from([(shift + 2, 1.0)]),
    };
    let (spec, one) = (spec(&[RuleSetId::Gradient]), caller(1));
    let alone = engine
        .evaluate(model, &spec, vec![point(5)], &one)
        .await
        .unwrap();
    let shared = engine
        .evaluate(model, &spec, [1, 5, 9, 13, 17].map(point).to_vec(), &one)
        .await
        .unwrap();
    let (a, b) = (&alone.rows[0], &shared.rows[1]);
    assert_eq!(
        (a.logits.len(), a.cotangents[0].shape()),
        (1000, shape.as_slice())
    );
    let largest = a.cotangents[0].iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    assert!(largest > 0.0);
    // Other numbers of threads may sum in another order.
    assert!(
        a.cotangents[0]
            .iter()
            .zip(&b.cotangents[0])
            .all(|(x, y)| (x - y).abs() < 1e-5 * largest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn squeezenet_gradients_do_not_depend_on_who_shared_the_batch() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1/model.onnx");
    let graph = read_model(&path).unwrap();
    let name = graph.inputs[0].name.clone();
    let model = model("squeezenet1_1", &name, &[3, 224, 224], Arc::new(graph));
    // One thread has no copies; three threads have three of one thread, or one of three where the
    // memory is short.
    for (threads, session_bytes) in [(1, 1 << 30), (3, 1 << 30), (3, 1 << 20)] {
        assert_rows_do_not_depend_on_their_batch(&model, threads, 1 << 30, session_bytes).await;
    }
}

fn lent_model() -> Arc<Model> {
    let value = |name: &str, shape: Vec<Dim>| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    };
    let weights: Vec<f32> = (0..1100 * 1000)
        .map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 20) as f32 / 4096.0 - 0.5)
        .collect();
    let graph = Graph {
        name: "lent".into(),
        opset_imports: [(String::new(), 17)].into(),
        inputs: vec![value(
            "x",
            vec!["n".into(), 11.into(), 10.into(), 10.into()],
        )],
        outputs: vec![value("out", vec!["n".into(), 1000.into()])],
        initializers: [("w".to_owned(), Literal::from_f32s(&[1100, 1000], &weights))].into(),
        nodes: vec![
            Node::new("Relu", ["x"], ["a"]),
            Node::new("Flatten", ["a"], ["b"]),
            Node::new("Gemm", ["b", "w"], ["out"]),
        ],
        ..Graph::default()
    };
    assert!(cpu::weights::lent_bytes(&graph) > 0);
    model("lent", "x", &[11, 10, 10], Arc::new(graph))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gradients_through_lent_weights_do_not_depend_on_who_shared_the_batch() {
    let model = lent_model();
    // Batches of four and one, of two, two and one, and of five.
    for batch_bytes in [120 << 10, 60 << 10, 1 << 30] {
        assert_rows_do_not_depend_on_their_batch(&model, 2, batch_bytes, 1 << 30).await;
    }
}

#[test]
fn rows_that_come_after_a_graph_was_loaded_are_answered_too() {
    // Two copies for a row each, and for two rows each.
    for batch_bytes in [60 << 10, 120 << 10] {
        let settings = EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 2,
            convolution_error: 2e-5,
            queue_rows: 100,
            batch_rows: 4,
            batch_bytes,
            session_bytes: 1 << 30,
        };
        let sessions = Sessions::new(load_runtime(None, 0).unwrap(), Provider::Cpu, &settings);
        let graph = Arc::new(SessionKey::Rows(GraphKey {
            model: lent_model(),
            spec: spec(&[RuleSetId::Gradient]),
        }));
        let point = |class: usize| Point {
            input: Arc::new(Tensor::from_elem(vec![11, 10, 10], 1.0)),
            seed: Arc::from([(class, 1.0)]),
        };
        let loaded = sessions.load(&graph, 1, false).unwrap();
        let input = BatchInput::Rows((0..loaded.batch_rows).map(point).collect());
        let run = || match loaded.executable.run(&input, false, &StopSignal::default()) {
            Ok(BatchOutput::Rows(rows)) => rows,
            other => panic!("{other:?}"),
        };
        let early = run();
        let rows = loaded.batch_rows;
        sessions.load(&graph, rows + 1, false).unwrap();
        let shared = run();
        assert_eq!((early.len(), shared.len()), (rows, rows));
        for (a, b) in early.iter().zip(&shared) {
            assert!(
                a.cotangents[0]
                    .iter()
                    .zip(&b.cotangents[0])
                    .all(|(a, b)| (a - b).abs() < 1e-6)
            );
        }
    }
}

/// Asks for `rows` rows at once, as a request whose time is measured and which has to be done
/// within `limit`.
async fn in_time(
    engine: &Engine,
    id: u64,
    rows: usize,
    limit: Duration,
) -> Result<usize, EngineError> {
    let caller = Caller {
        deadline: Some(Instant::now() + limit),
        ..caller(id)
    };
    let class = RequestClass {
        model: "numbers".into(),
        method: "gradient",
    };
    let _admitted = engine.reserve(&class, rows, &caller).await?;
    let evaluated = engine
        .evaluate(
            &number_model(),
            &spec(&[]),
            points(&vec![1.0; rows]),
            &caller,
        )
        .await?;
    Ok(evaluated.rows.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_as_many_are_admitted_as_end_in_time_and_the_others_know_at_once_when_to_come_back()
 {
    // 8 rows in 20 ms: 200 rows in half a second.
    let (engine, _) = engine(100_000, 20);
    let limit = Duration::from_secs(4);
    in_time(&engine, 0, 64, limit).await.unwrap();
    let crowd = (1..=32).map(|id| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            (in_time(&engine, id, 200, limit).await, started.elapsed())
        })
    });
    let (mut answered, mut waits) = (0, Vec::new());
    let started = Instant::now();
    for (answer, took) in join_all(crowd).await.into_iter().map(Result::unwrap) {
        match answer {
            Ok(rows) => answered += rows / 200,
            Err(EngineError::TooLate { retry_after, .. }) => {
                assert!(took < Duration::from_millis(500), "{took:?}");
                waits.push(retry_after);
            }
            Err(other) => panic!("{other}"),
        }
    }
    // As many as the sleeping backend allows on a busy machine.
    assert!(
        (3..=6).contains(&answered) && answered + waits.len() == 32,
        "{answered} answered, {} refused",
        waits.len()
    );
    let wait = waits.into_iter().max().unwrap();
    assert!(wait <= Duration::from_secs(8), "{wait:?}");
    tokio::time::sleep_until((started + wait).into()).await;
    assert_eq!(in_time(&engine, 99, 200, limit).await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_unknown_cost_waits_for_the_first_to_be_measured() {
    let (engine, _) = engine(100_000, 20);
    let crowd = (1..=16).map(|id| {
        let engine = engine.clone();
        tokio::spawn(async move { in_time(&engine, id, 100, Duration::from_secs(2)).await })
    });
    let answers: Vec<_> = join_all(crowd)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let late = answers
        .iter()
        .filter(|answer| matches!(answer, Err(EngineError::DeadlineExceeded)))
        .count();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(EngineError::TooLate { .. })))
        .count();
    assert_eq!(
        (
            late,
            answers.iter().filter(|answer| answer.is_ok()).count() + refused
        ),
        (0, 16)
    );
    assert!(refused >= 8, "{refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_reservation_makes_room() {
    let (engine, _) = engine(100_000, 20);
    let limit = Duration::from_secs(4);
    in_time(&engine, 0, 64, limit).await.unwrap();
    let class = RequestClass {
        model: "numbers".into(),
        method: "gradient",
    };
    let patient = |id| Caller {
        deadline: Some(Instant::now() + limit),
        ..caller(id)
    };
    let first = engine.reserve(&class, 1000, &patient(1)).await.unwrap();
    assert!(matches!(
        engine.reserve(&class, 1000, &patient(2)).await,
        Err(EngineError::TooLate { .. })
    ));
    drop(first);
    assert!(engine.reserve(&class, 1000, &patient(3)).await.is_ok());
}
