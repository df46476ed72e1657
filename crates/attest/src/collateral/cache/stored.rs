//! The cache and its store: what is fetched is written, and what was written is used again after a restart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::PoisonError;
use std::thread;

use dcap_qvl::QuoteCollateralV3;

use super::{CollateralCache, Shared, Source};
use crate::collateral::{
    Collateral, CollateralStore, FetchFailure, RefusedFile, Resource, StoredProblem, StoredSet, TcbSet,
    authentic, crl_issuer,
};

/// The threads that check signatures at the start.
const MAX_THREADS: usize = 4;

/// The state of the store, for metrics and operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredStats {
    /// Whether files are still being read.
    pub is_loading: bool,
    /// Models whose collateral came from the disk at the start.
    pub loaded: usize,
    /// The files that were not used.
    pub refused: Vec<RefusedFile>,
    /// Failed writes.
    pub unsaved: u64,
    /// Why the last write failed, if it did.
    pub write_failure: Option<std::io::ErrorKind>,
}

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
        let (candidates, unsigned) = self.authenticated(reading.sets);
        refused.extend(unsigned);
        let mut has_risen = false;
        let mut loaded = 0;
        let now = self.clock().now();
        let floors = &self.shared.options.floors;
        for (candidate, completed) in completed(candidates, now) {
            let admitted = self.admitted(&candidate, completed);
            let admitted =
                admitted.and_then(|collateral| match floors.admit(&collateral, TcbSet::Standard) {
                    Ok(rises) => {
                        has_risen |= rises;
                        Ok(collateral)
                    }
                    Err(failure) => Err(failure),
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
                    refused
                        .push(RefusedFile { file: candidate.file, problem: StoredProblem::Refused(failure) });
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

    /// The collateral of a file, with later documents of other files where there are any, if it is valid now.
    fn admitted(
        &self,
        candidate: &Candidate,
        completed: Option<QuoteCollateralV3>,
    ) -> Result<Collateral, FetchFailure> {
        let Some(parts) = completed else {
            authentic::check_dates(&candidate.collateral, self.clock().now())?;
            return Ok(candidate.collateral.clone());
        };
        let model = candidate.collateral.model();
        authentic::admit(parts, model, self.shared.anchors.tdx_root(), self.clock())
    }

    /// Writes verified collateral to the store. It is used even if that fails: a restart then lacks it.
    pub(super) fn write_stored(&self, store: &CollateralStore, collateral: &Collateral) {
        let written = store.write(collateral, self.clock().now());
        let mut stored = self.shared.stored();
        stored.write_failure = written.as_ref().err().map(std::io::Error::kind);
        if let Err(error) = written {
            stored.unsaved += 1;
            tracing::error!(%error, "collateral cannot be kept: a restart would need a collateral service");
        }
    }
}

impl Shared {
    pub(super) fn stored(&self) -> std::sync::MutexGuard<'_, StoredStats> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each file, with the documents to use if some are not its own. QE identity and CRLs are of many models, and TCB info of two
/// CAs: where another file has a higher number, or the own document has expired, that document counts. Otherwise a model that
/// was not fetched since the numbers rose would be refused as older than seen before.
fn completed(candidates: Vec<Candidate>, now: u64) -> Vec<(Candidate, Option<QuoteCollateralV3>)> {
    let newest = Newest::of(candidates.iter().map(|candidate| &candidate.collateral));
    let parts: Vec<_> =
        candidates.iter().map(|candidate| newest.complete(&candidate.collateral, now)).collect();
    candidates.into_iter().zip(parts).collect()
}

/// What a document of this kind is shared by, and a number with its end, by which one is later.
#[derive(Default)]
struct Newest<'a> {
    documents: HashMap<Document, (Rank, &'a Collateral)>,
}

type Rank = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Document {
    TcbInfo([u8; 6]),
    QeIdentity,
    RootCrl,
    PckCrl(crate::collateral::CaKind),
}

fn documents(collateral: &Collateral) -> [(Document, Rank); 4] {
    let (model, numbers, ends) = (collateral.model(), collateral.numbers(), collateral.ends);
    [
        (Document::TcbInfo(model.fmspc), (numbers.tcb_info.into(), ends.tcb_info)),
        (Document::QeIdentity, (numbers.qe_identity.into(), ends.qe_identity)),
        (Document::RootCrl, (numbers.root_crl, ends.root_crl)),
        (Document::PckCrl(model.ca), (numbers.pck_crl, ends.pck_crl)),
    ]
}

impl<'a> Newest<'a> {
    fn of(candidates: impl Iterator<Item = &'a Collateral>) -> Self {
        let mut newest = Self::default();
        for collateral in candidates {
            for (document, rank) in documents(collateral) {
                match newest.documents.entry(document) {
                    Entry::Occupied(held) if held.get().0 >= rank => {}
                    Entry::Occupied(mut held) => _ = held.insert((rank, collateral)),
                    Entry::Vacant(place) => _ = place.insert((rank, collateral)),
                }
            }
        }
        newest
    }

    /// The documents to use instead of those of `own`; `None` if its own are the latest.
    fn complete(&self, own: &Collateral, now: u64) -> Option<QuoteCollateralV3> {
        let mut parts = None;
        for (document, (number, end)) in documents(own) {
            let Some(((latest, latest_end), other)) = self.documents.get(&document) else { continue };
            let is_later = *latest > number || (*latest == number && end < now && *latest_end > end);
            if is_later {
                take(document, other.parts(), parts.get_or_insert_with(|| own.parts().clone()));
            }
        }
        parts
    }
}

fn take(document: Document, from: &QuoteCollateralV3, into: &mut QuoteCollateralV3) {
    match document {
        Document::TcbInfo(_) => {
            into.tcb_info.clone_from(&from.tcb_info);
            into.tcb_info_signature.clone_from(&from.tcb_info_signature);
            into.tcb_info_issuer_chain.clone_from(&from.tcb_info_issuer_chain);
        }
        Document::QeIdentity => {
            into.qe_identity.clone_from(&from.qe_identity);
            into.qe_identity_signature.clone_from(&from.qe_identity_signature);
            into.qe_identity_issuer_chain.clone_from(&from.qe_identity_issuer_chain);
        }
        Document::RootCrl => into.root_ca_crl.clone_from(&from.root_ca_crl),
        Document::PckCrl(_) => {
            into.pck_crl.clone_from(&from.pck_crl);
            into.pck_crl_issuer_chain.clone_from(&from.pck_crl_issuer_chain);
        }
    }
}

#[cfg(test)]
mod tests;
