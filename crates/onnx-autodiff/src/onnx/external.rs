//! Files beside the model that hold its weights. Only regular files inside the model's own folder
//! are opened, each read once.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::error::TensorFault;

/// How a Git LFS pointer starts, which stands in a clone for a large file that was not fetched.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The external files of one model, opened on demand.
pub(super) struct ExternalFiles {
    folder: Option<PathBuf>,
    files: HashMap<PathBuf, Bytes>,
}

impl ExternalFiles {
    pub(super) fn of(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_path_buf),
            files: HashMap::new(),
        }
    }

    /// Those that were opened, in the order of their paths.
    pub(super) fn opened(self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.files.into_keys().collect();
        paths.sort();
        paths
    }

    /// `length` bytes of `location` from `offset`.
    pub(super) fn slice(
        &mut self,
        location: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, TensorFault> {
        let file = self.open(location)?;
        let needed = offset.saturating_add(length as u64);
        if file.starts_with(LFS_POINTER) {
            return Err(TensorFault::Pointer {
                location: location.into(),
            });
        }
        if needed > file.len() as u64 {
            return Err(TensorFault::Short {
                location: location.into(),
                needed,
                found: file.len() as u64,
            });
        }
        let start = offset as usize;
        Ok(file.slice(start..start + length))
    }

    fn open(&mut self, location: &str) -> Result<Bytes, TensorFault> {
        let folder = self.folder.as_ref().ok_or(TensorFault::NoFolder)?;
        let plain = Path::new(location)
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() || location.contains(['\\', '\0']) {
            return Err(TensorFault::Location(location.into()));
        }
        let unreadable = |e: std::io::Error| TensorFault::Unreadable {
            location: location.into(),
            reason: e.to_string(),
        };
        let root = folder.canonicalize().map_err(unreadable)?;
        let path = root.join(location).canonicalize().map_err(unreadable)?;
        if !path.starts_with(&root) || !path.is_file() {
            return Err(TensorFault::Location(location.into()));
        }
        if let Some(bytes) = self.files.get(&path) {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from(std::fs::read(&path).map_err(unreadable)?);
        self.files.insert(path, bytes.clone());
        Ok(bytes)
    }
}
