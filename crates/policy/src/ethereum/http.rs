//! Sends POST requests to an endpoint whose URL is secret, and reads bounded responses.

use std::time::Duration;

use kms_attest::outgoing::{self, BodyError, Endpoint, RequestError, ResponseTimeout, Timeouts};
use reqwest::{Client, Response, redirect};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;

use super::error::NodeError;

/// The time-out of a connection attempt.
const CONNECT: Duration = Duration::from_secs(3);
/// The idle time of an HTTP/2 connection before a ping is sent, and the time-out of the ping.
const SILENCE: Duration = Duration::from_secs(3);
/// Maximum number of idle connections to one endpoint.
const IDLE: usize = 64;
/// Parts of a URL of at least this many bytes can be keys.
const SECRET: usize = 6;

/// An HTTP endpoint: pooled connections, no redirects.
pub(super) struct Http {
    url: Endpoint,
    client: Client,
    timeout: Duration,
    /// The parts of the URL that must not be repeated.
    secrets: Vec<String>,
}

impl Http {
    pub(super) fn new(url: Endpoint, timeout: Duration, tls: ClientConfig) -> reqwest::Result<Self> {
        let timeouts = Timeouts { connect: CONNECT.min(timeout), response: ResponseTimeout::Caller };
        let client = outgoing::client(&url, tls, timeouts, redirect::Policy::none())
            .pool_max_idle_per_host(IDLE)
            // All requests share one HTTP/2 connection, so a dead one must be found soon.
            .http2_keep_alive_interval(SILENCE)
            .http2_keep_alive_timeout(SILENCE);
        Ok(Self { secrets: secrets(&url), client: client.build()?, url, timeout })
    }

    /// Sends `body`, and returns the body of the response, of at most `limit` bytes.
    pub(super) async fn post(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, NodeError> {
        tokio::time::timeout(self.timeout, self.answer(body, limit)).await.unwrap_or(Err(NodeError::Silent))
    }

    async fn answer(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, NodeError> {
        let mut response = self.send(body).await.map_err(node_error)?;
        if !response.status().is_success() {
            return Err(NodeError::Status(response.status()));
        }
        outgoing::read_at_most(&mut response, limit).await.map_err(|error| match error {
            BodyError::TooLarge => NodeError::TooLarge(limit),
            BodyError::Connection(error) => node_error(error),
        })
    }

    /// Sends `body`, and once more if the connection broke: the endpoint can close an idle connection just
    /// when it is used again.
    async fn send(&self, body: Vec<u8>) -> reqwest::Result<Response> {
        let post = |body| {
            self.client.post(self.url.as_str()).header("content-type", "application/json").body(body).send()
        };
        match post(body.clone()).await {
            Err(error) if !error.is_connect() && !error.is_timeout() => post(body).await,
            answer => answer,
        }
    }

    /// A message of the endpoint without the secret parts of its URL.
    pub(super) fn redacted(&self, words: &str) -> String {
        self.secrets.iter().fold(words.to_owned(), |words, secret| words.replace(secret, "…"))
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.url.to_string()
    }
}

fn secrets(endpoint: &Endpoint) -> Vec<String> {
    let url = endpoint.url();
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    let mut secrets: Vec<String> = url.path_segments().into_iter().flatten().map(str::to_owned).collect();
    secrets.extend(query);
    secrets.extend([url.username(), url.password().unwrap_or_default()].map(str::to_owned));
    secrets.retain(|secret| secret.len() >= SECRET);
    // The longest first, because one can be part of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// The kind of an error, without its message, which can contain the URL.
fn node_error(error: reqwest::Error) -> NodeError {
    match RequestError::from(error) {
        RequestError::Timeout => NodeError::Silent,
        RequestError::Connection(cause) => NodeError::Connection(cause.to_string()),
    }
}

/// Trusts the public roots and `extra_roots`.
pub(super) fn tls(extra_roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut config = outgoing::client_config(extra_roots)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key_is_never_repeated() {
        for (url, words, expected) in [
            ("https://node.example/v2/abcdef123", "no key abcdef123 at v2", "no key … at v2"),
            (
                "https://node.example/?key=abcdef&chain=1",
                "abcdef is over its limit of 1",
                "… is over its limit of 1",
            ),
            ("https://user00:abcdef@node.example", "abcdef and user00", "… and …"),
            ("https://node.example/abcdef/abcdef123", "abcdef123", "…"),
            ("https://node.example", "execution reverted", "execution reverted"),
        ] {
            let url = Endpoint::parse(url).expect("an URL");
            let http = Http::new(url, Duration::from_secs(1), tls(&[]).expect("no root is wrong"))
                .expect("a client");
            assert_eq!(http.redacted(words), expected);
            assert_eq!(http.origin(), "https://node.example");
        }
    }
}
