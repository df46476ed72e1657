//! Where `control` keeps over restarts what operators changed: files. Never keys, never permits.

mod freezes;

pub use freezes::{FreezeFile, FreezeFileError, FreezeRecord, Written, write};
