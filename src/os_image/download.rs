//! Downloads an image archive from the address for its hash, with limits on time and size.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kms_attest::outgoing::{self, Endpoint, RequestError, ResponseTimeout, Timeouts};
use reqwest::redirect::{self, Attempt};
use reqwest::{Client, StatusCode};
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;

use super::SetupError;

/// The largest archive: published ones have about 100 MiB, with root file systems for GPUs up to about 2 GiB.
pub(super) const MAX_ARCHIVE: u64 = 4 << 30;
const CONNECT: Duration = Duration::from_secs(5);
/// The longest pause of the server.
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects are safe, because the archive is checked by its hash.
const MAX_REDIRECTS: usize = 5;
const PLACEHOLDER: &str = "{OS_IMAGE_HASH}";

/// Why there is no archive. The texts contain no address; the sources are for the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DownloadError {
    /// The server does not have it, or refuses the request.
    #[error("Failed to download image: HTTP status {0}")]
    Status(StatusCode),
    /// No response, or a truncated one.
    #[error("Failed to download image: the image server does not answer")]
    Connection(#[source] RequestError),
    /// Larger than the limit.
    #[error("Failed to download image: larger than {MAX_ARCHIVE} bytes")]
    TooLarge,
    /// The file cannot be written.
    #[error("Failed to download image: it cannot be saved")]
    Save(#[source] Arc<io::Error>),
    /// The whole step took longer than `core.image.download_timeout`.
    #[error("Download image timeout")]
    Timeout,
}

impl From<reqwest::Error> for DownloadError {
    fn from(error: reqwest::Error) -> Self {
        Self::Connection(error.into())
    }
}

impl From<io::Error> for DownloadError {
    fn from(error: io::Error) -> Self {
        Self::Save(Arc::new(error))
    }
}

/// Follows a redirect, unless it leaves this machine unencrypted after an URL that did not.
fn never_weaker(attempt: Attempt<'_>) -> redirect::Action {
    let before = attempt.previous().last().and_then(|before| Endpoint::parse(before.as_str()).ok());
    if before.is_none_or(|before| before.is_weakened_by(attempt.url())) {
        return attempt.stop();
    }
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    attempt.follow()
}

#[derive(Debug)]
pub(super) struct Source {
    client: Client,
    template: String,
}

impl Source {
    /// `template` is `core.image.download_url`; the server is trusted by the public roots and by
    /// `extra_roots`.
    pub(super) fn new(template: String, extra_roots: &[CertificateDer<'static>]) -> Result<Self, SetupError> {
        let tls = outgoing::client_config(extra_roots)?;
        let timeouts = Timeouts { connect: CONNECT, response: ResponseTimeout::Silence(SILENCE) };
        let redirects = redirect::Policy::custom(never_weaker);
        let client = match Endpoint::parse(&template) {
            Ok(endpoint) => outgoing::client(&endpoint, tls, timeouts, redirects),
            // The placeholder is in the host, so it is none on this machine.
            Err(_) => outgoing::client_of_any(tls, timeouts, redirects),
        };
        Ok(Self { client: client.pool_max_idle_per_host(0).build()?, template })
    }

    /// Saves the archive of an image, at most [`MAX_ARCHIVE`] bytes. `fetched` is called for each chunk with
    /// its length, and with the total length if the server states it.
    pub(super) async fn save(
        &self,
        hash: &[u8; 32],
        path: &Path,
        mut fetched: impl FnMut(usize, Option<u64>) + Send,
    ) -> Result<(), DownloadError> {
        let url = self.template.replace(PLACEHOLDER, &hex::encode(hash));
        let mut answer = self.client.get(url).send().await?;
        if !answer.status().is_success() {
            return Err(DownloadError::Status(answer.status()));
        }
        let length = answer.content_length();
        if length.is_some_and(|length| length > MAX_ARCHIVE) {
            return Err(DownloadError::TooLarge);
        }
        let mut file = tokio::fs::File::create(path).await?;
        let mut left = MAX_ARCHIVE;
        while let Some(chunk) = answer.chunk().await? {
            left = left.checked_sub(chunk.len() as u64).ok_or(DownloadError::TooLarge)?;
            file.write_all(&chunk).await?;
            fetched(chunk.len(), length);
        }
        Ok(file.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[tokio::test]
    async fn the_cause_of_a_failure_does_not_name_the_address() {
        let directory = tempfile::tempdir().unwrap();
        let source = Source::new("http://user:hush@127.0.0.1:1/{OS_IMAGE_HASH}".to_owned(), &[]).unwrap();
        let saved = source.save(&[0; 32], &directory.path().join("archive"), |_, _| {}).await;
        let cause = saved.unwrap_err().source().unwrap().to_string();
        assert_eq!(cause, "connection refused");
    }
}
