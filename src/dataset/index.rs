//! What is known of a folder's files, so that only new and changed ones are read again: by path, length and time of change.
//! Kept beside the server's data as JSON; a lost or broken index costs reading the files once more.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io::Write,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hex;
use crate::image::decode::{Limits, decode};

/// Files by their paths below the folder.
pub type Index = BTreeMap<String, Known>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub stamp: Stamp,
    /// SHA-256, hex; empty where the file cannot be read.
    pub hash: String,
    /// Why it cannot be decoded as an image.
    pub fault: Option<String>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    length: u64,
    /// Since 1970, in nanoseconds; 0 where the file system does not say.
    modified: u64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self { length: metadata.len(), modified: since.map_or(0, |since| since.as_nanos() as u64) }
    }
}

/// Brings `index` up to date with `files`; an image is decoded to see whether it can be, several at a time.
pub fn refresh(index: &mut Index, folder: &Path, files: &BTreeMap<String, Stamp>, limits: &Limits) {
    index.retain(|file, known| files.get(file) == Some(&known.stamp));
    let look = |(file, stamp): (&String, &Stamp)| {
        let (hash, fault) = match fs::read(folder.join(file)) {
            Ok(bytes) => (hex(&Sha256::digest(&bytes)), decode(&bytes, limits).err().map(|error| error.to_string())),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        (file.clone(), Known { stamp: *stamp, hash, fault })
    };
    let new: Vec<_> = files.iter().filter(|(file, _)| !index.contains_key(*file)).collect();
    index.extend(new.into_par_iter().map(look).collect::<Vec<_>>());
}

/// The index of a folder that was stored last; empty where there is none.
pub fn load(store: &Path, id: &str) -> Index {
    let text = fs::read(place(store, id)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Stores it at once or not at all.
pub fn save(store: &Path, id: &str, index: &Index) -> std::io::Result<()> {
    fs::create_dir_all(store)?;
    let mut file = tempfile::NamedTempFile::new_in(store)?;
    file.write_all(&serde_json::to_vec(index)?)?;
    file.persist(place(store, id))?;
    Ok(())
}

fn place(store: &Path, id: &str) -> PathBuf {
    store.join(format!("{id}.json"))
}
