//! `explaind jobs`: lists the jobs of a server, cancels them and downloads their reports.

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use explaind::{
    faults::{Fault, Faults},
    jobs::Format,
    text::excerpt,
};
use reqwest::{Client, Method, Response};
use serde_json::Value;

use super::say;

#[derive(Args)]
pub(crate) struct Jobs {
    #[command(subcommand)]
    action: Action,
    /// Where the server answers
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
}

#[derive(Subcommand)]
enum Action {
    /// List the jobs, the newest first
    List {
        /// Only jobs in this state: queued, running, succeeded, failed, cancelled
        #[arg(long)]
        state: Option<String>,
        /// Only jobs of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only jobs about this model
        #[arg(long)]
        model: Option<String>,
    },
    /// Print all that is known of a job, as JSON
    Show { id: String },
    /// Cancel a job; what is done stays
    Cancel { id: String },
    /// Download the report of a job (partial while it runs)
    Report {
        id: String,
        /// json, csv, html, svg, png, zip, tidy.csv or tidy.jsonl, as far as the kind has it
        /// [default: by the output's name, else the kind's first]
        #[arg(long)]
        format: Option<String>,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

impl Jobs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Runtime::new()?.block_on(self.ask())
    }

    async fn ask(self) -> anyhow::Result<()> {
        let server = Server {
            url: self.server.trim_end_matches('/').to_owned(),
            client: Client::new(),
        };
        match self.action {
            Action::List { state, kind, model } => {
                let filters = [("state", state), ("kind", kind), ("model", model)];
                let filters = filters
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect();
                server.list(filters).await
            }
            Action::Show { id } => print(&server.json(Method::GET, &["jobs", &id]).await?),
            Action::Cancel { id } => {
                print(&server.json(Method::POST, &["jobs", &id, "cancel"]).await?)
            }
            Action::Report { id, format, output } => server.report(&id, format, output).await,
        }
    }
}

struct Server {
    url: String,
    client: Client,
}

impl Server {
    /// Sends a request; a problem+json response becomes an error with its text.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> anyhow::Result<Response> {
        let mut url =
            reqwest::Url::parse(&self.url).with_context(|| format!("--server {}", self.url))?;
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("--server {} is no address", self.url))?
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let response = self
            .client
            .request(method, url)
            .send()
            .await
            .with_context(|| format!("asking {}", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await?;
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let refused = problem["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|error| {
                let allowed: Vec<String> = error["allowed"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(text_of)
                    .collect();
                Fault::new(
                    text_of(&error["param"]),
                    text_of(&error["message"]),
                    allowed,
                )
            });
        let faults = Faults::from_iter(refused);
        match problem["detail"].as_str() {
            Some(_) if !faults.is_empty() => Err(faults.into()),
            Some(detail) => bail!("{detail}"),
            None => bail!("{} answered {status}: {}", self.url, excerpt(&text)),
        }
    }

    async fn json(&self, method: Method, path: &[&str]) -> anyhow::Result<Value> {
        Ok(self.ask(method, path, &[]).await?.json().await?)
    }

    /// Lists all pages.
    async fn list(&self, filters: Vec<(&str, String)>) -> anyhow::Result<()> {
        let mut after = None;
        let mut head = Some(format!(
            "{:36}  {:16}  {:20}  {:9}  done",
            "id", "kind", "model", "state"
        ));
        loop {
            let query: Vec<_> = filters
                .iter()
                .cloned()
                .chain(after.map(|id| ("after", id)))
                .collect();
            let page: Value = self
                .ask(Method::GET, &["jobs"], &query)
                .await?
                .json()
                .await?;
            if let Some(head) = head.take() {
                say(head)?;
            }
            for job in page["jobs"].as_array().into_iter().flatten() {
                let text = |name: &str| job[name].as_str().unwrap_or("-").to_owned();
                let (id, kind, model, state) =
                    (text("id"), text("kind"), text("model"), text("state"));
                let done = format!("{}/{}", job["done"], job["total"]);
                say(format_args!(
                    "{id:36}  {kind:16}  {model:20}  {state:9}  {done}"
                ))?;
            }
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn report(
        &self,
        id: &str,
        format: Option<String>,
        output: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        let by_name = || {
            let name = output.as_ref()?.file_name()?.to_str()?;
            let extension = Path::new(name).extension().and_then(|end| end.to_str());
            Format::of_file(name)
                .map(Format::name)
                .or(extension)
                .map(str::to_owned)
        };
        let query: Vec<_> = format
            .or_else(by_name)
            .map(|format| ("format", format))
            .into_iter()
            .collect();
        let mut response = self
            .ask(Method::GET, &["jobs", id, "report"], &query)
            .await?;
        let mut sink: Box<dyn Write> = match &output {
            Some(path) => {
                Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?)
            }
            None => Box::new(stdout()),
        };
        while let Some(part) = response.chunk().await? {
            sink.write_all(&part)?;
        }
        Ok(sink.flush()?)
    }
}

fn print(value: &Value) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}
