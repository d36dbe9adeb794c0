//! One file for each sub-command.

pub mod bench;
pub mod derive;
pub mod explain;
pub mod fit_patterns;
pub mod jobs;
pub mod serve;

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    model::{Model, registry::Registry},
    settings::{self, Flags, Settings},
};

/// The model that a command works on, and the settings.
#[derive(Args)]
pub struct ModelArgs {
    /// Name of the model's folder [default: default_model]
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    #[command(flatten)]
    pub flags: Flags,
}

impl ModelArgs {
    pub fn settings(&self) -> anyhow::Result<Settings> {
        Ok(settings::load(&self.flags, std::env::vars())?)
    }

    pub fn load(&self) -> anyhow::Result<(Settings, Arc<Model>)> {
        let settings = self.settings()?;
        let registry = Registry::load(&settings.models, settings.default_model.as_deref())?;
        let model = match &self.model {
            None => registry.default(),
            Some(id) => registry.get(id),
        };
        if let Some(model) = model {
            return Ok((settings, model));
        }
        let known = registry.iter().map(|model| model.id.clone()).collect::<Vec<_>>().join(", ");
        let broken = match &self.model {
            Some(id) => registry.broken.iter().find(|broken| broken.id == *id),
            None => registry.broken_default(),
        };
        match (&self.model, broken) {
            (_, Some(broken)) => bail!("model {} cannot be used:\n  {}", broken.id, broken.faults.join("\n  ")),
            (Some(id), None) => bail!("no model is called {id}; there are: {known}"),
            (None, None) => None.with_context(|| format!("there is no model in {}", settings.models.display())),
        }
    }
}
