//! The names of a model's classes: read from `labels.txt`, and looked up by name. Names are
//! compared case-insensitively, in one Unicode form, with spaces equal to underscores; a look-up is
//! one hash, however many classes there are.

use std::{borrow::Cow, ops::Deref};

use indexmap::IndexMap;

use crate::text::{composed, decode, excerpt};

/// The longest label of a model, in bytes.
pub const MAX_LABEL_BYTES: usize = 1024;
/// The largest labels file.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// How many similar labels an error suggests, and how many bytes of each text are compared.
const MAX_NEAR: usize = 5;
const NEAR_BYTES: usize = 64;
/// The most faults of a labels file that are reported.
const MAX_FAULTS: usize = 5;

/// One name per class; empty where the model has no labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
    /// The classes of each normalised name, in the order of their first appearance.
    classes: IndexMap<String, Vec<usize>>,
    /// Whether any name consists of digits.
    numeric: bool,
}

impl From<Vec<String>> for Labels {
    fn from(names: Vec<String>) -> Self {
        let mut classes = IndexMap::<String, Vec<usize>>::new();
        for (class, name) in names.iter().enumerate() {
            classes.entry(fold(name)).or_default().push(class);
        }
        classes.shift_remove("");
        let numeric = names.iter().any(|name| is_number(name));
        Self {
            names,
            classes,
            numeric,
        }
    }
}

impl Deref for Labels {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.names
    }
}

impl Labels {
    /// Reads a labels file: one class per line, UTF-8 or UTF-16, any line endings; blank lines at
    /// the end are ignored.
    pub fn read(bytes: &[u8]) -> Result<Self, Vec<String>> {
        let (text, is_whole) = decode(bytes);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut names: Vec<String> = text
            .trim_end()
            .split('\n')
            .map(|line| line.trim().to_owned())
            .collect();
        if names == [""] {
            names.clear();
        }
        let mut faults = Vec::new();
        if !is_whole {
            faults.push("is neither UTF-8 nor UTF-16: save it as UTF-8".to_owned());
        }
        let long = names
            .iter()
            .enumerate()
            .filter(|(_, name)| name.len() > MAX_LABEL_BYTES);
        faults.extend(long.take(MAX_FAULTS).map(|(line, name)| {
            format!(
                "line {} is longer than {MAX_LABEL_BYTES} bytes: {}",
                line + 1,
                excerpt(name)
            )
        }));
        if faults.is_empty() {
            Ok(names.into())
        } else {
            Err(faults)
        }
    }

    /// The classes of this name; several where the file has duplicate names.
    fn called(&self, name: &str) -> &[usize] {
        self.classes.get(&fold(name)).map_or(&[], Vec::as_slice)
    }

    /// Whether a class is called that.
    pub fn has(&self, name: &str) -> bool {
        !self.called(name).is_empty()
    }

    /// Labels that contain the name or are similar to it, truncated, nearest first.
    pub fn near(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.near_by(name, strsim::jaro_winkler)
    }

    fn near_by(&self, name: &str, likeness: impl Fn(&str, &str) -> f64) -> Vec<Cow<'_, str>> {
        let wanted = fold(name);
        let wanted = start(&wanted);
        let mut near: Vec<(f64, usize)> = self
            .classes
            .iter()
            .map(|(label, classes)| {
                let label = start(label);
                let is_part = !wanted.is_empty() && label.contains(wanted);
                (
                    f64::from(u8::from(is_part)) + likeness(label, wanted),
                    classes[0],
                )
            })
            .filter(|(likeness, _)| *likeness > 0.8)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.iter()
            .take(MAX_NEAR)
            .map(|(_, class)| excerpt(&self.names[*class]))
            .collect()
    }
}

/// The part of a text that is compared.
fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(NEAR_BYTES)]
}

fn fold(name: &str) -> String {
    composed(name.trim()).to_lowercase().replace(' ', "_")
}

/// Whether the text consists of digits, as an index does.
pub fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why a text names no class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LabelError {
    #[error("no class is called `{}`", excerpt(.name))]
    Unknown { name: String },
    #[error("`{}` is not an index, and the model has no labels", excerpt(.name))]
    Unlabelled { name: String },
    #[error("label `{}` names several classes; use one of the indices {}", excerpt(.name), list(.classes))]
    Several { name: String, classes: Vec<usize> },
    #[error("`{}` is no index: that is a whole number from 0", excerpt(.text))]
    NotIndex { text: String },
    #[error("index {} is not below the number of classes, {count}", excerpt(.index))]
    Range { index: String, count: usize },
    #[error("index {} is too large", excerpt(.index))]
    TooLarge { index: String },
    #[error(
        "`{0}` is the label of class {class} and the index of another; say which: label:{0} or index:{0}",
        excerpt(.digits)
    )]
    LabelOrIndex { digits: String, class: usize },
}

/// `[3, 5]`, or the first twenty and how many more.
fn list(classes: &[usize]) -> String {
    const SHOWN: usize = 20;
    match classes.len().saturating_sub(SHOWN) {
        0 => format!("{classes:?}"),
        more => format!("{:?} and {more} more", &classes[..SHOWN]),
    }
}

/// The classes of a model, which may have no labels, and whose number may be unknown.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    pub labels: &'a Labels,
    pub count: Option<usize>,
}

impl Classes<'_> {
    /// The class with this index.
    pub fn index(&self, index: usize) -> Result<usize, LabelError> {
        match self.count {
            Some(count) if index >= count => Err(LabelError::Range {
                index: index.to_string(),
                count,
            }),
            _ => Ok(index),
        }
    }

    /// The class of an index written in digits.
    pub fn index_of(&self, text: &str) -> Result<usize, LabelError> {
        let index = || text.to_owned();
        match (text.parse::<usize>(), self.count) {
            _ if !is_number(text) => Err(LabelError::NotIndex {
                text: text.to_owned(),
            }),
            (Ok(index), _) => self.index(index),
            (Err(_), Some(count)) => Err(LabelError::Range {
                index: index(),
                count,
            }),
            (Err(_), None) => Err(LabelError::TooLarge { index: index() }),
        }
    }

    /// The class with this label.
    pub fn label(&self, name: &str) -> Result<usize, LabelError> {
        match *self.labels.called(name) {
            [class] => Ok(class),
            [] if self.labels.is_empty() => Err(LabelError::Unlabelled {
                name: name.to_owned(),
            }),
            [] => Err(LabelError::Unknown {
                name: name.to_owned(),
            }),
            ref classes => Err(LabelError::Several {
                name: name.to_owned(),
                classes: classes.to_vec(),
            }),
        }
    }

    /// The class that a label or an index names, where either is accepted.
    pub fn label_or_index(&self, text: &str) -> Result<usize, LabelError> {
        if !is_number(text) {
            return self.label(text);
        }
        match (self.labels.called(text), self.index_of(text)) {
            ([], index) => index,
            ([label], Ok(index)) if *label == index => Ok(index),
            ([label, ..], Ok(_)) => Err(LabelError::LabelOrIndex {
                digits: text.to_owned(),
                class: *label,
            }),
            (_, Err(_)) => self.label(text),
        }
    }

    /// The class that a name in a data set means. Digits are an index, unless a label of the model
    /// consists of digits.
    pub fn named(&self, name: &str) -> Result<usize, LabelError> {
        if is_number(name) && !self.labels.numeric {
            self.index_of(name)
        } else {
            self.label(name)
        }
    }

    /// The label of a class, truncated, or its index where it has none.
    pub fn name(&self, class: usize) -> Cow<'_, str> {
        match self.labels.get(class).filter(|label| !label.is_empty()) {
            Some(label) => excerpt(label),
            None => Cow::Owned(class.to_string()),
        }
    }

    /// The error with suggestions: compares the name with every label.
    pub fn explain(&self, error: &LabelError) -> String {
        let LabelError::Unknown { name } = error else {
            return error.to_string();
        };
        let near = self.labels.near(name);
        if near.is_empty() {
            error.to_string()
        } else {
            format!("{error}; near: {}", near.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn labels(names: &[&str]) -> Labels {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
            .into()
    }

    #[test]
    fn a_labels_file_is_read_in_every_encoding_and_with_every_line_end() {
        let expected = ["café", "", "Egyptian cat"];
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| {
            text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        for end in ["\n", "\r\n", "\r"] {
            let text = ["café ", "", "\tEgyptian cat", " ", "", ""].join(end);
            let marked = format!("\u{feff}{text}");
            for (name, bytes) in [
                ("UTF-8", text.clone().into_bytes()),
                ("UTF-8 with a mark", marked.clone().into_bytes()),
                ("UTF-16 LE with a mark", utf16(&marked, u16::to_le_bytes)),
                ("UTF-16 BE with a mark", utf16(&marked, u16::to_be_bytes)),
                ("UTF-16 LE", utf16(&text, u16::to_le_bytes)),
                ("UTF-16 BE", utf16(&text, u16::to_be_bytes)),
            ] {
                assert_eq!(&*Labels::read(&bytes).unwrap(), expected, "{name} {end:?}");
            }
        }
        for blank in ["", "\n", "\u{feff}", " \r\n\r\n"] {
            assert!(
                Labels::read(blank.as_bytes()).unwrap().is_empty(),
                "{blank:?}"
            );
        }
    }

    #[test]
    fn a_labels_file_of_another_encoding_or_with_endless_lines_is_refused_in_few_words() {
        let faults = Labels::read(b"caf\xe9\ncat\n").unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].contains("UTF-8"),
            "{faults:?}"
        );
        let long = vec!["x".repeat(MAX_LABEL_BYTES + 1); 1000].join("\n");
        let faults = Labels::read(long.as_bytes()).unwrap_err();
        assert!(
            faults.len() == MAX_FAULTS && faults[1].starts_with("line 2 "),
            "{faults:?}"
        );
        assert!(faults.iter().all(|fault| fault.len() < 300));
        assert_eq!(
            Labels::read("x".repeat(MAX_LABEL_BYTES).as_bytes())
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn names_match_without_case_spaces_and_unicode_form() {
        let labels = labels(&["Café noir", "tabby", "crane", "crane"]);
        let classes = Classes {
            labels: &labels,
            count: Some(4),
        };
        for name in ["CAFÉ_NOIR", "cafe\u{301} noir", " café noir "] {
            assert_eq!(classes.label(name), Ok(0), "{name}");
        }
        let error = classes.label("Crane").unwrap_err();
        assert_eq!(
            error,
            LabelError::Several {
                name: "Crane".into(),
                classes: vec![2, 3]
            }
        );
        assert_eq!(classes.named("Crane"), Err(error));
        let alike = vec![String::from("x"); 1000].into();
        let many = Classes {
            labels: &alike,
            count: None,
        }
        .label("x")
        .unwrap_err()
        .to_string();
        assert!(many.contains("and 980 more") && many.len() < 300, "{many}");
    }

    #[test]
    fn digits_are_a_label_before_they_are_an_index_and_never_both_in_silence() {
        let numeric = labels(&["0", "1", "10", "2"]);
        let classes = Classes {
            labels: &numeric,
            count: Some(4),
        };
        assert_eq!((classes.named("10"), classes.named("2")), (Ok(2), Ok(3)));
        assert_eq!(
            classes.named("3"),
            Err(LabelError::Unknown { name: "3".into() })
        );
        assert_eq!(
            (classes.label_or_index("1"), classes.label_or_index("10")),
            (Ok(1), Ok(2))
        );
        assert_eq!(
            classes.label_or_index("3"),
            Ok(3),
            "no label is called that"
        );
        assert_eq!(
            classes.label_or_index("2"),
            Err(LabelError::LabelOrIndex {
                digits: "2".into(),
                class: 3
            })
        );
        let words = labels(&["cat", "dog"]);
        let classes = Classes {
            labels: &words,
            count: Some(2),
        };
        assert_eq!(
            (classes.named("1"), classes.label_or_index("1")),
            (Ok(1), Ok(1))
        );
        assert_eq!(
            classes.named("2"),
            Err(LabelError::Range {
                index: "2".into(),
                count: 2
            })
        );
        let none = Labels::default();
        let classes = Classes {
            labels: &none,
            count: None,
        };
        assert_eq!(classes.named("7"), Ok(7));
        assert_eq!(
            classes.named("cat"),
            Err(LabelError::Unlabelled { name: "cat".into() })
        );
        assert!(matches!(
            classes.index_of(&"9".repeat(30)),
            Err(LabelError::TooLarge { .. })
        ));
    }

    #[test]
    fn near_labels_cost_one_short_comparison_for_each_label() {
        let names: Vec<String> = (0..1000)
            .map(|class| format!("{class} {}", "long ".repeat(150)))
            .collect();
        let (labels, compared, longest) = (Labels::from(names), Cell::new(0), Cell::new(0));
        let near = labels.near_by(&"-".repeat(100_000), |label, wanted| {
            compared.set(compared.get() + 1);
            longest.set(longest.get().max(label.len()).max(wanted.len()));
            1.0
        });
        assert_eq!(
            (compared.get(), longest.get(), near.len()),
            (1000, NEAR_BYTES, MAX_NEAR)
        );
        assert!(
            near.iter()
                .all(|label| label.len() <= crate::text::EXCERPT_BYTES + '…'.len_utf8())
        );
    }
}
