//! A TCP load balancer on loopback: round robin, data is forwarded unchanged, dead backends are skipped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// The time limit for connecting to a backend, which is on loopback.
const CONNECT: Duration = Duration::from_secs(2);
const LIFE: Duration = Duration::from_secs(60);
/// The most concurrent connections; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// A running balancer; dropping it closes its port and its connections.
pub struct Balancer {
    address: SocketAddr,
    served: Arc<Vec<AtomicUsize>>,
    passed_over: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// A load balancer for `back_ends`, starting with the first of them.
    pub async fn start(back_ends: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let served: Arc<Vec<AtomicUsize>> = Arc::new(back_ends.iter().map(|_| AtomicUsize::new(0)).collect());
        let passed_over = Arc::new(AtomicUsize::new(0));
        let (counts, skips, back_ends) = (Arc::clone(&served), Arc::clone(&passed_over), back_ends.to_vec());
        let task = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            let mut connections = JoinSet::new();
            for number in 0.. {
                let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
                let Ok((mut client, _)) = listener.accept().await else { return };
                let (counts, skips, back_ends) = (Arc::clone(&counts), Arc::clone(&skips), back_ends.clone());
                connections.spawn(timeout(LIFE, async move {
                    let _permit = permit;
                    for turn in 0..back_ends.len() {
                        let index = (number + turn) % back_ends.len();
                        if let Ok(Ok(mut server)) =
                            timeout(CONNECT, TcpStream::connect(back_ends[index])).await
                        {
                            counts[index].fetch_add(1, Ordering::Relaxed);
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                        skips.fetch_add(1, Ordering::Relaxed);
                    }
                }));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, served, passed_over, task }
    }

    /// Its address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections to each backend.
    pub fn served(&self) -> Vec<usize> {
        self.served.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// How often a dead backend was skipped.
    pub fn passed_over(&self) -> usize {
        self.passed_over.load(Ordering::Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
