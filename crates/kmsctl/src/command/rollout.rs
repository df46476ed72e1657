//! `kmsctl rollout`: an OS image over the nodes of a fleet, one node at a time.

mod hook;
mod run;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use kms_client::rollout::{RolloutShown, RolloutView};
use serde_json::{Value, json};

use self::run::{Driver, Line};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Audience, Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::when;

const ROLLOUT: &str = "/api/v1/rollout";
const REPLY: Reply = Reply {
    max_bytes: 1 << 20,
    unreadable: |url| Failure::failed(format_args!("{url}: the response is not what a KMS sends")),
};

/// Arguments of `kmsctl rollout`.
#[derive(Args, Debug)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a rollout: each node in turn is drained, replaced by you or a program, and checked
    Start(Box<Start>),
    /// Show the rollout; with --watch until it ends (exit code 0) or pauses (1)
    Status(Status),
    /// Replace the nodes of a rollout with a program, and go on after a crash
    Run(Run),
    /// Begin nothing more
    Pause(Whole),
    /// Go on, also past a node that failed
    Resume(Whole),
    /// Begin a node that failed or was skipped again
    Retry(OfNode),
    /// Leave a node as it is
    Skip(OfNode),
    /// End the rollout: nodes stay as they are
    Cancel(Whole),
}

#[derive(Args, Debug)]
struct Start {
    /// Hash of the OS image that each node shall run, in hex
    #[arg(long, value_name = "HASH")]
    image: String,
    /// Nodes in their order, by `core.postgres.node_name`; more than once, or with commas [default: all that answer]
    #[arg(long = "node", value_name = "NAME", value_delimiter = ',')]
    nodes: Vec<String>,
    /// Other nodes that must serve while one is replaced [default: all others, at least 1]
    #[arg(long, value_name = "NUMBER")]
    min_serving: Option<u32>,
    /// Drain a node for this time before it is replaced [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    drain_for: Option<Duration>,
    /// A node is done when it was healthy for this time without a gap [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    healthy_for: Option<Duration>,
    /// Pause if a node is not done after this time [default: 20m]
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    node_timeout: Option<Duration>,
    /// `mr_aggregated` of the new nodes, in hex, where the policy names KMSs by it
    #[arg(long, value_name = "HEX")]
    mr_aggregated: Option<String>,
    /// Only show the plan
    #[arg(long, conflicts_with = "hook")]
    plan: bool,
    /// Replace nodes with this program, as `kmsctl rollout run` does
    #[arg(long, value_name = "PROGRAM")]
    hook: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct Status {
    /// Follow it
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct Run {
    /// The program, which is called once for each node, without a shell
    #[arg(long, value_name = "PROGRAM")]
    hook: PathBuf,
    /// Act although another driver has been silent for a short time only
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct Limits {
    /// End the program after this time
    #[arg(long, value_name = "DURATION", value_parser = when::duration, default_value = "10m")]
    hook_timeout: Duration,
}

#[derive(Args, Debug)]
struct Whole {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct OfNode {
    /// Its `core.postgres.node_name`
    node: String,
    #[command(flatten)]
    admin: Administered,
}

impl Rollout {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self.command {
            Command::Start(start) => start.run(terminal).await,
            Command::Status(Status { watch: false, admin }) => {
                let view: RolloutView = admin.get(terminal, ROLLOUT, REPLY).await?;
                terminal.show(&view, |page| show(&view, page))?;
                Ok(Exit::Done)
            }
            Command::Status(Status { watch: true, admin }) => run::watch(&admin, terminal).await,
            Command::Run(Run { hook, take_over, limits, admin }) => {
                let driver = Driver::new(&admin, terminal, hook, limits.hook_timeout, take_over)?;
                driver.check().await?;
                driver.run().await
            }
            Command::Pause(whole) => whole.order("pause", terminal).await,
            Command::Resume(whole) => whole.order("resume", terminal).await,
            Command::Cancel(whole) => whole.order("cancel", terminal).await,
            Command::Retry(node) => node.order("retry", terminal).await,
            Command::Skip(node) => node.order("skip", terminal).await,
        }
    }
}

impl Start {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
        let body = json!({
            "image": self.image,
            "nodes": self.nodes,
            "min_serving": self.min_serving,
            "drain_for": seconds(self.drain_for),
            "healthy_for": seconds(self.healthy_for),
            "node_timeout": seconds(self.node_timeout),
            "mr_aggregated": self.mr_aggregated,
            "driven": self.hook.is_some(),
            "preview": self.plan,
        });
        let admin = &self.admin;
        // It is looked at before anything is started.
        let driver = match self.hook {
            Some(hook) => {
                let driver = Driver::new(admin, terminal, hook, self.limits.hook_timeout, false)?;
                driver.check().await?;
                Some(driver)
            }
            None => None,
        };
        let view = ask(admin, terminal, ROLLOUT, &body).await?;
        let Some(driver) = driver else {
            terminal.show(&view, |page| {
                show(&view, page);
                if !self.plan {
                    page.line("");
                    page.line(
                        "Next: kmsctl rollout status --watch, and replace each node when it is replacing",
                    );
                }
            })?;
            return Ok(Exit::Done);
        };
        if terminal.audience() == Audience::People {
            terminal.append(&terminal.page(|page| show(&view, page)))?;
        }
        driver.run().await
    }
}

impl Whole {
    async fn order(self, order: &str, terminal: &Terminal) -> Outcome {
        done(&self.admin, terminal, order, &json!({})).await
    }
}

impl OfNode {
    async fn order(self, order: &str, terminal: &Terminal) -> Outcome {
        done(&self.admin, terminal, order, &json!({ "node": self.node })).await
    }
}

async fn done(admin: &Administered, terminal: &Terminal, order: &str, body: &Value) -> Outcome {
    let view = ask(admin, terminal, &format!("{ROLLOUT}/{order}"), body).await?;
    terminal.show(&view, |page| show(&view, page))?;
    Ok(Exit::Done)
}

/// Asks the first of the KMSs: the rollout is that of all nodes.
async fn ask(admin: &Administered, terminal: &Terminal, path: &str, body: &Value) -> Outcome<RolloutView> {
    let Some(service) = admin.each().next() else { return Err(Failure::usage("--admin is missing")) };
    let connection = service.connect(terminal).await?;
    let answer = service.post_on(&connection, path, body.to_string().into_bytes(), REPLY.max_bytes).await?;
    answer.json().ok_or_else(|| (REPLY.unreadable)(service.url))
}

fn show(view: &RolloutView, page: &mut Page) {
    if let Some(problem) = &view.problem {
        page.line(page.toned(Tone::Doubtful, &printable(problem)));
    }
    for warning in &view.warnings {
        page.line(page.toned(Tone::Doubtful, &printable(warning)));
    }
    match &view.rollout {
        Some(rollout) => show_rollout(rollout, page),
        None if view.problem.is_none() => page.line("There is no rollout."),
        None => {}
    }
}

fn show_rollout(rollout: &RolloutShown, page: &mut Page) {
    let tone = match (&*rollout.state, rollout.failed) {
        (_, true) => Tone::Bad,
        ("done", _) => Tone::Good,
        _ => Tone::Doubtful,
    };
    let state = page.toned(tone, &printable(&rollout.state));
    page.line(format_args!("Rollout {}: {state}", printable(&rollout.id)));
    page.field("image", printable(&rollout.image));
    page.field("started", format_args!("{} by {}", printable(&rollout.started_at), printable(&rollout.by)));
    page.field("serving", format_args!("{}, at least {} others", rollout.serving, rollout.min_serving));
    for (name, text) in [
        ("ended", &rollout.ended_at),
        ("reason", &rollout.reason),
        ("waits for", &rollout.waits_for),
        ("driver", &rollout.driver),
    ] {
        if let Some(text) = text {
            page.field(name, printable(text));
        }
    }
    for node in &rollout.nodes {
        page.field("", Line(node));
    }
}
