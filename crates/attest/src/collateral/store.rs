//! Collateral on the disk, one file a model, and PCK chains that quotes lack, one file a platform: a restart while no service
//! responds goes on with what was fetched before.
//!
//! Nothing here says that collateral may be used. Names and modification times do not count: a reader checks what a file has
//! as if a service had just sent it.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use dcap_qvl::QuoteCollateralV3;

pub use self::file::{Damage, parse, seal};
use super::origin::QeId;
use super::{CaKind, Collateral, FetchFailure, PlatformKey};
use crate::small_file::small_file;
use crate::state_file;

/// The most files. The one that was fetched longest ago makes room for a new one.
pub(super) const MAX_FILES: usize = 128;
/// The size of a file, bytes. Intel's documents of a model have about 30 KiB together.
pub(super) const MAX_FILE: u64 = 4 << 20;
/// The bytes of all files together that are read.
const MAX_TOTAL: u64 = 64 << 20;
/// The names in the directory that are looked at.
const MAX_NAMES: usize = 2048;
/// What the name of a file ends with.
const ENDING: &str = ".collateral";
/// The most files with PCK chains.
pub(super) const MAX_CHAINS: usize = 512;
/// The size of such a file, bytes. Intel's chains have about 4 KiB.
const MAX_CHAIN_FILE: u64 = 32 << 10;
/// What the name of such a file ends with.
const CHAIN_ENDING: &str = ".pck-chain";
/// What [`state_file::replace`] leaves where it was interrupted.
const UNFINISHED: &str = ".json.new";

/// A directory with collateral of known models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollateralStore {
    directory: PathBuf,
    access: Access,
}

/// Whether a store is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadAndWrite,
    Read,
}

/// The content of a file. Nothing is verified yet.
#[derive(Debug)]
pub struct StoredSet {
    /// The name of the file in the directory.
    pub file: String,
    /// When a service sent it, Unix seconds, as the file says.
    pub fetched: u64,
    /// The documents.
    pub parts: QuoteCollateralV3,
}

/// The PCK chain in a file. Nothing is verified yet.
#[derive(Debug)]
pub struct StoredChain {
    /// The name of the file in the directory.
    pub file: String,
    /// The quoting enclave of the platform, as the name says.
    pub qe_id: [u8; 16],
    /// The chain in PEM.
    pub pem: String,
}

/// A file that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    /// Its name in the directory; empty if that is the directory itself.
    pub file: String,
    /// Why.
    pub problem: StoredProblem,
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredProblem {
    /// The system cannot read it.
    #[error("cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// Larger than what is written.
    #[error("has more than {MAX_FILE} bytes")]
    TooLarge,
    /// The files before it have used up the space.
    #[error("is not read: the files before it have {MAX_TOTAL} bytes")]
    NoSpace,
    /// Its content is not what was written.
    #[error("is damaged: {0}")]
    Damaged(#[from] Damage),
    /// It is refused by the same checks as what a service sends.
    #[error("is refused: {0}")]
    Refused(FetchFailure),
}

impl fmt::Display for RefusedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            "" => write!(f, "the directory of kept collateral {}", self.problem),
            file => write!(f, "{file} {}", self.problem),
        }
    }
}

/// What a directory has.
#[derive(Debug, Default)]
pub struct Reading {
    /// The files that could be read, by name.
    pub sets: Vec<StoredSet>,
    /// The chains that could be read, by name.
    pub chains: Vec<StoredChain>,
    /// The files that could not.
    pub refused: Vec<RefusedFile>,
}

impl CollateralStore {
    /// The store in `directory`, which is made with the first file.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, access: Access::ReadAndWrite }
    }

    /// The store in `directory`, which is only read.
    pub fn for_reading(directory: PathBuf) -> Self {
        Self { directory, access: Access::Read }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads every file. A missing directory has none.
    pub fn read(&self) -> Reading {
        let mut reading = Reading::default();
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                let problem = StoredProblem::Unreadable(error.kind());
                reading.refused.push(RefusedFile { file: String::new(), problem });
                return reading;
            }
        };
        let mut left = MAX_TOTAL;
        for file in names {
            match self.read_one(&file, &mut left) {
                Ok((fetched, parts)) => reading.sets.push(StoredSet { file, fetched, parts }),
                Err(problem) => reading.refused.push(RefusedFile { file, problem }),
            }
        }
        for (file, qe_id) in self.chain_names().unwrap_or_default().into_iter().take(MAX_CHAINS) {
            match self.read_chain(&file) {
                Ok(pem) => reading.chains.push(StoredChain { file, qe_id, pem }),
                Err(problem) => reading.refused.push(RefusedFile { file, problem }),
            }
        }
        reading
    }

    fn read_chain(&self, file: &str) -> Result<String, StoredProblem> {
        let content = small_file(&self.directory.join(file), MAX_CHAIN_FILE)
            .map_err(|error| StoredProblem::Unreadable(error.kind()))?;
        String::from_utf8(content).map_err(|_| StoredProblem::Unreadable(io::ErrorKind::InvalidData))
    }

    fn read_one(&self, file: &str, left: &mut u64) -> Result<(u64, QuoteCollateralV3), StoredProblem> {
        let limit = MAX_FILE.min(*left);
        let content = small_file(&self.directory.join(file), limit).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge if limit < MAX_FILE => StoredProblem::NoSpace,
            io::ErrorKind::FileTooLarge => StoredProblem::TooLarge,
            kind => StoredProblem::Unreadable(kind),
        })?;
        *left -= content.len() as u64;
        Ok(parse(&content)?)
    }

    /// Replaces the file of the model of `collateral`, which was fetched at `fetched` (Unix seconds) and is verified. After a
    /// crash it is the old or the new file. The chain of a PCK certificate is not kept: it is of one platform.
    ///
    /// # Errors
    /// Errors of the system; the old file is then unchanged.
    pub fn write(&self, collateral: &Collateral, fetched: u64) -> io::Result<()> {
        if self.access == Access::Read {
            return Ok(());
        }
        let content = file::encode(collateral.parts(), fetched)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the collateral is larger than what is kept",
            ));
        }
        let path = self.directory.join(name_of(collateral.model()));
        let _lock = state_file::Lock::take(&self.directory.join("store"))?;
        self.make_room(&path)?;
        state_file::replace(&path, &content)
    }

    /// Replaces the PCK chain of a quoting enclave, which has verified a quote. Where there are too many files, those of which
    /// `is_used` says nothing are removed.
    ///
    /// # Errors
    /// Errors of the system; the old file is then unchanged.
    pub(super) fn write_chain(
        &self,
        qe_id: QeId,
        pem: &str,
        is_used: impl Fn(&QeId) -> bool,
    ) -> io::Result<()> {
        if self.access == Access::Read {
            return Ok(());
        }
        let _lock = state_file::Lock::take(&self.directory.join("store"))?;
        state_file::replace(
            &self.directory.join(format!("{}{CHAIN_ENDING}", hex::encode(qe_id))),
            pem.as_bytes(),
        )?;
        let names = self.chain_names()?;
        let many = names.len().saturating_sub(MAX_CHAINS);
        let unused = names.into_iter().filter(|(_, other)| *other != qe_id && !is_used(other));
        unused.take(many).try_for_each(|(name, _)| fs::remove_file(self.directory.join(name)))
    }

    /// Removes what an interrupted change has left, and the file that was fetched longest ago where there are too many.
    fn make_room(&self, new: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)?.take(MAX_NAMES) {
            let name = entry?.file_name();
            if name.to_str().is_some_and(|name| name.ends_with(UNFINISHED)) {
                fs::remove_file(self.directory.join(name))?;
            }
        }
        if new.exists() {
            return Ok(());
        }
        let names = self.names()?;
        let many = (names.len() + 1).saturating_sub(MAX_FILES);
        if many == 0 {
            return Ok(());
        }
        let fetched = |name: &String| {
            let content = small_file(&self.directory.join(name), MAX_FILE).ok();
            content.and_then(|content| file::fetched(&content)).unwrap_or(0)
        };
        let mut by_age: Vec<(u64, String)> = names.into_iter().map(|name| (fetched(&name), name)).collect();
        by_age.sort();
        by_age.iter().take(many).try_for_each(|(_, name)| fs::remove_file(self.directory.join(name)))
    }

    /// Whether there may be any file that a start would use.
    pub(super) fn has_files(&self) -> bool {
        self.names().is_ok_and(|names| !names.is_empty())
    }

    /// The names of the files with PCK chains, sorted, and whose they are.
    fn chain_names(&self) -> io::Result<Vec<(String, QeId)>> {
        let named = |name: String| qe_id_of(&name).map(|qe_id| (name, qe_id));
        Ok(self.all_names()?.into_iter().filter_map(named).collect())
    }

    /// The names of the files with collateral, sorted.
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.all_names()?.into_iter().filter(|name| is_ours(name)).collect())
    }

    fn all_names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries.take(MAX_NAMES) {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// `b0c06f000000-platform.collateral`
fn name_of(model: PlatformKey) -> String {
    format!("{}-{}{ENDING}", hex::encode(model.fmspc), model.ca.as_str())
}

/// `00112233445566778899aabbccddeeff.pck-chain`
fn qe_id_of(name: &str) -> Option<QeId> {
    let digits = name.strip_suffix(CHAIN_ENDING)?;
    let mut qe_id = QeId::default();
    hex::decode_to_slice(digits, &mut qe_id).ok()?;
    (hex::encode(qe_id) == digits).then_some(qe_id)
}

fn is_ours(name: &str) -> bool {
    let model = name.strip_suffix(ENDING).and_then(|stem| stem.split_once('-'));
    model.is_some_and(|(fmspc, ca)| {
        fmspc.len() == 12
            && fmspc.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            && [CaKind::Processor, CaKind::Platform].iter().any(|kind| kind.as_str() == ca)
    })
}
