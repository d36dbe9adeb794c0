//! Sets of images with labels, groups, roles, masks and boxes: folders named in the settings, and
//! uploaded archives. `labels.csv` or `labels.tsv` describes the files; without one, the name of a
//! file's folder is its label. `masks/` mirrors the images' paths. Images are sorted by path; a
//! set's hash covers files and all that is known of them. docs/datasets.md is the user's page.

pub mod archive;
pub mod catalogue;
mod index;
mod input_cache;
mod labels;
mod listing;
mod region;
mod sampler;
mod scan;
mod shared;
mod staging;
mod truth;
mod versions;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    files::{FilesError, hex},
    picture::{
        ImageError,
        decode::{Decoded, Limits, decode},
        types::is_image_extension,
    },
    pool::WorkPanicked,
    quota::QuotaError,
    text::excerpt,
};
pub use archive::{ArchiveError, ArchiveLimits};
pub use catalogue::Catalogue;
pub use listing::Ignored;
pub use region::{BoundingBox, Mask};
pub use sampler::draw;
pub use shared::{Arrival, Datasets};
pub use truth::{Doubt, Meaning, Source, Truth};

/// The longest id.
const MAX_ID: usize = 64;
pub const ID_FORM: &str = "letters, digits, `_`, `-` and `.`, not a `.` first, at most 64";

/// A data set as of its last scan.
#[derive(Debug)]
pub struct Dataset {
    pub id: String,
    pub folder: PathBuf,
    /// Whether it was uploaded; otherwise it is a folder named in the settings.
    pub uploaded: bool,
    /// Sorted by path.
    pub images: Vec<DatasetImage>,
    /// Where the labels come from.
    pub source: Source,
    /// Problems of single files; the rest can be used.
    pub problems: Vec<Problem>,
    /// Files that are neither images nor labels.
    pub ignored: Ignored,
    /// SHA-256 over paths, contents, labels, groups, roles, masks and boxes, hex.
    pub hash: String,
}

/// One image of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetImage {
    /// Path below the set's folder, parts joined by `/`.
    pub file: String,
    pub truth: Truth,
    /// Images that belong together, such as the two of a pair, have the same group.
    pub group: Option<String>,
    /// What the image is in its group or set, such as `with` and `without`, or `concept`.
    pub role: Option<String>,
    pub mask: Option<Mask>,
    /// Where the labelled object lies.
    pub boxes: Vec<BoundingBox>,
    /// SHA-256 of the file, hex.
    pub hash: String,
    /// Why it cannot be decoded.
    pub fault: Option<String>,
}

/// A fault of one file of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DatasetProblem)]
pub struct Problem {
    pub file: String,
    /// corrupt_image, unreadable_file, missing_file, bad_labels, missing_label, unknown_label,
    /// ambiguous_label, bad_mask or only_folder.
    pub kind: &'static str,
    pub message: String,
}

/// Errors. Paths of the server appear in the log only.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("no data set is called {}; there are: {}", excerpt(id), some_of(known))]
    Unknown { id: String, known: Vec<String> },
    #[error("{:?} is no data set's id: {ID_FORM}", excerpt(id))]
    Id { id: String },
    #[error(
        "data set {id} is a folder of the server's settings: it is changed there, not by a request"
    )]
    Configured { id: String },
    #[error("there are {limit} data sets, and no more may be (max_datasets): delete one first")]
    TooMany { limit: usize },
    #[error("data set {id} holds no image that can be read{ignored}")]
    Empty { id: String, ignored: Ignored },
    #[error(
        "{} of data set {id} is gone or has changed since the set was scanned",
        excerpt(file)
    )]
    Changed { id: String, file: String },
    #[error("data set {id} is replaced again and again while it is scanned; try again")]
    Replaced { id: String },
    #[error("{} cannot be decoded: {source}", excerpt(file))]
    Image { file: String, source: ImageError },
    #[error(
        "the mask {} is {} x {} pixels, and its image {} x {}: a mask has the size of its image",
        excerpt(file), mask.0, mask.1, image.0, image.1
    )]
    MaskSize {
        file: String,
        /// Width and height.
        mask: (u32, u32),
        image: (u32, u32),
    },
    #[error("the upload of data set {id} is not whole in the server's storage: upload it again")]
    Lost { id: String },
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the server's storage of data sets failed: {}", source.kind())]
    File { path: PathBuf, source: io::Error },
}

/// The first few of many names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 if names.is_empty() => "none".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Dataset {
    /// Decodes the image at `index` (below the count). A file that changed since the scan is
    /// refused.
    pub fn read(&self, index: usize, limits: &Limits) -> Result<Decoded, DatasetError> {
        let bytes = self.bytes(index, limits)?;
        decode(&bytes, limits).map_err(|source| DatasetError::Image {
            file: self.images[index].file.clone(),
            source,
        })
    }

    /// The file of the image at `index` (below the count), as [`Self::read`] reads it.
    pub fn bytes(&self, index: usize, limits: &Limits) -> Result<Vec<u8>, DatasetError> {
        let DatasetImage { file, hash, .. } = &self.images[index];
        self.read_file(file, hash, limits)
    }

    /// The content of a file of the set, if it still has this hash.
    fn read_file(&self, name: &str, hash: &str, limits: &Limits) -> Result<Vec<u8>, DatasetError> {
        let read = |folder: &Path| {
            let (mut file, length) = index::open_plain(&folder.join(name)).ok()?;
            if length > limits.max_bytes as u64 {
                return Some(Err(DatasetError::Image {
                    file: name.to_owned(),
                    source: ImageError::TooManyBytes {
                        bytes: length as usize,
                        limit: limits.max_bytes,
                    },
                }));
            }
            let bytes = index::read_up_to(&mut file, length).ok()?;
            (hex(&Sha256::digest(&bytes)) == hash).then_some(Ok(bytes))
        };
        // A replaced upload may contain the same file.
        let replaced = || {
            let home = self.folder.parent().filter(|_| self.uploaded)?;
            read(&home.join(versions::current(home).ok()??))
        };
        let changed = || DatasetError::Changed {
            id: self.id.clone(),
            file: name.to_owned(),
        };
        read(&self.folder).or_else(replaced).ok_or_else(changed)?
    }

    /// The indices of the images of each group. Images without a group are in none.
    pub fn groups(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut groups = BTreeMap::<_, Vec<usize>>::new();
        for (index, image) in self.images.iter().enumerate() {
            if let Some(group) = &image.group {
                groups.entry(group.as_str()).or_default().push(index);
            }
        }
        groups
    }

    pub fn labelled(&self) -> usize {
        self.images
            .iter()
            .filter(|picture| !picture.truth.is_empty())
            .count()
    }

    pub fn masks(&self) -> usize {
        self.images
            .iter()
            .filter(|picture| picture.mask.is_some())
            .count()
    }

    /// The number of images with boxes.
    pub fn boxed(&self) -> usize {
        self.images
            .iter()
            .filter(|picture| !picture.boxes.is_empty())
            .count()
    }
}

/// Whether the text is a valid id.
pub fn is_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=MAX_ID).contains(&text.len()) && !text.starts_with('.') && text.chars().all(allowed)
}

/// Whether a file of this name is read as an image or a mask.
fn is_image(name: &str) -> bool {
    is_image_extension(
        &Path::new(name)
            .extension()
            .unwrap_or_default()
            .to_string_lossy(),
    )
}

fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.into();
    move |source| {
        tracing::warn!("{}: {source}", path.display());
        DatasetError::File { path, source }
    }
}

#[cfg(test)]
mod tests;
