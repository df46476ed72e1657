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
    /// What the restore that is open would give the KMS.
    #[serde(default)]
    plan: Option<Plan>,
    /// What a KMS without keys is.
    #[serde(default)]
    kms: Option<EmptyKms>,
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

/// What a restore gives a KMS.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    domain: String,
    made_at: String,
    epochs: Vec<u32>,
}

/// What decides at a KMS without keys who will get keys. It has not proved it: only its measurement is attested.
#[derive(Debug, Serialize, Deserialize)]
struct EmptyKms {
    policy: String,
    policy_digest: Option<String>,
    relaxed: Vec<String>,
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
    /// Absent from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apps_with_epochs: Option<usize>,
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

impl EmptyKms {
    fn write(&self, page: &mut Page) {
        page.field("policy", printable(&self.policy));
        page.field("policy digest", self.policy_digest.as_deref().map_or("none".into(), printable));
        page.field("relaxed", relaxed(&self.relaxed));
    }
}

fn relaxed(codes: &[String]) -> String {
    match codes {
        [] => "nothing".to_owned(),
        codes => printable(&codes.join(", ")).to_string(),
    }
}

impl Shown {
    /// Requires that the restore that is open gives the KMS this name: that of the manifest, or the one that the officer says.
    pub(super) fn expect_name(&self, domain: &str) -> Outcome<()> {
        if self.ceremony.is_none() {
            return Ok(());
        }
        let Some(plan) = &self.plan else {
            return Err(Failure::refused(
                "it does not say which name the restore gives it, as versions before this one; no share was sent",
            ));
        };
        match plan.domain == domain {
            true => Ok(()),
            false => Err(Failure::refused(format_args!(
                "the restore gives it the name {}, and not {}: if the officers agreed on that, say --domain {}; no share was sent",
                printable(&plan.domain),
                printable(domain),
                printable(&plan.domain)
            ))),
        }
    }

    /// What a KMS without keys says of itself, in lines for the question whether to send.
    pub(super) fn told(&self) -> String {
        let Some(kms) = &self.kms else { return String::new() };
        format!(
            "\nIt says       policy {}, digest {}, relaxed: {}",
            printable(&kms.policy),
            kms.policy_digest.as_deref().map_or("none".into(), printable),
            relaxed(&kms.relaxed)
        )
    }

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
        if let Some(plan) = &self.plan {
            let epochs: Vec<String> = plan.epochs.iter().map(u32::to_string).collect();
            page.field("name", printable(&plan.domain));
            page.field("set made", printable(&plan.made_at));
            page.field("epochs", epochs.join(", "));
        }
        if let Some(kms) = &self.kms {
            kms.write(page);
        }
        if let Some(restored) = &self.restored {
            page.line(page.toned(Tone::Good, "The root keys are restored and saved."));
            page.field("recovery set", printable(&restored.set));
            page.field("domain", printable(&restored.domain));
            page.field("officers", printable(&restored.officers.join(", ")));
            if let Some(made_at) = &restored.made_at {
                let apps = restored.apps_with_epochs.map_or_else(
                    || "the set does not have the epochs chosen for apps".to_owned(),
                    |apps| format!("epochs chosen for {apps} apps are as of then"),
                );
                page.field("set made", format_args!("{}; {apps}", printable(made_at)));
            }
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
