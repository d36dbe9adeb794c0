//! The command line: what it writes, and what it says when it cannot do what it was asked.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::fixture::{blue, colour_model, red, settings_with};

/// `explaind explain` on a picture that is there.
fn explain(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("red.png"), red()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command
        .arg("explain")
        .arg("--models")
        .arg(settings_with(&[]).models)
        .args(["--model", "tiny"]);
    command
        .arg("--data")
        .arg(folder.path())
        .args(arguments)
        .arg(folder.path().join("red.png"));
    command.arg("--output").arg(folder.path().join("out.png"));
    // Stack traces are for faults of the program, not for those of its caller.
    command.env("RUST_BACKTRACE", "1").output().unwrap()
}

fn complaint(arguments: &[&str]) -> Vec<String> {
    let output = explain(arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_unknown_method_is_answered_with_those_there_are() {
    let [line] = &complaint(&["--method", "grad-cam"])[..] else {
        panic!()
    };
    assert!(
        line.starts_with("error: method: no method is called"),
        "{line}"
    );
    assert!(
        line.contains("grad-cam")
            && line.contains("; did you mean grad_cam? (allowed: gradient, ")
            && line.contains(" grad_cam,"),
        "{line}"
    );
}

#[test]
fn every_fault_is_a_line_of_its_own() {
    let lines = complaint(&[
        "--method",
        "integrated_gradients",
        "-p",
        "n_steps=0",
        "-p",
        "quadrature=simpson",
    ]);
    let starts: Vec<_> = lines
        .iter()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(starts, ["error: n_steps:", "error: quadrature:"]);
    assert!(lines[0].ends_with("(allowed: 1 to 10000)"), "{}", lines[0]);
}

#[test]
fn an_error_is_told_with_its_cause_and_a_usage_error_by_its_own_code() {
    assert_eq!(
        complaint(&["--segments", "nowhere.npy"]),
        ["error: nowhere.npy: No such file or directory (os error 2)"]
    );
    assert_eq!(explain(&["--methd", "gradient"]).status.code(), Some(2));
}

/// `explaind` in a folder of its own, with the fixture's models.
struct Shell {
    folder: tempfile::TempDir,
}

struct Said {
    code: Option<i32>,
    out: String,
    told: String,
}

impl Shell {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), bytes).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
            .env("EXPLAIND_MODELS", settings_with(&[]).models)
            .env("RUST_BACKTRACE", "1");
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said {
            code: output.status.code(),
            out: text(output.stdout),
            told: text(output.stderr),
        }
    }

    /// Standard output of a command that succeeds.
    fn out(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{}", said.told);
        said.out
    }
}

#[test]
fn folders_are_explained_into_folders_and_each_line_names_class_score_method_and_file() {
    let shell = Shell::new();
    shell.write("in/a.png", &red());
    shell.write("in/sub/a.png", &blue());
    shell.write("in/broken.png", b"no picture");
    let said = shell.run(&[
        "explain", "in", "--model", "tiny", "--method", "gradient", "-o", "out",
    ]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.told.contains("error: in/broken.png: ") && said.told.contains("1 of 3 images"),
        "{}",
        said.told
    );
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", said.out);
    assert!(
        lines[0].starts_with("in/a.png: 0 red ") && lines[0].ends_with("by gradient -> out/a.png"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("in/sub/a.png: 2 blue ") && lines[1].ends_with("-> out/sub/a.png"),
        "{}",
        lines[1]
    );
    let height = |name: &str| image::open(shell.at(name)).unwrap().height();
    let plain = [
        "explain",
        "in/a.png",
        "--model",
        "tiny",
        "--method",
        "gradient",
        "-p",
        "caption=false",
        "-o",
        "plain.png",
    ];
    shell.out(&plain);
    assert!(
        height("out/sub/a.png") > height("plain.png"),
        "a caption says what is explained"
    );
}

#[test]
fn standard_input_and_output_carry_images_and_answers() {
    let shell = Shell::new();
    shell.write("a.png", &red());
    let mut command = shell.command(&[
        "explain", "-", "--model", "tiny", "--method", "gradient", "-o", "-",
    ]);
    let output = command
        .stdin(File::open(shell.at("a.png")).unwrap())
        .output()
        .unwrap();
    assert!(image::load_from_memory(&output.stdout).is_ok());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("standard input: 0 red "), "{told}");
    let both = [
        "explain", "a.png", "a.png", "--model", "tiny", "--method", "gradient", "-o", "-",
    ];
    let lines = shell.out(&[&both[..], &["--format", "json"]].concat());
    let answers: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    assert!(shell.run(&both).told.contains("--format json"));
    let several = shell.run(&[
        "explain", "a.png", "a.png", "--model", "tiny", "-o", "b.png",
    ]);
    assert!(
        several.code == Some(1) && several.told.contains("-o FOLDER"),
        "{}",
        several.told
    );
    let itself = shell.run(&["explain", "a.png", "--model", "tiny", "-o", "a.png"]);
    assert!(
        itself.told.contains("is the input") && std::fs::read(shell.at("a.png")).unwrap() == red(),
        "{}",
        itself.told
    );
}

#[test]
fn images_are_classified_as_text_and_as_json() {
    let shell = Shell::new();
    shell.write("in/a.png", &red());
    shell.write("in/b.png", &blue());
    let text = shell.out(&["predict", "in", "--model", "tiny", "-k", "1"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        (lines.len(), lines[0], lines[2]),
        (4, "in/a.png", "in/b.png"),
        "{text}"
    );
    assert!(
        lines[1].ends_with("  red") && lines[3].ends_with("  blue"),
        "{text}"
    );
    let json = shell.out(&["predict", "in", "--model", "tiny", "-f", "json"]);
    let answers: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&answers[1]["file"], &answers[1]["predictions"][0]["label"]),
        (&"in/b.png".into(), &"blue".into())
    );
    assert_eq!(answers[0]["predictions"].as_array().unwrap().len(), 3);
    let wrong = shell.run(&["predict", "in", "--model", "tiny", "-k", "0"]);
    assert!(
        wrong.code == Some(1) && wrong.told.contains("(allowed: 1 to 1000)"),
        "{}",
        wrong.told
    );
}

#[test]
fn methods_are_compared_in_one_picture() {
    let shell = Shell::new();
    shell.write("a.png", &red());
    let methods = "gradient,integrated_gradients n_steps=3";
    let compare = ["compare", "a.png", "--model", "tiny", "--methods", methods];
    let out = shell.out(&[&compare[..], &["-o", "b.png"]].concat());
    assert!(
        out.contains("0 red ") && out.ends_with("by gradient, integrated_gradients -> b.png\n"),
        "{out}"
    );
    let answer: Value =
        serde_json::from_str(&shell.out(&[&compare[..], &["-o", "-", "-f", "json"]].concat()))
            .unwrap();
    assert_eq!(answer["explanations"][1]["parameters"]["n_steps"], 3);
    assert!(shell.run(&compare).told.contains("--output"));
    let wrong = shell.run(&[
        "compare",
        "a.png",
        "--model",
        "tiny",
        "--methods",
        "gradient,pig",
        "-o",
        "b.png",
    ]);
    assert!(wrong.told.contains("allowed: gradient, "), "{}", wrong.told);
}

#[test]
fn a_model_is_a_folder_of_the_models_folder_or_a_path_and_is_named_where_there_are_several() {
    let shell = Shell::new();
    shell.write("a.png", &red());
    shell.write("net.onnx", &colour_model());
    let unnamed = shell.run(&["predict", "a.png"]);
    assert!(
        unnamed.code == Some(1) && unnamed.told.contains("--model (allowed: "),
        "{}",
        unnamed.told
    );
    assert!(
        unnamed.told.contains("tiny") && !unnamed.told.contains("empty"),
        "{}",
        unnamed.told
    );
    let unknown = shell.run(&["predict", "a.png", "--model", "tinny"]);
    assert!(
        unknown.told.contains("\"tinny\" (allowed: ") && unknown.told.lines().count() == 1,
        "{}",
        unknown.told
    );
    assert!(
        shell
            .run(&["predict", "a.png", "--model", "broken"])
            .told
            .contains("cannot be used:\n  model.onnx: ")
    );
    assert!(
        shell
            .run(&["predict", "a.png", "--model", "no/where.onnx"])
            .told
            .contains("no model is at no/where.onnx")
    );
    let alone = shell.run(&["predict", "a.png", "--model", "net.onnx"]);
    assert_eq!(alone.code, Some(0), "{}", alone.told);
    assert!(
        alone.told.contains("warning: ") && alone.told.contains("assumed ImageNet's mean and std"),
        "{}",
        alone.told
    );
    let fit = shell.run(&["fit-patterns", "--model", "net.onnx", "--images", "."]);
    assert!(fit.told.contains("a folder of its own"), "{}", fit.told);
}

#[test]
fn models_are_checked_before_they_are_served() {
    let shell = Shell::new();
    shell.write("mine/model.onnx", &colour_model());
    shell.write("worse/model.onnx", b"\x1f\x8b packed");
    let found = shell.out(&["models", "check", "mine"]);
    for part in [
        "mine: can be used",
        "input           x [3, 8, 8], opset 17",
        "ASSUMED: model.toml does not give mean, std, resize",
        "scores: 3 classes, without labels.txt",
        "methods         gradient, ",
        "pattern_attribution, pattern_net, pgig: the model has no patterns",
    ] {
        assert!(found.contains(part), "{part} is missing in\n{found}");
    }
    let all = shell.run(&["models", "check", "."]);
    assert_eq!(all.code, Some(1));
    assert!(
        all.out.contains("mine: can be used")
            && all
                .out
                .contains("worse: cannot be used\n  - model.onnx is a gzip")
    );
    assert!(all.told.contains("1 of 2 cannot be used"), "{}", all.told);
    let card: Value =
        serde_json::from_str(&shell.out(&["models", "check", "mine/model.onnx", "--json"]))
            .unwrap();
    assert_eq!((&card["id"], &card["classes"]), (&"mine".into(), &3.into()));
    let unsupported = shell.out(&[
        "models",
        "check",
        settings_with(&[]).models.join("coin").to_str().unwrap(),
    ]);
    assert!(
        unsupported.contains("coin (Bernoulli, opset"),
        "{unsupported}"
    );
}

#[test]
fn methods_settings_and_completions_are_printed() {
    let shell = Shell::new();
    let list = shell.out(&["methods"]);
    assert!(
        list.lines()
            .any(|line| line.starts_with("pgig ") && line.ends_with("(needs patterns)")),
        "{list}"
    );
    let one = shell.out(&["methods", "integrated_gradients"]);
    assert!(
        one.contains("n_steps: 1 to 10000 [default: 25]") && one.contains("Sundararajan"),
        "{one}"
    );
    assert!(
        shell
            .run(&["methods", "ig"])
            .told
            .contains("(allowed: gradient, ")
    );
    let list = shell.out(&["metrics"]);
    assert!(
        list.lines()
            .any(|line| line.starts_with("pointing_game ") && line.contains("localisation")),
        "{list}"
    );
    let one = shell.out(&["metrics", "degradation", "--model", "tiny"]);
    for part in [
        "degradation: Image degradation",
        "Area under the curve; lower is better",
        "Parameters for tiny (--metrics \"degradation NAME=VALUE\"):",
        "grid: 1 to 8 [default: 8]",
        "compat: pgig-2020 [default: off]",
    ] {
        assert!(one.contains(part), "{part} is missing in\n{one}");
    }
    let json = shell.out(&["metrics", "--json", "--model", "tiny"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["model"], "tiny");
    let unknown = shell.run(&["metrics", "sparsness"]).told;
    assert!(
        unknown.contains("; did you mean sparseness? (allowed: degradation, "),
        "{unknown}"
    );
    assert!(
        shell
            .out(&["completions", "bash"])
            .contains("complete -F _explaind")
    );
    let database = "postgres://me:secret@host/jobs";
    let config = shell.out(&["config", "--database", database, "--max-side", "9"]);
    assert!(
        config.contains("max_side = 9 # --max-side\n")
            && config.contains("threads = 0 # default\n"),
        "{config}"
    );
    assert!(
        config.contains("postgres://me:***@host/jobs") && !config.contains("secret"),
        "{config}"
    );
    shell.write("again.toml", config.as_bytes());
    assert!(
        shell
            .out(&["config", "--config", "again.toml"])
            .contains("max_side = 9 # again.toml")
    );
}

#[test]
fn help_shows_what_a_command_takes() {
    let shell = Shell::new();
    let short = shell.out(&["explain", "-h"]);
    assert!(
        short.contains("--models <FOLDER>") && !short.contains("--batch-rows"),
        "{short}"
    );
    let long = shell.out(&["explain", "--help"]);
    assert!(
        long.contains("--batch-rows <ROWS>")
            && !long.contains("--listen")
            && !long.contains("<VALUE>"),
        "{long}"
    );
    assert!(
        long.contains("[default: 4] [env: EXPLAIND_BATCH_ROWS]"),
        "{long}"
    );
    assert!(
        shell
            .out(&["serve", "-h"])
            .contains("--listen <ADDRESS:PORT>")
    );
    assert_eq!(
        shell
            .run(&["explain", "a.png", "-o", "b.png", "--listen", "127.0.0.1:1"])
            .code,
        Some(2)
    );
}

#[test]
fn a_map_that_cannot_be_written_is_told_with_those_that_can() {
    let shell = Shell::new();
    let told = |arguments: &[&str]| {
        let arguments = [&["derive", "--output", "out.onnx", "--method"], arguments].concat();
        let said = shell.run(&arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {}", said.out);
        assert!(!shell.at("out.onnx").exists());
        said.told
    };
    let rollout = told(&["attention_rollout", "--model", "vit"]);
    assert!(
        rollout.contains("maps of attention are not written (allowed: gradient, ")
            && !rollout.contains("guided_backprop"),
        "{rollout}"
    );
    let none = told(&["attention_rollout", "--model", "coin"]);
    assert!(
        !none.contains("allowed") && !none.contains("integrated_gradients"),
        "{none}"
    );
    let flat = told(&["gradient", "--model", "tiny", "--upsample"]);
    assert!(
        flat.contains("upsample: the map of gradient has the size of the input"),
        "{flat}"
    );
    let folder = settings_with(&[]).models;
    shell.write(
        "values/model.onnx",
        &std::fs::read(folder.join("tiny/model.onnx")).unwrap(),
    );
    shell.write("values/model.toml", b"head = 'regression'");
    let several = told(&["gradient", "--models", ".", "--model", "values"]);
    assert!(
        several.contains("target: none of the 3 values of the model's output is predicted"),
        "{several}"
    );
}

#[test]
fn a_closed_pipe_and_a_server_that_is_not_there_are_no_surprise() {
    let shell = Shell::new();
    let mut process = shell
        .command(&["openapi"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap()
        ),
        (Some(0), String::new())
    );
    let jobs = shell.run(&["jobs", "list", "--server", "http://127.0.0.1:9"]);
    assert!(
        jobs.code == Some(1) && jobs.out.is_empty() && jobs.told.lines().count() == 1,
        "{}",
        jobs.told
    );
    let missing = shell.run(&["fit-patterns", "--model", "tiny", "--tensors", "none.npy"]);
    assert_eq!(
        missing.told,
        "error: none.npy: No such file or directory (os error 2)\n"
    );
    let missing = shell.run(&["fit-patterns", "--model", "tiny", "--images", "none"]);
    assert_eq!(
        missing.told.matches("No such file").count(),
        1,
        "{}",
        missing.told
    );
}
