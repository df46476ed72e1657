//! The vendor root certificates for evidence, and the checks of a replacement for one.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Intel SGX Root CA, valid 2018 to 2049. Origin: `Phala-Network/dcap-qvl`, `src/TrustedRootCA.der`.
const INTEL_SGX_ROOT_CA: &[u8] = include_bytes!("trust/intel-sgx-root-ca.der");

/// Maximum length of a root certificate file, bytes.
const MAX_ROOT_BYTES: usize = 64 * 1024;

/// The roots that `core.attestation.root_ca` can replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// TDX quotes and their collateral.
    Tdx,
    /// The vTPM of GCP.
    GcpTpm,
    /// AWS Nitro Enclaves documents.
    AwsNitroEnclave,
    /// AWS NitroTPM documents.
    AwsNitroTpm,
    /// AMD SEV-SNP, Milan.
    SevSnpMilan,
    /// AMD SEV-SNP, Genoa.
    SevSnpGenoa,
    /// AMD SEV-SNP, Turin.
    SevSnpTurin,
}

impl Root {
    /// All roots, in the order of the configuration reference.
    pub const ALL: [Root; 7] = [
        Root::Tdx,
        Root::GcpTpm,
        Root::AwsNitroEnclave,
        Root::AwsNitroTpm,
        Root::SevSnpMilan,
        Root::SevSnpGenoa,
        Root::SevSnpTurin,
    ];

    /// The key below `core.attestation.root_ca`.
    pub const fn key(self) -> &'static str {
        match self {
            Root::Tdx => "tdx",
            Root::GcpTpm => "gcp_tpm",
            Root::AwsNitroEnclave => "aws_nitro_enclave",
            Root::AwsNitroTpm => "aws_nitro_tpm",
            Root::SevSnpMilan => "sev_snp_milan",
            Root::SevSnpGenoa => "sev_snp_genoa",
            Root::SevSnpTurin => "sev_snp_turin",
        }
    }

    /// The certificate in `file` as DER. The file must hold exactly one CA certificate, in PEM or for TDX
    /// also in DER.
    pub fn certificate(self, file: &[u8]) -> Result<Vec<u8>, TrustError> {
        let platform = self.key();
        if file.len() > MAX_ROOT_BYTES {
            return Err(TrustError::TooLarge { platform, bytes: file.len() });
        }
        let der = if file.starts_with(&[0x30]) {
            if self != Root::Tdx {
                return Err(TrustError::NotPem { platform });
            }
            file.to_vec()
        } else {
            single_pem_certificate(platform, file)?
        };
        let (rest, certificate) =
            X509Certificate::from_der(&der).map_err(|_| TrustError::Malformed { platform })?;
        if !rest.is_empty() {
            return Err(TrustError::TrailingData { platform });
        }
        if !certificate.is_ca() {
            return Err(TrustError::NotACa { platform });
        }
        Ok(der)
    }
}

fn single_pem_certificate(platform: &'static str, file: &[u8]) -> Result<Vec<u8>, TrustError> {
    let mut certificates = CertificateDer::pem_slice_iter(file);
    let first = match certificates.next() {
        Some(Ok(certificate)) => certificate,
        Some(Err(_)) => return Err(TrustError::Malformed { platform }),
        None => return Err(TrustError::NotPem { platform }),
    };
    match certificates.next() {
        None => Ok(first.to_vec()),
        Some(_) => Err(TrustError::TrailingData { platform }),
    }
}

/// The roots for verification, read once at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchors {
    tdx_root: CertificateDer<'static>,
}

impl TrustAnchors {
    /// The built-in vendor roots.
    pub fn intel() -> Self {
        Self { tdx_root: CertificateDer::from(INTEL_SGX_ROOT_CA) }
    }

    /// The vendor roots with the TDX root **replaced** by the certificate in `file` (PEM or DER).
    pub fn with_tdx_root(file: &[u8]) -> Result<Self, TrustError> {
        Ok(Self { tdx_root: CertificateDer::from(Root::Tdx.certificate(file)?) })
    }

    /// DER of the root of TDX quotes and their collateral.
    pub fn tdx_root(&self) -> &CertificateDer<'static> {
        &self.tdx_root
    }

    /// Whether the TDX root is not Intel's.
    pub fn is_external(&self) -> bool {
        self.tdx_root.as_ref() != INTEL_SGX_ROOT_CA
    }
}

/// Why a root certificate file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Longer than the limit.
    #[error("{platform} root certificate file has {bytes} bytes, at most {MAX_ROOT_BYTES} are read")]
    TooLarge {
        /// Configuration key of the root.
        platform: &'static str,
        /// Length of the file.
        bytes: usize,
    },
    /// No PEM certificate where PEM is required.
    #[error("{platform} root certificate is not a PEM certificate")]
    NotPem {
        /// Configuration key of the root.
        platform: &'static str,
    },
    /// Not an X.509 certificate.
    #[error("{platform} root certificate does not parse")]
    Malformed {
        /// Configuration key of the root.
        platform: &'static str,
    },
    /// More than one certificate, or trailing bytes.
    #[error("{platform} root certificate file holds more than one certificate")]
    TrailingData {
        /// Configuration key of the root.
        platform: &'static str,
    },
    /// The basic constraints do not say CA.
    #[error("{platform} root certificate is not a CA")]
    NotACa {
        /// Configuration key of the root.
        platform: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::testing::{leaf_pem, mock_root_der, mock_root_pem};

    #[test]
    fn the_built_in_root_is_intels_and_passes_the_checks_of_an_override() {
        assert_eq!(Root::Tdx.certificate(INTEL_SGX_ROOT_CA).as_deref(), Ok(INTEL_SGX_ROOT_CA));
        assert!(!TrustAnchors::intel().is_external());
    }

    #[test]
    fn an_override_replaces_the_built_in_root() {
        for file in [mock_root_der(), mock_root_pem().into_bytes()] {
            let anchors = TrustAnchors::with_tdx_root(&file).unwrap();
            assert_eq!(anchors.tdx_root().as_ref(), mock_root_der());
            assert!(anchors.is_external());
        }
    }

    #[test]
    fn a_bad_root_file_is_refused_with_its_reason() {
        let (pem, leaf) = (mock_root_pem(), leaf_pem());
        let twice = format!("{pem}{pem}");
        let root = mock_root_der();
        let trailing = [&root[..], &[0]].concat();
        let long = vec![0x30; MAX_ROOT_BYTES + 1];
        let cases: [(Root, &[u8], TrustError); 8] = [
            (Root::Tdx, leaf.as_bytes(), TrustError::NotACa { platform: "tdx" }),
            (Root::Tdx, twice.as_bytes(), TrustError::TrailingData { platform: "tdx" }),
            (Root::Tdx, &trailing, TrustError::TrailingData { platform: "tdx" }),
            (Root::Tdx, b"", TrustError::NotPem { platform: "tdx" }),
            (Root::Tdx, b"hello", TrustError::NotPem { platform: "tdx" }),
            (Root::Tdx, &root[..100], TrustError::Malformed { platform: "tdx" }),
            (Root::SevSnpMilan, &root, TrustError::NotPem { platform: "sev_snp_milan" }),
            (Root::Tdx, &long, TrustError::TooLarge { platform: "tdx", bytes: MAX_ROOT_BYTES + 1 }),
        ];
        for (root, file, expected) in cases {
            assert_eq!(root.certificate(file), Err(expected));
        }
    }

    #[test]
    fn the_error_text_names_the_platform() {
        let error = Root::Tdx.certificate(leaf_pem().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "tdx root certificate is not a CA");
    }

    #[test]
    fn pem_roots_of_the_other_platforms_are_read() {
        for (root, name) in
            [(Root::AwsNitroEnclave, "aws-nitro-root-g1.pem"), (Root::GcpTpm, "gcp-tpm-root-ca.pem")]
        {
            let file = crate::collateral::testing::vector(&format!("fixtures/dstack/{name}"));
            assert!(root.certificate(&file).is_ok(), "{name}");
        }
    }
}
