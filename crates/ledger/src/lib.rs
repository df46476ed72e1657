//! The record of releases: its formats as pure functions, and its tree on a disk.
//!
//! - [`chain`]: the lines of an audit log, each chained to the one before;
//! - [`hash`], [`number`]: SHA-256 hashes of RFC 6962, sizes and indexes;
//! - [`proof`], [`edge`]: inclusion and consistency proofs, and the tree edge that grows by a leaf at a time;
//! - [`recent`], [`store`]: the newest nodes in memory, and all of the tree in files;
//! - [`tile`], [`bundle`]: the tree and its entries as static files (C2SP `tlog-tiles`);
//! - [`key`], [`signature`], [`note`]: verifier keys, signatures and cosignatures (C2SP `signed-note`,
//!   `tlog-cosignature`);
//! - [`checkpoint`], [`log`]: the statement of size and root, and how it is opened and signed (C2SP `tlog-checkpoint`);
//! - [`compressed`]: closed files in their compressed form;
//! - [`files`], [`walk`], [`verify`]: a whole log as an auditor checks it; [`vouched`]: its key and who vouches for it;
//! - [`proof_file`]: a proof that is verified without a network (C2SP `tlog-proof`);
//! - [`witness`]: what a log says to a witness and what it makes of the answer (C2SP `tlog-witness`).
//!
//! Only [`store`] writes files, and only it, [`files`] and [`compressed`] read them; nothing here opens a
//! connection or knows the time. Every parser has a bound on what it reads, and where the specifications
//! leave a choice it takes the strict one.

pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod compressed;
pub mod edge;
pub mod files;
pub mod hash;
pub mod key;
pub mod log;
pub mod note;
pub mod number;
pub mod proof;
pub mod proof_file;
pub mod recent;
pub mod signature;
pub mod store;
pub mod tile;
pub mod verify;
pub mod vouched;
pub mod walk;
pub mod witness;

pub use hash::Hash;
pub use number::{Index, Size};

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod verify_tests;
