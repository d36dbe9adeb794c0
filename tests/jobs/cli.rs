//! `explaind jobs` against a server.

use std::process::{Command, Output};

use explaind::{
    api::{Api, router},
    jobs::{
        runner::{Runner, Shutdown},
        store::JobState,
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    databases::sqlite,
    kinds::{ask, expected, queue},
    processes::reach,
};

async fn explaind(arguments: &[&str], server: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command
        .arg("jobs")
        .args(arguments)
        .args(["--server", server]);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complained(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_shown_reported_and_cancelled_from_the_command_line() {
    let database = sqlite();
    let queue = queue(&database, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}/", listener.local_addr().unwrap());
    let service = router(Api::with_jobs(queue.clone()).unwrap());
    tokio::spawn(async move { axum::serve(listener, service).await });
    let runner = Runner::new(queue.clone());
    tokio::spawn(async move { runner.run(&Shutdown::default()).await });
    let (done, _) = queue
        .submit(ask(json!({ "shards": 3 })), None)
        .await
        .unwrap();
    reach(&queue, &done.id, |job| job.state == JobState::Succeeded).await;
    let (endless, _) = queue
        .submit(ask(json!({ "shards": 3, "pause_ms": 3_600_000 })), None)
        .await
        .unwrap();

    let list = said(&explaind(&["list"], &server).await);
    let line = list.lines().find(|line| line.contains(&done.id)).unwrap();
    assert!(
        line.contains("sum") && line.contains("succeeded") && line.ends_with("30/30"),
        "{line}"
    );
    assert!(list.contains(&endless.id));
    let list = said(&explaind(&["list", "--state", "succeeded", "--kind", "sum"], &server).await);
    assert!(list.contains(&done.id) && !list.contains(&endless.id));

    let unknown = explaind(&["list", "--kind", "summ"], &server).await;
    assert!(
        !unknown.status.success()
            && String::from_utf8_lossy(&unknown.stderr)
                .contains("kind: \"summ\" is no kind of job; did you mean sum? (allowed: "),
        "{unknown:?}"
    );

    let shown: Value =
        serde_json::from_str(&said(&explaind(&["show", &done.id], &server).await)).unwrap();
    assert_eq!(shown["result"], expected(0, 3));
    let file = database.data.path().join("report.csv");
    said(&explaind(&["report", &done.id, "-o", file.to_str().unwrap()], &server).await);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        format!("sum\n{}\n", expected(0, 3)["sum"])
    );
    let report = said(&explaind(&["report", &done.id, "--format", "json"], &server).await);
    assert_eq!(
        serde_json::from_str::<Value>(&report).unwrap(),
        expected(0, 3)
    );

    let cancelled: Value =
        serde_json::from_str(&said(&explaind(&["cancel", &endless.id], &server).await)).unwrap();
    assert_eq!(cancelled["state"], "cancelled");

    let unknown = complained(&explaind(&["show", "x/../y"], &server).await);
    assert!(unknown.contains("no job is called x/../y"), "{unknown}");
    let wrong = complained(&explaind(&["list", "--state", "done"], &server).await);
    assert!(wrong.contains("done is no state"), "{wrong}");
    let nobody = complained(&explaind(&["list"], "http://127.0.0.1:9").await);
    assert!(nobody.contains("http://127.0.0.1:9"), "{nobody}");
}
