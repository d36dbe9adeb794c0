//! `explaind bench` as its user sees it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::{Connection, SqliteConnection};

use crate::{
    processes::{Signal, send},
    served::material,
};

fn bench(material: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command
        .arg("bench")
        .current_dir(material)
        .args(["--model", "colours", "--threads", "1"]);
    command.env("EXPLAIND_ONNXRUNTIME", runtime());
    command
}

/// Found from any folder.
pub fn runtime() -> String {
    let named = std::env::var("EXPLAIND_ONNXRUNTIME").ok();
    named.unwrap_or_else(|| explaind::engine::backend_ort::LIBRARY.to_owned())
}

#[test]
fn a_folder_is_measured_and_the_areas_are_printed() {
    let material = material();
    let mut command = bench(material.path());
    command.args([
        "photos",
        "--methods",
        "gradient,random",
        "--limit",
        "7",
        "-p",
        "grid=8",
        "-p",
        "steps=8",
    ]);
    let output = command
        .args(["-o", "report.json", "-o", "report.csv"])
        .output()
        .unwrap();
    let (said, told) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{told}");
    let report: Value =
        serde_json::from_slice(&std::fs::read(material.path().join("report.json")).unwrap())
            .unwrap();
    assert_eq!(report["request"]["limit"], 7);
    let rows = report["result"]["rows"].as_array().unwrap();
    for row in rows {
        let line = format!("{:.3}", row["area"].as_f64().unwrap());
        let title = row["title"].as_str().unwrap();
        assert!(
            said.lines()
                .any(|one| one.starts_with(title) && one.contains(&line)),
            "{title} {line} in\n{said}"
        );
    }
    assert!(
        said.contains("lower is better") && said.contains("report: report.csv"),
        "{said}"
    );
    assert!(told.contains("measuring 7 images"), "{told}");
    // The queue of servers on this folder was left alone, and its own is gone.
    let data = material.path().join("data");
    let left: Vec<_> = std::fs::read_dir(data.join("bench")).unwrap().collect();
    let databases = std::fs::read_dir(&data).unwrap().filter_map(Result::ok);
    let databases = databases
        .filter(|entry| entry.file_name().to_string_lossy().contains("sqlite"))
        .count();
    assert!(left.is_empty() && databases == 0);
}

#[test]
fn several_metrics_are_printed_in_one_table() {
    let material = material();
    let mut command = bench(material.path());
    command.args([
        "photos",
        "--methods",
        "gradient,random,edges",
        "--limit",
        "5",
    ]);
    let metrics = "sparseness,degradation grid=8 steps=8,model_randomisation";
    command.args(["--metrics", metrics, "-o", "report.json"]);
    command.args(["-o", "values.tidy.csv", "-o", "values.tidy.jsonl"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let read = |name: &str| std::fs::read_to_string(material.path().join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(report["kind"], "evaluate");
    let metrics = report["result"]["metrics"].as_array().unwrap();
    assert_eq!(metrics.len(), 3);
    for metric in metrics {
        assert!(said.contains(metric["title"].as_str().unwrap()), "{said}");
        for row in metric["rows"].as_array().unwrap() {
            let title = row["title"].as_str().unwrap();
            let value = format!("{:.3} [", row["value"].as_f64().unwrap());
            let mut lines = said.lines().filter(|line| line.starts_with(title));
            assert!(
                lines.any(|line| line.contains(&value)),
                "{title} {value} in\n{said}"
            );
        }
    }
    assert!(
        said.lines().all(|line| line.chars().count() <= 100),
        "{said}"
    );
    assert!(
        said.contains("disagree most") && said.contains("fewer than 30 images"),
        "{said}"
    );
    // A model of one layer is drawn anew at once.
    assert_eq!(report["request"]["metrics"][2]["stages"], 1);
    let used = report["result"]["used"].as_u64().unwrap() as usize;
    assert_eq!(read("values.tidy.csv").lines().count(), 1 + used * 3 * 4);
    assert_eq!(read("values.tidy.jsonl").lines().count(), used * 3 * 4);
    // Nothing of the job is left.
    let kept = material.path().join("data/files/jobs");
    assert!(!kept.exists() || std::fs::read_dir(kept).unwrap().next().is_none());
}

#[test]
fn all_methods_are_measured_within_a_budget() {
    let material = material();
    let run = |budget: &str| {
        let mut command = bench(material.path());
        command.args([
            "photos",
            "--methods",
            "all",
            "--metrics",
            "sparseness,entropy",
        ]);
        command.args(["--budget", budget, "-o", "report.json"]);
        command.output().unwrap()
    };
    let told = String::from_utf8(run("3").stderr).unwrap();
    assert!(told.contains("budget: one image costs "), "{told}");
    let cost = told.split("one image costs ").nth(1).unwrap();
    let cost: u64 = cost.split(' ').next().unwrap().parse().unwrap();
    let output = run(&(2 * cost + 1).to_string());
    let (said, told) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        output.status.success() && told.contains("measuring 2 images"),
        "{told}"
    );
    for method in ["gradient (signed)", "smooth_grad_ig", "edges", "random"] {
        assert!(
            said.lines().any(|line| line.starts_with(method)),
            "{method} in\n{said}"
        );
    }
}

/// How many shards are done of the benchmark that is under way; none while its database is not
/// there.
async fn shards_done(material: &Path) -> Option<i64> {
    let folder = std::fs::read_dir(material.join("data/bench"))
        .ok()?
        .next()?;
    let file = folder.ok()?.path().join("jobs.sqlite");
    let url = format!("sqlite://{}", file.display());
    let mut connection = SqliteConnection::connect(&url).await.ok()?;
    let done = sqlx::query_scalar("SELECT shards_done FROM jobs");
    done.fetch_one(&mut connection).await.ok()
}

#[tokio::test]
async fn a_benchmark_that_is_broken_off_goes_on_where_it_was() {
    let material = material();
    let start = || {
        let mut command = bench(material.path());
        command.args([
            "--dataset",
            "photos",
            "--methods",
            "integrated_gradients n_steps=200,gradient",
        ]);
        command.args(["-p", "grid=8", "-p", "steps=64", "-o", "report.json"]);
        command
    };
    let mut process = start()
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(told.any(|line| line.contains("measuring 60 images")));
    let started = Instant::now();
    while shards_done(material.path()).await.unwrap_or(0) < 1 {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    send(process.id(), Signal::Terminate);
    let last = told.last().unwrap_or_default();
    assert_eq!(process.wait().unwrap().code(), Some(130), "{last}");
    assert!(
        last.contains("broken off after") && last.contains("of 60 images"),
        "{last}"
    );
    assert!(!material.path().join("report.json").exists());
    assert_eq!(
        std::fs::read_dir(material.path().join("data/bench"))
            .unwrap()
            .count(),
        1
    );
    let output = start().output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(material.path().join("report.json").exists());
    assert_eq!(
        std::fs::read_dir(material.path().join("data/bench"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_cannot_be_measured_is_told() {
    let material = material();
    for (arguments, part) in [
        (
            &["--methods", "gradient"][..],
            "name the images to measure on",
        ),
        (
            &["nowhere/photos", "--methods", "gradient"],
            "nowhere/photos",
        ),
        (&["photos", "--methods", "gradients"], "allowed: gradient, "),
        (
            &["photos", "--methods", "gradient", "-o", "report.pdf"],
            ".html, .json, .csv, .svg, .png",
        ),
        (
            &["photos", "--methods", "gradient", "-o", "values.tidy.csv"],
            "--metrics degradation",
        ),
        (
            &["photos", "--methods", "gradient", "-p", "limits=3"],
            "limits",
        ),
    ] {
        let output = bench(material.path()).args(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(part) && output.stdout.is_empty(), "{told}");
    }
}
