//! `explaind derive`: writes a model's derived graph, or a model with its saliency map, which any
//! ONNX Runtime can run, after running it once.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{engine::run_file, model::Model, training::Loss};
use onnx_autodiff::{
    autodiff::{
        derive,
        parameters::{Parameters, loss_gradients, parameter_gradients},
        spec::{DeriveSpec, Head, Lrp, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    onnx::write_model,
};
use serde::de::{DeserializeOwned, IntoDeserializer, value::Error};
use serde_json::json;

use super::{ModelArgs, Runs, explainer::MethodArgs, say, write_file};

#[derive(Args)]
pub(crate) struct Derive {
    #[command(flatten)]
    model: ModelArgs<Runs>,
    /// gradient, guided_backprop, deconvnet, pattern_attribution, pattern_net, lrp; several share one
    /// forward pass
    #[arg(long, required_unless_present_any = ["weights", "wrt", "method"], value_delimiter = ',', value_name = "RULE_SET", value_parser = word::<RuleSetId>)]
    rule_set: Vec<RuleSetId>,
    /// logits or probabilities [default: the model's]
    #[arg(long, value_name = "HEAD", value_parser = word::<Head>)]
    head: Option<Head>,
    /// A value of the graph to derive with respect to [default: the input]
    #[arg(long, value_name = "VALUE")]
    wrt: Option<String>,
    /// Derive with respect to weights and biases, which become inputs of the graph: all, or the
    /// names of some (--wrt parameters is short for --parameters all)
    #[arg(id = "weights", long = "parameters", value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["rule_set", "wrt", "seed", "pattern_layers"])]
    parameters: Option<Vec<String>>,
    /// With --parameters: a loss on the logits, in place of the seed; the graph takes the target of
    /// each row and gives its loss: cross_entropy or mse
    #[arg(long, value_name = "LOSS", conflicts_with_all = ["rule_set", "head"], value_parser = word::<Loss>)]
    loss: Option<Loss>,
    /// one: the seed as given; value: times the head's own value
    #[arg(long, value_name = "one|value", default_value = "one", value_parser = word::<SeedRule>)]
    seed: SeedRule,
    /// all, inner, except_first, except_last, or a list of nodes [default: the model's]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pattern_layers: Option<Vec<String>>,
    #[command(flatten)]
    method: MethodArgs,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// The serde name of a unit variant.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    T::deserialize(text.into_deserializer())
}

impl Derive {
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        if self.wrt.as_deref() == Some("parameters") {
            self.wrt = None;
            self.parameters = Some(vec!["all".to_owned()]);
        }
        if !self.method.is_asked()
            && self.parameters.is_none()
            && (self.rule_set.is_empty() || self.loss.is_some())
        {
            bail!(
                "name the rule sets to derive by with --rule-set, or the weights to derive with respect to with --parameters (a loss is one of parameters)"
            );
        }
        let (settings, model) = self.model.load()?;
        let graph = match &self.parameters {
            None if self.method.is_asked() => {
                let head = self.head.map(|head| json!(head));
                self.method.graph(&model, head)?
            }
            Some(names) => {
                let wanted = match names.as_slice() {
                    [all] if all == "all" => Parameters::All,
                    _ => Parameters::Named(names.clone()),
                };
                let head = self.head.unwrap_or(model.manifest.head);
                let derived = match self.loss {
                    Some(loss) => loss_gradients(&model.graph, loss.into(), &wanted),
                    None => parameter_gradients(&model.graph, head, &wanted),
                };
                derived?.graph
            }
            None => derive(&model.graph, &self.spec(&model), model.patterns.as_ref())?.graph,
        };
        let path = self.output.display();
        let written = write_model(&graph)?;
        run_file(&settings.onnxruntime, written.clone(), &graph)
            .context("the derived graph is not written")?;
        write_file(&self.output, &written)?;
        Ok(say(format_args!(
            "{path}: {} nodes of opset {}, of model {}",
            graph.nodes.len(),
            graph.opset(),
            model.id
        ))?)
    }

    fn spec(&self, model: &Model) -> DeriveSpec {
        DeriveSpec {
            rule_sets: self.rule_set.clone(),
            outputs: self.wrt.clone().into_iter().collect(),
            wrt: vec![self.wrt.clone().map_or(Wrt::Input, Wrt::Activation)],
            head: self.head.unwrap_or(model.manifest.head),
            seed: self.seed,
            pattern_layers: match self.pattern_layers.as_deref() {
                None => model.manifest.pattern_layers.clone(),
                Some([one]) => {
                    word(one).unwrap_or_else(|_| PatternLayers::Named(vec![one.clone()]))
                }
                Some(names) => PatternLayers::Named(names.to_vec()),
            },
            lrp: Lrp::default(),
        }
    }
}
