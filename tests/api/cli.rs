//! What the command line says when it cannot do what it was asked.

use std::process::{Command, Output};

use crate::house::{red, settings_with};

/// `explaind explain` on a picture that is there.
fn explain(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("red.png"), red()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command.arg("explain").arg("--models").arg(settings_with(&[]).models).args(["--model", "tiny"]);
    command.arg("--data").arg(folder.path()).args(arguments).arg(folder.path().join("red.png"));
    command.arg("--output").arg(folder.path().join("out.png"));
    // Stack traces are for faults of the program, not for those of its caller.
    command.env("RUST_BACKTRACE", "1").output().unwrap()
}

fn complaint(arguments: &[&str]) -> Vec<String> {
    let output = explain(arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn an_unknown_method_is_answered_with_those_there_are() {
    let [line] = &complaint(&["--method", "grad-cam"])[..] else { panic!() };
    assert!(line.starts_with("error: method: no method is called"), "{line}");
    assert!(
        line.contains("grad-cam") && line.contains("(allowed: gradient, ") && line.contains(" grad_cam,"),
        "{line}"
    );
}

#[test]
fn every_fault_is_a_line_of_its_own() {
    let lines = complaint(&["--method", "integrated_gradients", "-p", "n_steps=0", "-p", "quadrature=simpson"]);
    let starts: Vec<_> = lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
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
