//! A training as a chain of shards, each an epoch that needs the one before. Epoch n reads the
//! checkpoint of epoch n - 1 from a folder of the job's and writes its own, always the same bytes
//! under the same name. The two newest are kept.

use object_store::path::Path;

use crate::{
    jobs::{Context, WorkError, kinds::output},
    training::{Checkpoint, EpochReport, Trainer, TrainingError},
};

/// Behind the number of the epoch, for the last one of a training that stopped early or came to its
/// end.
const LAST: &str = "-last";
const EXTENSION: &str = ".safetensors";

/// The checkpoints of one training.
pub(in crate::jobs::kinds) struct Chain<'a> {
    context: &'a Context,
    folder: Path,
}

/// What there is to do for an epoch.
pub(in crate::jobs::kinds) enum Step {
    /// Nothing: it was done by a worker that did not live to say so; or, without a report, the
    /// training has ended before.
    Done(Option<EpochReport>),
    /// Training, from the checkpoint before; from the start where there is none.
    Run(Option<Checkpoint>),
}

struct Stored {
    epoch: usize,
    is_last: bool,
    path: Path,
}

impl<'a> Chain<'a> {
    /// In a folder of the job's that is the training's own.
    pub(in crate::jobs::kinds) fn new(context: &'a Context, folder: &str) -> Self {
        Self {
            context,
            folder: context.folder().join(folder),
        }
    }

    /// The step after `done` epochs. Removes checkpoints that nobody needs any more.
    pub(in crate::jobs::kinds) async fn step(&self, done: usize) -> Result<Step, WorkError> {
        let (older, stored): (Vec<_>, Vec<_>) = self
            .stored()
            .await?
            .into_iter()
            .partition(|one| one.epoch < done && !one.is_last);
        self.remove(older).await?;
        if stored.iter().any(|one| one.is_last && one.epoch <= done) {
            return Ok(Step::Done(None));
        }
        let find = |epoch| stored.iter().find(|one: &&Stored| one.epoch == epoch);
        if let Some(found) = find(done + 1) {
            let checkpoint = self.read(found).await?;
            return Ok(Step::Done(checkpoint.history().last().cloned()));
        }
        match find(done) {
            Some(before) => Ok(Step::Run(Some(self.read(before).await?))),
            None if done == 0 => Ok(Step::Run(None)),
            None => Err(lost(done)),
        }
    }

    /// Trains for an epoch and stores the checkpoint.
    pub(in crate::jobs::kinds) async fn run(
        &self,
        trainer: &Trainer,
        from: Option<Checkpoint>,
    ) -> Result<EpochReport, WorkError> {
        let Context { app, caller, .. } = self.context;
        let from = from.unwrap_or_else(|| trainer.start());
        let progress = |images| self.context.report_progress(images);
        let (checkpoint, report) = trainer.epoch(from, caller, progress).await?;
        let bytes = app.pool().run(move || checkpoint.to_bytes()).await??;
        let path = self.path(report.epoch, report.stops);
        output::write(self.context, &path, bytes).await?;
        Ok(report)
    }

    /// Removes all checkpoints.
    pub(in crate::jobs::kinds) async fn clear(&self) -> Result<(), WorkError> {
        Ok(self.context.files().remove_all(&self.folder).await?)
    }

    /// The last checkpoint; the others are removed.
    pub(in crate::jobs::kinds) async fn last(&self) -> Result<Checkpoint, WorkError> {
        let mut stored = self.stored().await?;
        let last = stored.pop().ok_or_else(|| lost(0))?;
        self.remove(stored).await?;
        self.read(&last).await
    }

    /// In the order of their epochs.
    async fn stored(&self) -> Result<Vec<Stored>, WorkError> {
        let files = self.context.files().list(&self.folder).await?;
        let mut stored: Vec<Stored> = files.into_iter().filter_map(read_name).collect();
        stored.sort_by_key(|one| one.epoch);
        Ok(stored)
    }

    async fn read(&self, stored: &Stored) -> Result<Checkpoint, WorkError> {
        let bytes = self.context.files().read(&stored.path).await?;
        let read = move || Checkpoint::from_bytes(&bytes);
        Ok(self.context.app.pool().run(read).await??)
    }

    async fn remove(&self, stored: Vec<Stored>) -> Result<(), WorkError> {
        let paths: Vec<Path> = stored.into_iter().map(|one| one.path).collect();
        if paths.is_empty() {
            return Ok(());
        }
        Ok(self.context.files().remove(paths).await?)
    }

    fn path(&self, epoch: usize, is_last: bool) -> Path {
        let last = if is_last { LAST } else { "" };
        self.folder
            .clone()
            .join(format!("{epoch:04}{last}{EXTENSION}"))
    }
}

fn read_name(path: Path) -> Option<Stored> {
    let stem = path.filename()?.strip_suffix(EXTENSION)?;
    let (number, is_last) = match stem.strip_suffix(LAST) {
        Some(number) => (number, true),
        None => (stem, false),
    };
    Some(Stored {
        epoch: number.parse().ok()?,
        is_last,
        path,
    })
}

fn lost(epoch: usize) -> WorkError {
    WorkError::permanent(format!(
        "the checkpoint of epoch {epoch} is not in the store of files any more"
    ))
}

impl From<TrainingError> for WorkError {
    fn from(error: TrainingError) -> Self {
        match error {
            TrainingError::Engine(error) => error.into(),
            TrainingError::Panicked(error) => error.into(),
            TrainingError::Dataset(_) | TrainingError::File { .. } => Self::transient(error),
            _ => Self::permanent(error),
        }
    }
}
