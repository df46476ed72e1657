//! Whether what several URLs show of one log is one history.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kms_client::ledger::watched::{View, Watched};
use kms_client::ledger::{LedgerError, Tree};

use super::round::{LOOK_TIME, Seen, Trouble, in_time};

/// Compares what each URL shows of a log with what others show and have shown of it. The result has the place in `seen`, and a
/// warning.
pub(super) async fn compare(seen: &[Seen], known: &Watched) -> Vec<(usize, Result<Option<String>, Trouble>)> {
    let all = seen.iter().enumerate();
    let all =
        all.map(async |(place, found)| (place, in_time(LOOK_TIME, found.compare(seen, &known.views)).await));
    all.collect::<FuturesUnordered<_>>().collect().await
}

impl Seen {
    async fn compare(&self, seen: &[Self], known: &[View]) -> Result<Option<String>, Trouble> {
        let (log, size) = (&self.view.log, self.view.checkpoint.size);
        let is_other = |other: &&View| other.log == *log && other.url != self.view.url;
        self.compare_earlier(seen, known).await?;
        let shown = || seen.iter().map(|other| &other.view).filter(is_other);
        // The same log under a later key has all that is in this one.
        let is_later = |other: &&Self| other.shown.earlier().iter().any(|earlier| earlier.log == *log);
        let later = seen.iter().filter(is_later).map(|other| &other.view);
        let largest = shown().chain(later).map(|other| other.checkpoint.size).max();
        let largest = largest.map_or(size, |other| other.max(size));
        // The largest tree shows whether the others are its beginning.
        if size == largest {
            let others = shown().chain(known.iter().filter(is_other));
            let others: Vec<&View> = others.filter(|other| other.checkpoint.size <= size).collect();
            self.check_beginnings(&others).await?;
        }
        let kept = known.iter().filter(is_other).max_by_key(|other| other.checkpoint.size);
        match kept.filter(|kept| kept.checkpoint.size > largest) {
            Some(kept) => self.check_behind(kept).await.map(Some),
            None => Ok(None),
        }
    }

    /// Compares it with what other URLs show and have shown of the same log under a key that it had before.
    async fn compare_earlier(&self, seen: &[Self], known: &[View]) -> Result<(), Trouble> {
        let is_earlier = |other: &&View| {
            let mut keys = self.shown.earlier().iter();
            other.url != self.view.url && keys.any(|earlier| earlier.log == other.log)
        };
        let all = seen.iter().map(|other| &other.view).chain(known).filter(is_earlier);
        let others: Vec<&View> = all.collect();
        let new = self.view.checkpoint.size;
        // All that the key before has signed is in the tree of the key after it.
        if let Some(other) = others.iter().find(|other| other.checkpoint.size > new) {
            let old = other.checkpoint.size;
            return Err(Trouble::between(LedgerError::Shrunk { old, new }, &other.note, &self.view.note));
        }
        self.check_beginnings(&others).await
    }

    async fn check_beginnings(&self, others: &[&View]) -> Result<(), Trouble> {
        if others.is_empty() {
            return Ok(());
        }
        let tree = Tree::open(&self.shown.files, &self.view.checkpoint).await?;
        for other in others {
            tree.check_beginning(&other.checkpoint)
                .await
                .map_err(|error| Trouble::between(error, &other.note, &self.view.note))?;
        }
        Ok(())
    }

    /// Checks a log of which another URL has shown a larger tree than any URL shows now. Only the tiles prove that this is an old copy and
    /// not a log that was rolled back.
    async fn check_behind(&self, kept: &View) -> Result<String, Trouble> {
        let (old, new) = (kept.checkpoint.size, self.view.checkpoint.size);
        let proven = async {
            let tree = Tree::open(&self.shown.files, &kept.checkpoint).await?;
            tree.check_beginning(&self.view.checkpoint).await
        };
        match proven.await {
            Ok(()) => Ok(format!("it is behind: it shows the first {new} of {old} leaves")),
            Err(error @ (LedgerError::Call(_) | LedgerError::Forked(_))) => {
                Err(Trouble::between(error, &kept.note, &self.view.note))
            }
            Err(_) => Err(Trouble::between(LedgerError::Shrunk { old, new }, &kept.note, &self.view.note)),
        }
    }
}
