//! The verbs of the store, on both databases.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use explaind::jobs::{
    PlannedShard,
    store::{
        Acked, Filter, JobState, Lease, MAX_FAILURES, MAX_LOSSES, NewJob, Renewed, Store, Submitted,
    },
};
use futures::future::join_all;
use serde_json::json;

use crate::databases::databases;

const LONG: u64 = 60_000;
const MANY: u64 = 1000;

fn new_job(id: &str, shards: usize) -> NewJob {
    NewJob {
        id: id.into(),
        kind: "sum",
        model: Some("tiny".into()),
        asked: json!({ "z": 1, "a": [0.1, null] }),
        idempotency_key: None,
        spec: json!({ "z": 1, "a": [0.1, null], "é": "ü" }),
        shards: (0..shards)
            .map(|at| PlannedShard {
                units: 10,
                payload: json!({ "at": at }),
                needs_previous: false,
            })
            .collect(),
    }
}

/// A job each of whose shards needs the one before.
async fn submit_in_order(store: &Store, id: &str, shards: usize) {
    let mut job = new_job(id, shards);
    job.shards
        .iter_mut()
        .for_each(|shard| shard.needs_previous = true);
    store.submit(&job, MANY).await.unwrap();
}

async fn submit(store: &Store, id: &str, shards: usize) {
    assert!(matches!(
        store.submit(&new_job(id, shards), MANY).await.unwrap(),
        Submitted::New(_)
    ));
}

async fn claim(store: &Store, lease_ms: u64) -> Option<Lease> {
    store.claim("a worker", &["sum"], lease_ms).await.unwrap()
}

/// A lease that has run out.
async fn claim_and_freeze(store: &Store) -> Lease {
    let lease = claim(store, 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    lease
}

fn result(lease: &Lease) -> Bytes {
    format!("result of {}", lease.shard.index).into()
}

async fn state(store: &Store, id: &str) -> JobState {
    store.job(id).await.unwrap().unwrap().state
}

/// Leases and acks shards until only the reduction is left, which it returns.
async fn work_off(store: &Store) -> Lease {
    loop {
        let lease = claim(store, LONG).await.unwrap();
        if lease.reduces {
            return lease;
        }
        assert_eq!(
            store.ack(&lease, &result(&lease)).await.unwrap(),
            Acked::Written
        );
    }
}

/// More than fit into one statement, and done in another order.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_shards_those_that_are_done_are_read() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "many", 1203).await;
        assert_eq!(store.job("many").await.unwrap().unwrap().shards, 1203);
        let leases = [
            claim(&store, LONG).await.unwrap(),
            claim(&store, LONG).await.unwrap(),
            claim(&store, LONG).await.unwrap(),
        ];
        for lease in [&leases[2], &leases[0]] {
            store.ack(lease, &result(lease)).await.unwrap();
        }
        let done = store.results("many", 0, 100).await.unwrap();
        let indices: Vec<u64> = done.iter().map(|(index, _)| *index).collect();
        let mut expected = [leases[0].shard.index as u64, leases[2].shard.index as u64];
        expected.sort_unstable();
        assert_eq!(indices, expected);
        assert_eq!(
            store.results("many", expected[1], 100).await.unwrap(),
            [done[1].clone()]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_back_as_it_was_submitted_and_ends_with_its_result() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 3).await;
        let job = store.job("one").await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.units, job.units_done, job.shards),
            (JobState::Queued, 30, 0, 3),
            "{}",
            database.name
        );
        assert_eq!(job.spec.to_string(), new_job("one", 3).spec.to_string());
        let reduction = work_off(&store).await;
        let job = store.job("one").await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.units_done, job.shards_done),
            (JobState::Running, 30, 3)
        );
        let result = |index: u64| (index, Bytes::from(format!("result of {index}")));
        let results = store.results("one", 0, 100).await.unwrap();
        assert_eq!(results, [result(0), result(1), result(2)]);
        let page = store.results("one", 1, 1).await.unwrap();
        assert_eq!(page, [result(1)]);
        let whole = json!({ "b": 0.1, "a": 1e-300 });
        assert_eq!(
            store.finish(&reduction, &whole).await.unwrap(),
            Acked::Written
        );
        let job = store.job("one").await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Succeeded);
        assert!(job.created_at <= job.started_at.unwrap() && job.started_at <= job.finished_at);
        assert_eq!(
            store.result("one").await.unwrap().unwrap().to_string(),
            whole.to_string()
        );
        assert_eq!(claim(&store, LONG).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_names_one_job_however_many_ask_at_once() {
    for database in databases().await {
        let store = database.store().await;
        let keyed = |id: usize| NewJob {
            idempotency_key: Some("key".into()),
            ..new_job(&format!("job {id}"), 2)
        };
        let jobs: Vec<NewJob> = (0..8).map(keyed).collect();
        let submitted = join_all(jobs.iter().map(|job| store.submit(job, MANY))).await;
        let (mut new, mut ids) = (0, HashSet::new());
        for submitted in submitted {
            match submitted.unwrap() {
                Submitted::New(job) => {
                    new += 1;
                    ids.insert(job.id);
                }
                Submitted::Known(job) => {
                    ids.insert(job.id);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((new, ids.len()), (1, 1), "{}", database.name);
        let other = NewJob {
            asked: json!({ "z": 2 }),
            ..keyed(9)
        };
        let id = ids.into_iter().next().unwrap();
        assert_eq!(
            store.submit(&other, MANY).await.unwrap(),
            Submitted::KeyTaken { job: id }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_leased_once_however_many_workers_ask_at_once() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 20).await;
        let worker = async || {
            let mut found = Vec::new();
            while let Some(lease) = claim(&store, LONG).await {
                found.push(lease.shard.index);
            }
            found
        };
        let mut leased: Vec<usize> = join_all((0..8).map(|_| worker())).await.concat();
        leased.sort_unstable();
        assert_eq!(leased, (0..20).collect::<Vec<_>>(), "{}", database.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_at_once_are_all_counted_and_one_of_them_lets_the_reduction_go() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 16).await;
        let mut leases = Vec::new();
        while let Some(lease) = claim(&store, LONG).await {
            leases.push(lease);
        }
        let acked = join_all(
            leases
                .iter()
                .map(async |lease| store.ack(lease, &result(lease)).await.unwrap()),
        )
        .await;
        assert!(acked.iter().all(|acked| *acked == Acked::Written));
        assert!(
            claim(&store, LONG).await.unwrap().reduces,
            "{}",
            database.name
        );
        assert_eq!(claim(&store, LONG).await, None);
        let events = store.events("one", 0, 100).await.unwrap();
        assert_eq!(
            events.iter().map(|event| event.seq).collect::<Vec<_>>(),
            (1..=18).collect::<Vec<_>>()
        );
        let done: Vec<_> = events[2..]
            .iter()
            .map(|event| event.payload["shards_done"].as_u64().unwrap())
            .collect();
        assert_eq!(done, (1..=16).collect::<Vec<_>>());
        assert_eq!(
            events[17].payload,
            json!({ "done": 160, "total": 160, "shards_done": 16, "shards": 16 })
        );
        assert_eq!(store.events("one", 17, 100).await.unwrap(), events[17..]);
        assert_eq!(store.events("one", 3, 2).await.unwrap(), events[3..5]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_take_turns() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "long", 50).await;
        claim(&store, LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        submit(&store, "short", 2).await;
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(claim(&store, LONG).await.unwrap().job);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            turns,
            ["short", "long", "short", "long"],
            "{}",
            database.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_does_not_wait_for_huge_ones_ahead_of_it() {
    for database in databases().await {
        let store = database.store().await;
        for at in 0..10 {
            submit(&store, &format!("huge {at}"), 50).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for at in 0..10 {
            assert_eq!(
                claim(&store, LONG).await.unwrap().job,
                format!("huge {at}"),
                "{}: one turn each",
                database.name
            );
        }
        submit(&store, "small", 2).await;
        assert_eq!(
            claim(&store, LONG).await.unwrap().job,
            "small",
            "{}",
            database.name
        );
        // It has one under way as they have, and its turn was the last.
        assert_eq!(
            claim(&store, LONG).await.unwrap().job,
            "huge 0",
            "{}",
            database.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_long_shards_gets_no_more_workers_than_one_with_short_ones() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "long", 50).await;
        let _held = [
            claim(&store, LONG).await.unwrap(),
            claim(&store, LONG).await.unwrap(),
        ];
        submit(&store, "short", 50).await;
        for _ in 0..5 {
            let lease = claim(&store, LONG).await.unwrap();
            assert_eq!(lease.job, "short", "{}", database.name);
            store.ack(&lease, &result(&lease)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    // A lease that ran out is no work under way.
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "frozen", 5).await;
        claim_and_freeze(&store).await;
        submit(&store, "new", 5).await;
        assert_eq!(
            claim(&store, LONG).await.unwrap().job,
            "frozen",
            "{}: it came first",
            database.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_keep_coming_do_not_keep_an_old_one_waiting() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "old", 50).await;
        let mut turns = 0;
        for at in 0..12 {
            let lease = claim(&store, LONG).await.unwrap();
            turns += usize::from(lease.job == "old");
            store.ack(&lease, &result(&lease)).await.unwrap();
            // Two come for each one that is worked on.
            for new in 0..2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                submit(&store, &format!("new {at} {new}"), 1).await;
            }
        }
        assert!(turns >= 3, "{}: {turns} turns of 12", database.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_are_open_than_are_allowed() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        submit(&store, "two", 1).await;
        claim(&store, LONG).await.unwrap();
        assert_eq!(
            store.submit(&new_job("three", 1), 2).await.unwrap(),
            Submitted::Full,
            "{}",
            database.name
        );
        assert_eq!(store.job("three").await.unwrap(), None);
        store.cancel("two").await.unwrap();
        assert!(matches!(
            store.submit(&new_job("three", 1), 2).await.unwrap(),
            Submitted::New(_)
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failures_leave_behind_is_bounded() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        let lease = claim(&store, LONG).await.unwrap();
        store
            .fail(&lease, &"ü".repeat(1 << 19), None)
            .await
            .unwrap();
        let job = store.job("one").await.unwrap().unwrap();
        assert!(job.error.unwrap().len() < 1020, "{}", database.name);
        assert!(store.errors("one", 9).await.unwrap()[0].error.len() < 1004);
        let events = store.events("one", 0, 9).await.unwrap();
        assert!(
            events
                .iter()
                .all(|event| event.payload.to_string().len() < 1100),
            "{events:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_shards_go_when_the_job_has_its_own() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 2).await;
        let reduction = work_off(&store).await;
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: running, 2 of 2 shards, 20 units
            shard 0: succeeded, 10 of 10 units, with a result
            shard 1: succeeded, 10 of 10 units, with a result
            reduction: running, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: progress {"done":10,"total":20,"shards_done":1,"shards":2}
            event 4: progress {"done":20,"total":20,"shards_done":2,"shards":2}
            "#);
        }
        store.finish(&reduction, &json!(7)).await.unwrap();
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: succeeded, 2 of 2 shards, 20 units, with a result
            shard 0: succeeded, 10 of 10 units
            shard 1: succeeded, 10 of 10 units
            reduction: succeeded, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: progress {"done":10,"total":20,"shards_done":1,"shards":2}
            event 4: progress {"done":20,"total":20,"shards_done":2,"shards":2}
            event 5: state {"state":"succeeded"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_needs_the_one_before_is_leased_when_that_is_done() {
    for database in databases().await {
        let store = database.store().await;
        submit_in_order(&store, "one", 4).await;
        // While shard 0 is running, given back, waiting for its next attempt and lost, nobody gets
        // another one.
        let lease = claim(&store, LONG).await.unwrap();
        assert_eq!(
            (lease.shard.index, claim(&store, LONG).await),
            (0, None),
            "{}",
            database.name
        );
        store.release(&lease).await.unwrap();
        let lease = claim(&store, LONG).await.unwrap();
        assert_eq!(lease.shard.index, 0);
        store.fail(&lease, "full", Some(200)).await.unwrap();
        assert_eq!(claim(&store, LONG).await, None);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let late = claim_and_freeze(&store).await;
        let lease = claim(&store, LONG).await.unwrap();
        assert_eq!((late.shard.index, lease.shard.index), (0, 0));
        assert_eq!(
            store.ack(&late, &"late".into()).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(claim(&store, LONG).await, None);
        store.ack(&lease, &result(&lease)).await.unwrap();
        for shard in 1..4 {
            let leased = join_all((0..4).map(|_| claim(&store, LONG))).await;
            let leased: Vec<Lease> = leased.into_iter().flatten().collect();
            assert_eq!(
                leased
                    .iter()
                    .map(|lease| lease.shard.index)
                    .collect::<Vec<_>>(),
                [shard],
                "{}",
                database.name
            );
            if shard == 2 {
                let left = database.snapshot("one").await;
                insta::allow_duplicates! {
                    insta::assert_snapshot!(left, @r#"
                    job: running, 2 of 4 shards, 40 units
                    shard 0: succeeded, 10 of 10 units, failures: 1, with a result
                    shard 1: succeeded, 10 of 10 units, with a result
                    shard 2: running, 0 of 10 units
                    shard 3: waiting, 0 of 10 units
                    reduction: waiting, 0 of 0 units
                    event 1: state {"state":"queued"}
                    event 2: state {"state":"running"}
                    event 3: shard {"shard":0,"failures":1,"error":"full","retried":true}
                    event 4: progress {"done":10,"total":40,"shards_done":1,"shards":4}
                    event 5: progress {"done":20,"total":40,"shards_done":2,"shards":4}
                    "#);
                }
            }
            store.ack(&leased[0], &result(&leased[0])).await.unwrap();
        }
        let reduction = claim(&store, LONG).await.unwrap();
        assert!(reduction.reduces);
        store.finish(&reduction, &json!(7)).await.unwrap();
        assert_eq!(state(&store, "one").await, JobState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_shards_of_a_chain_wait_for_one_another() {
    for database in databases().await {
        let store = database.store().await;
        // Two chains: 0, 1 and 2, 3.
        let mut job = new_job("one", 4);
        for at in [1, 3] {
            job.shards[at].needs_previous = true;
        }
        store.submit(&job, MANY).await.unwrap();
        let [first, second, none] = [(); 3].map(|()| claim(&store, LONG));
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!(
            (first.shard.index, second.shard.index, none.await),
            (0, 2, None),
            "{}",
            database.name
        );
        store.ack(&second, &result(&second)).await.unwrap();
        let third = claim(&store, LONG).await.unwrap();
        assert_eq!((third.shard.index, claim(&store, LONG).await), (3, None));
        store.ack(&third, &result(&third)).await.unwrap();
        assert_eq!(claim(&store, LONG).await, None);
        store.ack(&first, &result(&first)).await.unwrap();
        let last = claim(&store, LONG).await.unwrap();
        assert_eq!((last.shard.index, claim(&store, LONG).await), (1, None));
        store.ack(&last, &result(&last)).await.unwrap();
        assert!(claim(&store, LONG).await.unwrap().reduces);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_job_in_order_ends_its_waiting_shards_too() {
    for database in databases().await {
        let store = database.store().await;
        submit_in_order(&store, "failed", 3).await;
        let lease = claim(&store, LONG).await.unwrap();
        store.fail(&lease, "the loss is NaN", None).await.unwrap();
        submit_in_order(&store, "cancelled", 3).await;
        let lease = claim(&store, LONG).await.unwrap();
        store.cancel("cancelled").await.unwrap();
        assert_eq!(
            store.ack(&lease, &result(&lease)).await.unwrap(),
            Acked::Refused,
            "{}",
            database.name
        );
        assert_eq!(claim(&store, LONG).await, None);
        assert_eq!(state(&store, "failed").await, JobState::Failed);
        assert_eq!(state(&store, "cancelled").await, JobState::Cancelled);
        assert!(store.delete("failed").await.unwrap());
        assert_eq!(database.snapshot("failed").await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_worker_changes_nothing() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        let late = claim_and_freeze(&store).await;
        let lease = claim(&store, LONG).await.unwrap();
        assert_eq!(lease.shard, late.shard);
        let before = database.snapshot("one").await;
        assert_eq!(
            store.renew(&late, LONG, 3).await.unwrap(),
            Renewed::Over,
            "{}",
            database.name
        );
        assert_eq!(
            store.ack(&late, &"late".into()).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(
            store.fail(&late, "late", None).await.unwrap(),
            Acked::Refused
        );
        store.release(&late).await.unwrap();
        assert_eq!(database.snapshot("one").await, before, "{}", database.name);
        assert_eq!(store.renew(&lease, LONG, 3).await.unwrap(), Renewed::Kept);
        assert_eq!(store.job("one").await.unwrap().unwrap().units_done, 3);
        assert_eq!(
            store.ack(&lease, &result(&lease)).await.unwrap(),
            Acked::Written
        );
        let before = database.snapshot("one").await;
        assert_eq!(
            store.ack(&late, &"late".into()).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(
            store.ack(&lease, &"twice".into()).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(database.snapshot("one").await, before, "{}", database.name);
        assert_eq!(
            store.results("one", 0, 100).await.unwrap(),
            [(0, Bytes::from("result of 0"))]
        );
        let late = claim_and_freeze(&store).await;
        let reduction = claim(&store, LONG).await.unwrap();
        assert!(late.reduces && reduction.reduces);
        assert_eq!(
            store.finish(&late, &json!("late")).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(
            store.finish(&reduction, &json!("in time")).await.unwrap(),
            Acked::Written
        );
        assert_eq!(
            store.finish(&late, &json!("late")).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(store.result("one").await.unwrap(), Some(json!("in time")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_fails_waits_and_is_tried_again_and_at_last_fails_its_job() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 2).await;
        let good = claim(&store, LONG).await.unwrap();
        store.ack(&good, &result(&good)).await.unwrap();
        let lease = claim(&store, LONG).await.unwrap();
        store.fail(&lease, "full", Some(LONG)).await.unwrap();
        assert_eq!(
            claim(&store, LONG).await,
            None,
            "{}: it waits",
            database.name
        );
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: running, 1 of 2 shards, 20 units
            shard 0: succeeded, 10 of 10 units, with a result
            shard 1: queued, 0 of 10 units, failures: 1, error: full
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: progress {"done":10,"total":20,"shards_done":1,"shards":2}
            event 4: shard {"shard":1,"failures":1,"error":"full","retried":true}
            "#);
        }
        let errors = store.errors("one", 10).await.unwrap();
        assert_eq!(
            (
                errors[0].shard,
                errors[0].failures,
                errors[0].error.as_str()
            ),
            (1, 1, "full")
        );
        submit(&store, "two", 1).await;
        for _ in 0..MAX_FAILURES {
            let lease = claim(&store, LONG).await.unwrap();
            assert_eq!(lease.job, "two");
            assert_eq!(
                store.fail(&lease, "full", Some(0)).await.unwrap(),
                Acked::Written
            );
        }
        assert_eq!(claim(&store, LONG).await, None);
        let left = database.snapshot("two").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: failed, 0 of 1 shards, 10 units, error: shard 0: full
            shard 0: failed, 0 of 10 units, failures: 5, error: full
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: shard {"shard":0,"failures":1,"error":"full","retried":true}
            event 4: shard {"shard":0,"failures":2,"error":"full","retried":true}
            event 5: shard {"shard":0,"failures":3,"error":"full","retried":true}
            event 6: shard {"shard":0,"failures":4,"error":"full","retried":true}
            event 7: shard {"shard":0,"failures":5,"error":"full","retried":false}
            event 8: state {"state":"failed","error":"shard 0: full"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_better_fails_its_job_at_once_and_keeps_what_was_done() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 3).await;
        let [good, bad, open] = [
            claim(&store, LONG),
            claim(&store, LONG),
            claim(&store, LONG),
        ];
        let (good, bad, open) = (good.await.unwrap(), bad.await.unwrap(), open.await.unwrap());
        store.ack(&good, &result(&good)).await.unwrap();
        assert_eq!(
            store.fail(&bad, "the model is gone", None).await.unwrap(),
            Acked::Written
        );
        assert_eq!(store.renew(&open, LONG, 0).await.unwrap(), Renewed::Over);
        assert_eq!(
            store.ack(&open, &result(&open)).await.unwrap(),
            Acked::Refused
        );
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: failed, 1 of 3 shards, 30 units, error: shard 1: the model is gone
            shard 0: succeeded, 10 of 10 units, with a result
            shard 1: failed, 0 of 10 units, failures: 1, error: the model is gone
            shard 2: running, 0 of 10 units
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: progress {"done":10,"total":30,"shards_done":1,"shards":3}
            event 4: shard {"shard":1,"failures":1,"error":"the model is gone","retried":false}
            event 5: state {"state":"failed","error":"shard 1: the model is gone"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_kills_its_workers_fails_its_job_in_the_end() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        for _ in 0..MAX_LOSSES {
            claim_and_freeze(&store).await;
        }
        assert_eq!(claim(&store, LONG).await, None);
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: failed, 0 of 1 shards, 10 units, error: the worker of shard 0 vanished 20 times
            shard 0: failed, 0 of 10 units, error: the worker of shard 0 vanished 20 times
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: state {"state":"failed","error":"the worker of shard 0 vanished 20 times"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_given_back_is_taken_at_once_and_counts_as_no_failure() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        for _ in 0..2 * MAX_LOSSES {
            let lease = claim(&store, LONG).await.unwrap();
            store.release(&lease).await.unwrap();
        }
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: running, 0 of 1 shards, 10 units
            shard 0: queued, 0 of 10 units
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_takes_nothing_more_and_stays_cancelled() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 2).await;
        let lease = claim(&store, LONG).await.unwrap();
        assert!(store.cancel("one").await.unwrap());
        assert!(!store.cancel("one").await.unwrap() && !store.cancel("nobody").await.unwrap());
        assert_eq!(
            store.renew(&lease, LONG, 0).await.unwrap(),
            Renewed::Over,
            "{}",
            database.name
        );
        assert_eq!(
            store.ack(&lease, &result(&lease)).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(
            store.fail(&lease, "late", None).await.unwrap(),
            Acked::Refused
        );
        assert_eq!(claim(&store, LONG).await, None);
        let left = database.snapshot("one").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(left, @r#"
            job: cancelled, 0 of 2 shards, 20 units
            shard 0: running, 0 of 10 units
            shard 1: queued, 0 of 10 units
            reduction: waiting, 0 of 0 units
            event 1: state {"state":"queued"}
            event 2: state {"state":"running"}
            event 3: state {"state":"cancelled"}
            "#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_take_only_the_kinds_that_they_know() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 1).await;
        assert_eq!(
            store.claim("old", &["sums", "um"], LONG).await.unwrap(),
            None,
            "{}",
            database.name
        );
        assert!(
            store
                .claim("new", &["other", "sum"], LONG)
                .await
                .unwrap()
                .is_some()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged_from_the_newest() {
    for database in databases().await {
        let store = database.store().await;
        for id in ["a", "b", "c", "d"] {
            submit(&store, id, 1).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        store.cancel("b").await.unwrap();
        store.cancel("d").await.unwrap();
        let ids = async |filter: Filter| {
            let filter = if filter.limit == 0 {
                Filter {
                    limit: 10,
                    ..filter
                }
            } else {
                filter
            };
            store
                .jobs(&filter)
                .await
                .unwrap()
                .into_iter()
                .map(|job| job.id)
                .collect::<Vec<_>>()
                .concat()
        };
        let filter = Filter::default;
        assert_eq!(ids(filter()).await, "dcba", "{}", database.name);
        assert_eq!(
            ids(Filter {
                state: Some(JobState::Cancelled),
                ..filter()
            })
            .await,
            "db"
        );
        assert_eq!(
            ids(Filter {
                kind: Some("other".into()),
                ..filter()
            })
            .await,
            ""
        );
        assert_eq!(
            ids(Filter {
                kind: Some("sum".into()),
                model: Some("tiny".into()),
                ..filter()
            })
            .await,
            "dcba"
        );
        assert_eq!(
            ids(Filter {
                limit: 2,
                ..filter()
            })
            .await,
            "dc"
        );
        assert_eq!(
            ids(Filter {
                limit: 2,
                after: Some("c".into()),
                ..filter()
            })
            .await,
            "ba"
        );
        assert_eq!(
            ids(Filter {
                after: Some("a".into()),
                ..filter()
            })
            .await,
            ""
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_are_forgotten_after_their_time_and_running_ones_never() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "running", 1).await;
        claim(&store, LONG).await.unwrap();
        submit(&store, "ended", 1).await;
        store.cancel("ended").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(
            store.outdated(0, MANY).await.unwrap(),
            ["ended"],
            "{}",
            database.name
        );
        assert_eq!(store.outdated(LONG, MANY).await.unwrap(), [""; 0]);
        for id in ["later", "last"] {
            submit(&store, id, 1).await;
            store.cancel(id).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            store.outdated(LONG, 1).await.unwrap(),
            ["ended", "later"],
            "the last one is kept"
        );
        assert_eq!(store.outdated(LONG, 3).await.unwrap(), [""; 0]);
        assert!(store.delete("ended").await.unwrap() && !store.delete("ended").await.unwrap());
        assert_eq!(store.job("ended").await.unwrap(), None);
        assert_eq!(store.events("ended", 0, 10).await.unwrap(), []);
        assert_eq!(state(&store, "running").await, JobState::Running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_again_on_what_it_holds() {
    for database in databases().await {
        submit(&database.store().await, "one", 1).await;
        let again = join_all((0..4).map(|_| database.store())).await;
        for store in again {
            assert_eq!(
                state(&store, "one").await,
                JobState::Queued,
                "{}",
                database.name
            );
            store.check().await.unwrap();
            store.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_of_the_shards_that_are_done() {
    for database in databases().await {
        let store = database.store().await;
        submit(&store, "one", 50).await;
        let rate = async || {
            store
                .rate(&store.job("one").await.unwrap().unwrap())
                .await
                .unwrap()
        };
        assert_eq!(rate().await, None);
        for _ in 0..40 {
            let lease = claim(&store, LONG).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.ack(&lease, &result(&lease)).await.unwrap();
        }
        let found = rate().await.unwrap();
        assert!(
            found > 0.0 && found < 10_000.0,
            "{}: {found}",
            database.name
        );
        store.cancel("one").await.unwrap();
        assert_eq!(rate().await, None);
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told() {
    let data = tempfile::tempdir().unwrap();
    let nowhere = format!(
        "postgres://explaind@localhost/x?host={}",
        data.path().display()
    );
    let error = Store::open(Some(&nowhere), data.path())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("the database of jobs"), "{error}");
    let file = data.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let error = Store::open(None, &file.join("data"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("--data"), "{error}");
}
