//! What a KMS says of a restore or a drill.

use kms_client::resource::Document;
use kms_recovery::{Manifest, Share};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::attested::Phase;
use crate::exit::{Failure, Outcome};
use crate::output::{Page, Tone, printable};

/// The answer of `GET /recovery`, and of what changes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shown {
    /// The restore or drill that is open.
    pub(super) ceremony: Option<Ceremony>,
    /// What was restored, in this run of the process.
    #[serde(default)]
    restored: Option<Restored>,
    /// Epochs whose root keys no drill proves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_proved: Vec<u32>,
    /// What else it says, such as the result of a drill.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ceremony {
    purpose: String,
    set: String,
    manifest_sha256: String,
    threshold: u8,
    received: usize,
    officers: Vec<OfficerShown>,
    ends_in_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct OfficerShown {
    index: u8,
    name: String,
    received: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Restored {
    set: String,
    domain: String,
    officers: Vec<String>,
    epochs: Vec<Epoch>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Epoch {
    epoch: u32,
    ca_spki_sha256: String,
    k256_pubkey: String,
}

pub(super) fn parse(document: &Document, path: &str) -> Outcome<Shown> {
    document
        .json()
        .ok_or_else(|| Failure::failed(format_args!("{path}: the response is not the expected JSON")))
}

impl Ceremony {
    /// Requires that a KMS of this phase asks for shares of this set, and has the same manifest. Nothing was sent before.
    pub(super) fn expect(&self, phase: Phase, share: &Share, manifest: &Manifest) -> Outcome<()> {
        let purpose = match phase {
            Phase::Empty => "restore",
            Phase::Serving => "drill",
        };
        if self.purpose != purpose {
            return Err(Failure::unproven(format_args!(
                "it says that shares are for a {}, but its certificate allows a {purpose} only; nothing was sent",
                printable(&self.purpose)
            )));
        }
        let set = share.set.to_string();
        if self.set != set {
            return Err(Failure::refused(format_args!(
                "it collects shares of the recovery set {}, and yours is of {set}; nothing was sent",
                printable(&self.set)
            )));
        }
        if hex::encode(manifest.sha256()) != self.manifest_sha256 {
            let text = "it uses another manifest of this set than yours; no share was sent";
            return Err(Failure::unproven(text));
        }
        Ok(())
    }

    pub(super) fn progress(&self) -> String {
        format!("{} of {} shares have arrived", self.received, self.threshold)
    }

    fn names(&self, received: bool) -> String {
        let of_kind = self.officers.iter().filter(|officer| officer.received == received);
        let names: Vec<String> =
            of_kind.map(|officer| format!("{} ({})", printable(&officer.name), officer.index)).collect();
        names.join(", ")
    }
}

impl Shown {
    pub(super) fn is_restored(&self) -> bool {
        self.restored.is_some()
    }

    /// What a drill says nothing about; `None` if it is about all root keys.
    pub(super) fn gap(&self) -> Option<String> {
        let epochs: Vec<String> = self.not_proved.iter().map(u32::to_string).collect();
        (!epochs.is_empty()).then(|| {
            format!(
                "The set does not have the root keys of epochs {}: the drill does not prove that they can be restored. Make \
                 a new set with kmsctl recovery create.",
                epochs.join(", ")
            )
        })
    }

    /// Writes it for people.
    pub(super) fn write(&self, page: &mut Page) {
        if let Some(open) = &self.ceremony {
            page.field("open", printable(&open.purpose));
            page.field("recovery set", printable(&open.set));
            page.field("shares", open.progress());
            page.field("in", open.names(true));
            page.field("missing", open.names(false));
            page.field("ends in", format_args!("{} min", open.ends_in_seconds / 60));
        }
        if let Some(restored) = &self.restored {
            page.line(page.toned(Tone::Good, "The root keys are restored and saved."));
            page.field("recovery set", printable(&restored.set));
            page.field("domain", printable(&restored.domain));
            page.field("officers", printable(&restored.officers.join(", ")));
            for epoch in &restored.epochs {
                page.field(
                    &format!("epoch {}", epoch.epoch),
                    format_args!("k256 {}", printable(&epoch.k256_pubkey)),
                );
                page.field("", format_args!("root CA key, SHA-256 {}", printable(&epoch.ca_spki_sha256)));
            }
        }
        if let Some(gap) = self.gap() {
            page.line(page.toned(Tone::Bad, &gap));
        }
        if self.ceremony.is_none() && self.restored.is_none() && self.rest.is_empty() {
            page.line("No restore and no drill is open.");
        }
        for (name, value) in
            self.rest.iter().filter(|(name, _)| !matches!(name.as_str(), "officer" | "index"))
        {
            if !value.is_null() {
                page.field(&printable(name), printable(&value.to_string()));
            }
        }
    }
}
