//! Lists the files of a data set's folder. What cannot be read is reported as a problem and
//! skipped: broken or circular links, unreadable folders, sockets and fifos. Hidden files and
//! litter of operating systems are ignored.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::{DatasetError, Problem, at, is_image};
use crate::picture::types;

/// The names of label tables, in lower case; the first takes precedence.
pub(super) const TABLES: [&str; 2] = ["labels.csv", "labels.tsv"];
/// The folder that mirrors the images with their masks.
pub(super) const MASKS: &str = "masks/";
/// The deepest folder, counted from the set's.
const MAX_DEPTH: usize = 64;
/// How many extensions are counted separately, and the longest of them in bytes.
const MAX_EXTENSIONS: usize = 20;
const MAX_EXTENSION: usize = 16;
/// Files that operating systems put beside pictures, in lower case; not counted as ignored.
const LITTER: [&str; 3] = ["thumbs.db", "ehthumbs.db", "desktop.ini"];
/// Stored beside the files of an upload: the counts of the archive's files that were skipped.
const IGNORED: &str = ".ignored.json";

/// The files of a folder without hidden ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Images and masks by path, with their stamps.
    pub images: BTreeMap<String, Stamp>,
    /// Label tables by name, with their stamps.
    pub tables: BTreeMap<String, Stamp>,
    pub ignored: Ignored,
    /// Files and folders that cannot be read.
    pub problems: Vec<Problem>,
}

/// Identifies a state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub length: u64,
    /// Nanoseconds since 1970; 0 where the file system does not say.
    modified: u64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let since = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            length: metadata.len(),
            modified: since.map_or(0, |since| since.as_nanos() as u64),
        }
    }
}

/// Counts of files that are neither images nor label tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ignored {
    pub files: usize,
    /// The count of each extension, in lower case with its dot.
    pub extensions: BTreeMap<String, usize>,
}

/// ` (left out: 2 .heic, 1 .txt)`; nothing when there are none.
impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files == 0 {
            return Ok(());
        }
        let counts: Vec<String> = self
            .extensions
            .iter()
            .map(|(extension, count)| format!("{count} {extension}"))
            .collect();
        write!(
            f,
            " (left out: {}); images are {}",
            counts.join(", "),
            types::names()
        )
    }
}

impl Ignored {
    /// Counts a file, unless it is litter of an operating system.
    pub fn add(&mut self, name: &str) {
        if LITTER.contains(&name.to_lowercase().as_str()) {
            return;
        }
        let extension = match name.rsplit_once('.') {
            Some((_, extension)) if extension.len() <= MAX_EXTENSION => {
                format!(".{}", extension.to_lowercase())
            }
            Some(_) => "other".to_owned(),
            None => "none".to_owned(),
        };
        let is_full = self.extensions.len() >= MAX_EXTENSIONS - 1
            && !self.extensions.contains_key(&extension);
        self.files += 1;
        *self
            .extensions
            .entry(if is_full {
                "other".to_owned()
            } else {
                extension
            })
            .or_default() += 1;
    }

    /// Stores the counts beside the upload in `folder`.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(IGNORED), serde_json::to_vec(self)?)
    }

    fn load(folder: &Path) -> Self {
        let text = fs::read(folder.join(IGNORED)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

pub(super) fn is_table(name: &str) -> bool {
    TABLES.iter().any(|table| name.eq_ignore_ascii_case(table))
}

/// The files of a folder of the settings, or of an upload.
pub(super) fn list(folder: &Path, uploaded: bool) -> Result<Files, DatasetError> {
    let mut files = Files {
        ignored: if uploaded {
            Ignored::load(folder)
        } else {
            Ignored::default()
        },
        ..Files::default()
    };
    let root = fs::canonicalize(folder).map_err(at(folder))?;
    files.collect(&mut vec![root], "").map_err(at(folder))?;
    Ok(files)
}

impl Files {
    /// Collects the last of `folders`, the canonical paths from the set's folder to the current
    /// one; a symbolic link to any of them is circular.
    fn collect(&mut self, folders: &mut Vec<PathBuf>, prefix: &str) -> io::Result<()> {
        let Some(folder) = folders.last().cloned() else {
            return Ok(());
        };
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => continue,
                Ok(name) => name,
                Err(name) => {
                    self.complain(
                        format!("{prefix}{}", name.to_string_lossy()),
                        "its name is not UTF-8",
                    );
                    continue;
                }
            };
            let (path, file) = (entry.path(), format!("{prefix}{name}"));
            // Follows links: a folder of the settings may consist of them.
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => self.descend(folders, &path, &file),
                Ok(found) if is_image(&name) && found.is_file() => {
                    self.images.insert(file, Stamp::from(&found));
                }
                Ok(_) if is_image(&name) => self.complain(file, "it is no plain file"),
                Ok(found) if prefix.is_empty() && is_table(&name) && found.is_file() => {
                    self.tables.insert(name, Stamp::from(&found));
                }
                Ok(_) => self.ignored.add(&name),
                // Removed after its folder was listed.
                Err(_)
                    if fs::symlink_metadata(&path)
                        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
                Err(error) => self.complain(file, &format!("it cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn descend(&mut self, folders: &mut Vec<PathBuf>, path: &Path, file: &str) {
        let below = match fs::canonicalize(path) {
            Ok(real) if folders.contains(&real) => {
                return self.complain(file.to_owned(), "it is a link to a folder above it");
            }
            Ok(_) if folders.len() > MAX_DEPTH => {
                return self.complain(file.to_owned(), "it lies too deep");
            }
            Ok(real) => {
                folders.push(real);
                let collected = self.collect(folders, &format!("{file}/"));
                folders.pop();
                collected
            }
            Err(error) => Err(error),
        };
        match below {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.complain(
                    file.to_owned(),
                    &format!("the folder cannot be read: {error}"),
                );
            }
            _ => {}
        }
    }

    fn complain(&mut self, file: String, message: &str) {
        self.problems.push(Problem {
            file,
            kind: "unreadable_file",
            message: message.to_owned(),
        });
    }

    /// Whether both list the same files with equal lengths, whatever their times.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let lengths = |files: &Self| {
            let all = files.images.iter().chain(&files.tables);
            all.map(|(file, stamp)| (file.clone(), stamp.length))
                .collect::<Vec<_>>()
        };
        lengths(self) == lengths(other)
    }
}
