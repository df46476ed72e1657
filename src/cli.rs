//! The command line: one file a subcommand.

/// Prints a line to standard output. A closed pipe is not an error: the exit status carries the result.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

mod audit;
mod auth;
mod check;
mod collateral;
mod doctor;
mod findings;
mod health;
mod notify;
mod policy;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  kms check -c kms.toml                                what `run` would do, and everything that is wrong
  kms doctor -c kms.toml                               what to change before keys matter
  kms -c kms.toml                                      serve
  kms health -c kms.toml                               can it release keys? For probes
  kms notify test -c kms.toml                          does a notification arrive at each target?
  kms policy check new.json --against auth-config.json what a change of the allowlist would do
  kms policy keygen --name team/ann --out ann.key      a key that signs bundles of policies
  kms collateral show -c kms.toml                      until when can it verify without a collateral service?
  kms audit verify /etc/kms/certs/audit.jsonl          is the log unbroken?
  kms auth serve --file auth-config.json               serve an allowlist to other KMS nodes";

/// Key management service for confidential VMs.
#[derive(Debug, Parser)]
#[command(name = "kms", version = env!("CVM_KMS_VERSION"), max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Configuration file, read after /etc/kms/kms.{toml,json} and ./kms.{toml,json}
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; the default without a subcommand
    Run,
    /// Show what `run` would do with this configuration, with all findings at once, and change nothing
    Check,
    /// Examine this machine and the configuration, and say what to change
    Doctor(doctor::Doctor),
    /// Check whether a KMS can release keys; exit status 0 if it can, otherwise prints the reasons
    Health(health::Health),
    /// Send a test notification
    #[command(subcommand)]
    Notify(notify::Notify),
    /// Inspect an audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Show, export or import what is kept of Intel's collateral
    #[command(subcommand)]
    Collateral(collateral::Collateral),
    /// Inspect an allowlist, and make signed bundles of it
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Serve an authorization backend for other KMS nodes
    #[command(subcommand)]
    Auth(auth::Auth),
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Why it cannot run; `main` prints the chain of causes and ends with status 1.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command.unwrap_or(Command::Run) {
            Command::Run => run::run(self.config.as_deref()),
            Command::Check => Ok(check::check(self.config.as_deref())),
            Command::Doctor(doctor) => doctor.run(self.config.as_deref()),
            Command::Health(health) => health.run(self.config.as_deref()),
            Command::Notify(notify) => notify.run(self.config.as_deref()),
            Command::Audit(audit) => audit.run(),
            Command::Collateral(collateral) => collateral.run(self.config.as_deref()),
            Command::Policy(policy) => policy.run(self.config.as_deref()),
            Command::Auth(auth) => auth.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_examples_of_the_help_are_command_lines_of_this_program() {
        for line in EXAMPLES.lines().skip(1) {
            let words: Vec<&str> = line.trim().split("  ").next().unwrap_or_default().split(' ').collect();
            // What explains a line follows its words, after one space where they are long.
            let words = words.split(|word| *word == "what").next().unwrap_or_default();
            let parsed = Cli::command().try_get_matches_from(words);
            assert!(
                parsed.is_ok(),
                "{line}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
    }
}
