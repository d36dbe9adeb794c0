//! The label table of a data set: `labels.csv` or `labels.tsv` with a header that names `file`, and `label` or `index`; `mask` is optional.
//! Several labels that are all right are separated by `|`. Other columns are left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::Problem;

/// The names a table may have, in the order in which they are looked for.
pub const FILES: [&str; 2] = ["labels.csv", "labels.tsv"];

/// What a table says of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub labels: Vec<String>,
    pub mask: Option<String>,
}

/// The table by file, and what is wrong with single lines. None where there is no table.
pub fn read(folder: &Path, problems: &mut Vec<Problem>) -> Option<BTreeMap<String, Line>> {
    let name = FILES.into_iter().find(|name| folder.join(name).is_file())?;
    let mut complain = |message: String| problems.push(Problem { file: name.to_owned(), kind: "bad_labels", message });
    let delimiter = if name.ends_with("tsv") { b'\t' } else { b',' };
    let reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_path(folder.join(name));
    let mut table = BTreeMap::new();
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => {
            complain(error.to_string());
            return Some(table);
        }
    };
    let header = reader.headers().cloned().unwrap_or_default();
    let column = |wanted: &str| header.iter().position(|name| name.trim().eq_ignore_ascii_case(wanted));
    let (Some(file), Some(label)) = (column("file"), column("index").or(column("label"))) else {
        complain("its first line has to name the columns: file, and label or index (mask is optional)".to_owned());
        return Some(table);
    };
    let mask = column("mask");
    let mut twice = BTreeSet::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                complain(error.to_string());
                continue;
            }
        };
        let field = |at: usize| record.get(at).map(str::trim).filter(|text| !text.is_empty());
        let Some(path) = field(file) else {
            complain(format!("line {} names no file", record.position().map_or(0, csv::Position::line)));
            continue;
        };
        let labels = field(label).into_iter().flat_map(|text| text.split('|'));
        let line = Line {
            labels: labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect(),
            mask: mask.and_then(field).map(str::to_owned),
        };
        if table.insert(path.to_owned(), line).is_some() {
            twice.insert(path.to_owned());
        }
    }
    twice.into_iter().for_each(|path| complain(format!("{path} is there twice; the last line counts")));
    Some(table)
}
