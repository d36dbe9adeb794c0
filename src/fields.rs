//! Reads a TOML table field by field and collects every fault, so that a file can be corrected in
//! one go. Unknown fields are faults too.

use std::fmt;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// One fault of a file: the field, what is wrong with it, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the field; empty when the whole file is meant.
    pub path: String,
    pub problem: String,
    pub allowed: String,
}

impl Fault {
    pub fn new(
        path: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if self.allowed.is_empty() {
            Ok(())
        } else {
            write!(f, " (allowed: {})", self.allowed)
        }
    }
}

/// A table being read. `finish` reports the fields that were not read.
pub struct Fields<'t, 'f> {
    table: &'t Table,
    path: String,
    known: Vec<&'static str>,
    faults: &'f mut Vec<Fault>,
}

impl<'t, 'f> Fields<'t, 'f> {
    pub fn new(table: &'t Table, path: impl Into<String>, faults: &'f mut Vec<Fault>) -> Self {
        Self {
            table,
            path: path.into(),
            known: Vec::new(),
            faults,
        }
    }

    /// The field, when it is present and valid: it deserialises to `T`, and `accept` returns true.
    /// Otherwise a fault names `allowed`.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        allowed: &str,
        accept: impl Fn(&T) -> bool,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.table.get(key)?;
        match value.clone().try_into::<T>() {
            Ok(read) if accept(&read) => return Some(read),
            Ok(_) => self.fault(key, format!("{value} is out of range"), allowed),
            Err(error) => self.fault(key, format!("{value}: {}", error.message()), allowed),
        }
        None
    }

    /// The sub-table of that name, to be read as its own [`Fields`].
    pub fn table(&mut self, key: &'static str) -> Option<&'t Table> {
        self.known.push(key);
        match self.table.get(key)? {
            Value::Table(table) => Some(table),
            other => {
                self.fault(key, format!("{other} is not a table"), "a table of fields");
                None
            }
        }
    }

    pub fn fault(&mut self, key: &str, problem: impl Into<String>, allowed: impl Into<String>) {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        self.faults.push(Fault::new(path, problem, allowed));
    }

    pub fn finish(mut self) {
        let allowed = self.known.join(", ");
        let unknown = self
            .table
            .keys()
            .filter(|key| !self.known.contains(&key.as_str()))
            .collect::<Vec<_>>();
        for key in unknown {
            self.fault(key, "unknown field", &allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_table_is_reported_with_its_path() {
        let table: Table = "a = 'x'\nb = 7\nc = 1\n[d]\ne = 1".parse().unwrap();
        let mut faults = Vec::new();
        let mut fields = Fields::new(&table, "top", &mut faults);
        assert_eq!(fields.take::<i64>("a", "a number", |_| true), None);
        assert_eq!(fields.take::<i64>("b", "1 to 3", |b| *b < 4), None);
        assert_eq!(fields.table("c"), None);
        assert!(fields.table("d").is_some());
        assert_eq!(fields.take::<i64>("absent", "", |_| true), None);
        fields.finish();
        let paths = faults
            .iter()
            .map(|fault| fault.path.as_str())
            .collect::<Vec<_>>();
        assert_eq!(paths, ["top.a", "top.b", "top.c"]);
        assert_eq!(
            faults[1].to_string(),
            "top.b: 7 is out of range (allowed: 1 to 3)"
        );
    }

    #[test]
    fn unknown_fields_are_faults_that_list_the_known() {
        let table: Table = "resise = 1".parse().unwrap();
        let mut faults = Vec::new();
        let mut fields = Fields::new(&table, "input", &mut faults);
        fields.take::<i64>("resize", "", |_| true);
        fields.finish();
        assert_eq!(
            faults,
            [Fault::new("input.resise", "unknown field", "resize")]
        );
    }
}
