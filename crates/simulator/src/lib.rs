//! A software TDX platform under its own root. It replaces the hardware, never a check.
//!
//! [`Platform`] has a root CA, a PCK chain with Intel's extensions and a quoting enclave, all derived from a
//! seed; [`Cvm`] is a guest on it and produces [`Evidence`](kms_attest::evidence::Evidence); [`PccsServer`]
//! serves the collateral; [`GuestAgent`] is the socket of a CVM's software. `kms` must not link any of it.

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
