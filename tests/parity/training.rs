//! Training against torch.optim, on the same pictures in the same batches (training.py); and what a
//! training refuses.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use explaind::{
    dataset::{ArchiveLimits, Catalogue, Dataset},
    engine::{Caller, Engine, EngineSettings, Priority, Provider},
    faults::Reader,
    model::{Model, registry::Registry},
    picture::decode::Limits,
    pool::Pool,
    quota::Quota,
    training::{Checkpoint, Examples, Recipe, Surroundings, Targets, Trainer, TrainingError},
};
use image::{Rgb, RgbImage};
use ndarray::Array2;
use onnx_autodiff::onnx::{graph::Graph, read_bytes};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stored::{self, Stored};

/// As in training.py.
fn picture(number: u32, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        Rgb(std::array::from_fn(|c| {
            let c = c as u32;
            let waves = x * (2 * number + 3) + y * (3 * c + number % 5 + 1);
            let waves = waves + ((x * y) >> 3) * (c + 1) + 40 * number;
            (waves * 256 / side % 256) as u8
        }))
    })
}

/// A folder of pictures, with the class of each as the name of its folder.
fn pictures(classes: &[usize], side: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, class) in classes.iter().enumerate() {
        let home = folder.path().join("set").join(class.to_string());
        fs::create_dir_all(&home).unwrap();
        let file = home.join(format!("{number:02}.png"));
        picture(number as u32, side).save(file).unwrap();
    }
    folder
}

fn dataset(folder: &TempDir) -> Arc<Dataset> {
    let data = folder.path().join("data");
    let folders = BTreeMap::from([("set".to_owned(), folder.path().join("set"))]);
    let archives = ArchiveLimits {
        max_bytes: 1 << 30,
        max_files: 100,
        max_sets: 1,
    };
    let quota = Quota::new(&data, 1 << 30);
    let catalogue = Catalogue::new(folders, &data, Limits::default(), archives, quota);
    catalogue.open("set").unwrap()
}

fn small() -> Arc<Model> {
    load(&stored::path("training"))
}

fn load(folder: &Path) -> Arc<Model> {
    let registry = Registry::of_one(folder, &|_| Ok(vec![]));
    assert!(registry.broken.is_empty(), "{:?}", registry.broken);
    registry.iter().next().unwrap()
}

fn surroundings(memory_mib: usize) -> Surroundings {
    let engine = Engine::start(&EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 2,
        convolution_error: 2e-5,
        queue_rows: 64,
        batch_rows: 4,
        batch_bytes: 1 << 30,
        session_bytes: 1 << 30,
    });
    Surroundings {
        engine: engine.unwrap(),
        pool: Pool::new(2),
        limits: Limits::default(),
        memory_bytes: memory_mib << 20,
    }
}

fn recipe(given: Value) -> Recipe {
    let mut fields = Reader::new(given.as_object().unwrap().clone());
    let recipe = Recipe::read(&mut fields);
    fields.finish("is no field").settle(recipe).unwrap()
}

async fn trainer(
    given: Value,
    model: &Arc<Model>,
    dataset: &Arc<Dataset>,
    targets: Option<Targets>,
) -> Result<Trainer, TrainingError> {
    let recipe = recipe(given);
    let mut examples = Examples::labelled(dataset, model, recipe.new_head)?;
    if let Some(targets) = targets {
        examples.targets = targets;
    }
    let (model, dataset) = (model.clone(), dataset.clone());
    Trainer::new(recipe, model, dataset, examples, surroundings(1024)).await
}

async fn epochs(trainer: &Trainer, from: Checkpoint, count: usize) -> Checkpoint {
    let caller = Caller::new(Priority::Job, None);
    let mut checkpoint = from;
    for _ in 0..count {
        // As a job does: what is not in the bytes is lost.
        let bytes = checkpoint.to_bytes().unwrap();
        let from = Checkpoint::from_bytes(&bytes).unwrap();
        checkpoint = trainer.epoch(from, &caller, |_| ()).await.unwrap().0;
    }
    checkpoint
}

fn file(trainer: &Trainer, checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let files = trainer.model(checkpoint).unwrap();
    files
        .into_iter()
        .find(|file| file.name == name)
        .unwrap()
        .bytes
}

fn graph(trainer: &Trainer, checkpoint: &Checkpoint) -> Graph {
    read_bytes(file(trainer, checkpoint, "model.onnx").into(), None).unwrap()
}

fn assert_weights(graph: &Graph, reference: &Stored, of: &str) {
    assert_eq!(graph.initializers.len(), 11);
    for (name, literal) in &graph.initializers {
        let found = literal.to_f32s().unwrap();
        let expected = reference.floats(&format!("{of}.{name}")).unwrap();
        let largest = expected.iter().fold(0f32, |most, w| most.max(w.abs()));
        let pairs = found.iter().zip(&expected);
        let gap = pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(gap <= 1e-6 * largest, "{of}.{name}: {gap} of {largest}");
    }
}

#[tokio::test]
async fn steps_of_adam_and_sgd_are_those_of_torch() {
    let (model, folder) = (small(), pictures(&[0, 0, 1, 1, 2, 2], 12));
    let (dataset, reference) = (dataset(&folder), stored::read("training.safetensors"));
    let logits = Array2::from_shape_fn((6, 3), |(row, class)| ((3 * row + class) as f32).cos());
    let common = json!({"batch_size": 6, "epochs": 20, "validation": 0, "batch_norm": "affine"});
    let with = |more: Value| {
        let mut all = common.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        Value::Object(all)
    };
    let adam = with(
        json!({"learning_rate": 1e-3, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-7, "weight_decay": 0.01}),
    );
    let sgd = with(json!({"optimizer": "sgd", "loss": "mse", "learning_rate": 0.05}));
    for (name, recipe, targets) in [
        ("adam", adam, None),
        ("sgd", sgd, Some(Targets::Logits(logits))),
    ] {
        let trainer = trainer(recipe, &model, &dataset, targets).await.unwrap();
        let one = epochs(&trainer, trainer.start(), 1).await;
        assert_weights(&graph(&trainer, &one), &reference, &format!("{name}.1"));
        let twenty = epochs(&trainer, one, 19).await;
        assert!(twenty.is_last());
        assert_weights(&graph(&trainer, &twenty), &reference, &format!("{name}.20"));
    }
}

/// Three epochs of two batches.
#[tokio::test]
async fn the_losses_of_squeezenet_are_those_of_torch() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1");
    let home = tempfile::tempdir().unwrap();
    fs::copy(bundled.join("model.onnx"), home.path().join("model.onnx")).unwrap();
    let manifest =
        "[input]\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\nresize = 'stretch'";
    fs::write(home.path().join("model.toml"), manifest).unwrap();
    let classes: Vec<usize> = (0..16).map(|number| 100 + 200 * (number / 4)).collect();
    let (model, folder) = (load(home.path()), pictures(&classes, 224));
    let recipe = json!({"epochs": 3, "batch_size": 8, "validation": 0, "seed": 7});
    let trainer = trainer(recipe, &model, &dataset(&folder), None)
        .await
        .unwrap();
    let trained = epochs(&trainer, trainer.start(), 3).await;
    let expected = stored::read("training.safetensors");
    let (expected, _) = expected.bytes("squeezenet.losses").as_chunks::<8>();
    assert_eq!(trained.history().len(), expected.len());
    for (report, expected) in trained.history().iter().zip(expected) {
        let expected = f64::from_le_bytes(*expected);
        assert!(
            (report.loss - expected).abs() < 1e-3,
            "epoch {}: {}, {expected}",
            report.epoch,
            report.loss
        );
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_model_and_another_seed_another() {
    let (model, folder) = (small(), pictures(&[0, 0, 0, 1, 1, 1, 2, 2, 2], 20));
    let dataset = dataset(&folder);
    let mut found = Vec::new();
    for seed in [1, 1, 2] {
        let recipe = json!({"epochs": 2, "batch_size": 4, "seed": seed, "crop": true, "flip": true, "new_head": true, "validation": 0.3});
        let trainer = trainer(recipe, &model, &dataset, None).await.unwrap();
        assert_eq!(trainer.images(), (6, 3));
        let trained = epochs(&trainer, trainer.start(), 2).await;
        assert_eq!(file(&trainer, &trained, "labels.txt"), b"0\n1\n2\n");
        found.push((
            trained.to_bytes().unwrap(),
            file(&trainer, &trained, "model.onnx"),
        ));
    }
    assert!(found[0] == found[1]);
    assert!(found[0].1 != found[2].1);
}

#[tokio::test]
async fn a_trained_model_is_a_model_that_says_where_it_comes_from() {
    let (model, folder) = (small(), pictures(&[7, 7, 7, 7, 10, 10, 10, 10], 16));
    let (dataset, home) = (dataset(&folder), tempfile::tempdir().unwrap());
    let recipe = json!({"epochs": 30, "learning_rate": 0.02, "new_head": true, "validation": 0.25, "patience": 3, "batch_size": 3});
    let trainer = trainer(recipe.clone(), &model, &dataset, None)
        .await
        .unwrap();
    let caller = Caller::new(Priority::Job, None);
    let (mut checkpoint, mut seen) = (trainer.start(), Vec::new());
    while !checkpoint.is_last() {
        let mut told = 0;
        let (next, report) = trainer
            .epoch(checkpoint, &caller, |images| told = images)
            .await
            .unwrap();
        assert_eq!(told, 8);
        (checkpoint, _) = (next, seen.push(report));
    }
    assert_eq!(checkpoint.history(), seen);
    // The epoch with the lowest validation loss is the result, and training stopped soon after it.
    let lowest = seen
        .iter()
        .min_by(|a, b| {
            a.validation_loss
                .unwrap()
                .total_cmp(&b.validation_loss.unwrap())
        })
        .unwrap();
    assert_eq!(checkpoint.result_epoch(), lowest.epoch);
    assert!(
        seen.len() == 30 || seen.len() == lowest.epoch + 3,
        "{seen:?}"
    );
    for file in trainer.model(&checkpoint).unwrap() {
        fs::write(home.path().join(file.name), file.bytes).unwrap();
    }
    let trained = load(home.path());
    assert_eq!(
        (trained.classes(), &trained.labels[..]),
        (Some(2), &["7".to_owned(), "10".to_owned()][..])
    );
    assert_eq!(trained.manifest.input, model.manifest.input);
    let provenance = trained.provenance.clone().unwrap();
    assert_eq!(provenance.parent.hash, model.hash);
    assert_eq!(provenance.dataset.hash, dataset.hash);
    assert_eq!((provenance.images, provenance.validation_images), (6, 2));
    assert_eq!(
        (provenance.epoch, provenance.epochs.len()),
        (lowest.epoch, seen.len())
    );
    assert_eq!(provenance.recipe["patience"], 3);
    // Trained on, it goes on from its own weights.
    let again = json!({"epochs": 1, "validation": 0, "train": "head", "batch_size": 8});
    let trainer = self::trainer(again, &trained, &dataset, None)
        .await
        .unwrap();
    let after = epochs(&trainer, trainer.start(), 1).await;
    let changed =
        |name: &str| graph(&trainer, &after).initializers[name] != trained.graph.initializers[name];
    let names: Vec<&String> = trained
        .graph
        .initializers
        .keys()
        .filter(|name| changed(name))
        .collect();
    assert!(
        names.len() == 2 && names.iter().all(|name| name.starts_with("fc.")),
        "{names:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_trained_is_told_before_it_starts() {
    let (model, folder) = (small(), pictures(&[0, 0, 1, 1], 12));
    let data = dataset(&folder);
    let refused = async |given: Value, targets: Option<Targets>| {
        let found = trainer(given, &model, &data, targets).await;
        found
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    for (given, part) in [
        (
            json!({"train": "from:cnv2"}),
            "no Linear layer is called cnv2",
        ),
        (
            json!({"train": "head", "batch_norm": "affine"}),
            "leave batch_norm out",
        ),
        (json!({"validation": 0.1}), "no class has enough images"),
    ] {
        let error = refused(given, None).await;
        assert!(error.contains(part), "{error}");
    }
    let logits = |rows, classes| Some(Targets::Logits(Array2::zeros((rows, classes))));
    let plain = || json!({"validation": 0});
    assert!(
        refused(plain(), logits(4, 3))
            .await
            .contains("with the loss mse")
    );
    let mse = || json!({"validation": 0, "loss": "mse"});
    for targets in [
        logits(4, 2),
        logits(3, 3),
        Some(Targets::Classes(vec![0, 1, 2, 3])),
    ] {
        let error = refused(mse(), targets).await;
        assert!(error.contains("for 4 images of 3 classes"), "{error}");
    }
    // Labels that the model does not have.
    let (other, bare) = (pictures(&[0, 3, 4, 4], 12), pictures(&[1, 1], 12));
    let told = |found: Result<Examples, TrainingError>| found.err().unwrap().to_string();
    let error = told(Examples::labelled(&dataset(&other), &model, false));
    assert!(
        error.contains("index 3 is not below the number of classes, 3")
            && error.contains("index 4"),
        "{error}"
    );
    let error = told(Examples::labelled(&dataset(&bare), &model, true));
    assert!(error.contains("at least two classes"), "{error}");
    // Images that cannot be decoded are left out, and a class of nothing else is a fault.
    fs::write(other.path().join("set/3/01.png"), "no picture").unwrap();
    let error = told(Examples::labelled(&dataset(&other), &model, true));
    assert!(
        error.contains("class 3 has no image that can be decoded"),
        "{error}"
    );
    fs::write(other.path().join("set/4/02.png"), "no picture").unwrap();
    fs::remove_dir_all(other.path().join("set/3")).unwrap();
    let examples = Examples::labelled(&dataset(&other), &model, true).unwrap();
    assert_eq!(
        (examples.images.len(), examples.left_out.unreadable),
        (2, 1)
    );
    assert_eq!(examples.left_out.files, ["4/02.png"]);
    // Too little memory.
    let examples = Examples::labelled(&data, &model, false).unwrap();
    let little = Surroundings {
        memory_bytes: 10_000,
        ..surroundings(1)
    };
    let found = Trainer::new(
        recipe(plain()),
        model.clone(),
        data.clone(),
        examples,
        little,
    )
    .await;
    let error = told(found.map(|_| unreachable!()));
    assert!(
        error.contains("train_memory_mib is 0") && error.contains("weights with gradients"),
        "{error}"
    );
}

#[tokio::test]
async fn a_loss_that_is_not_finite_stops_with_its_step_and_spares_the_checkpoint() {
    let (model, folder) = (small(), pictures(&[0, 0, 1, 1, 2, 2], 12));
    let recipe = json!({"optimizer": "sgd", "loss": "mse", "learning_rate": 10, "epochs": 50, "batch_size": 2, "validation": 0});
    let trainer = trainer(recipe, &model, &dataset(&folder), None)
        .await
        .unwrap();
    let caller = Caller::new(Priority::Job, None);
    let mut checkpoint = trainer.start();
    let (kept, error) = loop {
        let kept = checkpoint.to_bytes().unwrap();
        match trainer.epoch(checkpoint, &caller, |_| ()).await {
            Ok((next, report)) => {
                assert!(report.loss.is_finite());
                checkpoint = next;
            }
            Err(error) => break (kept, error),
        }
    };
    let TrainingError::NotFinite {
        epoch, step, steps, ..
    } = error
    else {
        panic!("{error}")
    };
    let kept = Checkpoint::from_bytes(&kept).unwrap();
    assert_eq!((epoch, steps), (kept.epoch() + 1, 3));
    assert!((1..=3).contains(&step));
    for literal in graph(&trainer, &kept).initializers.values() {
        assert!(
            literal
                .to_f32s()
                .unwrap()
                .iter()
                .all(|weight| weight.is_finite())
        );
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_training_is_refused() {
    let (model, folder) = (small(), pictures(&[0, 0, 1, 1], 12));
    let data = dataset(&folder);
    let trainer_of = |seed: u64| {
        trainer(
            json!({"epochs": 1, "validation": 0, "seed": seed}),
            &model,
            &data,
            None,
        )
    };
    let (one, other) = (trainer_of(1).await.unwrap(), trainer_of(2).await.unwrap());
    let caller = Caller::new(Priority::Job, None);
    let error = other.epoch(one.start(), &caller, |_| ()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("another recipe, model or data set"),
        "{error}"
    );
    let ended = epochs(&one, one.start(), 1).await;
    assert!(one.check(&ended).is_ok());
    assert!(one.epoch(ended, &caller, |_| ()).await.is_err());
}
