//! Limits on the certificate chain that a TLS peer sends, checked before path building; and what identifies a session.
//!
//! Path building tries every order of certificates with the same name. Seventy similar certificates fit into
//! one handshake and cost seconds of CPU time.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, ConnectionCommon, Error, OtherError, ProtocolVersion,
    RootCertStore, WantsVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The label of the channel binding (RFC 9266, section 2).
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// The channel binding `tls-exporter` of a connection whose handshake is complete (RFC 9266): 32 bytes that only its two ends
/// know, different for each connection, also when a session is resumed. `None` below TLS 1.3, where it is unique only with the
/// extended master secret.
pub fn exporter<D>(connection: &ConnectionCommon<D>) -> Option<[u8; 32]> {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => connection.export_keying_material([0; 32], EXPORTER, None).ok(),
        _ => None,
    }
}

/// Limits on the intermediate certificates of a chain. The leaf has no limit here: it may contain evidence,
/// and TLS limits the whole chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLimit {
    /// Maximum number of intermediate certificates.
    pub certificates: usize,
    /// Maximum length of all intermediate certificates together, bytes.
    pub bytes: usize,
}

impl ChainLimit {
    /// Chains of a KMS, its guests and its replicas. A KMS certificate is issued by the root CA, an app's
    /// certificate by a CA below it.
    pub const KMS: Self = Self { certificates: 2, bytes: 16 * 1024 };
    /// Chains of public CAs. Servers send up to three intermediates, some also the root.
    pub const PUBLIC: Self = Self { certificates: 5, bytes: 32 * 1024 };

    /// Checks the certificates that came with a leaf.
    ///
    /// # Errors
    /// [`ChainTooLong`].
    pub fn check(self, intermediates: &[CertificateDer<'_>]) -> Result<(), ChainTooLong> {
        let bytes: usize = intermediates.iter().map(|certificate| certificate.len()).sum();
        match intermediates.len() <= self.certificates && bytes <= self.bytes {
            true => Ok(()),
            false => Err(ChainTooLong { limit: self, certificates: intermediates.len(), bytes }),
        }
    }
}

/// A chain beyond its limit; no path was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "at most {} intermediate certificates of together {} bytes are accepted, got {certificates} of {bytes} bytes",
    limit.certificates,
    limit.bytes
)]
pub struct ChainTooLong {
    limit: ChainLimit,
    certificates: usize,
    bytes: usize,
}

impl From<ChainTooLong> for Error {
    fn from(error: ChainTooLong) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// Continues a client's configuration: servers must chain to `roots` within `limit`.
///
/// # Errors
/// No roots are given.
pub fn trusting(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    roots: RootCertStore,
    limit: ChainLimit,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::clone(builder.crypto_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = Bounded { verifier, limit, algorithms };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Implements the signature methods of a certificate verifier as rustls does, with the algorithms that the
/// expression names.
#[macro_export]
macro_rules! usual_signatures {
    ($verifier:ident => $algorithms:expr) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &::rustls::pki_types::CertificateDer<'_>,
            signature: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            let $verifier = self;
            ::rustls::crypto::verify_tls12_signature(message, certificate, signature, $algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &::rustls::pki_types::CertificateDer<'_>,
            signature: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            let $verifier = self;
            ::rustls::crypto::verify_tls13_signature(message, certificate, signature, $algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<::rustls::SignatureScheme> {
            let $verifier = self;
            $algorithms.supported_schemes()
        }
    };
}

/// A verifier that builds paths only for chains within the limit.
#[derive(Debug)]
struct Bounded {
    verifier: Arc<WebPkiServerVerifier>,
    limit: ChainLimit,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Bounded {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.limit.check(intermediates)?;
        self.verifier.verify_server_cert(leaf, intermediates, name, ocsp_response, now)
    }

    usual_signatures!(verifier => &verifier.algorithms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_themselves_are_accepted_and_one_more_is_not() {
        let certificates = |sizes: &[usize]| -> Vec<CertificateDer<'static>> {
            sizes.iter().map(|size| vec![0; *size].into()).collect()
        };
        for (sizes, accepted) in [
            (&[][..], true),
            (&[900], true),
            (&[8 * 1024, 8 * 1024], true),
            (&[16 * 1024], true),
            (&[8 * 1024, 8 * 1024 + 1], false),
            (&[16 * 1024 + 1], false),
            (&[0, 0, 0], false),
        ] {
            assert_eq!(ChainLimit::KMS.check(&certificates(sizes)).is_ok(), accepted, "{sizes:?}");
        }
    }
}
