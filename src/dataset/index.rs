//! An index of a folder's files by path, length and modification time, so that only new and changed
//! files are read again. Stored as JSON in the server's data folder, with the folder or upload
//! version that it describes. If it is lost or broken, the files are read again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    listing::{Files, Stamp},
    staging::Staging,
};
use crate::{
    files::{hash, hex},
    picture::{
        ImageError,
        decode::{LabelImage, Limits, decode},
    },
};

/// Files by their paths below the folder.
pub(super) type Index = BTreeMap<String, Known>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub stamp: Stamp,
    /// SHA-256 in hex; empty where the file cannot be read.
    pub hash: String,
    /// Why the image cannot be decoded.
    pub fault: Option<String>,
    /// Width and height of the upright image, where it can be decoded.
    pub size: Option<(u32, u32)>,
    pub is_lossless: bool,
}

impl Known {
    fn broken(stamp: Stamp, hash: String, fault: String) -> Self {
        Self {
            stamp,
            hash,
            fault: Some(fault),
            size: None,
            is_lossless: false,
        }
    }
}

/// Brings `index` up to date with `files`: reads those that are new, changed or were unreadable,
/// several at a time, and decodes images to check them.
pub(super) fn refresh(
    index: &mut Index,
    folder: &Path,
    files: &BTreeMap<String, Stamp>,
    limits: &Limits,
) {
    index.retain(|file, known| files.get(file) == Some(&known.stamp) && !known.hash.is_empty());
    let read = |(file, stamp): (&String, &Stamp)| {
        let unreadable =
            |error| Known::broken(*stamp, String::new(), format!("it cannot be read: {error}"));
        let known = examine(&folder.join(file), *stamp, limits).unwrap_or_else(unreadable);
        (file.clone(), known)
    };
    let new: Vec<_> = files
        .iter()
        .filter(|(file, _)| !index.contains_key(*file))
        .collect();
    index.extend(new.into_par_iter().map(read).collect::<Vec<_>>());
}

/// Hashes and decodes an image. A file that is too large is hashed in pieces.
fn examine(path: &Path, stamp: Stamp, limits: &Limits) -> io::Result<Known> {
    let (mut file, length) = open_plain(path)?;
    if length > limits.max_bytes as u64 {
        let fault = ImageError::TooManyBytes {
            bytes: length as usize,
            limit: limits.max_bytes,
        };
        return Ok(Known::broken(stamp, hash(&file)?, fault.to_string()));
    }
    let bytes = read_up_to(&mut file, length)?;
    let decoded = decode(&bytes, limits);
    Ok(Known {
        stamp,
        hash: hex(&Sha256::digest(&bytes)),
        size: decoded.as_ref().ok().map(|found| found.image.dimensions()),
        is_lossless: LabelImage::size(&bytes, limits).is_ok(),
        fault: decoded.err().map(|error| error.to_string()),
    })
}

/// Opens a regular file; never blocks on a fifo. Returns its length too.
pub(super) fn open_plain(path: &Path) -> io::Result<(File, u64)> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).open(path)?;
    let found = file.metadata()?;
    if found.is_file() {
        Ok((file, found.len()))
    } else {
        Err(io::Error::other("it is no plain file"))
    }
}

/// Reads at most `length` bytes, even if the file grows meanwhile.
pub(super) fn read_up_to(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// SHA-256 in hex over the images, masks, label table and skipped files of an upload unpacked into
/// `folder`.
pub(super) fn fingerprint(index: &Index, folder: &Path, files: &Files) -> io::Result<String> {
    let mut hasher = Sha256::new();
    for (file, known) in index {
        hasher.update(format!("{file}\0{}\n", known.hash));
    }
    for table in files.tables.keys() {
        hasher.update(format!(
            "{table}\0{}\n",
            hash(&File::open(folder.join(table))?)?
        ));
    }
    hasher.update(serde_json::to_vec(&files.ignored)?);
    Ok(hex(&hasher.finalize()))
}

/// An index and the folder or version that it describes.
#[derive(Deserialize)]
struct Stored {
    of: String,
    files: Index,
}

#[derive(Serialize)]
struct Storing<'a> {
    of: &'a str,
    files: &'a Index,
}

/// The index that was stored last, if it describes `of`; else an empty one.
pub(super) fn load(store: &Path, id: &str, of: &str) -> Index {
    let text = fs::read(place(store, id)).unwrap_or_default();
    serde_json::from_slice::<Stored>(&text)
        .ok()
        .filter(|stored| stored.of == of)
        .map(|stored| stored.files)
        .unwrap_or_default()
}

/// Stores the index atomically.
pub(super) fn save(
    staging: &Staging,
    store: &Path,
    id: &str,
    of: &str,
    files: &Index,
) -> io::Result<()> {
    fs::create_dir_all(store)?;
    staging.write(
        &place(store, id),
        &serde_json::to_vec(&Storing { of, files })?,
    )
}

/// Removes the index of a removed set.
pub(super) fn remove(store: &Path, id: &str) {
    let _ = fs::remove_file(place(store, id));
}

fn place(store: &Path, id: &str) -> PathBuf {
    store.join(format!("{id}.json"))
}
