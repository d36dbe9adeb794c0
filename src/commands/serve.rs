//! `explaind serve`: the HTTP service, until SIGINT or SIGTERM. SIGHUP reloads the models folder.

use std::io::{IsTerminal, stderr};

use clap::Args;
use explaind::{
    api::{Api, server},
    app::App,
    engine::backend_ort,
    settings::{self, FlagsFor, LogFormat},
    telemetry,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Everything;

#[derive(Args)]
#[command(
    after_help = "Models that were added, changed or taken away are read again at SIGHUP: kill -HUP PID"
)]
pub(crate) struct Serve {
    #[command(flatten)]
    flags: FlagsFor<Everything>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let settings = settings::load(&self.flags.0, std::env::vars())?;
        telemetry::install_tracing(&settings.log, settings.log_format == LogFormat::Json)?;
        let (role, drain_timeout) = (settings.role, settings.drain_timeout);
        let runtime = tokio::runtime::Runtime::new()?;
        // Installed before the models are loaded: without a handler the signal would end the
        // process.
        let hangups = runtime.block_on(async { signal(SignalKind::hangup()) })?;
        let app = App::start(settings)?;
        let stop = server::stop_at_signal(drain_timeout)?;
        runtime.spawn(reload_at(hangups, app.clone(), stderr().is_terminal()));
        let served = runtime.block_on(async {
            let listener = server::listen(&app).await?;
            let (address, models) = (listener.local_addr()?, app.model_ids().join(", "));
            let onnxruntime = backend_ort::loaded().map(|runtime| runtime.version.as_str());
            tracing::info!(%address, models, role = role.name(), onnxruntime, "serving");
            Ok(server::serve(Api::new(app)?, listener, stop.cancelled_owned()).await?)
        });
        // Work left in the pool has no caller any more.
        runtime.shutdown_background();
        served
    }
}

/// Reloads the models at each SIGHUP. A SIGHUP sent because the terminal was closed ends the
/// server.
async fn reload_at(mut hangups: Signal, app: App, had_terminal: bool) {
    while hangups.recv().await.is_some() {
        if had_terminal && !stderr().is_terminal() {
            // SAFETY: sends this process SIGTERM, for an orderly shutdown.
            unsafe { libc::raise(libc::SIGTERM) };
            return;
        }
        if let Err(error) = app.reload_models().await {
            tracing::error!(%error, "the models stay as they are");
        }
    }
}
