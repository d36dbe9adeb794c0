//! `explaind rerun`: makes the explanation of a bundle again, from what the bundle holds, and compares
//! the results byte by byte.

use std::{fs::File, path::PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use explaind::{
    app::{
        App,
        bundle::{ATTRIBUTION, Bundle, EXPLANATIONS, MadeBy, results},
        plan::RequestContext,
    },
    engine::{Caller, Priority},
    tensor::read_npy,
    text::shown,
};
use serde_json::Value;

use super::{Explains, ModelArgs, say, warn};

/// What of an answer is about the run and not about its result.
const OF_THE_RUN: &[&str] = &["timing_ms", "version"];

#[derive(Args)]
pub(crate) struct Rerun {
    /// A zip that POST /explain or `explaind explain` answered with format=bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    model: ModelArgs<Explains>,
}

impl Rerun {
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let path = || self.bundle.display().to_string();
        let bundle =
            Bundle::read(File::open(&self.bundle).with_context(path)?).with_context(path)?;
        let id = &bundle.manifest.model.id;
        self.model.model.get_or_insert_with(|| id.clone());
        let app = self.model.app()?;
        say(format_args!(
            "{}: model {id} ({}), made {} by {}",
            self.bundle.display(),
            bundle.manifest.model.sha256,
            bundle.manifest.created,
            told(&bundle.manifest.made_by)
        ))?;
        let here = app.made_by();
        if here != bundle.manifest.made_by {
            warn(format_args!(
                "here is {}: the last bits of scores may differ",
                told(&here)
            ));
        }
        let runtime = tokio::runtime::Runtime::new()?;
        let made = runtime.block_on(rerun(&app, &bundle))?;
        let mut differing = 0;
        let told_hash = &bundle.manifest.model.sha256;
        if let Some(model) = app.models().iter().next()
            && model.hash != *told_hash
        {
            say(format_args!(
                "model: {} here, {told_hash} in the bundle",
                model.hash
            ))?;
            differing += 1;
        }
        if bundle.results().next().is_none() {
            bail!("the manifest names no result to compare with");
        }
        for (name, kept) in bundle.results() {
            let made = made.iter().find(|(made, _)| made == name);
            let difference = match made {
                Some((_, made)) => difference(name, &kept, made)?,
                None => Some("is not made any more".to_owned()),
            };
            differing += usize::from(difference.is_some());
            say(format_args!(
                "{name}: {}",
                difference.as_deref().unwrap_or("the same")
            ))?;
        }
        match differing {
            0 => Ok(()),
            _ => bail!("the explanation is another one than that of the bundle"),
        }
    }
}

fn told(made_by: &MadeBy) -> String {
    format!(
        "explaind {}, ONNX Runtime {} ({}) on {}",
        made_by.explaind,
        made_by.onnxruntime,
        made_by.providers.join(", "),
        made_by.processor
    )
}

/// The results of the bundle's request.
async fn rerun(app: &App, bundle: &Bundle) -> anyhow::Result<Vec<(String, Bytes)>> {
    let (inputs, uploads) = bundle.sent();
    let mut request = bundle.manifest.request.clone();
    request.insert("format".to_owned(), "bundle".into());
    // That of the same id, or the one that the command names in its place. Those of the data folder
    // come later.
    if let Some(model) = app.models().iter().next() {
        request.insert("model".to_owned(), model.id.as_str().into());
    }
    app.catch_up().await;
    let context = RequestContext {
        files: uploads.files(),
        ..RequestContext::default()
    };
    let plan = app.plan(request, &context)?;
    let caller = Caller::new(Priority::Interactive, None);
    let answered = app.explain(plan, inputs, uploads, &caller).await?;
    Ok(results(&answered)?)
}

/// The first difference between two files of results, for people.
fn difference(name: &str, kept: &Bytes, made: &Bytes) -> anyhow::Result<Option<String>> {
    match name {
        EXPLANATIONS => {
            let (kept, made): (Value, Value) =
                (serde_json::from_slice(kept)?, serde_json::from_slice(made)?);
            Ok(first_difference("", &kept, &made))
        }
        _ if kept == made => Ok(None),
        ATTRIBUTION => {
            let (kept, made) = (read_npy(kept)?, read_npy(made)?);
            if kept.shape() != made.shape() {
                let (kept, made) = (kept.shape(), made.shape());
                return Ok(Some(format!("the shape was {kept:?}, and is {made:?}")));
            }
            let differences = kept
                .iter()
                .zip(&made)
                .map(|(kept, made)| (kept - made).abs());
            let largest = differences.fold(0.0, f32::max);
            let scale = kept
                .iter()
                .fold(0.0f32, |most, score| most.max(score.abs()));
            Ok(Some(format!(
                "scores differ by up to {largest:e}, where the largest is {scale:e}"
            )))
        }
        _ => Ok(Some("other bytes".to_owned())),
    }
}

/// `explanations[0].model_hash was "a", and is "b"`.
fn first_difference(path: &str, kept: &Value, made: &Value) -> Option<String> {
    match (kept, made) {
        (Value::Object(kept), Value::Object(made)) => {
            let names = kept
                .keys()
                .chain(made.keys().filter(|name| !kept.contains_key(*name)));
            let mut names = names.filter(|name| !OF_THE_RUN.contains(&name.as_str()));
            names.find_map(|name| {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                match (kept.get(name), made.get(name)) {
                    (Some(kept), Some(made)) => first_difference(&path, kept, made),
                    (Some(kept), None) => Some(format!("{path} was {}, and is gone", shown(kept))),
                    (None, made) => {
                        let made = made.map(shown).unwrap_or_default();
                        Some(format!("{path} is new: {made}"))
                    }
                }
            })
        }
        (Value::Array(kept), Value::Array(made)) if kept.len() == made.len() => {
            let mut pairs = kept.iter().zip(made).enumerate();
            pairs.find_map(|(place, (kept, made))| {
                first_difference(&format!("{path}[{place}]"), kept, made)
            })
        }
        _ if kept == made => None,
        _ => Some(format!(
            "{path} was {}, and is {}",
            shown(kept),
            shown(made)
        )),
    }
}
