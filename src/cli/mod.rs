//! The command line: one file a subcommand.

mod audit;
mod auth;
mod check;
mod health;
mod policy;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Key management service for confidential VMs.
#[derive(Debug, Parser)]
#[command(name = "kms", version = env!("CVM_KMS_VERSION"), max_term_width = 100)]
pub struct Cli {
    /// Configuration file, read after /etc/kms/kms.{toml,json} and ./kms.{toml,json}
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; what happens without a subcommand
    Run,
    /// Say what `run` would do with this configuration, with all findings at once, and change nothing
    Check,
    /// Ask a KMS whether it can release keys; exit status 0 if it can, and else the reasons
    Health(health::Health),
    /// Look at an audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Look at an allow-list
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Be the authorization back end of other KMS nodes
    #[command(subcommand)]
    Auth(auth::Auth),
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// What keeps it from running; `main` prints the chain and ends with status 1.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command.unwrap_or(Command::Run) {
            Command::Run => run::run(self.config.as_deref()),
            Command::Check => Ok(check::check(self.config.as_deref())),
            Command::Health(health) => health.run(self.config.as_deref()),
            Command::Audit(audit) => audit.run(),
            Command::Policy(policy) => policy.run(),
            Command::Auth(auth) => auth.run(),
        }
    }
}
