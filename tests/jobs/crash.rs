//! Processes that end at a crash point (`src/jobs/crash.rs`): while they submit, work,
//! cancel or delete. What is left then runs to its end here, and is what an undisturbed job leaves:
//! the same result, each shard counted once.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use explaind::jobs::{
    JobError,
    kind::folder_of,
    local,
    queue::Queue,
    store::{Filter, JobState},
};
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

use crate::{
    databases::{TestDatabase, databases, sqlite},
    kinds::{ask, expected, queue},
    processes::{SLOTS, Signal, Worker, child, reach},
};

const SHARDS: u64 = 3;

/// Where a worker ends: the crash point, and at which passage. The reduction is the last that is
/// leased.
const WORKER: &[(&str, u64)] = &[
    ("claim::uncommitted", 1),
    ("claim::uncommitted", SHARDS + 1),
    ("runner::leased", 1),
    ("runner::leased", 2),
    ("runner::leased", SHARDS + 1),
    ("runner::evaluated", 1),
    ("runner::evaluated", SHARDS),
    ("ack::uncounted", 1),
    ("ack::uncommitted", 1),
    ("ack::uncommitted", SHARDS),
    ("runner::settled", 1),
    ("runner::settled", SHARDS),
    ("runner::reduced", 1),
    ("runner::evaluated", SHARDS + 1),
    ("finish::uncommitted", 1),
    ("runner::settled", SHARDS + 1),
];

/// Where a worker ends whose shard fails.
const FAILING_WORKER: &[(&str, u64)] = &[("fail::uncommitted", 1)];

/// Where who submits, cancels or deletes ends.
const SUBMITTER: &[&str] = &["submit::uncommitted", "queue::submitted"];
const CANCELLER: &[&str] = &["cancel::uncommitted"];
const DELETER: &[&str] = &["delete::uncommitted", "queue::deleted"];

/// Read by `src/jobs/crash.rs`.
const CRASH_AT: &str = "CRASH_AT";
const ACTION: &str = "EXPLAIND_TEST_ACTION";
const JOB: &str = "EXPLAIND_TEST_JOB";
const DATA: &str = "EXPLAIND_TEST_DATA";
const DATABASE: &str = "EXPLAIND_TEST_DATABASE";
const KEY: &str = "crash";

/// The process that submits, cancels or deletes; on its own it has nothing to do.
#[tokio::test]
async fn caller() {
    let Ok(action) = std::env::var(ACTION) else {
        return;
    };
    let [job, data, database] = [JOB, DATA, DATABASE].map(|name| std::env::var(name).unwrap());
    let queue = crate::kinds::queue_at(Path::new(&data), &database, &[]);
    match action.as_str() {
        "submit" => drop(queue.submit(asked(), Some(KEY.into())).await.unwrap()),
        "cancel" => drop(queue.cancel(&job).await.unwrap()),
        _ => queue.delete(&job).await.unwrap(),
    }
}

/// Runs the process that does so until it ends at the crash point.
fn crash(database: &TestDatabase, action: &str, job: &str, point: &str) {
    let ended = child("crash::caller")
        .env(CRASH_AT, format!("{point}=1"))
        .env(ACTION, action)
        .env(JOB, job)
        .env(DATA, database.data.path())
        .env(DATABASE, database.url.as_deref().unwrap_or_default())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(is_aborted(ended), "{point}: {ended}");
}

fn is_aborted(ended: ExitStatus) -> bool {
    ended.signal() == Some(libc::SIGABRT)
}

fn asked() -> Map<String, Value> {
    ask(json!({ "shards": SHARDS }))
}

/// Two shards, of which the second fails once.
fn asked_to_fail() -> Map<String, Value> {
    ask(json!({ "shards": 2, "fault": "transient", "times": 1 }))
}

/// One shard at a time, so that events have one order.
fn queue_of(database: &TestDatabase) -> Queue {
    queue(database, &[("job_slots", "1")])
}

/// Submits, unless a job has the key, and works until it has ended.
async fn run_to_the_end(database: &TestDatabase, asked: Map<String, Value>) -> String {
    let (queue, shards) = (queue_of(database), asked["shards"].as_u64().unwrap());
    let job = local::run(&queue, asked, Some(KEY.into()), |_| {})
        .await
        .unwrap();
    let status = queue.status(&job.id).await.unwrap();
    let whole = expected(0, shards);
    assert_eq!(status.result.as_deref(), Some(&whole));
    let file = folder_of(&job.id).join("sum.txt");
    assert_eq!(
        queue.app().files().read(&file).await.unwrap(),
        whole["sum"].to_string()
    );
    job.id
}

async fn submit(database: &TestDatabase, asked: Map<String, Value>) -> String {
    let submitted = queue_of(database).submit(asked, Some(KEY.into())).await;
    submitted.unwrap().0.id
}

fn any() -> Filter {
    Filter {
        limit: 9,
        ..Filter::default()
    }
}

/// Ends workers at each of these points, on both databases.
async fn end_workers(points: &[(&str, u64)], asked: fn() -> Map<String, Value>) {
    let undisturbed = sqlite();
    let id = run_to_the_end(&undisturbed, asked()).await;
    let undisturbed = undisturbed.snapshot(&id).await;
    let end_worker = async |(point, passage): (&str, u64)| {
        for database in databases().await {
            let id = submit(&database, asked()).await;
            let worker = Worker::with(&database, |command| {
                command
                    .env(CRASH_AT, format!("{point}={passage}"))
                    .env(SLOTS, "1");
            });
            assert!(is_aborted(worker.ends().await), "{point} {passage}");
            assert_eq!(run_to_the_end(&database, asked()).await, id);
            let left = database.snapshot(&id).await;
            assert_eq!(left, undisturbed, "{point} {passage}: {}", database.name);
        }
    };
    stream::iter(points)
        .for_each_concurrent(4, |point| end_worker(*point))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "crash points are in debug builds")]
async fn a_worker_may_end_at_any_point() {
    end_workers(WORKER, asked).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "crash points are in debug builds")]
async fn a_worker_whose_shard_fails_may_end_at_any_point() {
    end_workers(FAILING_WORKER, asked_to_fail).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "crash points are in debug builds")]
async fn a_job_is_submitted_once_wherever_its_submitter_ends() {
    for point in SUBMITTER {
        for database in databases().await {
            let queue = queue_of(&database);
            queue.store().await.unwrap();
            crash(&database, "submit", "", point);
            let found = queue.list(&any()).await.unwrap();
            let id = run_to_the_end(&database, asked()).await;
            if *point == "queue::submitted" {
                assert_eq!(found[0].id, id, "{}", database.name);
            } else {
                assert_eq!(found, [], "{}", database.name);
            }
            let found = queue.list(&any()).await.unwrap();
            assert_eq!(found.len(), 1, "{point}: {}", database.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "crash points are in debug builds")]
async fn a_job_whose_canceller_ends_before_the_commit_goes_on() {
    for point in CANCELLER {
        for database in databases().await {
            let id = submit(&database, asked()).await;
            let before = database.snapshot(&id).await;
            crash(&database, "cancel", &id, point);
            assert_eq!(database.snapshot(&id).await, before, "{}", database.name);
            run_to_the_end(&database, asked()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "crash points are in debug builds")]
async fn a_job_is_deleted_whole_or_not_at_all_and_its_files_go() {
    for point in DELETER {
        for database in databases().await {
            let id = run_to_the_end(&database, asked()).await;
            let (queue, before) = (queue_of(&database), database.snapshot(&id).await);
            crash(&database, "delete", &id, point);
            if *point == "delete::uncommitted" {
                assert_eq!(database.snapshot(&id).await, before, "{}", database.name);
                queue.delete(&id).await.unwrap();
            } else {
                assert_eq!(queue.sweep().await.unwrap(), 1, "{}", database.name);
            }
            assert!(matches!(
                queue.job(&id).await,
                Err(JobError::Unknown { .. })
            ));
            assert_eq!(database.snapshot(&id).await, "", "{}", database.name);
            let file = folder_of(&id).join("sum.txt");
            assert!(queue.app().files().read(&file).await.is_err());
        }
    }
}

#[test]
fn every_crash_point_has_its_test() {
    let mut planted = BTreeSet::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/jobs"),
        &mut planted,
    );
    let workers = WORKER.iter().chain(FAILING_WORKER).map(|(point, _)| *point);
    let others = [SUBMITTER, CANCELLER, DELETER].concat();
    let tested: BTreeSet<String> = workers.chain(others).map(str::to_owned).collect();
    assert_eq!(planted, tested);
}

/// The names of the crash points in the files of a folder.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let points = text.split("crash_point!(\"").skip(1);
            names.extend(points.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

/// Stops a worker while it does not hold the lock that SQLite's writers share.
async fn freeze(worker: &Worker, database: &TestDatabase) {
    let store = database.store().await;
    loop {
        worker.send(Signal::Stop);
        let write = tokio::time::timeout(Duration::from_millis(500), store.cancel("no job"));
        if write.await.is_ok() {
            return;
        }
        worker.send(Signal::Continue);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_is_refused() {
    for database in databases().await {
        let asked = ask(json!({ "shards": SHARDS, "pause_ms": 400 }));
        let id = submit(&database, asked.clone()).await;
        let worker = Worker::start(&database);
        reach(&queue_of(&database), &id, |job| job.units_done > 0).await;
        freeze(&worker, &database).await;
        assert_eq!(run_to_the_end(&database, asked).await, id);
        worker.send(Signal::Continue);
        worker
            .says(&[
                "a late result was refused",
                "stopped: the lease or the job is over",
            ])
            .await;
        let job = queue_of(&database).job(&id).await.unwrap();
        assert_eq!(
            (job.state, job.shards_done),
            (JobState::Succeeded, SHARDS),
            "{}",
            database.name
        );
        worker.kill();
    }
}
