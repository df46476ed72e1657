//! The cache and its store: what is fetched is written, and what was written is used again after a restart.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::sync::PoisonError;
use std::thread;

use dcap_qvl::QuoteCollateralV3;

use super::completion::{complete, knows};
use super::{CollateralCache, Shared, Source, StoredStats};
use crate::collateral::set::crl_issuer;
use crate::collateral::{
    CacheOptions, Collateral, CollateralStore, FetchFailure, PlatformKey, RefusedFile, Resource,
    StoredProblem, StoredSet, TcbSet, authentic,
};

/// The threads that check signatures at the start.
const MAX_THREADS: usize = 4;

/// A verified file.
struct Candidate {
    file: String,
    fetched: u64,
    collateral: Collateral,
}

/// Ends the wait for the files, also if reading them panics.
struct Loading<'a>(&'a Shared);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.stored().is_loading = false;
        self.0.is_loading.send_replace(false);
    }
}

impl CollateralCache {
    /// Starts to read the store, on threads of its own. Who needs collateral meanwhile waits for the end before any service is
    /// asked. Call it once, inside a runtime.
    pub fn load_stored(&self) {
        let Some(store) = self.shared.options.store.clone() else { return };
        self.shared.stored().is_loading = true;
        self.shared.is_loading.send_replace(true);
        let cache = self.clone();
        tokio::task::spawn_blocking(move || {
            let loading = Loading(&cache.shared);
            cache.load(&store);
            drop(loading);
        });
    }

    /// Reads the store now, for programs that do nothing else meanwhile.
    pub fn load_stored_now(&self) {
        if let Some(store) = &self.shared.options.store {
            self.load(store);
        }
    }

    /// Waits until the store is read.
    pub async fn loaded(&self) {
        // The sender lives as long as the cache.
        let _ = self.shared.is_loading.subscribe().wait_for(|is_loading| !is_loading).await;
    }

    /// Uses what the store has, as far as it passes the checks of what a service sends: signatures up to the root, dates,
    /// numbers.
    fn load(&self, store: &CollateralStore) {
        let reading = store.read();
        let mut refused = reading.refused;
        refused.extend(self.load_chains(reading.chains));
        let (candidates, unsigned) = self.authenticated(reading.sets);
        refused.extend(unsigned);
        let mut has_risen = false;
        let mut loaded = 0;
        let now = self.clock().now();
        let floors = &self.shared.options.floors;
        let kept = || candidates.iter().map(|candidate| &candidate.collateral);
        for candidate in &candidates {
            let completed = complete(&candidate.collateral, kept(), now);
            let admitted = self.admitted(&candidate.collateral, completed).and_then(|collateral| {
                // A later document of another model may have ended. The process that kept both used this set on.
                let others = || kept().filter(|other| other.model() != collateral.model());
                let is_excused = |kind, floor| knows(others(), kind, floor);
                has_risen |= floors.admit_unless(&collateral, TcbSet::Standard, is_excused)?;
                Ok(collateral)
            });
            match admitted {
                Ok(collateral) => {
                    let fetched = candidate.fetched.min(now);
                    let model = collateral.model();
                    self.entries().place(model, collateral, fetched, now, &self.shared.options);
                    loaded += 1;
                }
                Err(failure) => {
                    if failure == FetchFailure::NotCurrent && candidate.collateral.expires() < now {
                        let end = candidate.collateral.expires();
                        self.entries().note_expired(candidate.collateral.model(), end);
                    }
                    let file = candidate.file.clone();
                    refused.push(RefusedFile { file, problem: StoredProblem::Refused(failure) });
                }
            }
        }
        if has_risen {
            floors.save();
        }
        for file in &refused {
            match &file.problem {
                StoredProblem::Refused(FetchFailure::NotCurrent) => {
                    tracing::warn!(%file, "kept collateral is not used");
                }
                problem => {
                    tracing::error!(%file, "kept collateral is not used");
                    self.shared.news().refuse(Source::Disk, &format!("the file {problem}"));
                }
            }
        }
        self.hasten_old(&mut self.entries(), now);
        self.entries().probe(now);
        tracing::info!(models = loaded, refused = refused.len(), "kept collateral is in use");
        let mut stored = self.shared.stored();
        stored.loaded = loaded;
        stored.refused = refused;
    }

    /// Checks the signatures of all files, on some threads.
    fn authenticated(&self, sets: Vec<StoredSet>) -> (Vec<Candidate>, Vec<RefusedFile>) {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
        let share = sets.len().div_ceil(threads).max(1);
        let mut sets = sets.into_iter();
        let shares: Vec<Vec<StoredSet>> = (0..threads).map(|_| sets.by_ref().take(share).collect()).collect();
        let check = |sets: Vec<StoredSet>| {
            sets.into_iter().map(|set| self.authenticate(set)).collect::<Vec<Result<_, _>>>()
        };
        let checked: Vec<_> = thread::scope(|scope| {
            let check = &check;
            let running: Vec<_> = shares.into_iter().map(|sets| scope.spawn(move || check(sets))).collect();
            running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let (mut candidates, mut refused) = (Vec::new(), Vec::new());
        for one in checked {
            match one {
                Ok(candidate) => candidates.push(candidate),
                Err(file) => refused.push(file),
            }
        }
        (candidates, refused)
    }

    fn authenticate(&self, set: StoredSet) -> Result<Candidate, RefusedFile> {
        let StoredSet { file, fetched, parts } = set;
        let root = self.shared.anchors.tdx_root();
        let collateral = crl_issuer(&parts.pck_crl)
            .ok_or(FetchFailure::Untrusted(Resource::PckCrl))
            .and_then(|ca| authentic::authenticate(parts, ca, root, self.clock()));
        match collateral {
            Ok(collateral) => Ok(Candidate { file, fetched, collateral }),
            Err(failure) => Err(RefusedFile { file, problem: StoredProblem::Refused(failure) }),
        }
    }

    /// Collateral with later documents of others where there are any, if it is valid now.
    pub(super) fn admitted(
        &self,
        own: &Collateral,
        completed: Option<QuoteCollateralV3>,
    ) -> Result<Collateral, FetchFailure> {
        let Some(parts) = completed else {
            authentic::check_dates(own, self.clock().now())?;
            return Ok(own.clone());
        };
        authentic::admit(parts, own.model(), self.shared.anchors.tdx_root(), self.clock())
    }

    /// Writes verified collateral to the store, and after it what could not be written earlier. It is used even if that fails: a
    /// restart then lacks it. With `None`, only what could not be written earlier.
    pub(super) fn write_stored(&self, store: &CollateralStore, collateral: Option<&Collateral>) {
        let now = self.clock().now();
        // Locked to the end, so that an older set never replaces a later one.
        let mut unwritten = self.unwritten();
        if let Some(collateral) = collateral {
            unwritten.insert(collateral.model(), (now, collateral.clone()));
        }
        unwritten.retain(|_, (_, collateral)| collateral.expires() >= now);
        let new = collateral.map(Collateral::model);
        let mut models: Vec<PlatformKey> = unwritten.keys().copied().collect();
        models.sort_by_key(|model| Some(*model) != new);
        let mut written = Ok(());
        for model in models {
            let Some((fetched, collateral)) = unwritten.get(&model) else { continue };
            written = store.write(collateral, *fetched);
            // What is too large never fits, so nothing waits for it.
            if written.as_ref().is_err_and(|error| error.kind() != ErrorKind::FileTooLarge) {
                break;
            }
            unwritten.remove(&model);
            if written.is_err() {
                break;
            }
        }
        drop(unwritten);
        let mut stored = self.shared.stored();
        stored.write_failure = written.as_ref().err().map(std::io::Error::kind);
        if let Err(error) = written {
            stored.unsaved += 1;
            tracing::error!(%error, "collateral cannot be kept: a restart would need a collateral service");
        }
    }

    /// Tries again to write what could not be written.
    pub(super) async fn retry_unwritten(&self) {
        if self.unwritten().is_empty() {
            return;
        }
        let cache = self.clone();
        let write = move || {
            let CacheOptions { floors, store, .. } = &cache.shared.options;
            if let Some(store) = store {
                cache.write_stored(store, None);
            }
            if floors.is_behind() {
                cache.save_floors();
            }
        };
        // If the task panics, all of it is in memory still.
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Writes the floors, unless a restart would then refuse an older file whose successor could not be written: they are written
    /// after it.
    pub(super) fn save_floors(&self) {
        let CacheOptions { floors, store, .. } = &self.shared.options;
        let has_files = store.as_ref().is_some_and(CollateralStore::has_files);
        match has_files && !self.unwritten().is_empty() {
            true => {
                floors.postpone();
                tracing::warn!("the floors of collateral numbers are saved when the collateral can be kept");
            }
            false => floors.save(),
        }
    }

    /// What could not be written, and when it was fetched (Unix seconds).
    pub(super) fn unwritten(&self) -> std::sync::MutexGuard<'_, BTreeMap<PlatformKey, (u64, Collateral)>> {
        self.shared.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn stored(&self) -> std::sync::MutexGuard<'_, StoredStats> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
