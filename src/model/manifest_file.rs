//! Reads `model.toml` into a [`Manifest`]: missing fields are inferred from the graph; every fault
//! is reported with what is allowed. Defaults: an input of rank 4 with 1 or 3 channels is an image,
//! with ImageNet's mean and std on pixels / 255, short side resized to 256/224 of the input, centre
//! crop; a symbolic side is 224; integer inputs get pixels 0 to 255; the head is `probabilities`,
//! or `logits` when there is one output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    fixed::Given,
    manifest::{Input, Manifest, OpenSize, OutputKind, Reading, Scores, SizeSource},
    resized::LARGEST_SIDE,
};
use crate::{
    faults::{Fault, Faults, Reader},
    picture::preprocess::{self, Channels, Filter, Layout, Preprocess, Resize, pixel_range},
};
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers},
    onnx::graph::{Dim, Element, Graph, ValueInfo},
};

const SYMBOLIC_SIDE: usize = 224;
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// One number for all, or one per channel.
#[derive(Deserialize)]
#[serde(untagged)]
enum Each<T> {
    All(T),
    List(Vec<T>),
}

impl<T> Each<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::All(one) => std::slice::from_ref(one),
            Self::List(list) => list,
        }
    }
}

/// The field `size`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Sides(Each<usize>),
    /// `"image"`: each image's own.
    Named(String),
}

/// A manifest whose fields that depend on the output are still open.
#[derive(Clone)]
pub(super) struct Draft {
    input: Input,
    assumed: Option<String>,
    head: Option<Explains>,
    pattern_layers: Option<PatternLayers>,
    output: Option<String>,
    scores: Option<Scores>,
    layer: Option<String>,
    /// Of the inputs that are not explained.
    pub fixed: BTreeMap<String, Given>,
    /// The table `outputs`.
    others: BTreeMap<String, Output>,
}

/// What the table `outputs` says of an output.
#[derive(Clone, Copy)]
struct Output {
    head: Option<Explains>,
    scores: Option<Scores>,
}

/// The field `head`: what is explained where a request does not say, which also says what the output
/// means.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Explains {
    Logits,
    Probabilities,
    Regression,
    Embedding,
}

const HEADS: &[&str] = &[
    "\"probabilities\"",
    "\"logits\"",
    "\"regression\"",
    "\"embedding\"",
];
const SCORES: &[&str] = &["\"probabilities\"", "\"logits\"", "\"multi_label\""];

/// What model.toml says of the ends of the graph.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub input: &'a str,
    pub output: Option<&'a str>,
    pub scores: Option<Scores>,
    pub kind: OutputKind,
}

impl Draft {
    pub(super) fn ends(&self) -> Ends<'_> {
        Ends {
            input: &self.input.name,
            output: self.output.as_deref(),
            scores: self.scores,
            kind: self.kind(),
        }
    }

    /// Of another output.
    pub(super) fn of_output(&self, name: &str) -> Self {
        let said = self.others.get(name);
        Self {
            output: Some(name.to_owned()),
            head: said.and_then(|said| said.head),
            scores: said.and_then(|said| said.scores),
            layer: None,
            ..self.clone()
        }
    }

    /// The layer that the file names.
    pub(super) fn layer(&self) -> Option<&String> {
        self.layer.as_ref()
    }

    /// Whether the table `outputs` says something of it.
    pub(super) fn names_output(&self, name: &str) -> bool {
        self.others.contains_key(name)
    }

    fn kind(&self) -> OutputKind {
        match self.head {
            Some(Explains::Regression) => OutputKind::Regression,
            Some(Explains::Embedding) => OutputKind::Embedding,
            Some(Explains::Logits | Explains::Probabilities) | None => OutputKind::Classes,
        }
    }

    /// Completes it for the graph with its final output. The layer is the one that the file names.
    pub(super) fn finish(self, graph: &Graph) -> Manifest {
        let reading = Reading {
            kind: self.kind(),
            scores: self.scores,
            ..Reading::default()
        };
        Manifest {
            head: match self.head {
                None => default_head(graph),
                Some(Explains::Probabilities) => Head::Probabilities,
                Some(_) => Head::Logits,
            },
            reading,
            input: self.input,
            assumed: self.assumed,
            pattern_layers: self.pattern_layers.unwrap_or(PatternLayers::All),
            output: self.output,
            layer: self.layer,
        }
    }
}

/// Of a field that is not of the format.
const UNKNOWN: &str = "unknown field";

/// The input's `shape` in `text`, for graphs that store none; faults are told by [`read`].
pub(super) fn input_shape(text: &str) -> Option<Vec<usize>> {
    let table: Table = text.parse().ok()?;
    let shape = table.get("input")?.get("shape")?.clone();
    shape.try_into().ok()
}

/// Reads `text` (empty when there is no file) for `graph`, and writes the sizes that it fixes into
/// the graph's input.
pub(super) fn read(text: &str, graph: &mut Graph) -> Result<Draft, Faults> {
    let draft = read_draft(text, graph)?;
    fix_sizes(graph, &draft.input);
    Ok(draft)
}

/// The text of a manifest file that says all that `manifest` does, so that nothing is assumed. The
/// output, what it holds and the other inputs are left out: a served graph has one of each, and ends
/// as its scores do.
pub fn to_toml(manifest: &Manifest) -> String {
    let Manifest {
        input,
        head,
        pattern_layers,
        output: _,
        reading,
        layer,
        assumed: _,
    } = manifest;
    let mut table = Table::new();
    match reading.kind {
        OutputKind::Classes => put(&mut table, "head", head),
        kind => put(&mut table, "head", kind),
    }
    put(&mut table, "pattern_layers", pattern_layers);
    put(&mut table, "layer", layer);
    let mut fields = Table::new();
    put(&mut fields, "name", &input.name);
    match &input.preprocess {
        None => put(&mut fields, "shape", &input.shape),
        Some(rule) => {
            put(&mut fields, "size", [rule.height, rule.width]);
            put(&mut fields, "layout", rule.layout);
            put(&mut fields, "channels", rule.channels);
            put(&mut fields, "scale", decimal(rule.scale));
            put(
                &mut fields,
                "mean",
                rule.mean.iter().copied().map(decimal).collect::<Vec<_>>(),
            );
            put(
                &mut fields,
                "std",
                rule.std.iter().copied().map(decimal).collect::<Vec<_>>(),
            );
            put(&mut fields, "resize", rule.resize);
            put(&mut fields, "filter", rule.filter);
        }
    }
    table.insert("input".into(), Value::Table(fields));
    table.to_string()
}

/// None is left out.
fn put(table: &mut Table, name: &str, value: impl Serialize) {
    if let Ok(value) = Value::try_from(value) {
        table.insert(name.into(), value);
    }
}

/// The shortest decimal that reads back as the number: 0.485, not 0.48500001430511475.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn read_draft(text: &str, graph: &Graph) -> Result<Draft, Faults> {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            return Err(Fault::new("", error.to_string().trim_end(), ["TOML"]).into());
        }
    };
    let mut fields = Reader::of_toml(&table);
    let head = fields.take::<Explains>("head", HEADS, |_| true);
    let pattern_layers = fields.take::<PatternLayers>(
        "pattern_layers",
        &[
            "\"all\"",
            "\"inner\"",
            "\"except_first\"",
            "\"except_last\"",
            "{ named = [nodes] }",
        ],
        |_| true,
    );
    let outputs: Vec<&str> = graph
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    let output = fields.take("output", &outputs, |name: &String| {
        outputs.contains(&name.as_str())
    });
    let scores = take_scores(&mut fields, head);
    let others = read_outputs(&mut fields, &outputs);
    let layer = fields.take("layer", &["the name of a value of the graph"], |_| true);
    let fixed = read_fixed(&mut fields, graph);
    let input = fields.object("input");
    let absent = ["mean", "std", "resize"].map(|key| (!input.has(key)).then_some(key));
    let mut faults = fields.finish(UNKNOWN);
    let (resolved, found) = read_input(input, graph, &fixed);
    faults.append(found, |fault| fault);
    match resolved {
        Some(resolved) if faults.is_empty() => {
            let absent = absent.into_iter().flatten();
            // Images that keep their size are not resized.
            let absent = absent.filter(|key| *key != "resize" || !resolved.is_of_image());
            let absent: Vec<_> = absent.collect();
            let assumed = assumed(&resolved, &absent, graph);
            Ok(Draft {
                input: resolved,
                assumed,
                head,
                pattern_layers,
                output,
                scores,
                layer,
                fixed,
                others,
            })
        }
        _ => Err(faults),
    }
}

fn take_scores(fields: &mut Reader, head: Option<Explains>) -> Option<Scores> {
    let scores = fields.take::<Scores>("scores", SCORES, |_| true);
    if scores.is_some() && matches!(head, Some(Explains::Regression | Explains::Embedding)) {
        let message = "scores are of classes, and head says that the output is none";
        fields.refuse("scores", message, &["leave it out"]);
    }
    scores
}

/// The table `outputs`: for outputs that requests may ask for, `head` and `scores`.
fn read_outputs(fields: &mut Reader, names: &[&str]) -> BTreeMap<String, Output> {
    let tables = match fields.raw("outputs") {
        None => return BTreeMap::new(),
        Some(serde_json::Value::Object(tables)) => tables,
        Some(_) => {
            fields.refuse("outputs", "is not a table", &["[outputs.NAME]"]);
            return BTreeMap::new();
        }
    };
    let mut outputs = BTreeMap::new();
    for (name, table) in tables {
        let param = format!("outputs.{name}");
        let serde_json::Value::Object(table) = table else {
            fields.refuse(&param, "is not a table", &["[outputs.NAME]"]);
            continue;
        };
        if !names.contains(&name.as_str()) {
            fields.refuse(&param, "the graph has no such output", names);
            continue;
        }
        let mut own = Reader::new(table);
        let head = own.take::<Explains>("head", HEADS, |_| true);
        let scores = take_scores(&mut own, head);
        fields.faults.append(own.finish(UNKNOWN), |fault| Fault {
            param: format!("{param}.{}", fault.param),
            ..fault
        });
        outputs.insert(name, Output { head, scores });
    }
    outputs
}

fn default_head(graph: &Graph) -> Head {
    let one_class = |output: &ValueInfo| {
        output
            .value_type
            .shape
            .iter()
            .skip(1)
            .all(|dim| *dim == Dim::Known(1))
    };
    if graph.outputs.first().is_some_and(one_class) {
        Head::Logits
    } else {
        Head::Probabilities
    }
}

/// Describes the image preprocessing that the table `input` leaves out (`absent`), and the defaults
/// in `resolved`.
fn assumed(resolved: &Input, absent: &[&str], graph: &Graph) -> Option<String> {
    let rule = resolved.preprocess.as_ref()?;
    let is_integer = graph
        .inputs
        .iter()
        .any(|info| info.name == resolved.name && !info.value_type.element.is_float());
    let is_plain = is_integer || [Channels::Gray, Channels::Rgba].contains(&rule.channels);
    let values = match (is_plain, absent.contains(&"mean"), absent.contains(&"std")) {
        (_, false, false) => None,
        (true, true, true) => Some("mean 0 and std 1"),
        (true, true, false) => Some("mean 0"),
        (true, false, true) => Some("std 1"),
        (_, true, true) => Some("ImageNet's mean and std"),
        (_, true, false) => Some("ImageNet's mean"),
        (_, false, true) => Some("ImageNet's std"),
    };
    let resize = absent.contains(&"resize").then(|| match rule.resize {
        Resize::ShortSide(side) => format!("a short side of {side} with a centre crop"),
        Resize::Stretch => format!("stretching to {} x {}", rule.width, rule.height),
        Resize::Pad => "padding".to_owned(),
    });
    let instead: Vec<String> = values
        .map(str::to_owned)
        .into_iter()
        .chain(resize)
        .collect();
    let said = || {
        format!(
            "model.toml does not give {}: assumed {}",
            absent.join(", "),
            instead.join(", and ")
        )
    };
    (!absent.is_empty()).then(said)
}

/// Makes every dimension of the input but the batch a number.
fn fix_sizes(graph: &mut Graph, input: &Input) {
    if let Some(info) = graph.inputs.iter_mut().find(|info| info.name == input.name) {
        for (dim, size) in info.value_type.shape.iter_mut().skip(1).zip(&input.shape) {
            *dim = Dim::Known(*size);
        }
    }
}

/// The inputs that the file stores no value of.
fn open_inputs(graph: &Graph) -> Vec<&ValueInfo> {
    let inputs = graph.inputs.iter();
    inputs
        .filter(|input| !graph.initializers.contains_key(&input.name))
        .collect()
}

/// The table `inputs`: for each input that is not explained, `value` or `file`.
fn read_fixed(fields: &mut Reader, graph: &Graph) -> BTreeMap<String, Given> {
    let Some(found) = fields.raw("inputs") else {
        return BTreeMap::new();
    };
    let names: Vec<&str> = open_inputs(graph)
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    let forms = &[
        "{ value = number }",
        "{ value = [numbers] }",
        "{ file = \"NAME.npy\" }",
    ];
    let serde_json::Value::Object(found) = found else {
        fields.refuse("inputs", "is not a table", &["[inputs.NAME]"]);
        return BTreeMap::new();
    };
    let mut fixed = BTreeMap::new();
    for (name, value) in found {
        let param = format!("inputs.{name}");
        let finite = |number: &f64| number.is_finite();
        let given = match serde_json::from_value::<Fixed>(value) {
            Ok(Fixed::Value {
                value: Each::All(number),
            }) if finite(&number) => Some(Given::Number(number)),
            Ok(Fixed::Value {
                value: Each::List(list),
            }) if list.iter().all(finite) => Some(Given::List(list)),
            Ok(Fixed::File { file }) => Some(Given::File(file)),
            _ => None,
        };
        match given {
            _ if !names.contains(&name.as_str()) => {
                fields.refuse(&param, "the graph has no such input", &names);
            }
            None => fields.refuse(&param, "is not the value of an input", forms),
            Some(given) => {
                fixed.insert(name, given);
            }
        }
    }
    fixed
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Fixed {
    Value { value: Each<f64> },
    File { file: String },
}

/// The input that is explained: the named one, or the only one whose value is not `fixed`.
fn read_input(
    mut fields: Reader,
    graph: &Graph,
    fixed: &BTreeMap<String, Given>,
) -> (Option<Input>, Faults) {
    let all = open_inputs(graph);
    let inputs: Vec<_> = all
        .iter()
        .filter(|input| !fixed.contains_key(&input.name))
        .copied()
        .collect();
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let named = fields.take("name", &names, |name: &String| {
        names.contains(&name.as_str())
    });
    let info = match (&named, inputs.as_slice()) {
        (Some(name), _) => inputs.iter().find(|input| input.name == *name).copied(),
        (None, [only]) => Some(*only),
        (None, []) => {
            let message = "[inputs] gives every input of the graph: one has to be explained";
            fields.refuse("name", message, &["leave one out of [inputs]"]);
            None
        }
        (None, _) => {
            let message = format!(
                "the graph has {} inputs: name the one to explain here, and give the others a value, such as [inputs.{}] with value = 0",
                all.len(),
                toml_key(names.last().copied().unwrap_or_default())
            );
            fields.refuse("name", message, &names);
            None
        }
    };
    if named.is_some() {
        for other in names.iter().filter(|name| named.as_deref() != Some(**name)) {
            let message = format!(
                "input {other} has no value: say [inputs.{}] with value = 0, or file = \"NAME.npy\"",
                toml_key(other)
            );
            fields.refuse("name", message, &[]);
        }
    }
    let layout = fields.take::<Layout>("layout", &["\"nchw\"", "\"nhwc\""], |_| true);
    let size = fields.take::<Size>(
        "size",
        &[
            "a side, or [height, width], each 1 to 16384",
            "\"image\": each image's own",
        ],
        |size| match size {
            Size::Named(name) => name == "image",
            Size::Sides(sides) => {
                let sides = sides.as_slice();
                (1..=2).contains(&sides.len())
                    && sides.iter().all(|side| (1..=LARGEST_SIDE).contains(side))
            }
        },
    );
    let shape = fields.take::<Vec<usize>>(
        "shape",
        &["one number from 1 for every dimension but the batch"],
        |shape| shape.iter().all(|size| *size > 0),
    );
    let pixels = Pixels::take(&mut fields);
    let input = info.and_then(|info| resolve(&mut fields, info, layout, size, shape, pixels));
    (input, fields.finish(UNKNOWN))
}

/// The fields of `[input]` for images.
struct Pixels {
    channels: Option<Channels>,
    scale: Option<f32>,
    mean: Option<Each<f32>>,
    std: Option<Each<f32>>,
    resize: Option<Resize>,
    filter: Option<Filter>,
}

impl Pixels {
    fn take(fields: &mut Reader) -> Self {
        let numbers = "a number, or one for each channel";
        let filters = &["\"nearest\"", "\"bilinear\"", "\"bicubic\"", "\"lanczos\""];
        let largest = LARGEST_SIDE as u32;
        Self {
            channels: fields.take(
                "channels",
                &["\"rgb\"", "\"bgr\"", "\"gray\"", "\"rgba\""],
                |_| true,
            ),
            scale: fields.take("scale", &["a number that is not 0"], |scale: &f32| {
                scale.is_finite() && *scale != 0.0
            }),
            mean: fields.take("mean", &[numbers], |mean: &Each<f32>| {
                mean.as_slice().iter().all(|m| m.is_finite())
            }),
            std: fields.take("std", &[&format!("{numbers}, above 0")], |std: &Each<f32>| {
                std.as_slice().iter().all(|s| s.is_finite() && *s > 0.0)
            }),
            resize: fields.take(
                "resize",
                &["\"stretch\"", "\"pad\"", "{ short_side = pixels }"],
                |resize| !matches!(resize, Resize::ShortSide(side) if !(1..=largest).contains(side)),
            ),
            filter: fields.take("filter", filters, |_| true),
        }
    }

    fn any(&self) -> bool {
        let Self {
            channels,
            scale,
            mean,
            std,
            resize,
            filter,
        } = self;
        let given = [
            channels.is_some(),
            scale.is_some(),
            mean.is_some(),
            std.is_some(),
        ];
        given.contains(&true) || resize.is_some() || filter.is_some()
    }

    fn resolve(
        self,
        fields: &mut Reader,
        layout: Layout,
        channel_count: usize,
        sides: [usize; 2],
        element: Element,
    ) -> Preprocess {
        let channels = self.channels.unwrap_or(if channel_count == 1 {
            Channels::Gray
        } else {
            Channels::Rgb
        });
        if preprocess::channel_count(channels) != channel_count {
            let allowed: &[&str] = match channel_count {
                1 => &["\"gray\""],
                4 => &["\"rgba\""],
                _ => &["\"rgb\"", "\"bgr\""],
            };
            let message = format!("the graph's input has {channel_count} channel(s)");
            fields.refuse("channels", message, allowed);
        }
        let as_they_are = !element.is_float();
        let [mean, std] = match channels {
            _ if as_they_are => [vec![0.0; channel_count], vec![1.0; channel_count]],
            Channels::Rgb => [IMAGENET_MEAN.to_vec(), IMAGENET_STD.to_vec()],
            Channels::Bgr => {
                [IMAGENET_MEAN, IMAGENET_STD].map(|values| values.into_iter().rev().collect())
            }
            Channels::Gray | Channels::Rgba => [vec![0.0; channel_count], vec![1.0; channel_count]],
        };
        let mut per_channel = |key, given: Option<Each<f32>>, default: Vec<f32>| match given {
            None => default,
            Some(Each::All(one)) => vec![one; channel_count],
            Some(Each::List(list)) => {
                if list.len() != channel_count {
                    let allowed = format!("a number, or a list of {channel_count}");
                    let message = format!("{} numbers for {channel_count} channel(s)", list.len());
                    fields.refuse(key, message, &[&allowed]);
                }
                list
            }
        };
        let [height, width] = sides;
        let default_resize = if height == width {
            Resize::ShortSide((height as f64 * 256.0 / 224.0).round() as u32)
        } else {
            Resize::Stretch
        };
        let rule = Preprocess {
            width: width as u32,
            height: height as u32,
            layout,
            channels,
            scale: self
                .scale
                .unwrap_or(if as_they_are { 1.0 } else { 1.0 / 255.0 }),
            mean: per_channel("mean", self.mean, mean),
            std: per_channel("std", self.std, std),
            resize: self.resize.unwrap_or(default_resize),
            filter: self.filter.unwrap_or(Filter::Bilinear),
        };
        let unsigned = [
            Element::Uint8,
            Element::Uint16,
            Element::Uint32,
            Element::Uint64,
        ]
        .contains(&element);
        let most = if element == Element::Uint8 {
            255.0
        } else {
            f32::INFINITY
        };
        let range = pixel_range(&rule);
        if let Some((black, white)) = range
            .into_iter()
            .find(|&(black, white)| unsigned && (black.min(white) < 0.0 || black.max(white) > most))
        {
            let problem = format!(
                "the graph's input is {element}, and these make {black} to {white} of pixels"
            );
            fields.refuse(
                "mean",
                problem,
                &["leave out mean, std and scale: pixels stay 0 to 255"],
            );
        }
        rule
    }
}

fn resolve(
    fields: &mut Reader,
    info: &ValueInfo,
    layout: Option<Layout>,
    size: Option<Size>,
    shape: Option<Vec<usize>>,
    pixels: Pixels,
) -> Option<Input> {
    let Some((_, dims)) = info.value_type.shape.split_first() else {
        fields.refuse(
            "name",
            format!("{} has no batch dimension", info.name),
            &["an input whose first dimension is the batch"],
        );
        return None;
    };
    if let Some(shape) = &shape {
        let fits = shape.len() == dims.len()
            && dims
                .iter()
                .zip(shape)
                .all(|(dim, size)| dim.known().is_none_or(|known| known == *size));
        if !fits {
            fields.refuse(
                "shape",
                format!("{shape:?} does not fit the graph's input"),
                &[&show(dims)],
            );
            return None;
        }
    }
    let dims = match shape {
        Some(shape) => shape.into_iter().map(Dim::Known).collect(),
        None => dims.to_vec(),
    };
    match image_axes(&dims, layout, pixels.channels) {
        Some((layout, channel_count, axes)) => {
            let own = axes.map(|axis| &dims[axis]);
            let chosen_by = match size {
                Some(Size::Named(_)) => SizeSource::Image,
                Some(Size::Sides(_)) | None => SizeSource::Model,
            };
            let sides = resolve_sides(fields, own, size)?;
            let open = own.map(|dim| dim.known().is_none());
            let open = open.contains(&true).then_some(OpenSize {
                sides: open,
                chosen_by,
                is_chosen: false,
            });
            let shape = match layout {
                Layout::Nchw => vec![channel_count, sides[0], sides[1]],
                Layout::Nhwc => vec![sides[0], sides[1], channel_count],
            };
            let rule = Some(pixels.resolve(
                fields,
                layout,
                channel_count,
                sides,
                info.value_type.element,
            ));
            Some(Input {
                name: info.name.clone(),
                shape,
                preprocess: rule,
                open,
            })
        }
        None => {
            if pixels.any() || layout.is_some() || size.is_some() {
                let problem = format!("the graph's input {} is no image", show(&dims));
                fields.refuse(
                    "layout",
                    problem,
                    &["three dimensions beside the batch, with 1 or 3 channels first or last, or 4 with channels = \"rgba\""],
                );
            }
            let known = dims.iter().map(Dim::known).collect::<Option<Vec<_>>>();
            if known.is_none() {
                fields.refuse(
                    "shape",
                    format!("the graph's input {} has symbolic sizes", show(&dims)),
                    &["shape = [sizes]"],
                );
            }
            Some(Input {
                name: info.name.clone(),
                shape: known?,
                preprocess: None,
                open: None,
            })
        }
    }
}

/// Layout, number of channels, and the axes of height and width, if the input can be an image. Four
/// channels may be anything, and are those of a picture where the file says so.
fn image_axes(
    dims: &[Dim],
    layout: Option<Layout>,
    named: Option<Channels>,
) -> Option<(Layout, usize, [usize; 2])> {
    let [first, _, last] = dims else { return None };
    let counts: &[usize] = match named {
        Some(Channels::Rgba) => &[4, 1, 3],
        _ => &[1, 3],
    };
    let channels = |dim: &Dim| dim.known().filter(|count| counts.contains(count));
    let nchw = || Some((Layout::Nchw, channels(first)?, [1, 2]));
    let nhwc = || Some((Layout::Nhwc, channels(last)?, [0, 1]));
    match layout {
        Some(Layout::Nchw) => nchw(),
        Some(Layout::Nhwc) => nhwc(),
        None => nchw().or_else(nhwc),
    }
}

fn resolve_sides(fields: &mut Reader, dims: [&Dim; 2], size: Option<Size>) -> Option<[usize; 2]> {
    if matches!(size, Some(Size::Named(_))) && dims.iter().all(|dim| dim.known().is_some()) {
        let message = format!(
            "the graph's input is {} x {}, and takes no other",
            dims[0], dims[1]
        );
        fields.refuse("size", message, &["leave it out"]);
        return None;
    }
    let given = size.and_then(|size| match size {
        Size::Named(_) => None,
        Size::Sides(sides) => Some(match sides.as_slice() {
            [height, width] => [*height, *width],
            sides => [sides.first().copied().unwrap_or(SYMBOLIC_SIDE); 2],
        }),
    });
    let sides = [0, 1].map(|at| {
        dims[at]
            .known()
            .or(given.map(|given| given[at]))
            .unwrap_or(SYMBOLIC_SIDE)
    });
    if let Some(given) = given.filter(|given| *given != sides) {
        fields.refuse(
            "size",
            format!("{given:?}, but the graph's input is {sides:?}"),
            &[&format!("{sides:?}"), "leave it out"],
        );
        return None;
    }
    Some(sides)
}

/// A key as TOML writes it.
fn toml_key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

fn show(dims: &[Dim]) -> String {
    let names = dims.iter().map(|dim| match dim {
        Dim::Known(size) => size.to_string(),
        Dim::Symbol(name) => name.clone(),
    });
    format!("[{}]", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_autodiff::onnx::graph::ValueType;

    fn graph(input: &[Dim], classes: usize) -> Graph {
        let value = |name: &str, dims: Vec<Dim>| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, dims),
        };
        let mut dims = vec![Dim::Symbol("N".into())];
        dims.extend_from_slice(input);
        Graph {
            name: String::new(),
            opset_imports: Default::default(),
            inputs: vec![value("pixels", dims)],
            outputs: vec![value(
                "scores",
                vec![Dim::Symbol("N".into()), Dim::Known(classes)],
            )],
            nodes: vec![],
            ..Graph::default()
        }
    }

    fn known(sizes: [usize; 3]) -> Vec<Dim> {
        sizes.map(Dim::Known).to_vec()
    }

    fn read(text: &str, graph: &Graph) -> Result<Manifest, Faults> {
        Ok(super::read(text, &mut graph.clone())?.finish(graph))
    }

    #[test]
    fn without_a_file_all_is_inferred_from_the_graph() {
        let manifest = read("", &graph(&known([3, 224, 224]), 1000)).unwrap();
        let preprocess = manifest.input.preprocess.unwrap();
        assert_eq!(
            (manifest.input.name.as_str(), manifest.input.shape),
            ("pixels", vec![3, 224, 224])
        );
        assert_eq!(
            (preprocess.layout, preprocess.channels),
            (Layout::Nchw, Channels::Rgb)
        );
        assert_eq!(preprocess.resize, Resize::ShortSide(256));
        assert_eq!(
            (manifest.head, manifest.pattern_layers),
            (Head::Probabilities, PatternLayers::All)
        );
        let assumed = "model.toml does not give mean, std, resize: assumed ImageNet's mean and std, and a short side of 256 with a \
                       centre crop";
        assert_eq!(manifest.assumed.as_deref(), Some(assumed));
    }

    #[test]
    fn a_written_manifest_reads_back_as_itself_and_nothing_is_assumed() {
        let photo = graph(&known([3, 224, 224]), 1000);
        let text = "head = 'logits'\npattern_layers = { named = ['a'] }\nlayer = 'b'\n[input]\nmean = [0.485, 0.456, 0.406]\nscale = 0.003\n\
                    channels = 'bgr'\nresize = { short_side = 300 }\nfilter = 'bicubic'";
        let gray = graph(&known([96, 128, 1]), 1);
        let numbers = graph(&[Dim::Known(2)], 1);
        for (text, graph) in [("", &photo), (text, &photo), ("", &gray), ("", &numbers)] {
            let manifest = read(text, graph).unwrap();
            let expected = Manifest {
                assumed: None,
                ..manifest.clone()
            };
            assert_eq!(read(&to_toml(&manifest), graph).unwrap(), expected);
        }
    }

    #[test]
    fn only_what_the_file_leaves_out_is_assumed() {
        let assumed = |text: &str, sizes| read(text, &graph(&known(sizes), 9)).unwrap().assumed;
        let photo = [3, 224, 224];
        assert_eq!(
            assumed("[input]\nmean = 0.5\nstd = 0.5\nresize = 'pad'", photo),
            None
        );
        let std = "model.toml does not give std: assumed ImageNet's std";
        assert_eq!(
            assumed("[input]\nmean = 0.5\nresize = 'pad'", photo).as_deref(),
            Some(std)
        );
        let resize =
            "model.toml does not give resize: assumed a short side of 256 with a centre crop";
        assert_eq!(
            assumed("[input]\nmean = 0.5\nstd = 1", photo).as_deref(),
            Some(resize)
        );
        let grey = "model.toml does not give mean, std, resize: assumed mean 0 and std 1, and stretching to 128 x 96";
        assert_eq!(assumed("", [1, 96, 128]).as_deref(), Some(grey));
        assert_eq!(read("", &graph(&[Dim::Known(2)], 1)).unwrap().assumed, None);
    }

    #[test]
    fn channels_at_the_end_are_nhwc_and_one_output_means_logits() {
        let manifest = read("", &graph(&known([96, 128, 1]), 1)).unwrap();
        let preprocess = manifest.input.preprocess.unwrap();
        assert_eq!(
            (preprocess.layout, preprocess.channels),
            (Layout::Nhwc, Channels::Gray)
        );
        assert_eq!(
            (preprocess.height, preprocess.width, preprocess.resize),
            (96, 128, Resize::Stretch)
        );
        assert_eq!(manifest.head, Head::Logits);
    }

    #[test]
    fn symbolic_sides_come_from_the_manifest_or_are_224_and_are_written_into_the_graph() {
        let dims = [
            Dim::Known(3),
            Dim::Symbol("h".into()),
            Dim::Symbol("w".into()),
        ];
        let mut graph = graph(&dims, 10);
        assert_eq!(read("", &graph).unwrap().input.shape, [3, 224, 224]);
        super::read("[input]\nsize = [32, 48]", &mut graph).unwrap();
        assert_eq!(graph.inputs[0].value_type.shape[1..], known([3, 32, 48]));
    }

    #[test]
    fn the_shape_of_an_input_is_known_before_the_graph() {
        assert_eq!(
            input_shape("[input]\nshape = [3, 8, 8]"),
            Some(vec![3, 8, 8])
        );
        for none in [
            "",
            "[input]\nsize = 8",
            "shape = [3]",
            "[input]\nshape = 'x'",
            "[",
        ] {
            assert_eq!(input_shape(none), None, "{none}");
        }
    }

    #[test]
    fn pixels_of_an_integer_input_stay_as_they_are() {
        let mut graph = graph(&known([3, 8, 8]), 10);
        graph.inputs[0].value_type.element = Element::Uint8;
        let preprocess = read("", &graph).unwrap().input.preprocess.unwrap();
        assert_eq!(
            (preprocess.scale, preprocess.mean, preprocess.std),
            (1.0, vec![0.0; 3], vec![1.0; 3])
        );
        let preprocess = read("[input]\nscale = 0.5", &graph)
            .unwrap()
            .input
            .preprocess
            .unwrap();
        assert_eq!(preprocess.scale, 0.5);
        for text in [
            "scale = 2.0",
            "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]",
            "mean = 127.5",
        ] {
            let faults = read(&format!("[input]\n{text}"), &graph).unwrap_err();
            assert!(
                faults.to_string().contains("the graph's input is uint8"),
                "{text}: {}",
                "{faults}"
            );
        }
    }

    #[test]
    fn a_net_over_two_numbers_takes_tensors_only() {
        let manifest = read("", &graph(&[Dim::Known(2)], 1)).unwrap();
        assert_eq!(
            (manifest.input.shape, manifest.input.preprocess),
            (vec![2], None)
        );
    }

    #[test]
    fn every_fault_of_a_manifest_is_told_at_once() {
        let text = "head = 'softmax'\nlabel = 1\n[input]\nname = 'x'\nfilter = 'cubic'\nstd = [0, 1, 1]\nmean = [1, 2]\nsize = 128";
        let faults = read(text, &graph(&known([3, 224, 224]), 10)).unwrap_err();
        let paths = |faults: &Faults| {
            let faults = faults.shown().iter();
            faults.map(|fault| fault.param.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths(&faults),
            [
                "head",
                "label",
                "input.name",
                "input.std",
                "input.filter",
                "input.size"
            ]
        );
        assert_eq!(faults.shown()[2].allowed, ["pixels"]);
        let faults = read(
            "[input]\nmean = [1, 2]\nchannels = 'gray'",
            &graph(&known([3, 8, 8]), 10),
        )
        .unwrap_err();
        assert_eq!(paths(&faults), ["input.channels", "input.mean"]);
    }
}
