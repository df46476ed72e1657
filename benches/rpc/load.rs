//! A small load generator: HTTP/1.1 over TLS; each worker waits for a response before its next request.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Maximum length of a response, bytes.
const MAX_ANSWER: usize = 128 * 1024;

/// A value for each request number.
pub(super) type Numbered<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;

/// The request that brings evidence over a challenge, of connection number `n`.
pub(super) type Answering = Arc<dyn Fn(u64, &ClientConnection, &[u8]) -> Arc<[u8]> + Send + Sync>;

/// What is sent.
#[derive(Clone)]
pub(super) enum Sent {
    /// The bytes of request number `n`.
    Bytes(Numbered<Arc<[u8]>>),
    /// First a request for a challenge, and then what answers it; both count as one.
    Fresh { challenge: Arc<[u8]>, answering: Answering },
}

/// Whether a connection carries many requests or one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    /// Opened before the measurement and kept.
    Kept,
    /// A new handshake for each request, without resumption.
    New,
}

/// A kind of load.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) connections: Connections,
    /// Concurrent requests.
    pub(super) workers: usize,
    /// What each call sends.
    pub(super) sent: Sent,
    /// The TLS configuration of connection number `n`; kept connections are numbered by worker.
    pub(super) tls: Numbered<Arc<ClientConfig>>,
    /// Maximum number of requests.
    pub(super) most: u64,
}

/// The result of a load.
pub(super) struct Outcome {
    /// Responses with status 200.
    pub(super) answered: u64,
    /// Time from the first request to the last response.
    pub(super) took: Duration,
    /// Median latency.
    pub(super) median: Duration,
}

impl Outcome {
    /// Responses per second.
    pub(super) fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }
}

/// Loads `server` for `duration`. `begin` is called when all kept connections are open and have had one
/// response.
pub(super) async fn run(
    server: SocketAddr,
    load: &Load,
    duration: Duration,
    begin: impl FnOnce(),
) -> Outcome {
    let numbers = Arc::new(AtomicU64::new(0));
    let warm = Arc::new(Barrier::new(load.workers + 1));
    let go = Arc::new(Barrier::new(load.workers + 1));
    let mut workers = JoinSet::new();
    for worker in 0..load.workers as u64 {
        let (load, numbers) = (load.clone(), Arc::clone(&numbers));
        let (warm, go) = (Arc::clone(&warm), Arc::clone(&go));
        workers.spawn(async move {
            let mut buffer = vec![0; MAX_ANSWER];
            let mut kept = match load.connections {
                Connections::New => None,
                Connections::Kept => {
                    let mut stream = connect(server, (load.tls)(worker)).await.expect("a connection");
                    call(&mut stream, &load.sent, (worker, worker), &mut buffer)
                        .await
                        .expect("a first answer");
                    Some(stream)
                }
            };
            warm.wait().await;
            go.wait().await;
            let began = Instant::now();
            let mut times = Vec::with_capacity(64 * 1024);
            while began.elapsed() < duration {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= load.most {
                    break;
                }
                let asked = Instant::now();
                match &mut kept {
                    Some(stream) => {
                        call(stream, &load.sent, (worker, number), &mut buffer).await.expect("an answer");
                    }
                    None => {
                        let mut stream = connect(server, (load.tls)(number)).await.expect("a connection");
                        call(&mut stream, &load.sent, (number, number), &mut buffer)
                            .await
                            .expect("an answer");
                    }
                }
                times.push(asked.elapsed());
            }
            times
        });
    }
    warm.wait().await;
    begin();
    go.wait().await;
    let began = Instant::now();
    let mut times = Vec::new();
    while let Some(worker) = workers.join_next().await {
        times.extend(worker.expect("no worker panics"));
    }
    let took = began.elapsed();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Outcome { answered: times.len() as u64, took, median }
}

/// One request on a new connection; returns status line, headers and body of the response.
pub(super) async fn once(server: SocketAddr, tls: Arc<ClientConfig>, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(server, tls).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    exchange(&mut stream, request, &mut buffer).await?;
    let end = buffer.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    buffer.truncate(end);
    Ok(buffer)
}

async fn connect(server: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(crate::support::DOMAIN).expect("a name");
    TlsConnector::from(tls).connect(name, stream).await
}

/// One call, number `number`, on connection number `connection`.
async fn call(
    stream: &mut TlsStream<TcpStream>,
    sent: &Sent,
    (connection, number): (u64, u64),
    buffer: &mut [u8],
) -> io::Result<()> {
    match sent {
        Sent::Bytes(request) => exchange(stream, &request(number), buffer).await.map(|_| ()),
        Sent::Fresh { challenge, answering } => {
            let given = exchange(stream, challenge, buffer).await?;
            let request = answering(connection, stream.get_ref().1, &buffer[given]);
            exchange(stream, &request, buffer).await.map(|_| ())
        }
    }
}

/// Sends a request and reads the complete response into `buffer`; returns where its body is.
async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<Range<usize>> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut filled = 0;
    let mut whole = usize::MAX;
    let mut head = 0;
    while filled < whole {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if whole == usize::MAX
            && let Some(found) = extent_of(&buffer[..filled])?
        {
            (head, whole) = found;
        }
    }
    Ok(head..whole)
}

/// The lengths of the head of a response and of all of it, when its headers have arrived.
fn extent_of(answer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head]).map_err(io::Error::other)?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length
        .map(|length| Some((head + 4, head + 4 + length)))
        .ok_or_else(|| io::Error::other("no content-length"))
}
