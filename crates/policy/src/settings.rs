//! The settings in the section `[core.auth_api]` of the configuration, after parsing.

mod bundle;
mod decision_key;
mod empty_devices;
mod ethereum;
pub(crate) mod minisign;
mod secret;
mod webhook;

use std::path::PathBuf;

pub use bundle::{Activation, Bundle, BundleSource, MAX_KEYS, OnExpiry, PinnedKeys, UnattendedShadow};
pub use decision_key::DecisionKey;
pub use empty_devices::EmptyDevices;
pub use ethereum::{BlockChoice, ContractAddress, Ethereum, contract_address};
pub use minisign::MinisignKey;
pub use secret::Secret;
pub use webhook::{ClientFiles, Webhook};

/// `[core.auth_api]`: the kind of policy and its settings.
pub enum AuthApi {
    /// An HTTP service decides.
    Webhook(Box<Webhook>),
    /// A file defines the rules.
    Allowlist {
        /// The `auth-config.json`, in the format of auth-simple.
        path: PathBuf,
        /// The meaning of an empty `devices` list.
        empty_devices: EmptyDevices,
    },
    /// Signed bundles define the rules.
    Bundle(Box<Bundle>),
    /// A contract on a chain decides.
    Ethereum(Box<Ethereum>),
    /// Everything is allowed.
    Dev {
        /// The gateway that every app is told to use.
        gateway_app_id: String,
    },
}

impl AuthApi {
    /// The meaning of an empty device list in the current policy. It is the default for a candidate.
    pub fn empty_devices(&self) -> EmptyDevices {
        match self {
            Self::Allowlist { empty_devices, .. } => *empty_devices,
            Self::Bundle(bundle) => bundle.empty_devices,
            Self::Webhook(_) | Self::Ethereum(_) | Self::Dev { .. } => EmptyDevices::NoDevice,
        }
    }
}
