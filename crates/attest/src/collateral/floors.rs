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
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::file::FloorsFile;
pub use self::file::FloorsFileError;
use super::{CaKind, Collateral, FetchFailure};

/// Maximum number of floors. Only collateral signed up to the root adds one; there are a few hundred models.
const MAX_FLOORS: usize = 4096;

/// The TCB set that was requested: Intel's `update` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcbSet {
    /// The set that decisions use (`update=standard`).
    Standard,
    /// The set with the next TCB recovery (`update=early`).
    Early,
}

impl TcbSet {
    fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Early => "early",
        }
    }
}

/// What a floor applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FloorKind {
    /// `tcbEvaluationDataNumber` of the TCB info of an FMSPC.
    TcbInfo(TcbSet, [u8; 6]),
    /// `tcbEvaluationDataNumber` of QE identity.
    QeIdentity(TcbSet),
    /// CRL number of the root CA.
    RootCrl,
    /// CRL number of a PCK CA.
    PckCrl(CaKind),
}

impl FloorKind {
    /// Stable name in metrics: `tcb_info`, `qe_identity`, `root_crl`, `pck_crl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcbInfo(..) => "tcb_info",
            Self::QeIdentity(_) => "qe_identity",
            Self::RootCrl => "root_crl",
            Self::PckCrl(_) => "pck_crl",
        }
    }

    /// All names.
    pub const NAMES: [&'static str; 4] = ["tcb_info", "qe_identity", "root_crl", "pck_crl"];

    /// The four numbers of collateral from `set`, by kind.
    pub(super) fn of(collateral: &Collateral, set: TcbSet) -> [(Self, u64); 4] {
        let (model, numbers) = (collateral.model(), collateral.numbers());
        [
            (Self::TcbInfo(set, model.fmspc), numbers.tcb_info.into()),
            (Self::QeIdentity(set), numbers.qe_identity.into()),
            (Self::RootCrl, numbers.root_crl),
            (Self::PckCrl(model.ca), numbers.pck_crl),
        ]
    }
}

/// The form in the file: `tcb_info/standard/b0c06f000000`, `pck_crl/platform`.
impl fmt::Display for FloorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcbInfo(set, fmspc) => {
                write!(f, "{}/{}/{}", self.name(), set.as_str(), hex::encode(fmspc))
            }
            Self::QeIdentity(set) => write!(f, "{}/{}", self.name(), set.as_str()),
            Self::RootCrl => f.write_str(self.name()),
            Self::PckCrl(ca) => write!(f, "{}/{}", self.name(), ca.as_str()),
        }
    }
}

impl FloorKind {
    fn parse(text: &str) -> Option<Self> {
        let set = |word: &str| [TcbSet::Standard, TcbSet::Early].into_iter().find(|set| set.as_str() == word);
        let ca =
            |word: &str| [CaKind::Processor, CaKind::Platform].into_iter().find(|ca| ca.as_str() == word);
        let mut words = text.split('/');
        let kind = match (words.next()?, words.next(), words.next()) {
            ("tcb_info", Some(word), Some(fmspc)) => {
                let mut bytes = [0; 6];
                hex::decode_to_slice(fmspc, &mut bytes).ok()?;
                Self::TcbInfo(set(word)?, bytes)
            }
            ("qe_identity", Some(word), None) => Self::QeIdentity(set(word)?),
            ("root_crl", None, None) => Self::RootCrl,
            ("pck_crl", Some(word), None) => Self::PckCrl(ca(word)?),
            _ => return None,
        };
        // Only the spelling that `Display` writes is accepted.
        (words.next().is_none() && kind.to_string() == text).then_some(kind)
    }
}

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
        for (kind, number) in FloorKind::of(collateral, set) {
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
        FloorKind::of(collateral, set).into_iter().find_map(|(kind, number)| {
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

#[cfg(test)]
mod tests;
