//! `explaind metrics`: the metrics and their parameters, as GET /metrics-catalogue lists them.

use clap::Args;
use explaind::{
    api::metrics_catalogue::{MetricCard, describe_all, describe_metric},
    evaluation::{
        Direction, Metric,
        registry::{METRICS, find, unknown},
    },
    faults::Faults,
};

use super::{ModelArgs, Reads, say, say_parameters};

#[derive(Args)]
pub(crate) struct Metrics {
    /// A metric, to see its parameters for the model
    id: Option<String>,
    /// As JSON, as GET /metrics-catalogue answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs<Reads>,
}

impl Metrics {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Some(id) = self.id else {
            if self.json {
                let (_, model) = self.model.load()?;
                return Ok(say(serde_json::to_string_pretty(&describe_all(&model))?)?);
            }
            let row = |[id, category, title, cost]: [&str; 4]| {
                say(format_args!("{id:21}  {category:13}  {title:34}  {cost}"))
            };
            row(["id", "category", "title", "evaluations of an image"])?;
            for metric in METRICS {
                let Metric {
                    id, title, needs, ..
                } = metric;
                row([id, metric.category.name(), title, needs.cost.words])?;
            }
            return Ok(say(
                "\nexplaind metrics ID --model MODEL: what one measures, its paper and parameters",
            )?);
        };
        let metric = find(&id).ok_or_else(|| Faults::from(unknown(&id.into())))?;
        let (_, model) = self.model.load()?;
        let card = describe_metric(metric, &model);
        if self.json {
            return Ok(say(serde_json::to_string_pretty(&card)?)?);
        }
        print(&card, &model.id)
    }
}

fn print(card: &MetricCard, model: &str) -> anyhow::Result<()> {
    say(format_args!("{}: {}", card.id, card.title))?;
    let value = match card.direction {
        Direction::Neither => card.value.clone(),
        direction => format!("{}; {} is better", card.value, direction.name()),
    };
    let region = card.needs_region.then_some("masks or boxes of objects");
    let pair = card
        .needs_pair
        .then_some("images of the same groups without the objects (role without)");
    let needs = Vec::from_iter(region.into_iter().chain(pair)).join("; ");
    let excluded = card.excluded_methods.join(", ");
    let excluded = card
        .exclusion
        .as_ref()
        .filter(|_| !excluded.is_empty())
        .map(|reason| format!("{excluded}: {reason}"));
    let lines = [
        ("measures", card.about.as_deref()),
        ("value", Some(value.as_str())),
        ("", Some(card.value_doc.as_str())),
        ("paper", Some(card.paper.as_str())),
        ("evaluations", Some(card.cost.as_str())),
        (
            "needs",
            Some(needs.as_str()).filter(|needs| !needs.is_empty()),
        ),
        ("leaves out", excluded.as_deref()),
        ("refused", card.reason.as_deref()),
    ];
    for (name, text) in lines {
        if let Some(text) = text {
            say(format_args!("  {name:11}  {text}"))?;
        }
    }
    if card.parameters.is_empty() {
        return Ok(());
    }
    say(format_args!(
        "\nParameters for {model} (--metrics \"{} NAME=VALUE\"):",
        card.id
    ))?;
    say_parameters(&card.parameters)
}
