//! Assembles a data set from a folder's files: labels and masks, then the hash over everything.

use std::{collections::BTreeSet, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{
    Dataset, DatasetImage, Problem, hex,
    index::{Index, refresh},
    labels::{self, Line, Paths, Table},
    listing::Files,
    truth::{Source, Truth},
};
use crate::{
    picture::{decode::Limits, types::extensions},
    text::excerpt,
};

/// The folder that mirrors the images with their masks.
pub const MASKS: &str = "masks/";

/// Assembles the set; brings `index` up to date with `files`.
pub fn assemble(
    id: &str,
    folder: PathBuf,
    uploaded: bool,
    files: &Files,
    index: &mut Index,
    limits: &Limits,
) -> Dataset {
    refresh(index, &folder, &files.images, limits);
    let mut problems = files.problems.clone();
    let known_paths = Paths::new(&files.images);
    let mut table = labels::read(&folder, files.tables.keys(), &known_paths, &mut problems);
    let paths: Vec<&String> = files
        .images
        .keys()
        .filter(|path| !path.starts_with(MASKS))
        .collect();
    let parents: BTreeSet<Option<&str>> = paths.iter().map(|path| parent(path)).collect();
    let source = match &table {
        Some(Table {
            is_numbered: true, ..
        }) => Source::NumberedTable,
        Some(_) => Source::Table,
        None if parents.len() == 1 => Source::OnlyFolder,
        None => Source::Folders,
    };
    let mut images = Vec::with_capacity(paths.len());
    for path in paths {
        let line = match &mut table {
            Some(table) => table.lines.remove(path).unwrap_or_else(|| {
                let message = "the label table does not name it".to_owned();
                problems.push(Problem {
                    file: path.clone(),
                    kind: "missing_label",
                    message,
                });
                Line::default()
            }),
            None => {
                if source == Source::Folders && parent(path).is_none() {
                    let message = "it lies in no folder, and the folders are the labels".to_owned();
                    problems.push(Problem {
                        file: path.clone(),
                        kind: "missing_label",
                        message,
                    });
                }
                let names = parent(path).map(str::to_owned).into_iter().collect();
                Line {
                    truth: Truth {
                        names,
                        ..Truth::default()
                    },
                    mask: None,
                }
            }
        };
        let known = &index[path];
        if let Some(fault) = &known.fault {
            problems.push(Problem {
                file: path.clone(),
                kind: "corrupt_image",
                message: fault.clone(),
            });
        }
        let mask = mask_of(path, line.mask.as_deref(), &known_paths, &mut problems);
        images.push(DatasetImage {
            file: path.clone(),
            truth: line.truth,
            mask,
            hash: known.hash.clone(),
            fault: known.fault.clone(),
        });
    }
    problems.sort_by(|a, b| (&a.file, a.kind).cmp(&(&b.file, b.kind)));
    let hash = hash(&images, source, index);
    Dataset {
        id: id.to_owned(),
        folder,
        uploaded,
        images,
        source,
        problems,
        ignored: files.ignored.clone(),
        hash,
    }
}

/// The name of the file's folder.
fn parent(path: &str) -> Option<&str> {
    let (folder, _) = path.rsplit_once('/')?;
    Some(folder.rsplit_once('/').map_or(folder, |(_, name)| name))
}

/// The mask that the table names, or the file of the same path (of any image type) below `masks/`.
fn mask_of(
    path: &str,
    named: Option<&str>,
    paths: &Paths<'_>,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    if let Some(named) = named {
        if let Some(mask) = paths.find(named) {
            return Some(mask.to_owned());
        }
        let message = format!("its mask {} is not there", excerpt(named));
        problems.push(Problem {
            file: path.to_owned(),
            kind: "missing_file",
            message,
        });
        return None;
    }
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let mut candidates = extensions().map(|extension| format!("{MASKS}{stem}.{extension}"));
    candidates.find_map(|mask| paths.find(&mask).map(str::to_owned))
}

/// Each field ends with a zero byte and each image with a line feed; neither occurs in a field.
fn hash(images: &[DatasetImage], source: Source, index: &Index) -> String {
    let mut hasher = Sha256::new();
    for picture in images {
        let mask = picture
            .mask
            .as_ref()
            .map_or("", |mask| index[mask].hash.as_str());
        let Truth { names, indices } = &picture.truth;
        for field in [picture.file.as_str(), &picture.hash, &names.join("|"), mask] {
            hasher.update(field);
            hasher.update([0]);
        }
        for index in indices {
            hasher.update(index.to_string());
            hasher.update([0]);
        }
        hasher.update(b"\n");
    }
    if source == Source::NumberedTable {
        hasher.update(b"numbered");
    }
    hex(&hasher.finalize())
}
