//! `kms doctor`: what is wrong with a KMS that does not run yet, and what to change.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::check;
use super::findings::{Finding, Findings, Level};
use crate::api::setup::Check;
use crate::app;
use crate::config::{Config, Profile, State, WhenStale};

/// Examine a KMS from its configuration: what `check` finds, what `profile = "production"` refuses, and whether evidence,
/// collateral and policy can be had from here. Changes nothing
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  nothing to do\n  1  it would not start, or release nothing\n  3  it would start, with warnings or unsafe settings"
)]
pub(super) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    worst: Level,
    profile: Option<&'static str>,
    findings: &'a [Finding],
}

impl Doctor {
    pub(super) fn run(self, explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (profile, found) = match Config::load(explicit) {
            Ok((config, notices)) => {
                let found = check::walk(explicit, &config, &notices);
                (Some(config.profile), examined(&config, found)?)
            }
            Err(error) => {
                let mut found = Findings::default();
                error.findings.iter().for_each(|finding| found.refuse(finding.to_string()));
                (None, found)
            }
        };
        let worst = found.worst();
        if self.json {
            let report = Report { worst, profile: profile.map(Profile::name), findings: &found.0 };
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            found.print();
            say!("{}", summary(&found));
        }
        Ok(match worst {
            Level::Fact => ExitCode::SUCCESS,
            Level::Useless | Level::Refused => ExitCode::FAILURE,
            Level::Advice | Level::Warning => ExitCode::from(3),
        })
    }
}

/// Adds the checks that call others, and the unsafe settings where the profile permits them.
fn examined(config: &Config, mut found: Findings) -> anyhow::Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for finding in runtime.block_on(app::examine(config)) {
        let message = format!("{}: {}", finding.what, finding.detail);
        if finding.ok {
            found.fact("passed", message);
            continue;
        }
        let stops = match Check::named(finding.what) {
            Ok(Check::Oidc | Check::Notify) => false,
            Ok(Check::Witness) => config.core.ledger.witnesses.require > 0,
            Ok(Check::State) => match &config.core.state {
                State::Files => false,
                State::Postgres(settings) => settings.when_stale == WhenStale::Refuse,
            },
            Ok(
                Check::KeyDirectory
                | Check::Clock
                | Check::Attester
                | Check::Collateral
                | Check::Authorization
                | Check::Source
                | Check::Domain,
            )
            | Err(_) => true,
        };
        let (level, label) = if stops { (Level::Useless, "USELESS") } else { (Level::Warning, "warning") };
        found.0.push(Finding { level, label, message, remedy: Some(finding.advice) });
    }
    if config.profile == Profile::Standard {
        config.unsafe_settings().into_iter().for_each(|it| found.unsafe_setting(Level::Advice, it));
    }
    Ok(found)
}

fn summary(found: &Findings) -> String {
    match found.worst() {
        Level::Fact => "nothing to do".to_owned(),
        Level::Advice | Level::Warning => format!(
            "run would start; warnings: {}, unsafe settings: {}",
            found.count(Level::Warning),
            found.count(Level::Advice)
        ),
        Level::Useless => "run would come up and release nothing".to_owned(),
        Level::Refused => "run would refuse to start".to_owned(),
    }
}
