//! A software TDX platform under its own root: it stands where the hardware stands, never where the check stands.
//!
//! [`Platform`] owns a root CA, a PCK chain with Intel's extensions and a quoting enclave, all derived from a seed;
//! [`Cvm`] is a guest on it and yields [`Evidence`](kms_attest::evidence::Evidence); [`PccsServer`] serves the
//! collateral; [`GuestAgent`] is the socket a CVM's software talks to. Nothing here may be linked into `kms`.

mod collateral;
mod cvm;
mod event;
mod guest_agent;
mod http_server;
mod key;
mod pccs;
mod pki;
mod platform;
mod quote;
mod sgx_extension;
mod tcb;

pub use collateral::{CollateralSpec, Revocation, Validity};
pub use cvm::{Cvm, CvmBuilder, KeyProvider, Stage};
pub use guest_agent::{AgentMode, GuestAgent};
pub use key::SimulatedKey;
pub use pccs::{EarlySet, Endpoint, PccsMode, PccsServer};
pub use platform::{Certification, PckCa, Platform, PlatformSpec};
pub use quote::{QuoteFormat, Registers, TdReport};
pub use tcb::{Standing, TcbLevel};
