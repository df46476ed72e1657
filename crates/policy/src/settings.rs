//! What the section `[core.auth_api]` of the configuration holds, after it is parsed.

mod decision_key;
mod ethereum;
mod secret;
mod webhook;

use std::path::PathBuf;

pub use decision_key::DecisionKey;
pub use ethereum::{BlockChoice, ContractAddress, Ethereum, contract_address};
pub use secret::Secret;
pub use webhook::{ClientFiles, Webhook};

/// `[core.auth_api]`: the policy.
pub enum AuthApi {
    /// An HTTP service decides.
    Webhook(Box<Webhook>),
    /// A file decides.
    Allowlist {
        /// `auth-config.json` as auth-simple reads it.
        path: PathBuf,
        /// What an empty `devices` list means.
        empty_devices: EmptyDevices,
    },
    /// A contract on a chain decides.
    Ethereum(Box<Ethereum>),
    /// Everything is allowed.
    Dev {
        /// Handed to every app.
        gateway_app_id: String,
    },
}

impl AuthApi {
    /// What an empty device list of a candidate means, unless its operator says: what it means in the policy in force.
    pub fn empty_devices(&self) -> EmptyDevices {
        match self {
            Self::Allowlist { empty_devices, .. } => *empty_devices,
            Self::Webhook(_) | Self::Ethereum(_) | Self::Dev { .. } => EmptyDevices::NoDevice,
        }
    }
}

/// What an empty `devices` list of the allowlist means when `allowAnyDevice` is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyDevices {
    /// No device, as auth-simple has it since 0.6.0.
    NoDevice,
    /// Any device, as before (`insecure_empty_devices_allow_any = true`).
    AnyDevice,
}
