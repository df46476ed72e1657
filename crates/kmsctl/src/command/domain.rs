//! `kmsctl domain`: parts of a KMS whose apps have keys of their own.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::freeze::at_each;
use crate::exit::{Failure, Outcome};
use crate::input;
use crate::output::{Page, Terminal, printable};
use crate::person::Person;
use crate::target::{AdminService, Administered};

const DOMAINS: &str = "/api/v1/domains";
/// The largest response: a domain with the most apps.
const MAX_BYTES: usize = 8 << 20;
/// The hint that a change at one node does not change the others.
const OTHERS: &str = "It counts at this KMS only: do the same at each of the others, or replicas give other keys (--admin takes several).";

/// The commands of `kmsctl domain`.
#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// List the domains
    List(Whole),
    /// Show one domain, and the apps that it names
    Show(One),
    /// Make a domain
    Create(Box<Create>),
    /// Let nothing be released in a domain any more
    Archive(One),
    /// Restore an archived domain, whose apps get the same keys again
    Restore(One),
    /// Put an app that has received no keys into a domain
    Assign(Assign),
    /// Move an app to another domain, with other keys
    Move(Move),
}

/// Arguments of `kmsctl domain list`.
#[derive(Args, Debug)]
pub(crate) struct Whole {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments about one domain.
#[derive(Args, Debug)]
pub(crate) struct One {
    /// Name of the domain
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl domain create`.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the domain: up to 24 characters of a-z, 0-9, `.` and `-`
    #[arg(value_name = "NAME")]
    name: String,
    /// Admit only guests that nobody can log in to
    #[arg(long)]
    sealed: bool,
    /// Give each instance an app key and an app CA of its own
    #[arg(long)]
    instance_scoped: bool,
    /// Admit OS images for development
    #[arg(long)]
    allow_dev_images: bool,
    /// Admit only this TCB status, such as UpToDate; repeat it for several
    #[arg(long, value_name = "STATUS")]
    tcb_status: Vec<String>,
    /// Admit only this machine; repeat it for several
    #[arg(long, value_name = "ID")]
    device: Vec<String>,
    /// Admit only this OS image; repeat it for several
    #[arg(long, value_name = "HASH")]
    os_image: Vec<String>,
    /// The epoch of the root keys of its apps: current, or a number
    #[arg(long, value_name = "EPOCH")]
    default_epoch: Option<String>,
    /// Which of its apps must bring fresh evidence: off, apps or all
    #[arg(long, value_name = "WHICH")]
    require_fresh: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl domain assign`.
#[derive(Args, Debug)]
pub(crate) struct Assign {
    /// Id of the app in hexadecimal
    #[arg(value_name = "APP", value_parser = input::decode)]
    app: std::vec::Vec<u8>,
    /// Name of the domain
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl domain move`.
#[derive(Args, Debug)]
pub(crate) struct Move {
    /// Id of the app in hexadecimal
    #[arg(value_name = "APP", value_parser = input::decode)]
    app: std::vec::Vec<u8>,
    /// Name of the domain that it comes to
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not ask, although the app loses its keys
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    domains: Vec<Shown>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    name: String,
    source: String,
    created_at: Option<String>,
    created_by: Option<String>,
    archived_at: Option<String>,
    archived_by: Option<String>,
    rules: Value,
    refuses_dev_images: bool,
    own_policy: bool,
    policy_kind: Option<String>,
    policy_sha256: Option<String>,
    apps: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Detail {
    #[serde(flatten)]
    domain: Shown,
    members: Vec<Member>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Member {
    app_id: String,
    source: String,
    since: Option<String>,
    by: Option<String>,
}

/// What became of an app.
#[derive(Debug, Serialize, Deserialize)]
struct Placed {
    app_id: String,
    domain: String,
    previous_domain: String,
    changed: bool,
    loses: Option<Lost>,
    message: String,
}

/// The keys that an app loses.
#[derive(Debug, Serialize, Deserialize)]
struct Lost {
    domain: String,
    keys: Vec<String>,
    cvms: u64,
    /// An older KMS does not say it.
    #[serde(default)]
    maybe: u64,
    first_at: Option<String>,
    last_at: Option<String>,
    covers_since: Option<String>,
    /// Absent of an older KMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
}

impl Domain {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::List(Whole { admin }) => list(&admin, terminal).await,
            Self::Show(One { name, admin }) => show(&admin, terminal, &one(&name)?).await,
            Self::Create(create) => create.run(terminal).await,
            Self::Archive(One { name, admin }) => {
                post(&admin, terminal, format!("{}/archive", one(&name)?), None, detail).await
            }
            Self::Restore(One { name, admin }) => {
                post(&admin, terminal, format!("{}/restore", one(&name)?), None, detail).await
            }
            Self::Assign(Assign { app, name, admin }) => {
                let body = json!({ "app_id": app_id(&app)? });
                post(&admin, terminal, format!("{}/apps", one(&name)?), Some(body), placed).await
            }
            Self::Move(command) => command.run(terminal).await,
        }
    }
}

async fn list(admin: &Administered, terminal: &Terminal) -> Outcome {
    let call = async |admin: AdminService<'_>| fetch::<List>(admin, terminal, DOMAINS).await;
    let show = |page: &mut Page, list: &List| list.domains.iter().for_each(|shown| entry(page, shown));
    at_each(admin, terminal, call, show, "").await
}

async fn show(admin: &Administered, terminal: &Terminal, path: &str) -> Outcome {
    let call = async |admin: AdminService<'_>| fetch::<Detail>(admin, terminal, path).await;
    at_each(admin, terminal, call, detail, "").await
}

impl Create {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let mut rules = json!({});
        let flags = [("sealed", self.sealed), ("instance_scoped", self.instance_scoped)];
        for (key, _) in flags.into_iter().filter(|(_, is_set)| *is_set) {
            rules[key] = true.into();
        }
        if self.allow_dev_images {
            rules["allow_dev_images"] = true.into();
        }
        let lists =
            [("tcb_statuses", self.tcb_status), ("devices", self.device), ("os_images", self.os_image)];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            rules[key] = list.into();
        }
        if let Some(epoch) = self.default_epoch {
            rules["default_epoch"] = epoch.parse::<u32>().map_or_else(|_| epoch.into(), Into::into);
        }
        if let Some(which) = self.require_fresh {
            rules["require_fresh"] = which.into();
        }
        let body = json!({ "name": self.name, "rules": rules });
        post(&self.admin, terminal, DOMAINS.to_owned(), Some(body), detail).await
    }
}

impl Move {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let path = format!("{}/apps/{}/move", one(&self.name)?, app_id(&self.app)?);
        if !self.yes {
            self.confirm(terminal, &path).await?;
        }
        post(&self.admin, terminal, path, None, placed).await
    }

    /// Shows what the app would lose, and continues only if the user confirms.
    async fn confirm(&self, terminal: &Terminal, path: &str) -> Outcome<()> {
        let body = json!({ "preview": true }).to_string();
        for admin in self.admin.each() {
            let told: Placed = send(admin, terminal, path, body.clone().into_bytes()).await?;
            terminal.note(format_args!("{}: {}", admin.url, printable(&told.message)));
        }
        let person =
            Person::needed("the app gets other keys, and there is no terminal to confirm it: use --yes")?;
        person.must_confirm("Move the app now", "nothing was moved")
    }
}

async fn post<A: Serialize + for<'a> Deserialize<'a>>(
    admin: &Administered,
    terminal: &Terminal,
    path: String,
    body: Option<Value>,
    show: impl Fn(&mut Page, &A),
) -> Outcome {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let call =
        async |admin: AdminService<'_>| send::<A>(admin, terminal, &path, body.clone().into_bytes()).await;
    at_each(admin, terminal, call, show, OTHERS).await
}

async fn send<A: for<'a> Deserialize<'a>>(
    admin: AdminService<'_>,
    terminal: &Terminal,
    path: &str,
    body: Vec<u8>,
) -> Outcome<A> {
    let connection = admin.connect(terminal).await?;
    let told = admin.post_on(&connection, path, body, MAX_BYTES).await?;
    told.json().ok_or_else(|| unreadable(admin))
}

async fn fetch<A: for<'a> Deserialize<'a>>(
    admin: AdminService<'_>,
    terminal: &Terminal,
    path: &str,
) -> Outcome<A> {
    let connection = admin.connect(terminal).await?;
    let told = admin.fetch_on(&connection, path, MAX_BYTES).await?;
    told.json().ok_or_else(|| unreadable(admin))
}

/// The path of one domain.
fn one(name: &str) -> Outcome<String> {
    let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    match name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|letter| is_plain(letter) || b"-.".contains(&letter))
    {
        true => Ok(format!("{DOMAINS}/{name}")),
        false => Err(Failure::usage(
            "the name of a domain has lower-case letters, digits, '-' and '.', and begins with a letter or a digit",
        )),
    }
}

fn app_id(app: &[u8]) -> Outcome<String> {
    match app.len() {
        20 => Ok(hex::encode(app)),
        length => Err(Failure::usage(format_args!("the id of an app must be 20 bytes, got {length}"))),
    }
}

fn unreadable(admin: AdminService<'_>) -> Failure {
    Failure::failed(format_args!("{}: the response is not what a KMS sends about domains", admin.url))
}

fn entry(page: &mut Page, shown: &Shown) {
    page.line(format_args!("domain {}", printable(&shown.name)));
    let made = match (&shown.created_at, &shown.created_by) {
        (Some(at), Some(by)) => format!("made {} by {}", printable(at), printable(by)),
        _ => "the configuration".to_owned(),
    };
    page.field("  source", made);
    if let (Some(at), Some(by)) = (&shown.archived_at, &shown.archived_by) {
        page.field("  archived", format_args!("{} by {}", printable(at), printable(by)));
    }
    let kind = shown.policy_kind.as_deref().map(|kind| format!(", {}", printable(kind))).unwrap_or_default();
    page.field(
        "  policy",
        format_args!("{}{kind}", if shown.own_policy { "its own" } else { "that of the KMS" }),
    );
    if let Some(digest) = &shown.policy_sha256 {
        page.field("  policy digest", printable(digest));
    }
    for (key, value) in shown.rules.as_object().into_iter().flatten() {
        page.field(&format!("  {}", printable(key)), printable(&value.to_string()));
    }
    if shown.refuses_dev_images {
        page.field("  images", "those for development are refused");
    }
    page.field("  apps named", shown.apps);
}

fn detail(page: &mut Page, detail: &Detail) {
    entry(page, &detail.domain);
    for Member { app_id, since, by, .. } in &detail.members {
        let from = match (since, by) {
            (Some(since), Some(by)) => format!("since {} by {}", printable(since), printable(by)),
            _ => "by the configuration".to_owned(),
        };
        page.line(format_args!("  app {}  {from}", printable(app_id)));
    }
}

fn placed(page: &mut Page, placed: &Placed) {
    page.line(format_args!("app {}", printable(&placed.app_id)));
    page.field("  domain", printable(&placed.domain));
    if placed.changed {
        page.field("  before", printable(&placed.previous_domain));
    }
    page.line(format_args!("  {}", printable(&placed.message)));
}
