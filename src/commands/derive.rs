//! `explaind derive`: writes a model's derived graph, or a model with its saliency map, which any
//! ONNX Runtime can run, after running it once.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    engine::{Written, run_file},
    model::Model,
    training::Loss,
};
use onnx_autodiff::{
    autodiff::{
        derive,
        parameters::{Parameters, loss_gradients, parameter_gradients},
        spec::{DeriveSpec, Head, Lrp, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    onnx::{LARGEST_MODEL, OnnxError, graph::Graph, write_model, write_model_parts},
};
use serde::de::{DeserializeOwned, IntoDeserializer, value::Error};
use serde_json::json;

use super::{ModelArgs, Runs, explainer::MethodArgs, say, tell, write_file};

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

/// Writes the graph that runs; of more than `most` bytes in one piece with its weights in a file
/// beside it, which is named.
fn write(
    output: &Path,
    graph: &Graph,
    library: &Path,
    most: usize,
) -> anyhow::Result<Option<PathBuf>> {
    const NOT_WRITTEN: &str = "the derived graph is not written";
    match write_model(graph) {
        Ok(model) if model.len() <= most => {
            run_file(library, Written::Bytes(model.clone()), graph).context(NOT_WRITTEN)?;
            write_file(output, &model)?;
            return Ok(None);
        }
        Ok(_) | Err(OnnxError::TooLarge { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let shown = || output.display().to_string();
    let is_special = fs::symlink_metadata(output).is_ok_and(|found| !found.is_file());
    let name = output.file_name().filter(|_| !is_special);
    let name = name.and_then(|name| name.to_str()).with_context(|| {
        let shown = shown();
        format!("{shown}: a model above 2 GB takes two files: name a file in a folder")
    })?;
    let data_name = format!("{name}.data");
    let folder = output
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let parts = write_model_parts(graph, &data_name)?;
    // Both come to their places once they are whole and were run.
    let staged = tempfile::tempdir_in(folder).with_context(shown)?;
    let (model, data) = (staged.path().join(name), staged.path().join(&data_name));
    fs::write(&model, &parts.model).with_context(shown)?;
    let mut file = BufWriter::new(File::create(&data).with_context(shown)?);
    parts.write_data(&mut file).with_context(shown)?;
    drop((file, parts));
    run_file(library, Written::File(&model), graph).context(NOT_WRITTEN)?;
    let beside = folder.join(&data_name);
    fs::rename(&data, &beside).with_context(shown)?;
    fs::rename(&model, output).with_context(shown)?;
    Ok(Some(beside))
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
        let mut graph = match &self.parameters {
            None if self.method.is_asked() => {
                let head = self.head.map(|head| json!(head));
                self.method.graph(&model, head, settings.attn_lrp)?
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
        if let Some(note) = model.surrogate_note().filter(|_| self.parameters.is_none()) {
            tell(&note);
            graph.metadata.insert("explaind.surrogate".to_owned(), note);
        }
        let path = self.output.display();
        let data = write(&self.output, &graph, &settings.onnxruntime, LARGEST_MODEL)?;
        let beside = data.map_or_else(String::new, |data| {
            format!("; its weights are in {}, beside it", data.display())
        });
        Ok(say(format_args!(
            "{path}: {} nodes of opset {}, of model {}{beside}",
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

#[cfg(test)]
mod tests {
    use onnx_autodiff::onnx::{
        graph::{Element, Literal, Node, ValueInfo, ValueType},
        read_model,
    };

    use super::*;

    #[test]
    fn what_one_file_does_not_hold_is_written_with_its_weights_beside_it() {
        let value = |name: &str, sizes: &[usize]| {
            let dims = [1].iter().chain(sizes).map(|&size| size.into());
            ValueInfo {
                name: name.into(),
                value_type: ValueType::new(Element::Float, dims.collect()),
            }
        };
        let weights: Vec<f32> = (0..64 * 32).map(|at| at as f32).collect();
        let graph = Graph {
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", &[64])],
            outputs: vec![value("y", &[32])],
            initializers: [("w".to_owned(), Literal::from_f32s(&[64, 32], &weights))].into(),
            nodes: vec![Node::new("MatMul", ["x", "w"], ["y"])],
            ..Graph::default()
        };
        let library = std::env::var_os("EXPLAIND_ONNXRUNTIME").map(PathBuf::from);
        let library = library.unwrap_or_else(|| PathBuf::from("runtime/libonnxruntime.so.1.31.1"));
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("net.onnx");
        let files = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(write(&output, &graph, &library, 1 << 20).unwrap(), None);
        assert_eq!(files(), ["net.onnx"]);
        let data = write(&output, &graph, &library, 4096).unwrap();
        assert_eq!(data, Some(folder.path().join("net.onnx.data")));
        assert_eq!(files(), ["net.onnx", "net.onnx.data"]);
        assert!(fs::metadata(&output).unwrap().len() < 1024);
        let back = read_model(&output).unwrap();
        assert_eq!(back.initializers["w"], graph.initializers["w"]);
        let special = write(Path::new("/dev/null"), &graph, &library, 4096);
        assert!(special.unwrap_err().to_string().contains("two files"));
    }
}
