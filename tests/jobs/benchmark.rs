//! Evaluations in the real server, which is killed at random moments; and in two workers on
//! PostgreSQL, of which one is killed and one frozen past its lease. The reports are those of an
//! undisturbed run, byte for byte.

use std::{path::Path, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::{
    databases::{TestDatabase, postgres, sqlite},
    processes::{Signal, send},
    served::{Served, benchmark, evaluation, material},
};

/// All reports of a job that has ended well, after a look at what was counted.
async fn reports(server: &Served, id: &str) -> Vec<String> {
    let job = server.reach(id, |job| job["state"] == "succeeded").await;
    assert_eq!(
        (&job["done"], &job["shards_done"]),
        (&job["total"], &job["shards"])
    );
    let events = server.text(&format!("/jobs/{id}/events")).await;
    let counted: Vec<u64> = events
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok()?["shards_done"].as_u64()
        })
        .collect();
    assert_eq!(
        counted,
        (1..=job["shards"].as_u64().unwrap()).collect::<Vec<_>>(),
        "each shard is counted once"
    );
    let mut reports = Vec::new();
    for format in job["formats"].as_array().unwrap() {
        let format = format.as_str().unwrap();
        if format == "png" {
            // The drawing of the svg.
            continue;
        }
        let report = server
            .text(&format!("/jobs/{id}/report?format={format}"))
            .await;
        // The page alone tells when the job ended, on a line of its own.
        reports.push(
            report
                .lines()
                .filter(|line| !line.contains("<time>"))
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    reports
}

/// The reports of an undisturbed run in a server that is then killed ten times at random moments
/// while it works on the same request: they are the same.
pub async fn kill_ten_times(material: &Path, request: &Value) -> Vec<String> {
    let database = sqlite();
    let server = Served::start(material, &database, "all");
    let undisturbed = server.submit(request).await;
    let expected = reports(&server, &undisturbed).await;
    server.kill();

    let database = sqlite();
    let mut server = Served::start(material, &database, "all");
    let id = server.submit(request).await;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut hit = 0;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        hit += usize::from(server.job(&id).await["state"] == "running");
        server.kill();
        server = Served::start(material, &database, "all");
    }
    assert!(reports(&server, &id).await == expected, "killed ten times");
    assert!(hit > 0, "every kill came too late");
    server.kill();
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_by_several_metrics_disturbed_by_kills_gives_the_undisturbed_report() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    kill_ten_times(material().path(), &evaluation()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_disturbed_by_kills_and_freezes_gives_the_undisturbed_report() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let material = material();
    let expected = kill_ten_times(material.path(), &benchmark()).await;

    let database = postgres().await;
    let start =
        |database: &TestDatabase, role: &str| Served::start(material.path(), database, role);
    let [api, killed, frozen] = ["api", "worker", "worker"].map(|role| start(&database, role));
    let id = api.submit(&benchmark()).await;
    api.reach(&id, |job| job["shards_done"].as_u64() >= Some(3))
        .await;
    killed.kill();
    send(frozen.id(), Signal::Stop);
    let fresh = start(&database, "worker");
    let total = api.job(&id).await["shards"].as_u64().unwrap();
    api.reach(&id, |job| job["shards_done"].as_u64() >= Some(total - 1))
        .await;
    send(frozen.id(), Signal::Continue);
    assert!(
        reports(&api, &id).await == expected,
        "one worker killed, one frozen"
    );
    [api, fresh, frozen].into_iter().for_each(Served::kill);
}
