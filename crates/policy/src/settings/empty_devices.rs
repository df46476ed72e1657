//! What an empty list of devices means.

/// The meaning of an empty `devices` list in the allowlist if `allowAnyDevice` is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyDevices {
    /// No device, as in auth-simple since 0.6.0.
    NoDevice,
    /// Any device, as in earlier versions (`insecure_empty_devices_allow_any = true`).
    AnyDevice,
}
