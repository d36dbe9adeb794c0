//! Puts a folder's files together as a data set: labels and masks, then the hash over all of them.

use std::{collections::BTreeSet, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{
    Dataset, Picture, Problem, hex,
    index::{Index, refresh},
    labels::{self, Line},
    listing::Files,
};
use crate::image::{decode::Limits, types::extensions};

/// The folder that mirrors the images with their masks.
const MASKS: &str = "masks/";

/// Puts the set together, bringing `index` up to date with `files`.
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
    let table = labels::read(&folder, &mut problems);
    let mut named = table.clone().unwrap_or_default();
    let paths: Vec<&String> = files.images.keys().filter(|path| !path.starts_with(MASKS)).collect();
    let parents: BTreeSet<Option<&str>> = paths.iter().map(|path| parent(path)).collect();
    let by_folder = table.is_none() && parents.len() > 1;
    let mut images = Vec::with_capacity(paths.len());
    for path in paths {
        let line = match named.remove(path.as_str()) {
            Some(line) => line,
            None if table.is_some() => {
                let message = "the label table does not name it".to_owned();
                problems.push(Problem { file: path.clone(), kind: "missing_label", message });
                Line::default()
            }
            None => {
                Line { labels: parent(path).filter(|_| by_folder).map(str::to_owned).into_iter().collect(), mask: None }
            }
        };
        let known = &index[path];
        if let Some(fault) = &known.fault {
            problems.push(Problem { file: path.clone(), kind: "corrupt_image", message: fault.clone() });
        }
        let mask = mask_of(path, line.mask.as_deref(), files, &mut problems);
        images.push(Picture {
            file: path.clone(),
            labels: line.labels,
            mask,
            hash: known.hash.clone(),
            fault: known.fault.clone(),
        });
    }
    problems.extend(named.into_keys().map(|file| {
        let message = "the label table names it, and it is not there".to_owned();
        Problem { file, kind: "missing_file", message }
    }));
    problems.sort_by(|a, b| (&a.file, a.kind).cmp(&(&b.file, b.kind)));
    let hash = hash(&images, index);
    Dataset { id: id.to_owned(), folder, uploaded, images, problems, ignored: files.ignored.clone(), hash }
}

/// The name of the folder that a file lies in.
fn parent(path: &str) -> Option<&str> {
    let (folder, _) = path.rsplit_once('/')?;
    Some(folder.rsplit_once('/').map_or(folder, |(_, name)| name))
}

/// The mask that the table names, or the file of the same path below `masks/`, whatever its image type.
fn mask_of(path: &str, named: Option<&str>, files: &Files, problems: &mut Vec<Problem>) -> Option<String> {
    if let Some(named) = named {
        if files.images.contains_key(named) {
            return Some(named.to_owned());
        }
        let message = format!("its mask {named} is not there");
        problems.push(Problem { file: path.to_owned(), kind: "missing_file", message });
        return None;
    }
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let mut candidates = extensions().map(|extension| format!("{MASKS}{stem}.{extension}"));
    candidates.find(|mask| files.images.contains_key(mask))
}

/// Each field ends with a zero byte and each image with a line feed: none of them can stand in a field.
fn hash(images: &[Picture], index: &Index) -> String {
    let mut hasher = Sha256::new();
    for picture in images {
        let mask = picture.mask.as_ref().map_or("", |mask| index[mask].hash.as_str());
        for field in [picture.file.as_str(), &picture.hash, &picture.labels.join("|"), mask] {
            hasher.update(field);
            hasher.update([0]);
        }
        hasher.update(b"\n");
    }
    hex(&hasher.finalize())
}
