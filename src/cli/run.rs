//! `kms run`: serve until SIGINT or SIGTERM.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{app::Kms, config::Config};

/// Serves with the layered configuration and `explicit` on top.
pub(super) fn run(explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    keep_memory_in()?;
    raise_descriptors();
    let (config, notices) = Config::load(explicit)?;
    for notice in notices {
        // Without its file: `kms check` names that, and paths do not belong in a log.
        tracing::warn!("{}: {}", notice.key, notice.message);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut kms = Kms::start(config).await?;
    tokio::select! {
        ended = kms.stopped() => {
            ended?;
            return Ok(ExitCode::SUCCESS);
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    kms.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// No core file and no debugger of the same user: the memory of this process is the root of every key.
fn keep_memory_in() -> anyhow::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("core dumps cannot be switched off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("this process cannot be made undumpable")
}

/// As many descriptors as the system lets us have: each connection is one, and so is each question to a back end.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
