//! `explaind methods`: the attribution methods and their parameters, as GET /methods lists them.

use clap::Args;
use explaind::{
    api::catalogue::{MethodCard, describe_method},
    app::options::RequestedOptions,
    faults::Faults,
    methods::registry::{METHODS, find, unknown},
};

use super::{say, say_parameters};

#[derive(Args)]
pub(crate) struct Methods {
    /// A method, to see its parameters
    id: Option<String>,
    /// As JSON, as GET /methods answers
    #[arg(long)]
    json: bool,
}

impl Methods {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Some(id) = self.id else {
            if self.json {
                let all: Vec<MethodCard> = METHODS.iter().map(describe_method).collect();
                return Ok(say(serde_json::to_string_pretty(
                    &serde_json::json!({ "methods": all }),
                )?)?);
            }
            let width = METHODS
                .iter()
                .map(|method| method.id.len())
                .max()
                .unwrap_or_default();
            for method in METHODS {
                let note = if method.needs_patterns() {
                    " (needs patterns)"
                } else {
                    ""
                };
                say(format_args!("{:width$}  {}{note}", method.id, method.title))?;
            }
            return Ok(say(
                "\nexplaind methods ID: the formula, paper and parameters of one",
            )?);
        };
        let method = find(&id).ok_or_else(|| Faults::from(unknown(&id.into())))?;
        let card = describe_method(method);
        if self.json {
            return Ok(say(serde_json::to_string_pretty(&card)?)?);
        }
        say(format_args!("{}: {}", card.id, card.title))?;
        for (name, text) in [
            ("computes", &card.formula),
            ("paper", &card.paper),
            ("evaluations", &card.cost),
        ] {
            say(format_args!("  {name:11}  {text}"))?;
        }
        say("\nParameters (-p NAME=VALUE):")?;
        say_parameters(&card.parameters)?;
        let options = RequestedOptions::names()
            .filter(|name| *name != "format")
            .collect::<Vec<_>>()
            .join(", ");
        Ok(say(format_args!(
            "\nOptions of the answer and its picture (-p NAME=VALUE): {options}"
        ))?)
    }
}
