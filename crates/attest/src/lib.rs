//! Attestation: decodes and verifies evidence (TDX), fetches its collateral, builds and reads RA-TLS
//! certificates, and obtains quotes of our own.

pub mod attester;
pub mod binding;
pub mod certificate;
pub mod clock;
pub mod clock_floor;
mod codec;
pub mod collateral;
pub mod csr;
pub mod evidence;
pub mod identity;
pub mod json;
pub mod measurement;
pub mod outgoing;
pub mod p256;
mod pem;
pub mod platform;
pub mod ra_tls;
pub mod single_flight;
pub mod small_file;
pub mod state_file;
pub mod tcb;
pub mod tls;
pub mod trust;
pub mod verify;
pub mod vm_config;

#[cfg(any(test, feature = "testing"))]
pub mod test_vectors;
