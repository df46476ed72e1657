//! `kms health`: the probe for containers and scripts.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kms_attest::outgoing::{self, BodyError, ResponseTimeout, Timeouts};
use kms_client::Trust;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use serde::Deserialize;

use crate::config::Config;

const DEFAULT_URL: &str = "https://127.0.0.1:8000";
/// The largest response of a KMS in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Requests `GET /readyz`, whether it can release keys, or `GET /livez`, whether it is running
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Base URL of the KMS; `https://` is not verified, this is a probe [default: the main listener of the
    /// file given with
    /// -c, else https://127.0.0.1:8000]
    #[arg(long)]
    url: Option<String>,
    /// Check only whether the process responds: a restart does not help a KMS that is running but not ready
    #[arg(long)]
    live: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

/// The body of `/readyz`.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    reasons: Vec<Reason>,
    #[serde(default)]
    warnings: Vec<Reason>,
}

#[derive(Debug, Deserialize)]
struct Reason {
    code: String,
    text: String,
}

impl Health {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<ExitCode> {
        let url = match (&self.url, config) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => main_listener(&Config::load(Some(file))?.0),
            (None, None) => DEFAULT_URL.to_owned(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, answer) =
            runtime.block_on(self.probe(&url)).with_context(|| format!("no answer from {url}"))?;
        let said = |reasons: &[Reason]| {
            let said: Vec<_> =
                reasons.iter().map(|reason| format!("{} ({})", reason.text, reason.code)).collect();
            said.join("; ")
        };
        match (status, answer) {
            (status, Some(answer)) if status.is_success() => {
                if !answer.warnings.is_empty() {
                    // A ready KMS is ready even if the reader has closed the pipe.
                    let _ = writeln!(std::io::stderr(), "warning: {}", said(&answer.warnings));
                }
                Ok(ExitCode::SUCCESS)
            }
            (status, None) if status.is_success() && self.live => Ok(ExitCode::SUCCESS),
            (_, Some(answer)) if !answer.reasons.is_empty() => {
                anyhow::bail!("not ready: {}", said(&answer.reasons))
            }
            (status, _) => anyhow::bail!("not healthy: {url} answered {status}"),
        }
    }

    /// The HTTP status, and the body if it is one of `/readyz`.
    async fn probe(&self, url: &str) -> anyhow::Result<(StatusCode, Option<Answer>)> {
        let limit = Duration::from_secs(self.timeout);
        let timeouts = Timeouts { connect: limit, response: ResponseTimeout::Total(limit) };
        let tls = Trust::DangerousAnyServer.client_config()?;
        let client = outgoing::client_of_any(tls, timeouts, Policy::none()).no_proxy().build()?;
        let path = if self.live { "livez" } else { "readyz" };
        let mut response = client
            .get(format!("{}/{path}", url.trim_end_matches('/')))
            .send()
            .await
            .map_err(reqwest::Error::without_url)?;
        let status = response.status();
        let body = outgoing::read_at_most(&mut response, MAX_ANSWER).await.map_err(|error| match error {
            BodyError::TooLarge => anyhow::anyhow!("the response is too long"),
            BodyError::Connection(error) => error.without_url().into(),
        })?;
        let answer = if self.live { None } else { kms_attest::json::from_utf8(&body).ok() };
        Ok((status, answer))
    }
}

/// The URL of this configuration's main listener from this machine.
fn main_listener(config: &Config) -> String {
    let address = match config.rpc.address {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    format!("https://{}", SocketAddr::new(address, config.rpc.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_file_is_asked_where_it_is_reached_from_here() {
        for (toml, url) in [
            ("rpc = { address = '0.0.0.0', port = 9000 }", "https://127.0.0.1:9000"),
            ("rpc = { address = '::', port = 9000 }", "https://[::1]:9000"),
            ("rpc = { address = '192.0.2.7' }", "https://192.0.2.7:8000"),
        ] {
            let (config, _) = Config::from_toml(toml).expect("a configuration");
            assert_eq!(main_listener(&config), url);
        }
    }
}
