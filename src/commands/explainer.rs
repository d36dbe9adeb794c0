//! `explaind derive --method`: the model with its saliency map, in one file.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use explaind::{
    driver,
    engine::{LARGEST_ROW, peak_bytes},
    faults::{Fault, Faults},
    methods::{
        RunInputs,
        applies::obstacle,
        formula::Formula,
        noise,
        parameters::{Method, Need, Parameters, lrp::attn_lrp_fault},
        path::PathParameters,
        registry::{applicable, find},
        target::Target as Explained,
    },
    model::{Model, manifest::OutputKind},
    picture::{
        baseline::{Material, Term},
        preprocess::Layout,
    },
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::derive,
    onnx::graph::Graph,
    saliency::{Explainer, Normalize, Saliency, Target, explainer},
};
use serde_json::{Map, Value, json};

use super::{pair, tell};

/// What the values of one turn of a Loop may take by default, in bytes: as much as a phone or a
/// browser has.
const TURN_BYTES: usize = 256 << 20;
/// What noise may take in a file, in bytes.
const NOISE_BYTES: usize = 1 << 30;
const MIB: usize = 1 << 20;

/// The parts of `derive` that belong to `--method`.
#[derive(Args)]
pub(super) struct MethodArgs {
    /// An attribution method, as of `explaind explain`: the file gives the model's logits and
    /// probabilities, and its saliency_map beside them
    #[arg(long, value_name = "METHOD", conflicts_with_all = ["rule_set", "wrt", "weights", "loss", "seed", "pattern_layers"])]
    method: Option<String>,
    /// With --method: the class that the map explains: predicted, an index, a label, a contrast
    /// a-b; or input, for an input `target` of the file (int64, an index) [default: predicted]
    #[arg(long, value_name = "TARGET", requires = "method")]
    target: Option<String>,
    /// With --method: any other parameter of it, such as n_steps=50; repeatable. `explaind methods
    /// ID` lists them
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair, requires = "method")]
    parameters: Vec<(String, String)>,
    /// With --method: bring the map of a layer to the input's height and width, as the service
    /// does
    #[arg(long, requires = "method")]
    upsample: bool,
    /// With --method: divide each map by its largest absolute value (-1 to 1), or bring its range to
    /// 0 to 1
    #[arg(
        long,
        value_enum,
        value_name = "none|max-abs|min-max",
        default_value = "none",
        hide_possible_values = true,
        requires = "method"
    )]
    normalize: Normalization,
    /// With --method: how many points of a path, or samples of noise, are evaluated at a time
    /// [default: as many as 256 MiB hold]
    #[arg(long, value_name = "N", requires = "method")]
    rows: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Normalization {
    None,
    MaxAbs,
    MinMax,
}

impl From<Normalization> for Normalize {
    fn from(asked: Normalization) -> Self {
        match asked {
            Normalization::None => Self::None,
            Normalization::MaxAbs => Self::MaxAbs,
            Normalization::MinMax => Self::MinMax,
        }
    }
}

impl MethodArgs {
    pub(super) fn is_asked(&self) -> bool {
        self.method.is_some()
    }

    /// The graph with its metadata; tells what it takes.
    pub(super) fn graph(
        self,
        model: &Arc<Model>,
        head: Option<Value>,
        attn_lrp: bool,
    ) -> anyhow::Result<Graph> {
        let is_input = self.target.as_deref() == Some("input");
        let parameters = self.resolve(model, head, is_input)?;
        if let Some(fault) = attn_lrp_fault(&parameters).filter(|_| !attn_lrp) {
            return Err(Faults::from(fault).into());
        }
        let inputs = inputs(model, parameters)?;
        let parameters = inputs.parameters.clone();
        let formula = (parameters.method.build)(inputs).formula();
        let Some(mut formula) = formula else {
            return Err(not_written(model, parameters.method).into());
        };
        let is_layer = matches!(formula, Formula::ClassMap { guided: false, .. });
        if self.upsample && !is_layer {
            let message = format!(
                "the map of {} has the size of the input: only that of a layer is brought to it",
                parameters.method.id
            );
            return Err(Faults::from(Fault::says("upsample", message)).into());
        }
        if let Formula::Samples(samples) = &mut formula {
            samples.rows = self.rows_at_a_time(model, &parameters, samples.points.len())?;
        }
        let target = match parameters.target {
            _ if is_input => Target::Input,
            Explained::Class(class) => Target::Seed(vec![(class, 1.0)]),
            Explained::Contrast(class, other) => Target::Seed(vec![(class, 1.0), (other, -1.0)]),
            Explained::Predicted
            | Explained::Top(_)
            | Explained::Above(_)
            | Explained::Reference => Target::Predicted,
        };
        let saliency = Saliency {
            formula,
            spec: parameters.derive_spec(),
            target,
            upsample: self.upsample,
            normalize: self.normalize.into(),
        };
        let Explainer { mut graph, newer } =
            explainer(&model.graph, &saliency, model.patterns.as_ref())?;
        if let [first, rest @ ..] = newer.as_slice() {
            let others = match rest.len() {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            tell(format_args!(
                "the file is of opset 18: opset 17 has no {first}{others}"
            ));
        }
        graph
            .metadata
            .extend(self.metadata(model, &parameters, is_input));
        Ok(graph)
    }

    /// Method, target and parameters, or all that is wrong with them.
    fn resolve(
        &self,
        model: &Arc<Model>,
        head: Option<Value>,
        is_input: bool,
    ) -> anyhow::Result<Parameters> {
        let target = self.target.clone().filter(|_| !is_input);
        let given = [
            ("method", self.method.clone().map(Value::from)),
            ("target", target.map(Value::from)),
            ("head", head),
        ];
        let given = given.into_iter();
        let named = given.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let others = self.parameters.iter().cloned();
        let others = others.map(|(name, value)| (name, Value::from(value)));
        let mut given = Map::new();
        for (name, value) in named.chain(others) {
            if given.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        let facts = driver::model_defaults(model);
        let method = self.method.as_deref().and_then(find);
        let is_written = |method: &Method| {
            let mut needs = method.needs.iter();
            needs.all(|need| *need == Need::Baselines) && obstacle(method, &facts).is_none()
        };
        if let Some(method) = method.filter(|method| !is_written(method)) {
            return Err(not_written(model, method).into());
        }
        let parameters = Parameters::parse(&given, &facts)?;
        let mut faults = Faults::default();
        if parameters.takes("tolerance") && parameters.group::<PathParameters>().tolerance.is_some()
        {
            let message = "looks at the sums before it goes on, and a file has a fixed number of points: give n_steps";
            faults.push(Fault::says("tolerance", message));
        }
        let refused = match parameters.target {
            Explained::Top(_) | Explained::Above(_) => Some("is several maps, and a file has one"),
            Explained::Reference => Some("is an image of a request, which a file has not"),
            _ => None,
        };
        if let Some(message) = refused {
            let predicted =
                (model.manifest.reading.kind == OutputKind::Classes).then_some("predicted");
            let others = ["an index", "a label", "a contrast a-b", "input"];
            let allowed = predicted.into_iter().chain(others);
            faults.push(Fault::new("target", message, allowed));
        }
        let is_vector = model.manifest.reading.kind == OutputKind::Embedding;
        match model.classes().filter(|_| !is_input) {
            Some(_) if is_vector && parameters.target.needs_logits() => {
                let message = "an embedding has no predicted number, and a file takes no image to compare with: name one";
                faults.push(Fault::new(
                    "target",
                    message,
                    ["an index", "a difference a-b"],
                ));
            }
            Some(count) => {
                let found = driver::check_classes(model, &parameters, count);
                faults.append(found.err().unwrap_or_default(), |fault| fault);
            }
            None => {}
        }
        if parameters.baselines() > 0 {
            faults.extend(baseline_faults(model, &parameters));
        }
        if parameters.takes("noise_level") {
            let bytes = 4 * model.manifest.input.shape.iter().product::<usize>();
            let (most, asked) = (NOISE_BYTES / bytes.max(1), noise::n_samples(&parameters));
            if asked > most {
                faults.push(Fault::new(
                    "n_samples",
                    format!(
                        "the noise of {asked} samples takes {} MiB in the file, where {} are written",
                        asked.saturating_mul(bytes) / MIB,
                        NOISE_BYTES / MIB,
                    ),
                    [format!("1 to {most}")],
                ));
            }
        }
        if self.rows == Some(0) {
            faults.push(Fault::new("rows", "nothing is evaluated", ["1 or more"]));
        }
        Ok(faults.settle(parameters)?)
    }

    /// How many points are evaluated at a time; tells the memory that they take.
    fn rows_at_a_time(
        &self,
        model: &Model,
        parameters: &Parameters,
        points: usize,
    ) -> anyhow::Result<usize> {
        let derived = derive(
            &model.graph,
            &parameters.derive_spec(),
            model.patterns.as_ref(),
        )?;
        let one = peak_bytes(&derived.graph)?.max(1);
        let rows = self.rows.unwrap_or(TURN_BYTES / one).clamp(1, points);
        let bytes = rows.saturating_mul(one);
        if bytes > LARGEST_ROW {
            let message = format!(
                "{rows} points at a time take about {} MiB of memory, of which {} are supported",
                bytes / MIB,
                LARGEST_ROW / MIB
            );
            let most = [format!("1 to {}", (LARGEST_ROW / one).max(1))];
            return Err(Faults::from(Fault::new("rows", message, most)).into());
        }
        tell(format_args!(
            "{points} points, {rows} at a time: about {} MiB of memory beside the weights",
            bytes.div_ceil(MIB)
        ));
        Ok(rows)
    }

    /// What a reader of the file should know, as its metadata properties.
    fn metadata(
        &self,
        model: &Model,
        parameters: &Parameters,
        is_input: bool,
    ) -> Vec<(String, String)> {
        let mut stated = parameters.to_json();
        if is_input {
            stated.insert("target".to_owned(), json!("input"));
        }
        let normalize = self.normalize.to_possible_value();
        let mut properties = vec![
            ("method", parameters.method.id.to_owned()),
            ("parameters", Value::Object(stated).to_string()),
            ("upsample", self.upsample.to_string()),
            (
                "normalize",
                normalize.map_or_else(String::new, |value| value.get_name().to_owned()),
            ),
            ("model", model.id.clone()),
            ("model_sha256", model.hash.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some(rule) = &model.manifest.input.preprocess {
            properties.push(("preprocess", json!(rule).to_string()));
        }
        let named = properties.into_iter();
        named
            .map(|(name, value)| (format!("explaind.{name}"), value))
            .collect()
    }
}

/// The methods that work with this model and have a formula for it, with their defaults.
fn written(model: &Arc<Model>) -> Vec<&'static str> {
    let facts = driver::model_defaults(model);
    let small = Arc::new(Tensor::zeros(vec![1, 1, 1]));
    let has_formula = |method: &&Method| {
        let mut needs = method.needs.iter();
        let given = Map::from_iter([("method".to_owned(), method.id.into())]);
        let parameters = needs
            .all(|need| *need == Need::Baselines)
            .then(|| Parameters::parse(&given, &facts).ok());
        let Some(parameters) = parameters.flatten() else {
            return false;
        };
        let run = (method.build)(RunInputs {
            model: model.clone(),
            input: small.clone(),
            seed: Arc::default(),
            input_value: None,
            baselines: method.needs.iter().map(|_| small.clone()).collect(),
            layout: Layout::Nchw,
            luma: None,
            segmentation: Arc::default(),
            supports: Arc::default(),
            parameters: Arc::new(parameters),
        });
        run.formula().is_some()
    };
    applicable(&facts)
        .filter(has_formula)
        .map(|method| method.id)
        .collect()
}

/// A method that has no formula.
fn not_written(model: &Arc<Model>, method: &Method) -> Faults {
    let reason = obstacle(method, &driver::model_defaults(model)).unwrap_or_else(|| {
        let reason = match method.rule_set {
            _ if method.looks_at_attention() => "maps of attention are not written",
            Some(_) => "what it asks depends on more than the input",
            None => "its map does not follow from a derivative of the network",
        };
        reason.to_owned()
    });
    let message = format!(
        "{} cannot be written as a file for model {}: {reason}",
        method.id, model.id
    );
    Fault::new("method", message, written(model)).into()
}

/// Baselines that are no constants.
fn baseline_faults(model: &Model, parameters: &Parameters) -> Vec<Fault> {
    let has_pixels = model.manifest.input.preprocess.is_some();
    let terms = parameters.baseline.terms().iter();
    let faults = terms.filter_map(|term| {
        let reason = match term {
            Term::Min | Term::Max | Term::Mean | Term::Blur(_) => "depends on the input",
            Term::Uniform(_) | Term::Random(_) if !has_pixels => {
                "depends on the range of the input, as the model has no preprocessing"
            }
            Term::Dataset { .. } => "is drawn from a data set of a server",
            Term::Uploaded => "is sent with a request",
            _ => return None,
        };
        let message = format!("{term} {reason}, and a file has its baselines in it");
        let allowed = ["zero", "black", "white", "uniform:<seed>", "random:<n>"];
        Some(Fault::new("baseline", message, allowed))
    });
    faults.collect()
}

/// What a run on an input of zeros is given.
fn inputs(model: &Arc<Model>, parameters: Parameters) -> anyhow::Result<RunInputs> {
    let input = Tensor::zeros(model.manifest.input.shape.clone());
    let rule = model.manifest.input.preprocess.as_ref();
    let material = Material {
        preprocess: rule,
        uploaded: None,
        pictures: None,
        regions: None,
        seed: parameters.seed,
    };
    let baselines = match parameters.baselines() {
        0 => Vec::new(),
        _ => parameters
            .baseline
            .resolve(&input, &material)
            .context("baseline")?,
    };
    Ok(RunInputs {
        model: model.clone(),
        input: Arc::new(input),
        seed: Arc::default(),
        input_value: None,
        baselines: baselines.into_iter().map(Arc::new).collect(),
        layout: rule.map_or(Layout::Nchw, |rule| rule.layout),
        luma: None,
        segmentation: Arc::default(),
        supports: Arc::default(),
        parameters: Arc::new(parameters),
    })
}
