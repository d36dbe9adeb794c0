//! Accepts connections and speaks HTTP/1.1 on them, within the [`Limits`] of connections, heads,
//! bodies and slow readers. Nothing that a client does or leaves undone ends the listener.

use std::{
    convert::Infallible,
    io::{self, IoSlice, Write},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request, response::Response};
use bytes::Bytes;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    codes::ApiError,
    connections::{Connection, Connections, Entered, InBody, InRequest, Limits},
    problem,
};
use crate::settings::Settings;

/// How often connections are looked through for those that take too long.
const SWEEP: Duration = Duration::from_millis(250);
/// After the system refused a connection, most often for lack of descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Longest head of a request, in bytes; a longer one is answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// After the last answer, what the client still sends is read and dropped for so long and so many
/// bytes: closing on unread bytes resets the connection, and the answer is lost on its way.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 64 << 20);

impl Limits {
    /// The limits of the settings. A quarter of the process's descriptors is left to files and
    /// databases.
    pub(super) fn of(settings: &Settings) -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let room = descriptors.map_or(usize::MAX, |all| (all - all / 4) as usize);
        Self {
            connections: settings.max_connections.min(room).max(1),
            head: settings.header_timeout,
            keep_alive: settings.keep_alive_timeout,
            write: settings.write_timeout,
            answer_bytes: (settings.body_memory_mib as usize).saturating_mul(1 << 20),
        }
    }
}

/// Serves until `closing`, then finishes what was asked before.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    closing: CancellationToken,
) {
    let connections = Arc::new(Connections::new(limits));
    let tasks = TaskTracker::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            _ = sweep.tick() => connections.sweep(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match connections.enter(Instant::now()) {
                    Some(entered) => {
                        tasks.spawn(attend(stream, router.clone(), entered, closing.clone()));
                    }
                    None => refuse(stream, limits.connections),
                },
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted; the longest idle one is closed");
                    connections.close_longest_waiting();
                    tokio::time::sleep(BACK_OFF).await;
                }
            },
        }
    }
    drop(listener);
    tasks.close();
    let mut ended = pin!(tasks.wait());
    loop {
        connections.close_idle();
        tokio::select! {
            () = &mut ended => return,
            _ = sweep.tick() => connections.sweep(Instant::now()),
        }
    }
}

/// The client went away before it was accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Every connection is being answered: says so, if the client listens at once.
fn refuse(stream: TcpStream, limit: usize) {
    let error = ApiError::TooManyConnections { limit };
    tracing::warn!(
        limit,
        "a connection was refused: all others are being answered"
    );
    if let (Ok(text), Ok(mut stream)) = (problem::to_http(&error), stream.into_std()) {
        let _ = stream.write(&text);
    }
}

/// Answers the requests of one connection.
async fn attend(stream: TcpStream, router: Router, entered: Entered, closing: CancellationToken) {
    let connection = &entered.connection;
    let service = service_fn(|request: Request<Incoming>| {
        let in_request = connection.begin(Instant::now());
        let inner = request.map(|body| Body::new(WatchedBody::new(body, connection.clone())));
        let (answer, connection) = (router.clone().oneshot(inner), connection.clone());
        async move {
            let answer = answer.await?;
            connection.answer(answer.body().size_hint().exact().unwrap_or(0) as usize);
            Ok::<Response<Answer>, Infallible>(answer.map(|body| Answer {
                body,
                _in_request: in_request,
            }))
        }
    });
    // HTTP/2 would let a client keep answers of many requests in memory by its windows, which show
    // in no progress of the connection.
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let io = TokioIo::new(WatchedStream {
        stream,
        connection: connection.clone(),
        linger: None,
    });
    let mut served = pin!(builder.serve_connection(io, service));
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = &mut served => {
                match ended {
                    Err(error) if error.is_parse() => {
                        tracing::info!(%error, "a request was refused: its head cannot be read");
                    }
                    Err(error) => tracing::debug!(%error, "a connection ended early"),
                    Ok(()) => {}
                }
                return;
            }
            () = connection.closed() => return,
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream that tells its connection what comes and goes.
struct WatchedStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Once the last answer is written: the time left, and the bytes.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl WatchedStream {
    fn tell(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.has_written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.stalls(Instant::now()),
        }
        written
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if into.filled().len() > before {
            self.connection.has_read(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.tell(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.tell(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.connection.has_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, linger, .. } = &mut *self;
        if linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let (time, bytes) = linger.get_or_insert_with(|| (Box::pin(sleep(LINGER.0)), LINGER.1));
        let mut dropped = [0; 16 << 10];
        loop {
            let mut into = ReadBuf::new(&mut dropped);
            match Pin::new(&mut *stream).poll_read(cx, &mut into) {
                Poll::Pending => return time.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(()))
                    if !into.filled().is_empty() && into.filled().len() < *bytes =>
                {
                    *bytes -= into.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// A request's body that tells its connection when it is waited for.
struct WatchedBody {
    body: Incoming,
    connection: Arc<Connection>,
    waiting: Option<InBody>,
}

impl WatchedBody {
    fn new(body: Incoming, connection: Arc<Connection>) -> Self {
        Self {
            body,
            connection,
            waiting: None,
        }
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(_) => self.waiting = None,
            Poll::Pending if self.waiting.is_none() => {
                self.waiting = Some(self.connection.wait_for_body(Instant::now()));
            }
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body: the request lasts as long.
struct Answer {
    body: Body,
    _in_request: InRequest,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
