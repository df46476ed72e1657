//! Outgoing HTTP requests: trusted roots, bounded bodies, and error messages without host names.

mod endpoint;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, redirect};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use url::Url;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::{ChainLimit, trusting};

pub use endpoint::Endpoint;

/// Maximum number of nested errors that are examined.
const MAX_CAUSES: usize = 16;
/// Maximum number of certificates in a `ca_file`.
const MAX_CERTIFICATES: usize = 64;

/// Why a `ca_file` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaFileError {
    /// There is no certificate in it.
    #[error("holds no certificate in PEM")]
    Empty,
    /// It contains a certificate that does not parse.
    #[error("holds a certificate that does not parse")]
    Malformed,
    /// It contains more certificates than the limit.
    #[error("holds more than {MAX_CERTIFICATES} certificates")]
    TooMany,
}

/// Parses the certificates in a PEM `ca_file`.
///
/// # Errors
/// Any [`CaFileError`].
pub fn ca_file(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| CaFileError::Malformed)?;
        match X509Certificate::from_der(&certificate) {
            Ok(([], _)) => certificates.push(certificate),
            _ => return Err(CaFileError::Malformed),
        }
        if certificates.len() > MAX_CERTIFICATES {
            return Err(CaFileError::TooMany);
        }
    }
    if certificates.is_empty() { Err(CaFileError::Empty) } else { Ok(certificates) }
}

/// A TLS configuration that trusts Mozilla's roots and `extra`: certificates issued by a CA in `extra`, and a
/// server certificate that is itself in `extra`. The latter is accepted whatever its name, dates and version,
/// because the operator named exactly this key: the certificate that the installer of Intel's PCCS creates
/// has no name and no extensions.
///
/// # Errors
/// `extra` contains something that is not a certificate.
pub fn client_config(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    if extra.iter().any(|certificate| X509Certificate::from_der(certificate).is_err()) {
        return Err(CertificateError::BadEncoding.into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // A certificate that is not a CA is trusted only for itself: its key must not issue certificates for
    // other servers.
    let is_ca =
        |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.is_ca());
    roots.add_parsable_certificates(extra.iter().filter(|der| is_ca(der)).cloned());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if extra.is_empty() {
        return Ok(trusting(builder, roots, ChainLimit::PUBLIC)?.with_no_client_auth());
    }
    let public = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let verifier = Known { pinned: extra.to_vec(), public, provider };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Accepts the pinned certificates and chains to the roots.
#[derive(Debug)]
struct Known {
    pinned: Vec<CertificateDer<'static>>,
    public: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Known {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        self.pinned.iter().any(|pinned| pinned == certificate)
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_pinned(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        ChainLimit::PUBLIC.check(intermediates)?;
        self.public.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.public.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.is_pinned(certificate) {
            return self.public.verify_tls13_signature(message, certificate, signature);
        }
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(
            message,
            &key,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

/// The time-outs of an HTTP client. Each client states them, so that no request can wait without end.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Of a connection, TLS included.
    pub connect: Duration,
    /// Of a response.
    pub response: ResponseTimeout,
}

/// What limits the time of a response.
#[derive(Debug, Clone, Copy)]
pub enum ResponseTimeout {
    /// The time from connecting to the last byte.
    Total(Duration),
    /// The time between two reads, for bodies that may be large.
    Silence(Duration),
    /// The caller, by a time-out around each request.
    Caller,
}

/// Starts the builder of an HTTP client of `endpoint` with our user agent. The proxy variables of the environment
/// apply beyond this machine: a service on it needs no proxy, which could forge its responses.
pub fn client(
    endpoint: &Endpoint,
    tls: ClientConfig,
    timeouts: Timeouts,
    redirects: redirect::Policy,
) -> reqwest::ClientBuilder {
    let client = client_of_any(tls, timeouts, redirects);
    if endpoint.is_loopback() { client.no_proxy() } else { client }
}

/// As [`client`], for a client whose caller decides about the proxy.
pub fn client_of_any(
    tls: ClientConfig,
    timeouts: Timeouts,
    redirects: redirect::Policy,
) -> reqwest::ClientBuilder {
    let client = reqwest::Client::builder()
        .user_agent(concat!("cvm-kms/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .redirect(redirects)
        .connect_timeout(timeouts.connect);
    match timeouts.response {
        ResponseTimeout::Total(total) => client.timeout(total),
        ResponseTimeout::Silence(silence) => client.read_timeout(silence),
        ResponseTimeout::Caller => client,
    }
}

/// Why a request has no response, in words without host, address or text from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The time-out passed.
    #[error("no answer in time")]
    Timeout,
    /// There was no connection, or it broke.
    #[error("{0}")]
    Connection(Cause),
}

impl From<&reqwest::Error> for RequestError {
    fn from(error: &reqwest::Error) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Connection(Cause::of(error)) }
    }
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        Self::from(&error)
    }
}

/// Why a document could not be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetError {
    /// There is no response, or only a part of one.
    Request(RequestError),
    /// It has this status.
    Status(StatusCode),
    /// It is longer than the limit.
    TooLarge,
}

impl From<reqwest::Error> for GetError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.into())
    }
}

impl From<BodyError> for GetError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::Connection(error) => error.into(),
        }
    }
}

/// Fetches a document of at most `limit` bytes; `accepts` says with which status it is one.
///
/// # Errors
/// [`GetError`].
pub async fn get(
    client: &reqwest::Client,
    url: Url,
    limit: usize,
    accepts: impl Fn(&StatusCode) -> bool,
) -> Result<Vec<u8>, GetError> {
    let mut response = client.get(url).send().await?;
    if !accepts(&response.status()) {
        return Err(GetError::Status(response.status()));
    }
    Ok(read_at_most(&mut response, limit).await?)
}

/// Why the body of a response could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// It is longer than the limit.
    TooLarge,
    /// The connection broke, or the time-out passed.
    Connection(reqwest::Error),
}

/// Reads the body of `response`, at most `limit` bytes.
///
/// # Errors
/// [`BodyError`].
pub async fn read_at_most(response: &mut reqwest::Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Connection)? {
        if chunk.len() > limit - body.len() {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why a request failed: one of a fixed set of texts, without host, address or text from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause(&'static str);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Cause {
    /// The cause of an HTTP client error.
    pub fn of(error: &reqwest::Error) -> Self {
        let mut is_dns = false;
        let mut cause: Option<&(dyn Error + 'static)> = error.source();
        for _ in 0..MAX_CAUSES {
            let Some(error) = cause else { break };
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self(of_tls(tls));
            }
            let io = error.downcast_ref::<std::io::Error>();
            if let Some(words) = io.and_then(|io| of_system(io.kind())) {
                return Self(words);
            }
            is_dns |= error.to_string().starts_with("dns error");
            // `io::Error::source` skips the error that an `io::Error` wraps, so it is examined first.
            let inner = io.and_then(|io| io.get_ref()).map(|inner| inner as &(dyn Error + 'static));
            cause = inner.or_else(|| error.source());
        }
        Self(match (is_dns, error.is_connect()) {
            (true, _) => "the name does not resolve",
            (false, true) => "cannot be reached",
            (false, false) => "the connection broke",
        })
    }
}

fn of_system(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind;
    Some(match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "the connection broke"
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route",
        ErrorKind::UnexpectedEof => "the connection was closed",
        ErrorKind::PermissionDenied => "not permitted",
        _ => return None,
    })
}

fn of_tls(error: &rustls::Error) -> &'static str {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            Certificate::UnknownIssuer => {
                "its certificate is not issued by a known CA; name its CA, or the certificate itself, in ca_file"
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => "its certificate has expired",
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            Certificate::Revoked => "its certificate is revoked",
            Certificate::BadSignature => "its certificate has a wrong signature",
            Certificate::BadEncoding => "its certificate does not parse",
            _ => "its certificate is not acceptable; the certificate itself can be named in ca_file",
        },
        rustls::Error::AlertReceived(_) => "it refused the TLS handshake",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS",
        rustls::Error::PeerIncompatible(_) => "it has no TLS version or cipher in common with us",
        _ => "the TLS handshake failed",
    }
}

#[cfg(test)]
mod tests;
