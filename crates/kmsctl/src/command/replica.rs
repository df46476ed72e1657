//! `kmsctl replica`: invitations by which a new node gets the root keys, and how far it has come.

use std::time::Duration;

use clap::{Args, Subcommand};
use kms_client::KmsUrl;
use kms_client::operator::OperatorUrl;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Audience, Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::when;

const JOINS: &str = "/api/v1/replica-joins";
const REPLY: Reply = Reply {
    max_bytes: 1 << 20,
    unreadable: |url| Failure::failed(format_args!("{url}: the response is not what a KMS sends")),
};
/// Said below a command whose address is a placeholder.
const NEW_NODE: &str = "--kms is the address of the new node's onboarding (core.onboard.port), not of this KMS; run there, \
                        http://127.0.0.1:8000, the token stays on that machine.";
/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How many failures in a row end `watch`: a node may restart meanwhile.
const FAILURES: u32 = 60;

/// Arguments of `kmsctl replica`.
#[derive(Args, Debug)]
pub(crate) struct Replica {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Invite a new node: print the command to run there, and a token that one machine can use once
    Invite(Box<Invite>),
    /// List invitations, newest first
    List(List),
    /// Show an invitation and its command
    Show(One),
    /// Cancel an invitation
    Cancel(One),
    /// Follow an invited node until it serves (exit code 0) or cannot any more (1)
    Watch(One),
}

#[derive(Args, Debug)]
struct Invite {
    /// DNS name or IPv4 address under which CVMs will reach the new node
    #[arg(long)]
    domain: String,
    /// What people call it
    #[arg(long)]
    label: Option<String>,
    /// URL by which the new node reaches this KMS, if that is not its name and the port of its main listener: behind NAT, for example
    #[arg(long, value_name = "URL")]
    source_url: Option<KmsUrl>,
    /// URL of the new node's onboarding, for the command that is printed. Without it the command has a placeholder
    #[arg(long, value_name = "URL")]
    new_node: Option<OperatorUrl>,
    /// End the invitation after this time, at most 15m
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    valid_for: Option<Duration>,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Args, Debug)]
struct One {
    /// The id of the invitation
    id: String,
    #[command(flatten)]
    admin: Administered,
}

/// A new invitation as a KMS shows it.
#[derive(Debug, Serialize, Deserialize)]
struct Invited {
    join: Join,
    token: String,
}

/// An invitation as a KMS shows it. Times are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
struct Join {
    id: String,
    domain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    created_by: String,
    created_at: String,
    expires_at: String,
    state: String,
    over: bool,
    confirmed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_sha256: Option<String>,
    stages: Vec<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    command: String,
    source_root_sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stage {
    stage: String,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denial_id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Joins {
    joins: Vec<Join>,
}

impl Replica {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self.command {
            Command::Invite(invite) => invite.run(terminal).await,
            Command::List(List { admin }) => {
                let listed: Joins = admin.get(terminal, JOINS, REPLY).await?;
                terminal.show(&listed, |page| match listed.joins.is_empty() {
                    true => page.line("There are no invitations."),
                    false => listed.joins.iter().for_each(|join| join.show(page)),
                })?;
                Ok(Exit::Done)
            }
            Command::Show(One { id, admin }) => {
                let join: Join = admin.get(terminal, &at(&id)?, REPLY).await?;
                terminal.show(&join, |page| {
                    join.show(page);
                    page.line("");
                    page.line(printable(&join.command));
                    page.line(NEW_NODE);
                })?;
                Ok(Exit::Done)
            }
            Command::Cancel(One { id, admin }) => {
                let join: Join = admin.delete(terminal, &at(&id)?, REPLY).await?;
                terminal.show(&join, |page| page.line("Cancelled: nobody gets keys by it."))?;
                Ok(Exit::Done)
            }
            Command::Watch(one) => one.watch(terminal).await,
        }
    }
}

impl Invite {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let Self { domain, label, source_url, new_node, valid_for, admin } = self;
        let valid_for = valid_for.map(|span| span.as_secs());
        let source_url = source_url.map(|url| url.to_string());
        let body =
            json!({ "domain": domain, "label": label, "source_url": source_url, "valid_for": valid_for });
        let mut invited: Invited = admin.post(terminal, JOINS, body.to_string().into_bytes(), REPLY).await?;
        let is_named = new_node.is_some();
        if let Some(url) = new_node {
            invited.join.command = naming(&invited.join.command, &url);
        }
        terminal.show(&invited, |page| {
            let Invited { join, token } = &invited;
            join.show(page);
            page.line("");
            page.line("Run this, paste the token, and press Enter and Ctrl-D:");
            page.line(printable(&join.command));
            if !is_named {
                page.line(NEW_NODE);
            }
            page.line("");
            page.line(page.toned(Tone::Good, "Its token, which is shown only now:"));
            page.line(printable(token));
            page.line("");
            page.line(
                "It is for one run of one machine: if that is restarted before it has the keys, or the answer with the keys is lost, \
                 invite it again.",
            );
            page.line(format_args!("Next: kmsctl replica watch {}", printable(&join.id)));
        })?;
        Ok(Exit::Done)
    }
}

impl One {
    async fn watch(self, terminal: &Terminal) -> Outcome {
        let Self { id, admin } = self;
        let path = at(&id)?;
        let mut seen: Vec<Stage> = Vec::new();
        let mut advice = None;
        let (mut failures, mut is_first) = (0, true);
        let join = loop {
            match admin.get::<Join>(terminal, &path, REPLY).await {
                Ok(join) => {
                    failures = 0;
                    if terminal.audience() == Audience::People {
                        if is_first && !join.over {
                            terminal.append(&format!("{}\n", join.awaited()))?;
                        }
                        is_first = false;
                        for stage in join.stages.iter().filter(|stage| !seen.contains(stage)) {
                            terminal.append(&format!("{}\n", stage.line()))?;
                        }
                        let news = join.advice.as_ref().filter(|_| join.advice != advice && !join.over);
                        if let Some(text) = news {
                            terminal.append(&format!("To do: {}\n", printable(text)))?;
                        }
                    }
                    advice.clone_from(&join.advice);
                    seen.clone_from(&join.stages);
                    if join.over {
                        break join;
                    }
                }
                Err(failure) if failure.exit != Exit::Failed || failures >= FAILURES => return Err(failure),
                Err(failure) => {
                    if failures == 0 {
                        terminal.warn(&failure.message);
                    }
                    failures += 1;
                }
            }
            tokio::time::sleep(PAUSE).await;
        };
        let exit = if join.confirmed { Exit::Done } else { Exit::Failed };
        let result = match &*join.state {
            "serving" => "The new node serves.".to_owned(),
            "keys" | "committed" => {
                "The keys were sent, but the new node did not say that it serves: not confirmed.".to_owned()
            }
            state => format!("It is over: {}.", printable(state)),
        };
        terminal.show(&join, |page| {
            page.line(&result);
            join.show_advice(page);
        })?;
        Ok(exit)
    }
}

impl Stage {
    fn line(&self) -> String {
        let Self { stage, at, code, denial_id } = self;
        let why = code.iter().map(|code| format!(": {}", printable(code)));
        let denial = denial_id.iter().map(|id| format!(" (kmsctl denials {})", printable(id)));
        format!("{} {}{}", printable(at), printable(stage), why.chain(denial).collect::<String>())
    }
}

impl Join {
    fn show(&self, page: &mut Page) {
        page.line(format_args!(
            "{} {}: {}",
            printable(&self.id),
            printable(&self.domain),
            printable(&self.state)
        ));
        if let Some(label) = &self.label {
            page.field("label", printable(label));
        }
        page.field(
            "invited",
            format_args!("{} by {}", printable(&self.created_at), printable(&self.created_by)),
        );
        page.field("expires", printable(&self.expires_at));
        for stage in &self.stages {
            page.field("", stage.line());
        }
        if self.over && !self.confirmed && ["keys", "committed"].contains(&&*self.state) {
            page.line(page.toned(Tone::Doubtful, "not confirmed: the new node did not say that it serves"));
        }
        self.show_advice(page);
    }

    /// What `watch` waits for.
    fn awaited(&self) -> String {
        let first = match self.stages.is_empty() {
            true => format!(
                ": first, its command must be run at the new node before {} (kmsctl replica show {})",
                printable(&self.expires_at),
                printable(&self.id)
            ),
            false => String::new(),
        };
        format!("Waiting until {} serves{first}", printable(&self.domain))
    }

    fn show_advice(&self, page: &mut Page) {
        if let Some(advice) = &self.advice {
            page.line(format_args!("To do: {}", printable(advice)));
        }
    }
}

/// The command with the URL of the new node.
fn naming(command: &str, new_node: &OperatorUrl) -> String {
    let url = new_node.to_string();
    let short = url.strip_suffix("/prpc").unwrap_or(&url);
    // An IPv6 address has brackets, which a shell reads otherwise.
    let url = if short.contains('[') { format!("'{short}'") } else { short.to_owned() };
    let mut words: Vec<&str> = command.split(' ').collect();
    if let Some(at) = words.iter().position(|word| *word == "--kms") {
        words.get_mut(at + 1).into_iter().for_each(|word| *word = &url);
    }
    words.join(" ")
}

/// The route about one invitation. Its id goes into a path, so that a text that cannot be one is refused here.
fn at(id: &str) -> Outcome<String> {
    match id.len() == 16 && id.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        true => Ok(format!("{JOINS}/{}", id.to_ascii_lowercase())),
        false => Err(Failure::usage("the id of an invitation is 16 hex digits")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_command_gets_the_address_of_the_new_node() {
        for (command, named) in [
            (
                "kmsctl onboard --kms http://NEW-NODE:8000 --domain a",
                "kmsctl onboard --kms 'http://[::1]:9' --domain a",
            ),
            ("kmsctl onboard --kms", "kmsctl onboard --kms"),
            ("kmsctl onboard", "kmsctl onboard"),
        ] {
            assert_eq!(naming(command, &"http://[::1]:9".parse().unwrap()), named);
        }
    }

    #[test]
    fn watch_says_what_it_waits_for() {
        let join = |stages: Value| -> Join {
            serde_json::from_value(json!({
                "id": "00ff", "domain": "kms2.example", "created_by": "amy", "created_at": "T", "expires_at": "E",
                "state": "invited", "over": false, "confirmed": false, "stages": stages, "command": "c",
                "source_root_sha256": "s",
            }))
            .expect("an invitation")
        };
        let first = ": first, its command must be run at the new node before E (kmsctl replica show 00ff)";
        assert_eq!(join(json!([])).awaited(), format!("Waiting until kms2.example serves{first}"));
        let called = json!([{ "stage": "started", "at": "T" }]);
        assert_eq!(join(called).awaited(), "Waiting until kms2.example serves");
    }
}
