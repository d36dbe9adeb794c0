//! `explaind train` as its user sees it: killed and gone on with, by other numbers of threads, and
//! what it refuses.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use ndarray::Array2;
use ndarray_npy::WriteNpyExt;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    processes::{Signal, send},
    served::{IMAGES, material},
};

const KILLS: usize = 10;

/// A convolutional net trained on the photos, in more epochs than pass between two kills.
fn train(material: &Path, output: &str, threads: &str) -> Command {
    let net = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/training");
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command
        .arg("train")
        .current_dir(material)
        .arg("--model")
        .arg(net);
    command.args([
        "--dataset",
        "photos",
        "--output",
        output,
        "--threads",
        threads,
    ]);
    command.args([
        "--new-head",
        "--epochs",
        "40",
        "--batch-size",
        "7",
        "--seed",
        "3",
    ]);
    command.args([
        "-p",
        "patience=1000",
        "-p",
        "crop=true",
        "-p",
        "schedule=cosine",
    ]);
    let named = std::env::var("EXPLAIND_ONNXRUNTIME").ok();
    let runtime = named.unwrap_or_else(|| explaind::engine::backend_ort::LIBRARY.to_owned());
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join(runtime);
    command.env("EXPLAIND_ONNXRUNTIME", runtime);
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Name -> content of all files of a folder, which holds no other folders.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (
                path.strip_prefix(folder).unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        })
        .collect()
}

/// Waits until the checkpoint is there, and then changes so many times.
fn await_epochs(child: &mut Child, checkpoint: &Path, count: usize) {
    let changed = || {
        fs::metadata(checkpoint)
            .and_then(|found| found.modified())
            .ok()
    };
    let (mut last, mut seen, started) = (changed(), 0, Instant::now());
    while seen < count && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
        let now = changed();
        seen += usize::from(now.is_some() && now != last);
        last = now;
    }
}

#[test]
fn a_training_killed_ten_times_ends_as_one_that_was_not() {
    let material = material();
    let undisturbed = train(material.path(), "models/whole", "1")
        .output()
        .unwrap();
    assert!(undisturbed.status.success(), "{}", told(&undisturbed));
    let whole = files(&material.path().join("models/whole"));
    let names: Vec<_> = whole.keys().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(
        names,
        ["labels.txt", "model.onnx", "model.toml", "training.json"]
    );
    let other_threads = train(material.path(), "models/threads", "2")
        .output()
        .unwrap();
    assert!(other_threads.status.success(), "{}", told(&other_threads));
    assert!(files(&material.path().join("models/threads")) == whole);

    let checkpoint = material
        .path()
        .join("models/killed/.training/checkpoint.safetensors");
    let mut random = ChaCha8Rng::seed_from_u64(15);
    for _ in 0..KILLS {
        let mut command = train(material.path(), "models/killed", "2");
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        await_epochs(&mut child, &checkpoint, random.random_range(0..3));
        std::thread::sleep(Duration::from_millis(random.random_range(0..50)));
        send(child.id(), Signal::Kill);
        child.wait().unwrap();
    }
    assert!(checkpoint.exists() && !material.path().join("models/killed/model.onnx").exists());
    let ended = train(material.path(), "models/killed", "1")
        .output()
        .unwrap();
    assert!(
        told(&ended).contains("going on after epoch"),
        "{}",
        told(&ended)
    );
    assert!(files(&material.path().join("models/killed")) == whole);

    // The model is one like any other, and is not written over.
    let explained = Command::new(env!("CARGO_BIN_EXE_explaind"))
        .args(["models", "check", "models/killed"])
        .current_dir(material.path())
        .env(
            "EXPLAIND_ONNXRUNTIME",
            train(material.path(), "", "1")
                .get_envs()
                .next()
                .unwrap()
                .1
                .unwrap(),
        )
        .output()
        .unwrap();
    assert!(explained.status.success(), "{}", told(&explained));
    let again = train(material.path(), "models/killed", "1")
        .output()
        .unwrap();
    assert!(
        !again.status.success() && told(&again).contains("is there already"),
        "{}",
        told(&again)
    );
}

#[test]
fn an_interrupted_training_says_where_it_goes_on_and_another_is_refused_there() {
    let material = material();
    let checkpoint = material
        .path()
        .join("models/new/.training/checkpoint.safetensors");
    let mut command = train(material.path(), "models/new", "1");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_epochs(&mut child, &checkpoint, 2);
    send(child.id(), Signal::Terminate);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(
        told(&output).contains("the same command goes on there"),
        "{}",
        told(&output)
    );
    let mut command = train(material.path(), "models/new", "1");
    let other = command.args(["--learning-rate", "0.5"]).output().unwrap();
    let words = told(&other);
    assert!(
        !other.status.success() && words.contains("another recipe"),
        "{words}"
    );
    assert!(
        words.contains("remove it, or name another folder"),
        "{words}"
    );
}

#[test]
fn a_table_of_logits_is_trained_towards() {
    let material = material();
    let write = |rows: usize, name: &str| {
        let logits =
            Array2::from_shape_fn((rows, 3), |(row, class)| ((3 * row + class) as f32).sin());
        let file = fs::File::create(material.path().join(name)).unwrap();
        logits.write_npy(file).unwrap();
    };
    let images = IMAGES;
    write(images, "y.npy");
    write(images - 1, "short.npy");
    let run = |targets: &str, loss: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
        command
            .current_dir(material.path())
            .args(["train", "--model", "colours"]);
        command.args([
            "--dataset",
            "photos",
            "--output",
            "models/new",
            "--epochs",
            "3",
        ]);
        command.args([
            "--targets",
            targets,
            "-p",
            loss,
            "--learning-rate",
            "0.1",
            "-p",
            "validation=0",
        ]);
        let net = train(material.path(), "", "1");
        command.envs(
            net.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.output().unwrap()
    };
    assert!(told(&run("y.npy", "loss=cross_entropy")).contains("with the loss mse"));
    let short = told(&run("short.npy", "loss=mse"));
    assert!(short.contains("for 60 images of 3 classes"), "{short}");
    let output = run("y.npy", "loss=mse");
    assert!(output.status.success(), "{}", told(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let losses: Vec<f64> = said
        .lines()
        .map(|line| {
            line.split("loss ")
                .nth(1)
                .unwrap()
                .split([' ', ','])
                .next()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(losses.len() == 3 && losses[2] < losses[0], "{said}");
    assert!(!said.contains("accuracy"), "{said}");
}

#[test]
fn all_faults_of_a_recipe_are_told_at_once_and_nothing_is_written() {
    let material = material();
    let mut command = train(material.path(), "models/new", "1");
    command.args([
        "-p",
        "flop=true",
        "-p",
        "validation=1",
        "-p",
        "momentum=0.5",
        "--learning-rate",
        "11",
    ]);
    let output = command.output().unwrap();
    let words = told(&output);
    for part in [
        "flop: ",
        "did you mean flip?",
        "validation: ",
        "momentum: ",
        "learning_rate: ",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert!(!material.path().join("models/new").exists());
}
