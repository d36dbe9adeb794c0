//! `explaind config`: the effective settings as a settings file, with the source of each.

use clap::Args;
use explaind::settings::{FlagsFor, settled};
use reqwest::Url;
use toml::Value;

use super::{Everything, say};

#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    flags: FlagsFor<Everything>,
}

impl Config {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        for (name, value, source) in settled(&self.flags.0, std::env::vars())? {
            let source = source.unwrap_or_else(|| "default".to_owned());
            say(format_args!(
                "{name} = {} # {source}",
                without_password(value)
            ))?;
        }
        Ok(())
    }
}

fn without_password(value: Value) -> Value {
    let hidden = value.as_str().and_then(|text| {
        let mut url = Url::parse(text)
            .ok()
            .filter(|url| url.password().is_some())?;
        url.set_password(Some("***")).ok()?;
        Some(Value::String(url.into()))
    });
    hidden.unwrap_or(value)
}
