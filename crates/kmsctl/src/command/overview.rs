//! `kmsctl overview`, `platforms` and `ledger`: how a KMS is, and what needs an operator.

use clap::Args;
use serde_json::Value;

use super::inventory::{document, fields, number, text};
use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone};
use crate::target::Administered;

/// Arguments of `kmsctl overview`.
#[derive(Args, Debug)]
pub(crate) struct Overview {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl platforms`.
#[derive(Args, Debug)]
pub(crate) struct Platforms {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl ledger`.
#[derive(Args, Debug)]
pub(crate) struct Ledger {
    #[command(flatten)]
    admin: Administered,
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

impl Overview {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let overview = document(&self.admin, terminal, "/api/v1/overview").await?;
        terminal.show(&overview, |page| {
            let state = match overview["ready"].as_bool() {
                Some(true) => page.toned(Tone::Good, "ready"),
                _ => page.toned(Tone::Bad, "NOT READY"),
            };
            page.line(format_args!("{}: {state}", text(&overview, "name")));
            for name in ["version", "started_at", "root_fingerprint", "os_image_hash"] {
                page.field(&name.replace('_', " "), text(&overview, name));
            }
            let day = &overview["last_24h"];
            page.field(
                "last 24 hours",
                format_args!(
                    "{} releases to {} CVMs of {} apps; {} denials",
                    number(day, "releases"),
                    number(day, "cvms"),
                    number(day, "apps"),
                    number(day, "denials")
                ),
            );
            for item in list(&overview, "attention") {
                attention(page, item);
            }
        })?;
        Ok(Exit::Done)
    }
}

fn attention(page: &mut Page, item: &Value) {
    let severity = text(item, "severity");
    let tone = if severity == "critical" { Tone::Bad } else { Tone::Doubtful };
    let by = match text(item, "by") {
        by if by.is_empty() => by,
        by => format!(", by {by}"),
    };
    page.line(format_args!("{}: {}{by}", page.toned(tone, &severity), text(item, "message")));
    page.field("  detail", text(item, "detail"));
}

impl Platforms {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let platforms = document(&self.admin, terminal, "/api/v1/platforms").await?;
        terminal.show(&platforms, |page| {
            for collateral in list(&platforms, "collateral") {
                let until = text(collateral, "next_update");
                page.line(format_args!(
                    "collateral of model {}: valid until {until}",
                    text(collateral, "fmspc")
                ));
            }
            for forecast in list(&platforms, "forecast") {
                page.line(format_args!("model {}: {}", text(forecast, "fmspc"), text(forecast, "message")));
            }
            for platform in list(&platforms, "platforms") {
                let (cvms, status) = (number(platform, "cvms"), text(platform, "tcb_status"));
                page.line(format_args!("{cvms} CVMs are {status}, last {}", text(platform, "last_at")));
            }
        })?;
        Ok(Exit::Done)
    }
}

impl Ledger {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let ledger = document(&self.admin, terminal, "/api/v1/ledger").await?;
        terminal.show(&ledger, |page| {
            let mut shown = ledger.clone();
            for key in ["checkpoint", "witnesses", "files"] {
                shown.as_object_mut().map(|shown| shown.remove(key));
            }
            fields(page, &shown);
            for witness in list(&ledger, "witnesses") {
                let state = text(witness, "state");
                page.line(format_args!(
                    "witness {}: {state} {}",
                    text(witness, "name"),
                    text(witness, "message")
                ));
            }
            for file in list(&ledger, "files") {
                let (first, last) = (number(file, "first"), number(file, "last"));
                page.line(format_args!("file {}: records {first} to {last}", text(file, "name")));
            }
        })?;
        Ok(Exit::Done)
    }
}
