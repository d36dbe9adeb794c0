//! Answers several explanation requests for one input together: resolves targets on the clean
//! input, drives one run per request and target, and collects the attributions. The clean input is
//! evaluated once: by a run that asks for it, otherwise by the forward graph.

use std::sync::Arc;

use futures::future::BoxFuture;
use ndarray::Array2;

use super::{Driver, DriverError, Effort, prepare};
use crate::{
    engine::{GraphKey, Point, Row},
    faults::{Fault, Faults},
    incremental::Plan,
    methods::{
        Explained, ExplainedTarget, MethodRun, Prediction, Request, RunInputs, Timing, doubts, gad,
        head_value,
        parameters::{Facts, Need, Parameters, lrp::attn_lrp_fault},
        target::{ResolvedTarget, Target, ranked},
    },
    model::{Model, labels::Classes, manifest::OutputKind},
    picture::preprocess::Layout,
    tensor::Tensor,
    text::counted,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

/// The number of predictions in an answer.
const TOP: usize = 5;

/// The result of [`Driver::explain`].
#[derive(Clone, Debug)]
pub struct Explanations {
    /// For each request, in order, one explanation per target.
    pub explained: Vec<Vec<Explained>>,
    /// Rows that the engine evaluated; less than the sum over the explanations if they share
    /// points.
    pub evaluations: usize,
    pub timing: Timing,
}

/// The facts about a model that [`Parameters::parse`] needs.
pub fn model_defaults(model: &Model) -> Facts<'_> {
    Facts {
        model: &model.id,
        head: model.manifest.head,
        kind: model.manifest.reading.kind,
        pattern_layers: &model.manifest.pattern_layers,
        classes: Classes {
            labels: &model.labels,
            count: model.classes(),
        },
        has_patterns: model.patterns.is_some(),
        layers: &model.layers,
        layer: model.manifest.layer.as_deref(),
        attention: model.attention.as_ref().map_err(String::as_str),
        supports: &model.supports,
        input: &model.manifest.input,
        graph: &model.graph,
        rule_sets: &model.rule_sets,
    }
}

/// The cost of explaining one input with all these parameters, in evaluations, and whether the
/// clean input has to be evaluated first: for targets that depend on its logits, for models whose
/// number of classes only an evaluation shows, and for methods that ask about inputs near it.
pub fn cost<'a>(
    model: &Model,
    ways: impl Iterator<Item = &'a Parameters> + Clone,
) -> (usize, bool) {
    let first = model.classes().is_none()
        || ways
            .clone()
            .any(|parameters| parameters.target.needs_logits())
        || Parameters::change_of(ways.clone()).is_some();
    let references = ways
        .clone()
        .filter(|parameters| parameters.target == Target::Reference)
        .count();
    (Parameters::cost_of(ways, first) + references, first)
}

/// A run's request, target and parameters, kept for its answer.
struct Way {
    /// Index of the request.
    request: usize,
    target: ResolvedTarget,
    seed: Arc<[(usize, f32)]>,
    parameters: Arc<Parameters>,
    /// Warnings about data sets with too few images for the baselines.
    shortages: Vec<String>,
}

impl Driver<'_> {
    /// Explains the input for each request: one explanation, or k for the target `top:k`. Fails if
    /// the cost of all requests, counted without sharing, exceeds `max_evaluations`.
    pub async fn explain(
        &self,
        requests: &[Request],
        max_evaluations: Option<usize>,
    ) -> Result<Explanations, DriverError> {
        for Request { parameters, .. } in requests {
            self.check(parameters).await?;
            if let Some(fault) = attn_lrp_fault(parameters).filter(|_| !self.resources.attn_lrp) {
                return Err(Faults::from(fault).into());
            }
        }
        let ways = requests.iter().map(|request| &request.parameters);
        let (cost, first) = cost(&self.model, ways);
        if let Some(limit) = max_evaluations
            && cost > limit
        {
            return Err(DriverError::TooCostly { cost, limit });
        }
        self.prepare_plan(requests).await?;
        let (clean, mut before) = match first {
            true => {
                let (row, effort) = self.clean_row().await?;
                (Some(row), effort)
            }
            false => (None, Effort::default()),
        };
        let mut inputs = Vec::new();
        let mut ways = Vec::new();
        let luma = self.luma(requests).await?;
        for (at, request) in requests.iter().enumerate() {
            let parameters = &request.parameters;
            if let Some(row) = clean {
                check_classes(&self.model, parameters, row.logits.len())?;
            }
            let (common, shortages) = self.inputs_of(request).await?;
            let reference = match parameters.target {
                Target::Reference => self.embedding(request, &mut before).await?,
                _ => Vec::new(),
            };
            let (logits, scores) =
                clean.map_or((&[][..], &[][..]), |row| (&row.logits[..], row.scores()));
            let targets = parameters.target.resolve(logits, scores);
            if targets.is_empty() {
                return Err(DriverError::NoneAbove(none_above(scores)));
            }
            for target in targets {
                let seed: Arc<[(usize, f32)]> = target.seed(&reference).into();
                let parameters = Arc::new(Parameters {
                    target: target.target(),
                    ..parameters.clone()
                });
                inputs.push(RunInputs {
                    input_value: clean.map(|row| head_value(row, parameters.head, &seed)),
                    seed: seed.clone(),
                    luma: luma.clone().filter(|_| parameters.needs(Need::Luma)),
                    parameters: parameters.clone(),
                    ..common.clone()
                });
                ways.push(Way {
                    request: at,
                    target,
                    seed: seed.clone(),
                    parameters,
                    shortages: shortages.clone(),
                });
            }
        }
        let build = |inputs: RunInputs| -> MethodRun { (inputs.parameters.method.build)(inputs) };
        let driven = self.drive(inputs.into_iter().map(build).collect()).await?;
        let (clean, last) = self.clean_row().await?;
        before.add(&last);
        let mut effort = driven.effort;
        effort.add(&before);
        let is_surrogate = self.model.is_surrogate();
        let mut explained: Vec<Vec<Explained>> = requests.iter().map(|_| Vec::new()).collect();
        for (way, (mut attribution, mut own)) in ways.into_iter().zip(driven.outputs) {
            own.add(&before);
            let mut doubts = doubts::about(&attribution);
            if is_surrogate {
                doubts.extend(doubts::saturated(&attribution, &way.parameters));
            }
            attribution
                .warnings
                .extend(way.shortages.into_iter().chain(doubts));
            explained[way.request].push(Explained {
                target: ExplainedTarget::of(&self.model, clean, way.target, &way.seed),
                predictions: Prediction::best(&self.model, clean, TOP),
                parameters: way.parameters,
                attribution,
                timing: own.timing,
                evaluations: own.evaluations,
            });
        }
        Ok(Explanations {
            explained,
            evaluations: effort.evaluations,
            timing: effort.timing,
        })
    }

    /// [`Self::explain`] as a boxed future, because runs may ask for explanations: the recursion
    /// needs a type of known size.
    pub(super) fn explain_boxed<'b>(
        &'b self,
        requests: &'b [Request],
    ) -> BoxFuture<'b, Result<Explanations, DriverError>> {
        Box::pin(self.explain(requests, None))
    }

    async fn check(&self, parameters: &Parameters) -> Result<(), DriverError> {
        let model = &self.model;
        check_shape(model, &self.input)?;
        let method = parameters.method;
        if let Some(rule_set) = parameters.rule_set
            && rule_set.needs_patterns()
            && model.patterns.is_none()
        {
            let asked = model.clone();
            let fault = move || asked.rule_set_fault(rule_set);
            return Err(match self.resources.pool.run(fault).await? {
                Some(fault) => self.undefined(model, fault).await?,
                None => DriverError::PatternsMissing {
                    model: model.id.clone(),
                    method: method.id,
                    rule_set: rule_set.id(),
                },
            });
        }
        if parameters.needs_picture() && model.manifest.input.preprocess.is_none() {
            return Err(DriverError::NoPicture {
                model: model.id.clone(),
                method: method.id,
            });
        }
        if let Some(count) = model.classes() {
            check_classes(model, parameters, count)?;
        }
        Ok(())
    }

    /// Plans incremental passes for the methods that ask about inputs near the clean one.
    async fn prepare_plan(&self, requests: &[Request]) -> Result<(), DriverError> {
        let ways = requests.iter().map(|request| &request.parameters);
        if let Some(change) = Parameters::change_of(ways) {
            let model = self.model.clone();
            let plan = move || Plan::of(&model, change);
            let plan = async || self.resources.pool.run(plan).await;
            self.incremental.get_or_try_init(plan).await?;
        }
        Ok(())
    }

    /// Of what goes with the request, to which the input is compared.
    async fn embedding(
        &self,
        request: &Request,
        effort: &mut Effort,
    ) -> Result<Vec<f32>, DriverError> {
        let fault = |message: &str| Faults::from(Fault::new("target", message, ["an index"]));
        if self.model.manifest.reading.kind != OutputKind::Embedding {
            let message = "only embeddings are compared: this model's output is none (head = \"embedding\" in model.toml says that one is)";
            return Err(fault(message).into());
        }
        let Some(reference) = &request.uploaded_reference else {
            let message = "`reference` needs the image to compare with, sent as reference";
            return Err(fault(message).into());
        };
        check_shape(&self.model, reference)?;
        let graph = GraphKey::new(self.model.clone(), DeriveSpec::forward());
        let point = Point::forward(reference.clone());
        let (rows, spent) = self.evaluate(&graph, vec![point]).await?;
        effort.add(&spent);
        let row = rows.into_iter().next().filter(Row::is_finite);
        row.map(|row| row.logits).ok_or_else(|| self.not_finite())
    }

    async fn luma(&self, requests: &[Request]) -> Result<Option<Arc<Array2<f32>>>, DriverError> {
        let needed = requests
            .iter()
            .any(|request| request.parameters.needs(Need::Luma));
        if !needed {
            return Ok(None);
        }
        let (model, input) = (self.model.clone(), self.input.clone());
        let luma = move || prepare::luma(&model, &input).map(Arc::new);
        Ok(self.resources.pool.run(luma).await?)
    }

    /// The inputs that all runs of a request share, and warnings about their baselines.
    async fn inputs_of(&self, request: &Request) -> Result<(RunInputs, Vec<String>), DriverError> {
        let pictures = self.resources.pictures;
        prepare::bring_baselines(request, pictures).await?;
        let (model, input, request) = (self.model.clone(), self.input.clone(), request.clone());
        let pictures = pictures.cloned();
        let parameters = &request.parameters;
        let supports = match gad::supports(parameters) {
            Some(set) => prepare::supports(&self.model, &set, self.resources.supports).await?,
            None => Arc::default(),
        };
        let is_work = parameters.needs(Need::Baselines) || parameters.needs_segments();
        let resolve = move || {
            let segmentation = prepare::segmentation(&model, &input, &request)?;
            let (baselines, shortages) = prepare::baselines(
                &model,
                &input,
                &request,
                &segmentation.regions,
                pictures.as_ref(),
            )?;
            let rule = model.manifest.input.preprocess.as_ref();
            let inputs = RunInputs {
                baselines,
                segmentation,
                layout: rule.map_or(Layout::Nchw, |rule| rule.layout),
                luma: None,
                input_value: None,
                seed: Arc::new([]),
                supports,
                parameters: Arc::new(request.parameters),
                model,
                input,
            };
            Ok::<_, DriverError>((inputs, shortages))
        };
        match is_work {
            true => self.resources.pool.run(resolve).await?,
            false => resolve(),
        }
    }
}

pub(super) fn check_shape(model: &Model, tensor: &Tensor) -> Result<(), DriverError> {
    let expected = &model.manifest.input.shape;
    if tensor.shape() == expected.as_slice() {
        return Ok(());
    }
    Err(DriverError::Shape {
        model: model.id.clone(),
        expected: expected.clone(),
        found: tensor.shape().to_vec(),
    })
}

/// Of a threshold that no class exceeds.
fn none_above(scores: &[f32]) -> Faults {
    let best = ranked(scores).into_iter().next();
    let best = best.and_then(|class| Some((class, scores.get(class)?)));
    let best = best.map_or_else(String::new, |(class, score)| {
        format!(": the best, class {class}, has {score}")
    });
    let message = format!("no class has a score above that{best}");
    Fault::new("target", message, ["a lower score", "predicted"]).into()
}

/// What a target asks of a model whose output has `count` values.
pub fn check_classes(model: &Model, parameters: &Parameters, count: usize) -> Result<(), Faults> {
    let kind = model.manifest.reading.kind;
    let mut faults = Faults::default();
    if parameters
        .target
        .largest()
        .is_some_and(|index| index >= count)
        || matches!(parameters.target, Target::Top(k) if k > count)
    {
        let message = match kind {
            OutputKind::Classes => format!("the model has {count} classes"),
            OutputKind::Regression | OutputKind::Embedding => {
                format!("the model's output has {}", counted(count, "value"))
            }
        };
        faults.push(Fault {
            param: "target".into(),
            message,
            allowed: vec![format!("0 to {}", count.saturating_sub(1))],
        });
    }
    if kind != OutputKind::Classes && parameters.target.needs_logits() && count > 1 {
        let message = format!(
            "none of the {count} values of the model's output is predicted, as a class is: name one{}",
            match kind {
                OutputKind::Embedding => ", or send an image to compare with as reference",
                OutputKind::Classes | OutputKind::Regression => "",
            }
        );
        let allowed = ["an index (0 or index:0)", "a label", "a difference a-b"];
        let reference = (kind == OutputKind::Embedding).then_some("reference");
        faults.push(Fault::new(
            "target",
            message,
            allowed.into_iter().chain(reference),
        ));
    }
    faults.extend(parameters.probability_fault(kind, Some(count)));
    faults.settle(())
}
