//! Numbers below which collateral is not believed: those that were seen before, and the operator's minimum.
//!
//! Intel's signatures and dates alone let a collateral service choose among every set that has not ended: with one of last
//! month, a platform that is out of date since is up to date again. So the numbers by which Intel counts its sets only
//! rise here: `tcbEvaluationDataNumber` of TCB info (by model) and of QE identity, and the numbers of both CRLs (by CA).
//! Intel's early set runs some weeks ahead of the standard one and both are genuine, so each has floors of its own.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::file::FloorsFile;
pub use self::file::FloorsFileError;
use super::{CaKind, Collateral, FetchFailure};

/// Most floors that are kept. Only what is signed up to the root raises one, and there are some hundred models.
const MAX_FLOORS: usize = 4096;

/// Which of Intel's two TCB sets a document was asked for from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcbSet {
    /// What decisions are made by.
    Standard,
    /// What is ahead: `update=early`.
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

/// What a floor is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FloorKind {
    /// `tcbEvaluationDataNumber` of the TCB info of a model.
    TcbInfo(TcbSet, [u8; 6]),
    /// `tcbEvaluationDataNumber` of QE identity.
    QeIdentity(TcbSet),
    /// The number of the root's CRL.
    RootCrl,
    /// The number of the CRL of a CA of platform certificates.
    PckCrl(CaKind),
}

impl FloorKind {
    /// The stable name for metrics: `tcb_info`, `qe_identity`, `root_crl`, `pck_crl`.
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

    /// The kinds of a collateral that was asked for from `set`, with its numbers.
    fn of(collateral: &Collateral, set: TcbSet) -> [(Self, u64); 4] {
        let (model, numbers) = (collateral.model(), collateral.numbers());
        [
            (Self::TcbInfo(set, model.fmspc), numbers.tcb_info.into()),
            (Self::QeIdentity(set), numbers.qe_identity.into()),
            (Self::RootCrl, numbers.root_crl),
            (Self::PckCrl(model.ca), numbers.pck_crl),
        ]
    }
}

/// `tcb_info/standard/b0c06f000000`, `pck_crl/platform`: as in the file.
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
        // One spelling.
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
    /// Whether the file has less than what is held: the next collateral tries again.
    is_behind: AtomicBool,
}

impl Floors {
    /// Floors that last as long as the process; `minimum` is for `tcbEvaluationDataNumber` of every document.
    pub fn in_memory(minimum: u32) -> Self {
        Self { shared: Arc::new(Shared { minimum, ..Shared::default() }) }
    }

    /// Floors that are kept in the file at `path`, of the root whose certificate is `root` (DER). Reads the file, and
    /// writes nothing until there is a first number.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or is not what this program wrote: then it is not known what was seen.
    pub fn open(path: PathBuf, root: &[u8], minimum: u32) -> Result<Self, FloorsFileError> {
        let file = FloorsFile::new(path, root);
        let floors = Mutex::new(file.read()?);
        let shared = Shared { minimum, floors, file: Some(Mutex::new(file)), ..Shared::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Refuses collateral of which any number is lower than one seen before, or than the minimum; raises the floors to what
    /// is not refused. Whether any rose, or could not be saved before: then they are to be saved.
    pub(super) fn admit(&self, collateral: &Collateral, set: TcbSet) -> Result<bool, FetchFailure> {
        let mut floors = self.lock();
        if let Some(failure) = self.violation(&floors, collateral, set) {
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
        Ok(has_risen || self.shared.is_behind.load(Ordering::Relaxed))
    }

    /// Whether collateral would be refused.
    pub(super) fn is_below(&self, collateral: &Collateral, set: TcbSet) -> bool {
        self.violation(&self.lock(), collateral, set).is_some()
    }

    fn violation(
        &self,
        floors: &BTreeMap<FloorKind, u64>,
        collateral: &Collateral,
        set: TcbSet,
    ) -> Option<(FloorKind, FetchFailure)> {
        FloorKind::of(collateral, set).into_iter().find_map(|(kind, number)| {
            let minimum = match kind {
                FloorKind::TcbInfo(..) | FloorKind::QeIdentity(_) => u64::from(self.shared.minimum),
                FloorKind::RootCrl | FloorKind::PckCrl(_) => 0,
            };
            let seen = floors.get(&kind).copied().unwrap_or(0);
            let failure = match number {
                number if number < minimum => FetchFailure::BelowMinimum { kind, number, minimum },
                number if number < seen => FetchFailure::RolledBack { kind, number, seen },
                _ => return None,
            };
            Some((kind, failure))
        })
    }

    /// Writes them down. They hold in memory though the disk does not take them; the next collateral tries again.
    pub(super) fn save(&self) {
        let Some(file) = &self.shared.file else { return };
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // Copied after the turn has come: who comes later writes what is later.
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
                    "the lowest collateral numbers cannot be saved: a restart would believe older collateral"
                );
            }
        }
    }

    /// Refusals by [`FloorKind::NAMES`].
    pub(super) fn refused(&self) -> [u64; FloorKind::NAMES.len()] {
        std::array::from_fn(|index| self.shared.refused[index].load(Ordering::Relaxed))
    }

    /// Times that the file could not be written.
    pub(super) fn unsaved(&self) -> u64 {
        self.shared.unsaved.load(Ordering::Relaxed)
    }

    /// What is kept, in a stable order.
    pub fn list(&self) -> Vec<(FloorKind, u64)> {
        self.lock().iter().map(|(kind, number)| (*kind, *number)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FloorKind, u64>> {
        self.shared.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
