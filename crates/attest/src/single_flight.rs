//! Work shared by concurrent callers.
//!
//! [`SingleFlight`] runs work by key and forgets it when it is done; callers that come while it runs share its
//! result. [`Latest`] keeps the last result of one request, and each caller decides, by the time at which that
//! request was sent, whether the result serves it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::{Semaphore, watch};

/// Why shared work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// The limit of running work is reached.
    Busy,
    /// The work panicked, or the runtime was shut down.
    Abandoned,
}

/// Running work by key. Each piece runs in its own task, to the end even if no caller waits for it.
#[derive(Debug)]
pub struct SingleFlight<K, T> {
    running: Running<K, T>,
    max_running: usize,
}

type Running<K, T> = Arc<Mutex<HashMap<K, InFlight<T>>>>;

/// A handle on running work.
#[derive(Debug, Clone)]
pub struct InFlight<T>(watch::Receiver<Option<T>>);

impl<T: Clone> InFlight<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`Unfinished::Abandoned`].
    pub async fn result(mut self) -> Result<T, Unfinished> {
        let result = self.0.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        result.ok_or(Unfinished::Abandoned)
    }
}

/// Removes the work from the list when it ends, also by a panic.
struct Entry<K: Eq + Hash, T> {
    running: Running<K, T>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<K, T>(running: &Running<K, T>) -> MutexGuard<'_, HashMap<K, InFlight<T>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Runs at most `max_running` pieces of work at a time.
    pub fn new(max_running: usize) -> Self {
        Self { running: Arc::default(), max_running }
    }

    /// Joins the work under `key`; calls `start` if none is running.
    ///
    /// # Errors
    /// [`Unfinished::Busy`].
    pub fn join<W>(&self, key: K, start: impl FnOnce() -> W) -> Result<InFlight<T>, Unfinished>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(work) = running.get(&key) {
            return Ok(work.clone());
        }
        if running.len() >= self.max_running {
            return Err(Unfinished::Busy);
        }
        let (finished, in_flight) = watch::channel(None);
        let in_flight = InFlight(in_flight);
        running.insert(key.clone(), in_flight.clone());
        let (ours, work) = (Arc::clone(&self.running), start());
        tokio::spawn(async move {
            // Created inside the task: if the task never starts, dropping the entry outside would lock
            // `running` again.
            let entry = Entry { running: ours, key };
            let result = work.await;
            drop(entry);
            finished.send_replace(Some(result));
        });
        Ok(in_flight)
    }
}

/// The last result of one request. One caller at a time sends it, or a few; the others wait and use its result
/// if it serves them.
#[derive(Debug)]
pub struct Latest<T> {
    /// Never closed.
    asking: Semaphore,
    answer: ArcSwapOption<Answer<T>>,
}

/// A result with its times.
#[derive(Debug)]
pub struct Answer<T> {
    /// The result.
    pub value: T,
    /// When the request was sent.
    pub asked: Instant,
    /// When the response arrived.
    pub answered: Instant,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self::new(1)
    }
}

impl<T> Latest<T> {
    /// At most `max_asking` callers at a time send the request.
    pub fn new(max_asking: usize) -> Self {
        Self { asking: Semaphore::new(max_asking), answer: ArcSwapOption::empty() }
    }

    /// The last result, of any age.
    pub fn last(&self) -> Option<Arc<Answer<T>>> {
        self.answer.load_full()
    }

    /// Makes the last result older.
    #[cfg(any(test, feature = "testing"))]
    pub fn age_by(&self, time: std::time::Duration)
    where
        T: Clone,
    {
        let earlier = |at: Instant| at.checked_sub(time).expect("the machine has been running for longer");
        if let Some(Answer { value, asked, answered }) = self.answer.load().as_deref() {
            let older = Answer { value: value.clone(), asked: earlier(*asked), answered: earlier(*answered) };
            self.answer.store(Some(Arc::new(older)));
        }
    }

    /// The last result if it `serves`, checked before and after waiting for a running request; otherwise the
    /// result of `ask`, which receives the last one. Errors are not kept.
    ///
    /// # Errors
    /// Those of `ask`.
    pub async fn get<E>(
        &self,
        serves: impl Fn(&Arc<Answer<T>>) -> bool,
        ask: impl AsyncFnOnce(Option<Arc<Answer<T>>>) -> Result<T, E>,
    ) -> Result<Arc<Answer<T>>, E> {
        if let Some(answer) = self.last().filter(&serves) {
            return Ok(answer);
        }
        let _asking = self.asking.acquire().await;
        let last = self.last();
        if let Some(answer) = last.clone().filter(serves) {
            return Ok(answer);
        }
        let asked = Instant::now();
        let value = ask(last).await?;
        Ok(self.newest(Answer { value, asked, answered: Instant::now() }))
    }

    /// Keeps an answer and returns it. The answer to a later request stays and is returned instead, because a
    /// slow answer states what was true earlier.
    fn newest(&self, answer: Answer<T>) -> Arc<Answer<T>> {
        let answer = Arc::new(answer);
        let before = self.answer.rcu(|known| match known {
            Some(known) if known.asked > answer.asked => Some(Arc::clone(known)),
            _ => Some(Arc::clone(&answer)),
        });
        before.filter(|known| known.asked > answer.asked).unwrap_or(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    async fn result<T: Clone>(joined: Result<InFlight<T>, Unfinished>) -> Result<T, Unfinished> {
        joined?.result().await
    }

    #[tokio::test]
    async fn all_waiting_callers_share_one_piece_of_work() {
        let shared = SingleFlight::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let join = || {
            let done = Arc::clone(&done);
            result(shared.join("a", || async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                done.fetch_add(1, Ordering::SeqCst)
            }))
        };
        let answers = tokio::join!(join(), join(), join());
        assert_eq!(answers, (Ok(0), Ok(0), Ok(0)));
        assert_eq!(join().await, Ok(1), "what is done is forgotten");
    }

    #[tokio::test]
    async fn work_continues_when_no_caller_waits() {
        let shared = SingleFlight::new(1);
        let (go, may_end) = tokio::sync::oneshot::channel::<()>();
        let (landed, done) = tokio::sync::oneshot::channel();
        let work = result(shared.join("a", || async move {
            let _ = may_end.await;
            let _ = landed.send(());
        }));
        assert!(tokio::time::timeout(Duration::from_millis(1), work).await.is_err());
        go.send(()).expect("it goes on");
        done.await.expect("it ended");
    }

    #[tokio::test]
    async fn too_much_work_is_refused_and_a_panic_is_forgotten() {
        let shared: SingleFlight<&str, ()> = SingleFlight::new(1);
        let long = result(shared.join("a", std::future::pending::<()>));
        assert!(tokio::time::timeout(Duration::from_millis(1), long).await.is_err());
        assert_eq!(result(shared.join("b", || async {})).await, Err(Unfinished::Busy));
        let shared: SingleFlight<&str, ()> = SingleFlight::new(1);
        let panics = shared.join("a", || async { panic!("on purpose") });
        assert_eq!(result(panics).await, Err(Unfinished::Abandoned));
        assert_eq!(result(shared.join("a", || async {})).await, Ok(()));
    }

    #[tokio::test]
    async fn waiting_callers_take_a_result_that_was_requested_after_they_came() {
        let latest = Latest::default();
        let asked = AtomicUsize::new(0);
        let get = async || {
            let came = Instant::now();
            let ask = async |_: Option<Arc<Answer<usize>>>| {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok::<_, ()>(asked.fetch_add(1, Ordering::SeqCst))
            };
            latest.get(|answer| answer.asked > came, ask).await.map(|answer| answer.value)
        };
        assert_eq!(get().await, Ok(0));
        // The first caller sends the request. The second came before that, so its result serves both.
        let both = tokio::join!(get(), get());
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(get().await.map(|answer| answer > 1), Ok(true), "a later caller asks again");
    }

    #[tokio::test]
    async fn a_few_callers_ask_at_a_time_if_the_limit_permits() {
        let latest = Latest::new(2);
        let both = tokio::sync::Barrier::new(2);
        let get = async || {
            let came = Instant::now();
            let ask = async |_: Option<Arc<Answer<()>>>| {
                both.wait().await;
                Ok::<_, ()>(())
            };
            latest.get(|answer| answer.asked >= came, ask).await.is_ok()
        };
        assert_eq!(tokio::join!(get(), get()), (true, true), "each waits until the other asks");
    }

    #[test]
    fn a_slow_answer_to_an_older_request_overwrites_nothing() {
        let latest = Latest::new(2);
        let first = Instant::now();
        let second = first + Duration::from_millis(1);
        let answer = |asked, value| Answer { value, asked, answered: asked };
        let remembered = || latest.last().map(|answer| answer.value);

        assert_eq!(latest.newest(answer(second, "denied")).value, "denied");
        assert_eq!(
            latest.newest(answer(first, "allowed")).value,
            "denied",
            "who asked first is told of the denial too"
        );
        assert_eq!(remembered(), Some("denied"));
        let third = second + Duration::from_millis(1);
        assert_eq!(latest.newest(answer(third, "allowed")).value, "allowed");
        assert_eq!(remembered(), Some("allowed"));
    }

    #[tokio::test]
    async fn a_failure_is_returned_and_keeps_the_last_result() {
        let latest = Latest::default();
        assert_eq!(latest.get(|_| true, async |_| Ok::<_, &str>(1)).await.map(|answer| answer.value), Ok(1));
        let failed = latest.get(
            |_| false,
            async |last| {
                assert_eq!(last.map(|answer| answer.value), Some(1));
                Err("not now")
            },
        );
        assert_eq!(failed.await.map(|answer| answer.value), Err("not now"));
        assert_eq!(latest.last().map(|answer| answer.value), Some(1));
    }
}
