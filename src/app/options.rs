//! How an answer is given: its format and encoding, and the options of the picture.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;

use super::format::Format;
use crate::{
    faults::{Fault, Faults, Reader},
    methods::registry::{Method, Scores},
    render::{
        encode::FileType,
        options::{HeatmapOptions, Look, OptionFault},
    },
    text::shown,
};

/// How the answer of a request is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub format: Format,
    pub encoding: Encoding,
    pub include: Include,
    pub channels: Channels,
}

/// What a request asks for: of the answer, and of its picture.
#[derive(Clone, Debug, Default)]
pub struct RequestedOptions {
    /// `None` leaves it to what the caller accepts, and then to the kind of input.
    pub format: Option<Format>,
    pub encoding: Encoding,
    pub include: Include,
    pub channels: Channels,
    /// What the picture shall look like, as it was asked for; [`RequestedOptions::heatmap`] has the
    /// rest.
    picture: Vec<(&'static str, String)>,
}

/// How JSON holds the values of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Base64,
    List,
}

/// What JSON holds beside the numbers about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    pub attribution: bool,
    pub heatmap: bool,
    pub segments: bool,
    pub metrics: bool,
    pub supports: bool,
    pub standard_error: bool,
}

impl Default for Include {
    fn default() -> Self {
        Self {
            attribution: true,
            ..Self::NONE
        }
    }
}

impl Include {
    const NONE: Self = Self {
        attribution: false,
        heatmap: false,
        segments: false,
        metrics: false,
        supports: false,
        standard_error: false,
    };

    /// Names, in a list or joined by commas. `none` stands alone.
    fn read(value: &Value) -> Option<Self> {
        let texts: Vec<&str> = match value {
            Value::String(text) => vec![text],
            Value::Array(texts) => texts.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let names: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).collect();
        let mut found = Self::NONE;
        for name in &names {
            match name.trim().to_ascii_lowercase().as_str() {
                "attribution" => found.attribution = true,
                "heatmap" => found.heatmap = true,
                "segments" => found.segments = true,
                "metrics" => found.metrics = true,
                "supports" => found.supports = true,
                "standard_error" => found.standard_error = true,
                "none" if names.len() == 1 => {}
                _ => return None,
            }
        }
        (!names.is_empty()).then_some(found)
    }
}

/// How many channels an attribution has in JSON and npy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    #[default]
    All,
    /// One: their sum.
    Sum,
}

/// One row of the table of options that are not the picture's.
#[derive(Debug)]
pub struct AnswerOption {
    pub name: &'static str,
    pub doc: &'static str,
    pub allowed: &'static [&'static str],
    pub default: Option<&'static str>,
    /// Whether several values may be given: repeated in a query or form, a list in JSON, or joined
    /// by commas.
    pub is_list: bool,
    set: fn(&mut RequestedOptions, Value) -> Option<()>,
}

/// What `include` may name.
pub const INCLUDED: &[&str] = &[
    "attribution",
    "heatmap",
    "segments",
    "metrics",
    "supports",
    "standard_error",
    "none",
];

pub static OPTIONS: &[AnswerOption] = &[
    AnswerOption {
        name: "format",
        doc: "Format of the answer: a picture, JSON, an npy array, or a bundle (of POST /explain): a zip of what was sent, the answer as JSON, npy and \
              PNG, and the hashes and versions it was made by, which `explaind rerun` makes again and compares. Default: what the Accept header \
              asks for, else png for a body that is an image, and json for all others.",
        allowed: &["png", "jpeg", "webp", "json", "npy", "bundle"],
        default: None,
        is_list: false,
        set: |options, value| read(value).map(|format| options.format = Some(format)),
    },
    AnswerOption {
        name: "encoding",
        doc: "How JSON represents arrays: base64 of little-endian values, or nested lists.",
        allowed: &["base64", "list"],
        default: Some("base64"),
        is_list: false,
        set: |options, value| read(value).map(|encoding| options.encoding = encoding),
    },
    AnswerOption {
        name: "include",
        doc: "What a JSON answer holds beside target, scores and warnings: the attribution, the heat map (a base64 PNG), the segments (regions \
              of methods that rank them), the metrics (those that take the map alone: GET /metrics-catalogue), the maps by the model and by each \
              of its supports (of gad; npy answers and pictures have them beside the map too), the standard_error of each score (of methods that \
              estimate them from random samples), or none of these. Several are repeated, or \
              joined by commas.",
        allowed: INCLUDED,
        default: Some("attribution"),
        is_list: true,
        set: |options, value| {
            options.include = Include::read(&value)?;
            Some(())
        },
    },
    AnswerOption {
        name: "channels",
        doc: "The channels of the attribution in JSON and npy answers: all of the model's input, or one that is their sum.",
        allowed: &["all", "sum"],
        default: Some("all"),
        is_list: false,
        set: |options, value| read(value).map(|channels| options.channels = channels),
    },
];

/// In any letter case.
fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    let text = value.as_str()?.to_ascii_lowercase();
    serde_json::from_value(Value::String(text)).ok()
}

impl RequestedOptions {
    pub fn names() -> impl Iterator<Item = &'static str> {
        OPTIONS
            .iter()
            .map(|option| option.name)
            .chain(HeatmapOptions::NAMES.iter().copied())
    }

    /// Takes the options out of what was given.
    pub fn take(given: &mut Reader) -> Self {
        let mut options = Self::default();
        for option in OPTIONS {
            if let Some(value) = given.raw(option.name)
                && (option.set)(&mut options, value.clone()).is_none()
            {
                let message = format!("{} is not allowed", shown(&value));
                given.refuse(option.name, message, option.allowed);
            }
        }
        options.picture = HeatmapOptions::NAMES
            .iter()
            .filter_map(|name| match given.raw(name)? {
                Value::String(text) => Some((*name, text)),
                other => Some((*name, other.to_string())),
            })
            .collect();
        options
    }

    /// What a picture looks like: as asked for, and in the rest as the look has it.
    pub fn heatmap(&self, look: Look) -> Result<HeatmapOptions, Faults> {
        let asked = self
            .picture
            .iter()
            .map(|(name, text)| (*name, text.as_str()));
        HeatmapOptions::parse(asked, look).map_err(|found| {
            let fault = |fault: OptionFault| Fault::new(fault.param, fault.message, fault.allowed);
            Faults::from_iter(found.into_iter().map(fault))
        })
    }

    pub fn with_format(self, format: Format) -> Options {
        let Self {
            encoding,
            include,
            channels,
            ..
        } = self;
        Options {
            format,
            encoding,
            include,
            channels,
        }
    }
}

impl Options {
    /// Whether anything of the answer is the picture.
    pub fn want_picture(&self) -> bool {
        self.include.heatmap || self.file_type().is_some() || self.format == Format::Bundle
    }

    /// Whether the answer states metrics, which only JSON has room for.
    pub fn want_metrics(&self) -> bool {
        self.include.metrics && matches!(self.format, Format::Json | Format::Bundle)
    }

    /// Of the answer, where it is a picture.
    pub fn file_type(&self) -> Option<FileType> {
        self.format.file_type()
    }
}

/// What a method's maps look like by default.
pub fn look(method: &Method) -> Look {
    match method.scores {
        Scores::Evidence => Look::Signed,
        Scores::Sensitivity | Scores::Magnitude => Look::Strength,
        Scores::Areas => Look::Areas,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(
        given: Value,
    ) -> (
        RequestedOptions,
        serde_json::Map<String, Value>,
        Vec<String>,
    ) {
        let mut given = Reader::new(given.as_object().unwrap().clone());
        let options = RequestedOptions::take(&mut given);
        let (given, faults) = given.rest();
        (
            options,
            given,
            faults
                .shown()
                .iter()
                .map(|fault| fault.param.clone())
                .collect(),
        )
    }

    #[test]
    fn options_are_taken_and_the_rest_is_left() {
        let given = json!({"format": "json", "include": "heatmap", "alpha": 0.5, "clip_percent_lowerbound": "10", "n_steps": 3});
        let (options, rest, faults) = take(given);
        let heatmap = options.heatmap(Look::Areas).unwrap();
        assert_eq!(
            (options.format, options.include.heatmap, heatmap.alpha),
            (Some(Format::Json), true, 0.5)
        );
        assert_eq!(Value::Object(rest), json!({"n_steps": 3}));
        assert!(faults.is_empty() && options.with_format(Format::Json).want_picture());
    }

    #[test]
    fn what_is_included_is_named_in_any_way_and_replaces_the_default() {
        let include = |value: Value| {
            let (options, _, faults) = take(json!({ "include": value }));
            let Include {
                attribution,
                heatmap,
                segments,
                metrics,
                ..
            } = options.include;
            faults
                .is_empty()
                .then_some([attribution, heatmap, segments, metrics])
        };
        let (options, ..) = take(json!({ "include": "attribution,supports" }));
        assert!(options.include.supports && options.include.attribution);
        assert_eq!(
            Include::default(),
            Include {
                attribution: true,
                heatmap: false,
                segments: false,
                metrics: false,
                supports: false,
                standard_error: false
            }
        );
        for (value, expected) in [
            (json!("heatmap"), Some([false, true, false, false])),
            (
                json!("attribution, segments"),
                Some([true, false, true, false]),
            ),
            (
                json!(["segments", "heatmap", "attribution", "metrics"]),
                Some([true; 4]),
            ),
            (
                json!(["segments,heatmap", "attribution"]),
                Some([true, true, true, false]),
            ),
            (json!("metrics"), Some([false, false, false, true])),
            (json!("Metrics, HEATMAP"), Some([false, true, false, true])),
            (json!("none"), Some([false; 4])),
            (json!("none,heatmap"), None),
            (json!("everything"), None),
            (json!(""), None),
            (json!([]), None),
            (json!([1]), None),
        ] {
            assert_eq!(include(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn options_are_taken_in_any_letter_case() {
        let given = json!({"format": "JPEG", "encoding": "List", "channels": "SUM"});
        let (options, _, faults) = take(given);
        assert_eq!(
            (options.format, options.encoding, options.channels),
            (Some(Format::Jpeg), Encoding::List, Channels::Sum)
        );
        assert!(faults.is_empty());
    }

    #[test]
    fn faults_of_answers_and_of_pictures_are_told() {
        let (options, _, faults) =
            take(json!({"format": "gif", "encoding": 7, "type": "DOTS", "size": 0}));
        assert_eq!(faults, ["format", "encoding"]);
        let faults = options.heatmap(Look::Signed).unwrap_err();
        assert_eq!(
            faults
                .shown()
                .iter()
                .map(|fault| fault.param.as_str())
                .collect::<Vec<_>>(),
            ["type", "size"]
        );
    }
}
