//! What others make of the contract, its validator, generators of clients, and a browser, each on
//! the server as it is run; and what other runtimes make of the files of `explaind derive`. `scripts/fetch_test_tools.sh` fetches them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// `explaind serve` on the bundled model and any free port, until it is dropped.
struct Server {
    process: Child,
    url: String,
    folder: TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_explaind"))
            .args([
                "serve",
                "--models",
                "models",
                "--default-model",
                "squeezenet1_1",
                "--listen",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.path().join("data"))
            .args(arguments)
            .env("EXPLAIND_LOG_FORMAT", "json")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = log.by_ref().find_map(|line| {
            let line = line.unwrap();
            let (_, rest) = line.split_once("127.0.0.1:")?;
            Some(
                rest.chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>(),
            )
        });
        let url = format!(
            "http://127.0.0.1:{}",
            address.expect("the server did not start")
        );
        // Its log is read on, or it would wait for a reader.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            process,
            url,
            folder,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(script: &str) {
    run_in("test_tools", script, &[]);
}

/// Runs a script of this folder in an environment of `runtime/`, on a server of its own with these
/// arguments; what the script says is shown where it fails.
fn run_in(environment: &str, script: &str, arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("runtime").join(environment).join("bin/python");
    assert!(python.exists(), "run scripts/fetch_test_tools.sh first");
    let server = Server::start(arguments);
    let scratch = server.folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let output = Command::new(python)
        .arg(root.join("tests/clients").join(script))
        .arg(&server.url)
        .current_dir(&scratch)
        .env("EXPLAIND_ROOT", root)
        .env("EXPLAIND_BIN", env!("CARGO_BIN_EXE_explaind"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn the_document_is_valid() {
    run("document.py");
}

#[test]
fn openapi_python_client_explains_a_photo() {
    run("python_client.py");
}

#[test]
fn openapi_generator_explains_a_photo() {
    run("generator.py");
}

#[test]
fn files_that_explain_themselves_give_the_services_maps_in_python_and_on_the_web() {
    // ONNX Runtime's own convolutions are what the files run on elsewhere.
    let exact = ["--convolution-error", "0"];
    run_in("test_tools", "explainers.py", &exact);
}

#[test]
fn the_docs_page_explains_a_photo() {
    run("docs_page.py");
}

#[test]
fn clients_of_kserve_triton_and_torchserve_work_unchanged() {
    run_in("serving_clients", "serving.py", &[]);
}

#[test]
fn the_dashboard_explains_a_photo_runs_jobs_and_needs_nobody_else() {
    run("dashboard.py");
}
