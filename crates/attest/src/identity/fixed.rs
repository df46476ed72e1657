//! The fields of an identity that have one width.

use std::fmt;

/// Declares newtypes over byte arrays that print as hex.
macro_rules! fixed {
    ($($(#[$doc:meta])+ $name:ident($bytes:literal);)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}

fixed! {
    /// The id of an app: the first 20 bytes of its first compose file's SHA-256, or the address of its
    /// contract.
    AppId(20);
    /// SHA-256 of the compose file.
    ComposeHash(32);
    /// The id of one instance of an app.
    InstanceId(20);
    /// SHA-256 of the raw id of the machine.
    DeviceId(32);
    /// The hash of an OS image.
    OsImageHash(32);
    /// The measurement of hardware, firmware, system and key provider.
    MrSystem(32);
    /// The measurement of everything that is measured.
    MrAggregated(32);
}

/// Bytes that are not as long as an app id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("app_id must be 20 bytes, got {0}")]
pub struct AppIdLength(pub usize);

impl TryFrom<&[u8]> for AppId {
    type Error = AppIdLength;

    fn try_from(bytes: &[u8]) -> Result<Self, AppIdLength> {
        bytes.try_into().map(Self).map_err(|_| AppIdLength(bytes.len()))
    }
}
