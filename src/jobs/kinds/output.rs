//! Files in a job's folder, and room for them in the data folder.

use std::fs::File;

use bytes::Bytes;
use object_store::path::Path;

use crate::{
    app::App,
    jobs::{Context, WorkError},
    quota::{QuotaError, Reservation, on_disk},
};

/// Whether files lie in the data folder, which has a quota.
pub(super) fn writes_to_data(app: &App) -> bool {
    app.settings().object_store.is_none()
}

/// Room in the data folder for files of these lengths, where they go there. Belongs in the pool.
pub(super) fn reserve(
    app: &App,
    lengths: impl Iterator<Item = u64>,
) -> Result<Option<Reservation>, QuotaError> {
    writes_to_data(app)
        .then(|| app.quota().reserve(lengths.map(on_disk).sum()))
        .transpose()
}

/// Writes a file of the job's.
pub(super) async fn write(
    context: &Context,
    path: &Path,
    bytes: impl Into<Bytes>,
) -> Result<(), WorkError> {
    let (app, bytes) = (context.app.clone(), bytes.into());
    let length = bytes.len() as u64;
    let room = move || reserve(&app, [length].into_iter());
    let room = context.app.pool().run(room).await?;
    let room = room.map_err(WorkError::transient)?;
    context.files().write(path, bytes).await?;
    if let Some(room) = room {
        room.keep();
    }
    Ok(())
}

/// Keeps a file that was written on this machine.
pub(super) async fn keep(context: &Context, name: &str, file: File) -> Result<(), WorkError> {
    let app = context.app.clone();
    let measure = move || {
        let length = file.metadata().map_err(WorkError::transient)?.len();
        let room = reserve(&app, [length].into_iter()).map_err(WorkError::transient)?;
        Ok::<_, WorkError>((file, room))
    };
    let (file, room) = context.app.pool().run(measure).await??;
    let place = context.folder().join(name);
    context.files().upload(&place, file).await?;
    if let Some(room) = room {
        room.keep();
    }
    Ok(())
}
