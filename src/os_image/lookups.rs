//! How often the caches of OS images had what was looked for, and how much is in them, for operators.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::CacheState;

/// One of the caches, in numbers.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    entries: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Whether a look-up found an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    Hit,
    Miss,
}

impl Lookups {
    pub(super) fn count(&self, lookup: Lookup) {
        let counter = match lookup {
            Lookup::Hit => &self.hits,
            Lookup::Miss => &self.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the entries again. Reads a directory, which those who show the numbers must not wait for.
    pub(super) fn recount(&self, directory: &Path, is_entry: impl Fn(&fs::DirEntry) -> bool) {
        // A directory that cannot be read has no entry of use.
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| is_entry(entry));
        self.entries.store(entries.count() as u64, Ordering::Relaxed);
    }

    pub(super) fn state(&self, limit: Option<u64>) -> CacheState {
        let [entries, hits, misses] =
            [&self.entries, &self.hits, &self.misses].map(|count| count.load(Ordering::Relaxed));
        CacheState { entries, limit, hits, misses }
    }
}
