//! /jobs over HTTP, with a kind of job that echoes what it is asked.

use std::{fs, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use explaind::{
    api::{Api, router},
    app::App,
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Kinds, Plan, PlannedShard, Report, Results, Shard,
        ShardResults, WorkError,
        queue::Queue,
        registry,
        runner::{Runner, Shutdown},
        watch::MAX_FOLLOWERS,
    },
};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::{
    client::{Answered, get, post, post_as, post_json, send_to, with},
    fixture::{open, red},
};

static KINDS: Kinds = &[&Echo];

/// Its result is `word`, once for each of `shards`; with `hold` they wait until they are stopped,
/// and with `gone` they fail for good.
struct Echo;

impl Kind for Echo {
    fn id(&self) -> &'static str {
        "echo"
    }

    fn doc(&self) -> &'static str {
        "says a word again"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    fn plan<'a>(
        &'a self,
        asked: Map<String, Value>,
        _: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            if !asked.get("word").is_some_and(Value::is_string) {
                let fault = |param: &str| Fault {
                    param: param.into(),
                    message: "is wrong".into(),
                    allowed: vec![],
                };
                return Err(Faults::from_iter([fault("word"), fault("shards")]).into());
            }
            let shards = asked.get("shards").and_then(Value::as_u64).unwrap_or(1);
            let shards = (0..shards)
                .map(|_| PlannedShard {
                    units: 2,
                    payload: Value::Null,
                    needs_previous: false,
                })
                .collect();
            Ok(Plan {
                spec: Value::Object(asked),
                model: Some("tiny".into()),
                shards,
            })
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        _: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            if context.spec["hold"] == true {
                context.caller.cancel.cancelled().await;
            }
            if context.spec["gone"] == true {
                return Err(WorkError::permanent("it is gone"));
            }
            Ok(context.spec["word"].to_string().into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let word = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let words: Vec<Option<String>> = results.map(|one| one.map(word)).collect();
        Ok(json!({ "words": words }))
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            context
                .files()
                .write(&context.folder().join("words.zip"), reduced.to_string())
                .await?;
            Ok(reduced)
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Json, Format::Html, Format::Zip]
    }

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        Ok(match format {
            Format::Html => Report::Bytes(format!("<p>{}", result["words"]).into()),
            Format::Zip => Report::File(
                format!("jobs/{}/words.zip", spec["id"].as_str().unwrap_or("none")).into(),
            ),
            _ => Report::Bytes(result.to_string().into()),
        })
    }
}

/// A service whose jobs are worked on until it is dropped.
struct Shop {
    api: Api,
    router: Router,
    working: JoinHandle<()>,
    _data: TempDir,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.working.abort();
    }
}

fn shop() -> Shop {
    shop_with(&[])
}

/// The same with settings of its own.
fn shop_with(changes: &[(&str, &str)]) -> Shop {
    let data = tempfile::tempdir().unwrap();
    let own = [("data", data.path().to_str().unwrap()), ("lease_ms", "500")];
    let service = open(
        &own.into_iter()
            .chain(changes.iter().copied())
            .collect::<Vec<_>>(),
    );
    let queue = Queue::new(service.app, KINDS);
    let api = Api::with_jobs(queue.clone()).unwrap();
    let working = tokio::spawn(async move { Runner::new(queue).run(&Shutdown::default()).await });
    Shop {
        router: router(api.clone()),
        api,
        working,
        _data: data,
    }
}

impl Shop {
    async fn send(&self, request: Request<Body>) -> Answered {
        send_to(&self.router, request).await
    }

    /// The id of a new job.
    async fn start(&self, fields: Value) -> String {
        let answer = self.send(post_json("/jobs", &echo(fields))).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(
            answer.header("location"),
            Some(format!("/jobs/{id}").as_str())
        );
        id
    }

    async fn reach(&self, id: &str, state: &str) -> Value {
        for _ in 0..1000 {
            let job = self.send(get(&format!("/jobs/{id}"))).await.answer();
            if job["state"] == state {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{id} never was {state}");
    }
}

fn echo(fields: Value) -> Value {
    let mut asked = json!({ "kind": "echo", "word": "hello" });
    asked
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    asked
}

/// id, event and data of each server-sent event.
fn events(answer: &Answered) -> Vec<(u64, String, Value)> {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, Some("text/event-stream"))
    );
    let read = |block: &str| {
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        let data = serde_json::from_str(&field("data:")).unwrap();
        (field("id:").parse().unwrap(), field("event:"), data)
    };
    answer
        .text()
        .split("\n\n")
        .filter(|block| block.contains("data:"))
        .map(read)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_started_followed_and_reported() {
    let shop = shop();
    let id = shop.start(json!({ "shards": 3 })).await;
    let followed = shop.send(get(&format!("/jobs/{id}/events"))).await;
    let followed = events(&followed);
    assert_eq!(
        followed.iter().map(|(id, ..)| *id).collect::<Vec<_>>(),
        (1..=6).collect::<Vec<_>>()
    );
    let names: Vec<_> = followed.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "state", "state", "progress", "progress", "progress", "state"
        ]
    );
    assert_eq!(
        (
            &followed[4].2["done"],
            &followed[4].2["total"],
            &followed[5].2["state"]
        ),
        (&json!(6), &json!(6), &json!("succeeded"))
    );

    let job = shop.reach(&id, "succeeded").await;
    assert_eq!(job["parameters"], json!({ "word": "hello", "shards": 3 }));
    assert_eq!(
        (&job["done"], &job["total"], &job["shards_done"]),
        (&json!(6), &json!(6), &json!(3))
    );
    assert_eq!(
        job["result"],
        json!({ "words": ["\"hello\"", "\"hello\"", "\"hello\""] })
    );
    assert_eq!(
        (&job["formats"], &job["errors"]),
        (&json!(["json", "html", "zip"]), &json!([]))
    );

    let again = with(get(&format!("/jobs/{id}/events")), "last-event-id", "4");
    assert_eq!(events(&shop.send(again).await), followed[4..]);

    let report = |accept: &str| with(get(&format!("/jobs/{id}/report")), "accept", accept);
    assert_eq!(shop.send(report("*/*")).await.json(), job["result"]);
    assert_eq!(
        shop.send(report("text/html,application/xhtml+xml;q=0.9"))
            .await
            .header("content-type"),
        Some("text/html")
    );
    let html = shop
        .send(with(
            get(&format!("/jobs/{id}/report?format=html")),
            "accept",
            "application/json",
        ))
        .await;
    assert!(html.text().starts_with("<p>"), "{}", html.text());
    assert_eq!(
        shop.send(report("image/png")).await.problem(),
        (406, "not_acceptable".into())
    );
    assert_eq!(
        shop.send(get(&format!("/jobs/{id}/report?format=pdf")))
            .await
            .refused(),
        ["format"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_may_be_a_file() {
    let shop = shop();
    let id = shop.start(json!({})).await;
    shop.reach(&id, "succeeded").await;
    let other = shop.start(json!({ "id": id })).await;
    shop.reach(&other, "succeeded").await;
    let answer = shop
        .send(get(&format!("/jobs/{other}/report?format=zip")))
        .await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::OK, "{\"words\":[\"\\\"hello\\\"\"]}".into())
    );
    assert_eq!(
        answer.header("content-disposition"),
        Some(format!("attachment; filename=\"echo-{other}.zip\"").as_str())
    );
    let missing = shop
        .send(get(&format!("/jobs/{id}/report?format=zip")))
        .await;
    assert_eq!(missing.problem(), (404, "no_such_file".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_starts_one_job() {
    let shop = shop();
    let ask = async |word: &str| {
        let request = post_json("/jobs", &echo(json!({ "word": word })));
        shop.send(with(request, "idempotency-key", "mine")).await
    };
    let (first, second) = (ask("a").await, ask("a").await);
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 202));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(
        ask("b").await.problem(),
        (422, "idempotency_key_taken".into())
    );
    for wrong in [" ", "a\tb", "a b", &"x".repeat(256)] {
        let request = with(
            post_json("/jobs", &echo(json!({}))),
            "idempotency-key",
            wrong,
        );
        assert_eq!(
            shop.send(request).await.refused(),
            ["idempotency-key"],
            "{wrong:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_cannot_be_asked_is_told_all_at_once() {
    let shop = shop();
    let unknown = shop
        .send(post_json("/jobs", &json!({ "kind": "ekko" })))
        .await;
    assert_eq!(unknown.refused(), ["kind"]);
    assert_eq!(unknown.allowed("kind"), ["echo"]);
    assert_eq!(
        shop.send(post_json("/jobs", &json!({ "kind": "echo", "word": 1 })))
            .await
            .refused(),
        ["shards", "word"]
    );
    assert_eq!(
        shop.send(post_json("/jobs", &json!({}))).await.refused(),
        ["kind"]
    );
    assert_eq!(
        shop.send(post_json("/jobs?kind=echo", &json!({})))
            .await
            .refused(),
        ["kind"]
    );
    for body in ["", "[]", "{", "word"] {
        let answer = shop.send(post_as("/jobs", "application/json", body)).await;
        assert_eq!(answer.problem(), (400, "broken_json".into()), "{body}");
    }
    let list = shop
        .send(get(
            "/jobs?state=done&kind=ecco&limit=0&model=tiny&sort=age",
        ))
        .await;
    assert_eq!(list.refused(), ["kind", "limit", "sort", "state"]);
    assert_eq!(list.allowed("kind"), ["echo"]);
    assert!(list.allowed("state").contains(&"failed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_small_json_with_each_field_once_starts_a_job() {
    let shop = shop();
    for (kind, status) in [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/x+json", 415),
        ("application/json; charset=utf-8", 202),
        ("Application/JSON", 202),
        ("application/vnd.us+json", 202),
    ] {
        let answer = shop
            .send(post_as("/jobs", kind, echo(json!({})).to_string()))
            .await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.text());
        assert!(
            status == 202 || answer.text().contains("send application/json"),
            "{}",
            answer.text()
        );
    }
    let untyped = Request::post("/jobs")
        .body(Body::from(echo(json!({})).to_string()))
        .unwrap();
    assert_eq!(
        shop.send(untyped).await.problem(),
        (415, "unsupported_media_type".into())
    );

    let twice = r#"{"kind":"echo","word":"a","kind":"echo","more":{"x":1,"x":2}}"#;
    assert_eq!(
        shop.send(post_as("/jobs", "application/json", twice))
            .await
            .refused(),
        ["kind", "x"]
    );
    let long = echo(json!({ "word": "x".repeat(1001) }));
    assert_eq!(
        shop.send(post_json("/jobs", &long)).await.refused(),
        ["word"]
    );

    // As large as it may be, and one byte more: announced, and in pieces.
    let padded = |bytes: usize| {
        let text = echo(json!({})).to_string();
        text.clone() + &" ".repeat(bytes - text.len())
    };
    assert_eq!(
        shop.send(post_as("/jobs", "application/json", padded(1 << 20)))
            .await
            .status,
        202
    );
    let announced = shop
        .send(post_as("/jobs", "application/json", padded((1 << 20) + 1)))
        .await;
    assert_eq!(announced.problem(), (413, "body_too_large".into()));
    assert!(announced.text().contains("1048576"), "{}", announced.text());
    let pieces =
        futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
    let endless = shop
        .send(post_as(
            "/jobs",
            "application/json",
            Body::from_stream(pieces),
        ))
        .await;
    assert_eq!(endless.problem(), (413, "body_too_large".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_until_jobs_have_ended() {
    let shop = shop_with(&[("max_jobs", "2")]);
    let ask = async || {
        shop.send(post_json("/jobs", &echo(json!({ "hold": true }))))
            .await
    };
    let first = ask().await;
    assert_eq!(
        (first.status.as_u16(), ask().await.status.as_u16()),
        (202, 202)
    );
    let refused = ask().await;
    assert_eq!(refused.problem(), (429, "too_many_jobs".into()));
    assert!(
        refused.header("retry-after").is_some() && refused.text().contains("2 jobs"),
        "{}",
        refused.text()
    );
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        shop.send(post(&format!("/jobs/{id}/cancel"), ""))
            .await
            .status,
        200
    );
    assert_eq!(ask().await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_is_full_takes_no_jobs() {
    let shop = shop_with(&[("max_data_bytes", "1")]);
    let refused = shop.send(post_json("/jobs", &echo(json!({})))).await;
    assert_eq!(refused.problem(), (507, "quota_exceeded".into()));
    assert!(
        refused.text().contains("max_data_bytes"),
        "{}",
        refused.text()
    );
    assert_eq!(shop.send(get("/jobs")).await.answer()["jobs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_events_are_counted_and_miss_nothing() {
    const SHARDS: u64 = 150;
    let shop = shop();
    let id = shop.start(json!({ "hold": true })).await;
    let read = |id: &str| {
        shop.router
            .clone()
            .oneshot(get(&format!("/jobs/{id}/events")))
    };
    let mut readers = Vec::new();
    for _ in 0..MAX_FOLLOWERS {
        let answer = read(&id).await.unwrap();
        assert_eq!(answer.status(), 200);
        readers.push(answer);
    }
    let refused = shop.send(get(&format!("/jobs/{id}/events"))).await;
    assert_eq!(refused.problem(), (429, "overloaded".into()));
    assert!(
        refused.header("retry-after").is_some()
            && refused.text().contains(&format!("{MAX_FOLLOWERS} readers")),
        "{}",
        refused.text()
    );

    // Those that do not read keep nobody waiting; one that comes late reads what was, and all read
    // to the end.
    readers.truncate(50);
    let many = shop.start(json!({ "shards": SHARDS })).await;
    let (early, slow) = (read(&many).await.unwrap(), read(&many).await.unwrap());
    let all = |answer: axum::response::Response| async {
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = events(&Answered {
            status: head.status,
            headers: head.headers,
            body,
        });
        seen.into_iter().map(|(id, ..)| id).collect::<Vec<_>>()
    };
    let expected: Vec<u64> = (1..=SHARDS + 3).collect();
    assert_eq!(all(early).await, expected);
    shop.reach(&many, "succeeded").await;
    assert_eq!(
        all(slow).await,
        expected,
        "its first event is no longer kept in memory"
    );
    assert_eq!(all(read(&many).await.unwrap()).await, expected);
    assert_eq!(
        shop.send(post(&format!("/jobs/{id}/cancel"), ""))
            .await
            .status,
        200
    );
    for reader in readers {
        assert_eq!(all(reader).await, [1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_not_there_is_404_everywhere() {
    let shop = shop();
    let gone = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap()
    };
    for (method, path) in [
        ("GET", "/jobs/x"),
        ("DELETE", "/jobs/x"),
        ("GET", "/jobs/x/events"),
        ("GET", "/jobs/x/report"),
        ("POST", "/jobs/x/cancel"),
    ] {
        assert_eq!(
            shop.send(gone(method, path)).await.problem(),
            (404, "unknown_job".into()),
            "{method} {path}"
        );
    }
    assert_eq!(
        shop.send(gone("PUT", "/jobs/x")).await.problem(),
        (405, "method_not_allowed".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_by_pages_cancelled_and_removed() {
    let shop = shop();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(shop.start(json!({ "hold": true })).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    ids.reverse();
    let page = async |query: &str| {
        let answer = shop.send(get(&format!("/jobs?{query}"))).await.answer();
        let ids: Vec<_> = answer["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, answer["next"].as_str().map(str::to_owned))
    };
    let (first, next) = page("limit=2&kind=echo&model=tiny").await;
    assert_eq!(
        (first.as_slice(), next.as_deref()),
        (&ids[..2], Some(ids[1].as_str()))
    );
    assert_eq!(
        page(&format!("limit=2&after={}", ids[1])).await,
        (ids[2..].to_vec(), None)
    );

    shop.reach(&ids[2], "running").await;
    let early = shop.send(get(&format!("/jobs/{}/report", ids[2]))).await;
    assert_eq!(early.problem(), (409, "nothing_to_report".into()));
    let cancelled = shop
        .send(post(&format!("/jobs/{}/cancel", ids[2]), ""))
        .await
        .answer();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(page("state=cancelled").await.0, ids[2..]);
    for id in &ids {
        let remove = || {
            Request::delete(format!("/jobs/{id}"))
                .body(Body::empty())
                .unwrap()
        };
        assert_eq!(shop.send(remove()).await.status, 204);
        assert_eq!(shop.send(remove()).await.status, 404);
    }
    assert_eq!(page("").await.0, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_says_where_and_why() {
    let shop = shop();
    let id = shop.start(json!({ "gone": true })).await;
    let job = shop.reach(&id, "failed").await;
    assert_eq!(job["error"], "shard 0: it is gone");
    assert_eq!(
        job["errors"],
        json!([{ "shard": 0, "state": "failed", "failures": 1, "error": "it is gone" }])
    );
    let told = events(&shop.send(get(&format!("/jobs/{id}/events"))).await);
    assert_eq!(told.last().unwrap().2["error"], "shard 0: it is gone");
    let wrong = with(get(&format!("/jobs/{id}/events")), "last-event-id", "last");
    assert_eq!(shop.send(wrong).await.refused(), ["last-event-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_events_end_with_the_server() {
    let shop = shop();
    let id = shop.start(json!({ "hold": true })).await;
    let (stream, ()) = tokio::join!(shop.send(get(&format!("/jobs/{id}/events"))), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shop.api.drain();
    });
    assert!(events(&stream).iter().all(|(_, name, _)| name == "state"));
    assert_eq!(
        shop.send(post_json("/jobs", &echo(json!({}))))
            .await
            .problem(),
        (503, "draining".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_jobs_are_503_and_the_rest_goes_on_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, "in the way").unwrap();
    let service = open(&[("data", data.to_str().unwrap())]);
    let router = router(Api::with_jobs(Queue::new(service.app, KINDS)).unwrap());
    let ask = async || send_to(&router, post_json("/jobs", &echo(json!({})))).await;
    let refused = ask().await;
    assert_eq!(refused.problem(), (503, "jobs_unavailable".into()));
    assert!(
        refused.header("retry-after").is_some() && refused.text().contains("--data"),
        "{}",
        refused.text()
    );
    assert!(
        !refused.text().contains(folder.path().to_str().unwrap()),
        "{}",
        refused.text()
    );
    assert_eq!(send_to(&router, get("/jobs")).await.problem().0, 503);
    assert_eq!(send_to(&router, post("/explain", red())).await.status, 200);
    let ready = send_to(&router, get("/readyz")).await.answer();
    let reason = ready["jobs_unavailable"].as_str().unwrap();
    assert!(
        reason.contains("--data") && !reason.contains(folder.path().to_str().unwrap()),
        "{ready}"
    );
    fs::remove_file(&data).unwrap();
    assert_eq!(ask().await.status, 202);
}

#[tokio::test]
async fn a_worker_answers_health_checks_alone() {
    let data = tempfile::tempdir().unwrap();
    let service = open(&[("role", "worker"), ("data", data.path().to_str().unwrap())]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            send_to(&service.router, get(path)).await.status,
            200,
            "{path}"
        );
    }
    let away = open(&[("role", "worker"), ("data", "/proc/nowhere")]);
    assert_eq!(
        send_to(&away.router, get("/readyz")).await.problem(),
        (503, "not_ready".into())
    );
    let document = send_to(&service.router, get("/openapi.json"))
        .await
        .answer();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/healthz", "/metrics", "/readyz"]);
}

#[tokio::test]
async fn what_is_documented_of_a_kind_is_a_parameter_of_it() {
    let data = tempfile::tempdir().unwrap();
    let app = open(&[("data", data.path().to_str().unwrap())]).app;
    for kind in registry::KINDS {
        let documented = kind.parameters().iter().map(|(name, _)| *name);
        for (name, is_known) in documented.map(|name| (name, true)).chain([("odd", false)]) {
            let asked = Map::from_iter([(name.to_owned(), json!({ "odd": 1 }))]);
            let Err(JobError::Parameters(faults)) = kind.plan(asked, &app).await else {
                panic!("{name} was taken")
            };
            let unknown =
                |fault: &Fault| fault.param == name && fault.message.contains("is not a parameter");
            assert_eq!(
                !faults.shown().iter().any(unknown),
                is_known,
                "{} {name}",
                kind.id()
            );
        }
    }
}
