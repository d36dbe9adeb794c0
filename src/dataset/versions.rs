//! The folders of uploaded sets: `<id>/<version>/` holds a version's files, and `<id>/current` names
//! the version in use.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{DatasetError, at, is_id, staging::Change};

/// Names the version in use.
pub(super) const CURRENT: &str = "current";

/// The part of a version's name that identifies its content.
pub(super) fn content(version: &str) -> &str {
    version
        .rsplit_once('-')
        .map_or(version, |(content, _)| content)
}

/// Removes versions that are not in use, and the folder if none is left.
pub(super) fn sweep(change: &mut Change<'_>, home: &Path, version: Option<&str>) {
    for entry in fs::read_dir(home)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let path = entry.path();
        if path.is_dir()
            && version.is_none_or(|version| entry.file_name() != version)
            && let Err(error) = change.take_away(&path)
        {
            tracing::warn!("{} was not removed: {error}", path.display());
        }
    }
    if version.is_none() {
        // Fails, as it should, where something else is in it.
        let _ = fs::remove_dir(home);
    }
}

/// The folders in a folder of sets whose names are ids.
pub(super) fn homes_in(sets: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(sets)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_id))
        .map(|entry| entry.path())
}

/// The ids of the sets in a folder of sets.
pub(super) fn ids_in(sets: &Path) -> impl Iterator<Item = String> {
    let complete = homes_in(sets).filter(|home| home.join(CURRENT).is_file());
    complete.filter_map(|home| home.file_name()?.to_str().map(str::to_owned))
}

/// The version in use.
pub(super) fn current(home: &Path) -> Result<Option<String>, DatasetError> {
    match fs::read_to_string(home.join(CURRENT)) {
        Ok(version) => Ok(Some(version.trim().to_owned())),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(at(home)(error)),
    }
}
