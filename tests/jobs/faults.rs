//! Disks that are full, databases that hang up or turn read-only, stores of files that others hold,
//! models that are taken away.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use bytes::Bytes;
use explaind::{files::Files, jobs::store::StoreError};
use object_store::path::Path as FilePath;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    databases::{databases, postgres},
    kinds::{GATE, ask, queue},
    processes::{Worker, check, child, limit_files, reach},
    s3::S3,
    served::{Served, benchmark, material},
};

/// What a worker says when the database takes nothing: by whether it holds a shard at that moment.
const REFUSALS: &[&str] = &[
    "a result cannot be written; trying again",
    "no shards can be leased; trying again",
];

/// Ends every other connection to a database of PostgreSQL.
const HANG_UP: &str = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_results_wait_and_nothing_is_lost() {
    const SHARDS: u64 = 12;
    const DONE: u64 = 2;
    let database = crate::databases::sqlite();
    let queue = queue(&database, &[]);
    let (job, _) = queue
        .submit(ask(json!({ "shards": SHARDS, "gate": DONE })), None)
        .await
        .unwrap();
    let worker = Worker::start(&database);
    // Heartbeats tell of shards that are worked on: the disk is full while these are held.
    reach(&queue, &job.id, |job| {
        job.shards_done == DONE && job.units_done > job.units / SHARDS * DONE
    })
    .await;
    limit_files(worker.id(), Some(0));
    fs::write(database.data.path().join(GATE), "").unwrap();
    worker
        .says(&["a result cannot be written; trying again"])
        .await;
    let stuck = queue.job(&job.id).await.unwrap();
    assert!(
        !stuck.state.is_final() && stuck.shards_done == DONE,
        "{stuck:?}"
    );
    limit_files(worker.id(), None);
    check(&queue, &job.id, SHARDS).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_met_a_full_disk_leases_again_when_there_is_room() {
    let database = crate::databases::sqlite();
    let queue = queue(&database, &[]);
    let worker = Worker::start(&database);
    let (first, _) = queue
        .submit(ask(json!({ "shards": 1 })), None)
        .await
        .unwrap();
    check(&queue, &first.id, 1).await;
    limit_files(worker.id(), Some(0));
    let (job, _) = queue
        .submit(ask(json!({ "shards": 3 })), None)
        .await
        .unwrap();
    // Often enough for every connection to meet it.
    worker
        .says_often("no shards can be leased; trying again", 8)
        .await;
    limit_files(worker.id(), None);
    check(&queue, &job.id, 3).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_told_in_plain_words() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), crate::databases::sqlite());
    let server = Served::start_within_limits(material.path(), &database, "api");
    let id = server.submit(&benchmark()).await;
    limit_files(server.id(), Some(0));
    let (client, jobs) = (reqwest::Client::new(), format!("{}/jobs", server.url));
    for request in [
        client.post(&jobs).json(&benchmark()),
        client.post(format!("{jobs}/{id}/cancel")),
        client.delete(format!("{jobs}/{id}")),
    ] {
        let answer = request.send().await.unwrap();
        let (status, problem) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (503, &json!("jobs_unavailable")),
            "{problem}"
        );
        assert_eq!(problem["detail"], StoreError::Unwritable.to_string());
    }
    limit_files(server.id(), None);
    let deleted = client.delete(format!("{jobs}/{id}")).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_up_is_asked_again() {
    const SHARDS: u64 = 12;
    let database = postgres().await;
    let queue = queue(&database, &[]);
    let (job, _) = queue
        .submit(ask(json!({ "shards": SHARDS, "pause_ms": 100 })), None)
        .await
        .unwrap();
    let worker = Worker::start(&database);
    let mut connection = PgConnection::connect(database.url.as_deref().unwrap())
        .await
        .unwrap();
    for done in [2, 5, 8] {
        reach(&queue, &job.id, |job| job.shards_done >= done).await;
        sqlx::query(HANG_UP).execute(&mut connection).await.unwrap();
    }
    check(&queue, &job.id, SHARDS).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_files_cannot_be_written_fails_and_says_so() {
    for database in databases().await {
        std::fs::write(database.data.path().join("files"), "in the way").unwrap();
        let queue = queue(&database, &[]);
        let job = explaind::jobs::local::run(&queue, ask(json!({ "shards": 2 })), None, |_| {})
            .await
            .unwrap();
        let error = job.error.unwrap();
        assert!(
            error.starts_with("the reduction: ") && error.contains("files"),
            "{}: {error}",
            database.name
        );
        assert!(
            !error.contains(database.data.path().to_str().unwrap()),
            "{}: {error}",
            database.name
        );
        let status = queue.status(&job.id).await.unwrap();
        assert_eq!(
            status.result.as_deref(),
            Some(&crate::kinds::expected(0, 2)),
            "what was done is there"
        );
    }
}

/// The process whose environment names the store; on its own it has nothing to do.
#[tokio::test]
async fn replica() {
    if std::env::var("AWS_ENDPOINT").is_err() {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = tempfile::tempdir().unwrap();
    let files = Files::new(data.path(), Some("s3://bucket/our/files"));
    files
        .write(&FilePath::from("jobs/a/one"), "first".as_bytes())
        .await
        .unwrap();
    files
        .write(&FilePath::from("jobs/b/two"), "second".as_bytes())
        .await
        .unwrap();
    assert_eq!(
        files.read(&FilePath::from("jobs/a/one")).await.unwrap(),
        "first"
    );
    files.remove_all(&FilePath::from("jobs/a")).await.unwrap();
    assert!(files.read(&FilePath::from("jobs/a/one")).await.is_err());
    assert_eq!(files.folders(&FilePath::from("jobs")).await.unwrap(), ["b"]);
    assert!(!data.path().join("files").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_shared_through_an_s3_store() {
    let s3 = S3::start().await;
    let mut replica = child("faults::replica");
    s3.tell(replica.stderr(Stdio::piped()));
    let said = tokio::task::spawn_blocking(move || replica.output().unwrap())
        .await
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let left: Vec<_> = s3.objects().into_iter().collect();
    assert_eq!(
        left,
        [(
            "bucket/our/files/jobs/b/two".to_owned(),
            Bytes::from("second")
        )]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_turns_read_only_is_asked_until_it_takes_results_again() {
    const SHARDS: u64 = 12;
    let asked = || ask(json!({ "shards": SHARDS, "pause_ms": 100 }));
    let database = postgres().await;
    let queue = queue(&database, &[]);
    let (job, _) = queue.submit(asked(), None).await.unwrap();
    let worker = Worker::start(&database);
    reach(&queue, &job.id, |job| job.shards_done >= 2).await;
    let mut connection = PgConnection::connect(database.url.as_deref().unwrap())
        .await
        .unwrap();
    // As behind an address whose server is a standby now: those who connect again may only read.
    let name: String = sqlx::query_scalar("SELECT current_database()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    for (setting, then) in [
        ("SET default_transaction_read_only = on", REFUSALS),
        ("RESET ALL", &[]),
    ] {
        let change = AssertSqlSafe(format!("ALTER DATABASE {name} {setting}"));
        sqlx::query(change).execute(&mut connection).await.unwrap();
        sqlx::query(HANG_UP).execute(&mut connection).await.unwrap();
        if !then.is_empty() {
            worker.says(then).await;
            let stuck = queue.job(&job.id).await.unwrap();
            assert!(
                !stuck.state.is_final() && stuck.shards_done < SHARDS,
                "{stuck:?}"
            );
        }
    }
    check(&queue, &job.id, SHARDS).await;
    worker.kill();

    let database = crate::databases::sqlite();
    let queue = crate::kinds::queue(&database, &[]);
    let (job, _) = queue.submit(asked(), None).await.unwrap();
    let worker = Worker::start(&database);
    reach(&queue, &job.id, |job| job.shards_done >= 2).await;
    // What is open stays writable: modes are looked at when a file is opened.
    worker.kill();
    let set_modes = |folder: u32, file: u32| {
        let set = |path: &std::path::Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap()
        };
        set(database.data.path(), 0o755);
        for entry in fs::read_dir(database.data.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.is_file() {
                set(&entry, file);
            }
        }
        set(database.data.path(), folder);
    };
    set_modes(0o555, 0o444);
    let worker = Worker::start(&database);
    worker.says(REFUSALS).await;
    let stuck = queue.job(&job.id).await.unwrap();
    assert!(
        !stuck.state.is_final() && stuck.shards_done < SHARDS,
        "{stuck:?}"
    );
    set_modes(0o755, 0o644);
    check(&queue, &job.id, SHARDS).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_taken_away_ends_its_jobs_clearly_and_others_go_on() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), crate::databases::sqlite());
    let models = material.path().join("models");
    let doomed = models.join("doomed");
    fs::create_dir(&doomed).unwrap();
    for entry in fs::read_dir(models.join("colours"))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(entry.path(), doomed.join(entry.file_name())).unwrap();
    }
    let server = Served::start(material.path(), &database, "all");
    let [mut doomed_job, other_job] = [benchmark(), benchmark()];
    doomed_job["model"] = json!("doomed");
    let ended = server.submit(&doomed_job).await;
    server
        .reach(&ended, |job| job["shards_done"].as_u64() >= Some(1))
        .await;
    let other = server.submit(&other_job).await;
    server.kill();
    fs::remove_dir_all(&doomed).unwrap();
    let server = Served::start(material.path(), &database, "all");
    let job = server.reach(&ended, |job| job["state"] == "failed").await;
    assert!(
        job.to_string()
            .contains("model doomed is not there any more"),
        "{job}"
    );
    assert!(
        job["result"]["used"].as_u64() > Some(0),
        "what was done is there: {job}"
    );
    server
        .reach(&other, |job| job["state"] == "succeeded")
        .await;
    server.kill();
}
