//! How an answer is given: its format and encoding, and the options of the picture.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    methods::{Fault, Faults},
    render::options::HeatmapOptions,
    text::shown,
};

/// The options of one request.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `None` leaves it to the `Accept` header, and then to the kind of input.
    pub format: Option<Format>,
    pub encoding: Encoding,
    /// JSON answers carry the picture too.
    pub include_heatmap: bool,
    /// JSON answers tell the regions of the map.
    pub include_segments: bool,
    pub heatmap: HeatmapOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Png,
    Json,
    Npy,
}

/// How JSON holds the values of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Base64,
    List,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Include {
    Heatmap,
    Segments,
    #[serde(rename = "heatmap,segments")]
    Both,
}

/// One row of the table of options that are not the picture's.
#[derive(Debug)]
pub struct AnswerOption {
    pub name: &'static str,
    pub doc: &'static str,
    pub allowed: &'static [&'static str],
    pub default: Option<&'static str>,
    set: fn(&mut Options, Value) -> serde_json::Result<()>,
}

pub static OPTIONS: &[AnswerOption] = &[
    AnswerOption {
        name: "format",
        doc: "Format of the answer. Default: what the Accept header asks for, else png for a single image and json otherwise.",
        allowed: &["png", "json", "npy"],
        default: None,
        set: |options, value| read(value).map(|format| options.format = Some(format)),
    },
    AnswerOption {
        name: "encoding",
        doc: "How JSON represents arrays: base64 of little-endian values, or nested lists.",
        allowed: &["base64", "list"],
        default: Some("base64"),
        set: |options, value| read(value).map(|encoding| options.encoding = encoding),
    },
    AnswerOption {
        name: "include",
        doc: "adds to a JSON answer the picture, as a base64 PNG, or the regions of a map that is made of them",
        allowed: &["heatmap", "segments", "heatmap,segments"],
        default: None,
        set: |options, value| {
            read(value).map(|include| {
                options.include_heatmap = matches!(include, Include::Heatmap | Include::Both);
                options.include_segments = matches!(include, Include::Segments | Include::Both);
            })
        },
    },
];

fn read<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_json::from_value(value)
}

impl Options {
    pub fn names() -> impl Iterator<Item = &'static str> {
        OPTIONS.iter().map(|option| option.name).chain(HeatmapOptions::NAMES.iter().copied())
    }

    /// Takes the options out of `given` and leaves the rest.
    pub fn take(given: &mut Map<String, Value>, faults: &mut Faults) -> Self {
        let mut options = Self::default();
        for option in OPTIONS {
            if let Some(value) = given.remove(option.name)
                && (option.set)(&mut options, value.clone()).is_err()
            {
                faults.push(Fault::new(option.name, format!("{} is not allowed", shown(&value)), option.allowed));
            }
        }
        let picture: Vec<(&str, String)> = HeatmapOptions::NAMES
            .iter()
            .filter_map(|name| match given.remove(*name)? {
                Value::String(text) => Some((*name, text)),
                other => Some((*name, other.to_string())),
            })
            .collect();
        match HeatmapOptions::parse(picture.iter().map(|(name, text)| (*name, text.as_str()))) {
            Ok(heatmap) => options.heatmap = heatmap,
            Err(found) => faults.extend(found.into_iter().map(|fault| Fault {
                param: fault.param,
                message: fault.message,
                allowed: fault.allowed,
            })),
        }
        options
    }

    /// Whether anything of the answer is the picture.
    pub fn want_picture(&self) -> bool {
        self.include_heatmap || self.format == Some(Format::Png)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(given: Value) -> (Options, Map<String, Value>, Vec<String>) {
        let (mut given, mut faults) = (given.as_object().unwrap().clone(), Faults::default());
        let options = Options::take(&mut given, &mut faults);
        (options, given, faults.shown().iter().map(|fault| fault.param.clone()).collect())
    }

    #[test]
    fn options_are_taken_and_the_rest_is_left() {
        let given = json!({"format": "json", "include": "heatmap", "alpha": 0.5, "clip_percent_lowerbound": "10", "n_steps": 3});
        let (options, rest, faults) = take(given);
        assert_eq!((options.format, options.include_heatmap, options.heatmap.alpha), (Some(Format::Json), true, 0.5));
        assert_eq!(Value::Object(rest), json!({"n_steps": 3}));
        assert!(faults.is_empty() && options.want_picture());
    }

    #[test]
    fn faults_of_both_kinds_come_together() {
        let (.., faults) = take(json!({"format": "gif", "encoding": 7, "type": "DOTS"}));
        assert_eq!(faults, ["format", "encoding", "type"]);
    }
}
