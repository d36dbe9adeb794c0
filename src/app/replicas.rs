//! What this replica takes over from others through the store of files: the models that their
//! jobs trained or clients uploaded, the patterns that they fitted, sets of supports, and that shared data sets were replaced
//! or taken away.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{App, AppError};
use crate::{
    dataset::DatasetError,
    files::FilesError,
    model::{
        Model,
        patterns::PatternsError,
        shelf::Archive,
        supports::SupportsError,
        trained::{TrainedError, TrainedModel},
        uploaded::UploadedError,
    },
};

/// How often this replica looks.
const LOOK: Duration = Duration::from_secs(2);
/// How often what is left over is looked for.
const SWEEP: Duration = Duration::from_secs(300);
/// So long the first look may keep it from starting.
const FIRST_LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Trained(#[from] TrainedError),
    #[error(transparent)]
    Uploaded(#[from] UploadedError),
    #[error(transparent)]
    Patterns(#[from] PatternsError),
    #[error(transparent)]
    Supports(#[from] SupportsError),
    #[error(transparent)]
    Datasets(#[from] DatasetError),
}

impl App {
    /// One look, before anything is answered. A store that is away keeps nobody from starting.
    pub async fn catch_up(&self) {
        match tokio::time::timeout(FIRST_LOOK, self.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "what other replicas changed is not known yet")
            }
            Err(_) => {
                tracing::warn!(
                    "the store of files does not answer; what other replicas changed is not known yet"
                )
            }
        }
    }

    /// Looks again and again, keeps the data folder free of what broken-off uploads left, and
    /// closes what earlier models have left open.
    pub async fn follow(&self) {
        tokio::join!(
            self.follow_others(),
            self.sweep_datasets(),
            self.close_outdated_sessions()
        );
    }

    async fn sweep_datasets(&self) {
        loop {
            if let Err(error) = self.datasets().sweep().await {
                tracing::warn!(%error, "what broken-off uploads left was not removed");
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    async fn follow_others(&self) {
        let mut is_away = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let found = self.look().await;
            match &found {
                // Said once, not at every look.
                Err(error) if !is_away => {
                    tracing::warn!(%error, "other replicas cannot be followed; trying again")
                }
                Ok(()) if is_away => tracing::info!("other replicas are followed again"),
                _ => {}
            }
            is_away = found.is_err();
        }
    }

    async fn look(&self) -> Result<(), LookError> {
        let parts = &self.parts;
        let before = self.models();
        let trained = parts.trained.follow(&parts.models).await;
        let uploaded = parts.uploaded.follow(&parts.models).await;
        if !Arc::ptr_eq(&before, &self.models()) {
            parts.reloaded.notify_one();
        }
        parts.patterns.follow(&parts.models).await?;
        self.follow_supports().await?;
        trained?;
        uploaded?;
        Ok(self.datasets().drop_outdated().await?)
    }

    /// Serves a model that a job trained: here at once, on other replicas at their next look.
    pub async fn install_model(&self, model: TrainedModel) -> Result<(), TrainedError> {
        self.parts.trained.install(&self.parts.models, model).await
    }

    /// The ids of all models that jobs trained, as the store of files has them.
    pub async fn trained_models(&self) -> Result<BTreeSet<String>, FilesError> {
        self.parts.trained.ids().await
    }

    /// The folder of a model that a job trained or a client uploaded, as a tar; of uploaded ones also that of another version than is in use.
    pub async fn model_archive(&self, id: &str, version: Option<u32>) -> Result<Archive, AppError> {
        let trained = match version {
            None => self.parts.trained.archive(id).await?,
            Some(_) => None,
        };
        let archive = match trained {
            Some(archive) => Some(archive),
            None => self.parts.uploaded.archive(id, version).await?,
        };
        archive.ok_or_else(|| self.not_changeable(id))
    }

    /// Puts a patterns file to use: here at once, on other replicas at their next look. Every
    /// version is kept. Gives its id.
    pub async fn install_patterns(
        &self,
        model: &str,
        file: Bytes,
    ) -> Result<String, PatternsError> {
        self.parts
            .patterns
            .install(&self.parts.models, model, file)
            .await
    }

    /// The model with the patterns of this id, which need not be those in use.
    pub async fn model_with_patterns(
        &self,
        model: &Arc<Model>,
        id: &str,
    ) -> Result<Arc<Model>, PatternsError> {
        self.parts.patterns.find(&self.models(), model, id).await
    }
}
