//! The expected registers of a TDX guest that booted a given OS image, computed without I/O.
//!
//! [`legacy`] measures the files of an image; [`lite`] uses digests that the image hash covers. Both give
//! [`BootRegisters`], and [`BootRegisters::compare`] compares them with the quote's.

pub mod acpi;
mod authenticode;
mod bytes;
mod digest;
pub mod kernel;
pub mod legacy;
pub mod lite;
mod mrtd;
pub mod qemu;
pub mod registers;
mod td_hob;
pub mod tdvf;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use authenticode::AuthenticodeError;
pub use mrtd::MrtdError;
pub use registers::{BootRegisters, Mismatch, Register};
pub use td_hob::TdHobError;
