//! What is wrong with the fields of a request or of a file: every fault at once, in bounded space,
//! whatever was sent; and the reader that collects them.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

use crate::text::{cut, excerpt, meant, shown};

/// One field that was refused, and what would have been accepted. Without a name it is about all
/// of what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub param: String,
    pub message: String,
    pub allowed: Vec<String>,
}

impl Fault {
    pub fn new<T: ToString>(
        param: impl Into<String>,
        message: impl Into<String>,
        allowed: impl IntoIterator<Item = T>,
    ) -> Self {
        let allowed = allowed.into_iter().map(|form| form.to_string()).collect();
        Self {
            param: param.into(),
            message: message.into(),
            allowed,
        }
    }

    /// With a message and nothing in particular that would have been accepted.
    pub fn says(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
            allowed: Vec::new(),
        }
    }
}

/// `n_steps: 0 is not an integer from 1 to 10000 (allowed: 1 to 10000)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.param.is_empty() {
            write!(f, "{}: ", self.param)?;
        }
        f.write_str(&self.message)?;
        match self.allowed.as_slice() {
            [] => Ok(()),
            allowed => write!(f, " (allowed: {})", allowed.join(", ")),
        }
    }
}

/// The first [`Faults::SHOWN`] faults, and how many more there are. Parameter names and messages
/// are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Faults {
    shown: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// The most faults that are told.
    pub const SHOWN: usize = 20;
    /// The most bytes of a message. The texts of a client in it are shorter:
    /// [`crate::text::EXCERPT_BYTES`].
    const MESSAGE_BYTES: usize = 1000;

    pub fn push(&mut self, fault: Fault) {
        self.push_with(|| fault);
    }

    /// As `push`, of a fault that is only made where it is told.
    pub fn push_with(&mut self, make: impl FnOnce() -> Fault) {
        if self.shown.len() == Self::SHOWN {
            self.more += 1;
            return;
        }
        let Fault {
            param,
            message,
            allowed,
        } = make();
        let (param, message) = (
            excerpt(&param).into_owned(),
            cut(&message, Self::MESSAGE_BYTES).into_owned(),
        );
        self.shown.push(Fault {
            param,
            message,
            allowed,
        });
    }

    /// `names` are parameters that nobody takes; the one that may be meant is asked about.
    pub fn refuse_unknown<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a String>,
        message: &str,
        allowed: impl Fn() -> Vec<String>,
    ) {
        for name in names {
            self.push_with(|| {
                let allowed = allowed();
                let own = name.rsplit('.').next().unwrap_or(name);
                let meant = meant(own, allowed.iter().map(String::as_str));
                Fault {
                    param: name.clone(),
                    message: format!("{message}{meant}"),
                    allowed,
                }
            });
        }
    }

    /// The faults of another reader, each changed by `change` where it is told.
    pub fn append(&mut self, others: Faults, change: impl Fn(Fault) -> Fault) {
        self.more += others.more;
        for fault in others.shown {
            self.push_with(|| change(fault));
        }
    }

    /// `value`, where there is no fault.
    pub fn settle<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shown.len() + self.more
    }

    /// Those that are told.
    pub fn shown(&self) -> &[Fault] {
        &self.shown
    }

    /// How many there are beside those.
    pub fn more(&self) -> usize {
        self.more
    }

    /// A line for each that is told, and one for those that are not.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.shown.iter().map(Fault::to_string).chain(more)
    }

    /// Drops a fault that repeats the one before it.
    pub fn dedup(&mut self) {
        self.shown.dedup();
    }

    fn sentence(&self) -> String {
        let told = self
            .shown
            .iter()
            .map(|fault| format!("{}: {}", fault.param, fault.message));
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        told.chain(more).collect::<Vec<_>>().join("; ")
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self::from_iter([fault])
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        let mut all = Self::default();
        all.extend(faults);
        all
    }
}

/// An object that is read field by field. Fields that nobody asked for are faults too.
#[derive(Debug, Default)]
pub struct Reader {
    fields: Map<String, Value>,
    /// Before the names of fields in faults: `input.`.
    prefix: String,
    known: Vec<&'static str>,
    pub faults: Faults,
}

impl Reader {
    pub fn new(fields: Map<String, Value>) -> Self {
        Self {
            fields,
            ..Self::default()
        }
    }

    pub fn of_toml(table: &toml::Table) -> Self {
        Self::new(object_of(table))
    }

    /// Whether a field is there that was not read yet; null is absent.
    pub fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// The field as it is; null is absent.
    pub fn raw(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.fields
            .shift_remove(name)
            .filter(|value| !value.is_null())
    }

    /// Takes all fields whose names start so; null is absent.
    pub fn prefixed(&mut self, prefix: &str) -> Vec<(String, Value)> {
        let fields = std::mem::take(&mut self.fields).into_iter();
        let (found, rest) = fields.partition::<Map<_, _>, _>(|(name, _)| name.starts_with(prefix));
        self.fields = rest;
        let found = found.into_iter().filter(|(_, value)| !value.is_null());
        found.collect()
    }

    /// The field, when it is there and right: of type `T`, and accepted.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        allowed: &[&str],
        accept: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let value = self.raw(name)?;
        match serde_json::from_value(value.clone()) {
            Ok(read) if accept(&read) => Some(read),
            _ => {
                self.refuse(name, format!("{} is not allowed", shown(&value)), allowed);
                None
            }
        }
    }

    /// The object of that name, to be read on its own; empty where it is absent.
    pub fn object(&mut self, name: &'static str) -> Self {
        let fields = match self.raw(name) {
            None => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(other) => {
                let message = format!("{} is not a table", shown(&other));
                self.refuse(name, message, &["a table of fields"]);
                Map::new()
            }
        };
        Self {
            prefix: format!("{}{name}.", self.prefix),
            ..Self::new(fields)
        }
    }

    pub fn refuse(&mut self, name: &str, message: impl Into<String>, allowed: &[&str]) {
        let name = format!("{}{name}", self.prefix);
        self.faults.push(Fault::new(name, message, allowed));
    }

    /// What is left for another reader, and the faults so far.
    pub fn rest(self) -> (Map<String, Value>, Faults) {
        (self.fields, self.faults)
    }

    /// The faults; `unknown` says what a field is that nobody asked for.
    pub fn finish(mut self, unknown: &str) -> Faults {
        let names: Vec<String> = self
            .fields
            .keys()
            .map(|name| format!("{}{name}", self.prefix))
            .collect();
        self.faults.refuse_unknown(&names, unknown, || {
            self.known.iter().map(|name| (*name).to_owned()).collect()
        });
        self.faults
    }
}

fn object_of(table: &toml::Table) -> Map<String, Value> {
    let fields = table.iter();
    fields
        .map(|(name, value)| (name.clone(), json_of(value)))
        .collect()
}

/// Numbers that are not finite, and dates, are no JSON: they become texts.
fn json_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => match Number::from_f64(*number) {
            Some(number) => number.into(),
            None => number.to_string().into(),
        },
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json_of).collect(),
        toml::Value::Table(table) => object_of(table).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_faults_take_the_space_of_twenty() {
        let mut faults = Faults::default();
        let names: Vec<String> = (0..1_000_000).map(|at| format!("{at}")).collect();
        let made = std::cell::Cell::new(0);
        faults.refuse_unknown(&names, "is not a parameter", || {
            made.set(made.get() + 1);
            vec!["n_steps".into()]
        });
        assert_eq!(
            (faults.shown().len(), faults.more(), made.get()),
            (20, 999_980, 20)
        );
        assert!(
            faults
                .to_string()
                .ends_with("19: is not a parameter; and 999980 more"),
            "{faults}"
        );
        let mut all = Faults::from(Fault::says("model", "is missing"));
        all.append(faults, |fault| Fault {
            param: format!("methods[0].{}", fault.param),
            ..fault
        });
        assert_eq!((all.shown().len(), all.more()), (20, 999_981));
        assert_eq!(all.shown()[1].param, "methods[0].0");
    }

    #[test]
    fn names_and_messages_are_cut() {
        let long = "x".repeat(1 << 20);
        let faults = Faults::from(Fault::says(&long, format!("`{long}` is not a value")));
        assert!(faults.to_string().len() < 1300);
        assert_eq!(faults.settle(()).unwrap_err().shown().len(), 1);
        assert_eq!(Faults::default().settle(7), Ok(7));
    }

    #[test]
    fn every_fault_of_an_object_is_reported_with_its_path() {
        let table: toml::Table = "a = 'x'\nb = 7\nc = 1\ne = 1\nf = nan\n[d]\ng = 1"
            .parse()
            .unwrap();
        let mut reader = Reader::of_toml(&table);
        assert_eq!(reader.take::<i64>("a", &["a number"], |_| true), None);
        assert_eq!(reader.take::<i64>("b", &["1", "2"], |b| *b < 4), None);
        assert_eq!(reader.take::<i64>("absent", &[], |_| true), None);
        assert_eq!(reader.take::<f64>("f", &["a number"], |_| true), None);
        assert!(!reader.object("c").has("anything"));
        let below = reader.object("d");
        let mut faults = reader.finish("unknown field");
        faults.append(below.finish("unknown field"), |fault| fault);
        assert_eq!(
            faults.lines().collect::<Vec<_>>(),
            [
                "a: \"x\" is not allowed (allowed: a number)",
                "b: 7 is not allowed (allowed: 1, 2)",
                "f: \"NaN\" is not allowed (allowed: a number)",
                "c: 1 is not a table (allowed: a table of fields)",
                "e: unknown field (allowed: a, b, absent, f, c, d)",
                "d.g: unknown field",
            ]
        );
    }
}
