//! Where bundles come from: a file, or a server that is asked with the ETag of its last answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_attest::outgoing::{self, BodyError, Endpoint, GetError, RequestError, ResponseTimeout, Timeouts};
use kms_attest::small_file::small_file;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::redirect::{self, Attempt};
use reqwest::{Client, StatusCode};
use sha2::{Digest as _, Sha256};

use super::minisign::MAX_MINISIG;
use super::{MAX_BUNDLE, is_unsigned, with_minisig};
use crate::error::SetupError;
use crate::file::ca_file;
use crate::settings::{Bundle, BundleSource};

const CONNECT: Duration = Duration::from_secs(10);
const TOTAL: Duration = Duration::from_secs(60);
/// A release asset has one or two.
const MAX_REDIRECTS: usize = 5;
/// A longer ETag is not remembered.
const MAX_ETAG: usize = 256;

/// Why a source gave no bundle. Without host, path or text of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// There is no source: operators push bundles.
    #[error("core.auth_api.bundle.source names no source")]
    NoSource,
    /// The file cannot be read.
    #[error("the file of core.auth_api.bundle.source cannot be read: {0}")]
    File(String),
    /// The server refuses.
    #[error("the server of core.auth_api.bundle.source answers with status {0}")]
    Status(u16),
    /// The answer is longer than a bundle.
    #[error("the server of core.auth_api.bundle.source sends more than {MAX_BUNDLE} bytes")]
    TooLarge,
    /// The bundle has no signature, and what is beside it cannot be read.
    #[error(
        "the bundle of core.auth_api.bundle.source has no signature, and none is in the .minisig beside it: {0}"
    )]
    Minisig(String),
    /// There is no answer.
    #[error("the server of core.auth_api.bundle.source: {0}")]
    Connection(String),
}

/// What a source gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The same as what was accepted before.
    Unchanged,
    /// Other bytes, and what is remembered if they are accepted.
    New(Vec<u8>, Seen),
}

/// What identifies an answer of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The server's ETag, if it sent one.
    ETag(Option<HeaderValue>),
    /// SHA-256 of the content.
    Content([u8; 32]),
}

/// Asks a source for bundles.
#[derive(Debug)]
pub struct Fetcher {
    from: From,
    /// Whether keys of minisign are pinned, so that a signature may be in a file beside.
    minisign: bool,
    seen: Option<Seen>,
}

#[derive(Debug)]
enum From {
    Nowhere,
    File(PathBuf),
    Server(Client, Endpoint),
}

impl Fetcher {
    /// For the source of these settings.
    ///
    /// # Errors
    /// The HTTP client cannot be built, or `ca_file` cannot be used.
    pub fn new(settings: &Bundle) -> Result<Self, SetupError> {
        let from = match &settings.source {
            BundleSource::Operators => From::Nowhere,
            BundleSource::File(path) => From::File(path.clone()),
            BundleSource::Server(endpoint) => From::Server(client(endpoint, settings)?, endpoint.clone()),
        };
        let minisign = !settings.keys.minisign_keys().is_empty();
        Ok(Self { from, minisign, seen: None })
    }

    /// Whether there is a source.
    pub fn has_source(&self) -> bool {
        !matches!(self.from, From::Nowhere)
    }

    /// Asks the source, for a minute at most.
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn fetch(&self) -> Result<Fetched, FetchError> {
        match &self.from {
            From::Nowhere => Err(FetchError::NoSource),
            From::File(path) => self.read(path.clone()).await,
            From::Server(client, endpoint) => self.ask(client, endpoint).await,
        }
    }

    /// Remembers an answer, because what it brought need not be read again.
    pub fn accept(&mut self, seen: Seen) {
        self.seen = Some(seen);
    }

    async fn read(&self, path: PathBuf) -> Result<Fetched, FetchError> {
        let minisign = self.minisign;
        let read = tokio::task::spawn_blocking(move || read_file(&path, minisign)).await;
        let bytes = read.map_err(|_| FetchError::File("the reader ended in a panic".to_owned()))??;
        let seen = Seen::Content(Sha256::digest(&bytes).into());
        if self.seen.as_ref() == Some(&seen) {
            return Ok(Fetched::Unchanged);
        }
        Ok(Fetched::New(bytes, seen))
    }

    async fn ask(&self, client: &Client, endpoint: &Endpoint) -> Result<Fetched, FetchError> {
        let mut request = client.get(endpoint.url().clone());
        if let Some(Seen::ETag(Some(etag))) = &self.seen {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response = request.send().await.map_err(no_answer)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if matches!(self.seen, Some(Seen::ETag(Some(_)))) => {
                return Ok(Fetched::Unchanged);
            }
            other => return Err(FetchError::Status(other.as_u16())),
        }
        let etag = response.headers().get(ETAG).filter(|etag| etag.len() <= MAX_ETAG).cloned();
        let body = outgoing::read_at_most(&mut response, MAX_BUNDLE).await.map_err(|error| match error {
            BodyError::TooLarge => FetchError::TooLarge,
            BodyError::Connection(error) => no_answer(error),
        })?;
        let body = match self.minisign && is_unsigned(&body) {
            true => with_minisig(&body, &minisig(client, endpoint).await?),
            false => body,
        };
        Ok(Fetched::New(body, Seen::ETag(etag)))
    }
}

/// The file with the signature is called as the bundle, with this behind it.
const MINISIG: &str = ".minisig";

/// Reads a bundle in a file; with `minisign`, the signature may be in a file beside it.
///
/// # Errors
/// [`FetchError::File`], [`FetchError::Minisig`]
pub fn read_file(path: &Path, minisign: bool) -> Result<Vec<u8>, FetchError> {
    let bytes = small_file(path, MAX_BUNDLE as u64).map_err(|error| FetchError::File(error.to_string()))?;
    if !minisign || !is_unsigned(&bytes) {
        return Ok(bytes);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(MINISIG);
    let signature = small_file(Path::new(&beside), MAX_MINISIG as u64);
    let signature = signature.map_err(|error| FetchError::Minisig(error.to_string()))?;
    Ok(with_minisig(&bytes, &signature))
}

/// Asks for the signature beside a bundle without one.
async fn minisig(client: &Client, endpoint: &Endpoint) -> Result<Vec<u8>, FetchError> {
    let mut url = endpoint.url().clone();
    url.set_path(&format!("{}{MINISIG}", endpoint.url().path()));
    let is_ok = |status: &StatusCode| *status == StatusCode::OK;
    outgoing::get(client, url, MAX_MINISIG, is_ok).await.map_err(|error| match error {
        GetError::Status(status) => FetchError::Minisig(format!("status {}", status.as_u16())),
        GetError::TooLarge => FetchError::Minisig(format!("it has more than {MAX_MINISIG} bytes")),
        GetError::Request(error) => no_answer(error),
    })
}

fn no_answer(error: impl Into<RequestError>) -> FetchError {
    FetchError::Connection(error.into().to_string())
}

fn client(endpoint: &Endpoint, settings: &Bundle) -> Result<Client, SetupError> {
    const KEY: &str = "core.auth_api.bundle.ca_file";
    let extra = match &settings.ca_file {
        Some(path) => ca_file(KEY, path)?,
        None => Vec::new(),
    };
    let tls = outgoing::client_config(&extra).map_err(|error| SetupError::file(KEY, error.to_string()))?;
    let timeouts = Timeouts { connect: CONNECT, response: ResponseTimeout::Total(TOTAL) };
    let client = outgoing::client(endpoint, tls, timeouts, redirect::Policy::custom(same_scheme));
    client.pool_max_idle_per_host(0).build().map_err(SetupError::Client)
}

/// Follows a redirect to the same scheme; `http` does not leave this machine either way.
fn same_scheme(attempt: Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    let is_same = attempt.previous().last().is_some_and(|before| before.scheme() == attempt.url().scheme());
    let next = Endpoint::parse(attempt.url().as_str());
    match next {
        Ok(next) if is_same && !next.is_exposed() => attempt.follow(),
        _ => attempt.stop(),
    }
}

#[cfg(test)]
mod tests;
