//! `kmsctl credential`: named credentials of operators, with roles.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use kms_client::Role;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::when;

const CREDENTIALS: &str = "/api/v1/credentials";
const ME: &str = "/api/v1/me";
const BASIC_AUTH: &str = "/api/v1/set-basic-auth";
/// The longest secret that a KMS takes, with a line break.
const MAX_SECRET: usize = 258;
/// The largest is a list of a thousand credentials.
const REPLY: Reply = Reply {
    max_bytes: 1 << 20,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about credentials"),
};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
    /// What is still to happen, if the other nodes do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
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
                issued(&admin, terminal, CREDENTIALS, body.to_string().into_bytes()).await
            }
            Self::Rotate(Named { name, admin }) => {
                issued(&admin, terminal, &of(&name, "rotate")?, Vec::new()).await
            }
            Self::Activate(List { admin }) => issued(&admin, terminal, "/api/v1/activate", Vec::new()).await,
            Self::Revoke(Named { name, admin }) => {
                let revoked: Revoked = admin.post(terminal, &of(&name, "revoke")?, Vec::new(), REPLY).await?;
                if !revoked.revoked {
                    return Err(Failure::failed("the response does not say that it is revoked"));
                }
                terminal.show(&revoked, |page| match (revoked.shared, &revoked.note) {
                    (Some(false), note) => {
                        page.line("Revoked: this node does not accept it any more.");
                        let note = note.as_deref().unwrap_or("Other nodes may not know yet.");
                        page.line(page.toned(Tone::Bad, &printable(note)));
                    }
                    _ => page.line("Revoked: it is not accepted any more."),
                })?;
                Ok(Exit::Done)
            }
            Self::SetBasicAuth(Chosen { secret_file, admin }) => {
                let secret = files::read(&secret_file, MAX_SECRET)?;
                let set: BasicAuth = admin.post(terminal, BASIC_AUTH, secret.to_vec(), REPLY).await?;
                terminal.show(&set, |page| {
                    page.line(format_args!("Set: log in as {} with it.", printable(&set.user)));
                })?;
                Ok(Exit::Done)
            }
            Self::Whoami(List { admin }) => {
                let me: Me = admin.get(terminal, ME, REPLY).await?;
                terminal.show(&me, |page| whoami(page, &me))?;
                Ok(Exit::Done)
            }
            Self::List(List { admin }) => {
                let listed: Listed = admin.get(terminal, CREDENTIALS, REPLY).await?;
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
async fn issued(admin: &Administered, terminal: &Terminal, path: &str, body: Vec<u8>) -> Outcome {
    let shown: Shown = admin.post(terminal, path, body, REPLY).await?;
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
