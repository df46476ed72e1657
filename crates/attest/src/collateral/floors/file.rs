//! The file that keeps floors across restarts, replaced atomically by a rename and protected by a digest.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::collateral::FloorKind;
use crate::state_file::{self, StateFileError};

/// Maximum number of floors. Only collateral signed up to the root adds one; there are a few hundred models.
pub(super) const MAX_FLOORS: usize = 4096;
/// Larger files are refused; ours are always smaller.
const MAX_FILE: u64 = 4 << 20;
/// The only version written and read.
const VERSION: u32 = 1;
/// Maximum number of roots in one file: Intel's, and those of tests on the same machine.
const MAX_ROOTS: usize = 8;

/// Why the floors are unknown.
#[derive(Debug, thiserror::Error)]
pub enum FloorsFileError {
    /// The system cannot read the file.
    #[error(
        "the file that core.tcb.floors_file names cannot be read, so it is not known which collateral is too old; \
         it must belong to the user of the KMS, so give it to that user (chown)"
    )]
    Unreadable(#[source] io::Error),
    /// The file is not one that this program wrote.
    #[error(
        "the file that core.tcb.floors_file names is damaged ({0}), so it is not known which collateral is too old; \
         restore it, or remove it to accept what the collateral service has now"
    )]
    Damaged(String),
}

/// The file, and the root whose floors are used.
#[derive(Debug)]
pub(super) struct FloorsFile {
    path: PathBuf,
    root: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// By SHA-256 of the root certificate, then by kind.
    floors: Roots,
    /// SHA-256 of the two fields above as compact JSON.
    sha256: String,
}

type Roots = BTreeMap<String, BTreeMap<String, u64>>;

impl FloorsFile {
    pub(super) fn new(path: PathBuf, root: &[u8]) -> Self {
        Self { path, root: hex::encode(Sha256::digest(root)) }
    }

    /// The floors of our root; empty if there is no file.
    pub(super) fn read(&self) -> Result<BTreeMap<FloorKind, u64>, FloorsFileError> {
        self.ours(&mut self.roots()?)
    }

    /// Removes and parses the floors of our root.
    fn ours(&self, roots: &mut Roots) -> Result<BTreeMap<FloorKind, u64>, FloorsFileError> {
        let ours = roots.remove(&self.root).unwrap_or_default();
        ours.into_iter()
            .map(|(kind, number)| Some((FloorKind::parse(&kind)?, number)))
            .collect::<Option<_>>()
            .ok_or_else(|| FloorsFileError::Damaged("it has a floor of an unknown kind".to_owned()))
    }

    fn roots(&self) -> Result<Roots, FloorsFileError> {
        let bytes = state_file::read(&self.path, MAX_FILE).map_err(|error| match error {
            StateFileError::Unreadable(cause) => FloorsFileError::Unreadable(cause),
            StateFileError::TooLarge => FloorsFileError::Damaged(error.to_string()),
        })?;
        bytes.map_or_else(|| Ok(Roots::new()), |bytes| parse(&bytes).map_err(FloorsFileError::Damaged))
    }

    /// Replaces the file with `floors`, raised by what another process has written since; returns what was
    /// written.
    pub(super) fn replace(&self, floors: &BTreeMap<FloorKind, u64>) -> io::Result<BTreeMap<FloorKind, u64>> {
        // Held from read to write: otherwise another process's update in between would be lost.
        let _lock = state_file::Lock::take(&self.path)?;
        let mut roots = self.roots().map_err(io::Error::other)?;
        let mut merged = self.ours(&mut roots).map_err(io::Error::other)?;
        for (kind, number) in floors {
            let floor = merged.entry(*kind).or_default();
            *floor = (*floor).max(*number);
        }
        let ours = merged.iter().map(|(kind, number)| (kind.to_string(), *number)).collect();
        if roots.len() >= MAX_ROOTS {
            return Err(io::Error::other("the file has floors of too many roots"));
        }
        roots.insert(self.root.clone(), ours);
        self.write(roots)?;
        Ok(merged)
    }

    fn write(&self, floors: Roots) -> io::Result<()> {
        let sha256 = digest(&floors)?;
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, floors, sha256 })?;
        text.push(b'\n');
        state_file::replace(&self.path, &text)
    }
}

/// Reads what [`FloorsFile::write`] writes, and nothing else.
fn parse(bytes: &[u8]) -> Result<Roots, String> {
    let Content { version, floors, sha256 } =
        crate::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version must be {VERSION}, got {version}"));
    }
    if floors.len() > MAX_ROOTS || floors.values().any(|floors| floors.len() > MAX_FLOORS) {
        return Err("it has too many floors".to_owned());
    }
    if digest(&floors).map_err(|error| error.to_string())? != sha256 {
        return Err("its digest is not that of its floors".to_owned());
    }
    Ok(floors)
}

fn digest(floors: &Roots) -> io::Result<String> {
    Ok(hex::encode(Sha256::digest(serde_json::to_vec(&(VERSION, floors))?)))
}
