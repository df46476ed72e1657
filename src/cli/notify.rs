//! `kms notify`: sends a test notification to each target, so that an operator can see it arrive.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::Config;
use crate::notify;

/// Notifications
#[derive(Debug, Subcommand)]
pub(super) enum Notify {
    /// Send a notification of type `test` to each target of [[core.notify]]; exit status 1 if one does not
    /// accept it
    Test {
        /// Only the target with this name or number
        name: Option<String>,
    },
}

impl Notify {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<ExitCode> {
        let Self::Test { name } = self;
        let (config, _) = Config::load(config)?;
        let mut targets = config.core.notify;
        targets.retain(|target| name.as_ref().is_none_or(|name| *name == target.name));
        if targets.is_empty() {
            anyhow::bail!("no such target in [[core.notify]]");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut exit = ExitCode::SUCCESS;
        for target in &targets {
            match runtime.block_on(notify::test(target)) {
                Ok(()) => say!("{} took it", target.name),
                Err(error) => {
                    say!("{} did not take it: {:#}", target.name, anyhow::Error::from(error));
                    exit = ExitCode::FAILURE;
                }
            }
        }
        Ok(exit)
    }
}
