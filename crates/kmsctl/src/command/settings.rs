//! `kmsctl settings`, `kmsctl reload` and `kmsctl restart`.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const SETTINGS: &str = "/api/v1/settings";
/// The largest response.
const REPLY: Reply = Reply {
    max_bytes: 1 << 20,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about its settings"),
};

/// The commands of `kmsctl settings`.
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// List settings with their values and sources
    List(List),
    /// Change a setting at run time, or take the change back
    Set(Set),
}

/// Arguments of `kmsctl settings list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only settings whose name contains this
    name: Option<String>,
    /// Only settings that can change at run time
    #[arg(long)]
    editable: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl settings set`.
#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Its name, as `kmsctl settings list --editable` shows it
    name: String,
    /// A number or a text; none takes an earlier change back
    value: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl reload` and `kmsctl restart`.
#[derive(Args, Debug)]
pub(crate) struct Whole {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    settings: Vec<Setting>,
    restart_required: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Setting {
    key: String,
    value: Value,
    default: Value,
    source: String,
    editable: bool,
    restart_required: bool,
    measured: bool,
    message: String,
    secret: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reloaded {
    reloaded: Vec<Part>,
    restart_required: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Part {
    name: String,
    changed: bool,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Restarting {
    restarting: bool,
    boot_id: String,
}

impl Settings {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::List(List { name, editable, admin }) => {
                let mut listed: Listed = admin.get(terminal, SETTINGS, REPLY).await?;
                let matches =
                    |setting: &Setting| name.as_ref().is_none_or(|name| setting.key.contains(name.as_str()));
                listed.settings.retain(|setting| matches(setting) && (setting.editable || !editable));
                show(terminal, &listed)
            }
            Self::Set(Set { name, value, admin }) => {
                // A number is a number; anything else is a text.
                let value = match value {
                    None => Value::Null,
                    Some(text) => text.parse::<u64>().map_or_else(|_| text.clone().into(), Value::from),
                };
                let body = json!({ name.clone(): value }).to_string().into_bytes();
                let mut listed: Listed = admin.patch(terminal, SETTINGS, body, REPLY).await?;
                listed.settings.retain(|setting| setting.key == name);
                show(terminal, &listed)
            }
        }
    }
}

impl Whole {
    /// `kmsctl reload`
    pub(crate) async fn reload(self, terminal: &Terminal) -> Outcome {
        let reloaded: Reloaded = self.admin.post(terminal, "/api/v1/reload", Vec::new(), REPLY).await?;
        terminal.show(&reloaded, |page| {
            for Part { name, changed, message } in &reloaded.reloaded {
                let word = if *changed { page.toned(Tone::Good, "new") } else { "unchanged".to_owned() };
                page.field(name, format_args!("{word}: {}", printable(message)));
            }
            restart_required(page, &reloaded.restart_required);
        })?;
        Ok(Exit::Done)
    }

    /// `kmsctl restart`
    pub(crate) async fn restart(self, terminal: &Terminal) -> Outcome {
        let restarting: Restarting = self.admin.post(terminal, "/api/v1/restart", Vec::new(), REPLY).await?;
        if !restarting.restarting {
            return Err(Failure::failed("the response does not say that it restarts"));
        }
        terminal.show(&restarting, |page| {
            page.line("It ends when its requests are served, and its supervisor starts it again.");
        })?;
        Ok(Exit::Done)
    }
}

fn show(terminal: &Terminal, listed: &Listed) -> Outcome {
    terminal.show(listed, |page| {
        for Setting { key, value, source, editable, measured, message, .. } in &listed.settings {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let kind = match (*editable, *measured) {
                (true, _) => ", can change",
                (false, true) => ", measured",
                (false, false) => "",
            };
            page.line(format_args!(
                "{} = {} ({}{kind})",
                printable(key),
                printable(&value),
                printable(source)
            ));
            page.field("", page.toned(Tone::Quiet, &printable(message)));
        }
        restart_required(page, &listed.restart_required);
    })?;
    Ok(Exit::Done)
}

fn restart_required(page: &mut Page, keys: &[String]) {
    if !keys.is_empty() {
        let keys = printable(&keys.join(", "));
        page.line(page.toned(Tone::Doubtful, &format!("These need a restart: {keys}")));
    }
}
