//! `kmsctl overview`, `health`, `history`, `platforms` and `ledger`: how a KMS is, and what needs an operator.

use clap::Args;
use kms_client::text::count;
use serde_json::{Value, json};

use super::inventory::{document, fields, number, query, text};
use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone};
use crate::target::Administered;
use crate::when;

/// Arguments of `kmsctl overview`.
#[derive(Args, Debug)]
pub(crate) struct Overview {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl health`.
#[derive(Args, Debug)]
pub(crate) struct Health {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl history`.
#[derive(Args, Debug)]
pub(crate) struct History {
    /// The span until now, from 1h to 30d [default: 6h]
    #[arg(long, value_name = "SPAN")]
    window: Option<String>,
    /// The most steps, from 2 to 500 [default: 72]
    #[arg(long, value_name = "NUMBER")]
    points: Option<u32>,
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
                _ if overview["archived"] == true => {
                    page.toned(Tone::Bad, "the domain is archived: nothing is released in it")
                }
                Some(true) => page.toned(Tone::Good, "ready"),
                _ => page.toned(Tone::Bad, "NOT READY"),
            };
            page.line(format_args!("{}: {state}", text(&overview, "name")));
            for name in ["domain", "version", "started_at", "root_fingerprint", "os_image_hash"] {
                page.field(&name.replace('_', " "), text(&overview, name));
            }
            // What `status` shows under this name, and relying parties pin.
            page.field("root CA public key SHA-256", text(&overview, "ca_fingerprint"));
            let day = &overview["last_24h"];
            page.field(
                "last 24 hours",
                format_args!(
                    "{} to {} of {}; {}",
                    count(number(day, "releases"), "release"),
                    count(number(day, "cvms"), "CVM"),
                    count(number(day, "apps"), "app"),
                    count(number(day, "denials"), "denial")
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
    let last = when::ago(&text(item, "last")).map_or_else(String::new, |ago| format!(" (last {ago})"));
    page.line(format_args!("{}: {}{by}{last}", page.toned(tone, &severity), text(item, "message")));
    page.field("  detail", text(item, "detail"));
}

impl Health {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let health = document(&self.admin, terminal, "/api/v1/health").await?;
        let setup = document(&self.admin, terminal, "/api/v1/setup/status").await?;
        let status = text(&health, "status");
        let (tone, exit) = match status.as_str() {
            "ok" => (Tone::Good, Exit::Done),
            "degraded" => (Tone::Doubtful, Exit::Done),
            _ => (Tone::Bad, Exit::Failed),
        };
        terminal.show(&json!({ "health": health, "setup": setup }), |page| {
            page.line(page.toned(tone, &status));
            for reason in list(&health, "reasons") {
                page.field("reason", format_args!("{} ({})", text(reason, "message"), text(reason, "code")));
            }
            page.field("mode", text(&setup, "mode"));
            page.field("version", text(&health, "version"));
            page.field("started at", text(&health, "startedAt"));
            page.field("boot id", text(&health, "bootId"));
        })?;
        Ok(exit)
    }
}

impl History {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let query =
            query(&[("window", self.window), ("points", self.points.map(|points| points.to_string()))]);
        let history = document(&self.admin, terminal, &format!("/api/v1/history?{query}")).await?;
        terminal.show(&history, |page| {
            for point in list(&history, "points") {
                let latency = match point["p99_ms"].as_f64() {
                    Some(p99) => format!(", 99 of 100 within {p99:.2} ms"),
                    None => String::new(),
                };
                let (released, denied) = (number(point, "released"), number(point, "denied"));
                page.line(format_args!(
                    "{}  {released} releases, {denied} denials{latency}",
                    text(point, "at")
                ));
            }
            if !history["building"].is_null() {
                page.line(page.toned(Tone::Doubtful, "The counts are not complete yet."));
            }
        })?;
        Ok(Exit::Done)
    }
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
                let are = if cvms == 1 { "is" } else { "are" };
                let cvms = count(cvms, "CVM");
                page.line(format_args!("{cvms} {are} {status}, last {}", text(platform, "last_at")));
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
