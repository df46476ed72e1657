//! `kms health`: the probe of containers and scripts.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use reqwest::StatusCode;

/// Asks `GET /health`.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Base URL of the KMS; `https://` is not verified, this is a probe
    #[arg(long, default_value = "https://127.0.0.1:8000")]
    url: String,
    /// Seconds to wait
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

impl Health {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let status = runtime.block_on(self.probe()).context("not healthy")?;
        anyhow::ensure!(status.is_success(), "not healthy: {status}");
        Ok(ExitCode::SUCCESS)
    }

    async fn probe(&self) -> anyhow::Result<StatusCode> {
        // One process, one client: the provider is set where it is needed and nowhere else.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .danger_accept_invalid_certs(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(self.timeout))
            .build()?;
        let url = format!("{}/health", self.url.trim_end_matches('/'));
        Ok(client.get(url).send().await.map_err(reqwest::Error::without_url)?.status())
    }
}
