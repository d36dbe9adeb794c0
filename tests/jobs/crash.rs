//! Workers that die between any two steps of a shard. Each is a process of its own that goes step
//! by step and aborts at the planted point; what is left then runs to the end here, and gives what
//! an undisturbed run gives.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use explaind::jobs::{
    local,
    store::{Acked, JobState, Store},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::{
    databases::{TestDatabase, databases, postgres},
    kinds::{ask, expected, number_of, queue},
    processes::{Signal, child, send},
};

const SHARDS: u64 = 4;

/// The steps of a worker, in their order.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Point {
    Leased,
    Evaluated,
    Acked,
    AllAcked,
    ReductionLeased,
    FilesWritten,
    Finished,
}

use Point::*;

const POINTS: [Point; 7] = [
    Leased,
    Evaluated,
    Acked,
    AllAcked,
    ReductionLeased,
    FilesWritten,
    Finished,
];

const POINT: &str = "EXPLAIND_TEST_POINT";
const DATA: &str = "EXPLAIND_TEST_DATA";
const DATABASE: &str = "EXPLAIND_TEST_DATABASE";
/// Makes the worker take its time between lease and result.
const SLOW: &str = "EXPLAIND_TEST_SLOW";

/// The process that dies; on its own, outside a crash test, it has nothing to do.
#[tokio::test]
async fn dying_worker() {
    let (Ok(point), Ok(data)) = (std::env::var(POINT), std::env::var(DATA)) else {
        return;
    };
    let database = std::env::var(DATABASE).ok();
    let store = Store::open(database.as_deref(), Path::new(&data))
        .await
        .unwrap();
    let reach = |reached: Point| {
        println!("{reached:?}");
        if point == format!("{reached:?}") {
            std::process::abort();
        }
    };
    loop {
        let lease = store.claim("dying", &["sum"], 300).await.unwrap().unwrap();
        if lease.reduces {
            reach(ReductionLeased);
            let folder = Path::new(&data).join("files/jobs").join(&lease.job);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("sum.txt"), "half a file").unwrap();
            reach(FilesWritten);
            store.finish(&lease, &expected(0, SHARDS)).await.unwrap();
            reach(Finished);
            return;
        }
        reach(Leased);
        if std::env::var(SLOW).is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let result = number_of(&lease).to_le_bytes().to_vec().into();
        reach(Evaluated);
        let acked = store.ack(&lease, &result).await.unwrap();
        println!("ack: {acked:?}");
        reach(Acked);
        if lease.shard.index as u64 == SHARDS - 1 {
            reach(AllAcked);
        }
    }
}

fn dying(database: &TestDatabase, point: &str) -> Command {
    let mut command = child("crash::dying_worker");
    command
        .env(POINT, point)
        .env(DATA, database.data.path())
        .stdout(Stdio::piped());
    if let Some(url) = &database.url {
        command.env(DATABASE, url);
    }
    command
}

async fn run_to_the_end(database: &TestDatabase, id: &str) {
    let queue = queue(database, &[]);
    let job = local::run(
        &queue,
        ask(json!({ "shards": SHARDS })),
        Some("crash".into()),
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!((job.id.as_str(), job.state), (id, JobState::Succeeded));
    let status = queue.status(id).await.unwrap();
    assert_eq!(status.result.as_deref(), Some(&expected(0, SHARDS)));
    let events = queue.events(id, 0, 100).await.unwrap();
    let done: Vec<_> = events
        .iter()
        .filter(|e| e.kind == "progress")
        .map(|e| e.payload["shards_done"].as_u64().unwrap())
        .collect();
    assert_eq!(
        done,
        (1..=SHARDS).collect::<Vec<_>>(),
        "every shard is counted once"
    );
}

async fn submit(database: &TestDatabase) -> String {
    let asked = ask(json!({ "shards": SHARDS }));
    queue(database, &[])
        .submit(asked, Some("crash".into()))
        .await
        .unwrap()
        .0
        .id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_die_between_any_two_steps() {
    for point in POINTS {
        for database in databases().await {
            let id = submit(&database).await;
            let ended = dying(&database, &format!("{point:?}")).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stdout).into_owned();
            assert!(
                !ended.status.success() && said.trim_end().ends_with(&format!("{point:?}")),
                "{point:?}: {said}"
            );
            run_to_the_end(&database, &id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_die_inside_the_transaction_of_its_ack() {
    let database = postgres().await;
    let id = submit(&database).await;
    queue(&database, &[]).store().await.unwrap();
    let mut blocker = PgConnection::connect(database.url.as_deref().unwrap())
        .await
        .unwrap();
    let mut worker = dying(&database, "none").env(SLOW, "1").spawn().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Leased")));
    // The ack writes the shard's result, and then waits for the job's row.
    let mut holding = blocker.begin().await.unwrap();
    sqlx::query("SELECT id FROM jobs FOR UPDATE")
        .execute(&mut *holding)
        .await
        .unwrap();
    const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while sqlx::query_scalar::<_, i64>(WAITING)
        .fetch_one(&mut *holding)
        .await
        .unwrap()
        == 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    send(worker.id(), Signal::Kill);
    worker.wait().unwrap();
    holding.rollback().await.unwrap();
    run_to_the_end(&database, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_is_refused() {
    for database in databases().await {
        let id = submit(&database).await;
        let mut worker = dying(&database, "none").env(SLOW, "1").spawn().unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Leased")));
        send(worker.id(), Signal::Stop);
        run_to_the_end(&database, &id).await;
        send(worker.id(), Signal::Continue);
        let refused = format!("ack: {:?}", Acked::Refused);
        assert!(
            lines.any(|line| line.contains(&refused)),
            "{}",
            database.name
        );
        worker.wait().unwrap();
    }
}
