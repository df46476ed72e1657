//! `kmsctl fleet`: the nodes that share their state, and the repair of a state that they do not believe.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const FLEET: &str = "/api/v1/fleet";
const REPAIR: &str = "/api/v1/fleet/repair";
const REPLY: Reply = Reply {
    max_bytes: 8 << 20,
    unreadable: |url| Failure::failed(format_args!("{url}: the response is not what a KMS sends")),
};

/// Arguments of `kmsctl fleet`.
#[derive(Args, Debug)]
pub(crate) struct Fleet {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the nodes that share their state, and what each says of itself.
    Status(Status),
    /// Write the freezes, credentials, domains and epochs of apps of this node over those of all nodes. For a database that went back:
    /// run it on the node with the right state.
    Repair(Repair),
}

#[derive(Args, Debug)]
struct Status {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct Repair {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct View {
    shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    view_age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alarm: Option<Alarm>,
    warnings: Vec<String>,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Alarm {
    code: String,
    text: String,
    remedy: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    id: String,
    name: String,
    this: bool,
    answers: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<NodeStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeStatus {
    version: String,
    boot_id: String,
    time: u64,
    ready: bool,
    reasons: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mr_aggregated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    #[serde(default)]
    policies: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domains_sha256: Option<String>,
    root_epoch: u32,
    root_epochs: Vec<String>,
}

impl Fleet {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let view: View = match self.command {
            Command::Status(Status { admin }) => admin.get(terminal, FLEET, REPLY).await?,
            Command::Repair(Repair { admin }) => admin.post(terminal, REPAIR, Vec::new(), REPLY).await?,
        };
        terminal.show(&view, |page| view.show(page))?;
        Ok(Exit::Done)
    }
}

impl View {
    fn show(&self, page: &mut Page) {
        if !self.shared {
            page.line("This node shares nothing: core.state is \"files\".");
            return;
        }
        match (&self.stale, self.view_age_ms) {
            (None, Some(age)) => page.line(format_args!("View of the shared state: {age} ms old")),
            (stale, _) => {
                let why = stale.as_deref().unwrap_or("there is no view yet");
                page.line(page.toned(Tone::Bad, &format!("This node is stale: {}", printable(why))));
            }
        }
        if let Some(Alarm { code, text, remedy }) = &self.alarm {
            let alarm = format!("{}: {}. {}", printable(code), printable(text), printable(remedy));
            page.line(page.toned(Tone::Bad, &alarm));
        }
        for warning in &self.warnings {
            page.line(page.toned(Tone::Bad, &printable(warning)));
        }
        for node in &self.nodes {
            node.show(page);
        }
    }
}

impl Node {
    fn show(&self, page: &mut Page) {
        let standing = match (self.this, self.answers, &self.status) {
            (_, false, _) => page.toned(Tone::Bad, "does not answer"),
            (_, true, Some(NodeStatus { ready: false, reasons, .. })) => {
                let reasons: Vec<_> = reasons.iter().map(|reason| printable(reason)).collect();
                page.toned(Tone::Bad, &format!("not ready: {}", reasons.join(", ")))
            }
            (_, true, Some(_)) => page.toned(Tone::Good, "ready"),
            (_, true, None) => page.toned(Tone::Good, "answers"),
        };
        let this = if self.this { " (this node)" } else { "" };
        page.line(format_args!("{} {}{this}: {standing}", printable(&self.name), printable(&self.id)));
        if let Some(state) = self.state {
            page.field("state", state);
        }
        let Some(status) = &self.status else { return };
        page.field(
            "version",
            format_args!("{}, boot {}", printable(&status.version), printable(&status.boot_id)),
        );
        if let Some(measured) = &status.mr_aggregated {
            page.field("measured", printable(measured));
        }
        if let Some(size) = status.ledger_size {
            page.field("log", format_args!("{size} records"));
        }
        for (domain, digest) in &status.policies {
            page.field("policy", format_args!("{} ({})", printable(digest), printable(domain)));
        }
        page.field("root epoch", format_args!("{} of {}", status.root_epoch, status.root_epochs.len()));
    }
}
