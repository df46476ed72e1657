//! The HTTP client for collateral: our own TLS roots and provider, deadlines, bounded bodies, few redirects.

use std::error::Error;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder};
use rustls_pki_types::CertificateDer;

use super::{EndpointError, FetchFailure, Resource};
use crate::outgoing::{self, BodyError, Cause, Endpoint, ResponseTimeout, Timeouts};

/// Time-out of a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// Time-out of a request, from connecting to the last byte of the response.
const REQUEST: Duration = Duration::from_secs(8);
/// Maximum number of redirects, all within the same host.
const MAX_REDIRECTS: usize = 2;
/// Idle connections kept per host.
const MAX_IDLE: usize = 2;
/// Maximum length of a JSON document or a certificate, bytes. Intel's longest TCB info has about 40 KiB.
pub(super) const MAX_DOCUMENT: usize = 1 << 20;
/// Maximum length of a CRL, bytes: it grows with every revoked platform.
pub(super) const MAX_CRL: usize = 4 << 20;

/// The HTTP client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Http {
    endpoints: Client,
    /// For endpoints on this machine, which are not asked through a proxy.
    local: Client,
    distribution_points: Client,
}

/// A complete response.
pub(super) struct Response {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// A client that trusts Mozilla's roots and `extra_roots`, as [`outgoing::client_config`] does. The proxy
    /// variables of the environment apply beyond this machine.
    pub fn new(extra_roots: &[CertificateDer<'static>]) -> Result<Self, EndpointError> {
        let tls = outgoing::client_config(extra_roots).map_err(|e| EndpointError::Client(e.to_string()))?;
        let timeouts = Timeouts { connect: CONNECT, response: ResponseTimeout::Total(REQUEST) };
        let client = |redirects| {
            outgoing::client_of_any(tls.clone(), timeouts, redirects).pool_max_idle_per_host(MAX_IDLE)
        };
        let built = |client: ClientBuilder| client.build().map_err(|e| EndpointError::Client(e.to_string()));
        Ok(Self {
            endpoints: built(client(Policy::custom(within_host)))?,
            local: built(client(Policy::custom(within_host)).no_proxy())?,
            distribution_points: built(client(Policy::none()))?,
        })
    }

    /// Requests a document from an endpoint.
    pub(super) async fn get(
        &self,
        resource: Resource,
        url: &str,
        limit: usize,
    ) -> Result<Response, FetchFailure> {
        let is_local = Endpoint::parse(url).is_ok_and(|endpoint| endpoint.is_loopback());
        let client = if is_local { &self.local } else { &self.endpoints };
        read(client, resource, url, limit).await
    }

    /// Requests a CRL from an address in a certificate, without redirects.
    pub(super) async fn get_distribution_point(&self, url: &str) -> Result<Response, FetchFailure> {
        read(&self.distribution_points, Resource::DistributionPoint, url, MAX_CRL).await
    }
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

async fn read(
    client: &Client,
    resource: Resource,
    url: &str,
    limit: usize,
) -> Result<Response, FetchFailure> {
    let failure = |error: reqwest::Error| match error.is_timeout() {
        true => FetchFailure::Timeout(resource),
        false => FetchFailure::Connection {
            resource,
            cause: Cause::of(&error),
            detail: innermost(&error.without_url()),
        },
    };
    let mut response = client.get(url).send().await.map_err(failure)?;
    if !response.status().is_success() {
        return Err(FetchFailure::Status { resource, status: response.status().as_u16() });
    }
    let body = outgoing::read_at_most(&mut response, limit).await.map_err(|error| match error {
        BodyError::TooLarge => FetchFailure::TooLarge { resource, limit },
        BodyError::Connection(error) => failure(error),
    })?;
    Ok(Response { headers: std::mem::take(response.headers_mut()), body })
}

/// The last error in the chain of causes, from the system or the TLS library.
fn innermost(mut error: &(dyn Error + 'static)) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_root_must_be_a_certificate() {
        let error = Http::new(&[CertificateDer::from(vec![1, 2, 3])]).err();
        assert!(matches!(error, Some(EndpointError::Client(_))));
    }
}
