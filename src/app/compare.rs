//! One input explained in several ways, points shared: a labelled grid like Figure 1 of the PGIG
//! paper, or a list of answers.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use indexmap::IndexSet;
use serde_json::{Map, Value, json};

use super::{
    App, AppError, Explanation, Input, Uploads,
    explain::{at_size, explanation, tell_log, undrawable},
    format::Format,
    input::{self, Upload},
    options::{Options, RequestedOptions, look},
    plan::{
        AttachedFiles, RequestContext, channels_fault, default_to_files, file_faults, include_fault,
    },
    render::{FRAME_NOTE, RenderedPicture, ends, score, software},
    requested,
    timing::StageTimes,
};
use crate::{
    driver::{self, Driver},
    engine::Caller,
    faults::{Fault, Faults, Reader},
    methods::{
        Explained, Request, gad,
        parameters::{Need, Parameters, renamed},
        registry::{self, AUTO, Scores, undefined},
    },
    model::{Model, manifest::OutputKind},
    picture::{RgbImage, geometry::Geometry},
    render::{
        encode::{FileType, encode},
        frame::Caption,
        grid::{Cell, grid_size, lay_out},
        ground::{Ground, ground_size},
        heatmap::draw,
        legend::Legend,
        options::{HeatmapOptions, SIZES, Scale},
        plane::Bounds,
    },
    text::{excerpt, shown},
};
use onnx_autodiff::autodiff::spec::RuleSetId;

/// The most methods in one request.
pub const MAX_WAYS: usize = 32;
/// Longest side of a picture in the grid where no size is asked for, in pixels.
const CELL: u32 = 256;
/// The largest grid: 24 megapixels, with sides that every type of file can hold.
const MAX_GRID_PIXELS: u64 = 24_000_000;
const MAX_GRID_SIDE: u64 = 16_000;
/// Most pictures in a row of the grid.
const MAX_COLUMNS: usize = 8;

/// A comparison that can be carried out, as far as can be known before its input is read.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub model: Arc<Model>,
    pub ways: Vec<Way>,
    pub options: Options,
}

/// One method of a comparison.
#[derive(Clone, Debug)]
pub struct Way {
    pub parameters: Parameters,
    /// What they were resolved from.
    pub given: Map<String, Value>,
    /// What its pictures look like.
    pub heatmap: HeatmapOptions,
    /// What was asked for it alone, beside the method: `pattern_layers all`.
    pub note: String,
}

/// What a comparison gives.
#[derive(Clone, Debug)]
pub struct Compared {
    /// In the order of the methods; with `top:k`, k for each.
    pub explanations: Vec<Explanation>,
    /// The grid as a file, when it is wanted: in JSON as PNG.
    pub grid: Option<Bytes>,
    /// Evaluations of the model, those that methods shared counted once.
    pub evaluations: usize,
    pub times: StageTimes,
}

impl Compared {
    /// Those of all methods: each with its method in front, or once where every method has it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for one in &self.explanations {
            for warning in &one.warnings {
                let shared = self
                    .explanations
                    .iter()
                    .all(|other| other.warnings.contains(warning));
                let method = one.explained.parameters.method.id;
                let said = if shared {
                    warning.clone()
                } else {
                    format!("{method}: {warning}")
                };
                if !warnings.contains(&said) {
                    warnings.push(said);
                }
            }
        }
        warnings
    }
}

impl App {
    /// As [`App::plan`], with several methods: `method` or `methods` holds ids, or objects with an
    /// id (`method` or `id`) and parameters of their own. Parameters beside them are for every
    /// method that takes them.
    pub fn plan_comparison(
        &self,
        given: Map<String, Value>,
        context: &RequestContext,
    ) -> Result<Comparison, AppError> {
        let mut asked = Reader::new(renamed(given));
        let model = self.take_model(&mut asked);
        let options = RequestedOptions::take(&mut asked);
        let (mut given, mut faults) = asked.rest();
        let mut asked = take_methods(&mut given, &mut faults);
        let refused = match options.format {
            Some(Format::Npy) => Some("maps of different methods may differ in shape"),
            Some(Format::Bundle) => Some("a bundle holds the explanation of one method"),
            _ => None,
        };
        if let Some(message) = refused {
            faults.push(Fault::new(
                "format",
                message,
                ["png", "jpeg", "webp", "json"],
            ));
        }
        let Some(model) = model else {
            return Err(faults.into());
        };
        let facts = driver::model_defaults(&model);
        let mut choices = vec![None; asked.len()];
        for (own, choice) in asked.iter_mut().zip(&mut choices) {
            if own.get("method").is_some_and(|method| method == AUTO)
                && let (Some(method), why) = registry::auto(&facts)
            {
                own.insert("method".to_owned(), json!(method.id));
                *choice = Some(why);
            }
            // As answers state it.
            if let Some(other) = own
                .remove("model")
                .filter(|other| *other != json!(model.id))
            {
                let message = format!(
                    "names the model {}: all methods of a comparison explain the same",
                    shown(&other)
                );
                faults.push(Fault::new("methods", message, [model.id.clone()]));
            }
            faults.extend(requested::differs(own, &model));
        }
        let files = context.files;
        default_to_files(&mut given, files);
        let taken: BTreeSet<&str> = asked
            .iter()
            .flat_map(|own| methods_of(own, &given))
            .flat_map(|method| method.parameters())
            .map(|p| p.name)
            .collect();
        let unknown = given
            .keys()
            .filter(|name| !asked.iter().any(|way| takes(way, &given, name)));
        faults.refuse_unknown(
            unknown,
            "is not a parameter of any of these methods",
            || {
                let options = ["model", "methods"]
                    .into_iter()
                    .chain(requested::names())
                    .chain(RequestedOptions::names());
                let names = taken.iter().copied().chain(options);
                names.map(str::to_owned).collect()
            },
        );
        let (mut ways, mut picture_faults) = (Vec::new(), Faults::default());
        for (place, own) in asked.iter().enumerate() {
            let mut all = own.clone();
            for (name, value) in given.iter().filter(|(name, _)| takes(own, &given, name)) {
                all.entry(name.clone()).or_insert_with(|| value.clone());
            }
            match Parameters::parse(&all, &facts) {
                Ok(parameters) if let Some(fault) = undefined(&parameters, &facts) => {
                    faults.push(Fault {
                        param: format!("methods[{place}]"),
                        ..fault
                    });
                }
                Ok(parameters) => {
                    let choice = choices[place].take();
                    let parameters = Parameters {
                        choice,
                        ..parameters
                    };
                    let attached = AttachedFiles {
                        baseline: files.baseline && parameters.baselines() > 0,
                        segments: files.segments && parameters.needs_segments(),
                        reference: files.reference,
                    };
                    faults.extend(self.setting_fault(&parameters).map(|fault| Fault {
                        param: format!("methods[{place}].{}", fault.param),
                        ..fault
                    }));
                    faults.append(file_faults(&parameters, attached), |fault| fault);
                    match options.heatmap(look(parameters.method)) {
                        Ok(heatmap) => ways.push(Way {
                            parameters,
                            given: all,
                            heatmap,
                            note: note(own),
                        }),
                        Err(found) => picture_faults = found,
                    }
                }
                Err(found) => faults.append(found, |fault| match own.contains_key(&fault.param) {
                    true => Fault {
                        param: format!("methods[{place}].{}", fault.param),
                        ..fault
                    },
                    false => fault,
                }),
            }
        }
        faults.extend(channels_fault(&options, &model));
        faults.extend(include_fault(
            &options,
            &model,
            ways.iter().map(|way| &way.parameters),
        ));
        faults.append(picture_faults, |fault| fault);
        faults.dedup();
        if !faults.is_empty() {
            return Err(faults.into());
        }
        let suited = context.suited(true);
        let format = match options.format {
            Some(format) => format,
            None => match context.accept.choose(suited)? {
                Format::Npy | Format::Bundle => suited,
                format => format,
            },
        };
        Ok(Comparison {
            model,
            ways,
            options: options.with_format(format),
        })
    }

    /// Explains one input in every way.
    pub async fn compare(
        &self,
        plan: Comparison,
        inputs: Vec<Input>,
        uploads: Uploads,
        caller: &Caller,
    ) -> Result<Compared, AppError> {
        let started = Instant::now();
        let methods: Vec<_> = plan
            .ways
            .iter()
            .map(|way| way.parameters.method.id)
            .collect();
        tell_log(&plan.model, Some(&excerpt(&methods.join(","))));
        let mut inputs = self.split(inputs, &plan.model).await?.each;
        let mut faults = Faults::from_iter(undrawable(&plan.options, &inputs));
        if inputs.len() > 1 {
            let message = format!("{} inputs were sent; a comparison takes one", inputs.len());
            faults.push(Fault::new("image", message, ["1"]));
        }
        let Some(input) = inputs.pop().filter(|_| faults.is_empty()) else {
            return Err(faults.into());
        };
        let plan = plan.at_size(&input.model)?;
        let (cost, _) = driver::cost(&plan.model, plan.ways.iter().map(|way| &way.parameters));
        let _admitted = self.admit(&plan.model, "compare", cost, caller).await?;
        let uploads = self.read(uploads, std::slice::from_ref(&input)).await?;
        let sent = uploads.tensors(&input.model);
        let mut prepared = self.prepare(input).await?;
        prepared.warnings.extend(sent.warnings.iter().cloned());
        if let Some(geometry) = &prepared.geometry
            && plan.options.want_picture()
            && let Some(fault) = plan.grid_fault(geometry)
        {
            return Err(Faults::from(fault).into());
        }
        let segments = self.fit_segments(&uploads, &prepared, &plan.model).await?;
        let request = |way: &Way| Request {
            uploaded_baseline: sent
                .baseline
                .clone()
                .filter(|_| way.parameters.baselines() > 0),
            uploaded_segments: segments.clone(),
            uploaded_reference: sent.reference.clone(),
            ..Request::of(way.parameters.clone())
        };
        let requests: Vec<_> = plan.ways.iter().map(request).collect();
        let limit = self.settings().max_interactive_evaluations;
        let tensor = prepared.tensor.clone();
        let answered = Driver::new(self.resources(caller), &plan.model, tensor)
            .explain(&requests, Some(limit))
            .await?;
        let explained: Vec<Explained> = answered.explained.iter().flatten().cloned().collect();
        let metrics = self
            .metrics_of(&plan.options, &plan.model, &prepared, &explained)
            .await?;
        let before_render = Instant::now();
        let (grid, warnings) = match prepared.upload.take().zip(prepared.geometry) {
            Some((upload, geometry)) if plan.options.want_picture() => {
                let room = self.pixels().room(input::area(geometry.upload)).await;
                let (app, plan, explained) = (self.clone(), plan.clone(), answered.explained);
                let draw = move || {
                    let _room = room;
                    app.draw_grid(&plan, (upload, geometry), &explained)
                };
                self.pool().run(draw).await??
            }
            _ => (None, Vec::new()),
        };
        prepared.times.render = before_render.elapsed();
        prepared.times.total = started.elapsed();
        let mut warnings = warnings.into_iter();
        let explanations = explained.into_iter().zip(metrics).map(|(one, metrics)| {
            let picture = RenderedPicture {
                file: None,
                warnings: warnings.next().unwrap_or_default(),
            };
            Explanation {
                metrics,
                ..explanation(&plan.model, &plan.options, &prepared, one, picture)
            }
        });
        let explanations: Vec<Explanation> = explanations.collect();
        Ok(Compared {
            explanations,
            grid,
            evaluations: answered.evaluations,
            times: prepared.times.with_engine(answered.timing),
        })
    }

    /// The grid as a file, and the warnings about each map, in the order of the explanations.
    fn draw_grid(
        &self,
        plan: &Comparison,
        (upload, geometry): (Upload, Geometry),
        explained: &[Vec<Explained>],
    ) -> Result<(Option<Bytes>, Vec<Vec<String>>), AppError> {
        let upload = upload.into_pixels(&input::limits(self.settings()))?;
        let (grid, warnings) = plan.draw(&upload, &geometry, explained)?;
        let file_type = plan.options.file_type().unwrap_or(FileType::Png);
        Ok((
            Some(encode(&grid, file_type, &[software()])?.into()),
            warnings,
        ))
    }
}

impl Comparison {
    /// For the model of the input's size.
    fn at_size(self, model: &Arc<Model>) -> Result<Self, Faults> {
        let way = |way: Way| {
            let parameters = at_size(way.parameters, &way.given, &self.model, model)?;
            Ok(Way { parameters, ..way })
        };
        Ok(Self {
            ways: self
                .ways
                .into_iter()
                .map(way)
                .collect::<Result<_, Faults>>()?,
            model: model.clone(),
            options: self.options,
        })
    }

    /// The grid, and the warnings about each map, in the order of the explanations: as many for
    /// each way.
    pub fn draw(
        &self,
        upload: &RgbImage,
        geometry: &Geometry,
        explained: &[Vec<Explained>],
    ) -> Result<(RgbImage, Vec<Vec<String>>), AppError> {
        // A model that takes images has a rule for them, and a comparison has a way.
        let (Some(rule), Some(first)) = (&self.model.manifest.input.preprocess, self.ways.first())
        else {
            return Ok((RgbImage::new(1, 1), Vec::new()));
        };
        let ground = Ground::new(upload, geometry, &first.heatmap, in_grid)?;
        let (mut drawn, mut legends) = (Vec::new(), Vec::new());
        for looks in self.looks() {
            let answers = || {
                looks
                    .iter()
                    .flat_map(|at| explained[*at].iter().map(move |one| (*at, one)))
            };
            let maps: Vec<_> = answers()
                .map(|(_, one)| one.attribution.scores.clone())
                .collect();
            let ways: Vec<&Way> = looks.iter().map(|at| &self.ways[*at]).collect();
            let heatmaps = draw(&ground, &maps, rule.layout, &ways[0].heatmap)?;
            legends.extend(
                self.grid_legend(&ways, heatmaps.iter().find_map(|heatmap| heatmap.bounds)),
            );
            drawn.extend(answers().map(|(at, _)| at).zip(heatmaps));
        }
        drawn.sort_by_key(|(at, _)| *at);
        let is_framed = drawn.iter().any(|(_, heatmap)| heatmap.overlay.is_framed());
        let rows = explained.first().map_or(0, Vec::len);
        let mut groups: Vec<Vec<Cell>> = vec![Vec::new(); rows];
        for (group, one) in groups.iter_mut().zip(explained.iter().flatten()) {
            let caption = Caption {
                title: one.target.named(self.model.manifest.reading.kind),
                note: score(&one.target),
            };
            group.push(Cell {
                caption,
                picture: ground.pixels.clone().into_owned(),
            });
        }
        let mut warnings = Vec::new();
        for ways in drawn.chunk_by(|(a, _), (b, _)| a == b) {
            for (group, (at, heatmap)) in groups.iter_mut().zip(ways) {
                let Way {
                    parameters, note, ..
                } = &self.ways[*at];
                let caption = Caption {
                    title: parameters.method.short.to_owned(),
                    note: note.clone(),
                };
                group.push(Cell {
                    caption,
                    picture: heatmap.overlay.image(),
                });
                warnings.push(heatmap.warnings.clone());
            }
        }
        let grid = lay_out(
            &groups,
            self.columns(),
            &legends,
            if is_framed { FRAME_NOTE } else { "" },
        )?;
        Ok((grid, warnings))
    }

    /// Pictures in a row of the grid.
    fn columns(&self) -> usize {
        let cells = self.ways.len() + 1;
        match (self.rows(), cells) {
            (2.., _) => cells.min(MAX_COLUMNS),
            // A method and what another makes of it are read side by side.
            (_, ..=3) => cells,
            _ => (cells as f64).sqrt().ceil() as usize,
        }
    }

    /// One for each target.
    fn rows(&self) -> usize {
        self.ways
            .first()
            .map_or(1, |way| way.parameters.target.answers())
    }

    /// Places of ways that are drawn alike: each such set has one legend, and its scale may be
    /// shared.
    fn looks(&self) -> Vec<Vec<usize>> {
        let mut looks: Vec<Vec<usize>> = Vec::new();
        for (at, way) in self.ways.iter().enumerate() {
            let alike = |places: &&mut Vec<usize>| {
                let other = &self.ways[places[0]];
                other.heatmap == way.heatmap && self.meaning(other) == self.meaning(way)
            };
            match looks.iter_mut().find(alike) {
                Some(places) => places.push(at),
                None => looks.push(vec![at]),
            }
        }
        looks
    }

    /// What the colours say of a method's maps.
    fn meaning(&self, way: &Way) -> &'static str {
        let is_class = self.model.manifest.reading.kind == OutputKind::Classes;
        match way.parameters.method.scores {
            Scores::Evidence if is_class => "attribution to the class",
            Scores::Evidence => "attribution to the output",
            Scores::Sensitivity | Scores::Magnitude => "sensitivity to the pixel",
            Scores::Areas => "importance of the area",
        }
    }

    /// Of ways that are drawn alike, where one is wanted.
    fn grid_legend(&self, ways: &[&Way], bounds: Option<Bounds>) -> Option<Legend> {
        let way = ways.first().filter(|way| way.heatmap.legend)?;
        let names: IndexSet<&str> = ways.iter().map(|way| way.parameters.method.short).collect();
        Some(Legend {
            title: self.meaning(way).to_owned(),
            bounds: bounds.filter(|_| way.heatmap.scale == Scale::Shared),
            options: way.heatmap.clone(),
            ends: ends(way.parameters.method, self.model.manifest.reading.kind),
            note: names.into_iter().collect::<Vec<_>>().join(", "),
        })
    }

    /// A grid that would be too large.
    fn grid_fault(&self, geometry: &Geometry) -> Option<Fault> {
        let first = &self.ways.first()?.heatmap;
        let count = (self.ways.len() + 1) * self.rows();
        let is_large = |size: Option<u32>| {
            let picture = ground_size(
                geometry,
                &HeatmapOptions {
                    size,
                    ..first.clone()
                },
                in_grid,
            );
            let (width, height) =
                grid_size(picture, self.rows(), self.ways.len() + 1, self.columns());
            width * height > MAX_GRID_PIXELS || width.max(height) > MAX_GRID_SIDE
        };
        if !is_large(first.size) {
            return None;
        }
        let allowed = SIZES
            .rev()
            .find(|size| !is_large(Some(*size)))
            .map(|most| format!("{} to {most}", SIZES.start()));
        let message = format!(
            "a grid of {count} pictures of this size is too large: ask for smaller ones, or for fewer"
        );
        Some(Fault::new("size", message, allowed))
    }
}

/// The usual longest side of a picture in a grid.
fn in_grid(_: u32) -> u32 {
    CELL
}

/// The methods asked for, each with its own parameters.
fn take_methods(given: &mut Map<String, Value>, faults: &mut Faults) -> Vec<Map<String, Value>> {
    let values = ["method", "methods"]
        .iter()
        .filter_map(|name| given.remove(*name));
    let values = values.flat_map(|value| match value {
        Value::Array(values) => values,
        one => vec![one],
    });
    // No id has a comma.
    let values: Vec<Value> = values
        .flat_map(|value| match value {
            Value::String(ids) => ids.split(',').map(|id| json!(id.trim())).collect(),
            one => vec![one],
        })
        .take(MAX_WAYS + 1)
        .collect();
    let mut refuse = |message: String| {
        faults.push(Fault::new(
            "methods",
            message,
            registry::METHODS.iter().map(|method| method.id),
        ));
    };
    if values.is_empty() || values.len() > MAX_WAYS {
        refuse(format!(
            "name from 1 to {MAX_WAYS} methods: method=pgig,gradient, method=pgig&method=gradient, or a JSON list `methods`"
        ));
        return Vec::new();
    }
    let mut asked = Vec::new();
    for value in values {
        match value {
            Value::String(id) => {
                asked.push(Map::from_iter([("method".to_owned(), Value::String(id))]))
            }
            Value::Object(mut own) => {
                if let Some(id) = own.remove("id")
                    && own
                        .insert("method".to_owned(), id.clone())
                        .is_some_and(|method| method != id)
                {
                    refuse(format!(
                        "{} has another id than method: give one of them",
                        shown(&id)
                    ));
                }
                own.retain(|_, value| !value.is_null());
                asked.push(renamed(own));
            }
            other => refuse(format!(
                "{other} is neither a method's id nor an object with one"
            )),
        }
    }
    asked
}

/// The method that is asked for, and its base.
fn methods_of(
    own: &Map<String, Value>,
    given: &Map<String, Value>,
) -> Vec<&'static registry::Method> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let method = own
        .get("method")
        .and_then(text)
        .and_then(|id| registry::find(&id));
    let base = method.filter(|method| method.needs(Need::Base)).map(|_| {
        let asked = own.get("base").or_else(|| given.get("base"));
        asked
            .and_then(text)
            .unwrap_or_else(|| gad::DEFAULT_BASE.to_owned())
    });
    let base = base.and_then(|id| registry::base(&id));
    method.into_iter().chain(base).collect()
}

/// Whether a method, as it is asked for, takes a parameter that is given for all: `pattern_layers`
/// is for rule sets with patterns.
fn takes(own: &Map<String, Value>, given: &Map<String, Value>, name: &str) -> bool {
    let methods = methods_of(own, given);
    let is_taken = |name: &str| methods.iter().any(|method| method.takes(name));
    let asked = own
        .get("rule_set")
        .or_else(|| given.get("rule_set").filter(|_| is_taken("rule_set")));
    let rule_set = asked
        .and_then(|id| serde_json::from_value(id.clone()).ok())
        .or_else(|| methods.last()?.rule_set);
    is_taken(name) && (name != "pattern_layers" || rule_set.is_some_and(RuleSetId::needs_patterns))
}

fn note(own: &Map<String, Value>) -> String {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let parts = own
        .iter()
        .filter(|(name, _)| *name != "method")
        .map(|(name, value)| format!("{name} {}", text(value)));
    parts.collect::<Vec<_>>().join(", ")
}
