//! A kind of job for the tests: numbers that follow from the seed and the shard, slowly if asked,
//! with faults if asked.

use std::{
    collections::HashMap,
    path::Path,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use explaind::{
    app::App,
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Kinds, Plan, PlannedShard, Report, Results, Shard,
        ShardResults, WorkError, queue::Queue,
    },
    settings::{Flags, load},
};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::databases::TestDatabase;

pub static KINDS: Kinds = &[&Sum];

/// `shards` numbers out of `seed_value`, `pause_ms` each, and their sum. `fault` is what goes wrong
/// in shard 1, `times` times: transient, permanent, panic. With `scribble` it writes files and nothing
/// else. With `in_order` each shard needs the one before. From the shard `gate` on, each waits for
/// the file [`GATE`] in the data folder.
pub struct Sum;

pub const GATE: &str = "gate";

/// How often each job has gone wrong in this process.
static FAULTS: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);

impl Kind for Sum {
    fn id(&self) -> &'static str {
        "sum"
    }

    fn doc(&self) -> &'static str {
        "adds numbers up"
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
            let shards = asked
                .get("shards")
                .and_then(Value::as_u64)
                .filter(|shards| (1..1000).contains(shards));
            let Some(shards) = shards else {
                let (message, allowed) =
                    ("is not a number of shards".into(), vec!["1..1000".into()]);
                return Err(Faults::from(Fault {
                    param: "shards".into(),
                    message,
                    allowed,
                })
                .into());
            };
            let mut spec = json!({ "seed_value": 0, "pause_ms": 0, "fault": null, "times": 0, "gate": null, "in_order": false });
            spec.as_object_mut().unwrap().extend(asked);
            let shards = (0..shards)
                .map(|at| PlannedShard {
                    units: 10,
                    payload: json!({ "at": at }),
                    needs_previous: spec["in_order"] == true,
                })
                .collect();
            Ok(Plan {
                spec,
                model: Some("none".into()),
                shards,
            })
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let spec = &context.spec;
            if spec["scribble"] == true {
                return scribble(context).await;
            }
            for step in 1..=10 {
                tokio::time::sleep(Duration::from_millis(spec["pause_ms"].as_u64().unwrap()) / 10)
                    .await;
                context.report_progress(step);
            }
            if spec["gate"]
                .as_u64()
                .is_some_and(|gate| shard.index as u64 >= gate)
            {
                wait_for_gate(context).await;
            }
            if shard.index == 1 && goes_wrong(&context.job, spec["times"].as_u64().unwrap()) {
                match spec["fault"].as_str() {
                    Some("transient") => return Err(WorkError::transient("out of luck")),
                    Some("permanent") => return Err(WorkError::permanent("the data set is gone")),
                    _ => panic!("on purpose"),
                }
            }
            Ok(number(&spec["seed_value"], shard)
                .to_le_bytes()
                .to_vec()
                .into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let read = |bytes: Bytes| f64::from_le_bytes(bytes.as_ref().try_into().unwrap());
        let numbers: Vec<Option<f64>> = results.map(|result| result.map(read)).collect();
        Ok(json!({ "numbers": numbers, "sum": numbers.iter().flatten().sum::<f64>() }))
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
                .write(
                    &context.folder().join("sum.txt"),
                    reduced["sum"].to_string(),
                )
                .await?;
            Ok(reduced)
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Json, Format::Csv]
    }

    fn report(&self, _: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        Ok(Report::Bytes(match format {
            Format::Csv => format!("sum\n{}\n", result["sum"]).into(),
            _ => result.to_string().into(),
        }))
    }
}

/// Writes files until it is stopped, and one more.
async fn scribble(context: &Context) -> Result<Bytes, WorkError> {
    for at in 0.. {
        let stopped = context.caller.cancel.is_cancelled();
        context
            .files()
            .write(&context.folder().join(format!("{at}")), "words")
            .await?;
        if stopped {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(WorkError::transient("stopped"))
}

async fn wait_for_gate(context: &Context) {
    let gate = context.app.settings().data.join(GATE);
    while !gate.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn goes_wrong(job: &str, times: u64) -> bool {
    let mut faults = FAULTS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let count = faults.entry(job.to_owned()).or_default();
    *count += 1;
    *count <= times
}

/// What a job of so many shards gives.
pub fn expected(seed: u64, shards: u64) -> Value {
    let shard = |at| Shard {
        index: at as usize,
        units: 10,
        payload: json!({ "at": at }),
    };
    let numbers: Vec<f64> = (0..shards)
        .map(|at| number(&json!(seed), &shard(at)))
        .collect();
    json!({ "numbers": numbers, "sum": numbers.iter().sum::<f64>() })
}

/// Anything that depends on all of the seed and the shard, between 0 and 1.
fn number(seed: &Value, shard: &Shard) -> f64 {
    let hash = Sha256::digest(format!("{seed} {} {}", shard.index, shard.payload));
    f64::from(u32::from_le_bytes(hash[..4].try_into().unwrap())) / f64::from(u32::MAX)
}

/// A queue of test kinds in a process without models.
pub fn queue(database: &TestDatabase, settings: &[(&'static str, &str)]) -> Queue {
    let url = database.url.as_deref().unwrap_or_default();
    queue_at(database.data.path(), url, settings)
}

/// The same, by the data folder and the URL of PostgreSQL, which is empty for SQLite.
pub fn queue_at(data: &Path, url: &str, settings: &[(&'static str, &str)]) -> Queue {
    let models = data.join("models");
    std::fs::create_dir_all(&models).unwrap();
    let mut values = vec![
        ("models", models.display().to_string()),
        ("data", data.display().to_string()),
        ("database", url.to_owned()),
        ("lease_ms", "600".to_owned()),
    ];
    values.extend(
        settings
            .iter()
            .map(|(name, text)| (*name, (*text).to_owned())),
    );
    Queue::new(start(values), KINDS)
}

pub fn start(values: impl IntoIterator<Item = (&'static str, String)>) -> App {
    let values = values
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text))
        .collect();
    let library = std::env::vars().filter(|(name, _)| name == "EXPLAIND_ONNXRUNTIME");
    App::start(
        load(
            &Flags {
                config: None,
                values,
            },
            library,
        )
        .unwrap(),
    )
    .unwrap()
}

pub fn ask(fields: Value) -> Map<String, Value> {
    let mut asked = json!({ "kind": "sum" });
    asked
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    asked.as_object().unwrap().clone()
}
