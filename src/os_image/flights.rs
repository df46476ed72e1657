//! Work that runs once for all callers that wait for it, and goes on when none waits any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

type Flight<T> = Shared<BoxFuture<'static, Result<T, NoLanding>>>;
type Running<T> = Arc<Mutex<HashMap<String, Flight<T>>>>;

/// Why work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLanding {
    /// Too much work is running already.
    Busy,
    /// The work was torn down with the program.
    Stopped,
}

/// Running work by its key; each runs as a task of its own.
#[derive(Debug)]
pub(super) struct Flights<T> {
    running: Running<T>,
    most: usize,
}

/// Forgets the work when it is done, even if it panics.
struct Landing<T: Clone> {
    running: Running<T>,
    key: String,
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<T: Clone>(running: &Running<T>) -> MutexGuard<'_, HashMap<String, Flight<T>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// At most `most` pieces of work at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { running: Arc::default(), most }
    }

    /// The result of the work under `key`, which `start` begins unless it is running.
    pub(super) async fn join<W>(&self, key: &str, start: impl FnOnce() -> W) -> Result<T, NoLanding>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let flight = self.flight(key, start)?;
        flight.await
    }

    fn flight<W>(&self, key: &str, start: impl FnOnce() -> W) -> Result<Flight<T>, NoLanding>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(flight) = running.get(key) {
            return Ok(flight.clone());
        }
        if running.len() >= self.most {
            return Err(NoLanding::Busy);
        }
        let (ours, name, work) = (Arc::clone(&self.running), key.to_owned(), start());
        let task = tokio::spawn(async move {
            // Made here, not outside: a task that never starts must not take the lock that is held there.
            let _landing = Landing { running: ours, key: name };
            work.await
        });
        let flight = async move { task.await.map_err(|_| NoLanding::Stopped) }.boxed().shared();
        running.insert(key.to_owned(), flight.clone());
        Ok(flight)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_share_one_piece_of_work() {
        let flights = Flights::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let join = || {
            let done = Arc::clone(&done);
            flights.join("a", || async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                done.fetch_add(1, Ordering::SeqCst)
            })
        };
        let answers = tokio::join!(join(), join(), join());
        assert_eq!(answers, (Ok(0), Ok(0), Ok(0)));
        assert_eq!(join().await, Ok(1), "what is done is forgotten");
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits() {
        let flights = Flights::new(1);
        let (landed, done) = tokio::sync::oneshot::channel();
        let work = flights.join("a", || async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = landed.send(());
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), work).await.is_err());
        done.await.expect("it landed");
    }

    #[tokio::test]
    async fn too_much_work_is_refused_and_a_panic_is_forgotten() {
        let flights: Flights<()> = Flights::new(1);
        let long = flights.join("a", std::future::pending::<()>);
        assert!(tokio::time::timeout(Duration::from_millis(1), long).await.is_err());
        assert_eq!(flights.join("b", || async {}).await, Err(NoLanding::Busy));
        let flights: Flights<()> = Flights::new(1);
        assert_eq!(flights.join("a", || async { panic!("on purpose") }).await, Err(NoLanding::Stopped));
        assert_eq!(flights.join("a", || async {}).await, Ok(()));
    }
}
