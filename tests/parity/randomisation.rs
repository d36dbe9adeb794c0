//! Known results of Adebayo et al., Sanity Checks, 2018, on SqueezeNet and a photo: the gradient of a
//! random model has nothing of the model's own, guided backpropagation has much of it.

use std::{collections::BTreeMap, sync::Arc};

use explaind::{
    driver::{Driver, Resources},
    engine::{Caller, Engine, EngineSettings, Priority, Provider},
    evaluation::{AttributionMap, Case, CaseRow, parameters::Values, patches::Score, registry},
    methods::{self, Request, parameters::Parameters, target::Target},
    model::{
        Model,
        variant::{Randomisation, with_weights},
    },
    pool::Pool,
};
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

use crate::{
    pretrained::{network, photo},
    stored,
};

/// Of the random models.
const SEEDS: [u64; 3] = [0, 1, 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gradients_change_with_the_model_and_guided_backpropagation_stays() {
    let reference = stored::read("pretrained/squeezenet1_1.safetensors");
    let (input, class) = (photo(&reference), reference.json("target"));
    let model = Arc::new(Model::bare(
        "squeezenet1_1",
        Arc::new(network("squeezenet1_1")),
    ));
    let same = with_weights(&model, BTreeMap::new(), "the same").unwrap();
    let random = Randomisation::of(&model).unwrap();
    let random = SEEDS.map(|seed| random.from(0, seed).unwrap());
    let variants = [same].into_iter().chain(random);
    let variants = variants.map(|model| Arc::new(model).into()).collect();

    let settings = EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 2,
        convolution_error: 2e-5,
        queue_rows: 100,
        batch_rows: 8,
        batch_bytes: 1 << 28,
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
    let driver = Driver::new(resources, &model, input.clone());
    let requests = ["gradient", "guided_backprop"].map(|id| {
        let method = methods::registry::find(id).unwrap();
        let target = Target::Class(class);
        let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
        Request::of(Parameters {
            target,
            ..parameters
        })
    });
    let explained = driver.explain(&requests, None).await.unwrap().explained;
    let maps = requests.into_iter().zip(explained);
    let maps = maps.map(|(request, explained)| AttributionMap {
        request,
        scores: explained[0].attribution.scores.clone(),
        difference: None,
        compared: None,
    });
    let row = |map, score| CaseRow { map, score };
    let case = Case {
        model: model.clone(),
        variants,
        input,
        class,
        twin: None,
        clean: 1.0,
        right: None,
        region: None,
        maps: maps.collect(),
        rows: Arc::new([
            row(0, Score::Signed),
            row(0, Score::Absolute),
            row(1, Score::Signed),
            row(1, Score::Absolute),
        ]),
        seed: 0,
    };
    let metric = registry::find("model_randomisation").unwrap();
    let runs = (metric.build)(&case, &Values::default()).unwrap();
    let found = driver
        .drive(runs)
        .await
        .unwrap()
        .outputs
        .remove(0)
        .0
        .unwrap();
    for row in &found {
        println!("{row:.3?}");
        // The model itself, and one that differs in no weight.
        assert!(
            row[..2].iter().all(|found| (found - 1.0).abs() < 1e-12),
            "{row:?}"
        );
    }
    let [gradient, size, guided, guided_size] = found.try_into().unwrap();
    let near = |row: &[f64], most: f64| row[2..].iter().all(|found| found.abs() < most);
    assert!(near(&gradient, 0.05), "{gradient:?}");
    // Magnitudes have what any weights make of the picture.
    assert!(near(&size, 0.45), "{size:?}");
    let above = |row: &[f64]| row[2..].iter().all(|found| *found > 0.5);
    assert!(
        above(&guided) && above(&guided_size),
        "{guided:?} {guided_size:?}"
    );
}
