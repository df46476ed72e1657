//! TLS handshakes: on threads of their own, in turns by address, with their CPU time measured.
//!
//! A handshake verifies signatures and parses certificates that a stranger sends. The threads that serve
//! requests never do that work, and callers of one address cannot take the turns of another.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use super::party::Party;
use super::turns::{Turns, in_turns};
use crate::address::bucket;
use crate::metrics::{Metrics, RequestStage};

/// The threads on which handshakes run.
#[derive(Debug)]
pub struct Handshakes {
    /// Started with the first handshake, because a plain HTTP listener needs none.
    runtime: OnceLock<Runtime>,
    threads: usize,
    turns: Turns,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// As many turns as there are cores, at most half of them for one address.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns::new(threads, threads.div_ceil(2));
        turns.report_to(&metrics, "handshakes");
        Self { runtime: OnceLock::new(), threads, turns, metrics }
    }

    /// Runs a handshake of `address` to its end. Dropping the future aborts it.
    ///
    /// # Errors
    /// Those of the handshake; threads that cannot be started.
    pub(super) async fn run<T>(
        &self,
        address: IpAddr,
        handshake: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
    {
        let _measured = self.metrics.stage(RequestStage::Handshake);
        let share = self.turns.share(Party::Address(bucket(address)));
        let metrics = Arc::clone(&self.metrics);
        let task = self.runtime()?.spawn(in_turns(share, timed(metrics, handshake)));
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn a_handshake_runs_on_its_own_threads_waits_without_a_turn_and_its_time_is_counted() {
        let metrics = Arc::new(Metrics::new([]));
        let handshakes = Handshakes::new(Arc::clone(&metrics));
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        // More handshakes than turns, all waiting for the same event.
        let waiting = Arc::new(AtomicUsize::new(0));
        let many = 4 * handshakes.threads;
        let receiver = futures_util::FutureExt::shared(receiver);
        let all = futures_util::future::join_all((0..many).map(|_| {
            let (receiver, waiting) = (receiver.clone(), Arc::clone(&waiting));
            handshakes.run(address(1), async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                let _ = receiver.await;
                Ok(std::thread::current().name().map(str::to_owned))
            })
        }));
        let release = async {
            while waiting.load(Ordering::Relaxed) < many {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sender.send(()).expect("they wait");
        };
        let (names, ()) = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(all, release) })
            .await
            .expect("none of them holds a turn while it waits");
        for name in names {
            assert_eq!(name.expect("done").as_deref(), Some("handshake"));
        }
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
        let forever = handshakes.run(address(1), async move {
            let _guard = guard;
            std::future::pending::<io::Result<()>>().await
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), forever).await.is_err());
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("in time").expect("told");
    }
}
