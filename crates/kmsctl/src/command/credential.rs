//! `kmsctl credential`: named credentials of operators, with roles.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use kms_client::Role;
use kms_client::resource::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;
use crate::when;

const CREDENTIALS: &str = "/api/v1/credentials";
const ME: &str = "/api/v1/me";
const BASIC_AUTH: &str = "/api/v1/set-basic-auth";
/// The longest secret that a KMS takes, with a line break.
const MAX_SECRET: usize = 258;
/// The largest response: a list of a thousand credentials.
const MAX_RESPONSE: usize = 1 << 20;

/// The commands of `kmsctl credential`.
#[derive(Debug, Subcommand)]
pub(crate) enum Credential {
    /// Create a credential and print its token, which is shown only now
    Create(Create),
    /// List all credentials, without secrets
    List(List),
    /// Replace the secret of a credential and print the new token
    Rotate(Named),
    /// Revoke a credential, from now on
    Revoke(Named),
    /// Exchange an invitation, given as the token of this command, for a credential
    Activate(List),
    /// Set the secret of the owner `admin`, for `curl --user admin:SECRET`
    SetBasicAuth(Chosen),
    /// Show the credential that this command uses, and what it may do
    Whoami(List),
}

/// The roles, each with what it may do.
fn roles() -> impl TypedValueParser<Value = Role> {
    let described = |role: Role| {
        PossibleValue::new(role.name()).help(match role {
            Role::Owner => "Everything: lift freezes, hand root keys to replicas, manage credentials",
            Role::Operator => "Change what can be taken back: freezes, shadow policies, caches",
            Role::Auditor => "Read the audit log with its proofs too",
            Role::Viewer => "Read state, events and denials",
            Role::EventsWriter => "Report events, and read nothing",
        })
    };
    PossibleValuesParser::new(Role::ALL.into_iter().rev().map(described)).try_map(|name| name.parse::<Role>())
}

/// Arguments of `kmsctl credential create`.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Lower-case letters, digits, `-` and `.`
    name: String,
    /// What its holder may do
    #[arg(long, value_parser = roles())]
    role: Role,
    /// End it after this time, such as 8h or 90d
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    expires: Option<std::time::Duration>,
    /// Limit it to this domain; without it the credential is for the whole KMS
    #[arg(long)]
    domain: Option<String>,
    /// Print an invitation instead: a token that its holder exchanges for the credential within 15 minutes
    #[arg(long)]
    invite: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of the commands about all credentials.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl credential set-basic-auth`.
#[derive(Args, Debug)]
pub(crate) struct Chosen {
    /// File with the secret, at least 12 characters; `-` for standard input
    #[arg(value_name = "FILE")]
    secret_file: std::path::PathBuf,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of the commands about one credential.
#[derive(Args, Debug)]
pub(crate) struct Named {
    /// The credential's name
    name: String,
    #[command(flatten)]
    admin: Administered,
}

/// A credential as a KMS shows it. Times are Unix seconds.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    name: String,
    role: String,
    #[serde(default)]
    domain: Option<String>,
    state: String,
    created_at: u64,
    created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invited_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    old_secret_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    credentials: Vec<Shown>,
}

/// The user whose secret was set.
#[derive(Debug, Serialize, Deserialize)]
struct BasicAuth {
    user: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Revoked {
    revoked: bool,
}

/// The caller's own credential as a KMS shows it.
#[derive(Debug, Serialize, Deserialize)]
struct Me {
    name: String,
    role: String,
    domain: Option<String>,
    kind: String,
    expires_at: Option<String>,
    server_time: String,
    boot_id: String,
    version: String,
}

impl Credential {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Create(create) => {
                let Create { name, role, expires, domain, invite, admin } = create;
                let expires_at = expires.map(|span| when::now().saturating_add(span.as_secs()));
                let mut body =
                    json!({ "name": name, "role": role.name(), "expires_at": expires_at, "invite": invite });
                // Older versions do not know the field.
                if let Some(domain) = domain {
                    body["domain"] = domain.into();
                }
                issued(&admin, terminal, CREDENTIALS, &body).await
            }
            Self::Rotate(Named { name, admin }) => {
                issued(&admin, terminal, &of(&name, "rotate")?, &Value::Null).await
            }
            Self::Activate(List { admin }) => {
                issued(&admin, terminal, "/api/v1/activate", &Value::Null).await
            }
            Self::Revoke(Named { name, admin }) => {
                let revoked: Revoked = post(&admin, terminal, &of(&name, "revoke")?, &Value::Null).await?;
                if !revoked.revoked {
                    return Err(Failure::failed("the response does not say that it is revoked"));
                }
                terminal.show(&revoked, |page| page.line("Revoked: it is not accepted any more."))?;
                Ok(Exit::Done)
            }
            Self::SetBasicAuth(Chosen { secret_file, admin }) => {
                let secret = files::read(&secret_file, MAX_SECRET)?;
                let set: BasicAuth = post_bytes(&admin, terminal, BASIC_AUTH, secret.to_vec()).await?;
                terminal.show(&set, |page| {
                    page.line(format_args!("Set: log in as {} with it.", printable(&set.user)));
                })?;
                Ok(Exit::Done)
            }
            Self::Whoami(List { admin }) => {
                let me: Me = get(&admin, terminal, ME).await?;
                terminal.show(&me, |page| whoami(page, &me))?;
                Ok(Exit::Done)
            }
            Self::List(List { admin }) => {
                let listed: Listed = get(&admin, terminal, CREDENTIALS).await?;
                terminal.show(&listed, |page| match listed.credentials.is_empty() {
                    true => page.line("There are no named credentials."),
                    false => listed.credentials.iter().for_each(|shown| entry(page, shown)),
                })?;
                Ok(Exit::Done)
            }
        }
    }
}

/// The route about one credential. Its name goes into a path, so that a name that cannot be one is refused here.
fn of(name: &str, action: &str) -> Outcome<String> {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"-.".contains(&letter);
    match !name.is_empty() && name.bytes().all(fits) {
        true => Ok(format!("{CREDENTIALS}/{name}/{action}")),
        false => Err(Failure::usage("a credential's name has letters, digits, '-' and '.' only")),
    }
}

/// Posts what makes a secret, and shows the token.
async fn issued(admin: &Administered, terminal: &Terminal, path: &str, body: &Value) -> Outcome {
    let shown: Shown = post(admin, terminal, path, body).await?;
    let Some(token) = &shown.token else {
        return Err(Failure::failed("the response has no token"));
    };
    terminal.show(&shown, |page| {
        entry(page, &shown);
        page.line(page.toned(Tone::Good, "Its token, which is shown only now:"));
        page.line(printable(token));
    })?;
    Ok(Exit::Done)
}

fn entry(page: &mut Page, shown: &Shown) {
    page.line(format_args!("{} ({})", printable(&shown.name), printable(&shown.role)));
    page.field("state", printable(&shown.state));
    page.field("created", format_args!("{} by {}", when::at(shown.created_at), printable(&shown.created_by)));
    if let Some(domain) = &shown.domain {
        page.field("domain", printable(domain));
    }
    if let Some(until) = shown.old_secret_until {
        page.field("old secret", format_args!("valid until the new one is used, or {}", when::at(until)));
    }
    if let Some(until) = shown.invited_until {
        page.field("invited until", when::at(until));
    }
    page.field("expires", shown.expires_at.map_or_else(|| "never".to_owned(), when::at));
    page.field("last used", shown.last_used.map_or_else(|| "never".to_owned(), when::at));
}

fn whoami(page: &mut Page, me: &Me) {
    page.line(format_args!("{} ({})", printable(&me.name), printable(&me.role)));
    page.field("kind", printable(&me.kind));
    page.field("domain", printable(me.domain.as_deref().unwrap_or("the whole KMS")));
    page.field("expires", printable(me.expires_at.as_deref().unwrap_or("never")));
    page.field("server time", printable(&me.server_time));
    page.field("server", format_args!("{}, process {}", printable(&me.version), printable(&me.boot_id)));
}

async fn post<A: serde::de::DeserializeOwned>(
    admin: &Administered,
    terminal: &Terminal,
    path: &str,
    body: &Value,
) -> Outcome<A> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    post_bytes(admin, terminal, path, body).await
}

async fn post_bytes<A: serde::de::DeserializeOwned>(
    admin: &Administered,
    terminal: &Terminal,
    path: &str,
    body: Vec<u8>,
) -> Outcome<A> {
    let admin = admin.one()?;
    let connection = admin.connect(terminal).await?;
    read(&admin.post_on(&connection, path, body, MAX_RESPONSE).await?)
}

async fn get<A: serde::de::DeserializeOwned>(
    admin: &Administered,
    terminal: &Terminal,
    path: &str,
) -> Outcome<A> {
    let admin = admin.one()?;
    let connection = admin.connect(terminal).await?;
    read(&admin.fetch_on(&connection, path, MAX_RESPONSE).await?)
}

fn read<A: serde::de::DeserializeOwned>(document: &Document) -> Outcome<A> {
    let failure = || Failure::failed("the response is not what a KMS sends about credentials");
    document.json().ok_or_else(failure)
}
