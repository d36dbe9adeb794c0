//! `explaind models check`: loads a model as the server would, runs it once, and prints what was
//! found.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use explaind::{
    api::catalogue::{ModelCard, describe_model, examine},
    app::App,
    model::{Model, manifest::OutputKind, registry::folders_in},
    picture::preprocess::{Preprocess, Resize},
    settings::{self, FlagsFor},
};

use super::{Runs, say};

#[derive(Args)]
pub(crate) struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Load models as the server would, try them, and print what was found: input, preprocessing,
    /// classes, methods that apply, faults
    Check(Check),
}

#[derive(Args)]
struct Check {
    /// An .onnx file, a model's folder, or a folder of models [default: the models folder of the
    /// settings]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// As JSON, as GET /models/{id} answers: one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: FlagsFor<Runs>,
}

impl Models {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Action::Check(check) = self.action;
        check.run()
    }
}

impl Check {
    fn run(self) -> anyhow::Result<()> {
        let settings = settings::load(&self.flags.0, std::env::vars())?;
        let given = if self.paths.is_empty() {
            vec![settings.models.clone()]
        } else {
            self.paths
        };
        let mut paths = Vec::new();
        for path in given {
            if !path.exists() {
                bail!("{}: there is no such file or folder", path.display());
            }
            let holds_models = || {
                folders_in(&path)
                    .is_ok_and(|all| all.iter().any(|one| one.join("model.onnx").exists()))
            };
            if path.is_dir() && !path.join("model.onnx").exists() && holds_models() {
                paths.extend(folders_in(&path)?);
            } else {
                paths.push(path);
            }
        }
        let mut broken = 0;
        for (place, path) in paths.iter().enumerate() {
            let app = App::start_with_one(settings.clone(), path)?;
            let registry = app.models();
            if let Some(model) = registry.iter().next() {
                let card = describe_model(&registry, &model, examine(&model))?;
                match self.json {
                    true => say(serde_json::to_string(&card)?)?,
                    false => print(place, path, &model, &card, &registry.warnings)?,
                }
            }
            for model in &registry.broken {
                broken += 1;
                match self.json {
                    true => say(serde_json::json!({ "id": model.id, "faults": model.faults }))?,
                    false => {
                        let faults: String = model
                            .faults
                            .iter()
                            .map(|fault| format!("\n  - {fault}"))
                            .collect();
                        say(format_args!(
                            "{}{}: cannot be used{faults}",
                            gap(place),
                            path.display()
                        ))?;
                    }
                }
            }
        }
        match broken {
            0 => Ok(()),
            broken => bail!("{broken} of {} cannot be used", paths.len()),
        }
    }
}

fn gap(place: usize) -> &'static str {
    if place == 0 { "" } else { "\n" }
}

fn print(
    place: usize,
    path: &std::path::Path,
    model: &Model,
    card: &ModelCard,
    warnings: &[String],
) -> anyhow::Result<()> {
    let manifest = &model.manifest;
    say(format_args!(
        "{}{}: can be used",
        gap(place),
        path.display()
    ))?;
    let line = |name: &str, text: &str| say(format_args!("  {name:15} {text}"));
    line(
        "input",
        &format!(
            "{} {:?}, opset {}",
            manifest.input.name,
            manifest.input.shape,
            model.graph.opset()
        ),
    )?;
    let preprocess = manifest.input.preprocess.as_ref().map_or_else(
        || "none: the model takes ready tensors (npy, JSON), not images".to_owned(),
        preprocessing,
    );
    line("preprocessing", &preprocess)?;
    if manifest.input.preprocess.is_some() {
        let given = "given by model.toml".to_owned();
        line(
            "",
            &manifest
                .assumed
                .as_ref()
                .map_or(given, |assumed| format!("ASSUMED: {assumed}")),
        )?;
    }
    let output = model
        .graph
        .outputs
        .first()
        .map_or_else(String::new, |output| output.name.clone());
    let classes = model.classes().map_or_else(
        || "an unknown number of".to_owned(),
        |classes| classes.to_string(),
    );
    let is_own = |folder: &PathBuf| folder.join("labels.txt").exists();
    let labels = match (model.labels.is_empty(), &model.folder) {
        (true, _) => "without labels.txt",
        (false, Some(folder)) if is_own(folder) => "named by labels.txt",
        (false, _) => "named by the file",
    };
    let (what, explains) = match manifest.reading.kind {
        OutputKind::Classes => ("classes", serde_json::to_value(manifest.head)?),
        OutputKind::Regression => ("values of a regression", "its values".into()),
        OutputKind::Embedding => (
            "numbers of an embedding",
            "its similarity to a reference".into(),
        ),
    };
    line("scores", &format!("{output}: {classes} {what}, {labels}"))?;
    line("explains", explains.as_str().unwrap_or_default())?;
    for (name, fixed) in &manifest.reading.fixed {
        line(
            "input",
            &format!("{name} {:?}: given by model.toml", fixed.shape),
        )?;
    }
    line(
        "Grad-CAM layer",
        manifest
            .layer
            .as_deref()
            .unwrap_or("none with height and width"),
    )?;
    line(
        "patterns",
        model
            .patterns
            .as_ref()
            .map_or("none", |patterns| patterns.id.as_str()),
    )?;
    let applying: Vec<&str> = card
        .methods
        .iter()
        .filter(|one| one.applies)
        .map(|one| one.id.as_str())
        .collect();
    line("methods", &applying.join(", "))?;
    // Several methods are often unavailable for one reason: they share a line.
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in &card.methods {
        let Some(reason) = &one.reason else { continue };
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, ids)) => ids.push(&one.id),
            None => reasons.push((reason, vec![&one.id])),
        }
    }
    for (reason, ids) in reasons {
        line("do not apply", &format!("{}: {reason}", ids.join(", ")))?;
    }
    for warning in model.warnings.iter().chain(warnings) {
        line("warning", warning)?;
    }
    Ok(())
}

fn preprocessing(rule: &Preprocess) -> String {
    let Preprocess {
        width,
        height,
        scale,
        mean,
        std,
        ..
    } = rule;
    let resize = match rule.resize {
        Resize::Stretch => format!("stretched to {width} x {height}"),
        Resize::ShortSide(side) => {
            format!("short side to {side}, then the central {width} x {height}")
        }
        Resize::Pad => format!("fitted into {width} x {height}, the rest filled with the mean"),
    };
    let channels = format!("{:?}", rule.channels).to_uppercase();
    format!("{channels}, {resize}; (pixel * {scale:.6} - {mean:?}) / {std:?}")
}
