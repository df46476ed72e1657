//! `kmsctl epoch apps`, `follow`, `stay` and `forget`: which epochs the keys of one app are of.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::command::freeze::at_each;
use crate::exit::{Failure, Outcome};
use crate::input;
use crate::output::{Page, Terminal, printable};
use crate::target::{ADMIN_TIME, AdminService, Administered};

pub(super) const APPS: &str = "/api/v1/epochs/apps";
/// The largest response: a list of the most apps.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// The hint that a change at one node does not change the others.
const OTHERS: &str = "It counts at this KMS until the others of the cluster fetch it (kmsctl epoch fetch), or choose the same at each \
                      of them (--admin takes several). A recovery set has the choices of the time at which it was made.";

/// Arguments of `kmsctl epoch apps`.
#[derive(Args, Debug)]
pub(crate) struct Apps {
    /// Only this app: its id in hexadecimal
    #[arg(value_name = "APP", value_parser = input::decode)]
    app: Option<std::vec::Vec<u8>>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch follow`.
#[derive(Args, Debug)]
pub(crate) struct Follow {
    #[command(flatten)]
    app: One,
    /// The epoch of the app itself; default: as it is
    #[arg(long, value_name = "NUMBER")]
    app_epoch: Option<u32>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch stay`.
#[derive(Args, Debug)]
pub(crate) struct Stay {
    #[command(flatten)]
    app: One,
    /// The epoch of the root keys to stay at
    #[arg(long, value_name = "NUMBER")]
    root_epoch: u32,
    /// The epoch of the app itself; default: as it is
    #[arg(long, value_name = "NUMBER")]
    app_epoch: Option<u32>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl epoch forget`.
#[derive(Args, Debug)]
pub(crate) struct Forget {
    #[command(flatten)]
    app: One,
    #[command(flatten)]
    admin: Administered,
}

/// One app.
#[derive(Args, Debug)]
struct One {
    /// Id of the app in hexadecimal
    #[arg(value_name = "APP", value_parser = input::decode)]
    app: std::vec::Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    apps: Vec<Shown>,
    /// What came from another KMS last; absent from older versions.
    #[serde(default)]
    pub(super) received: Option<Received>,
}

/// Choices that came from another KMS.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Received {
    source: String,
    at: String,
    changed: usize,
    differing: Vec<Difference>,
}

/// An app whose epochs are chosen differently here and there.
#[derive(Debug, Serialize, Deserialize)]
struct Difference {
    app_id: String,
    own: Option<String>,
    received: Option<String>,
}

impl Received {
    /// Writes it for people.
    pub(super) fn write(&self, page: &mut Page) {
        page.line(format_args!(
            "Epochs of apps from {}, {}: {} changed here",
            printable(&self.source),
            printable(&self.at),
            self.changed
        ));
        let nobody = |chosen: &Option<String>| {
            chosen.as_deref().map_or("no choice".to_owned(), |it| printable(it).to_string())
        };
        for it in &self.differing {
            page.line(format_args!(
                "  app {}: {} here stays, {} there",
                printable(&it.app_id),
                nobody(&it.own),
                nobody(&it.received)
            ));
        }
        if !self.differing.is_empty() {
            page.line("  The choices here stay, unless kmsctl epoch fetch has --take-app-epochs.");
        }
    }
}

/// What an operator chose for an app.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    app_id: String,
    chosen: bool,
    follows: bool,
    root_epoch: Option<u32>,
    app_epoch: Option<u32>,
    since: Option<String>,
    by: Option<String>,
}

/// What is asked for.
enum Change {
    Put(Vec<u8>),
    Delete,
}

impl Apps {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let path = match &self.app {
            Some(app) => path(app)?,
            None => APPS.to_owned(),
        };
        let only_one = self.app.is_some();
        let call = async |admin: AdminService<'_>| {
            let connection = admin.connect(terminal).await?;
            let document = admin.fetch_on(&connection, &path, MAX_BYTES).await?;
            let listed = match only_one {
                true => document.json().map(|shown| Listed { apps: vec![shown], received: None }),
                false => document.json(),
            };
            listed.ok_or_else(|| unreadable(admin))
        };
        let show = |page: &mut Page, listed: &Listed| {
            listed.apps.iter().for_each(|shown| entry(page, shown));
            if listed.apps.is_empty() {
                page.line("No operator chose the epochs of an app here: the policy says them.");
            }
            if let Some(received) = &listed.received {
                received.write(page);
            }
        };
        at_each(&self.admin, terminal, call, show, "").await
    }
}

impl Follow {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let mut body = json!({ "root_epoch": "current" });
        if let Some(epoch) = self.app_epoch {
            body["app_epoch"] = epoch.into();
        }
        change(&self.admin, terminal, &self.app, Change::Put(body.to_string().into_bytes())).await
    }
}

impl Stay {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let mut body = json!({ "root_epoch": self.root_epoch });
        if let Some(epoch) = self.app_epoch {
            body["app_epoch"] = epoch.into();
        }
        change(&self.admin, terminal, &self.app, Change::Put(body.to_string().into_bytes())).await
    }
}

impl Forget {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        change(&self.admin, terminal, &self.app, Change::Delete).await
    }
}

async fn change(admin: &Administered, terminal: &Terminal, app: &One, change: Change) -> Outcome {
    let path = path(&app.app)?;
    let call = async |admin: AdminService<'_>| {
        let connection = admin.connect(terminal).await?;
        let document = match &change {
            Change::Put(body) => connection.put(ADMIN_TIME, &path, body.clone(), MAX_BYTES).await,
            Change::Delete => connection.delete(ADMIN_TIME, &path, MAX_BYTES).await,
        };
        let document = match document {
            Ok(document) => document,
            Err(error) => return Err(admin.failure(error)?),
        };
        document.json::<Shown>().ok_or_else(|| unreadable(admin))
    };
    at_each(admin, terminal, call, entry, OTHERS).await
}

/// The path of one app.
fn path(app: &[u8]) -> Outcome<String> {
    match app.len() {
        20 => Ok(format!("{APPS}/{}", hex::encode(app))),
        length => Err(Failure::usage(format_args!("the id of an app must be 20 bytes, got {length}"))),
    }
}

fn unreadable(admin: AdminService<'_>) -> Failure {
    Failure::failed(format_args!("{}: the response is not what a KMS sends about epochs", admin.url))
}

fn entry(page: &mut Page, shown: &Shown) {
    page.line(format_args!("app {}", printable(&shown.app_id)));
    let root = match (shown.chosen, shown.follows, shown.root_epoch) {
        (false, ..) => "as the policy says; 0 where it says nothing".to_owned(),
        (true, true, _) => "the current one".to_owned(),
        (true, false, epoch) => epoch.map_or_else(|| "unknown".to_owned(), |epoch| epoch.to_string()),
    };
    page.field("  root epoch", root);
    if let Some(epoch) = shown.app_epoch {
        page.field("  app epoch", epoch);
    }
    if let (Some(since), Some(by)) = (&shown.since, &shown.by) {
        page.field("  chosen", format_args!("{} by {}", printable(since), printable(by)));
    }
}
