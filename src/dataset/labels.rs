//! The label table of a data set: `labels.csv` or `labels.tsv`, in any case, UTF-8 or UTF-16. Its
//! first line names the columns, in any order, separated by commas, semicolons or tabs: `file`, and
//! at least one of `label`, `index`, `group`, `role`, and `x0`, `y0`, `x1` and `y1` together;
//! `mask` is optional, and other columns are ignored. Several correct labels are separated by `|`.
//! A file has a row for each of its boxes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::Path,
};

use super::{
    Problem,
    index::Index,
    listing::{MASKS, Stamp, TABLES},
    region::{BadEdge, BoundingBox, EDGES},
    truth::Truth,
};
use crate::text::{composed, decode, excerpt};

/// The largest table, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The longest label, group or role, in bytes.
const MAX_LABEL: usize = 256;
/// The most labels of one image, and the most boxes.
const MAX_RIGHT: usize = 32;
const MAX_BOXES: usize = 1000;
/// The most faults that are listed; further ones are counted.
const MAX_TOLD: usize = 1000;
/// The columns that have a meaning.
const COLUMNS: [&str; 10] = [
    "file", "label", "index", "mask", "group", "role", "x0", "y0", "x1", "y1",
];

/// The content of a table.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub lines: BTreeMap<String, Line>,
    /// Whether it has neither a column `label` nor `index`: it says nothing of labels.
    pub is_unlabelled: bool,
    /// Whether it has labels and its column `index` counts the rows from 0.
    pub is_numbered: bool,
}

/// What the table says of a file.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub truth: Truth,
    /// As written in the table.
    pub mask: Option<String>,
    pub group: Option<String>,
    pub role: Option<String>,
    /// Where the object lies; none if one of the file's boxes is faulty.
    pub boxes: Vec<BoundingBox>,
    has_bad_box: bool,
}

/// Finds files of a set by paths as tables spell them: with `/` or `\`, with or without `./`, in
/// any Unicode normalisation form.
pub(super) struct Paths<'a> {
    files: &'a BTreeMap<String, Stamp>,
    /// Paths that are not in Unicode normalisation form NFC.
    composed: HashMap<String, &'a str>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(files: &'a BTreeMap<String, Stamp>) -> Self {
        let others = files.keys().map(|file| (composed(file), file.as_str()));
        let others = others.filter(|(composed, file)| composed != file);
        Self {
            files,
            composed: others
                .map(|(composed, file)| (composed.into_owned(), file))
                .collect(),
        }
    }

    pub(super) fn find(&self, path: &str) -> Option<&'a str> {
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

/// Reads a folder's table and reports its faults. `None` if there is no table.
pub(super) fn read<'a>(
    folder: &Path,
    tables: impl Iterator<Item = &'a String>,
    paths: &Paths<'_>,
    index: &Index,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let mut tables: Vec<&String> = tables.collect();
    let preference = |name: &str| {
        TABLES
            .iter()
            .position(|table| name.eq_ignore_ascii_case(table))
    };
    tables.sort_by_key(|name| (preference(name), !TABLES.contains(&name.as_str())));
    let (name, others) = tables.split_first()?;
    let mut reading = Reading {
        name,
        paths,
        index,
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
    index: &'a Index,
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
    group: Option<usize>,
    role: Option<usize>,
    /// Of [`EDGES`].
    edges: Option<[usize; 4]>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Option<Self> {
        let at = |wanted: &str| header.iter().position(|name| is_called(name, wanted));
        let edges: Vec<usize> = EDGES.into_iter().filter_map(at).collect();
        let found = Self {
            file: at("file")?,
            label: at("label"),
            index: at("index"),
            mask: at("mask"),
            group: at("group"),
            role: at("role"),
            edges: edges.try_into().ok(),
        };
        let has_any = found.edges.is_some()
            || [found.label, found.index, found.group, found.role]
                .iter()
                .any(Option::is_some);
        has_any.then_some(found)
    }
}

fn is_called(column: &str, name: &str) -> bool {
    column.trim().eq_ignore_ascii_case(name)
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
            let count = |name: &str| header.iter().filter(|at| is_called(at, name)).count();
            let twice = COLUMNS.into_iter().find(|name| count(name) > 1);
            let missing = EDGES.into_iter().find(|name| count(name) == 0);
            let has_edges = EDGES.into_iter().any(|name| count(name) > 0);
            Some((reader, columns, twice, missing.filter(|_| has_edges)))
        });
        let Some((mut reader, columns, twice, missing)) = found else {
            let first = text
                .split(['\r', '\n'])
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            return self.fault(format!(
                "its first line has to name the columns: file, and at least one of label, index, group, role, and x0,y0,x1,y1 (mask is optional); it is `{}`",
                excerpt(first)
            ));
        };
        if let Some(name) = twice {
            self.fault(format!(
                "two of its columns are called {name}: the first counts"
            ));
        }
        if let Some(name) = missing {
            self.fault(format!(
                "boxes are not read: they need the columns x0, y0, x1 and y1, and there is no {name}"
            ));
        }
        self.table.is_unlabelled = columns.label.is_none() && columns.index.is_none();
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
        for line in self.table.lines.values_mut() {
            if line.has_bad_box {
                line.boxes.clear();
            }
        }
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
        // In a row with a label, a column `index` that holds no indices has another meaning.
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
        let mut line = Line {
            truth: Truth { names, indices },
            mask: field(columns.mask).map(str::to_owned),
            group: self.word("group", field(columns.group), number),
            role: self.word("role", field(columns.role), number),
            ..Line::default()
        };
        let edges = columns
            .edges
            .map_or([None; 4], |edges| edges.map(|at| field(Some(at))));
        let size = self.index.get(file).and_then(|known| known.size);
        match BoundingBox::parse(edges, file, size) {
            Ok(found) => line.boxes.extend(found),
            Err(BadEdge { column, reason }) => {
                self.bad_field(number, column, &reason);
                line.has_bad_box = true;
            }
        }
        let is_boxed = line.has_bad_box || !line.boxes.is_empty();
        if is_boxed && self.table.lines.contains_key(file) {
            return self.add_box(file, line, number);
        }
        let is_labelled = field(columns.label).or(field(columns.index)).is_some();
        if !is_labelled && !self.table.is_unlabelled {
            self.complain(
                file,
                "missing_label",
                "the label table has no label for it".to_owned(),
            );
        }
        if self.table.lines.insert(file.to_owned(), line).is_some() {
            self.fault(format!(
                "{} is there twice; the last line counts",
                excerpt(file)
            ));
        }
    }

    /// Adds the box of a further row of a file. What else such a row says has to be what an earlier
    /// one says.
    fn add_box(&mut self, file: &str, row: Line, number: usize) {
        let Some(line) = self.table.lines.get_mut(file) else {
            return;
        };
        line.has_bad_box |= row.has_bad_box;
        if line.boxes.len() + row.boxes.len() <= MAX_BOXES {
            line.boxes.extend(row.boxes);
        } else if !std::mem::replace(&mut line.has_bad_box, true) {
            self.fault(format!(
                "{}: there are more than {MAX_BOXES} boxes, and none of them counts",
                excerpt(file)
            ));
            return;
        }
        let differs =
            |said: &Option<String>, before: &Option<String>| said.is_some() && said != before;
        let Truth { names, indices } = &row.truth;
        let differing: Vec<&str> = [
            ("label", !names.is_empty() && *names != line.truth.names),
            // The index of a row with a label may be the number of the row.
            (
                "index",
                names.is_empty() && !indices.is_empty() && *indices != line.truth.indices,
            ),
            ("mask", differs(&row.mask, &line.mask)),
            ("group", differs(&row.group, &line.group)),
            ("role", differs(&row.role, &line.role)),
        ]
        .into_iter()
        .filter_map(|(column, differs)| differs.then_some(column))
        .collect();
        for column in differing {
            let reason = format!(
                "differs from an earlier row of {}, which counts: all rows of a file describe one object",
                excerpt(file)
            );
            self.bad_field(number, column, &reason);
        }
    }

    /// Reports a fault of one field; rows are counted from 0.
    fn bad_field(&mut self, row: usize, column: &str, reason: &str) {
        self.fault(format!(
            "row {} below the first line, column {column}: {reason}",
            row + 1
        ));
    }

    /// A group or a role.
    fn word(&mut self, column: &str, field: Option<&str>, row: usize) -> Option<String> {
        let text = field?;
        if text.len() > MAX_LABEL {
            let reason = format!(
                "it has {} bytes, at most {MAX_LABEL} are read: `{}`",
                text.len(),
                excerpt(text)
            );
            self.bad_field(row, column, &reason);
            None
        } else if text.chars().any(char::is_control) {
            self.bad_field(
                row,
                column,
                "it has a line break or another control character",
            );
            None
        } else {
            Some(text.to_owned())
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
