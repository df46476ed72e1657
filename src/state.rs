//! The files in which `control` keeps operators' changes over restarts. Never keys, never permits.

mod credentials;
mod freezes;

pub use credentials::{CredentialFile, CredentialFileError, CredentialRecord};
pub use freezes::{FreezeFile, FreezeFileError, FreezeRecord, Written, write};
