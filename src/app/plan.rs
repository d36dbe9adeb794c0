//! What a request asks for, resolved against the model and the registry: every fault at once.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    App, AppError,
    format::{Accept, Format},
    options::{Channels, INCLUDED, Include, Options, RequestedOptions, look},
    requested, segments,
};
use crate::{
    driver,
    faults::{Fault, Faults, Reader},
    methods::{
        parameters::{Need, Parameters, lrp::attn_lrp_fault},
        regions::{RegionParameters, SegmentSource},
        target::{self, Target},
    },
    model::{
        Model,
        registry::{BrokenModel, RELOAD, Registry},
    },
    picture::baseline::{self, Term},
    render::options::{HeatmapOptions, Look, SIZES},
    text::{meant, shown},
};

/// A request for an explanation that can be carried out, as far as can be known before its input is
/// read.
#[derive(Clone, Debug)]
pub struct Plan {
    pub model: Arc<Model>,
    pub parameters: Parameters,
    /// What they were resolved from.
    pub(super) given: Map<String, Value>,
    /// In place of the parameters' target: one for each input, when given.
    pub targets: Option<Vec<Target>>,
    pub options: Options,
    /// What pictures look like.
    pub heatmap: HeatmapOptions,
    /// As it was asked for.
    pub asked: Map<String, Value>,
}

/// What planning needs to know of a request beside its parameters.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    pub files: AttachedFiles,
    pub accept: Accept,
    /// Whether its body is one image and nothing else: it is answered with a picture unless another
    /// format is asked for.
    pub is_image: bool,
}

/// Which files go with the inputs of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachedFiles {
    pub baseline: bool,
    pub segments: bool,
    pub reference: bool,
}

impl RequestContext {
    pub(super) fn suited(&self, is_single: bool) -> Format {
        match self.is_image && is_single {
            true => Format::Png,
            false => Format::Json,
        }
    }
}

/// A request for the best classes.
#[derive(Clone, Debug)]
pub struct PredictPlan {
    pub model: Arc<Model>,
    pub top_k: usize,
}

pub const MAX_TOP_K: usize = 1000;
pub const DEFAULT_TOP_K: usize = 5;

impl Plan {
    /// The parameters of the input at this place.
    pub fn parameters_of(&self, input: usize) -> Parameters {
        let own = self
            .targets
            .as_ref()
            .and_then(|targets| targets.get(input))
            .copied();
        Parameters {
            target: own.unwrap_or(self.parameters.target),
            ..self.parameters.clone()
        }
    }
}

impl App {
    /// Resolves named values (texts as in a query, or JSON values): `model`, the answer's options,
    /// `targets`, the method and its parameters. A file that goes with the request is the default
    /// of its parameter.
    pub fn plan(
        &self,
        given: Map<String, Value>,
        context: &RequestContext,
    ) -> Result<Plan, AppError> {
        let mut reader = Reader::new(given.clone());
        let model = self.take_model(&mut reader);
        let options = RequestedOptions::take(&mut reader);
        let asked = given;
        let (mut given, mut faults) = reader.rest();
        let Some(model) = model else {
            return Err(faults.into());
        };
        let targets = take_targets(&mut given, &model, &mut faults);
        default_to_files(&mut given, context.files);
        let parameters = match Parameters::parse(&given, &driver::model_defaults(&model)) {
            Ok(parameters) => Some(parameters),
            Err(found) => {
                faults.append(found, |fault| with_options(fault, &given));
                None
            }
        };
        if let Some(parameters) = &parameters {
            faults.extend(self.setting_fault(parameters));
            faults.append(file_faults(parameters, context.files), |fault| fault);
            faults.extend(include_fault(&options, &model, [parameters]));
            faults.extend(channels_fault(&options, &model));
        }
        // Without a method it is not known what suits its maps: what was asked for is checked all
        // the same.
        let look = parameters
            .as_ref()
            .map_or(Look::Signed, |parameters| look(parameters.method));
        let heatmap = options
            .heatmap(look)
            .map_err(|found| faults.append(found, |fault| fault))
            .ok();
        if options.include.supports
            && let Some(heatmap) = &heatmap
        {
            faults.extend(strip_fault(heatmap));
        }
        let (Some(parameters), Some(heatmap), true) = (parameters, heatmap, faults.is_empty())
        else {
            return Err(faults.into());
        };
        let first = targets.as_ref().and_then(|targets| targets.first());
        let is_single = !first.unwrap_or(&parameters.target).is_list();
        let format = match options.format {
            Some(format) => format,
            None => context.accept.choose(context.suited(is_single))?,
        };
        Ok(Plan {
            model,
            parameters,
            given,
            targets,
            options: options.with_format(format),
            heatmap,
            asked,
        })
    }

    /// What the settings do not allow.
    pub(super) fn setting_fault(&self, parameters: &Parameters) -> Option<Fault> {
        attn_lrp_fault(parameters).filter(|_| !self.settings().attn_lrp)
    }

    /// Resolves `model` and `top_k`.
    pub fn plan_prediction(&self, given: Map<String, Value>) -> Result<PredictPlan, AppError> {
        let mut given = Reader::new(given);
        let model = self.take_model(&mut given);
        let top_k = given.raw("top_k").map_or(Some(DEFAULT_TOP_K), |value| {
            let number = value
                .as_u64()
                .or_else(|| value.as_str()?.trim().parse().ok())
                .filter(|k| (1..=MAX_TOP_K as u64).contains(k));
            if number.is_none() {
                let range = format!("1 to {MAX_TOP_K}");
                let message = format!("{} is not an integer from {range}", shown(&value));
                given.refuse("top_k", message, &[&range]);
            }
            number.map(|k| k as usize)
        });
        let faults = given.finish("is not a parameter of a prediction");
        match (model, top_k) {
            (Some(model), Some(top_k)) if faults.is_empty() => Ok(PredictPlan { model, top_k }),
            _ => Err(faults.into()),
        }
    }

    /// The model that a request names, as it wants it.
    pub(super) fn take_model(&self, given: &mut Reader) -> Option<Arc<Model>> {
        let asked = given.raw("model");
        let model = find_model(&self.models(), asked.as_ref())
            .map_err(|fault| given.faults.push(fault))
            .ok();
        match model {
            Some(model) => requested::take(given, model, self.settings().max_input_elements),
            None => {
                requested::skip(given);
                None
            }
        }
    }
}

/// The model that a request names, or the default for one that names none.
pub fn find_model(models: &Registry, asked: Option<&Value>) -> Result<Arc<Model>, Fault> {
    let found = match asked {
        None => models.default(),
        Some(id) => id.as_str().and_then(|id| models.get(id)),
    };
    found.ok_or_else(|| {
        let message = match (asked, models.broken_default()) {
            (None, Some(BrokenModel { id, faults, .. })) => {
                format!("the default model {id} cannot be served ({}); name another", faults.join("; "))
            }
            (None, None) if models.is_without_default() => {
                "is missing: there are several models, and the setting default_model names none of them".into()
            }
            (None, None) if models.iter().next().is_some() => {
                "is missing: no model of the models folder is the default".into()
            }
            (None, None) => "no model is loaded; the server's log says why".into(),
            (Some(id), _) => match models.broken.iter().find(|broken| id == broken.id.as_str()) {
                Some(broken) => {
                    let faults = broken.faults.join("; ");
                    format!("model {} cannot be served: {faults}; when that is mended, {RELOAD}", shown(id))
                }
                None if id.as_str().is_some_and(|id| models.was_added(id)) => {
                    format!("model {} came after the models were read: {RELOAD}", shown(id))
                }
                None => {
                    let ids: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
                    let meant = meant(id.as_str().unwrap_or_default(), ids.iter().map(String::as_str));
                    format!("no model is called {}{meant}", shown(id))
                }
            },
        };
        Fault::new("model", message, models.iter().map(|model| model.id.clone()))
    })
}

/// `targets`: a list, or texts joined by commas; in place of `target`.
fn take_targets(
    given: &mut Map<String, Value>,
    model: &Model,
    faults: &mut Faults,
) -> Option<Vec<Target>> {
    // One more than are taken shows that there are too many.
    let values: Vec<Value> = match given.remove("targets")? {
        Value::Array(values) => values,
        Value::String(text) => text
            .split(',')
            .take(target::MAX_TARGETS + 1)
            .map(Value::from)
            .collect(),
        single => vec![single],
    };
    if given.contains_key("target") {
        faults.push(Fault::says(
            "targets",
            "is given beside target: leave one out",
        ));
    }
    if values.len() > target::MAX_TARGETS {
        faults.push(Fault::says(
            "targets",
            format!("names more than {} targets", target::MAX_TARGETS),
        ));
        return None;
    }
    let classes = driver::model_defaults(model).classes;
    let mut targets = Vec::with_capacity(values.len());
    for (input, value) in values.iter().enumerate() {
        match Target::parse(value, classes) {
            Ok(target) => targets.push(target),
            Err(error) => faults.push_with(|| {
                let message = format!(
                    "of input {input} (counted from 0): {}",
                    error.explain(classes)
                );
                Fault::new("targets", message, target::FORMS)
            }),
        }
    }
    Some(targets)
}

/// A name that no method parameter has may be a misspelt option: those are allowed too.
fn with_options(mut fault: Fault, given: &Map<String, Value>) -> Fault {
    let unknown = given.contains_key(&fault.param) && fault.param != "method" && {
        !crate::methods::registry::METHODS
            .iter()
            .flat_map(|m| m.parameters())
            .any(|p| p.name == fault.param)
    };
    if unknown {
        let options = || {
            ["model", "method", "targets"]
                .into_iter()
                .chain(requested::names())
                .chain(RequestedOptions::names())
        };
        if !fault.message.contains("did you mean") {
            fault.message.push_str(&meant(&fault.param, options()));
        }
        fault.allowed.extend(options().map(str::to_owned));
    }
    fault
}

/// A file that goes with a request is the default of its parameter.
pub(super) fn default_to_files(given: &mut Map<String, Value>, files: AttachedFiles) {
    if files.reference && !given.contains_key("targets") {
        given
            .entry("target")
            .or_insert_with(|| Target::Reference.to_json());
    }
    for (name, is_sent) in [("baseline", files.baseline), ("segments", files.segments)] {
        if is_sent {
            given
                .entry(name)
                .or_insert_with(|| Value::from(Term::Uploaded.to_string()));
        }
    }
}

/// A file whose parameter has another value, and a parameter whose file is missing.
pub(super) fn file_faults(parameters: &Parameters, files: AttachedFiles) -> Faults {
    let baseline = parameters.baseline.terms().contains(&Term::Uploaded);
    let regions: RegionParameters = parameters.group();
    let segments = parameters.needs_segments() && regions.segments == SegmentSource::Uploaded;
    let mut faults = Faults::default();
    let is_compared = parameters.target == Target::Reference;
    let message = match (files.reference, is_compared) {
        (true, false) => Some(
            "an image was sent as reference, and another target than the similarity to it is asked for: leave one out",
        ),
        (false, true) => Some("`reference` needs the image to compare with, sent as reference"),
        (true, true) | (false, false) => None,
    };
    faults.extend(message.map(|message| Fault::new("target", message, ["reference"])));
    for (param, is_sent, is_asked, forms) in [
        ("baseline", files.baseline, baseline, baseline::ALLOWED),
        ("segments", files.segments, segments, &segments::FORMS[..]),
    ] {
        let message = match (is_sent, is_asked) {
            (true, false) => {
                format!("a file of {param} was sent, and another value is asked for: leave one out")
            }
            (false, true) => format!("`uploaded` needs {param} sent with the request"),
            _ => continue,
        };
        faults.push(Fault::new(param, message, forms));
    }
    faults
}

/// A sum over channels, of a model whose input has none.
pub(super) fn channels_fault(options: &RequestedOptions, model: &Model) -> Option<Fault> {
    let refused = options.channels == Channels::Sum && model.manifest.input.preprocess.is_none();
    refused.then(|| {
        Fault::new(
            "channels",
            "the model's input has no channels: it takes no images",
            ["all"],
        )
    })
}

/// The longest side of the pictures of `include=supports`, in pixels.
const MOST_SIDE: u32 = 512;

/// Pictures that would be too large beside one another.
fn strip_fault(options: &HeatmapOptions) -> Option<Fault> {
    let is_large = options.size.is_some_and(|size| size > MOST_SIDE);
    let message = "the pictures of include=supports are smaller: there are many";
    is_large.then(|| {
        Fault::new(
            "size",
            message,
            [format!("{} to {MOST_SIDE}", SIZES.start())],
        )
    })
}

/// Segments are asked for, of methods that rank none; maps of supports, of methods that ask none;
/// standard errors, of methods that estimate nothing; or metrics, of inputs without pixels.
pub(super) fn include_fault<'a>(
    options: &RequestedOptions,
    model: &Model,
    asked: impl IntoIterator<Item = &'a Parameters>,
) -> Option<Fault> {
    let ranks = |parameters: &Parameters| parameters.method.ranks_regions();
    let compares = |parameters: &Parameters| parameters.method.needs(Need::Supports);
    let (mut has_segments, mut has_supports, mut has_errors) = (false, false, false);
    for parameters in asked {
        has_errors |= parameters.method.has_standard_error();
        has_segments |= ranks(parameters);
        has_supports |= compares(parameters);
    }
    let has_pixels = model.manifest.input.preprocess.is_some();
    let message = match options.include {
        Include { segments: true, .. } if !has_segments => {
            "only methods that rank regions have segments"
        }
        Include { supports: true, .. } if !has_supports => {
            "only methods that compare a model with its supports have their maps"
        }
        Include {
            standard_error: true,
            ..
        } if !has_errors => {
            "only methods that estimate scores from random samples have their standard error"
        }
        Include { metrics: true, .. } if !has_pixels => {
            "metrics are of the pixels of a map, and the model takes no images"
        }
        _ => return None,
    };
    let allowed = INCLUDED.iter().filter(|name| match **name {
        "segments" => has_segments,
        "supports" => has_supports,
        "standard_error" => has_errors,
        "heatmap" | "metrics" => has_pixels,
        _ => true,
    });
    Some(Fault::new("include", message, allowed))
}
