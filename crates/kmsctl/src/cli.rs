//! The command line: options of all commands, and the list of commands, one file each.

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::action::Action;
use crate::command::app_key::AppKey;
use crate::command::approvals::Approvals;
use crate::command::audit::Audit;
use crate::command::bootstrap::Bootstrap;
use crate::command::clock_floor::ClockFloor;
use crate::command::collateral::{Collateral, RefreshCollateral};
use crate::command::completions::Completions;
use crate::command::credential::Credential;
use crate::command::denials::Denials;
use crate::command::diagnostics::Diagnostics;
use crate::command::doctor::Doctor;
use crate::command::domain::Domain;
use crate::command::env::Env;
use crate::command::epoch::Epoch;
use crate::command::event::Event;
use crate::command::events::Events;
use crate::command::explain::Explain;
use crate::command::finish::Finish;
use crate::command::fleet::Fleet;
use crate::command::freeze::{Freeze, Frozen, Unfreeze};
use crate::command::inventory::{Cvms, Releases, Replicas, Resolve};
use crate::command::man::Man;
use crate::command::meta::Meta;
use crate::command::onboard::Onboard;
use crate::command::operations::Operations;
use crate::command::overview::{Health, History, Ledger, Overview, Platforms};
use crate::command::policy::{Policy, Upload};
use crate::command::recovery::Recovery;
use crate::command::replica::Replica;
use crate::command::rollout::Rollout;
use crate::command::settings::{Settings, Whole};
use crate::command::shadow::Shadow;
use crate::command::sign_cert::SignCert;
use crate::command::status::Status;
use crate::command::verify::{Origin, Verify};
use crate::exit::{self, Failure, Outcome};
use crate::output::{Audience, Terminal};

const EXAMPLES: &str = "\
Examples:
  kmsctl status --kms http://HOST:8000
  kmsctl bootstrap --kms http://HOST:8000 --domain kms.example.com
  kmsctl finish --kms http://HOST:8000
  kmsctl verify https://kms.example.com:8000
  kmsctl env encrypt .env --kms https://kms.example.com:8000 --compose app-compose.json --out env.hex
  kmsctl app-key --kms https://kms.example.com:8000 --out keys.json
  kmsctl explain --denial ID
  kmsctl freeze app ID --reason \"leaked key\" --for 8h
  kmsctl events --since 2h --follow
  kmsctl audit verify /etc/kms/certs";

fn after_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit::HELP)
}

/// Client of cvm-kms and dstack-kms: for deployers, CVMs, relying parties and operators.
#[derive(Debug, Parser)]
#[command(name = "kmsctl", version, max_term_width = 100, after_help = after_help(), propagate_version = true)]
pub(crate) struct Cli {
    /// Print one JSON value on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    fn read(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        if let (Command::Verify(verify), Some(("verify", inner))) = (&mut cli.command, matches.subcommand())
            && inner.value_source("kms") == Some(ValueSource::CommandLine)
        {
            verify.kms_origin = Origin::CommandLine;
        }
        Ok(cli)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch the keys of the app that runs in this CVM, as a guest does at boot
    AppKey(AppKey),
    /// Encrypt an environment for an app, or decrypt it again
    #[command(subcommand)]
    Env(Env),
    /// Prove step by step that a KMS is the expected one
    Verify(Box<Verify>),
    /// Show what a KMS says about itself
    Meta(Meta),
    /// Show whether KMSs can be reached, what state they are in, and whether they hold the same keys
    Status(Status),
    /// Examine a running KMS: readiness, clocks, certificates, collateral, ledger, credentials, posture
    Doctor(Doctor),
    /// Make the root keys of a first KMS
    Bootstrap(Bootstrap),
    /// Have a new KMS receive the root keys of a running one
    Onboard(Onboard),
    /// End onboarding: from then on the KMS serves keys
    Finish(Finish),
    /// Have a certificate issued to the app that runs in this CVM
    SignCert(Box<SignCert>),
    /// Show why a CVM is refused, check by check, and what would allow it
    Explain(Box<Explain>),
    /// List the requests that were refused recently
    Denials(Denials),
    /// Show what requests wait for at a KMS, how long each stage takes, and what failed last
    Diagnostics(Diagnostics),
    /// Show how a KMS is, what it has done, and what needs an operator
    Overview(Overview),
    /// Show whether a KMS is well, its mode, and which start of it this is
    Health(Health),
    /// Show releases and denials over time
    History(History),
    /// List the releases of keys and certificates, or show one with its proof
    Releases(Releases),
    /// List the CVMs that have received keys, or show one
    Cvms(Box<Cvms>),
    /// Show whether requests may be sent to an app, as proxies ask
    Resolve(Resolve),
    /// Show the collateral, what Intel will judge worse, and the TCB status of the CVMs
    Platforms(Platforms),
    /// Show checkpoint, witnesses and files of the audit log
    Ledger(Ledger),
    /// List the KMSs that have received the root keys
    Replicas(Replicas),
    /// Invite a new node to get the root keys, and follow it
    Replica(Box<Replica>),
    /// Show and change the epochs of keys
    #[command(subcommand)]
    Epoch(Box<Epoch>),
    /// Show, make, archive and restore domains, and put apps into them
    #[command(subcommand)]
    Domain(Box<Domain>),
    /// Show the nodes that share their state, or repair that state
    Fleet(Box<Fleet>),
    /// Roll an OS image out over the nodes that share their state, one by one
    Rollout(Box<Rollout>),
    /// List what goes on for longer than a request (invited nodes and the rollout), or show one of it
    Operations(Operations),
    /// Stop releases to an app, an instance, a machine, an OS image, or all of them, now
    Freeze(Freeze),
    /// End a freeze
    Unfreeze(Unfreeze),
    /// List the freezes
    Frozen(Frozen),
    /// Drain a KMS, test it, have it reload its policy, and more
    #[command(subcommand)]
    Action(Box<Action>),
    /// What a KMS keeps of Intel's collateral, and files of it
    #[command(subcommand)]
    Collateral(Box<Collateral>),
    /// Have a KMS fetch Intel's collateral again, now
    RefreshCollateral(RefreshCollateral),
    /// Approve what waits for a second owner
    #[command(subcommand)]
    Approvals(Box<Approvals>),
    /// Correct a KMS whose clock was ahead
    #[command(subcommand)]
    ClockFloor(ClockFloor),
    /// Show the policy in force, check another one, and activate it
    #[command(subcommand)]
    Policy(Box<Policy>),
    /// Replace a file of a KMS, such as its allowlist, when it is checked
    Upload(Upload),
    /// List settings, or change one at run time
    #[command(subcommand)]
    Settings(Box<Settings>),
    /// Have a KMS read its configuration and allowlist again, and renew its certificates
    Reload(Whole),
    /// Have a KMS end, so that its supervisor starts it again
    Restart(Whole),
    /// Evaluate an allowlist on live requests before it decides
    #[command(subcommand)]
    Shadow(Shadow),
    /// Verify, watch and export the log of releases
    #[command(subcommand)]
    Audit(Box<Audit>),
    /// Show what happened, or what happens
    Events(Box<Events>),
    /// Create, list, rotate and revoke credentials of operators
    #[command(subcommand)]
    Credential(Box<Credential>),
    /// Give a KMS your share of the root keys, to restore it or for a drill
    #[command(subcommand)]
    Recovery(Box<Recovery>),
    /// Record an event of one's own
    #[command(subcommand)]
    Event(Event),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual page, or write all of them
    Man(Man),
}

impl Command {
    async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::AppKey(command) => command.run(terminal).await,
            Self::Env(command) => command.run(terminal).await,
            Self::Verify(command) => command.run(terminal).await,
            Self::Meta(command) => command.run(terminal).await,
            Self::Status(command) => command.run(terminal).await,
            Self::Doctor(command) => command.run(terminal).await,
            Self::Bootstrap(command) => command.run(terminal).await,
            Self::Onboard(command) => command.run(terminal).await,
            Self::Finish(command) => command.run(terminal).await,
            Self::SignCert(command) => command.run(terminal).await,
            Self::Explain(command) => command.run(terminal).await,
            Self::Denials(command) => command.run(terminal).await,
            Self::Diagnostics(command) => command.run(terminal).await,
            Self::Overview(command) => command.run(terminal).await,
            Self::Health(command) => command.run(terminal).await,
            Self::History(command) => command.run(terminal).await,
            Self::Releases(command) => command.run(terminal).await,
            Self::Cvms(command) => command.run(terminal).await,
            Self::Resolve(command) => command.run(terminal).await,
            Self::Platforms(command) => command.run(terminal).await,
            Self::Ledger(command) => command.run(terminal).await,
            Self::Replicas(command) => command.run(terminal).await,
            Self::Epoch(command) => command.run(terminal).await,
            Self::Domain(command) => command.run(terminal).await,
            Self::Fleet(command) => command.run(terminal).await,
            Self::Rollout(command) => command.run(terminal).await,
            Self::Operations(command) => command.run(terminal).await,
            Self::Replica(command) => command.run(terminal).await,
            Self::Freeze(command) => command.run(terminal).await,
            Self::Unfreeze(command) => command.run(terminal).await,
            Self::Frozen(command) => command.run(terminal).await,
            Self::Action(command) => command.run(terminal).await,
            Self::Collateral(command) => command.run(terminal).await,
            Self::RefreshCollateral(command) => command.run(terminal).await,
            Self::Approvals(command) => command.run(terminal).await,
            Self::ClockFloor(command) => command.run(terminal).await,
            Self::Policy(command) => command.run(terminal).await,
            Self::Upload(command) => command.run(terminal).await,
            Self::Settings(command) => command.run(terminal).await,
            Self::Reload(command) => command.reload(terminal).await,
            Self::Restart(command) => command.restart(terminal).await,
            Self::Shadow(command) => command.run(terminal).await,
            Self::Audit(command) => command.run(terminal).await,
            Self::Events(command) => command.run(terminal).await,
            Self::Event(command) => command.run(terminal).await,
            Self::Credential(command) => command.run(terminal).await,
            Self::Recovery(command) => command.run(terminal).await,
            Self::Completions(command) => command.run(terminal, Cli::command()),
            Self::Man(command) => command.run(terminal, Cli::command()),
        }
    }
}

/// Runs the command in the arguments.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::command().try_get_matches().and_then(|matches| Cli::read(&matches)) {
        Ok(cli) => cli,
        Err(error) => return wrong(&error),
    };
    let terminal = Terminal::new(if cli.json { Audience::Machines } else { Audience::People });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli.command.run(&terminal));
            // A name lookup that hangs must not keep the program from ending.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::failed(format_args!("no runtime: {error}"))),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            terminal.fail(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are not failures; wrong arguments are, in JSON output too.
fn wrong(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        error.exit();
    }
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let failure = Failure::usage(first);
    Terminal::new(Audience::Machines).fail(&failure);
    failure.exit.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_examples_of_the_help_are_command_lines_of_this_program() {
        let examples = EXAMPLES.lines().skip(1).map(str::trim);
        for line in examples {
            let line = line.replace("app ID", &format!("app {}", "ab".repeat(20)));
            let words = line.replace("\"leaked key\"", "leak");
            let parsed = Cli::command().try_get_matches_from(words.split(' '));
            assert!(
                parsed.is_ok(),
                "{line}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
        assert!(Cli::command().render_long_help().to_string().contains("Examples:"));
    }

    #[test]
    fn no_option_takes_a_secret_on_the_command_line() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["token", "password", "secret"].iter().any(|word| name.contains(word));
                assert!(!secret || name.ends_with("_file"), "{} --{name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
