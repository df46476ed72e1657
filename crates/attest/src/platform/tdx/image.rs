//! What a TDX guest's registers must be if it booted a given OS image: computed without any input or output.
//!
//! Two ways lead to the [`BootRegisters`]: [`legacy`] measures the files of an image, [`lite`] takes digests that the
//! image hash vouches for. Both end in [`BootRegisters::compare`] with what the quote vouches for.

pub mod acpi;
mod authenticode;
mod bytes;
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
