//! The picture of an explanation: its heat map, what is said around it, and the texts that the file
//! carries.

use std::sync::Arc;

use bytes::Bytes;
use image::RgbImage;
use serde_json::{Map, Value};

use super::{
    App, AppError,
    input::{self, Upload},
    plan::Plan,
};
use crate::{
    driver::DriverError,
    engine::{Caller, EngineError},
    methods::{
        ComparedMaps, Explained, ExplainedTarget, Prediction,
        registry::{Method, Scores},
    },
    model::{Model, manifest::OutputKind},
    picture::{geometry::Geometry, preprocess::Layout},
    render::{
        encode::{FileType, MOST_TEXT, Text, encode},
        frame::{Caption, frame},
        grid::{Cell, lay_out},
        ground::{Ground, alone},
        heatmap::{Heatmap, draw},
        legend::Legend,
        options::{HeatmapOptions, Scale},
    },
    tensor::Tensor,
    text::printable,
};

/// The most bytes of the texts of one file.
pub const MOST_TEXT_BYTES: u64 = 8 * (MOST_TEXT as u64 + 128);

/// Below legends of pictures with a frame.
pub const FRAME_NOTE: &str = "frame: the part that the network saw";

/// Longest side of each picture of a strip where no size is asked for, in pixels.
const STRIP_SIDE: u32 = 256;
/// Most pictures in a row of a strip.
const STRIP_COLUMNS: usize = 6;

/// A file, and what is odd about the map on it.
#[derive(Debug, Default)]
pub struct RenderedPicture {
    pub file: Option<Bytes>,
    pub warnings: Vec<String>,
}

impl App {
    /// The picture of each explanation, where the plan wants one.
    pub(super) async fn render(
        &self,
        plan: &Plan,
        model: &Arc<Model>,
        upload: Option<(Upload, Geometry)>,
        explained: &[Explained],
        caller: &Caller,
    ) -> Result<Vec<RenderedPicture>, AppError> {
        let Some((upload, geometry)) = upload.filter(|_| plan.options.want_picture()) else {
            return Ok(explained
                .iter()
                .map(|_| RenderedPicture::default())
                .collect());
        };
        let (model, options, limits) = (
            model.clone(),
            plan.heatmap.clone(),
            input::limits(self.settings()),
        );
        let file_type = plan.options.file_type().unwrap_or(FileType::Png);
        let is_strip = plan.options.include.supports;
        let explained = explained.to_vec();
        let gone = caller.cancel.clone();
        let go_on = move || match gone.is_cancelled() {
            true => Err(DriverError::from(EngineError::Cancelled).into()),
            false => Ok(()),
        };
        let room = self.pixels().room(input::area(geometry.upload)).await;
        self.pool()
            .run(move || {
                let _room = room;
                go_on()?;
                let upload = upload.into_pixels(&limits)?;
                if is_strip {
                    let upload = (&upload, &geometry);
                    return strips(upload, &model, &explained, &options, file_type, go_on);
                }
                pictures(
                    (&upload, &geometry),
                    &model,
                    &explained,
                    &options,
                    file_type,
                    go_on,
                )
            })
            .await?
    }
}

/// A picture for each explanation of one upload. `go_on` is asked in between: a large picture takes
/// long, and its caller may leave.
pub fn pictures(
    (upload, geometry): (&RgbImage, &Geometry),
    model: &Model,
    explained: &[Explained],
    options: &HeatmapOptions,
    file_type: FileType,
    go_on: impl Fn() -> Result<(), AppError>,
) -> Result<Vec<RenderedPicture>, AppError> {
    let Some(rule) = &model.manifest.input.preprocess else {
        return Ok(Vec::new());
    };
    go_on()?;
    let ground = Ground::new(upload, geometry, options, alone)?;
    go_on()?;
    let maps: Vec<_> = explained
        .iter()
        .map(|one| one.attribution.scores.clone())
        .collect();
    let drawn = draw(&ground, &maps, rule.layout, options)?;
    let finish = |(heatmap, one): (Heatmap<'_>, &Explained)| {
        go_on()?;
        let caption = options.caption.then(|| caption(model, one));
        let legend = options
            .legend
            .then(|| legend(&heatmap, model, one, options));
        let picture = frame(heatmap.overlay.image(), caption.as_ref(), legend.as_slice())?;
        let file = encode(&picture, file_type, &texts(model, one))?;
        Ok(RenderedPicture {
            file: Some(file.into()),
            warnings: heatmap.warnings,
        })
    };
    drawn.into_iter().zip(explained).map(finish).collect()
}

/// As [`pictures`], each with the maps that the method compared.
fn strips(
    upload: (&RgbImage, &Geometry),
    model: &Model,
    explained: &[Explained],
    options: &HeatmapOptions,
    file_type: FileType,
    go_on: impl Fn() -> Result<(), AppError>,
) -> Result<Vec<RenderedPicture>, AppError> {
    let Some(rule) = &model.manifest.input.preprocess else {
        return Ok(Vec::new());
    };
    let draw = |one: &Explained| {
        go_on()?;
        let Some(compared) = &one.attribution.compared else {
            return Ok(RenderedPicture::default());
        };
        let kind = model.manifest.reading.kind;
        let (picture, warnings) = strip(upload, one, compared, (rule.layout, kind), options)?;
        let file = encode(&picture, file_type, &texts(model, one))?;
        Ok(RenderedPicture {
            file: Some(file.into()),
            warnings,
        })
    };
    explained.iter().map(draw).collect()
}

/// A picture for each map, those of the supports by alpha, and what the method makes of them: like
/// Figure 3 of the GAD paper.
fn strip(
    (upload, geometry): (&RgbImage, &Geometry),
    explained: &Explained,
    compared: &ComparedMaps,
    (layout, kind): (Layout, OutputKind),
    options: &HeatmapOptions,
) -> Result<(RgbImage, Vec<String>), AppError> {
    let parameters = &explained.parameters;
    let by_support = compared.supports.iter();
    let by_support = by_support.map(|(alpha, map)| (format!("support α = {alpha}"), map));
    let result = (
        parameters.method.short.to_owned(),
        &explained.attribution.scores,
    );
    let maps: Vec<(String, &Arc<Tensor>)> = [("model".to_owned(), &compared.own)]
        .into_iter()
        .chain(by_support)
        .chain([result])
        .collect();
    let ground = Ground::new(upload, geometry, options, |_| STRIP_SIDE)?;
    let scores: Vec<_> = maps.iter().map(|(_, map)| (*map).clone()).collect();
    let drawn = draw(&ground, &scores, layout, options)?;
    let base = parameters.base.map_or("", |base| base.short);
    let cells = maps.iter().zip(&drawn).map(|((title, _), heatmap)| Cell {
        caption: Caption {
            title: title.clone(),
            note: base.to_owned(),
        },
        picture: heatmap.overlay.image(),
    });
    let legend = options.legend.then(|| Legend {
        title: format!("sensitivity of {}", explained.target.named(kind)),
        bounds: drawn
            .first()
            .and_then(|heatmap| heatmap.bounds)
            .filter(|_| options.scale == Scale::Shared),
        options: options.clone(),
        ends: ends(parameters.method, kind),
        note: String::new(),
    });
    let is_framed = drawn.iter().any(|heatmap| heatmap.overlay.is_framed());
    let note = if is_framed { FRAME_NOTE } else { "" };
    let columns = maps.len().min(STRIP_COLUMNS);
    let picture = lay_out(&[cells.collect()], columns, legend.as_slice(), note)?;
    let warnings = drawn
        .last()
        .map_or_else(Vec::new, |heatmap| heatmap.warnings.clone());
    Ok((picture, warnings))
}

fn caption(model: &Model, explained: &Explained) -> Caption {
    let method = explained.parameters.method;
    if !method.asks_model() {
        return Caption {
            title: method.title.to_owned(),
            note: format!("the same for every class · {}", model.id),
        };
    }
    let is_surrogate = method.rule_set.is_some() && model.is_surrogate();
    Caption {
        title: explained.target.named(model.manifest.reading.kind),
        // Not beside the label, which may run from right to left.
        note: format!(
            "{} · {}{} · {}",
            score(&explained.target),
            method.short,
            if is_surrogate { " (surrogate)" } else { "" },
            model.id
        ),
    }
}

fn legend(
    heatmap: &Heatmap<'_>,
    model: &Model,
    explained: &Explained,
    options: &HeatmapOptions,
) -> Legend {
    let (method, kind) = (explained.parameters.method, model.manifest.reading.kind);
    let target = explained.target.named(kind);
    let about = match method.scores {
        // The same whatever the class.
        _ if !method.asks_model() => "no class is looked at".to_owned(),
        Scores::Evidence | Scores::Areas => format!("attribution to {target}"),
        Scores::Sensitivity | Scores::Magnitude => format!("sensitivity of {target}"),
    };
    // A caption names the method already.
    let title = if options.caption {
        about
    } else {
        format!("{}: {about}", method.short)
    };
    let frame = heatmap.overlay.is_framed().then(|| FRAME_NOTE.to_owned());
    let note = heatmap
        .blank
        .iter()
        .cloned()
        .chain(frame)
        .collect::<Vec<_>>()
        .join("; ");
    Legend {
        title,
        bounds: heatmap.bounds,
        options: options.clone(),
        ends: ends(method, kind),
        note,
    }
}

/// What negative and positive scores of a method are called.
pub fn ends(method: &Method, kind: OutputKind) -> [&'static str; 2] {
    match method.scores {
        Scores::Evidence if kind != OutputKind::Classes => ["lowers", "raises"],
        Scores::Evidence => ["against", "for"],
        Scores::Sensitivity | Scores::Magnitude | Scores::Areas => ["negative", "positive"],
    }
}

/// Three decimals, or what is left of smaller scores; of a contrast both.
pub fn score(target: &ExplainedTarget) -> String {
    let text = |class: &Prediction| match class.score {
        tiny if tiny != 0.0 && tiny.abs() < 0.001 => format!("{tiny:.1e}"),
        score => format!("{score:.3}"),
    };
    let scores = [Some(&target.class), target.against.as_ref()]
        .into_iter()
        .flatten()
        .map(text);
    scores.collect::<Vec<_>>().join(" - ")
}

/// Which program made a file.
pub fn software() -> Text {
    (
        "Software",
        concat!("explaind ", env!("CARGO_PKG_VERSION")).to_owned(),
    )
}

/// What a PNG says of itself: enough to make it again.
fn texts(model: &Model, explained: &Explained) -> Vec<Text> {
    let method = explained.parameters.method;
    let mut parameters = Map::from_iter([("model".to_owned(), Value::from(model.id.as_str()))]);
    parameters.extend(explained.parameters.to_json());
    let target = explained.target.named(model.manifest.reading.kind);
    let title = match method.asks_model() {
        true => format!("{}: attribution to {target}", method.title),
        false => method.title.to_owned(),
    };
    let texts = [
        ("Title", title),
        software(),
        ("Model", model.id.clone()),
        ("Model SHA-256", model.hash.clone()),
        ("Method", method.id.to_owned()),
        ("Target", target),
        ("Score", explained.target.class.score.to_string()),
        ("Parameters", Value::Object(parameters).to_string()),
    ];
    texts
        .map(|(keyword, text)| (keyword, printable(&text)))
        .into()
}
