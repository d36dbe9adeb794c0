//! The whole state of a job as text: the job, its shards and its events, a line each, without
//! times, tokens and losses. The same on both databases.

use std::fmt::Write;

use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::databases::TestDatabase;

type JobRow = (String, i64, i64, i64, Option<String>, Option<String>);
type ShardRow = (String, i64, i64, i64, Option<String>, Option<Vec<u8>>);

impl TestDatabase {
    /// Empty where no job has this id.
    pub async fn snapshot(&self, id: &str) -> String {
        macro_rules! select {
            ($connection:expr, $sql:literal) => {
                sqlx::query_as($sql)
                    .bind(id)
                    .fetch_all($connection)
                    .await
                    .unwrap()
            };
        }
        macro_rules! read {
            ($connection:expr) => {
                (
                    select!($connection, "SELECT state, shards_done, shards, units, error, result FROM jobs WHERE id = $1"),
                    select!($connection, "SELECT state, units_done, units, failures, error, result FROM shards WHERE job_id = $1 ORDER BY idx"),
                    select!($connection, "SELECT seq, kind, payload FROM job_events WHERE job_id = $1 ORDER BY seq"),
                )
            };
        }
        let (jobs, shards, events) = match &self.url {
            Some(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                read!(&mut connection)
            }
            None => {
                let file = format!(
                    "sqlite://{}",
                    self.data.path().join("jobs.sqlite").display()
                );
                let mut connection = SqliteConnection::connect(&file).await.unwrap();
                read!(&mut connection)
            }
        };
        write(jobs, shards, events)
    }
}

fn write(jobs: Vec<JobRow>, shards: Vec<ShardRow>, events: Vec<(i64, String, String)>) -> String {
    let mut text = String::new();
    let mut whole = 0;
    for (state, done, shards, units, error, result) in jobs {
        whole = shards as usize;
        write!(
            text,
            "job: {state}, {done} of {shards} shards, {units} units"
        )
        .unwrap();
        end(&mut text, error, result.is_some());
    }
    for (at, (state, done, units, failures, error, result)) in shards.into_iter().enumerate() {
        let name = match at {
            at if at == whole => "reduction".to_owned(),
            at => format!("shard {at}"),
        };
        write!(text, "{name}: {state}, {done} of {units} units").unwrap();
        if failures > 0 {
            write!(text, ", failures: {failures}").unwrap();
        }
        end(&mut text, error, result.is_some());
    }
    for (seq, kind, payload) in events {
        writeln!(text, "event {seq}: {kind} {payload}").unwrap();
    }
    text
}

fn end(text: &mut String, error: Option<String>, has_result: bool) {
    if has_result {
        *text += ", with a result";
    }
    if let Some(error) = error {
        *text += &format!(", error: {error}");
    }
    *text += "\n";
}
