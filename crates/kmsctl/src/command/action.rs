//! `kmsctl action`: the actions of a KMS, such as drain and undrain.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const ACTIONS: &str = "/api/v1/actions";
/// The largest response.
const REPLY: Reply = Reply {
    max_bytes: 64 << 10,
    unreadable: |url| {
        Failure::failed(format_args!("{url}: the response is not what a KMS sends about actions"))
    },
};

/// The commands of `kmsctl action`.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List the actions, and how each ended last
    List(List),
    /// Run an action and wait for its end
    Run(Run),
}

/// Arguments of `kmsctl action list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl action run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Its name, as `kmsctl action list` shows it
    name: String,
    /// The node of the fleet to drain or undrain, by its name or id, instead of the one that is asked
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct Actions {
    actions: Vec<Listed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    description: String,
    role: String,
    running: bool,
    last: Option<Last>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Last {
    at: String,
    ok: bool,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {
    name: String,
    ok: bool,
    message: String,
    took_ms: u64,
    /// Whether the other nodes of a fleet know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
}

impl Action {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::List(List { admin }) => list(&admin, terminal).await,
            Self::Run(Run { name, node, admin }) => run(&admin, terminal, &name, node.as_deref()).await,
        }
    }
}

async fn list(admin: &Administered, terminal: &Terminal) -> Outcome {
    let actions: Actions = admin.get(terminal, ACTIONS, REPLY).await?;
    terminal.show(&actions, |page| {
        for Listed { name, description, running, last, .. } in &actions.actions {
            page.line(format_args!("{}: {}", printable(name), printable(description)));
            if *running {
                page.field("state", "running");
            }
            if let Some(Last { at, ok, message }) = last {
                let (tone, word) = if *ok { (Tone::Good, "done") } else { (Tone::Bad, "failed") };
                page.field(
                    "last",
                    format_args!("{} {}: {}", page.toned(tone, word), printable(at), printable(message)),
                );
            }
        }
    })?;
    Ok(Exit::Done)
}

async fn run(admin: &Administered, terminal: &Terminal, name: &str, node: Option<&str>) -> Outcome {
    // It goes into a path.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
        return Err(Failure::usage("an action's name has lower-case letters and '-' only"));
    }
    let body = match node {
        Some(node) if ["drain", "undrain"].contains(&name) => {
            json!({ "node": node }).to_string().into_bytes()
        }
        Some(_) => return Err(Failure::usage("only drain and undrain take --node")),
        None => Vec::new(),
    };
    let done: Done = admin.post(terminal, &format!("{ACTIONS}/{name}"), body, REPLY).await?;
    if !done.ok {
        return Err(Failure::failed("the response does not say that it is done"));
    }
    terminal.show(&done, |page| page.line(format_args!("Done: {}.", printable(&done.message))))?;
    Ok(Exit::Done)
}
