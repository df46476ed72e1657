//! An HTTP backend on loopback that can fail in every way a backend fails, and recover.
//!
//! ```ignore
//! let server = FaultServer::answering(|asked| Reply::json(&json!({"isAllowed": true, …}))).await;
//! for fault in Fault::table() {
//!     server.suffer(fault.clone()).await;
//!     // … send a request: it must not succeed …
//!     server.recover().await;
//! }
//! ```

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// In every page of a fault: no caller may receive it.
pub const SECRET: &str = "postgres://user:hush@10.0.0.1";
/// In the path of [`FaultServer::url`]: no caller may receive it.
pub const SECRET_PATH: &str = "hush-path";
/// The target of [`Fault::Redirect`] on the same server, which must receive nothing.
pub const ELSEWHERE: &str = "/elsewhere";

const MAX_REQUEST: usize = 1 << 20;

/// One way to fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The port is closed.
    Down,
    /// A good response after this delay.
    Slow(Duration),
    /// Reads the request and never responds.
    Hanging,
    /// Sends half of a good response and then nothing.
    HangingInBody,
    /// A good response, one byte per interval.
    Dripping(Duration),
    /// Reads the request and resets the connection.
    Reset,
    /// Reads the request and closes the connection.
    Closing,
    /// Any page: status and body.
    Page(u16, Vec<u8>),
    /// A body that never ends, as fast as it is read.
    Endless,
    /// A good response that announces more bytes than it has, and then ends.
    TooShort,
    /// A good response that announces fewer bytes than it has.
    TooLong,
    /// Not HTTP.
    NotHttp,
    /// 307 to [`ELSEWHERE`].
    Redirect,
    /// The last good response, whatever the request is.
    Replay,
}

impl Fault {
    /// Every fault except [`Fault::Replay`], whose responses look good. The slow ones last longer than
    /// `patience`, the longest time that any client waits. No body is valid in any protocol here.
    pub fn table(patience: Duration) -> Vec<Self> {
        let html = format!("<html><body>login: {SECRET}</body></html>");
        let mut table = vec![
            Self::Down,
            Self::Slow(patience * 3),
            Self::Hanging,
            Self::HangingInBody,
            Self::Dripping(patience / 4),
            Self::Reset,
            Self::Closing,
            Self::Page(500, format!("{{\"error\": \"{SECRET}\"}}").into_bytes()),
            Self::Page(503, SECRET.into()),
            Self::Page(404, SECRET.into()),
            Self::Page(401, SECRET.into()),
            Self::Page(502, html.clone().into_bytes()),
            Self::Page(200, html.into_bytes()),
            Self::Page(200, Vec::new()),
            Self::Page(204, Vec::new()),
            Self::Page(200, b"[]".to_vec()),
            Self::Page(200, b"null".to_vec()),
            Self::Page(200, format!("{{\"other\": \"{SECRET}\"}}").into_bytes()),
            Self::Page(200, format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000)).into_bytes()),
            Self::Page(200, [SECRET.as_bytes(), &vec![b' '; 1 << 20]].concat()),
            Self::Page(200, [&[0xff, 0xfe, 0x00, 0xc3], SECRET.as_bytes()].concat()),
            Self::Page(500, [&[0xff, 0xfe, 0x00, 0xc3], SECRET.as_bytes()].concat()),
            Self::Endless,
            Self::TooShort,
            Self::TooLong,
            Self::NotHttp,
            Self::Redirect,
        ];
        table.extend(Self::multibyte());
        table
    }

    /// Whether the fault shows only by its delay.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Slow(_) | Self::Hanging | Self::HangingInBody | Self::Dripping(_))
    }

    /// Pages in which a character of two, three and four bytes straddles each position around byte 512, where
    /// a cut by bytes would split it.
    pub fn multibyte() -> impl Iterator<Item = Self> {
        let pages = ["é", "€", "🦀"].into_iter().flat_map(|character| {
            (507..=513).map(move |before| {
                [vec![b'x'; before], character.repeat(300).into_bytes(), SECRET.into()].concat()
            })
        });
        pages.enumerate().map(|(index, page)| Self::Page(if index % 2 == 0 { 502 } else { 200 }, page))
    }
}

/// For the messages of failed tests.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(status, body) => {
                let start: String = String::from_utf8_lossy(body).chars().take(40).collect();
                write!(f, "Page({status}, {} bytes: {start})", body.len())
            }
            fault => write!(f, "{fault:?}"),
        }
    }
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST`
    pub verb: String,
    /// The path with the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A good response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers beside `content-type` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body, JSON.
    pub body: Vec<u8>,
}

impl Reply {
    /// Of a webhook that allows everyone, and describes itself.
    pub fn allowing(asked: &Asked) -> Self {
        Self::json(&match asked.verb.as_str() {
            "POST" => json!({"isAllowed": true, "gatewayAppId": "0xback", "reason": ""}),
            _ => json!({
                "status": "ok", "kmsContractAddr": "0x33", "gatewayAppId": "0xback", "chainId": 9,
                "appImplementation": "0x44",
            }),
        })
    }

    /// 200 with JSON.
    pub fn json(body: &Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.to_string().into_bytes() }
    }

    fn bytes(&self) -> Vec<u8> {
        self.announcing(self.body.len())
    }

    fn announcing(&self, length: usize) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\ncontent-type: application/json\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        [head.as_bytes(), &self.body].concat()
    }
}

type Answer = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;
type Condition = Box<dyn Fn(&Asked) -> bool + Send + Sync>;

enum Origin {
    Answers(Answer),
    Upstream(SocketAddr),
}

struct State {
    origin: Origin,
    fault: Mutex<Option<(Fault, Condition)>>,
    asked: Mutex<Vec<Asked>>,
    connections: Mutex<usize>,
    last_good: Mutex<Option<Reply>>,
}

enum Port {
    Open(JoinHandle<()>),
    /// Bound, so that no one else gets the port, but refusing connections.
    Closed(TcpSocket),
}

/// The backend; dropping it closes everything.
pub struct FaultServer {
    address: SocketAddr,
    state: Arc<State>,
    port: tokio::sync::Mutex<Option<Port>>,
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        if let Some(Port::Open(task)) = self.port.get_mut() {
            task.abort();
        }
    }
}

impl FaultServer {
    /// Responds by a function while there is no fault.
    pub async fn answering(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(Origin::Answers(Box::new(answer))).await
    }

    /// Forwards requests to another HTTP server on loopback while there is no fault.
    pub async fn before(upstream: SocketAddr) -> Self {
        Self::new(Origin::Upstream(upstream)).await
    }

    async fn new(origin: Origin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            origin,
            fault: Mutex::default(),
            asked: Mutex::default(),
            connections: Mutex::default(),
            last_good: Mutex::default(),
        });
        let port = Port::Open(tokio::spawn(accept(listener, Arc::clone(&state))));
        Self { address, state, port: tokio::sync::Mutex::new(Some(port)) }
    }

    /// Its base URL; the path is [`SECRET_PATH`].
    pub fn url(&self) -> String {
        format!("http://{}/{SECRET_PATH}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request fails like this from now on, also on open connections.
    pub async fn suffer(&self, fault: Fault) {
        self.suffer_when(fault, |_| true).await;
    }

    /// Requests that meet the condition fail like this from now on; with [`Fault::Down`] all do.
    pub async fn suffer_when(
        &self,
        fault: Fault,
        condition: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    ) {
        let is_down = fault == Fault::Down;
        *self.state.fault.lock().expect("no panic") = Some((fault, Box::new(condition)));
        if is_down { self.close().await } else { self.open().await }
    }

    /// Every request succeeds from now on.
    pub async fn recover(&self) {
        *self.state.fault.lock().expect("no panic") = None;
        self.open().await;
    }

    /// The requests received so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no panic").clone()
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> usize {
        *self.state.connections.lock().expect("no panic")
    }

    async fn close(&self) {
        let mut port = self.port.lock().await;
        *port = match port.take() {
            Some(Port::Open(task)) => {
                task.abort();
                let _ = task.await;
                Some(Port::Closed(self.the_port_of_before().await))
            }
            closed => closed,
        };
    }

    /// A connection of another test may have the port for a moment.
    async fn the_port_of_before(&self) -> TcpSocket {
        let began = Instant::now();
        loop {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("an option");
            match socket.bind(self.address) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && began.elapsed() < Duration::from_secs(60) =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => return bound.map(|()| socket).expect("the port of before"),
            }
        }
    }

    async fn open(&self) {
        let mut port = self.port.lock().await;
        *port = match port.take() {
            Some(Port::Closed(socket)) => {
                let listener = socket.listen(1024).expect("a listener");
                Some(Port::Open(tokio::spawn(accept(listener, Arc::clone(&self.state)))))
            }
            open => open,
        };
    }
}

/// Ends with all its connections when aborted.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        *state.connections.lock().expect("no panic") += 1;
        let state = Arc::clone(&state);
        open.spawn(async move {
            // The client may disconnect at any time.
            let _ = serve(stream, &state).await;
        });
        while open.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    while let Some(asked) = next_request(&mut stream, &mut received).await? {
        state.asked.lock().expect("no panic").push(asked.clone());
        let fault = {
            let fault = state.fault.lock().expect("no panic");
            fault.as_ref().filter(|(_, condition)| condition(&asked)).map(|(fault, _)| fault.clone())
        };
        match fault {
            None => {
                let reply = state.good(&asked).await?;
                *state.last_good.lock().expect("no panic") = Some(reply.clone());
                stream.write_all(&reply.bytes()).await?;
            }
            Some(fault) => {
                if fail(&mut stream, fault, &asked, state).await? == Then::Close {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum Then {
    GoOn,
    Close,
}

async fn fail(stream: &mut TcpStream, fault: Fault, asked: &Asked, state: &State) -> io::Result<Then> {
    match fault {
        // The port is being closed.
        Fault::Down => return Ok(Then::Close),
        Fault::Slow(late) => {
            tokio::time::sleep(late).await;
            stream.write_all(&state.good(asked).await?.bytes()).await?;
        }
        Fault::Hanging => std::future::pending().await,
        Fault::HangingInBody => {
            let bytes = state.good(asked).await?.bytes();
            stream.write_all(&bytes[..bytes.len() - 5]).await?;
            std::future::pending().await
        }
        Fault::Dripping(each) => {
            for byte in state.good(asked).await?.bytes() {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(each).await;
            }
        }
        Fault::Reset => {
            stream.set_zero_linger()?;
            return Ok(Then::Close);
        }
        Fault::Closing => return Ok(Then::Close),
        Fault::Page(status, body) => {
            stream.write_all(&Reply { status, headers: Vec::new(), body }.bytes()).await?;
        }
        Fault::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
        Fault::TooShort => {
            let reply = state.good(asked).await?;
            stream.write_all(&reply.announcing(reply.body.len() + 10)).await?;
            return Ok(Then::Close);
        }
        Fault::TooLong => {
            let reply = state.good(asked).await?;
            stream.write_all(&reply.announcing(reply.body.len() - 3)).await?;
        }
        Fault::NotHttp => {
            stream.write_all(format!("SSH-2.0-{SECRET}\r\n").as_bytes()).await?;
            return Ok(Then::Close);
        }
        Fault::Redirect => {
            let head =
                format!("HTTP/1.1 307 Elsewhere\r\nlocation: {ELSEWHERE}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
        Fault::Replay => {
            let last = state.last_good.lock().expect("no panic").clone().expect("a good answer before");
            stream.write_all(&last.bytes()).await?;
        }
    }
    Ok(Then::GoOn)
}

impl State {
    async fn good(&self, asked: &Asked) -> io::Result<Reply> {
        match &self.origin {
            Origin::Answers(answer) => Ok(answer(asked)),
            Origin::Upstream(upstream) => forward(*upstream, asked).await,
        }
    }
}

async fn forward(upstream: SocketAddr, asked: &Asked) -> io::Result<Reply> {
    let stream = TokioIo::new(TcpStream::connect(upstream).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    // The upstream server does not have the secret path.
    let path = asked.path.trim_start_matches('/').trim_start_matches(SECRET_PATH);
    let mut request = http::Request::builder()
        .method(asked.verb.as_str())
        .uri(format!("/{}", path.trim_start_matches('/')))
        .header("host", upstream.to_string());
    if let Some(kind) = asked.header("content-type") {
        request = request.header("content-type", kind);
    }
    let body = Full::new(Bytes::from(asked.body.clone()));
    let request = request.body(body).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    Ok(Reply { status, headers: Vec::new(), body })
}

/// `None` at the end of the connection.
async fn next_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<Asked>> {
    loop {
        if let Some((asked, length)) = parse(received) {
            received.drain(..length);
            return Ok(Some(asked));
        }
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await?;
        if length == 0 || received.len() > MAX_REQUEST {
            return Ok(None);
        }
        received.extend_from_slice(&chunk[..length]);
    }
}

/// A complete request, and its length in bytes.
fn parse(received: &[u8]) -> Option<(Asked, usize)> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (verb, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    let body = received.get(end + 4..end + 4 + length)?.to_vec();
    Some((Asked { verb, path, headers, body }, end + 4 + length))
}
