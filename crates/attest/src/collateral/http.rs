//! The HTTP client for collateral: our own TLS roots and provider, deadlines, bounded bodies, few redirects.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use super::{EndpointError, FetchFailure, Resource};
use crate::tls::{ChainLimit, trusting};

/// Time for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// Time for a request from its first byte to the last of the answer.
const REQUEST: Duration = Duration::from_secs(8);
/// Redirects followed, within the same host.
const MAX_REDIRECTS: usize = 2;
/// A JSON answer or a certificate. Intel's longest TCB info has some 40 KiB.
pub(super) const MAX_DOCUMENT: usize = 1 << 20;
/// A revocation list: they grow with every revoked platform.
pub(super) const MAX_CRL: usize = 4 << 20;

/// A client that may be cloned freely: clones share their connections.
#[derive(Debug, Clone)]
pub struct Http {
    endpoints: Client,
    distribution_points: Client,
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// A client that trusts Mozilla's roots and `extra_roots`. The proxy variables of the environment apply.
    pub fn new(extra_roots: &[CertificateDer<'static>]) -> Result<Self, EndpointError> {
        let builder = || -> Result<ClientBuilder, EndpointError> {
            Ok(Client::builder()
                .tls_backend_preconfigured(tls(extra_roots)?)
                .user_agent(concat!("cvm-kms/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .timeout(REQUEST)
                .pool_max_idle_per_host(2))
        };
        let client =
            |builder: ClientBuilder| builder.build().map_err(|e| EndpointError::Client(e.to_string()));
        Ok(Self {
            endpoints: client(builder()?.redirect(Policy::custom(within_host)))?,
            distribution_points: client(builder()?.redirect(Policy::none()))?,
        })
    }

    /// Asks an endpoint.
    pub(super) async fn get(
        &self,
        resource: Resource,
        url: &str,
        limit: usize,
    ) -> Result<Answer, FetchFailure> {
        read(&self.endpoints, resource, url, limit).await
    }

    /// Asks an address that stands in a certificate: no redirects.
    pub(super) async fn get_distribution_point(&self, url: &str) -> Result<Answer, FetchFailure> {
        read(&self.distribution_points, Resource::DistributionPoint, url, MAX_CRL).await
    }
}

fn tls(extra_roots: &[CertificateDer<'static>]) -> Result<ClientConfig, EndpointError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra_roots {
        roots.add(root.clone()).map_err(|e| EndpointError::Client(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| trusting(builder, roots, ChainLimit::PUBLIC))
        .map(|builder| builder.with_no_client_auth())
        .map_err(|e| EndpointError::Client(e.to_string()))
}

/// Follows a redirect to the same host, never from https to http.
fn within_host(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let same = attempt.previous().last().is_some_and(|from| {
        let to = attempt.url();
        let origin =
            from.scheme() == to.scheme() && from.port_or_known_default() == to.port_or_known_default();
        from.host() == to.host() && (origin || (from.scheme() == "http" && to.scheme() == "https"))
    });
    if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

async fn read(client: &Client, resource: Resource, url: &str, limit: usize) -> Result<Answer, FetchFailure> {
    let failure = |error: reqwest::Error| match error.is_timeout() {
        true => FetchFailure::Timeout(resource),
        false => FetchFailure::Connection { resource, cause: innermost(&error.without_url()) },
    };
    let too_large = || FetchFailure::TooLarge { resource, limit };
    let mut response = client.get(url).send().await.map_err(failure)?;
    if !response.status().is_success() {
        return Err(FetchFailure::Status { resource, status: response.status().as_u16() });
    }
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if chunk.len() > limit - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { headers: std::mem::take(response.headers_mut()), body })
}

/// The last of a chain of causes: what the system or the TLS library says.
fn innermost(mut error: &(dyn Error + 'static)) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A TLS server that answers "ok", and the root above its certificate.
    async fn tls_server() -> (String, CertificateDer<'static>) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        });
        (url, root)
    }

    #[tokio::test]
    async fn an_extra_root_makes_a_private_service_reachable_and_its_absence_does_not() {
        let (url, root) = tls_server().await;
        let strangers = Http::new(&[]).unwrap().get(Resource::PckCrl, &url, 10).await;
        let Some(FetchFailure::Connection { resource: Resource::PckCrl, cause }) = strangers.err() else {
            panic!("a stranger's certificate was taken")
        };
        assert!(cause.contains("UnknownIssuer"), "{cause}");
        let friends = Http::new(&[root]).unwrap().get(Resource::PckCrl, &url, 10).await;
        assert_eq!(friends.unwrap().body, b"ok");
    }

    #[test]
    fn an_extra_root_must_be_a_certificate() {
        let error = Http::new(&[CertificateDer::from(vec![1, 2, 3])]).err();
        assert!(matches!(error, Some(EndpointError::Client(_))));
    }
}
