//! `kmsctl freeze`, `unfreeze`, `frozen`: stop releases to one target now.

use clap::{Args, ValueEnum};
use kms_client::proto::{
    FreezeRequest, FreezeResponse, FrozenEntry, ListFrozenResponse, RecentReleasesResponse, UnfreezeRequest,
    UnfreezeResponse,
};
use kms_client::text::count;
use serde::Serialize;
use serde_json::{Value, json};

use super::inventory::{number, text};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::person::Person;
use crate::target::{AdminService, Administered};
use crate::{input, when};

const PREVIEW: &str = "/api/v1/freezes/preview";
/// The largest response about a freeze that is not made.
const MAX_PREVIEW: usize = 256 << 10;

/// The target.
#[derive(Args, Debug)]
struct Target {
    /// Kind of target
    scope: Scope,
    /// Its id in hexadecimal: 20 bytes for app and instance, 32 for device and os-image, none for kms
    #[arg(value_name = "ID", required_if_eq_any = [
        ("scope", "app"), ("scope", "instance"), ("scope", "device"), ("scope", "os-image")
    ], value_parser = input::decode)]
    id: Option<std::vec::Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// An app with all its instances
    App,
    /// One instance of an app
    Instance,
    /// A machine
    Device,
    /// Every CVM with this OS image
    OsImage,
    /// Everything: this KMS releases nothing
    Kms,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Instance => "instance",
            Self::Device => "device",
            Self::OsImage => "os_image",
            Self::Kms => "kms",
        }
    }

    fn length(self) -> usize {
        match self {
            Self::App | Self::Instance => 20,
            Self::Device | Self::OsImage => 32,
            Self::Kms => 0,
        }
    }
}

impl Target {
    fn value(&self) -> Outcome<Vec<u8>> {
        let value = self.id.clone().unwrap_or_default();
        let (expected, found) = (self.scope.length(), value.len());
        match expected == found {
            true => Ok(value),
            false => Err(Failure::usage(format_args!(
                "the id of {} must be {expected} bytes, got {found}",
                self.scope.name()
            ))),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Freeze {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    target: Target,
    /// Reason, for other operators; callers do not see it
    #[arg(long, value_name = "TEXT", required_unless_present = "preview")]
    reason: Option<String>,
    /// Freeze nothing: show what it would have stopped in the last 24 hours
    #[arg(long)]
    preview: bool,
    /// Duration, such as 30m, 8h or 7d; default: until it is ended with unfreeze
    #[arg(long = "for", value_name = "TIME", value_parser = when::duration)]
    lasts: Option<std::time::Duration>,
    /// Replace a freeze that lasts longer
    #[arg(long)]
    replace: bool,
    /// Freeze the whole KMS without confirmation
    #[arg(long, short)]
    yes: bool,
}

impl Freeze {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if self.preview {
            return preview(&self.admin, &self.target, terminal).await;
        }
        let request = FreezeRequest {
            scope: self.target.scope.name().to_owned(),
            value: self.target.value()?,
            reason: self.reason.unwrap_or_default(),
            expires_at: self.lasts.map(|lasts| when::now().saturating_add(lasts.as_secs())),
            replace: self.replace,
        };
        if self.target.scope == Scope::Kms && !self.yes {
            confirm(&self.admin, terminal).await?;
        }
        let everything = self.target.scope == Scope::Kms;
        at_each(
            &self.admin,
            terminal,
            async |admin| {
                let answer: FreezeResponse = admin.call(terminal, "Freeze", &request).await?;
                if answer.frozen.is_none() {
                    return Err(Failure::failed("Admin.Freeze: the response lacks frozen"));
                }
                Ok(answer)
            },
            |page, answer| {
                page.line(page.toned(
                    Tone::Good,
                    match everything {
                        true => "Frozen: from now on this KMS releases nothing.",
                        false => "Frozen: from now on nothing is released to it.",
                    },
                ));
                answer.frozen.iter().for_each(|frozen| entry(page, frozen));
                match answer.shared {
                    Some(true) => page.line("It is in the state that the nodes share: it stops all of them."),
                    Some(false) => page.line(page.toned(
                        Tone::Bad,
                        "It is not in the state that the nodes share yet: freeze it at each of them (--admin takes several), \
                         and see kmsctl fleet status.",
                    )),
                    None if self.admin.one().is_ok() => page.line(
                        "Other KMS nodes are not affected: freeze it at each of them (--admin takes several).",
                    ),
                    None => {}
                }
            },
            "",
        )
        .await
    }
}

/// What a freeze would have stopped.
async fn preview(admin: &Administered, target: &Target, terminal: &Terminal) -> Outcome {
    let scope = target.scope.name();
    let body = json!({ "scope": scope, "target": hex::encode(target.value()?) }).to_string();
    let call = async |admin: AdminService<'_>| {
        let connection = admin.connect(terminal).await?;
        let told = admin.post_on(&connection, PREVIEW, body.clone().into_bytes(), MAX_PREVIEW).await?;
        told.json::<Value>()
            .ok_or_else(|| Failure::failed(format_args!("{}: the response is no JSON", admin.url)))
    };
    let show = |page: &mut Page, told: &Value| {
        let releases = count(number(told, "releases_24h"), "release");
        let cvms = count(number(told, "cvm_count"), "CVM");
        page.line(format_args!("In the last 24 hours: {releases} to {cvms}."));
        for cvm in told["cvms"].as_array().into_iter().flatten() {
            page.line(format_args!("{}  last {}", text(cvm, "id"), text(cvm, "last_at")));
            page.field("  app", text(cvm, "app_id"));
        }
    };
    at_each(admin, terminal, call, show, "Nothing was frozen.").await
}

/// Shows what freezing whole KMSs stops, and continues only if the user confirms.
async fn confirm(admin: &Administered, terminal: &Terminal) -> Outcome<()> {
    let person =
        Person::needed("this stops all releases, and there is no terminal to confirm it: use --yes")?;
    for admin in admin.each() {
        let frozen: ListFrozenResponse = admin.call(terminal, "ListFrozen", &()).await?;
        // Earlier versions do not count them.
        let stops = match admin.call::<_, RecentReleasesResponse>(terminal, "RecentReleases", &()).await {
            Ok(RecentReleasesResponse { apps, since }) => {
                let apps = if apps == 1 { "1 app".to_owned() } else { format!("{apps} apps") };
                format!("{apps} had keys or certificates from it since {}", when::at(since))
            }
            Err(_) => "it does not say how many apps it serves".to_owned(),
        };
        terminal.note(format_args!("{}: {stops}", admin.url));
        for earlier in frozen.frozen.iter().filter(|frozen| frozen.scope == Scope::Kms.name()) {
            let end = earlier.expires_at.map_or_else(|| "it is taken back".to_owned(), when::at);
            terminal.note(format_args!(
                "  frozen already until {end}, by {}: {}",
                printable(&earlier.by),
                printable(&earlier.reason)
            ));
        }
    }
    person.must_confirm("Stop all releases from now on", "nothing was frozen")
}

/// Does the same at each KMS. With several, each response is shown under its URL, and the highest exit code
/// is returned.
pub(crate) async fn at_each<A: Serialize>(
    admin: &Administered,
    terminal: &Terminal,
    call: impl AsyncFn(AdminService<'_>) -> Outcome<A>,
    show: impl Fn(&mut Page, &A),
    last: &str,
) -> Outcome {
    if let Ok(only) = admin.one() {
        let answer = call(only).await?;
        terminal.show(&answer, |page| {
            show(page, &answer);
            if !last.is_empty() {
                page.line(last);
            }
        })?;
        return Ok(Exit::Done);
    }
    let mut outcomes = Vec::new();
    for admin in admin.each() {
        outcomes.push((admin.url, call(admin).await));
    }
    let worst =
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).map(|failure| failure.exit).max();
    let report: Vec<_> = outcomes
        .iter()
        .map(|(url, outcome)| match outcome {
            Ok(answer) => json!({ "admin": url.to_string(), "answer": answer }),
            Err(failure) => {
                json!({ "admin": url.to_string(), "error": failure.message, "exit": failure.exit as u8 })
            }
        })
        .collect();
    terminal.show(&report, |page| {
        for (url, outcome) in &outcomes {
            page.line(url);
            match outcome {
                Ok(answer) => show(page, answer),
                Err(failure) => {
                    let failed = page.toned(Tone::Bad, "FAILED");
                    page.line(format_args!("{failed}: {}", failure.message));
                }
            }
        }
    })?;
    Ok(worst.unwrap_or(Exit::Done))
}

#[derive(Args, Debug)]
pub(crate) struct Unfreeze {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    target: Target,
    /// Reason, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl Unfreeze {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let request = UnfreezeRequest {
            scope: self.target.scope.name().to_owned(),
            value: self.target.value()?,
            reason: self.reason,
        };
        let call = async |admin: AdminService<'_>| {
            admin.call::<_, UnfreezeResponse>(terminal, "Unfreeze", &request).await
        };
        let show = |page: &mut Page, answer: &UnfreezeResponse| {
            page.line(match answer.was_frozen {
                true => "No longer frozen: the policy decides again.",
                false => "It was not frozen here.",
            });
        };
        at_each(&self.admin, terminal, call, show, "").await
    }
}

#[derive(Args, Debug)]
pub(crate) struct Frozen {
    #[command(flatten)]
    admin: Administered,
}

impl Frozen {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let call = async |admin: AdminService<'_>| {
            admin.call::<_, ListFrozenResponse>(terminal, "ListFrozen", &()).await
        };
        let show = |page: &mut Page, answer: &ListFrozenResponse| {
            for frozen in &answer.frozen {
                entry(page, frozen);
                if frozen.shared == Some(false) {
                    page.field(
                        "  where",
                        page.toned(Tone::Bad, "on this node only: the others do not know it yet"),
                    );
                }
            }
            if answer.frozen.is_empty() {
                page.line("Nothing is frozen.");
            }
        };
        at_each(&self.admin, terminal, call, show, "").await
    }
}

fn entry(page: &mut Page, frozen: &FrozenEntry) {
    let what = format!("{} {}", printable(&frozen.scope).replace('_', "-"), hex::encode(&frozen.value));
    page.line(page.toned(Tone::Bad, what.trim_end()));
    page.field("  reason", printable(&frozen.reason));
    let by = format!("{} from {}", printable(&frozen.by), printable(&frozen.remote));
    page.field("  since", format_args!("{}, by {by}", when::at(frozen.since)));
    let end = frozen.expires_at.map_or_else(|| "when it is taken back".to_owned(), when::at);
    page.field("  ends", end);
}
