//! `kmsctl cvms`, `releases`, `replicas` and `resolve`: who has received keys, from the audit log of a KMS.

use clap::Args;
use kms_attest::identity::{AppId, DomainName};
use kms_client::operator::OperatorUrl;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::{input, when};

/// The most entries in one response.
const PAGE: usize = 200;
/// The largest response.
const MAX_RESPONSE: usize = 4 << 20;

/// Arguments of `kmsctl cvms`.
#[derive(Args, Debug)]
pub(crate) struct Cvms {
    /// Show this CVM only
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    admin: Administered,
    /// Only CVMs of this app, 20 bytes in hexadecimal
    #[arg(long, value_name = "APP_ID", value_parser = input::app_id)]
    app: Option<AppId>,
    /// Only CVMs with this OS image, in hexadecimal
    #[arg(long, value_name = "HASH")]
    image: Option<String>,
    /// Only CVMs on this machine, in hexadecimal
    #[arg(long, value_name = "DEVICE_ID")]
    device: Option<String>,
    /// Only CVMs with this TCB status, such as UpToDate
    #[arg(long, value_name = "STATUS")]
    tcb: Option<String>,
    /// Only CVMs of this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<DomainName>,
    /// Only CVMs with a release since then: a date, RFC 3339, or a span such as 2h
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    since: Option<String>,
    /// Also those of the other nodes of the fleet: of each the newest hundred at most
    #[arg(long)]
    fleet: bool,
    /// List at most this many, newest first
    #[arg(long, value_name = "NUMBER", default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Arguments of `kmsctl releases`.
#[derive(Args, Debug)]
pub(crate) struct Releases {
    /// Show this release only, with its proof: the number of its record
    #[arg(value_name = "NUMBER")]
    seq: Option<u64>,
    #[command(flatten)]
    admin: Administered,
    /// Only releases to this app, 20 bytes in hexadecimal
    #[arg(long, value_name = "APP_ID", value_parser = input::app_id)]
    app: Option<AppId>,
    /// Only releases by this method: GetAppKey, SignCert or GetKmsKey
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only releases in this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<DomainName>,
    /// Only releases since then: a date, RFC 3339, or a span such as 2h
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    since: Option<String>,
    /// Only releases until then
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    until: Option<String>,
    /// List at most this many, newest first
    #[arg(long, value_name = "NUMBER", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Arguments of `kmsctl replicas`.
#[derive(Args, Debug)]
pub(crate) struct Replicas {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl resolve`.
#[derive(Args, Debug)]
pub(crate) struct Resolve {
    /// The app, 20 bytes in hexadecimal
    #[arg(value_name = "APP_ID", value_parser = input::app_id)]
    app: AppId,
    /// How old the last release may be, such as 12h [default: 90d]
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

impl Cvms {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if let Some(id) = &self.id {
            let cvm = document(&self.admin, terminal, &format!("/api/v1/cvms/{}", digits(id)?)).await?;
            terminal.show(&cvm, |page| fields(page, &cvm))?;
            return Ok(Exit::Done);
        }
        let query = query(&[
            ("app", self.app.map(|AppId(id)| hex::encode(id))),
            ("image", self.image),
            ("device", self.device),
            ("tcb", self.tcb),
            ("domain", self.domain.map(|domain| domain.to_string())),
            ("since", self.since),
            ("fleet", self.fleet.then(|| "true".to_owned())),
        ]);
        let cvms = all(&self.admin, terminal, "cvms", &query, self.limit).await?;
        terminal.show(&cvms, |page| {
            for cvm in &cvms {
                let (releases, last) = (number(cvm, "releases"), text(cvm, "last_at"));
                page.line(format_args!("{}  {releases} releases, last {last}", text(cvm, "id")));
                page.field("  app", text(cvm, "app_id"));
                page.field("  instance", text(cvm, "instance_id"));
                page.field("  OS image", text(cvm, "os_image_hash"));
                page.field("  TCB status", text(cvm, "tcb_status"));
                page.field("  address", text(cvm, "address"));
                page.field("  node", text(cvm, "node"));
            }
            if cvms.is_empty() {
                page.line("No such CVM has received keys from this KMS.");
            }
        })?;
        Ok(Exit::Done)
    }
}

impl Releases {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if let Some(seq) = self.seq {
            let release = document(&self.admin, terminal, &format!("/api/v1/releases/{seq}")).await?;
            terminal.show(&release, |page| fields(page, &release))?;
            return Ok(Exit::Done);
        }
        let query = query(&[
            ("app", self.app.map(|AppId(id)| hex::encode(id))),
            ("method", self.method),
            ("domain", self.domain.map(|domain| domain.to_string())),
            ("since", self.since),
            ("until", self.until),
        ]);
        let releases = all(&self.admin, terminal, "releases", &query, self.limit).await?;
        terminal.show(&releases, |page| {
            for release in &releases {
                let (at, method) = (text(release, "at"), text(release, "method"));
                page.line(format_args!("{}  {at}  {method}", number(release, "seq")));
                page.field("  app", text(release, "app_id"));
                page.field("  instance", text(release, "instance_id"));
                page.field("  TCB status", text(release, "tcb_status"));
                page.field("  address", text(release, "address"));
            }
            if releases.is_empty() {
                page.line("There are no such releases.");
            }
        })?;
        Ok(Exit::Done)
    }
}

impl Replicas {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let replicas = document(&self.admin, terminal, "/api/v1/replicas").await?;
        terminal.show(&replicas, |page| {
            fields(page, &replicas["self"]);
            for handover in replicas["handovers"].as_array().into_iter().flatten() {
                let state = match handover["allowed"].as_bool() {
                    Some(true) => page.toned(Tone::Good, "has received the root keys"),
                    _ => page.toned(Tone::Bad, "was refused"),
                };
                let (count, at) = (number(handover, "count"), text(handover, "at"));
                page.line(format_args!(
                    "{}: {state}, {count} times, last {at}",
                    text(handover, "mr_aggregated")
                ));
                page.field("  device", text(handover, "device_id"));
                page.field("  OS image", text(handover, "os_image_hash"));
                page.field("  address", text(handover, "address"));
            }
        })?;
        Ok(Exit::Done)
    }
}

impl Resolve {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let AppId(app) = self.app;
        let query = query(&[("max_age", self.max_age)]);
        let path = format!("/api/v1/resolve/{}?{query}", hex::encode(app));
        let resolved = document(&self.admin, terminal, &path).await?;
        terminal.show(&resolved, |page| fields(page, &resolved))?;
        Ok(Exit::Done)
    }
}

/// A JSON document of the admin listener.
pub(super) async fn document(admin: &Administered, terminal: &Terminal, path: &str) -> Outcome<Value> {
    let unreadable = |url: &OperatorUrl| Failure::failed(format_args!("{url}: the response is no JSON"));
    admin.get(terminal, path, Reply { max_bytes: MAX_RESPONSE, unreadable }).await
}

/// At most `limit` entries of a paged list.
async fn all(
    admin: &Administered,
    terminal: &Terminal,
    list: &str,
    query: &str,
    limit: u32,
) -> Outcome<Vec<Value>> {
    let admin = admin.one()?;
    let connection = admin.connect(terminal).await?;
    let unreadable = || Failure::failed(format_args!("{}: the response is no list of {list}", admin.url));
    let (mut found, mut cursor) = (Vec::new(), None);
    while found.len() < limit as usize {
        let size = (limit as usize - found.len()).min(PAGE);
        let place = cursor.map(|cursor: u64| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/api/v1/{list}?limit={size}{place}&{query}");
        let document = admin.fetch_on(&connection, &path, MAX_RESPONSE).await?;
        let mut page: Value = document.json().ok_or_else(unreadable)?;
        let Some(Value::Array(entries)) = page.get_mut(list).map(Value::take) else {
            return Err(unreadable());
        };
        found.extend(entries);
        // Without this check, a server with another order could cause endless requests.
        match page["next"].as_u64().filter(|next| cursor.is_none_or(|cursor| *next < cursor)) {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(found)
}

/// The parameters that have a value, as a query string.
pub(super) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    given.map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

fn escaped(value: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    value.bytes().map(escape).collect()
}

/// Checks that `id` has hexadecimal digits only, because it becomes part of a path.
fn digits(id: &str) -> Outcome<&str> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(id).ok_or_else(|| Failure::usage("the id of a CVM has hexadecimal digits only"))
}

/// A text that cannot change how a line looks; empty if it is missing.
pub(super) fn text(value: &Value, key: &str) -> String {
    printable(value[key].as_str().unwrap_or_default())
}

pub(super) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// Each member of an object on a line, those without a value left out.
pub(super) fn fields(page: &mut Page, value: &Value) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) => printable(text),
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(items) if items.iter().all(Value::is_string) => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).map(printable).collect();
                items.join(", ")
            }
            other => json!(other).to_string(),
        };
        page.field(&printable(&key.replace('_', " ")), shown);
    }
}
