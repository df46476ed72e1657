//! Putting a set together again: shares arrive one by one, each is checked alone.

use zeroize::Zeroizing;

use crate::bytes::Bytes;
use crate::manifest::{SetId, SignedManifest};
use crate::officer::Name;
use crate::scalar;
use crate::seal;
use crate::share::Share;
use crate::signature::SIGNATURE;

/// Shares of one set that were checked. It prints no secret; all shares are overwritten when it is dropped.
#[derive(Debug)]
pub struct Combiner {
    manifest: SignedManifest,
    /// By arrival, with distinct indexes.
    shares: Vec<Share>,
}

/// A share that fits the commitments of a manifest.
#[derive(Debug)]
pub struct CheckedShare {
    share: Share,
    /// The signature of that manifest, which no other one has.
    of: Bytes<SIGNATURE>,
}

/// How far a ceremony is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Shares are missing.
    Waiting {
        /// How many more.
        missing: u8,
    },
    /// [`Combiner::open`] can open the material.
    Complete,
}

/// What is wrong with a share, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// It belongs to another set.
    #[error("the share of {officer} is of the set {share}, not of {expected}: use the file of this set")]
    OtherSet {
        /// Whose it says it is.
        officer: Name,
        /// Its set.
        share: SetId,
        /// The set of this ceremony.
        expected: SetId,
    },
    /// The set has no such index.
    #[error("the share of {officer} says that it has index {index}; the set has 1 to {officers}")]
    NoSuchIndex {
        /// Whose it says it is.
        officer: Name,
        /// Its index.
        index: u8,
        /// How many officers there are.
        officers: usize,
    },
    /// The index is another officer's.
    #[error("the share says that it is of {officer}, but index {index} is of {expected}")]
    OtherOfficer {
        /// Whose it says it is.
        officer: Name,
        /// Its index.
        index: u8,
        /// Whose the index is.
        expected: Name,
    },
    /// It does not fit the commitments.
    #[error("the share of {officer} (index {index}) is wrong: it does not fit the manifest's commitments")]
    Wrong {
        /// Whose.
        officer: Name,
        /// Its index.
        index: u8,
    },
    /// It was accepted before.
    #[error("the share of {officer} (index {index}) is in already")]
    Repeated {
        /// Whose.
        officer: Name,
        /// Its index.
        index: u8,
    },
    /// The set needs no more.
    #[error("the set is complete: it needs no more shares")]
    Complete,
}

/// Why the material could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The threshold is not reached.
    #[error("{missing} more shares are needed")]
    Incomplete {
        /// How many.
        missing: u8,
    },
    /// The shares do not give the scalar of the commitments. Checked shares always do.
    #[error("the shares do not give what the manifest commits to")]
    NotTheSecret,
    /// The sealed material is not what was sealed.
    #[error("the sealed material in the manifest does not open: it is not of these shares")]
    NotTheMaterial,
}

impl Combiner {
    /// No shares yet.
    pub fn new(manifest: SignedManifest) -> Self {
        Combiner { manifest, shares: Vec::new() }
    }

    /// The manifest of the set.
    pub fn manifest(&self) -> &SignedManifest {
        &self.manifest
    }

    /// Who sent shares, by arrival.
    pub fn officers(&self) -> impl Iterator<Item = (u8, &Name)> {
        self.shares.iter().map(|share| (share.index, &share.officer))
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let have = u8::try_from(self.shares.len()).expect("at most 32");
        match self.manifest.manifest().threshold.saturating_sub(have) {
            0 => Progress::Complete,
            missing => Progress::Waiting { missing },
        }
    }

    /// Takes a share, if it is right. Those that are in stay.
    ///
    /// # Errors
    /// [`ShareError`], which names the officer; the share was forgotten.
    pub fn add(&mut self, share: Share) -> Result<Progress, ShareError> {
        let checked = self.manifest.checked(share)?;
        self.add_checked(checked)
    }

    /// The same for a share that was checked before.
    ///
    /// # Errors
    /// [`ShareError`], also if it was checked with another manifest.
    pub fn add_checked(&mut self, checked: CheckedShare) -> Result<Progress, ShareError> {
        let CheckedShare { share, of } = checked;
        let expected = self.manifest.manifest().set;
        if of != self.manifest.signature() {
            return Err(ShareError::OtherSet { officer: share.officer.clone(), share: share.set, expected });
        }
        let Share { index, ref officer, .. } = share;
        if self.shares.iter().any(|other| other.index == index) {
            return Err(ShareError::Repeated { officer: officer.clone(), index });
        }
        if self.progress() == Progress::Complete {
            return Err(ShareError::Complete);
        }
        self.shares.push(share);
        Ok(self.progress())
    }

    /// The material.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(&self) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if let Progress::Waiting { missing } = self.progress() {
            return Err(OpenError::Incomplete { missing });
        }
        let shares = self.shares.iter().map(|share| (share.index, &share.value));
        let secret = scalar::combine(shares).ok_or(OpenError::NotTheSecret)?;
        if !self.manifest.commitments().is_of(&secret) {
            return Err(OpenError::NotTheSecret);
        }
        let manifest = self.manifest.manifest();
        seal::open(&secret, &manifest.salt.0, &manifest.set, &manifest.sealed.0)
            .ok_or(OpenError::NotTheMaterial)
    }
}

impl SignedManifest {
    /// The share, once it was checked as by [`SignedManifest::check_share`].
    ///
    /// # Errors
    /// [`ShareError`], which names the officer; the share was forgotten.
    pub fn checked(&self, share: Share) -> Result<CheckedShare, ShareError> {
        self.check_share(&share)?;
        Ok(CheckedShare { share, of: self.signature() })
    }

    /// Whether this is a right share of the set: officers check it before they send it.
    ///
    /// # Errors
    /// [`ShareError`], which names the officer.
    pub fn check_share(&self, share: &Share) -> Result<(), ShareError> {
        let manifest = self.manifest();
        let Share { set, index, ref officer, ref value } = *share;
        if set != manifest.set {
            return Err(ShareError::OtherSet {
                officer: officer.clone(),
                share: set,
                expected: manifest.set,
            });
        }
        let Some(expected) = manifest.officer(index) else {
            let officers = manifest.officers.len();
            return Err(ShareError::NoSuchIndex { officer: officer.clone(), index, officers });
        };
        if expected.name != *officer {
            let expected = expected.name.clone();
            return Err(ShareError::OtherOfficer { officer: officer.clone(), index, expected });
        }
        if !self.commitments().verify(index, value) {
            return Err(ShareError::Wrong { officer: officer.clone(), index });
        }
        Ok(())
    }
}
