//! A TCP proxy on loopback before a server on a Unix socket, whose network can be cut, stalled and slowed down.
//!
//! It stands for a partition of network namespaces, which needs privileges, and is no weaker: a stalled proxy accepts connections and
//! acknowledges what is sent into them, where a cut network would soon report an error; and what it held back arrives later.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It forwards everything.
    Whole,
    /// Connections are accepted and stay open; nothing passes, until it is whole again.
    BlackHole,
    /// Connections are reset, and new ones too.
    Reset,
    /// Each piece is delayed by this.
    Slow(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    network: Network,
    server: PathBuf,
    /// Counts the servers: connections to an earlier one are closed.
    turn: u64,
}

/// A running proxy; dropping it closes its port and its connections.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to the server at this Unix socket.
    pub async fn start(server: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { network: Network::Whole, server: server.to_owned(), turn: 0 };
        let (state, watched) = watch::channel(state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, watched.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, task }
    }

    /// Its address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the network does.
    pub fn set(&self, network: Network) {
        self.state.send_modify(|state| state.network = network);
    }

    /// Closes all connections, and forwards new ones to another server.
    pub fn forward_to(&self, server: &Path) {
        self.state.send_modify(|state| {
            state.server = server.to_owned();
            state.turn += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, state: watch::Receiver<State>) {
    let turn = state.borrow().turn;
    let _ = client.set_nodelay(true);
    // A close is then a reset.
    let _ = client.set_zero_linger();
    let Some(server) = passed(&mut state.clone(), turn).await else { return };
    let Ok(server) = UnixStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = copy(&mut from_client, &mut to_server, state.clone(), turn) => {}
        () = copy(&mut from_server, &mut to_client, state.clone(), turn) => {}
        () = closed(state.clone(), turn) => {}
    }
}

/// Waits until the network forwards, and gives the server; `None` if it closes the connection.
async fn passed(state: &mut watch::Receiver<State>, turn: u64) -> Option<PathBuf> {
    let is_passable = |state: &State| state.turn != turn || state.network != Network::BlackHole;
    let State { network, server, turn: now } = state.wait_for(is_passable).await.ok()?.clone();
    if let Network::Slow(delay) = network {
        tokio::time::sleep(delay).await;
    }
    (now == turn && network != Network::Reset).then_some(server)
}

async fn closed(mut state: watch::Receiver<State>, turn: u64) {
    let _ = state.wait_for(|state| state.turn != turn || state.network == Network::Reset).await;
}

async fn copy<R, W>(from: &mut R, to: &mut W, mut state: watch::Receiver<State>, turn: u64)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut piece = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if passed(&mut state, turn).await.is_none() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
