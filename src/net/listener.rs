//! The listener: accepts connections in every phase of this KMS, and stays open between them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::handshake::{Handshakes, Metered};
use super::middleware::Middleware;
use super::slots::{Activity, Slots};
use super::tls;
use crate::admission::Peer;
use crate::api::{Caller, Transport};
use crate::config::Limits;
use crate::metrics::Metrics;

/// The first byte of a TLS record that starts a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How long connections of an ended phase are still served, for requests that were already sent.
const UNDER_WAY: Duration = Duration::from_millis(250);

/// What HTTP/2 callers may send ahead on one stream, and on all streams of a connection, in bytes: it is
/// buffered before it is counted.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;

/// How connections are served: the phase at the time of accept.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Increases with each phase; connections of an older phase are asked to close.
    pub number: u64,
    /// The TLS configuration; `None` serves plain HTTP only (the admin listener).
    pub tls: Option<tls::Acceptor>,
    /// Whether plain HTTP is served.
    pub plain: PlainHttp,
    /// What responds to requests.
    pub middleware: Arc<Middleware>,
}

/// What happens to a connection that does not start with a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// It is served: in the onboarding phase, where tools use both, and on the admin listener.
    Served,
    /// It is closed without a response.
    Closed,
}

/// Time limits and the number of connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once. A further one replaces an idle connection of a stranger, or is closed at once.
    pub connections: usize,
    /// From accept to the end of the handshake.
    pub handshake: Duration,
    /// Between requests, and for the header of one.
    pub idle: Duration,
    /// For the response to one request.
    pub request: Duration,
    /// For running requests when the phase or the process ends.
    pub grace: Duration,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: limits.max_connections,
            handshake: limits.handshake_timeout,
            idle: limits.idle_timeout,
            request: limits.request_timeout,
            grace: limits.shutdown_grace,
        }
    }
}

/// Accepts connections until `phase` closes, then lets the open ones finish.
pub async fn serve(
    listener: TcpListener,
    phase: watch::Receiver<Phase>,
    bounds: Bounds,
    handshakes: Arc<Handshakes>,
    metrics: Arc<Metrics>,
) {
    let slots = Slots::new(bounds.connections);
    let mut connections = JoinSet::new();
    let mut closing = phase.clone();
    loop {
        tokio::select! {
            biased;
            () = closed(&mut closing) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let Some(slot) = slots.take(remote.ip()) else {
                        metrics.connection_shed();
                        continue;
                    };
                    if slot.has_replaced {
                        metrics.connection_evicted();
                    }
                    let phase = phase.clone();
                    let (handshakes, metrics) = (Arc::clone(&handshakes), Arc::clone(&metrics));
                    connections.spawn(async move {
                        let activity = slot.activity();
                        tokio::select! {
                            biased;
                            () = slot.evicted() => {}
                            () = connection(stream, remote, activity, phase, bounds, &handshakes, &metrics) => {}
                        }
                    });
                }
                // Out of descriptors, or the peer has left: the next accept may succeed.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(bounds.grace, all).await.is_err() {
        connections.shutdown().await;
    }
}

/// Resolves when the sender of phases is dropped.
async fn closed(phase: &mut watch::Receiver<Phase>) {
    while phase.changed().await.is_ok() {}
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    activity: &Arc<Activity>,
    mut phases: watch::Receiver<Phase>,
    bounds: Bounds,
    handshakes: &Handshakes,
    metrics: &Metrics,
) {
    let _open = metrics.connection();
    // Responses are written whole, so waiting for more data would only delay them.
    let _ = stream.set_nodelay(true);
    let phase = phases.borrow_and_update().clone();
    let opened = timeout(bounds.handshake, open(stream, remote.ip(), &phase, handshakes)).await;
    let outcome = match opened {
        Ok(Ok(Opened::Tls(stream, peer))) => {
            metrics.handshake("ok");
            metrics.key_exchange(tls::group_name(&stream));
            let caller = Caller::new(remote.ip(), peer).over(Transport::Tls);
            exchange(*stream, caller, activity, &phase, phases, bounds).await
        }
        Ok(Ok(Opened::Plain(stream))) => {
            let caller = Caller::new(remote.ip(), Arc::new(Peer::new(None)));
            exchange(stream, caller, activity, &phase, phases, bounds).await
        }
        Ok(Ok(Opened::Refused)) => Ok(()),
        Ok(Err(error)) => {
            metrics.handshake("failed");
            tracing::debug!(%remote, %error, "handshake failed");
            Ok(())
        }
        Err(_) => {
            metrics.handshake("timeout");
            Ok(())
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%remote, %error, "connection ended early");
    }
}

enum Opened {
    Tls(Box<tokio_rustls::server::TlsStream<Metered<TcpStream>>>, Arc<Peer>),
    Plain(TcpStream),
    Refused,
}

async fn open(
    stream: TcpStream,
    address: IpAddr,
    phase: &Phase,
    handshakes: &Handshakes,
) -> io::Result<Opened> {
    let mut first = [0];
    let begins_tls = stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE;
    match (begins_tls, &phase.tls, phase.plain) {
        (true, Some(acceptor), PlainHttp::Served | PlainHttp::Closed) => {
            let acceptor = acceptor.clone();
            let stream = Metered::new(stream);
            let allowance = stream.allowance();
            let accept = async move { acceptor.accept(stream).await };
            let tls::Accepted { stream, certificate, session } =
                handshakes.run(address, &allowance, accept).await?;
            if certificate.as_ref().is_some_and(|certificate| !tls::is_current(certificate)) {
                return Ok(Opened::Refused);
            }
            let peer = Peer::new(certificate);
            let peer = match session {
                Some(session) => peer.in_session(session),
                None => peer,
            };
            Ok(Opened::Tls(Box::new(stream), Arc::new(peer)))
        }
        (false, Some(_) | None, PlainHttp::Served) => Ok(Opened::Plain(stream)),
        (true, None, PlainHttp::Served | PlainHttp::Closed) | (false, Some(_) | None, PlainHttp::Closed) => {
            Ok(Opened::Refused)
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves requests until the caller leaves, or until the phase changes and the running requests are done.
async fn exchange<S>(
    stream: S,
    caller: Caller,
    activity: &Arc<Activity>,
    phase: &Phase,
    mut phases: watch::Receiver<Phase>,
    bounds: Bounds,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.idle).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(32 * 1024)
        .keep_alive_interval(Some(bounds.idle))
        .keep_alive_timeout(bounds.handshake);
    let service = phase.middleware.for_caller(caller, activity, bounds.request);
    let exchange = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(exchange);
    loop {
        tokio::select! {
            ended = exchange.as_mut() => return ended,
            () = activity.quiet_for(bounds.idle) => {
                exchange.as_mut().graceful_shutdown();
                return timeout(bounds.grace, exchange).await.unwrap_or(Ok(()));
            }
            change = phases.changed() => {
                if change.is_ok() && phases.borrow_and_update().number == phase.number {
                    continue;
                }
                // The port stays open across phases, so a request may arrive on a connection that was just
                // opened.
                if change.is_ok()
                    && let Ok(ended) = timeout(UNDER_WAY, exchange.as_mut()).await
                {
                    return ended;
                }
                exchange.as_mut().graceful_shutdown();
                return timeout(bounds.grace, exchange).await.unwrap_or(Ok(()));
            }
        }
    }
}
