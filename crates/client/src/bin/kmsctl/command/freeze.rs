//! `kmsctl freeze`, `unfreeze`, `frozen`: stopping one thing now.

use clap::{Args, ValueEnum};
use kms_client::proto::{
    FreezeRequest, FreezeResponse, FrozenEntry, ListFrozenResponse, UnfreezeRequest, UnfreezeResponse,
};

use crate::{
    exit::{Exit, Failure, Outcome},
    input,
    output::{Page, Terminal, Tone, printable},
    target::Administered,
    when,
};

/// What is stopped.
#[derive(Args, Debug)]
struct Target {
    /// What is meant
    scope: Scope,
    /// Its id in hexadecimal: app and instance have 20 bytes, device and os-image 32, kms none
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
    /// Everything that boots this OS image
    OsImage,
    /// Everybody: this KMS releases nothing
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

/// Arguments of `kmsctl freeze`.
#[derive(Args, Debug)]
pub(crate) struct Freeze {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    target: Target,
    /// Why, for whoever finds this later; callers do not see it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long, such as 30m, 8h or 7d; without it until it is taken back
    #[arg(long = "for", value_name = "TIME", value_parser = when::duration)]
    lasts: Option<std::time::Duration>,
}

impl Freeze {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let request = FreezeRequest {
            scope: self.target.scope.name().to_owned(),
            value: self.target.value()?,
            reason: self.reason,
            expires_at: self.lasts.map(|lasts| when::now().saturating_add(lasts.as_secs())),
        };
        let answer: FreezeResponse = self.admin.call(terminal, "Freeze", &request).await?;
        let Some(frozen) = &answer.frozen else {
            return Err(Failure::failed("Admin.Freeze: the answer lacks frozen"));
        };
        terminal.show(&answer, |page| {
            page.line(page.toned(Tone::Good, "Frozen: from now on nothing is released to it."));
            entry(page, frozen);
            page.line("Other KMS nodes do not know of it: freeze it at each of them.");
        })?;
        Ok(Exit::Done)
    }
}

/// Arguments of `kmsctl unfreeze`.
#[derive(Args, Debug)]
pub(crate) struct Unfreeze {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    target: Target,
    /// Why, for the audit log
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
        let answer: UnfreezeResponse = self.admin.call(terminal, "Unfreeze", &request).await?;
        terminal.show(&answer, |page| {
            page.line(match answer.was_frozen {
                true => "No longer frozen: the policy decides again.",
                false => "It was not frozen here.",
            });
        })?;
        Ok(Exit::Done)
    }
}

/// Arguments of `kmsctl frozen`.
#[derive(Args, Debug)]
pub(crate) struct Frozen {
    #[command(flatten)]
    admin: Administered,
}

impl Frozen {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let answer: ListFrozenResponse = self.admin.call(terminal, "ListFrozen", &()).await?;
        terminal.show(&answer, |page| {
            for frozen in &answer.frozen {
                entry(page, frozen);
            }
            if answer.frozen.is_empty() {
                page.line("Nothing is frozen.");
            }
        })?;
        Ok(Exit::Done)
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
