//! SEV-SNP: the identity of a guest, and the launch measurement of an image.

mod identity;
#[cfg(any(test, feature = "sev-snp-image"))]
pub mod image;

pub use identity::SevSnpError;
pub(crate) use identity::identity;
