//! Identity: who a CVM is. Types only; `platform::decode` reads them out of evidence.

mod app_info;
mod boot_info;
pub mod mr_config;

use std::fmt;

use crate::measurement::Until;

pub use app_info::{AppInfo, AppInfoError, MAX_INIT_SCRIPTS};
pub use boot_info::BootInfo;
pub use mr_config::MrConfigError;

/// The name of an app: the first 20 bytes of its compose file's SHA-256, or an address on chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub [u8; 20]);

/// Bytes of another length than an app id's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("app_id must be 20 bytes, got {0}")]
pub struct AppIdLength(pub usize);

impl TryFrom<&[u8]> for AppId {
    type Error = AppIdLength;

    fn try_from(bytes: &[u8]) -> Result<Self, AppIdLength> {
        bytes.try_into().map(Self).map_err(|_| AppIdLength(bytes.len()))
    }
}

impl AsRef<[u8]> for AppId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppId({self})")
    }
}

/// Which moment of a guest's life its registers stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// After `boot-mr-done`, when the guest has no key provider yet.
    BootTime,
    /// Now.
    RunTime,
}

impl Registers {
    /// The event after which the register is no longer extended for that moment.
    pub(crate) fn until(self) -> Until {
        match self {
            Self::BootTime => Until::BootMrDone,
            Self::RunTime => Until::End,
        }
    }
}
