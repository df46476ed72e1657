//! `kmsctl verify`: proof of a KMS, step by step; online, or from a saved bundle.

mod attestation;
mod release;

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use kms_attest::collateral::Clock;
use kms_attest::identity::AppId;
use kms_attest::p256::SPKI_LENGTH;
use kms_client::KmsUrl;
use kms_client::environment::envelope;
use kms_client::proof::pins::{self, RootPin};
use kms_client::proof::{
    Answers, Identity, Outcome as StepOutcome, Pins, ReleasedKeys, Report, Verdict, answers, examine, gather,
};
use kms_client::statement::Signer;
use serde_json::{Value, json};

use super::app_key::{app_id_argument, field_of, read_keys};
use super::meta::public_key;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input::{self, Hex};
use crate::output::{Page, Terminal, Tone, printable};
use crate::trust::Verification;
use crate::when::now;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("source").required(true).multiple(true).args(["url", "kms", "offline", "attestation"]))]
pub(crate) struct Verify {
    /// URL of the KMS; with --offline, the bundle must be of this KMS
    #[arg(value_name = "URL")]
    url: Option<KmsUrl>,
    /// Same as URL; if both are given, they must be equal
    #[arg(long, value_name = "URL", env = "KMS_URL", hide_env_values = true)]
    kms: Option<KmsUrl>,
    /// The origin of `kms`: on the command line it selects the KMS, in the environment it is a default for
    /// all commands.
    #[arg(skip)]
    pub(crate) kms_origin: Origin,
    /// Verify a bundle from --save-bundle; needs no network
    #[arg(long, value_name = "FILE")]
    offline: Option<PathBuf>,
    /// Verify the one document by which a KMS proves itself: the URL of the KMS, or a file; needs no other network
    #[arg(long, value_name = "URL|FILE", conflicts_with_all = ["url", "offline", "app_id", "app_keys", "allow"])]
    attestation: Option<String>,
    /// With --attestation: file with pins, JSON
    #[arg(long, value_name = "FILE", requires = "attestation")]
    pins: Option<PathBuf>,
    #[command(flatten)]
    release: release::ReleaseArgs,
    /// With --offline or a file of --attestation: time of the verdict, Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    at: Option<u64>,
    /// Save the responses and the collateral in this file
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    save_bundle: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    verification: Verification,
    #[command(flatten)]
    pinned: Pinned,
    /// App whose public key is requested [default: an app that does not exist]
    #[arg(long, value_name = "HEX", value_parser = app_id_argument)]
    app_id: Option<AppId>,
    /// Also fail if a step could not be checked because nothing was pinned
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The environment, or a default.
    #[default]
    Elsewhere,
    CommandLine,
}

/// The expected values.
#[derive(Args, Debug)]
struct Pinned {
    /// Allowlist: JSON with one identity or a list of them; may be given more than once
    #[arg(long = "allow", value_name = "FILE")]
    allow: Vec<PathBuf>,
    /// Allow the identity with this aggregated measurement; may be given more than once
    #[arg(long, value_name = "HEX")]
    mr_aggregated: Vec<Hex<32>>,
    /// Public key of the root CA (SubjectPublicKeyInfo DER, 91 bytes) or its SHA-256 (32 bytes)
    #[arg(long, value_name = "HEX", value_parser = root_pin)]
    root_spki: Option<RootPin>,
    /// k256 root key, 66 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    k256_pubkey: Option<Signer>,
    /// Accepted TCB statuses
    #[arg(long, value_name = "STATUS", value_delimiter = ',', default_value = pins::UP_TO_DATE)]
    tcb: Vec<String>,
    /// Accepted TCB statuses of the platform that made the root keys [default: as --tcb]
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    bootstrap_tcb: Option<Vec<String>>,
    /// Accepted advisories; all others fail
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    accept_advisory: Option<Vec<String>>,
    /// Accepted advisories of the platform that made the root keys [default: as --accept-advisory]
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    bootstrap_advisory: Option<Vec<String>>,
    /// Keys of an app from app-key, which must be from this KMS
    #[arg(long, value_name = "FILE")]
    app_keys: Option<PathBuf>,
}

impl Verify {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if let Some(source) = self.document()? {
            return self.document_of(terminal, source).await;
        }
        if self.at.is_some() && self.offline.is_none() {
            return Err(Failure::usage("--at is for --offline, and for a file of --attestation"));
        }
        let named = self.named()?.cloned();
        let pins = self.pinned.read()?;
        let anchors = self.verification.anchors(terminal)?;
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.save_bundle {
            files::check_writable(path, existing)?;
        }
        let (answers, at) = match &self.offline {
            Some(path) => {
                let bundle = files::read(path, answers::MAX_BYTES)?;
                let answers = Answers::parse(&bundle)
                    .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
                if let Some(url) = named.as_ref().filter(|url| url.to_string() != answers.url) {
                    let other = printable(&answers.url);
                    return Err(Failure::unproven(format_args!(
                        "{}: of {other}, not of {url}",
                        path.display()
                    )));
                }
                (answers, self.at.unwrap_or_else(now))
            }
            None => {
                let url = named.as_ref().or(self.kms.as_ref());
                let url = url.ok_or_else(|| Failure::usage("a URL or --offline is needed"))?;
                let collateral = self.verification.collateral(&anchors, Clock::system())?;
                let progress = terminal.progress("waiting for the KMS and the collateral service");
                let app_id = self.app_id.or(pins.released.as_ref().map(|keys| keys.app_id));
                let answers = gather(url, &collateral, app_id.unwrap_or(AppId([0; 20]))).await;
                drop(progress);
                (answers, now())
            }
        };
        if let Some(path) = &self.save_bundle {
            let bundle = answers.to_json().map_err(Failure::failed)?;
            files::write(path, &bundle, Readers::Everyone, existing)?;
        }
        let report = examine(&answers, &pins, &anchors, at);
        let incomplete = if self.strict { Exit::Unproven } else { Exit::Done };
        show(terminal, &report, incomplete)
    }

    /// The KMS on the command line.
    fn named(&self) -> Outcome<Option<&KmsUrl>> {
        let kms = self.kms.as_ref().filter(|_| self.kms_origin == Origin::CommandLine);
        match (&self.url, kms) {
            (Some(url), Some(kms)) if url != kms => {
                Err(Failure::usage(format_args!("two KMSs are named: {url} and {kms}")))
            }
            (url, kms) => Ok(url.as_ref().or(kms)),
        }
    }
}

impl Pinned {
    fn read(&self) -> Outcome<Pins> {
        let mut identities: Vec<Identity> =
            self.mr_aggregated.iter().map(|Hex(value)| Identity::aggregated(*value)).collect();
        for path in &self.allow {
            let text = files::read_text(path, pins::MAX_BYTES)?;
            let list = Identity::parse_list(&text);
            identities
                .extend(list.map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?);
        }
        let released = match &self.app_keys {
            None => None,
            Some(path) => {
                let keys = read_keys(path)?;
                Some(released(&keys).map_err(field_of(path))?)
            }
        };
        Ok(Pins {
            tcb: self.tcb.clone(),
            bootstrap_tcb: self.bootstrap_tcb.clone(),
            advisories: self.accept_advisory.clone(),
            bootstrap_advisories: self.bootstrap_advisory.clone(),
            identities,
            root: self.root_spki.clone(),
            k256: self.k256_pubkey,
            released,
        })
    }
}

/// The public part of the keys in a file.
fn released(keys: &crate::app_keys_file::AppKeysFile) -> Result<ReleasedKeys, String> {
    let root_spki = public_key(&keys.ca_cert).ok_or("ca_cert is not a certificate in PEM")?;
    Ok(ReleasedKeys {
        app_id: keys.app_id()?,
        epochs: keys.epochs(),
        k256_key: Signer::of_secret(&*keys.k256_key()?).map_err(|error| format!("k256_key: {error}"))?,
        k256_signature: keys.k256_signature()?,
        env_public_key: envelope::public_key(&*keys.env_crypt_key()?)
            .map_err(|error| format!("env_crypt_key: {error}"))?,
        root_spki,
    })
}

fn root_pin(text: &str) -> Result<RootPin, String> {
    let bytes = input::decode(text)?;
    match bytes.len() {
        SPKI_LENGTH => Ok(RootPin::Spki(bytes)),
        32 => bytes.try_into().map(RootPin::Sha256).map_err(|_| "must be 32 bytes".to_owned()),
        other => Err(format!("must be {SPKI_LENGTH} bytes (the key) or 32 (its SHA-256), got {other}")),
    }
}

/// Prints the report; `incomplete` is the exit code of a proof with gaps.
fn show(terminal: &Terminal, report: &Report, incomplete: Exit) -> Outcome {
    let verdict = report.verdict();
    let (word, step, exit) = match verdict {
        Verdict::Proven => ("proven", None, Exit::Done),
        Verdict::Incomplete(check) => ("incomplete", Some(check), incomplete),
        Verdict::Refuted(check) => ("refuted", Some(check), Exit::Unproven),
        Verdict::Unknown(check) => ("unknown", Some(check), Exit::Failed),
    };
    let mut document = serde_json::to_value(report).map_err(Failure::failed)?;
    document["verdict"] = word.into();
    document["decided_by"] = step.map_or(Value::Null, |check| json!(check));
    document["exit"] = (exit as u8).into();
    terminal.show(&document, |page| {
        page.line(format_args!("{}", report.url));
        for step in &report.steps {
            let word = outcome(page, step.outcome);
            page.line(format_args!("{word}  {:<34} {}", step.step.title(), step.detail));
        }
        page.line("");
        match verdict {
            Verdict::Proven => {
                let proven = page.toned(Tone::Good, "PROVEN");
                page.line(format_args!("{proven}: every step passed"));
            }
            Verdict::Incomplete(_) => {
                let gaps = report.steps.iter().filter(|step| step.outcome == StepOutcome::NotChecked).count();
                let incomplete = page.toned(Tone::Doubtful, "INCOMPLETE");
                page.line(format_args!("{incomplete}: nothing failed, {gaps} steps were not checked"));
            }
            Verdict::Refuted(check) | Verdict::Unknown(check) => {
                let failed = page.toned(Tone::Bad, "NOT PROVEN");
                page.line(format_args!("{failed}: {}", check.title()));
            }
        }
    })?;
    Ok(exit)
}

/// Padded to one width.
fn outcome(page: &Page, outcome: StepOutcome) -> String {
    match outcome {
        StepOutcome::Passed => page.toned(Tone::Good, "pass"),
        StepOutcome::Failed => page.toned(Tone::Bad, "FAIL"),
        StepOutcome::Unavailable => page.toned(Tone::Bad, "n/a "),
        StepOutcome::NotChecked => page.toned(Tone::Doubtful, "-   "),
    }
}
