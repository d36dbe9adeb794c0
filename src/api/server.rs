//! Listens, answers, and ends in order: /readyz says no, no new connections, the requests under
//! way, then whatever the time allows.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures::FutureExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::{Api, connections::Limits, listener, router};
use crate::{
    app::App,
    jobs::runner::{Runner, Shutdown},
    settings::Role,
    telemetry::{self, TelemetryError},
};

/// The metrics' recorder sorts its samples this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted; the system may allow fewer. Those beyond are tried
/// again by their clients, later and later.
const BACKLOG: u32 = 4096;

const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the end may take beyond the drain timeout, whatever runs.
pub const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

/// Opens the address of the settings.
pub async fn listen(app: &App) -> Result<TcpListener, ServeError> {
    let address = app.settings().listen;
    listen_at(address).map_err(|source| ServeError::Listen { address, source })
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // Connections of the server before this one may still be closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` resolves, then drains: `drain_timeout` at most.
pub async fn serve(
    api: Api,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let app = api.app().clone();
    let (drain_timeout, grace) = (app.settings().drain_timeout, app.settings().shutdown_grace);
    let engine = app.engine().clone();
    app.catch_up().await;
    let shutdown = Shutdown::default();
    // Waited for in several places, and done in any of them.
    let working = work(&api, &shutdown).shared();
    let stopping = CancellationToken::new();
    let draining = stopping.clone();
    let serving = listener::serve(
        listener,
        router(api.clone()),
        Limits::of(app.settings()),
        draining,
    );
    tokio::pin!(serving);
    let upkeep = async { tokio::join!(keep_up(), app.follow()) };
    tokio::pin!(upkeep);
    tokio::select! {
        () = &mut serving => return Ok(()),
        _ = &mut upkeep => {}
        () = working.clone() => {}
        () = stop => {}
    }
    tracing::info!(timeout_ms = drain_timeout.as_millis() as u64, "draining");
    api.drain();
    shutdown.graceful.cancel();
    // A request asks the engine again and again until it is done: the engine stays open to it as
    // long as the time allows.
    let mut answered = false;
    let closing = async {
        tokio::time::sleep(grace).await;
        stopping.cancel();
        std::future::pending::<()>().await
    };
    let in_time = tokio::time::timeout(drain_timeout, async {
        let answering = async {
            tokio::select! {
                () = &mut serving => answered = true,
                () = closing => {}
            }
        };
        tokio::join!(answering, working.clone())
    });
    if in_time.await.is_err() {
        tracing::warn!("work was still under way at the end of the drain; it is stopped");
        // Shards are given back; the engine answers what it stops, and those answers still have to
        // leave.
        shutdown.immediate.cancel();
        let _ = tokio::time::timeout(LAST_ANSWERS, working).await;
    }
    engine.drain(Duration::ZERO).await;
    stopping.cancel();
    if !answered {
        let _ = tokio::time::timeout(LAST_ANSWERS, serving).await;
    }
    Ok(())
}

/// Works on jobs until the end, where that is this process's part.
async fn work(api: &Api, shutdown: &Shutdown) {
    match api.app().settings().role {
        Role::All | Role::Worker => Runner::new(api.jobs().clone()).run(shutdown).await,
        Role::Api => shutdown.graceful.cancelled().await,
    }
}

async fn keep_up() {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        if let Ok(recorder) = telemetry::prometheus() {
            recorder.run_upkeep();
        }
    }
}

/// Cancelled at the first SIGINT (ctrl-c) or SIGTERM. Signals have a thread of their own, which
/// hears them whatever the others do, and ends the process where the drain has not: [`GRACE`] after
/// `drain_timeout`.
pub fn stop_at_signal(drain_timeout: Duration) -> io::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(signal());
            told.cancel();
            std::thread::sleep(drain_timeout + GRACE);
            tracing::error!("work could not be stopped in time; the process is ended");
            // SAFETY: ends the process without running what might wait for the threads that do not
            // end.
            unsafe { libc::_exit(1) }
        })?;
    Ok(stop)
}

/// Resolves at SIGINT or SIGTERM.
async fn signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_accepted() {
        let listener = listen_at(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(500));
        let connected: io::Result<Vec<TcpStream>> = (0..400).map(connect).collect();
        assert_eq!(connected.unwrap().len(), 400);
    }
}
