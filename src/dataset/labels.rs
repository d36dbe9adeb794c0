//! The label table of a data set: `labels.csv` or `labels.tsv`, in any case, UTF-8 or UTF-16. Its
//! first line names the columns `file`, and `label` or `index` or both, and perhaps `mask`,
//! separated by commas, semicolons or tabs; other columns are left alone. Several labels that are
//! all right are separated by `|`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::Path,
};

use super::{Problem, index::Stamp, scan::MASKS, truth::Truth};
use crate::text::{composed, decode, excerpt};

/// In lower case; the first takes precedence.
const NAMES: [&str; 2] = ["labels.csv", "labels.tsv"];
/// The largest table, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The longest label, in bytes, and the most labels of one image.
const MAX_LABEL: usize = 256;
const MAX_RIGHT: usize = 32;
/// The most faulty lines that are listed; the others are counted.
const MAX_TOLD: usize = 1000;

/// The content of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub lines: BTreeMap<String, Line>,
    /// Whether it has labels and its column `index` counts the rows from 0.
    pub is_numbered: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub truth: Truth,
    /// As written in the table.
    pub mask: Option<String>,
}

/// The files of a set by the spellings that a table may use: joined by `/` or `\`, with or without
/// `./`, in any Unicode form.
pub struct Paths<'a> {
    files: &'a BTreeMap<String, Stamp>,
    /// Paths that are not in Unicode normalisation form NFC.
    composed: HashMap<String, &'a str>,
}

impl<'a> Paths<'a> {
    pub fn new(files: &'a BTreeMap<String, Stamp>) -> Self {
        let others = files.keys().map(|file| (composed(file), file.as_str()));
        let others = others.filter(|(composed, file)| composed != file);
        Self {
            files,
            composed: others
                .map(|(composed, file)| (composed.into_owned(), file))
                .collect(),
        }
    }

    pub fn find(&self, path: &str) -> Option<&'a str> {
        if let Some((file, _)) = self.files.get_key_value(path) {
            return Some(file);
        }
        let path = path.replace('\\', "/");
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        let path = parts.join("/");
        let path = composed(&path);
        let same = self
            .files
            .get_key_value(path.as_ref())
            .map(|(file, _)| file.as_str());
        same.or_else(|| self.composed.get(path.as_ref()).copied())
    }
}

pub fn is_table(name: &str) -> bool {
    NAMES.iter().any(|table| name.eq_ignore_ascii_case(table))
}

/// Reads a folder's table and reports its faults. None where there is no table.
pub fn read<'a>(
    folder: &Path,
    tables: impl Iterator<Item = &'a String>,
    paths: &Paths<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let mut tables: Vec<&String> = tables.collect();
    let preference = |name: &str| {
        NAMES
            .iter()
            .position(|table| name.eq_ignore_ascii_case(table))
    };
    tables.sort_by_key(|name| (preference(name), !NAMES.contains(&name.as_str())));
    let (name, others) = tables.split_first()?;
    let mut reading = Reading {
        name,
        paths,
        table: Table::default(),
        problems,
        told: 0,
        untold: 0,
    };
    for other in others {
        reading.complain(
            other,
            "bad_labels",
            format!("it is not read: {name} is there too, and counts"),
        );
    }
    match reading.text(&folder.join(name)) {
        Ok(text) => reading.read(&text),
        Err(reason) => reading.fault(reason),
    }
    if reading.untold > 0 {
        let message = format!("{} more of its lines cannot be used", reading.untold);
        reading.problems.push(Problem {
            file: (*name).clone(),
            kind: "bad_labels",
            message,
        });
    }
    Some(reading.table)
}

struct Reading<'a> {
    name: &'a str,
    paths: &'a Paths<'a>,
    table: Table,
    problems: &'a mut Vec<Problem>,
    told: usize,
    untold: usize,
}

/// The positions of the columns.
struct Columns {
    file: usize,
    label: Option<usize>,
    index: Option<usize>,
    mask: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Option<Self> {
        let at = |wanted: &str| {
            header
                .iter()
                .position(|name| name.trim().eq_ignore_ascii_case(wanted))
        };
        let found = Self {
            file: at("file")?,
            label: at("label"),
            index: at("index"),
            mask: at("mask"),
        };
        (found.label.is_some() || found.index.is_some()).then_some(found)
    }
}

impl Reading<'_> {
    fn complain(&mut self, file: &str, kind: &'static str, message: String) {
        if self.told == MAX_TOLD {
            self.untold += 1;
            return;
        }
        self.told += 1;
        self.problems.push(Problem {
            file: excerpt(file).into_owned(),
            kind,
            message,
        });
    }

    /// Reports a fault of the table as a whole.
    fn fault(&mut self, message: String) {
        self.complain(self.name, "bad_labels", message);
    }

    fn text(&mut self, path: &Path) -> Result<String, String> {
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        if read.map_err(|error| format!("it cannot be read: {error}"))? as u64 > MAX_BYTES {
            return Err(format!(
                "it is not read: it is larger than {MAX_BYTES} bytes"
            ));
        }
        let (text, is_whole) = decode(&bytes);
        if !is_whole {
            self.fault(
                "it is neither UTF-8 nor UTF-16, and some letters are lost: save it as `CSV UTF-8`"
                    .to_owned(),
            );
        }
        Ok(text.into_owned())
    }

    fn read(&mut self, text: &str) {
        // Spreadsheets may write the separator into the first line: `sep=;`.
        let (first, rest) = text.split_once(['\r', '\n']).unwrap_or((text, ""));
        let start = first
            .trim()
            .trim_start_matches('"')
            .get(..4)
            .unwrap_or_default();
        let text = if start.eq_ignore_ascii_case("sep=") {
            rest
        } else {
            text
        };
        let reader = |delimiter| {
            let mut builder = csv::ReaderBuilder::new();
            builder
                .delimiter(delimiter)
                .flexible(true)
                .from_reader(text.as_bytes())
        };
        let own = if self.name.to_ascii_lowercase().ends_with("tsv") {
            b'\t'
        } else {
            b','
        };
        let found = [own, b',', b';', b'\t'].into_iter().find_map(|delimiter| {
            let mut reader = reader(delimiter);
            let header = reader.headers().ok()?;
            let columns = Columns::of(header)?;
            let count = |name: &&str| {
                header
                    .iter()
                    .filter(|column| column.trim().eq_ignore_ascii_case(name))
                    .count()
            };
            let twice = ["file", "label", "index", "mask"]
                .into_iter()
                .find(|name| count(name) > 1);
            Some((reader, columns, twice))
        });
        let twice = found.as_ref().and_then(|(_, _, twice)| *twice);
        if let Some(name) = twice {
            self.fault(format!(
                "two of its columns are called {name}: the first counts"
            ));
        }
        let Some((mut reader, columns, _)) = found else {
            let first = text
                .split(['\r', '\n'])
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            return self.fault(format!(
                "its first line has to name the columns: file, and label or index (mask is optional); it is `{}`",
                excerpt(first)
            ));
        };
        let mut rows = 0;
        self.table.is_numbered = columns.label.is_some() && columns.index.is_some();
        for record in reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.fault(error.to_string());
                    continue;
                }
            };
            if record.iter().any(|field| !field.trim().is_empty()) {
                self.row(&columns, &record, rows);
                rows += 1;
            }
        }
        self.table.is_numbered &= rows > 0;
    }

    fn row(&mut self, columns: &Columns, record: &csv::StringRecord, number: usize) {
        let field = |at: Option<usize>| {
            record
                .get(at?)
                .map(str::trim)
                .filter(|text| !text.is_empty())
        };
        self.table.is_numbered &=
            field(columns.index).is_some_and(|index| index.parse() == Ok(number));
        let Some(path) = field(Some(columns.file)) else {
            return self.fault(format!(
                "row {} below the first line names no file",
                number + 1
            ));
        };
        let Some(file) = self
            .paths
            .find(path)
            .filter(|file| !file.starts_with(MASKS))
        else {
            return self.complain(
                path,
                "missing_file",
                "the label table names it, and it is not there".to_owned(),
            );
        };
        let names = self.several(field(columns.label), file, |name| match name.len() {
            0..=MAX_LABEL => Ok(name.to_owned()),
            bytes => Err(format!(
                "a label has {bytes} bytes, at most {MAX_LABEL} are read: `{}`",
                excerpt(name)
            )),
        });
        // Beside labels, a column `index` need not hold classes.
        let index =
            field(columns.index).filter(|index| names.is_empty() || index.split('|').all(is_index));
        let indices = self.several(index, file, |index| {
            index.parse().map_err(|_| {
                format!(
                    "`{}` is no index: that is a whole number from 0",
                    excerpt(index)
                )
            })
        });
        if field(columns.label).is_none() && field(columns.index).is_none() {
            self.complain(
                file,
                "missing_label",
                "the label table has no label for it".to_owned(),
            );
        }
        let mask = field(columns.mask).map(str::to_owned);
        if self
            .table
            .lines
            .insert(
                file.to_owned(),
                Line {
                    truth: Truth { names, indices },
                    mask,
                },
            )
            .is_some()
        {
            self.fault(format!(
                "{} is there twice; the last line counts",
                excerpt(file)
            ));
        }
    }

    /// Distinct values separated by `|`; nothing if a field has too many.
    fn several<T: PartialEq>(
        &mut self,
        field: Option<&str>,
        file: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        for part in field
            .unwrap_or_default()
            .split('|')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match read(part) {
                Ok(label) if found.contains(&label) => {}
                Ok(_) if found.len() == MAX_RIGHT => {
                    self.fault(format!(
                        "{}: there are more than {MAX_RIGHT} labels, and none of them counts",
                        excerpt(file)
                    ));
                    return Vec::new();
                }
                Ok(label) => found.push(label),
                Err(reason) => self.fault(format!("{}: {reason}", excerpt(file))),
            }
        }
        found
    }
}

fn is_index(text: &str) -> bool {
    text.trim().parse::<usize>().is_ok()
}
