//! Serving: ports, connections, their limits, and the way down.
//!
//! The main port speaks HTTP/1.1 and HTTP/2, the other one gRPC; both in clear text, or both by TLS.
//! The way down: accept no more, let each connection finish what it is at, cut
//! what takes too long, then close the ledger, which signs the last checkpoints.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::Version;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use ledger::SubmitError;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::lifecycle::{lifecycle, stopping};
use crate::tasks::{Stop, Tasks, issuer_keys, record, resume, retain, settle, sweep, verify};
use crate::{App, Tls, grpc, router};

/// Connections at once, on both ports; more wait in the kernel. Each holds at most 64 KiB of header, or of
/// HTTP/2 a window of 1 MiB that is counted once it is read.
const CONNECTIONS_MAX: usize = 1_024;

/// Open files that connections leave to the database, the ledgers' files, keys that are fetched and logs that are read.
/// Who takes the last one makes every accept fail, and the ledger too.
const FILES_RESERVED: u64 = 128;

/// Longest wait for a request's head, and so for the next request on an idle HTTP/1.1 connection; for a TLS handshake, and
/// for the first request after it.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// Longest head. A bearer key, a cursor and a dozen headers are below 4 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Streams of one HTTP/2 connection: exporters use a few.
const STREAMS_MAX: u32 = 128;

/// How often an HTTP/2 peer is asked whether it lives, and how long its answer may take.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Longest drain: what a request may take, given that its body may take a minute but rarely does.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Wait after a failed accept, e.g. for a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often and after which pause what was noted about callers is written once more because the queue was full: a full
/// queue is worked off within a second or two, and nothing is added to it any more.
const LAST_FLUSHES_MAX: u32 = 100;
const LAST_FLUSH_PAUSE: Duration = Duration::from_millis(100);

/// Why serving ended otherwise than asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be used.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves until `shutdown` resolves, then drains and closes the ledger.
///
/// # Errors
/// [`ServeError`] when a port cannot be used at all. Single connections that fail are no error.
pub async fn serve(
    app: App,
    http: TcpListener,
    grpc: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    http.local_addr()?;
    let (stop, stopped) = Stop::new();
    let connections = connections_max(getrlimit(Resource::Nofile).current);
    if connections < CONNECTIONS_MAX {
        tracing::info!(
            connections,
            "fewer connections at once: the limit of open files is low"
        );
    }
    let slots = Arc::new(Semaphore::new(connections));
    let idle = app.limits.http2_idle;
    let mut tasks = Tasks::default();
    resume(app.clone());
    tasks.spawn(settle(app.clone(), stopped.clone()));
    tasks.spawn(verify(app.clone(), stopped.clone()));
    tasks.spawn(retain(app.clone(), stopped.clone()));
    tasks.spawn(record(app.clone(), stopped.clone()));
    tasks.spawn(sweep(app.clone(), stopped.clone()));
    if let Some(oidc) = app.oidc.clone() {
        tasks.spawn(issuer_keys(app.clone(), oidc, stopped.clone()));
    }
    tasks.spawn(lifecycle(app.clone(), stopped.clone()));
    let service = router(app.clone());
    tasks.spawn(port(
        http,
        service,
        app.tls.as_ref().map(Tls::http),
        Arc::clone(&slots),
        idle,
        stopped.clone(),
    ));
    if let Some(grpc) = grpc {
        let service = grpc::router(app.clone());
        let tls = app.tls.as_ref().map(Tls::grpc);
        tasks.spawn(port(grpc, service, tls, slots, idle, stopped.clone()));
    }
    drop(stopped);
    shutdown.await;
    tracing::info!("draining");
    app.draining.store(true, Ordering::Relaxed);
    app.ledger.own_interrupt();
    // The receivers may be gone, which is what is asked for.
    let _ = stop.send(true);
    // A port waits for its connections itself, as long; it needs a moment more to say so.
    let left = tasks
        .finish(Instant::now() + DRAIN_TIME + Duration::from_secs(1))
        .await;
    if left > 0 {
        tracing::warn!(left, "cut off what did not end in time");
    }
    stopping(&app).await;
    let at = (app.clock)();
    tokio::task::spawn_blocking(move || {
        // Nobody calls any more: what is noted now is all there will be.
        let mut unwritten = app.access.recorder.flush(&app.ledger, at, true);
        for _ in 0..LAST_FLUSHES_MAX {
            if !unwritten.iter().any(|one| matches!(one.error, SubmitError::Busy { .. })) {
                break;
            }
            std::thread::sleep(LAST_FLUSH_PAUSE);
            unwritten = app.access.recorder.flush(&app.ledger, at, true);
        }
        for one in unwritten {
            tracing::error!(error = %one.error, "what was noted about callers of a tenant could not be written");
        }
        app.ledger.close();
        if !app.once.settle() {
            tracing::warn!("some idempotency keys of the last requests may not be on disk");
        }
    })
    .await
    .map_err(io::Error::other)?;
    Ok(())
}

/// Cuts a connection off, with all that it holds. In the extensions of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<Notify>);

impl Cut {
    /// Whoever is at the other end gets no more, of this request or another.
    pub(crate) fn cut(&self) {
        self.0.notify_one();
    }

    /// Waits until it is cut.
    pub(crate) async fn wait(&self) {
        self.0.notified().await;
    }
}

/// Accepts on one port until it is time to stop, then waits for the connections.
async fn port(
    listener: TcpListener,
    service: Router,
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
    idle: Duration,
    mut stop: Stop,
) {
    let builder = builder();
    let mut connections = Tasks::default();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stop.wait() => break,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connections.spawn(connection(
            stream,
            tls.clone(),
            slot,
            builder.clone(),
            service.clone(),
            idle,
            stop.clone(),
        ));
    }
    drop(listener);
    let left = connections.finish(Instant::now() + DRAIN_TIME).await;
    if left > 0 {
        tracing::warn!(left, "cut off connections that did not end in time");
    }
}

/// Connections at once where so many `files` may be open; `None`: any number.
fn connections_max(files: Option<u64>) -> usize {
    let left = files.map(|files| files.saturating_sub(FILES_RESERVED));
    let left = left.and_then(|left| usize::try_from(left).ok());
    left.map_or(CONNECTIONS_MAX, |left| left.clamp(1, CONNECTIONS_MAX))
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    builder
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    slot: OwnedSemaphorePermit,
    builder: Builder<TokioExecutor>,
    service: Router,
    idle: Duration,
    mut stop: Stop,
) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    // Before the first bytes no timer of the protocol runs, nor during a handshake.
    match tls {
        None => {
            let begun = tokio::select! {
                begun = timeout(HEAD_TIME, first_bytes(&stream)) => begun.is_ok(),
                () = stop.wait() => false,
            };
            if begun {
                requests(stream, &builder, service, true, idle, stop).await;
            }
        }
        Some(tls) => {
            let shaken = tokio::select! {
                shaken = timeout(HEAD_TIME, tls.accept(stream)) => shaken,
                () = stop.wait() => return,
            };
            match shaken {
                Ok(Ok(stream)) => requests(stream, &builder, service, false, idle, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
    drop(slot);
}

/// Answers requests until the peer or the server ends. What has `begun` has shown its first bytes; else the first
/// request must come soon, because what is within TLS cannot be looked at beforehand. What is HTTP/2 ends when nothing
/// has gone on for the time `idle`: else a peer that answers pings keeps its slot for as long as it wants.
async fn requests<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    builder: &Builder<TokioExecutor>,
    service: Router,
    begun: bool,
    idle: Duration,
    mut stop: Stop,
) {
    let begun = Arc::new(AtomicBool::new(begun));
    let (seen, service) = (Arc::clone(&begun), TowerToHyperService::new(service));
    let cut = Cut::default();
    let cutting = cut.clone();
    let activity = Arc::new(Activity::new());
    let noted = Arc::clone(&activity);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        if request.version() < Version::HTTP_2 {
            noted.http1();
        }
        let busy = noted.begin();
        let activity = Arc::clone(&noted);
        request.extensions_mut().insert(cutting.clone());
        let answer = service.call(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer.map(|answer| {
                answer.map(|body| Noted {
                    body,
                    activity,
                    busy: None,
                })
            })
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut silence = pin!(sleep(HEAD_TIME));
    let mut listening = true;
    let mut quiet = pin!(sleep(idle));
    let mut ending = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stop.wait() => {
                connection.as_mut().graceful_shutdown();
                break connection.await;
            }
            () = cut.wait() => {
                tracing::debug!("a connection was cut off: its peer does not read");
                return;
            }
            () = silence.as_mut(), if listening => {
                listening = false;
                if !begun.load(Ordering::Relaxed) {
                    tracing::debug!("a connection without a request");
                    return;
                }
            }
            () = quiet.as_mut() => {
                let now = Instant::now();
                let grace = idle.min(DRAIN_TIME);
                let until = activity.idle_since().unwrap_or(now) + if ending { grace } else { idle };
                if ending && until <= now {
                    tracing::debug!("an idle connection was cut off: its peer does not end it");
                    return;
                }
                if until <= now {
                    // Requests that are on their way are answered still, and what was answered can be read.
                    connection.as_mut().graceful_shutdown();
                    ending = true;
                    quiet.as_mut().reset(now + grace);
                } else {
                    quiet.as_mut().reset(until);
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}

/// What goes on at one connection: requests that are answered, and bodies of answers that are waited for.
#[derive(Debug)]
struct Activity(Mutex<Going>);

#[derive(Debug)]
struct Going {
    /// HTTP/1 has a time of its own for idle connections.
    http1: bool,
    count: usize,
    /// When the last of them ended.
    since: Instant,
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Going {
            http1: false,
            count: 0,
            since: Instant::now(),
        }))
    }

    fn going(&self) -> MutexGuard<'_, Going> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn http1(&self) {
        self.going().http1 = true;
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.going().count += 1;
        Busy(Arc::clone(self))
    }

    /// Since when nothing goes on; `None`: something does, or it is HTTP/1.
    fn idle_since(&self) -> Option<Instant> {
        let going = self.going();
        (going.count == 0 && !going.http1).then_some(going.since)
    }
}

/// Something goes on until this is dropped.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut going = self.0.going();
        going.count = going.count.saturating_sub(1);
        going.since = Instant::now();
    }
}

/// An answer's body. While it is the server's turn to say more, something goes on; while the peer does not take what
/// there is, nothing does, as a window that stays shut would keep the connection as well as pings.
#[derive(Debug)]
struct Noted {
    body: Body,
    activity: Arc<Activity>,
    busy: Option<Busy>,
}

impl HttpBody for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let busy = this.busy.take().unwrap_or_else(|| this.activity.begin());
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if polled.is_pending() {
            this.busy = Some(busy);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Waits until it can be told which protocol is spoken: the builder itself would wait for ever.
async fn first_bytes(stream: &TcpStream) {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut buffer = [0; 24];
    loop {
        match stream.peek(&mut buffer).await {
            Ok(n) if n > 0 && n < PREFACE.len() && PREFACE.starts_with(&buffer[..n]) => {
                // A part of the preface stays readable: look again a little later.
                sleep(Duration::from_millis(5)).await;
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Says when it is dropped.
    struct Held(Arc<AtomicBool>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn connections_leave_files_to_the_rest() {
        assert_eq!(connections_max(None), CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(u64::MAX)), CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(1_152)), CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(1_024)), 896);
        assert_eq!(connections_max(Some(100)), 1);
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_lets_go_of_what_its_peer_does_not_read() {
        let let_go = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&let_go);
        let endless = move |Extension(cut): Extension<Cut>| {
            let held = Held(Arc::clone(&held));
            async move {
                // Nobody reads, so that the second page is not asked for.
                let pages = stream::unfold(held, move |held| {
                    cut.cut();
                    let page = Bytes::from(vec![b'x'; 1024 * 1024]);
                    std::future::ready(Some((Ok::<_, io::Error>(page), held)))
                });
                Body::from_stream(pages)
            }
        };
        let service = Router::new().route("/", get(endless));
        let (_stop, stopped) = Stop::new();
        let (mut client, server) = tokio::io::duplex(1024);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let builder = builder();
        timeout(
            Duration::from_mins(1),
            requests(server, &builder, service, true, Duration::from_mins(1), stopped),
        )
        .await
        .unwrap();
        assert!(let_go.load(Ordering::Relaxed));
    }
}
