//! The files in which `control` keeps operators' changes over restarts. Never keys, never permits.

mod freezes;

pub use freezes::{FreezeFile, FreezeFileError, FreezeRecord, Written, write};
