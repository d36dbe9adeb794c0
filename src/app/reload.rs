//! Other models while the service runs: the models folder is read again, and what is there takes
//! the place of what was, at once. Requests under way keep the models that they have. Sessions of
//! earlier models are closed when no request holds them any more.

use std::{sync::Arc, time::Duration};

use super::{App, tell_models, try_out};
use crate::model::registry::{Registry, RegistryError};

/// How often the requests are looked at that still hold earlier models.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Models(#[from] RegistryError),
    #[error("reading the models failed; see the log")]
    Panicked,
}

impl App {
    /// Reads the models folder again, tries the models that are new or have changed, and puts them
    /// to use. One that has become unusable stays as it was, and is told as broken. On an error
    /// nothing changes.
    pub async fn reload_models(&self) -> Result<(), ReloadError> {
        let before = self.models();
        let (app, known) = (self.clone(), before.clone());
        let load = move || {
            let settings = app.settings();
            let check = |model: &_| try_out(app.engine(), model);
            Registry::load_after(
                Some(&known),
                &settings.models,
                settings.default_model.as_deref(),
                &check,
            )
        };
        let mut read = tokio::task::spawn_blocking(load)
            .await
            .map_err(|_| ReloadError::Panicked)??;
        let _unchanged = (
            self.parts.trained.add_to(&mut read).await,
            self.parts.uploaded.add_to(&mut read).await,
        );
        if let Err(error) = self.parts.supports.bring_up_to_date(&mut read).await {
            tracing::warn!(%error, "sets of supports are not in use yet");
        }
        self.parts.patterns.replace(&self.parts.models, read).await;
        tell(&before, &self.models());
        self.parts.reloaded.notify_one();
        Ok(())
    }

    /// Closes the sessions of models that were replaced or taken away, as requests let go of them.
    pub(super) async fn close_outdated_sessions(&self) {
        loop {
            self.parts.reloaded.notified().await;
            while self.outdated_sessions().await > 0 {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    async fn outdated_sessions(&self) -> usize {
        let (app, models) = (self.clone(), self.models());
        let close = move || {
            app.engine().close_outdated(|model| {
                models
                    .get(&model.id)
                    .is_none_or(|current| !Arc::ptr_eq(&current.graph, &model.graph))
            })
        };
        tokio::task::spawn_blocking(close).await.unwrap_or_default()
    }
}

/// Logs what is other than before.
fn tell(before: &Registry, now: &Registry) {
    let ids = |registry: &Registry| {
        registry
            .iter()
            .map(|model| model.id.clone())
            .collect::<Vec<_>>()
    };
    let is_new = |id: &String| before.get(id).is_none();
    let has_changed = |id: &String| match (before.get(id), now.get(id)) {
        (Some(one), Some(other)) => !Arc::ptr_eq(&one, &other),
        _ => false,
    };
    let list = |ids: Vec<String>| ids.join(", ");
    let added = list(ids(now).into_iter().filter(is_new).collect());
    let changed = list(ids(now).into_iter().filter(has_changed).collect());
    let removed = list(
        ids(before)
            .into_iter()
            .filter(|id| now.get(id).is_none())
            .collect(),
    );
    tracing::info!(
        models = list(ids(now)),
        added,
        changed,
        removed,
        "the models folder was read again"
    );
    tell_models(now);
    let default = |registry: &Registry| registry.default().map(|model| model.id.clone());
    match (default(before), default(now)) {
        (Some(before), None) => {
            tracing::warn!("requests that name no model got {before}, and are refused from now on")
        }
        (before, Some(now)) if before.as_ref() != Some(&now) => {
            tracing::warn!("requests that name no model get {now} from now on");
        }
        _ => {}
    }
}
