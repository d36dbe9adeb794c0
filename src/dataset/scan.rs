//! Assembles a data set from a folder's files: finds what describes each image, then hashes
//! everything.

use std::{collections::BTreeSet, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{
    BoundingBox, Dataset, DatasetImage, Mask, Problem, hex,
    index::{Index, Known, refresh},
    labels::{self, Paths, Table},
    listing::{Files, MASKS},
    truth::{Source, Truth},
};
use crate::{
    picture::{decode::Limits, types::extensions},
    text::excerpt,
};

/// Assembles the set; brings `index` up to date with `files`.
pub(super) fn assemble(
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
    let mut table = labels::read(
        &folder,
        files.tables.keys(),
        &known_paths,
        index,
        &mut problems,
    );
    let paths: Vec<&String> = files
        .images
        .keys()
        .filter(|path| !path.starts_with(MASKS))
        .collect();
    let parents: BTreeSet<Option<&str>> = paths.iter().map(|path| parent(path)).collect();
    let has_labels = table.as_ref().is_some_and(|table| !table.is_unlabelled);
    let source = match &table {
        Some(Table {
            is_numbered: true, ..
        }) => Source::NumberedTable,
        Some(_) if has_labels => Source::Table,
        _ if parents.len() == 1 => Source::OnlyFolder,
        _ => Source::Folders,
    };
    let mut images = Vec::with_capacity(paths.len());
    for path in paths {
        let mut unlabelled = |message: &str| {
            problems.push(Problem {
                file: path.clone(),
                kind: "missing_label",
                message: message.to_owned(),
            });
        };
        let line = table.as_mut().and_then(|table| table.lines.remove(path));
        if line.is_none() && has_labels {
            unlabelled("the label table does not name it");
        }
        let mut line = line.unwrap_or_default();
        if !has_labels {
            if source == Source::Folders && parent(path).is_none() {
                unlabelled("it lies in no folder, and the folders are the labels");
            }
            line.truth.names = parent(path).map(str::to_owned).into_iter().collect();
        }
        let known = &index[path];
        if let Some(fault) = &known.fault {
            problems.push(Problem {
                file: path.clone(),
                kind: "corrupt_image",
                message: fault.clone(),
            });
        }
        let mask = mask_of(path, line.mask.as_deref(), &known_paths, &mut problems);
        if let Some(message) = mask
            .as_ref()
            .and_then(|mask| mask_fault(mask, &index[mask], known.size))
        {
            problems.push(Problem {
                file: path.clone(),
                kind: "bad_mask",
                message,
            });
        }
        images.push(DatasetImage {
            file: path.clone(),
            truth: line.truth,
            group: line.group,
            role: line.role,
            mask: mask.map(|file| Mask {
                hash: index[&file].hash.clone(),
                file,
            }),
            boxes: line.boxes,
            hash: known.hash.clone(),
            fault: known.fault.clone(),
        });
    }
    problems.sort_by(|a, b| (&a.file, a.kind).cmp(&(&b.file, b.kind)));
    let hash = hash(&images, source);
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

/// Why a mask cannot be used for an image of this width and height.
fn mask_fault(file: &str, mask: &Known, image: Option<(u32, u32)>) -> Option<String> {
    let file = excerpt(file);
    if let Some(fault) = &mask.fault {
        return Some(format!("its mask {file} cannot be read: {fault}"));
    }
    if !mask.is_lossless {
        return Some(format!(
            "its mask {file} is compressed with loss, which blurs its edges: save it as PNG"
        ));
    }
    let ((width, height), image) = (mask.size?, image?);
    ((width, height) != image).then(|| {
        format!(
            "its mask {file} is {width} x {height} pixels, and the image {} x {}: a mask has the size of its image",
            image.0, image.1
        )
    })
}

/// Each field ends with a zero byte and each image with a line feed; neither occurs in a field.
fn hash(images: &[DatasetImage], source: Source) -> String {
    let mut hasher = Sha256::new();
    for picture in images {
        let mask = picture.mask.as_ref().map_or("", |mask| &mask.hash);
        let Truth { names, indices } = &picture.truth;
        for field in [picture.file.as_str(), &picture.hash, &names.join("|"), mask] {
            hasher.update(field);
            hasher.update([0]);
        }
        for index in indices {
            hasher.update(index.to_string());
            hasher.update([0]);
        }
        for (name, value) in [("group", &picture.group), ("role", &picture.role)] {
            if let Some(value) = value {
                hasher.update(format!("{name}={value}\0"));
            }
        }
        for BoundingBox { x0, y0, x1, y1 } in &picture.boxes {
            hasher.update(format!("box={x0},{y0},{x1},{y1}\0"));
        }
        hasher.update(b"\n");
    }
    if source == Source::NumberedTable {
        hasher.update(b"numbered");
    }
    hex(&hasher.finalize())
}
