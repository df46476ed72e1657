//! `kmsctl epoch list`, `show`, `prepare`, `activate`, `retire`, `destroy` and `fetch`: the epochs of the root keys.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kms_client::operator::OperatorUrl;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::apps::{self, APPS, Listed};
use crate::command::freeze::at_each;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::person::Person;
use crate::target::{AdminService, Administered, Reply, token_in};
use crate::when;

const EPOCHS: &str = "/api/v1/epochs";
const REPLY: Reply = Reply {
    max_bytes: 4 << 20,
    unreadable: |url| {
        Failure::failed(format_args!("{url}: the response is not what a KMS sends about epochs"))
    },
};
const APPS_REPLY: Reply = Reply { max_bytes: apps::MAX_BYTES, unreadable: REPLY.unreadable };
/// With several KMSs, all must know the time before it comes.
const LEAST_LEAD: u64 = 60;

/// Arguments of `kmsctl epoch list` and `prepare`.
#[derive(Args, Debug)]
pub(crate) struct All {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch show`.
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// Its number
    epoch: u32,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch retire` and `destroy`.
#[derive(Args, Debug)]
pub(crate) struct End {
    /// Its number
    epoch: u32,
    /// Do not ask on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch activate`.
#[derive(Args, Debug)]
pub(crate) struct Activate {
    /// Its number
    epoch: u32,
    /// From when on, as a date, RFC 3339, or a time ahead such as 2h; default: at once
    #[arg(long, value_name = "TIME", value_parser = when::ahead)]
    at: Option<u64>,
    /// Admin listeners of the other KMSs, with the same token: all must have prepared the same keys before any is told
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    nodes: Vec<OperatorUrl>,
    /// Id of a replica that does not have the epoch and is left out, as `kmsctl replicas` shows it
    #[arg(long, value_name = "ID")]
    except: Vec<String>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch fetch`.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// URL of a KMS that has the epochs: of its main listener, or with --source-token-file of its admin listener
    #[arg(long, value_name = "URL")]
    source: String,
    /// File with the token of an operator there
    #[arg(long, value_name = "FILE")]
    source_token_file: Option<PathBuf>,
    /// Id of a replica that lacks an epoch that is in force at the source, and is left out
    #[arg(long, value_name = "ID")]
    except: Vec<String>,
    /// For apps whose epochs operators chose differently here and there, take the choice of the source; otherwise the choice that
    /// was made here stays
    #[arg(long)]
    take_app_epochs: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch accept`.
#[derive(Args, Debug)]
pub(crate) struct Accept {
    /// `lost-epochs`: the key directory is older than the audit log, and nothing newer exists; `app-epochs`: the epochs chosen for
    /// apps are complete after a restore
    what: Accepted,
    /// Do not ask on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: Administered,
}

/// What is accepted.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Accepted {
    LostEpochs,
    AppEpochs,
}

/// What a KMS says of its epochs.
#[derive(Debug, Serialize, Deserialize)]
struct Epochs {
    current: u32,
    identity: u32,
    next_identity: u32,
    restart_required: bool,
    epochs: Vec<Epoch>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Epoch {
    epoch: u32,
    state: String,
    is_current: bool,
    is_identity: bool,
    prepared_at: Option<String>,
    active_from: Option<String>,
    retired_at: Option<String>,
    destroyed_at: Option<String>,
    ca_fingerprint: String,
    k256_fingerprint: String,
    apps_staying: u64,
    replicas_without: Option<Vec<String>>,
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Preview {
    #[serde(flatten)]
    epoch: Epoch,
    cvms_30d: u64,
    apps_30d: u64,
    warnings: Vec<String>,
    not_retirable: Option<String>,
    not_destroyable: Option<String>,
}

impl All {
    /// `kmsctl epoch list`
    pub(crate) async fn list(self, terminal: &Terminal) -> Outcome {
        at_each(&self.admin, terminal, async |admin| get(admin, terminal, EPOCHS).await, page_of, "").await
    }

    /// `kmsctl epoch prepare`
    pub(crate) async fn prepare(self, terminal: &Terminal) -> Outcome {
        let told: Epochs = self.admin.post(terminal, EPOCHS, Vec::new(), REPLY).await?;
        terminal.show(&told, |page| {
            page_of(page, &told);
            page.line(
                "Let every replica fetch it (kmsctl epoch fetch), then activate it (kmsctl epoch activate).",
            );
        })?;
        Ok(Exit::Done)
    }
}

impl Show {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let preview: Preview = self.admin.get(terminal, &format!("{EPOCHS}/{}", self.epoch), REPLY).await?;
        terminal.show(&preview, |page| page_of_preview(page, &preview))?;
        Ok(Exit::Done)
    }
}

impl End {
    /// `kmsctl epoch retire`
    pub(crate) async fn retire(self, terminal: &Terminal) -> Outcome {
        self.run(terminal, "retire", "Retire it: nobody gets its keys any more, which is final").await
    }

    /// `kmsctl epoch destroy`
    pub(crate) async fn destroy(self, terminal: &Terminal) -> Outcome {
        self.run(terminal, "destroy", "Destroy it: its keys are overwritten on this KMS").await
    }

    async fn run(self, terminal: &Terminal, verb: &str, question: &str) -> Outcome {
        let path = format!("{EPOCHS}/{}", self.epoch);
        if !self.yes {
            let person =
                Person::needed("this cannot be undone, and there is no terminal to confirm it: use --yes")?;
            let preview: Preview = self.admin.get(terminal, &path, REPLY).await?;
            for warning in &preview.warnings {
                terminal.note(printable(warning));
            }
            person.must_confirm(question, "nothing was changed")?;
        }
        let told: Epochs = self.admin.post(terminal, &format!("{path}/{verb}"), Vec::new(), REPLY).await?;
        terminal.show(&told, |page| page_of(page, &told))?;
        Ok(Exit::Done)
    }
}

impl Accept {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let (what, question) = match self.what {
            Accepted::LostEpochs => (
                "lost_epochs",
                "Accept it: the audit log knows epochs or their ends that this KMS does not, and nothing newer exists",
            ),
            Accepted::AppEpochs => {
                ("app_epochs", "The epochs chosen for apps (kmsctl epoch apps) are complete")
            }
        };
        if !self.yes {
            let person = Person::needed("there is no terminal to confirm it: use --yes")?;
            person.must_confirm(question, "nothing was changed")?;
        }
        let body = json!({ "what": what }).to_string().into_bytes();
        let told: Epochs = self.admin.post(terminal, &format!("{EPOCHS}/accept"), body, REPLY).await?;
        terminal.show(&told, |page| page_of(page, &told))?;
        Ok(Exit::Done)
    }
}

impl Activate {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let Self { epoch, at, nodes, except, admin } = self;
        let first = admin.one()?;
        let all: Vec<AdminService<'_>> =
            [first].into_iter().chain(nodes.iter().map(|url| admin.at(url))).collect();
        if all.len() > 1 && at.is_none_or(|at| at < when::now() + LEAST_LEAD) {
            return Err(Failure::usage(format_args!(
                "with --nodes the epoch needs a time at which all of them begin together: --at, at least {LEAST_LEAD} s ahead"
            )));
        }
        // All are asked before any is told.
        let mut seen: Option<(String, String)> = None;
        for node in &all {
            let told: Epochs = get(*node, terminal, EPOCHS).await?;
            let Some(found) = told.epochs.into_iter().find(|found| found.epoch == epoch) else {
                return Err(Failure::refused(format_args!(
                    "{}: has no epoch {epoch}; nothing was changed",
                    node.url
                )));
            };
            if found.state != "prepared" {
                let state = printable(&found.state);
                let text =
                    format!("{}: epoch {epoch} is {state}, not prepared; nothing was changed", node.url);
                return Err(Failure::refused(text));
            }
            let keys = (found.ca_fingerprint, found.k256_fingerprint);
            if seen.get_or_insert_with(|| keys.clone()) != &keys {
                let text = format!(
                    "{}: epoch {epoch} has other keys than at {}; nothing was changed",
                    node.url, first.url
                );
                return Err(Failure::refused(text));
            }
            // Only the first one knows the replicas that are left out.
            let left_out: &[String] = if node.url == first.url { &except } else { &[] };
            lacking(*node, epoch, found.replicas_without.as_deref(), left_out)?;
        }
        let mut body = json!({ "except": except });
        if let Some(at) = at {
            body["at"] = at.into();
        }
        let mut told = Vec::new();
        for node in &all {
            // Only this KMS knows those replicas.
            let body = if node.url == first.url { body.clone() } else { json!({ "at": at }) };
            let answer = post(*node, terminal, &format!("{EPOCHS}/{epoch}/activate"), body).await;
            told.push((node.url, answer));
        }
        let worst = told.iter().filter_map(|(_, told)| told.as_ref().err()).map(|failure| failure.exit).max();
        let report: Vec<_> = told
            .iter()
            .map(|(url, told)| match told {
                Ok(told) => json!({ "admin": url.to_string(), "answer": told }),
                Err(failure) => {
                    json!({ "admin": url.to_string(), "error": failure.message, "exit": failure.exit as u8 })
                }
            })
            .collect();
        let done = told.iter().filter(|(_, told)| told.is_ok()).count();
        if let Some(worst) = worst
            && done > 0
        {
            let urls = |is_done: bool| {
                let urls = told.iter().filter(|(_, told)| told.is_ok() == is_done);
                urls.map(|(url, _)| url.to_string()).collect::<Vec<_>>().join(", ")
            };
            terminal.warn(format_args!(
                "epoch {epoch} was activated at {done} of {} KMSs only ({}), and not at {} (exit code {}): activate it there \
                 with the same --at before that time comes",
                told.len(),
                urls(true),
                urls(false),
                worst as u8
            ));
        }
        terminal.show(&report, |page| {
            for (url, told) in &told {
                page.line(url);
                match told {
                    Ok(told) => page_of(page, told),
                    Err(failure) => {
                        let failed = page.toned(Tone::Bad, "NOT ACTIVATED");
                        page.line(format_args!("{failed}: {}", failure.message));
                    }
                }
            }
        })?;
        Ok(worst.unwrap_or(Exit::Done))
    }
}

impl Fetch {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let mut body = json!({ "source_url": self.source });
        if !self.except.is_empty() {
            body["except"] = json!(self.except);
        }
        if let Some(path) = &self.source_token_file {
            body["source_token"] = token_in(path)?.expose().into();
        }
        if self.take_app_epochs {
            body["app_epochs"] = "received".into();
        }
        let body = body.to_string().into_bytes();
        let told: Epochs = self.admin.post(terminal, &format!("{EPOCHS}/fetch"), body, REPLY).await?;
        let apps: Listed = self.admin.get(terminal, APPS, APPS_REPLY).await?;
        let mut answer = serde_json::to_value(&told).unwrap_or_default();
        answer["app_epochs_received"] = serde_json::to_value(&apps.received).unwrap_or_default();
        terminal.show(&answer, |page| {
            page_of(page, &told);
            match &apps.received {
                Some(received) => received.write(page),
                None => page.line("The source does not tell which epochs operators chose for apps."),
            }
        })?;
        Ok(Exit::Done)
    }
}

/// Checks that no replica of a KMS lacks the epoch by what it says, except those that are left out.
fn lacking(
    node: AdminService<'_>,
    epoch: u32,
    without: Option<&[String]>,
    left_out: &[String],
) -> Outcome<()> {
    let Some(without) = without else {
        let text = format!(
            "{}: does not know now which of its replicas lack epoch {epoch}; nothing was changed",
            node.url
        );
        return Err(Failure::failed(text));
    };
    let lacking: Vec<&str> = without.iter().filter(|id| !left_out.contains(id)).map(String::as_str).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format_args!(
        "{}: replicas lack epoch {epoch}: {}; let them fetch it, or activate it there alone with --except; nothing was changed",
        node.url,
        printable(&lacking.join(", "))
    )))
}

async fn get(admin: AdminService<'_>, terminal: &Terminal, path: &str) -> Outcome<Epochs> {
    let connection = admin.connect(terminal).await?;
    let document = admin.fetch_on(&connection, path, REPLY.max_bytes).await?;
    document.json().ok_or_else(|| (REPLY.unreadable)(admin.url))
}

async fn post(admin: AdminService<'_>, terminal: &Terminal, path: &str, body: Value) -> Outcome<Epochs> {
    let connection = admin.connect(terminal).await?;
    let body = body.to_string().into_bytes();
    let document = admin.post_on(&connection, path, body, REPLY.max_bytes).await?;
    document.json().ok_or_else(|| (REPLY.unreadable)(admin.url))
}

fn page_of(page: &mut Page, told: &Epochs) {
    for epoch in &told.epochs {
        entry(page, epoch);
    }
    if told.restart_required {
        let text = format!(
            "It signs with epoch {} until it starts again, then with epoch {}.",
            told.identity, told.next_identity
        );
        page.line(page.toned(Tone::Doubtful, &text));
    }
}

fn entry(page: &mut Page, epoch: &Epoch) {
    let marks = match (epoch.is_current, epoch.is_identity) {
        (true, true) => ", current, signs",
        (true, false) => ", current",
        (false, true) => ", signs",
        (false, false) => "",
    };
    page.line(format_args!("epoch {}: {}{marks}", epoch.epoch, printable(&epoch.state)));
    for (name, time) in [
        ("  made", &epoch.prepared_at),
        ("  in force from", &epoch.active_from),
        ("  retired", &epoch.retired_at),
        ("  destroyed", &epoch.destroyed_at),
    ] {
        page.field(name, printable(time.as_deref().unwrap_or_default()));
    }
    page.field("  sha256", printable(&epoch.k256_fingerprint));
    if epoch.apps_staying > 0 {
        page.field("  apps staying", epoch.apps_staying);
    }
    match &epoch.replicas_without {
        Some(without) if !without.is_empty() => {
            page.field("  not at replicas", printable(&without.join(", ")))
        }
        _ => {}
    }
}

fn page_of_preview(page: &mut Page, preview: &Preview) {
    entry(page, &preview.epoch);
    page.field("  CVMs, 30 days", format_args!("{} of {} apps", preview.cvms_30d, preview.apps_30d));
    for warning in &preview.warnings {
        page.line(page.toned(Tone::Doubtful, &printable(warning)));
    }
    for (name, reason) in
        [("  cannot retire", &preview.not_retirable), ("  cannot destroy", &preview.not_destroyable)]
    {
        page.field(name, printable(reason.as_deref().unwrap_or_default()));
    }
}
