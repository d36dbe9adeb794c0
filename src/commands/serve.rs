//! `explaind serve`: the HTTP service, until SIGINT or SIGTERM.

use clap::Args;
use explaind::{
    api::{Api, server},
    app::App,
    engine::backend_ort,
    settings::{self, Flags, LogFormat},
    telemetry,
};

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Serve {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = settings::load(&self.flags, std::env::vars())?;
        telemetry::install_tracing(&settings.log, settings.log_format == LogFormat::Json)?;
        let (role, drain_timeout) = (settings.role, settings.drain_timeout);
        let app = App::start(settings)?;
        let stop = server::stop_at_signal(drain_timeout)?;
        let runtime = tokio::runtime::Runtime::new()?;
        let served = runtime.block_on(async {
            let listener = server::listen(&app).await?;
            let (address, models) = (listener.local_addr()?, app.model_ids().join(", "));
            let onnxruntime = backend_ort::loaded().map(|runtime| runtime.version.as_str());
            tracing::info!(%address, models, role = role.name(), onnxruntime, "serving");
            Ok(server::serve(Api::new(app)?, listener, stop.cancelled_owned()).await?)
        });
        // What still runs in the pool has no one to answer.
        runtime.shutdown_background();
        served
    }
}
