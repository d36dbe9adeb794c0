//! The runner in this process, on both databases.

use std::time::{Duration, Instant};

use explaind::jobs::{
    Format, JobError, Report,
    kind::{folder_of, folder_of_all},
    local,
    queue::Queue,
    runner::{Runner, Shutdown},
    store::JobState,
};
use serde_json::json;

use crate::{
    databases::{databases, sqlite},
    kinds::{ask, expected, queue},
    processes::reach,
};

/// Runners at work until the test ends them.
struct Working {
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

fn work(queue: &Queue) -> Working {
    let (shutdown, queue) = (Shutdown::default(), queue.clone());
    let until = shutdown.clone();
    Working {
        shutdown,
        task: tokio::spawn(async move { Runner::new(queue).run(&until).await }),
    }
}

impl Working {
    async fn finish(self) {
        self.shutdown.graceful.cancel();
        self.task.await.unwrap();
    }
}

async fn wait_for(queue: &Queue, id: &str, reached: impl Fn(&explaind::jobs::store::Job) -> bool) {
    let started = Instant::now();
    loop {
        let job = queue.job(id).await.unwrap();
        if reached(&job) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{job:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_and_is_reported() {
    for database in databases().await {
        let queue = queue(&database, &[]);
        let mut told = Vec::new();
        let asked = ask(json!({ "shards": 9, "pause_ms": 100, "seed_value": 7 }));
        let job = local::run(&queue, asked, None, |job| told.push(job.units_done))
            .await
            .unwrap();
        assert_eq!(
            (job.state, job.units_done),
            (JobState::Succeeded, 90),
            "{}",
            database.name
        );
        assert!(told.is_sorted() && told.len() > 1, "{told:?}");
        let status = queue.status(&job.id).await.unwrap();
        let whole = expected(7, 9);
        assert_eq!(status.result.as_deref(), Some(&whole));
        assert_eq!(status.errors, []);
        let report = queue.report(&job, Format::Csv).await.unwrap();
        assert_eq!(
            report,
            Report::Bytes(format!("sum\n{}\n", whole["sum"]).into())
        );
        let file = folder_of(&job.id).join("sum.txt");
        assert_eq!(
            queue.app().files().read(&file).await.unwrap(),
            whole["sum"].to_string()
        );
        queue.delete(&job.id).await.unwrap();
        assert!(queue.app().files().read(&file).await.is_err());
        assert!(matches!(
            queue.status(&job.id).await,
            Err(JobError::Unknown { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_is_tried_again() {
    for database in databases().await {
        // Long enough for a panic that prints its stack on a busy machine.
        let settings = [("lease_ms", "6000"), ("job_slots", "1")];
        let queue = queue(&database, &settings);
        for fault in ["transient", "panic"] {
            let asked = ask(json!({ "shards": 2, "fault": fault, "times": 2 }));
            let job = local::run(&queue, asked, None, |_| {}).await.unwrap();
            assert_eq!(
                queue.status(&job.id).await.unwrap().result.as_deref(),
                Some(&expected(0, 2))
            );
            let (left, told) = (
                database.snapshot(&job.id).await,
                match fault {
                    "panic" => "its work panicked; the log says where",
                    _ => "out of luck",
                },
            );
            insta::allow_duplicates! {
                insta::assert_snapshot!(left.replace(told, "WHY"), @r#"
                job: succeeded, 2 of 2 shards, 20 units, with a result
                shard 0: succeeded, 10 of 10 units
                shard 1: succeeded, 10 of 10 units, failures: 2
                reduction: succeeded, 0 of 0 units
                event 1: state {"state":"queued"}
                event 2: state {"state":"running"}
                event 3: progress {"done":10,"total":20,"shards_done":1,"shards":2}
                event 4: shard {"shard":1,"failures":1,"error":"WHY","retried":true}
                event 5: shard {"shard":1,"failures":2,"error":"WHY","retried":true}
                event 6: progress {"done":20,"total":20,"shards_done":2,"shards":2}
                event 7: state {"state":"succeeded"}
                "#);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_fails_its_job_alone_and_shows_what_was_done() {
    for database in databases().await {
        let queue = queue(&database, &[("job_slots", "1")]);
        let failing = ask(json!({ "shards": 3, "fault": "permanent", "times": 1 }));
        let job = local::run(&queue, failing, None, |_| {}).await.unwrap();
        let left = database.snapshot(&job.id).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: failed, 1 of 3 shards, 30 units, error: shard 1: the data set is gone
            shard 0: succeeded, 10 of 10 units, with a result
            shard 1: failed, 0 of 10 units, failures: 1, error: the data set is gone
            shard 2: queued, 0 of 10 units
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: progress {"done":10,"total":30,"shards_done":1,"shards":3}
            event 4: shard {"shard":1,"failures":1,"error":"the data set is gone","retried":false}
            event 5: state {"state":"failed","error":"shard 1: the data set is gone"}
            "#);
        }
        let status = queue.status(&job.id).await.unwrap();
        let numbers = status.result.unwrap()["numbers"].clone();
        assert_eq!(numbers, json!([expected(0, 3)["numbers"][0], null, null]));
        assert_eq!(
            (status.errors.len(), status.errors[0].state.as_str()),
            (1, "failed")
        );
        let other = local::run(&queue, ask(json!({ "shards": 2 })), None, |_| {})
            .await
            .unwrap();
        assert_eq!(other.state, JobState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_its_workers_to_others_within_a_heartbeat() {
    for database in databases().await {
        let queue = queue(&database, &[]);
        let working = work(&queue);
        let (endless, _) = queue
            .submit(ask(json!({ "shards": 9, "pause_ms": 3_600_000 })), None)
            .await
            .unwrap();
        wait_for(&queue, &endless.id, |job| job.state == JobState::Running).await;
        assert_eq!(
            queue.cancel(&endless.id).await.unwrap().state,
            JobState::Cancelled
        );
        let (quick, _) = queue
            .submit(ask(json!({ "shards": 4 })), None)
            .await
            .unwrap();
        wait_for(&queue, &quick.id, |job| job.state == JobState::Succeeded).await;
        assert_eq!(
            queue.cancel(&quick.id).await.unwrap().state,
            JobState::Succeeded,
            "{}",
            database.name
        );
        working.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_while_workers_write_leaves_no_files() {
    for database in databases().await {
        // The workers of this process are told; that of another asks within a heartbeat.
        for (lease, elsewhere) in [("3600000", false), ("600", true)] {
            let worker = queue(&database, &[("lease_ms", lease)]);
            let deleter = if elsewhere {
                queue(&database, &[])
            } else {
                worker.clone()
            };
            let working = work(&worker);
            let (job, _) = deleter
                .submit(ask(json!({ "shards": 4, "scribble": true })), None)
                .await
                .unwrap();
            let files = deleter.app().files();
            let started = Instant::now();
            while files.list(&folder_of(&job.id)).await.unwrap().len() < 3 {
                assert!(started.elapsed() < Duration::from_secs(60));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            deleter.delete(&job.id).await.unwrap();
            let started = Instant::now();
            while files.folders(&folder_of_all()).await.unwrap() != [""; 0] {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "{}: elsewhere: {elsewhere}",
                    database.name
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            working.finish().await;
            assert_eq!(
                files.folders(&folder_of_all()).await.unwrap(),
                [""; 0],
                "{}",
                database.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_jobs_that_are_gone_go_at_the_start_and_others_stay() {
    let database = sqlite();
    let queue = queue(&database, &[]);
    let (kept, _) = queue
        .submit(ask(json!({ "shards": 1, "pause_ms": 3_600_000 })), None)
        .await
        .unwrap();
    let files = queue.app().files();
    let gone = "0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a";
    for name in [gone, kept.id.as_str(), "notes"] {
        files
            .write(&folder_of(name).join("maps").join("file"), "words")
            .await
            .unwrap();
    }
    // What a writer that was killed leaves, which no list of files names.
    std::fs::write(
        database
            .data
            .path()
            .join("files/jobs")
            .join(gone)
            .join("maps/file#1"),
        "half",
    )
    .unwrap();
    let working = work(&queue);
    let started = Instant::now();
    while database.data.path().join("files/jobs").join(gone).exists() {
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut left = files.folders(&folder_of_all()).await.unwrap();
    left.sort();
    let mut expected = vec![kept.id.clone(), "notes".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
    queue.cancel(&kept.id).await.unwrap();
    working.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_inside_a_shard_is_seen() {
    let database = sqlite();
    let queue = queue(&database, &[]);
    let working = work(&queue);
    let (job, _) = queue
        .submit(ask(json!({ "shards": 1, "pause_ms": 20_000 })), None)
        .await
        .unwrap();
    wait_for(&queue, &job.id, |job| {
        job.units_done > 0 && job.shards_done == 0
    })
    .await;
    queue.cancel(&job.id).await.unwrap();
    working.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_shards_under_way_and_then_gives_them_back() {
    for database in databases().await {
        // Nobody waits for these leases to run out.
        let queue = queue(&database, &[("lease_ms", "3600000")]);
        let working = work(&queue);
        let (job, _) = queue
            .submit(ask(json!({ "shards": 6, "pause_ms": 400 })), None)
            .await
            .unwrap();
        wait_for(&queue, &job.id, |job| job.state == JobState::Running).await;
        working.finish().await;
        let done = queue.job(&job.id).await.unwrap().shards_done;
        assert!((1..=5).contains(&done), "{}: {done} shards", database.name);

        let (endless, _) = queue
            .submit(ask(json!({ "shards": 2, "pause_ms": 3_600_000 })), None)
            .await
            .unwrap();
        let working = work(&queue);
        wait_for(&queue, &endless.id, |job| job.state == JobState::Running).await;
        working.shutdown.immediate.cancel();
        working.finish().await;
        queue.cancel(&endless.id).await.unwrap();

        let working = work(&queue);
        wait_for(&queue, &job.id, |job| job.state == JobState::Succeeded).await;
        assert_eq!(
            queue.status(&job.id).await.unwrap().result.as_deref(),
            Some(&expected(0, 6))
        );
        working.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_runners_share_a_job() {
    for database in databases().await {
        let queues = [
            queue(&database, &[]),
            queue(&database, &[]),
            queue(&database, &[]),
        ];
        let (job, _) = queues[0]
            .submit(ask(json!({ "shards": 40, "pause_ms": 20 })), None)
            .await
            .unwrap();
        let working: Vec<_> = queues.iter().map(work).collect();
        wait_for(&queues[0], &job.id, |job| job.state == JobState::Succeeded).await;
        for working in working {
            working.finish().await;
        }
        assert_eq!(
            queues[1].status(&job.id).await.unwrap().result.as_deref(),
            Some(&expected(0, 40)),
            "{}",
            database.name
        );
        let events = queues[2].events(&job.id, 0, 100).await.unwrap();
        assert_eq!(
            events
                .iter()
                .filter(|event| event.kind == "progress")
                .count(),
            40
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_request_are_told_before_anything_is_queued() {
    let database = sqlite();
    let queue = queue(&database, &[]);
    for (asked, param) in [
        (ask(json!({ "kind": "summ" })), "kind"),
        (ask(json!({ "shards": 0 })), "shards"),
    ] {
        match queue.submit(asked, None).await {
            Err(JobError::Parameters(faults)) => {
                assert_eq!(faults.shown()[0].param, param);
                assert!(!faults.shown()[0].allowed.is_empty());
            }
            other => panic!("{:?}", other.map(|(job, _)| job)),
        }
    }
    assert_eq!(
        queue
            .list(&explaind::jobs::store::Filter {
                limit: 9,
                ..Default::default()
            })
            .await
            .unwrap(),
        []
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_off_run_goes_on_where_it_was() {
    let database = sqlite();
    let asked = || ask(json!({ "shards": 8, "pause_ms": 200 }));
    let queue = queue(&database, &[("job_slots", "1")]);
    let broken_off = tokio::time::timeout(
        Duration::from_millis(900),
        local::run(&queue, asked(), Some("run".into()), |_| {}),
    );
    assert!(broken_off.await.is_err());
    let mut first = None;
    let job = local::run(&queue, asked(), Some("run".into()), |job| {
        first.get_or_insert(job.shards_done);
    });
    assert_eq!(job.await.unwrap().state, JobState::Succeeded);
    assert!(first.unwrap() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_are_files_are_there_when_the_job_has_succeeded() {
    let database = sqlite();
    let queue = queue(&database, &[]);
    let asked = ask(json!({ "shards": 30, "pause_ms": 100 }));
    let (job, _) = queue.submit(asked, None).await.unwrap();
    let working = work(&queue);
    let running = reach(&queue, &job.id, |job| job.shards_done > 0).await;
    let cancelled = queue.cancel(&job.id).await.unwrap();
    for (job, words) in [
        (running, "no such report yet"),
        (cancelled, "no such report"),
    ] {
        assert!(queue.report(&job, Format::Json).await.is_ok());
        let refused = queue.report(&job, Format::TidyCsv).await.unwrap_err();
        assert!(matches!(refused, JobError::NothingToReport { .. }));
        assert!(refused.to_string().ends_with(words), "{refused}");
    }
    working.finish().await;
}
