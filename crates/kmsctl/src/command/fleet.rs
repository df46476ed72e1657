//! `kmsctl fleet`: the nodes that share their state, and the repair of a state that they do not believe, and nodes that are gone.

use clap::{Args, Subcommand};
use kms_client::fleet::{AlarmShown, DrainShown, FleetAlarm, FleetView, NodeShown, NodeStatus};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::when;

const FLEET: &str = "/api/v1/fleet";
const REPAIR: &str = "/api/v1/fleet/repair";
const FORGET: &str = "/api/v1/fleet/forget";
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
    /// Write the credentials, domains and epochs of apps of this node over those of all nodes; freezes and drains that only others know are
    /// added. For a database that went back: run it on the node with the right state.
    Repair(Repair),
    /// Forget a node that is no longer in the fleet. One that still runs is there again at once. A node that has written nothing for 30
    /// days is forgotten by itself.
    Forget(Forget),
}

#[derive(Args, Debug)]
struct Forget {
    /// The id of the node, or its name
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    admin: Administered,
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

impl Fleet {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let view: FleetView = match &self.command {
            Command::Status(Status { admin }) => admin.get(terminal, FLEET, REPLY).await?,
            Command::Repair(Repair { admin }) => admin.post(terminal, REPAIR, Vec::new(), REPLY).await?,
            Command::Forget(Forget { node, admin }) => {
                let body = json!({ "node": node }).to_string().into_bytes();
                admin.post(terminal, FORGET, body, REPLY).await?
            }
        };
        terminal.show(&view, |page| match self.command {
            Command::Repair(_) => repaired(&view, page),
            Command::Status(_) | Command::Forget(_) => show(&view, page),
        })?;
        let is_well = view.stale.is_none() && view.alarm.is_none() && view.alarms.is_empty();
        Ok(match self.command {
            Command::Status(_) if !is_well => Exit::Failed,
            Command::Status(_) | Command::Repair(_) | Command::Forget(_) => Exit::Done,
        })
    }
}

/// The view that answers a repair may be from before it: this node reads what it wrote when it looks again.
fn repaired(view: &FleetView, page: &mut Page) {
    page.line("Done: the state of this node is now that of all nodes.");
    match view.stale {
        Some(_) => page.line("`kmsctl fleet status` shows it in some seconds."),
        None => show(view, page),
    }
}

fn show(view: &FleetView, page: &mut Page) {
    if !view.shared {
        page.line("This node shares nothing: core.state is \"files\".");
        return;
    }
    match (&view.stale, view.view_age_ms) {
        (None, Some(age)) => page.line(format_args!("View of the shared state: {age} ms old")),
        (stale, _) => {
            let why = stale.as_deref().unwrap_or("there is no view yet");
            page.line(page.toned(Tone::Bad, &format!("This node is stale: {}", printable(why))));
        }
    }
    if let Some(AlarmShown { code, text, remedy }) = &view.alarm {
        let alarm = format!("{}: {}. {}", printable(code), printable(text), printable(remedy));
        page.line(page.toned(Tone::Bad, &alarm));
    }
    for FleetAlarm { kind, text, remedy, .. } in &view.alarms {
        let alarm = format!("{}: {}. {}", printable(kind), printable(text), printable(remedy));
        page.line(page.toned(Tone::Bad, &alarm));
    }
    for warning in &view.warnings {
        page.line(page.toned(Tone::Bad, &printable(warning)));
    }
    for node in &view.nodes {
        show_node(node, view, page);
    }
}

fn show_node(node: &NodeShown, view: &FleetView, page: &mut Page) {
    let standing = match (node.answers, &node.status) {
        // A stale node cannot know whether another one answers.
        (false, _) if view.stale.is_some() => page.toned(Tone::Doubtful, "not known now"),
        (false, _) => page.toned(Tone::Bad, "does not answer"),
        (true, Some(NodeStatus { draining: true, reasons, .. }))
            if reasons.iter().all(|it| it == "draining") =>
        {
            page.toned(Tone::Doubtful, "drains")
        }
        (true, Some(NodeStatus { ready: false, reasons, .. })) => {
            let reasons: Vec<_> = reasons.iter().map(|reason| printable(reason)).collect();
            page.toned(Tone::Bad, &format!("not ready: {}", reasons.join(", ")))
        }
        (true, Some(_)) => page.toned(Tone::Good, "ready"),
        (true, None) => page.toned(Tone::Good, "answers"),
    };
    let this = if node.this { " (this node)" } else { "" };
    page.line(format_args!("{} {}{this}: {standing}", printable(&node.name), printable(&node.id)));
    if let Some(DrainShown { by, since, shared }) = &node.drained {
        let where_known = if *shared { "" } else { ", which the other nodes do not know yet" };
        page.field("drained", format_args!("by {} since {}{where_known}", printable(by), when::at(*since)));
    }
    if let Some(state) = node.state {
        page.field("state", state);
    }
    if let Some(skew) = node.skew {
        page.field("clock", format_args!("{} to {} ms ahead of this node's", skew.min_ms, skew.max_ms));
    }
    let Some(status) = &node.status else { return };
    page.field(
        "version",
        format_args!("{}, boot {}", printable(&status.version), printable(&status.boot_id)),
    );
    for (name, value) in
        [("measured", &status.mr_aggregated), ("OS image", &status.os_image_hash), ("canary", &status.canary)]
    {
        if let Some(value) = value {
            page.field(name, printable(value));
        }
    }
    if let Some(size) = status.ledger_size {
        let root = printable(status.ledger_root.as_deref().unwrap_or("unknown"));
        page.field("log", format_args!("{size} records, root {root}"));
    }
    for (domain, digest) in &status.policies {
        page.field("policy", format_args!("{} ({})", printable(digest), printable(domain)));
    }
    for (domain, serial) in &status.bundle_serials {
        page.field("bundle", format_args!("{serial} ({})", printable(domain)));
    }
    page.field("root epoch", format_args!("{} of {}", status.root_epoch, status.root_epochs.len()));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::output::Audience;

    fn shown(view: Value, show: fn(&FleetView, &mut Page)) -> String {
        let view = serde_json::from_value(view).expect("a view");
        Terminal::new(Audience::People).page(|page| show(&view, page))
    }

    fn view(stale: Option<&str>) -> Value {
        let own = json!({
            "id": "01", "name": "node-1", "this": true, "answers": true,
            "status": { "ready": stale.is_none(), "reasons": stale.map(|_| "state_stale").as_slice() },
        });
        let other = json!({ "id": "02", "name": "node-2", "this": false, "answers": false });
        json!({ "shared": true, "stale": stale, "view_age_ms": 7, "warnings": [], "nodes": [own, other] })
    }

    #[test]
    fn a_stale_node_is_not_ready_and_says_nothing_of_others() {
        let text = shown(view(Some("the database does not answer")), show);
        for line in [
            "This node is stale: the database does not answer",
            "node-1 01 (this node): not ready: state_stale",
            "node-2 02: not known now",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = shown(view(None), show);
        assert!(text.contains("(this node): ready") && text.contains("node-2 02: does not answer"), "{text}");
    }

    #[test]
    fn a_repair_is_said_to_be_done_whatever_the_view_from_before_it_says() {
        let text = shown(view(Some("rolled_back")), repaired);
        assert!(text.starts_with("Done: ") && text.contains("kmsctl fleet status"), "{text}");
        assert!(!text.contains("rolled_back") && !text.contains("node-1"), "{text}");
        let text = shown(view(None), repaired);
        assert!(text.starts_with("Done: ") && text.contains("node-1"), "{text}");
    }
}
