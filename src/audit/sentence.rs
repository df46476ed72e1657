//! A record as one plain sentence for people. These texts are only here.

use std::borrow::Cow;
use std::fmt::Write as _;

use kms_attest::identity::DomainName;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::event::ROLE_OF_KMS;
use crate::event_type::{BelongsTo, EventType, Severity};

/// Maximum length of a value in a sentence; the record has it in full.
const MAX_VALUE: usize = 300;

/// A record parsed for display.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// When it was recorded, RFC 3339.
    pub time: String,
    /// Its type: the name of a variant of [`super::Event`].
    #[serde(rename = "event")]
    pub kind: String,
    /// The other fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// The properties by which a record is found, parsed without the others.
#[derive(Debug, Deserialize)]
pub struct RecordKey<'a> {
    /// As in [`Record`].
    pub seq: u64,
    /// As in [`Record`].
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    /// As in [`Record`].
    #[serde(rename = "event", borrow)]
    pub kind: Cow<'a, str>,
    /// The app that it is about, hex; empty if it is about none.
    #[serde(borrow, default)]
    pub app_id: Cow<'a, str>,
    #[serde(borrow, default)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    domain: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    previous_domain: Option<Cow<'a, str>>,
}

impl<'a> RecordKey<'a> {
    /// Reads a line of the log; `None` if it is not a record.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(line).ok()?).ok()
    }

    /// As [`Record::source`].
    pub fn source(&self) -> &'static str {
        source(&self.kind, &self.source)
    }

    /// As [`Record::domain`].
    pub fn domain(&self) -> Option<DomainName> {
        domain(&self.kind, &self.role, self.domain.as_deref())
    }

    /// As [`Record::left_domain`].
    pub fn left_domain(&self) -> Option<DomainName> {
        left_domain(&self.kind, self.previous_domain.as_deref())
    }
}

fn source(kind: &str, named: &str) -> &'static str {
    match (kind, named) {
        ("reported" | "suppressed", "pipe") => "pipe",
        ("reported" | "suppressed", "api") => "api",
        ("suppressed", "") => "kms",
        ("reported" | "suppressed", _) => "outside",
        _ => "kms",
    }
}

/// The domain that a record belongs to. A text that is not a name is that of no domain.
fn domain(kind: &str, role: &str, named: Option<&str>) -> Option<DomainName> {
    let named = match named.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(name.parse().ok()?),
    };
    match EventType::parse(kind)?.belongs_to() {
        BelongsTo::WholeKms => None,
        BelongsTo::DomainOfApp if role == ROLE_OF_KMS => None,
        BelongsTo::DomainOfApp => Some(named.unwrap_or_default()),
        BelongsTo::NamedDomain | BelongsTo::BothDomains => named,
    }
}

/// The other domain that a record belongs to.
fn left_domain(kind: &str, named: Option<&str>) -> Option<DomainName> {
    match EventType::parse(kind)?.belongs_to() {
        BelongsTo::BothDomains => named?.parse().ok(),
        BelongsTo::WholeKms | BelongsTo::DomainOfApp | BelongsTo::NamedDomain => None,
    }
}

/// Members of a line that belong to the chain and to the tree, not to the event.
const CHAIN: [&str; 3] = ["prev", "hash", "salt"];

impl Record {
    /// A line of the log; `None` if it is not a record.
    pub fn read(line: &[u8]) -> Option<Self> {
        let mut record: Self = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
        for member in CHAIN {
            record.fields.remove(member);
        }
        Some(record)
    }

    /// The source: `kms`, or `pipe` or `api` for reports from outside.
    pub fn source(&self) -> &'static str {
        source(&self.kind, self.text("source"))
    }

    /// The app that it is about, hex; empty if it is about none.
    pub fn app_id(&self) -> &str {
        self.text("app_id")
    }

    /// The domain that it belongs to; `None` if it is about the whole KMS.
    pub fn domain(&self) -> Option<DomainName> {
        domain(&self.kind, self.text("role"), self.fields.get("domain").and_then(Value::as_str))
    }

    /// The domain that an app has left by what it says; it belongs to that one too.
    pub fn left_domain(&self) -> Option<DomainName> {
        left_domain(&self.kind, self.fields.get("previous_domain").and_then(Value::as_str))
    }

    /// Its severity. A type that this version does not know counts as `info`.
    pub fn severity(&self) -> Severity {
        let severity = |event: EventType| event.severity_with(self.text("reason"));
        EventType::parse(&self.kind).map_or(Severity::Info, severity)
    }

    fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// The reported text, which was made printable when it was received.
    fn message(&self) -> String {
        let message = self.text("message");
        if message.contains(is_deceptive) { printable(message) } else { message.to_owned() }
    }

    /// A value in the form for a sentence.
    fn value(&self, field: &str) -> String {
        match self.fields.get(field) {
            None | Some(Value::Null) => "unknown".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "unknown".to_owned(),
            Some(Value::String(text)) => short(&printable(text)),
            Some(Value::Array(list)) if list.is_empty() => "none".to_owned(),
            Some(Value::Array(list)) => {
                let texts: Vec<_> = list
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), printable))
                    .collect();
                short(&texts.join(", "))
            }
            Some(other) => short(&other.to_string()),
        }
    }

    /// One sentence. A report from outside begins with its source in brackets, which no other sentence does.
    pub fn sentence(&self) -> String {
        self.known_sentence().unwrap_or_else(|| format!("event of type {}", short(&printable(&self.kind))))
    }

    /// `None` for a type that this version does not know.
    fn known_sentence(&self) -> Option<String> {
        let v = |field| self.value(field);
        // A change that was adopted or made in the background has no address.
        let by = || match self.text("remote") {
            "" => self.value("by"),
            _ => format!("{} from {}", self.value("by"), self.value("remote")),
        };
        let on_node = || match self.text("node") {
            "" => String::new(),
            _ => format!(" of the node {} ({})", self.value("name"), self.value("node")),
        };
        let because = || match self.text("reason") {
            "" => String::new(),
            reason => format!(": {}", short(&printable(reason))),
        };
        // Records say it unless both are 0.
        let of_epochs = || match self.fields.contains_key("epochs") {
            true => format!(" of epoch {}", v("epochs")),
            false => String::new(),
        };
        let of_app = || format!("app {} (instance {})", v("app_id"), v("instance_id"));
        Some(match self.kind.as_str() {
            "started" => format!(
                "KMS version {} started, phase {}; relaxed: {}",
                v("version"),
                v("phase"),
                v("posture")
            ),
            "stopped" => "KMS stopped".to_owned(),
            "log_began" => "the log begins here, but the root keys are older than it".to_owned(),
            "log_renamed" => format!(
                "the log is signed under a new name; as {} it had signed {} records",
                v("previous"),
                v("size")
            ),
            "log_key_changed" => {
                format!("the log is signed with a new key, {}, and was with {}", v("key"), v("previous"))
            }
            "imported" => format!(
                "{} records of an older version, up to {} bytes, were verified and sealed",
                v("lines"),
                v("bytes")
            ),
            "segment_archived" => format!(
                "a closed file was moved away, up to record {}: {} bytes, SHA-256 {}",
                v("last"),
                v("bytes"),
                v("sha256")
            ),
            "image_download_started" => format!("download of OS image {} started", v("image")),
            "image_download_progress" => match self.fields.get("percent") {
                Some(percent) => format!("download of OS image {}: {percent} %", v("image")),
                None => format!("download of OS image {}: {} bytes", v("image"), v("bytes")),
            },
            "image_downloaded" => format!("OS image {} downloaded in {} s", v("image"), v("seconds")),
            "image_download_failed" => format!("download of OS image {} failed{}", v("image"), because()),
            "recovered" => format!(
                "a crash had left an unfinished record of {} bytes, which was cut off; it was never acknowledged",
                v("dropped_bytes")
            ),
            "resumed" => format!("records are written again after {} s ({})", v("seconds"), v("reason")),
            "segment_began" => {
                let mut text =
                    format!("the log goes on in a new file after record {} ({})", v("after"), v("reason"));
                if let Some(bytes) = self.fields.get("damaged_bytes") {
                    let _ = write!(text, "; {bytes} bytes at the end of the old one are damaged");
                }
                text
            }
            "clock_floor_lowered" => format!(
                "the clock floor was lowered from {} to {} (Unix seconds) by {}{}",
                v("from"),
                v("to"),
                by(),
                because()
            ),
            "suppressed" => {
                let from = match self.source() {
                    "kms" => String::new(),
                    outside => format!("[{outside}] "),
                };
                format!("{from}{} events came too fast to be recorded", v("events"))
            }
            "keys_bootstrapped" => format!("root keys were generated for domain {}", v("domain")),
            "keys_received" => {
                format!("root keys for domain {} were received from {}", v("domain"), v("source"))
            }
            "keys_not_received" => {
                let what_to_do = match self.text("code") {
                    "source_invitation_over" => "; ask one of its owners for a new invitation",
                    _ => "",
                };
                format!(
                    "root keys for domain {} were not received from {}: {}{what_to_do}",
                    v("domain"),
                    v("source"),
                    v("code")
                )
            }
            "restore_opened" => format!(
                "officers may restore root keys for domain {} from the recovery set {}: {} shares are needed; opened from {}",
                v("domain"),
                v("set"),
                v("threshold"),
                v("remote")
            ),
            "restore_cancelled" => {
                format!("the restore from the recovery set {} was cancelled from {}", v("set"), v("remote"))
            }
            "keys_restored" => {
                let mut text = format!(
                    "root keys for domain {} were restored from the recovery set {} by {}",
                    v("domain"),
                    v("set"),
                    v("officers")
                );
                if self.fields.contains_key("ledger_checkpoint") {
                    let (origin, at) = (v("ledger_origin"), v("ledger_checkpoint"));
                    let _ = write!(text, "; when the set was made, the log {origin} was at {at}");
                }
                if self.fields.contains_key("apps_with_epochs") {
                    let _ = write!(text, "; with the epochs chosen for {} apps", v("apps_with_epochs"));
                }
                text
            }
            "source_relaxed" => format!(
                "the KMS that root keys came from was allowed by relaxed rules only: {}",
                v("relaxations")
            ),
            "epoch_prepared" => format!("epoch {} of the root keys was made by {}", v("epoch"), by()),
            "epoch_received" => format!(
                "epoch {} of the root keys, {}, was received from {} by {}",
                v("epoch"),
                v("state"),
                v("source"),
                by()
            ),
            "epoch_activated" => {
                let mut text = format!(
                    "epoch {} of the root keys is in force from {} (Unix seconds) on, by {}",
                    v("epoch"),
                    v("at"),
                    by()
                );
                if self.fields.contains_key("except") {
                    let _ = write!(text, "; without these KMSs: {}", v("except"));
                }
                text
            }
            "epoch_retired" => {
                format!(
                    "epoch {} of the root keys was retired by {}: nobody gets its keys any more",
                    v("epoch"),
                    by()
                )
            }
            "epoch_destroyed" => {
                format!("the keys of epoch {} were overwritten by {}", v("epoch"), by())
            }
            "epoch_change_failed" => format!(
                "the change of epoch {} by {} ({}) was not made, or not wholly{}",
                v("epoch"),
                by(),
                v("change"),
                because()
            ),
            "epochs_missing" => {
                format!(
                    "the key directory is older than this log, which says more of root epochs: {}",
                    v("lost")
                )
            }
            "epoch_state_accepted" => match self.text("what") {
                "lost_epochs" => {
                    format!(
                        "a key directory that is older than this log was accepted by {}: {}",
                        by(),
                        v("seen")
                    )
                }
                _ => format!("the epochs chosen for apps were said to be complete by {}", by()),
            },
            "app_epoch_set" if self.text("root_epoch").is_empty() => {
                format!("app {} has the epochs that the policy says, by {}", v("app_id"), by())
            }
            "app_epoch_set" => {
                let root = match self.text("root_epoch") {
                    "current" => "follows the current epoch of the root keys".to_owned(),
                    _ => format!("stays at epoch {} of the root keys", v("root_epoch")),
                };
                let from = match self.text("source") {
                    "" => String::new(),
                    _ => format!(", as received from {}", v("source")),
                };
                format!("app {} {root}, app epoch {}{from}; by {}", v("app_id"), v("app_epoch"), by())
            }
            "app_epochs_received" => format!(
                "the epochs chosen for {} apps were received from {} by {}: {} apps changed, {} have another choice here",
                v("apps"),
                v("source"),
                by(),
                v("changed"),
                v("kept")
            ),
            "domains_received" => format!(
                "{} domains and the domains of {} apps were received from {} with the root keys",
                v("domains"),
                v("apps"),
                v("source")
            ),
            "domain_created" => format!("the domain {} was created by {}", v("domain"), by()),
            "domain_archived" => {
                format!("the domain {} was archived by {}: nothing is released in it", v("domain"), by())
            }
            "domain_restored" => format!("the domain {} was restored by {}", v("domain"), by()),
            "app_assigned" => {
                format!("app {} was put into the domain {} by {}", v("app_id"), v("domain"), by())
            }
            "app_moved" => {
                // Readers of one domain do not see the name of the other one.
                let named = |field, told: &str, other: &str| match self.text(field) {
                    "" => other.to_owned(),
                    _ => format!("{told}{}", v(field)),
                };
                format!(
                    "app {} was moved from {} to {} by {}, and gets other keys",
                    v("app_id"),
                    named("previous_domain", "the domain ", "another domain"),
                    named("domain", "", "another one"),
                    by()
                )
            }
            "domain_change_failed" => format!(
                "the change of the domain {} by {} ({}) was not made{}",
                v("domain"),
                by(),
                v("change"),
                because()
            ),
            "app_key_released" => {
                format!("keys{} were released to {} at {}", of_epochs(), of_app(), v("remote"))
            }
            "kms_key_released" => {
                format!(
                    "root keys were handed over to a KMS (mr_aggregated {}) at {}",
                    v("mr_aggregated"),
                    v("remote")
                )
            }
            "certificate_issued" => {
                format!(
                    "certificate {}{} was issued to {} at {}",
                    v("common_name"),
                    of_epochs(),
                    of_app(),
                    v("remote")
                )
            }
            "denied" => format!("{} at {} was denied ({}){}", of_app(), v("remote"), v("code"), because()),
            "refused" => format!("a request from {} was refused ({}){}", v("remote"), v("code"), because()),
            "withheld" => format!(
                "the release of record {} to {} did not happen: it was withheld",
                v("released"),
                of_app()
            ),
            "frozen" => match self.text("scope") {
                "kms" => format!("the whole KMS was frozen by {}{}", by(), because()),
                scope => {
                    format!("{} {} was frozen by {}{}", short(&printable(scope)), v("value"), by(), because())
                }
            },
            "unfrozen" => match self.text("scope") {
                "kms" => format!("the whole KMS was unfrozen by {}{}", by(), because()),
                scope => format!(
                    "{} {} was unfrozen by {}{}",
                    short(&printable(scope)),
                    v("value"),
                    by(),
                    because()
                ),
            },
            "unfreeze_failed" => match self.text("scope") {
                "kms" => format!("the unfreeze of the whole KMS by {} was not made{}", by(), because()),
                scope => format!(
                    "the unfreeze of {} {} by {} was not made{}",
                    short(&printable(scope)),
                    v("value"),
                    by(),
                    because()
                ),
            },
            "explained" => format!("it was explained to {} how a caller is judged: {}", by(), v("verdict")),
            "shadow_started" => {
                format!("candidate allowlist {} began to run in shadow mode, by {}", v("name"), by())
            }
            "shadow_stopped" => format!(
                "candidate allowlist {} ended: it would have newly allowed {} and newly denied {}; by {}",
                v("name"),
                v("newly_allowed"),
                v("newly_denied"),
                by()
            ),
            "policy_bundle_received" => format!(
                "policy bundle {} of the domain {} with serial {} was received from {}",
                v("bundle"),
                v("domain"),
                v("serial"),
                v("origin")
            ),
            "policy_bundle_activated" => {
                let by = if self.text("by").is_empty() { String::new() } else { format!(", by {}", by()) };
                format!(
                    "policy bundle {} with serial {} decides in the domain {} from now on{by}",
                    v("bundle"),
                    v("serial"),
                    v("domain")
                )
            }
            "policy_bundle_refused" => {
                format!(
                    "a policy bundle from {} was refused in the domain {}{}",
                    v("origin"),
                    v("domain"),
                    because()
                )
            }
            "policy_bundle_held" => format!(
                "policy bundle {} with serial {} waits for an operator in the domain {}: of {} requests it would deny {} that are \
                 allowed{}",
                v("bundle"),
                v("serial"),
                v("domain"),
                v("compared"),
                v("newly_denied"),
                if self.fields.get("denies_this_kms").and_then(Value::as_bool) == Some(true) {
                    ", and this KMS itself"
                } else {
                    ""
                }
            ),
            "policy_forked" => format!(
                "policy bundle {} with serial {} of the domain {} contradicts one that was seen: its signers have signed \
                 two policies; the one in force stays",
                v("bundle"),
                v("serial"),
                v("domain")
            ),
            "policy_serials_lost" => format!(
                "the file with the serials of policy bundles of the domain {} is gone; none below {} is used",
                v("domain"),
                v("floor")
            ),
            "state_adopted" => {
                let by = if self.text("by").is_empty() { String::new() } else { format!(", by {}", by()) };
                let what = match (self.text("change"), self.text("target")) {
                    ("frozen", target) => format!("{target} was frozen"),
                    ("unfrozen", target) => format!("the freeze of {target} was ended"),
                    ("drained", target) => format!("{target} was drained"),
                    ("undrained", target) => format!("the drain of {target} was ended"),
                    (_, "") => match self.text("document") {
                        "drain" => "drains of nodes were changed".to_owned(),
                        "joins" => "invitations of replicas were changed".to_owned(),
                        _ => format!("the {} were changed", v("document")),
                    },
                    (_, target) => format!("{target} was changed"),
                };
                format!("{what} on the node {}{by}; here it is in force too", v("node"))
            }
            "state_alarm" => format!("the state that the nodes share is not believed{}", because()),
            "fleet_alarm" => format!("there is something in the fleet that must not be{}", because()),
            "node_forgotten" => {
                format!("the node {} was forgotten, which is no longer in the fleet, by {}", v("name"), by())
            }
            "state_repaired" => {
                format!(
                    "the state of this node was written over that of its fleet, as number {}, by {}",
                    v("state"),
                    by()
                )
            }
            "replica_invited" => {
                format!(
                    "the replica {} was invited, by {}; invitation {}",
                    v("domain"),
                    by(),
                    v("invitation")
                )
            }
            "replica_progress" => {
                let what = match self.text("stage") {
                    "started" => "has called".to_owned(),
                    "attested" => "has shown evidence that verified".to_owned(),
                    "allowed" => "is allowed by the policy".to_owned(),
                    "keys" => "was sent the root keys".to_owned(),
                    "committed" => "has saved the root keys".to_owned(),
                    "serving" => "serves".to_owned(),
                    _ => format!("has reached the stage {}", v("stage")),
                };
                format!("the invited replica {} {what}; invitation {}", v("domain"), v("invitation"))
            }
            "replica_refused" => format!(
                "the invited replica {} was refused: {}; invitation {}",
                v("domain"),
                v("code"),
                v("invitation")
            ),
            "invitation_ended" => {
                let by = if self.text("by").is_empty() { String::new() } else { format!(", by {}", by()) };
                format!(
                    "the invitation {} of the replica {} has ended: {}{by}",
                    v("invitation"),
                    v("domain"),
                    v("reason")
                )
            }
            "rollout_started" => {
                format!(
                    "the rollout {} of the OS image {} was started, by {}",
                    v("rollout"),
                    v("image"),
                    by()
                )
            }
            "rollout_changed" => {
                let of =
                    if self.text("node").is_empty() { String::new() } else { format!(" {} of", v("node")) };
                let perhaps = match self.fields.get("unconfirmed") {
                    Some(Value::Bool(true)) => "; the database did not confirm it",
                    _ => "",
                };
                format!("{}:{of} the rollout {}, by {}{perhaps}", v("change"), v("rollout"), by())
            }
            "rollout_node" => {
                format!("{} is {} now{}; rollout {}", v("node"), v("to"), because(), v("rollout"))
            }
            "rollout_failed" => {
                format!("the rollout {} has paused: {} failed{}", v("rollout"), v("node"), because())
            }
            "rollout_ended" => format!(
                "the rollout {} is {}: {} nodes done, {} failed, {} skipped",
                v("rollout"),
                v("state"),
                v("done"),
                v("failed"),
                v("skipped")
            ),
            "state_set_aside" => format!(
                "the {} of this node were replaced by those of the fleet; the file {} keeps them",
                v("document"),
                v("file")
            ),
            "collateral_refreshed" => {
                format!(
                    "collateral of {} models was fetched again, {} failed; by {}",
                    v("models"),
                    v("failed"),
                    by()
                )
            }
            "collateral_refused" => {
                let from = match v("source").as_ref() {
                    "disk" => "kept collateral",
                    _ => "the collateral of a service",
                };
                format!("{from} was refused{}", because())
            }
            "action_started" => format!("executing action: {}{}, by {}", v("action"), on_node(), by()),
            "action_succeeded" => format!("action {}{} succeeded", v("action"), on_node()),
            "action_failed" => format!("action {}{} failed{}", v("action"), on_node(), because()),
            "setting_changed" => format!(
                "setting {} was changed from {} to {} by {}",
                v("setting"),
                v("previous"),
                v("value"),
                by()
            ),
            "reloaded" => format!(
                "reloaded; changed settings: {}; settings that need a restart: {}; by {}",
                v("changed"),
                v("restart_required"),
                v("by")
            ),
            "restart_requested" => format!("a restart was requested by {}", by()),
            "file_uploaded" => format!(
                "file {} was uploaded: {} bytes, SHA-256 {}; by {}",
                v("name"),
                v("bytes"),
                v("sha256"),
                by()
            ),
            "file_upload_failed" => {
                format!("file {} with SHA-256 {} is not in force{}", v("name"), v("sha256"), because())
            }
            "owner_created" => format!("the first start made the credential {} of an owner", v("name")),
            "credential_created" => {
                let domain = match self.text("domain") {
                    "" => String::new(),
                    _ => format!(" in the domain {}", v("domain")),
                };
                format!(
                    "credential {} with the role {}{domain} was created by {}",
                    v("name"),
                    v("role"),
                    by()
                )
            }
            "credential_rotated" if self.fields.get("invited") == Some(&Value::Bool(true)) => {
                format!("credential {} got an invitation to replace its secret, by {}", v("name"), by())
            }
            "credential_rotated" => format!("credential {} got another secret, by {}", v("name"), by()),
            "credential_activated" => format!("credential {} was activated from {}", v("name"), v("remote")),
            "old_secret_ended" => {
                format!("the new secret of credential {} was used, so the old one has ended", v("name"))
            }
            "basic_auth_set" => format!("the secret of the owner {} was chosen by {}", v("name"), by()),
            "credential_revoked" => format!("credential {} was revoked by {}", v("name"), by()),
            "credential_change_failed" => {
                format!(
                    "the change of credential {} by {} is not in force: it could not be kept, or the other nodes decided otherwise",
                    v("name"),
                    by()
                )
            }
            "credentials_refused" => {
                format!("wrong {} from {} on the {} listener", v("shown"), v("remote"), v("listener"))
            }
            "approval_requested" => {
                format!("request {} of {} needs a second owner: {}", v("id"), by(), v("detail"))
            }
            "approval_approved" => format!(
                "request {} of {} was approved by {}: {}",
                v("id"),
                v("requested_by"),
                by(),
                v("detail")
            ),
            "approval_rejected" => {
                format!(
                    "request {} of {} ({}) was rejected by {}",
                    v("id"),
                    v("requested_by"),
                    v("action"),
                    by()
                )
            }
            "approval_expired" => format!("request {} ({}) has ended{}", v("id"), v("action"), because()),
            "approval_done" => format!("request {} ({}) is done: {}", v("id"), v("action"), v("result")),
            "approval_failed" => format!("request {} ({}) failed{}", v("id"), v("action"), because()),
            "approval_waived" => {
                format!(
                    "no second owner was needed, because there are fewer than two; by {}: {}",
                    by(),
                    v("detail")
                )
            }
            "reported" => match self.text("by") {
                "" => format!("[{}] {}", self.source(), self.message()),
                by => format!("[{}, {}] {}", self.source(), short(&printable(by)), self.message()),
            },
            "recovery_set_created" => {
                let retires = match self.text("retires") {
                    "" => String::new(),
                    _ => format!(
                        "; set {} counts no more, but its shares still open the root keys of then",
                        v("retires")
                    ),
                };
                format!(
                    "recovery set {} was made by {}: {} of the officers {} restore the root keys of epochs {}; manifest SHA-256 {}{retires}",
                    v("set"),
                    by(),
                    v("threshold"),
                    v("officers"),
                    v("epochs"),
                    v("manifest_sha256")
                )
            }
            "recovery_set_failed" => format!("recovery set {} does not count{}", v("set"), because()),
            "recovery_drill_started" => {
                format!("a drill of recovery set {} was started by {}", v("set"), by())
            }
            "recovery_drill" => format!(
                "recovery set {} gave the root keys in a drill, with the shares of {}",
                v("set"),
                v("officers")
            ),
            "recovery_drill_failed" => {
                format!(
                    "a drill of recovery set {} failed, with the shares of {}{}",
                    v("set"),
                    v("officers"),
                    because()
                )
            }
            "recovery_drill_cancelled" => {
                format!(
                    "a drill of recovery set {} ended early, with the shares of {}{}",
                    v("set"),
                    v("officers"),
                    because()
                )
            }
            "recovery_drill_reminder" => format!("reminded by {}{}", by(), because()),
            "caches_cleared" => format!("caches of OS images were cleared by {}", by()),
            _ => return None,
        })
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The text without anything that can change how a line looks: control characters, line and paragraph
/// separators, marks of direction and characters without width become `\u{…}`, and a backslash becomes two.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => printable.push_str(r"\\"),
            '\n' => printable.push_str(r"\n"),
            '\t' => printable.push_str(r"\t"),
            '\r' => printable.push_str(r"\r"),
            _ if is_deceptive(character) => {
                let _ = write!(printable, "{}", character.escape_unicode());
            }
            _ => printable.push(character),
        }
    }
    printable
}

fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, fields: &str) -> Record {
        let line = format!(
            r#"{{"seq":7,"time":"2026-01-02T03:04:05.678Z","prev":"00","event":"{kind}"{fields},"hash":"11"}}"#
        );
        Record::read(line.as_bytes()).expect("a record")
    }

    /// The names of the variants of `Event`, as they are recorded.
    fn kinds() -> Vec<String> {
        let source = include_str!("event.rs");
        let variants = source.split_once("pub enum Event {").expect("the enum").1;
        let variants = variants.split_once("\n}\n").expect("its end").0;
        let is_variant = |line: &&str| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase();
        let name = |line: &str| line.trim().trim_end_matches([' ', '{', ',']).to_owned();
        let snake = |name: String| {
            let parts = name.char_indices().map(|(at, c)| match c.is_ascii_uppercase() && at > 0 {
                true => format!("_{}", c.to_ascii_lowercase()),
                false => c.to_ascii_lowercase().to_string(),
            });
            parts.collect::<String>()
        };
        variants.lines().filter(|line| line.len() > 5).filter(is_variant).map(name).map(snake).collect()
    }

    #[test]
    fn every_type_of_event_has_a_sentence() {
        let kinds = kinds();
        assert_eq!(kinds.len(), EventType::ALL.len());
        assert!(kinds.len() >= 28 && kinds.contains(&"app_key_released".to_owned()), "{kinds:?}");
        for kind in kinds {
            let record = record(&kind, "");
            assert!(record.known_sentence().is_some(), "no sentence for {kind}");
            assert!(EventType::parse(&kind).is_some(), "no type for {kind}");
            assert!(!record.sentence().contains('\n'));
        }
        assert_eq!(record("of_later", "").sentence(), "event of type of_later");
    }

    #[test]
    fn sentences_say_who_and_what() {
        for (kind, fields, sentence) in [
            (
                "app_key_released",
                r#","app_id":"aa","instance_id":"bb","remote":"10.0.0.1""#,
                "keys were released to app aa (instance bb) at 10.0.0.1",
            ),
            (
                "frozen",
                r#","scope":"app","value":"aa","reason":"stolen","by":"user eve","remote":"::1""#,
                "app aa was frozen by user eve from ::1: stolen",
            ),
            (
                "unfreeze_failed",
                r#","scope":"app","value":"aa","reason":"no disk","by":"user eve","remote":"::1""#,
                "the unfreeze of app aa by user eve from ::1 was not made: no disk",
            ),
            (
                "keys_not_received",
                r#","domain":"d","source":"https://s","code":"source_invitation_over","remote":"::1""#,
                "root keys for domain d were not received from https://s: source_invitation_over; ask one of its owners for a new invitation",
            ),
            ("unfrozen", r#","scope":"app","value":"aa","by":"token""#, "app aa was unfrozen by token"),
            (
                "replica_progress",
                r#","domain":"127.0.0.1","stage":"keys","invitation":"7""#,
                "the invited replica 127.0.0.1 was sent the root keys; invitation 7",
            ),
            (
                "state_adopted",
                r#","document":"drain","change":"changed","target":"","by":"user amy","node":"two""#,
                "drains of nodes were changed on the node two, by user amy; here it is in force too",
            ),
            ("suppressed", r#","events":3"#, "3 events came too fast to be recorded"),
            ("suppressed", r#","events":3,"source":"pipe""#, "[pipe] 3 events came too fast to be recorded"),
            (
                "keys_restored",
                r#","domain":"d","set":"s","officers":["ann","bob"],"ledger_origin":"o","ledger_checkpoint":"7 aa=""#,
                "root keys for domain d were restored from the recovery set s by ann, bob; when the set was made, the log o was at 7 aa=",
            ),
            ("reported", r#","source":"pipe","message":"disk swapped""#, "[pipe] disk swapped"),
            ("reported", r#","source":"api","message":"x","by":"token","remote":"::1""#, "[api, token] x"),
            (
                "started",
                r#","version":"1","phase":"ready","posture":[]"#,
                "KMS version 1 started, phase ready; relaxed: none",
            ),
        ] {
            assert_eq!(record(kind, fields).sentence(), sentence);
        }
    }

    #[test]
    fn values_of_others_neither_break_a_line_nor_fill_it() {
        let long = "x".repeat(5000);
        let fields =
            format!(r#","app_id":"aa","code":"c","reason":"a\nb\u001b[2J\u202e{long}","remote":"::1""#);
        let sentence = record("denied", &fields).sentence();
        assert!(sentence.ends_with('…') && sentence.len() < 500, "{sentence}");
        assert!(sentence.contains(r"a\nb\u{1b}[2J\u{202e}xxx"), "{sentence}");
    }

    #[test]
    fn no_sentence_of_ours_begins_like_one_from_outside() {
        // These two have a source.
        let is_ours = |kind: &&String| !["reported", "suppressed"].contains(&kind.as_str());
        for kind in kinds().iter().filter(is_ours) {
            let record =
                record(kind, r#","source":"[pipe] x","scope":"[pipe] x","by":"[pipe] x","reason":"[pipe]""#);
            assert_eq!(record.source(), "kms");
            // The scope is one of our own words.
            assert!(kind.ends_with("frozen") || !record.sentence().starts_with('['), "{kind}");
        }
    }

    #[test]
    fn what_is_printable_stays_and_the_rest_is_named() {
        for (given, shown) in [
            ("plain – ünïcode 漢字 🙂", "plain – ünïcode 漢字 🙂"),
            ("a\0b\u{7f}\u{85}", r"a\u{0}b\u{7f}\u{85}"),
            ("line\u{2028}para\u{2029}", r"line\u{2028}para\u{2029}"),
            ("\u{202e}evil\u{200b}\u{feff}", r"\u{202e}evil\u{200b}\u{feff}"),
            (r"\n", r"\\n"),
        ] {
            assert_eq!(printable(given), shown);
        }
    }
}
