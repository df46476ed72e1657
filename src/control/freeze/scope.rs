//! The target of a freeze: a name and a value of fixed length.

use std::fmt;

use kms_attest::identity::{AppId, DeviceId, Identity, InstanceId, OsImageHash};

/// The target of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything: this KMS releases nothing.
    Kms,
    /// An app, with all its instances.
    App(AppId),
    /// One instance of an app.
    Instance(InstanceId),
    /// A machine.
    Device(DeviceId),
    /// Every guest that names this OS image.
    OsImage(OsImageHash),
}

/// Why a scope is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// An unknown name.
    #[error("scope must be app, instance, device, os_image or kms")]
    Unknown,
    /// A value of another length.
    #[error("value must be {expected} bytes for this scope, got {found}")]
    Length {
        /// The length that it must have.
        expected: usize,
        /// The length that it has.
        found: usize,
    },
}

impl Scope {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 5] = ["kms", "app", "instance", "device", "os_image"];

    /// The scope with this name and value; `kms` has no value.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn parse(name: &str, value: &[u8]) -> Result<Self, ScopeError> {
        fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], ScopeError> {
            value.try_into().map_err(|_| ScopeError::Length { expected: N, found: value.len() })
        }
        match name {
            "kms" => exact::<0>(value).map(|[]| Self::Kms),
            "app" => exact(value).map(AppId).map(Self::App),
            "instance" => exact(value).map(InstanceId).map(Self::Instance),
            "device" => exact(value).map(DeviceId).map(Self::Device),
            "os_image" => exact(value).map(OsImageHash).map(Self::OsImage),
            _ => Err(ScopeError::Unknown),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        let [kms, app, instance, device, os_image] = Self::NAMES;
        match self {
            Self::Kms => kms,
            Self::App(_) => app,
            Self::Instance(_) => instance,
            Self::Device(_) => device,
            Self::OsImage(_) => os_image,
        }
    }

    /// Its value, empty for `kms`.
    pub fn value(&self) -> &[u8] {
        match self {
            Self::Kms => &[],
            Self::App(AppId(id)) | Self::Instance(InstanceId(id)) => id,
            Self::Device(DeviceId(hash)) | Self::OsImage(OsImageHash(hash)) => hash,
        }
    }

    /// Every scope that applies to `identity`.
    pub(super) fn all_of(identity: &Identity) -> impl Iterator<Item = Self> {
        [
            Some(Self::Kms),
            Some(Self::App(identity.app_id)),
            identity.instance_id.map(Self::Instance),
            Some(Self::Device(identity.device_id)),
            identity.os_image_hash.map(Self::OsImage),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kms => f.write_str("the whole KMS"),
            other => write!(f, "{} {}", other.name().replace('_', " "), hex::encode(other.value())),
        }
    }
}
