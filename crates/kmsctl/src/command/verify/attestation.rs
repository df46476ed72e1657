//! `kmsctl verify --attestation`: the document by which a KMS proves itself to outsiders (`/attestation.json`), from its URL
//! or a file.

use std::path::PathBuf;

use kms_client::proof::attestation::{
    Answer, Code, MAX_BYTES, PATH, Pin, Pins, Proved, Refusal, Rules, Statement, fetch,
};
use kms_client::proof::pins::RootPin;
use kms_client::{Connection, KmsUrl, Trust};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Verify;
use super::release::Agreed;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Page, Terminal, Tone, printable};
use crate::when::now;

const MAX_PINS: usize = 64 << 10;

/// Where a document is.
pub(super) enum Source {
    Url(KmsUrl),
    File(PathBuf),
}

/// A document with what is demanded of it.
struct Received {
    document: Vec<u8>,
    from: String,
    rules: Rules,
    at: u64,
    /// The connection that it came over.
    connection: Option<Connection>,
}

impl Verify {
    /// The document that the arguments name: with `--attestation`, or as a URL that ends in its path.
    pub(super) fn document(&self) -> Outcome<Option<Source>> {
        if let Some(text) = &self.attestation {
            if !text.starts_with("https://") {
                return Ok(Some(Source::File(text.into())));
            }
            let base = text.strip_suffix(PATH).unwrap_or(text);
            let url: Result<KmsUrl, _> = base.parse();
            let url = url.map_err(|error| Failure::usage(format_args!("--attestation: {error}")))?;
            return Ok(Some(Source::Url(url)));
        }
        let text = self.url.as_ref().map(ToString::to_string).unwrap_or_default();
        match text.strip_suffix(&format!("{PATH}/prpc")) {
            Some(base) => base.parse().map(Source::Url).map(Some).map_err(Failure::usage),
            None => Ok(None),
        }
    }

    /// Verifies the document.
    pub(super) async fn document_of(self, terminal: &Terminal, source: Source) -> Outcome {
        let pins = self.document_pins()?;
        let expected = self.release.read()?;
        let anchors = self.verification.anchors(terminal)?;
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.save_bundle {
            files::check_writable(path, existing)?;
        }
        let received = self.receive(terminal, source).await?;
        if let Some(path) = &self.save_bundle {
            files::write(path, &received.document, Readers::Everyone, existing)?;
        }
        let Received { document, from, rules, at, connection } = received;
        let verdict = || {
            let proved = Answer::parse(&document)?.verify(&pins, &rules, &anchors, at)?;
            if let Some(connection) = &connection {
                proved.check_tls_key(connection.server_public_key())?;
            }
            Ok(proved)
        };
        let proved: Proved = verdict().map_err(|refusal| refused(&from, &refusal))?;
        let release = expected.map(|expected| expected.agree(&proved)).transpose()?;
        show(
            terminal,
            &Shown {
                from: &from,
                proved: &proved,
                pins: &pins,
                at,
                over_tls: connection.is_some(),
                release: release.as_ref(),
            },
        )
    }

    async fn receive(&self, terminal: &Terminal, source: Source) -> Outcome<Received> {
        let mut rules = Rules { tcb_statuses: self.pinned.tcb.clone(), ..Rules::default() };
        match source {
            Source::File(path) => {
                let document = files::read(&path, MAX_BYTES)?.to_vec();
                // A file may be old: its collateral says how long it can be judged.
                rules.max_age = None;
                let (from, at) = (path.display().to_string(), self.at.unwrap_or_else(now));
                Ok(Received { document, from, rules, at, connection: None })
            }
            Source::Url(url) => {
                if self.at.is_some() {
                    return Err(Failure::usage("--at is for --offline, and for a file of --attestation"));
                }
                let progress = terminal.progress("waiting for a quote of the KMS");
                let connection = Connection::open(&url, Trust::DangerousAnyServer, None).await?;
                let fetched = fetch(&connection).await?;
                drop(progress);
                rules.nonce = Some(fetched.nonce);
                let from = url.to_string();
                let from = format!("{}{PATH}", from.strip_suffix("/prpc").unwrap_or(&from));
                let (document, at) = (fetched.document, now());
                Ok(Received { document, from, rules, at, connection: Some(connection) })
            }
        }
    }

    fn document_pins(&self) -> Outcome<Pins> {
        let usage = |refusal: Refusal| Failure::usage(refusal);
        let mut pins = match &self.pins {
            None => Pins::default(),
            Some(path) => {
                let text = files::read_text(path, MAX_PINS)?;
                Pins::parse(&text).map_err(|refusal| Failure::usage(refusal).about(path.display()))?
            }
        };
        for value in &self.pinned.mr_aggregated {
            pins.add(Pin::MrAggregated, hex::encode(value.0)).map_err(usage)?;
        }
        if let Some(root) = &self.pinned.root_spki {
            let sha256 = match root {
                RootPin::Spki(spki) => Sha256::digest(spki).into(),
                RootPin::Sha256(sha256) => *sha256,
            };
            pins.add(Pin::RootCaSpkiSha256, hex::encode(sha256)).map_err(usage)?;
        }
        if let Some(signer) = &self.pinned.k256_pubkey {
            pins.add(Pin::K256PublicKey, hex::encode(signer.as_bytes())).map_err(usage)?;
        }
        if !pins.is_sufficient() {
            return Err(Failure::usage(Refusal::NoPin).hint("give --root-spki, --mr-aggregated or --pins"));
        }
        Ok(pins)
    }
}

fn refused(from: &str, refusal: &Refusal) -> Failure {
    let details = json!({ "code": refusal.code().name(), "pin": refusal.pin().map(Pin::name) });
    let failure = match refusal.code() {
        Code::BadPins | Code::NoPin => Failure::usage(refusal),
        Code::TooLarge
        | Code::Malformed
        | Code::DuplicateKey
        | Code::UnknownVersion
        | Code::ReportData
        | Code::EventLog
        | Code::CollateralMissing
        | Code::CollateralExpired
        | Code::CollateralMismatch
        | Code::Debug
        | Code::TdIsolation
        | Code::Quote
        | Code::TcbStatus
        | Code::Identity
        | Code::RootSignature
        | Code::Nonce
        | Code::Time
        | Code::PinMismatch
        | Code::TlsKey => Failure::unproven(refusal),
    };
    failure.about(from).with("refusal", details)
}

/// What is shown of a proof.
struct Shown<'a> {
    from: &'a str,
    proved: &'a Proved,
    pins: &'a Pins,
    at: u64,
    over_tls: bool,
    release: Option<&'a Agreed>,
}

impl Shown<'_> {
    /// What is not proved, in words.
    fn gaps(&self) -> Vec<&'static str> {
        let gaps = [
            (
                self.proved.os_image_proven(),
                "the OS image: the VM's configuration claims it, and the registers were not compared with it",
            ),
            (
                self.proved.is_signed_by_root(),
                "that this KMS has the root keys: the root has not signed the document",
            ),
            (
                self.pins.has(Pin::MrAggregated),
                "that the program is one that you know: no mr_aggregated is pinned",
            ),
            (
                self.pins.has(Pin::PolicyDigest),
                "that the policy is one that you know: no policy_digest is pinned",
            ),
            (
                self.proved.statement().policies.keys().all(|domain| domain == "default"),
                "that the policies of all domains are ones that you know: policy_digest is that of the domain default",
            ),
            (self.over_tls, "that a server has the TLS key: the document is from a file"),
        ];
        let gaps = gaps.into_iter().filter(|(is_proved, _)| !is_proved).map(|(_, gap)| gap);
        gaps.chain(self.release.map(Agreed::gap)).collect()
    }

    fn quoted(&self) -> Value {
        let (verified, info) = (self.proved.verified(), self.proved.app_info());
        json!({
            "tcb_status": verified.tcb_status(),
            "advisory_ids": verified.advisory_ids(),
            "fmspc": hex::encode(verified.fmspc()),
            "device_id": hex::encode(&info.device_id),
            "mr_aggregated": hex::encode(info.mr_aggregated),
            "mr_system": hex::encode(info.mr_system),
            "app_id": hex::encode(&info.app_id),
            "compose_hash": hex::encode(&info.compose_hash),
            "instance_id": hex::encode(&info.instance_id),
            "os_image_hash": hex::encode(&info.os_image_hash),
        })
    }
}

fn show(terminal: &Terminal, shown: &Shown<'_>) -> Outcome {
    let (quoted, gaps) = (shown.quoted(), shown.gaps());
    let document = json!({
        "source": shown.from,
        "verdict": "proven",
        "judged_at": shown.at,
        "collateral_expires": shown.proved.verified().collateral_expires(),
        "signed_by_root": shown.proved.is_signed_by_root(),
        "tls_key_checked": shown.over_tls,
        "os_image_proven": shown.proved.os_image_proven(),
        "quoted": quoted,
        "stated": shown.proved.statement(),
        "release": shown.release.map(Agreed::json),
        "not_proved": gaps,
        "exit": Exit::Done as u8,
    });
    terminal.show(&document, |page| {
        let proven = page.toned(Tone::Good, "PROVEN");
        page.line(format_args!("{proven}: {}", shown.from));
        page.line("By the quote of the hardware:");
        for (name, value) in quoted.as_object().into_iter().flatten() {
            line(page, name, &text(value));
        }
        page.line("Stated by the program that the quote measures:");
        stated(page, shown.proved.statement(), shown.at);
        if let Some(release) = shown.release {
            line(page, "release", &release.line());
        }
        page.line(page.toned(Tone::Doubtful, "Not proved:"));
        for gap in gaps.iter().copied().chain(gaps.is_empty().then_some("nothing is left")) {
            page.line(format_args!("  {gap}"));
        }
    })?;
    Ok(Exit::Done)
}

fn stated(page: &mut Page, statement: &Statement, at: u64) {
    let known = |digest: Option<String>| digest.unwrap_or_else(|| "unknown".to_owned());
    line(page, "name", &statement.name);
    line(page, "endpoints", &statement.endpoints.join(", "));
    line(page, "made", &format!("{} s before", at.saturating_sub(statement.time)));
    line(page, "version", &statement.kms_version);
    line(page, "program_sha256", &known(statement.program_sha256.map(|program| program.to_string())));
    line(page, "root_ca_spki_sha256", &statement.root.ca_spki_sha256.to_string());
    line(page, "k256_public_key", &statement.root.k256_public_key.to_string());
    for epoch in &statement.epochs {
        line(page, "epoch", &format!("{} {}", epoch.epoch, epoch.state));
    }
    if let Some(log) = &statement.log {
        line(page, "log_key", &log.key);
        line(page, "log_size", log.checkpoint.lines().nth(1).unwrap_or_default());
    }
    for (domain, policy) in &statement.policies {
        let digest = known(policy.digest.map(|digest| digest.to_string()));
        line(page, "policy", &format!("{domain}: {}, digest {digest}", policy.kind));
    }
    let relaxed = match &statement.relaxed[..] {
        [] => "nothing".to_owned(),
        relaxed => relaxed.join(", "),
    };
    line(page, "relaxed", &relaxed);
    let sealed = match statement.sealed {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    };
    line(page, "sealed", sealed);
}

fn line(page: &mut Page, name: &str, value: &str) {
    let value = printable(value);
    page.line(format_args!("  {name:<20} {value}"));
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
