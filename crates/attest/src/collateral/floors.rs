//! Floors: numbers below which collateral is refused, because a higher one was seen before or the operator
//! requires it.
//!
//! Signatures and dates alone let a collateral service choose any set that has not expired. With last month's
//! set, a platform that is out of date now would be up to date again. So Intel's version numbers may only
//! rise: `tcbEvaluationDataNumber` of TCB info (per FMSPC) and of QE identity, and the CRL numbers of the
//! root and of each PCK CA. Intel's early set is some weeks ahead of the standard one, and both are genuine,
//! so each has its own floors.

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::file::FloorsFileError;
use self::file::{FloorsFile, MAX_FLOORS};
use super::{Collateral, FetchFailure, FloorKind, TcbSet};

/// The floors of one trusted root. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Floors {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    minimum: u32,
    floors: Mutex<BTreeMap<FloorKind, u64>>,
    file: Option<Mutex<FloorsFile>>,
    refused: [AtomicU64; FloorKind::NAMES.len()],
    unsaved: AtomicU64,
    /// Whether the file lacks floors that are in memory; the next collateral writes it again.
    is_behind: AtomicBool,
}

impl Floors {
    /// Floors kept in memory only. `minimum` applies to `tcbEvaluationDataNumber` of TCB info and QE
    /// identity.
    pub fn in_memory(minimum: u32) -> Self {
        Self { shared: Arc::new(Shared { minimum, ..Shared::default() }) }
    }

    /// Floors kept in the file at `path`, for the root certificate `root` (DER). Reads the file; writes
    /// nothing before the first number.
    ///
    /// # Errors
    /// The file exists but cannot be read or is damaged: the numbers seen before are then unknown.
    pub fn open(path: PathBuf, root: &[u8], minimum: u32) -> Result<Self, FloorsFileError> {
        let file = FloorsFile::new(path, root);
        let floors = Mutex::new(file.read()?);
        let shared = Shared { minimum, floors, file: Some(Mutex::new(file)), ..Shared::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The floors in the file at `path`, as [`Floors::open`] reads them. Nothing is written.
    ///
    /// # Errors
    /// As [`Floors::open`].
    pub fn read(path: PathBuf, root: &[u8], minimum: u32) -> Result<Self, FloorsFileError> {
        let floors = Mutex::new(FloorsFile::new(path, root).read()?);
        Ok(Self { shared: Arc::new(Shared { minimum, floors, ..Shared::default() }) })
    }

    /// Refuses collateral with a number below its floor or the minimum; otherwise raises the floors to its
    /// numbers. `true` if the floors must be saved: one rose, or an earlier save failed.
    pub(super) fn admit(&self, collateral: &Collateral, set: TcbSet) -> Result<bool, FetchFailure> {
        self.admit_unless(collateral, set, |_, _| false)
    }

    /// Like [`Floors::admit`], but a number below its floor is no reason to refuse where `is_excused` says so of the kind and the
    /// floor. The minimum of the operator holds for all.
    pub(super) fn admit_unless(
        &self,
        collateral: &Collateral,
        set: TcbSet,
        is_excused: impl Fn(FloorKind, u64) -> bool,
    ) -> Result<bool, FetchFailure> {
        let mut floors = self.lock();
        if let Some(failure) = self.violation(&floors, collateral, set, is_excused) {
            let index = FloorKind::NAMES.iter().position(|name| *name == failure.0.name());
            self.shared.refused[index.unwrap_or_default()].fetch_add(1, Ordering::Relaxed);
            return Err(failure.1);
        }
        let mut has_risen = false;
        for (kind, number) in numbers_of(collateral, set) {
            if floors.len() >= MAX_FLOORS && !floors.contains_key(&kind) {
                continue;
            }
            let floor = floors.entry(kind).or_default();
            has_risen |= number > *floor;
            *floor = number.max(*floor);
        }
        Ok(has_risen || self.is_behind())
    }

    /// Refuses what [`Floors::admit`] would refuse, and changes nothing.
    pub(super) fn check(&self, collateral: &Collateral, set: TcbSet) -> Result<(), FetchFailure> {
        self.violation(&self.lock(), collateral, set, |_, _| false)
            .map_or(Ok(()), |(_, failure)| Err(failure))
    }

    /// Whether [`Floors::admit`] would refuse the collateral.
    pub(super) fn is_below(&self, collateral: &Collateral, set: TcbSet) -> bool {
        self.violation(&self.lock(), collateral, set, |_, _| false).is_some()
    }

    fn violation(
        &self,
        floors: &BTreeMap<FloorKind, u64>,
        collateral: &Collateral,
        set: TcbSet,
        is_excused: impl Fn(FloorKind, u64) -> bool,
    ) -> Option<(FloorKind, FetchFailure)> {
        numbers_of(collateral, set).into_iter().find_map(|(kind, number)| {
            let minimum = match kind {
                FloorKind::TcbInfo(..) | FloorKind::QeIdentity(_) => u64::from(self.shared.minimum),
                FloorKind::RootCrl | FloorKind::PckCrl(_) => 0,
            };
            let seen = floors.get(&kind).copied().unwrap_or(0);
            let failure = match number {
                number if number < minimum => FetchFailure::BelowMinimum { kind, number, minimum },
                number if number < seen && !is_excused(kind, seen) => {
                    FetchFailure::RolledBack { kind, number, seen }
                }
                _ => return None,
            };
            Some((kind, failure))
        })
    }

    /// Writes the floors to the file. If that fails they still hold in memory, and the next collateral tries
    /// again.
    pub(super) fn save(&self) {
        let Some(file) = &self.shared.file else { return };
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // Copied under the file's lock, so that a later writer never writes earlier numbers.
        let floors = self.lock().clone();
        let replaced = file.replace(&floors);
        self.shared.is_behind.store(replaced.is_err(), Ordering::Relaxed);
        match replaced {
            Ok(merged) => {
                let mut floors = self.lock();
                for (kind, number) in merged {
                    let floor = floors.entry(kind).or_default();
                    *floor = number.max(*floor);
                }
            }
            Err(error) => {
                self.shared.unsaved.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    %error,
                    "the floors of collateral numbers cannot be saved: a restart would accept older collateral"
                );
            }
        }
    }

    /// Notes that the file lacks floors, so that the next collateral writes it.
    pub(super) fn postpone(&self) {
        self.shared.is_behind.store(true, Ordering::Relaxed);
    }

    /// Whether the file lacks floors.
    pub(super) fn is_behind(&self) -> bool {
        self.shared.is_behind.load(Ordering::Relaxed)
    }

    /// Refusals, indexed as [`FloorKind::NAMES`].
    pub(super) fn refused(&self) -> [u64; FloorKind::NAMES.len()] {
        std::array::from_fn(|index| self.shared.refused[index].load(Ordering::Relaxed))
    }

    /// Failed writes of the file.
    pub(super) fn unsaved(&self) -> u64 {
        self.shared.unsaved.load(Ordering::Relaxed)
    }

    /// All floors, in a stable order.
    pub fn list(&self) -> Vec<(FloorKind, u64)> {
        self.lock().iter().map(|(kind, number)| (*kind, *number)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FloorKind, u64>> {
        self.shared.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The four numbers of collateral from `set`, by kind.
pub(super) fn numbers_of(collateral: &Collateral, set: TcbSet) -> [(FloorKind, u64); 4] {
    let (model, numbers) = (collateral.model(), collateral.numbers());
    [
        (FloorKind::TcbInfo(set, model.fmspc), numbers.tcb_info.into()),
        (FloorKind::QeIdentity(set), numbers.qe_identity.into()),
        (FloorKind::RootCrl, numbers.root_crl),
        (FloorKind::PckCrl(model.ca), numbers.pck_crl),
    ]
}

#[cfg(test)]
mod tests;
