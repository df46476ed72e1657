//! `kmsctl recovery`: what officers do with their shares of a recovery set. A share is decrypted here, and sent to a KMS that
//! has proved what it runs, over a connection to the key that it proved.

mod identity;
mod owner;
mod shown;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_recovery::{MAX_MANIFEST, Manifest, Share, SignedManifest};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use serde_json::json;

use self::owner::{Create, Drill, Fetch, Plain};
use self::shown::Shown;
use crate::attested::{Attested, Phase, Verified};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Terminal, Tone, printable};
use crate::person::Person;
use crate::{files, when};

const STATUS: &str = "/recovery";
const OPEN: &str = "/recovery/restore";
const SHARES: &str = "/recovery/shares";

/// The largest response.
const REPLY: usize = 256 << 10;
/// How far the clock of this machine may be behind the one by which a set was made, in seconds.
const CLOCK_TOLERANCE: u64 = 300;

#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// Split the root keys among officers: writes a manifest and one file for each officer
    Create(Create),
    /// Write the files of the current set again, while the KMS still has them
    Fetch(Fetch),
    /// Show the current set, retired ones, and drills
    Show(Plain),
    /// Let officers prove the current set
    #[command(subcommand)]
    Drill(Drill),
    /// Open a restore at a KMS without keys, and send it your share
    Restore(Restore),
    /// Send your share to a restore or a drill that is open
    Send(Send),
    /// Show which restore or drill is open, and whose shares have arrived
    Status(Status),
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    #[command(flatten)]
    kms: Attested,
    /// Manifest of the recovery set, recovery-SET.json
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    #[command(flatten)]
    officer: Officer,
    /// DNS name or IPv4 address under which CVMs will reach the KMS; default: that in the manifest
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Send {
    #[command(flatten)]
    kms: Attested,
    /// Manifest of the recovery set: the KMS must use the same
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Name that the restore gives the KMS; default: that in the manifest. A restore for another one gets no share
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    #[command(flatten)]
    officer: Officer,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    kms: Attested,
}

/// An officer, and the officer's share.
#[derive(Args, Debug)]
struct Officer {
    /// Your file of the recovery set, NAME-of-SET.age
    #[arg(long, value_name = "FILE")]
    share: PathBuf,
    /// Your private key: an age identity file, or a private key of ssh
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Send the share without confirmation
    #[arg(long, short)]
    yes: bool,
}

impl Recovery {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        leave_no_dump()?;
        match self {
            Self::Create(command) => command.run(terminal).await,
            Self::Fetch(command) => command.run(terminal).await,
            Self::Show(command) => command.show(terminal).await,
            Self::Drill(command) => command.run(terminal).await,
            Self::Restore(command) => command.run(terminal).await,
            Self::Send(command) => command.run(terminal).await,
            Self::Status(command) => command.run(terminal).await,
        }
    }
}

/// A share in the clear must not get into a core dump, nor be read by another process of this user.
fn leave_no_dump() -> Outcome<()> {
    let refused = |error| Failure::failed(format_args!("core dumps cannot be switched off: {error}"));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(refused)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused)
}

impl Restore {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let manifest = manifest(&self.manifest)?;
        let path = opening(self.domain.as_deref())?;
        let kms = self.kms.verify(terminal).await?;
        if kms.phase() == Phase::Serving {
            let text = "it serves keys already, and keys that exist are never replaced; nothing was sent";
            return Err(Failure::refused(format_args!("{}: {text}", kms.url())));
        }
        let share = self.officer.open(&manifest, &self.manifest)?;
        let before = status(&kms).await?;
        if let Some(ceremony) = &before.ceremony {
            ceremony
                .expect(kms.phase(), &share, manifest.manifest())
                .map_err(|failure| failure.about(kms.url()))?;
        }
        let domain = self.domain.as_deref().unwrap_or(&manifest.manifest().domain);
        before.expect_name(domain).map_err(|failure| failure.about(kms.url()))?;
        let plan = match &before.ceremony {
            Some(open) => open.progress(),
            None => format!("none is open: this opens it, for the name {}", printable(domain)),
        };
        let plan = format!("{plan}{}", before.told());
        self.officer.confirm(terminal, &kms, &share, manifest.manifest(), &plan)?;
        if before.ceremony.is_none() {
            let text = manifest.to_text().into_bytes();
            let opened = kms.post(&path, text, REPLY).await?;
            let opened: Shown = shown::parse(&opened, OPEN)?;
            opened.expect_name(domain).map_err(|failure| failure.about(kms.url()))?;
            let open =
                opened.ceremony.ok_or_else(|| Failure::failed("the KMS does not say that it is open"))?;
            open.expect(kms.phase(), &share, manifest.manifest())
                .map_err(|failure| failure.about(kms.url()))?;
        }
        send(terminal, &kms, share).await
    }
}

impl Send {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let manifest = manifest(&self.manifest)?;
        let kms = self.kms.verify(terminal).await?;
        let share = self.officer.open(&manifest, &self.manifest)?;
        let before = status(&kms).await?;
        let Some(ceremony) = &before.ceremony else {
            let how = match kms.phase() {
                Phase::Empty => "no restore is open: kmsctl recovery restore opens one",
                Phase::Serving => "no drill is open: an owner opens one",
            };
            return Err(Failure::refused(format_args!("{}: {how}; nothing was sent", kms.url())));
        };
        let manifest = manifest.manifest();
        ceremony.expect(kms.phase(), &share, manifest).map_err(|failure| failure.about(kms.url()))?;
        if kms.phase() == Phase::Empty {
            let domain = self.domain.as_deref().unwrap_or(&manifest.domain);
            before.expect_name(domain).map_err(|failure| failure.about(kms.url()))?;
        }
        let plan = format!("{}{}", ceremony.progress(), before.told());
        self.officer.confirm(terminal, &kms, &share, manifest, &plan)?;
        send(terminal, &kms, share).await
    }
}

impl Status {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let kms = self.kms.verify(terminal).await?;
        let shown = status(&kms).await?;
        terminal.show(&shown, |page| shown.write(page))?;
        Ok(Exit::Done)
    }
}

impl Officer {
    /// The share, checked against the manifest.
    fn open(&self, manifest: &SignedManifest, path: &Path) -> Outcome<Share> {
        let share = identity::open(&self.share, &self.identity)?;
        let unfit = |error| {
            Failure::usage(format_args!("{} does not fit {}: {error}", self.share.display(), path.display()))
        };
        manifest.check_share(&share).map_err(unfit)?;
        Ok(share)
    }

    /// Says what goes where, and asks whether to send it.
    fn confirm(
        &self,
        terminal: &Terminal,
        kms: &Verified<'_>,
        share: &Share,
        manifest: &Manifest,
        plan: &str,
    ) -> Outcome<()> {
        let proven = kms.proven();
        let of = format!(" of {}, made {}", printable(&manifest.domain), when::at(manifest.created_at));
        let (what, phase) = match kms.phase() {
            Phase::Empty => ("restore", "it has no keys yet"),
            Phase::Serving => ("drill", "it serves keys"),
        };
        terminal.note(format_args!(
            "Recovery set  {}{}\nShare         of {}, index {}\nKMS           {}: {phase}\nIt has proved mrAggregated {} (pinned), \
             TCB status {}, and the key of its TLS certificate\n{what:<13} {plan}",
            share.set,
            of,
            share.officer,
            share.index,
            kms.url(),
            hex::encode(proven.mr_aggregated),
            printable(&proven.tcb_status),
        ));
        if self.yes {
            return Ok(());
        }
        let person = Person::needed("there is no terminal to confirm that the share is sent: use --yes")?;
        person.must_confirm("Send the share to this KMS", "nothing was sent")
    }
}

/// Sends the share over a connection to the key that was attested.
async fn send(terminal: &Terminal, kms: &Verified<'_>, share: Share) -> Outcome {
    let progress = terminal.progress("the KMS checks the share");
    let body = share.to_json();
    let (officer, index) = (share.officer.to_string(), share.index);
    drop(share);
    let answer = kms.post_secret(SHARES, body, REPLY).await?;
    drop(progress);
    let shown: Shown = shown::parse(&answer, SHARES)?;
    let proven = kms.proven();
    let report = json!({
        "kms": kms.url().to_string(),
        "mr_aggregated": hex::encode(proven.mr_aggregated),
        "tcb_status": proven.tcb_status,
        "officer": officer,
        "index": index,
        "recovery": shown,
    });
    terminal.show(&report, |page| {
        page.line(page.toned(Tone::Good, &format!("The share of {officer} (index {index}) is accepted.")));
        shown.write(page);
        if shown.is_restored() {
            page.line(format_args!(
                "Freezes are not restored: before finish, deny in the allowlist what must get no keys, and freeze again after it.\nNext: kmsctl finish --kms {}, then kmsctl verify and kmsctl status: they \
                 must show the root keys above.",
                kms.url()
            ));
        }
    })?;
    Ok(Exit::Done)
}

async fn status(kms: &Verified<'_>) -> Outcome<Shown> {
    shown::parse(&kms.get(STATUS, REPLY).await?, STATUS)
}

/// The manifest in a file, with its signature verified.
fn manifest(path: &Path) -> Outcome<SignedManifest> {
    let text = files::read(path, MAX_MANIFEST)?;
    let manifest = SignedManifest::parse(&text).map_err(|error| {
        Failure::usage(format_args!("{}: {}", path.display(), printable(&error.to_string())))
    })?;
    // With a clock of the past, evidence that is out of date would pass.
    let (made, now) = (manifest.manifest().created_at, when::now());
    if made > now.saturating_add(CLOCK_TOLERANCE) {
        return Err(Failure::usage(format_args!(
            "the clock of this machine says {}, but the recovery set was made {}: correct the clock",
            when::at(now),
            when::at(made)
        )));
    }
    Ok(manifest)
}

/// The path that opens a restore.
fn opening(domain: Option<&str>) -> Outcome<String> {
    let Some(domain) = domain else { return Ok(OPEN.to_owned()) };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    match !domain.is_empty() && domain.chars().all(is_name) {
        true => Ok(format!("{OPEN}?domain={domain}")),
        false => Err(Failure::usage("--domain must be a DNS name or an IPv4 address")),
    }
}
