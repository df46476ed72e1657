//! TLS handshakes, with their CPU time measured. A few small ones run on the threads that serve requests, which saves changes of
//! threads. All others have threads of their own, and take turns by address.
//!
//! A handshake verifies signatures and parses certificates that a stranger sends. The threads that serve requests never do much of
//! that work: not for many at once, and not for a client that sends more than 4 KiB.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::party::Party;
use super::turns::{Turns, in_turns};
use crate::address::bucket;
use crate::metrics::{Metrics, RequestStage};

/// The bytes that a client may send in a handshake on the threads that serve requests: enough without a client certificate, also after
/// a HelloRetryRequest, and too few for certificates that cost much. One with evidence is larger.
const SMALL: usize = 4096;

/// A connection of which at most [`SMALL`] bytes are read, until its [`Allowance`] is lifted.
#[derive(Debug)]
pub(super) struct Metered<IO> {
    io: IO,
    allowance: Arc<Allowance>,
}

/// What may still be read of a [`Metered`] connection.
#[derive(Debug)]
pub(super) struct Allowance {
    left: AtomicUsize,
    /// Whether there is more to read than was allowed.
    is_spent: AtomicBool,
}

impl Allowance {
    /// Whether reading waits for [`Allowance::lift`].
    fn is_spent(&self) -> bool {
        self.is_spent.load(Ordering::Relaxed)
    }

    /// From now on everything is read.
    fn lift(&self) {
        self.left.store(usize::MAX, Ordering::Relaxed);
        self.is_spent.store(false, Ordering::Relaxed);
    }
}

impl<IO> Metered<IO> {
    pub(super) fn new(io: IO) -> Self {
        let allowance = Allowance { left: SMALL.into(), is_spent: AtomicBool::new(false) };
        Self { io, allowance: Arc::new(allowance) }
    }

    pub(super) fn allowance(&self) -> Arc<Allowance> {
        Arc::clone(&self.allowance)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, allowance } = self.get_mut();
        match allowance.left.load(Ordering::Relaxed) {
            usize::MAX => Pin::new(io).poll_read(context, buffer),
            // The poller of the handshake looks at this, so nothing needs to wake it.
            0 => {
                allowance.is_spent.store(true, Ordering::Relaxed);
                Poll::Pending
            }
            left => {
                let most = left.min(buffer.remaining());
                let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
                ready!(Pin::new(io).poll_read(context, &mut part))?;
                let read = part.filled().len();
                buffer.advance(read);
                allowance.left.store(left - read, Ordering::Relaxed);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// How many handshakes may run on the threads that serve requests at once, for each core. So many together delay a request by less
/// than a millisecond.
const HERE: usize = 8;

/// Where handshakes run.
#[derive(Debug)]
pub struct Handshakes {
    /// Started with the first handshake that needs them, because a plain HTTP listener has none.
    runtime: OnceLock<Runtime>,
    threads: usize,
    /// The places on the threads that serve requests.
    here: Semaphore,
    turns: Turns,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// As many threads and turns as there are cores, at most half of the turns for one address.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns::new(threads, threads.div_ceil(2));
        turns.report_to(&metrics, "handshakes");
        Self { runtime: OnceLock::new(), threads, here: Semaphore::new(HERE * threads), turns, metrics }
    }

    /// Runs a handshake of `address`, over a connection with this allowance, to its end. Dropping the future aborts it.
    ///
    /// # Errors
    /// Those of the handshake; threads that cannot be started.
    pub(super) async fn run<T>(
        &self,
        address: IpAddr,
        allowance: &Allowance,
        handshake: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
    {
        let _measured = self.metrics.stage(RequestStage::Handshake);
        let mut handshake = Box::pin(timed(Arc::clone(&self.metrics), handshake));
        let done = match self.here.try_acquire() {
            Ok(_place) => while_small(allowance, handshake.as_mut()).await,
            Err(_) => None,
        };
        allowance.lift();
        if let Some(done) = done {
            return done;
        }
        let share = self.turns.share(Party::Address(bucket(address)));
        let task = self.runtime()?.spawn(async move { in_turns(&share, handshake).await });
        let _aborted = AbortOnDrop(task.abort_handle());
        task.await.map_err(io::Error::other)?
    }

    fn runtime(&self) -> io::Result<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(1)
            .thread_name("handshake")
            .build()?;
        // Two first connections may race. A runtime must not be dropped in asynchronous code.
        if let Err(second) = self.runtime.set(runtime) {
            second.shutdown_background();
        }
        self.runtime.get().ok_or_else(|| io::Error::other("no handshake threads"))
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The result of `handshake`; `None` if it has more to read than its allowance.
async fn while_small<F: Future + Unpin>(allowance: &Allowance, mut handshake: F) -> Option<F::Output> {
    poll_fn(|context| match Pin::new(&mut handshake).poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if allowance.is_spent() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Measures the CPU time of each poll of `future`.
async fn timed<F: Future>(metrics: Arc<Metrics>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let before = thread_time();
        let polled = future.as_mut().poll(context);
        metrics.handshake_worked(thread_time().saturating_sub(before));
        polled
    })
    .await
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Both ends of a connection, of which one has sent `length` bytes.
    async fn sent(length: usize) -> (Metered<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(4 * SMALL);
        theirs.write_all(&vec![7; length]).await.expect("room");
        (Metered::new(ours), theirs)
    }

    /// The name of the thread on which so many bytes were read.
    async fn read_on(handshakes: &Handshakes, length: usize) -> String {
        let (mut ours, _theirs) = sent(length).await;
        let allowance = ours.allowance();
        let read = async move {
            let mut all = vec![0; length];
            ours.read_exact(&mut all).await?;
            assert_eq!(all, vec![7; length]);
            Ok(std::thread::current().name().unwrap_or_default().to_owned())
        };
        handshakes.run(address(1), &allowance, read).await.expect("done")
    }

    #[tokio::test]
    async fn what_is_not_small_goes_on_on_other_threads() {
        let handshakes = Handshakes::new(Arc::new(Metrics::new([])));
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        assert_ne!(here, "handshake");
        for (length, place) in
            [(0, &*here), (1, &here), (SMALL, &here), (SMALL + 1, "handshake"), (3 * SMALL, "handshake")]
        {
            assert_eq!(read_on(&handshakes, length).await, place, "{length}");
        }
    }

    #[tokio::test]
    async fn many_at_once_run_on_other_threads_too() {
        let handshakes = Handshakes::new(Arc::new(Metrics::new([])));
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        let all = handshakes.here.available_permits();
        let held = handshakes.here.acquire_many(u32::try_from(all).unwrap()).await.expect("open");
        assert_eq!(read_on(&handshakes, 1).await, "handshake");
        drop(held);
        assert_eq!(read_on(&handshakes, 1).await, here);
        assert_eq!(read_on(&handshakes, 2 * SMALL).await, "handshake");
        assert_eq!(handshakes.here.available_permits(), all);
    }

    #[tokio::test]
    async fn in_small_pieces_it_goes_on_there_too() {
        let handshakes = Handshakes::new(Arc::new(Metrics::new([])));
        let (mut ours, mut theirs) = sent(0).await;
        let allowance = ours.allowance();
        let read = async move {
            for _ in 0..2 * SMALL {
                ours.read_u8().await?;
            }
            Ok((std::thread::current().name().map(str::to_owned), ours))
        };
        let write = async {
            for _ in 0..2 * SMALL + 3 {
                theirs.write_u8(1).await.expect("room");
                tokio::task::yield_now().await;
            }
        };
        let (done, ()) = tokio::join!(handshakes.run(address(1), &allowance, read), write);
        let (name, mut ours) = done.expect("done");
        assert_eq!(name.as_deref(), Some("handshake"));
        let mut rest = [0; 3];
        ours.read_exact(&mut rest).await.expect("nothing is held back afterwards");
    }

    #[tokio::test]
    async fn after_a_small_handshake_everything_is_read() {
        let handshakes = Handshakes::new(Arc::new(Metrics::new([])));
        let (mut ours, mut theirs) = sent(SMALL).await;
        let allowance = ours.allowance();
        let read = async move {
            ours.read_exact(&mut [0; SMALL]).await?;
            Ok(ours)
        };
        let mut ours = handshakes.run(address(1), &allowance, read).await.expect("done");
        theirs.write_all(&[7; 2 * SMALL]).await.expect("room");
        ours.read_exact(&mut [0; 2 * SMALL]).await.expect("all");
    }

    #[tokio::test]
    async fn a_handshake_waits_without_a_turn_and_its_time_is_counted() {
        let metrics = Arc::new(Metrics::new([]));
        let handshakes = Handshakes::new(Arc::clone(&metrics));
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        // More handshakes than places and turns, all waiting for the same event.
        let waiting = Arc::new(AtomicUsize::new(0));
        let many = (HERE + 4) * handshakes.threads;
        let receiver = futures_util::FutureExt::shared(receiver);
        let connections: Vec<_> = (0..many).map(|_| Metered::new(tokio::io::empty()).allowance()).collect();
        let all = futures_util::future::join_all(connections.iter().map(|allowance| {
            let (receiver, waiting) = (receiver.clone(), Arc::clone(&waiting));
            handshakes.run(address(1), allowance, async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                let _ = receiver.await;
                Ok(())
            })
        }));
        let release = async {
            while waiting.load(Ordering::Relaxed) < many {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sender.send(()).expect("they wait");
        };
        let (done, ()) = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(all, release) })
            .await
            .expect("none of them holds a turn while it waits");
        assert!(done.iter().all(Result::is_ok));
        assert!(metrics.render().contains("cvm_kms_handshake_cpu_seconds_total 0.0"), "{}", metrics.render());
    }

    #[tokio::test]
    async fn a_handshake_that_is_given_up_ends() {
        struct Ended(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Ended {
            fn drop(&mut self) {
                let _ = self.0.take().expect("once").send(());
            }
        }
        let handshakes = Handshakes::new(Arc::new(Metrics::new([])));
        let (sender, ended) = tokio::sync::oneshot::channel();
        let guard = Ended(Some(sender));
        let (mut ours, _theirs) = sent(2 * SMALL).await;
        let allowance = ours.allowance();
        let forever = handshakes.run(address(1), &allowance, async move {
            let _guard = guard;
            ours.read_exact(&mut [0; 2 * SMALL]).await?;
            std::future::pending::<io::Result<()>>().await
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), forever).await.is_err());
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("in time").expect("told");
    }
}
