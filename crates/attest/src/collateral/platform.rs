//! The platform models that collateral is for.

/// The PCK CA that issued a platform's PCK certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CaKind {
    /// Single-socket platforms; also used for an unknown issuer.
    Processor,
    /// Platforms registered as a whole.
    Platform,
}

impl CaKind {
    /// The value of the `ca` parameter of a collateral service.
    pub fn as_str(self) -> &'static str {
        match self {
            CaKind::Processor => "processor",
            CaKind::Platform => "platform",
        }
    }

    /// By the CA's subject name.
    pub(super) fn of_issuer(name: &str) -> Self {
        let is_platform = name.contains("Platform") && !name.contains("Processor");
        if is_platform { CaKind::Platform } else { CaKind::Processor }
    }
}

/// The key of TDX collateral: platforms with the same key share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformKey {
    /// Family, model, stepping, platform type and custom SKU.
    pub fmspc: [u8; 6],
    /// The PCK CA whose CRL applies to the PCK certificate.
    pub ca: CaKind,
}
