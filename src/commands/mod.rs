//! One file per sub-command.

pub(crate) mod bam_data;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod derive;
pub(crate) mod explain;
mod explainer;
mod findings;
pub(crate) mod fit_patterns;
mod images;
pub(crate) mod jobs;
mod local_job;
pub(crate) mod methods;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod predict;
pub(crate) mod rerun;
pub(crate) mod serve;
pub(crate) mod tcav;
pub(crate) mod train;

use std::{
    fmt::Display,
    fs,
    io::{Write, stderr, stdout},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    api::catalogue::ParameterCard,
    app::App,
    faults::{Fault, Faults},
    model::{
        Model,
        registry::{Registry, folders_in},
    },
    settings::{self, FlagsFor, Settings, Uses},
    text::printable,
};
use serde_json::{Map, Value, json};

/// The settings that each kind of command uses, as sections of default.toml.
macro_rules! uses {
    ($($(#[doc = $doc:literal])* $name:ident: $sections:expr;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name;

        impl Uses for $name {
            const SECTIONS: &'static [&'static str] = $sections;
        }
    )+};
}

uses! {
    /// Reads a model without running it.
    Reads: &["Models"];
    /// Reads images, without a model.
    Composes: &["Limits of a request"];
    /// Runs a model, but not on images.
    Runs: &["Models", "ONNX Runtime"];
    /// Runs a model on images.
    Predicts: &["Models", "Limits of a request", "ONNX Runtime", "Devices"];
    /// Explains images: also reads baselines and patterns.
    Explains: &["Models", "Data", "Data sets", "Limits of a request", "ONNX Runtime", "Devices"];
    /// Runs a job.
    Benchmarks: &["Models", "Data", "Limits of a request", "Work on jobs", "ONNX Runtime", "Devices"];
    Everything: &[
        "Models", "Server", "Log", "Data", "Data sets", "Uploads", "Limits of a request", "Queue of jobs",
        "Work on jobs", "ONNX Runtime", "Devices",
    ];
}

/// The model and the settings of a command.
#[derive(Args)]
pub(crate) struct ModelArgs<U: Uses + Send + Sync + 'static> {
    /// A model: the name of its folder in the models folder, or the path of its folder or .onnx
    /// file [default: the setting default_model, else the only one there is]
    #[arg(short, long, value_name = "ID|PATH")]
    pub model: Option<String>,
    #[command(flatten)]
    pub flags: FlagsFor<U>,
}

impl<U: Uses + Send + Sync + 'static> ModelArgs<U> {
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        Ok(settings::load(&self.flags.0, std::env::vars())?)
    }

    pub(crate) fn load(&self) -> anyhow::Result<(Settings, Arc<Model>)> {
        let settings = self.settings()?;
        let registry = Registry::of_one(&self.path(&settings)?, &|_| Ok(vec![]));
        let model = only(&registry)?;
        Ok((settings, model))
    }

    /// The app with this model only.
    pub(crate) fn app(&self) -> anyhow::Result<App> {
        self.app_with(self.settings()?)
    }

    pub(crate) fn app_with(&self, settings: Settings) -> anyhow::Result<App> {
        let path = self.path(&settings)?;
        let app = App::start_with_one(settings, &path)?;
        only(&app.models())?;
        app.models().warnings.iter().for_each(warn);
        Ok(app)
    }

    fn path(&self, settings: &Settings) -> anyhow::Result<PathBuf> {
        let asked = self.model.as_ref().or(settings.default_model.as_ref());
        if let Some(path) = asked
            .filter(|asked| asked.contains('/') || asked.ends_with(".onnx"))
            .map(PathBuf::from)
        {
            if !path.exists() {
                bail!("no model is at {}", path.display());
            }
            return Ok(path);
        }
        let mut folders = folders_in(&settings.models)?;
        folders.retain(|folder| folder.join("model.onnx").exists());
        let name = |folder: &Path| {
            folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let found = match (asked, folders.as_slice()) {
            (Some(id), all) => all.iter().find(|folder| name(folder) == *id),
            (None, [only]) => Some(only),
            (None, []) => bail!(
                "there is no model in {}: each is a folder with a model.onnx; name another folder with --models",
                settings.models.display()
            ),
            (None, _) => None,
        };
        if let Some(found) = found {
            return Ok(found.clone());
        }
        let message = match asked {
            Some(id) => format!("no model in {} is called {id:?}", settings.models.display()),
            None => format!(
                "{} holds several: name one with --model",
                settings.models.display()
            ),
        };
        Err(Faults::from(Fault::new(
            "model",
            message,
            folders.iter().map(|folder| name(folder)),
        ))
        .into())
    }
}

/// The single model of a registry, or its faults.
fn only(registry: &Registry) -> anyhow::Result<Arc<Model>> {
    match (registry.iter().next(), registry.broken.first()) {
        (_, Some(broken)) => bail!(
            "model {} cannot be used:\n  {}",
            broken.id,
            broken.faults.join("\n  ")
        ),
        (Some(model), None) => Ok(model),
        (None, None) => bail!("there is no model"),
    }
}

/// Prints a line to standard output. A closed pipe is an error, which ends the command silently.
pub(crate) fn say(line: impl Display) -> std::io::Result<()> {
    writeln!(stdout(), "{}", printable(&line.to_string()))
}

/// Prints what each parameter may be, its default, and what it does.
fn say_parameters(parameters: &[ParameterCard]) -> anyhow::Result<()> {
    for parameter in parameters {
        let default = match (&parameter.default, parameter.default_from_model) {
            (_, true) => "the model's".to_owned(),
            (Value::Null, false) => "off".to_owned(),
            (Value::String(text), false) => text.clone(),
            (value, false) => value.to_string(),
        };
        say(format_args!(
            "  {}: {} [default: {default}]",
            parameter.name,
            parameter.allowed.join(", ")
        ))?;
        say(format_args!("      {}", parameter.doc))?;
    }
    Ok(())
}

/// Prints a line to standard error; errors are ignored.
pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(stderr(), "{}", printable(&line.to_string()));
}

/// Writes a file atomically. Paths that are not regular files (/dev/null, a pipe) are written
/// directly.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return fs::write(path, bytes);
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        // The usual mode of new files, before the umask.
        let permissions = fs::Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new()
            .permissions(permissions)
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}

pub(crate) fn warn(warning: impl Display) {
    tell(format_args!("warning: {warning}"));
}

/// Parses `NAME=VALUE`; the value is text.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses a method's id and its parameters, as in "pgig pattern_layers=all".
fn method(text: &str) -> Result<Value, String> {
    let mut words = text.split_whitespace();
    let id = words.next().ok_or("a method's id is missing")?;
    let mut entry = Map::from_iter([("id".to_owned(), json!(id))]);
    for word in words {
        let (name, value) = pair(word)?;
        if entry.insert(name.clone(), json_or_text(&value)).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(Value::Object(entry))
}

/// The JSON value of the text if it has one, else the text.
fn json_or_text(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_else(|_| json!(value))
}
