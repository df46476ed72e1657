//! What waits for a second owner: each kind of change with everything that it needs to be made later.

use kms_attest::identity::DomainName;
use kms_recovery::Named;
use kms_wire::role::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::{Freeze, NewCredential, OwnerSecret, Scope, ScopeError};
use crate::clock::rfc3339;
use crate::operator::{Person, UserChanges, Users};
use crate::state::rollout::Rollout;

/// A change that needs two owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Ends a freeze.
    Unfreeze(Unfreeze),
    /// Ignores the dates of earlier audit records.
    LowerClockFloor(LowerClockFloor),
    /// Puts an allowlist in force.
    ActivatePolicy(ActivatePolicy),
    /// Puts a signed bundle of a policy in force.
    ActivateBundle(ActivateBundle),
    /// Replaces the users of the htpasswd file.
    ReplaceHtpasswd(ReplaceHtpasswd),
    /// Changes a credential of an owner.
    OwnerCredential(OwnerCredential),
    /// Makes a recovery set.
    CreateRecoverySet(CreateRecoverySet),
    /// Changes the epochs of the root keys.
    Epoch(EpochAction),
    /// Moves an app to another domain.
    MoveApp(MoveApp),
    /// Writes the state of this node over that of its fleet.
    RepairFleet(RepairFleet),
    /// Ends the archival of a domain.
    RestoreDomain(RestoreDomain),
    /// Invites a replica.
    InviteReplica(InviteReplica),
    /// Starts a rollout over the nodes of the fleet.
    StartRollout(StartRollout),
    /// Forgets a node of the fleet.
    ForgetNode(ForgetNode),
}

/// Removes what a node of the fleet said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetNode {
    /// Its id, hex.
    pub node: String,
    /// What people call it.
    pub name: String,
}

/// Starts a rollout of an OS image over the nodes of the fleet, one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// The hash of the OS image, hex.
    pub image: String,
    /// What each node must measure, hex, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_aggregated: Option<String>,
    /// The names of the nodes in their order.
    pub nodes: Vec<String>,
    /// How many other nodes must serve whenever one is taken out of service.
    pub min_serving: u32,
    /// How long a node is drained before it is replaced, in seconds.
    pub drain_for: u64,
    /// How long a node must be healthy without a gap, in seconds.
    pub healthy_for: u64,
    /// How long a node may take, in seconds.
    pub node_timeout: u64,
    /// Whether a program of the operators replaces the nodes.
    pub driven: bool,
}

/// Makes an invitation by which one more KMS may get the root keys, if evidence and policy allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteReplica {
    /// The name in its certificate.
    pub domain: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How it reaches this KMS, where that is not as CVMs do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// For how many seconds it is valid, from its approval on.
    pub valid_for: u64,
}

/// Writes the state of this node over whatever the nodes of its fleet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairFleet {
    /// The number of the newest state that this node knows: with a newer one by then, nothing is written.
    pub state: u64,
}

/// Lets keys be released in an archived domain again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDomain {
    /// The domain.
    pub name: DomainName,
    /// When it was archived, Unix seconds: one that was archived again later stays so.
    pub archived_at: u64,
    /// Who archived it.
    pub archived_by: String,
}

/// Moves an app to another domain, so that it gets other keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveApp {
    /// Its id.
    #[serde(with = "hex::serde")]
    pub app_id: [u8; 20],
    /// The domain that it is in; an app that is in another one by then stays there.
    pub from: DomainName,
    /// The domain that it will be in.
    pub to: DomainName,
    /// What it will lose, as a sentence: which keys, and since when it has had them.
    pub loses: String,
}

/// Changes the epochs of the root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum EpochAction {
    /// Makes new root keys.
    Prepare {
        /// The number that they get.
        epoch: u32,
    },
    /// Lets apps get keys of an epoch.
    Activate {
        /// Its number.
        epoch: u32,
        /// SHA-256 of its public secp256k1 key, hex: the owners see which keys they mean.
        fingerprint: String,
        /// From when on, Unix seconds; absent for the time at which it is carried out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
        /// The ids of replicas that do not have it and are left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
    /// Lets nobody get keys of an epoch any more.
    Retire {
        /// Its number.
        epoch: u32,
        /// As above.
        fingerprint: String,
    },
    /// Overwrites the keys of an epoch.
    Destroy {
        /// Its number.
        epoch: u32,
        /// As above.
        fingerprint: String,
    },
    /// Accepts a state of epochs that the KMS warns of.
    Accept {
        /// Which.
        what: Accepted,
        /// What the owners see: what is lost, or the SHA-256 of the choices in hex.
        seen: Vec<String>,
    },
    /// Takes over the states that another KMS says its epochs have.
    Follow {
        /// The address of that KMS.
        source: String,
        /// What changes here, in order of the epochs.
        epochs: Vec<FollowedEpoch>,
        /// As above.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
}

/// What owners accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// The key directory is older than the audit log, and nothing newer exists.
    LostEpochs,
    /// The epochs chosen for apps are complete, after a restore or a handover that did not bring all.
    AppEpochs,
}

impl Accepted {
    /// Its name, as in JSON and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostEpochs => "lost_epochs",
            Self::AppEpochs => "app_epochs",
        }
    }
}

/// What another KMS says of an epoch, where it is further than here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowedEpoch {
    /// Its number.
    pub epoch: u32,
    /// SHA-256 of its public secp256k1 key, hex.
    pub fingerprint: String,
    /// Its state there.
    pub to: FollowedState,
}

/// The state to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowedState {
    /// In force from this time on, Unix seconds.
    ActiveFrom(u64),
    /// Nobody gets its keys any more.
    Retired,
}

/// Ends a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfreeze {
    /// The name of its scope.
    pub scope: String,
    /// The value of its scope.
    #[serde(with = "hex::serde")]
    pub value: Vec<u8>,
    /// Why it ends; may be empty.
    pub reason: String,
    /// The freeze that ends; another one of the same scope stays. `None` ends each.
    pub freeze: Option<SeenFreeze>,
}

/// What identifies a freeze among those of its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenFreeze {
    /// When it began, Unix seconds.
    pub since: u64,
    /// When it expires, Unix seconds.
    pub expires_at: Option<u64>,
    /// Its reason.
    pub reason: String,
    /// The operator.
    pub by: String,
}

/// Ignores the dates of earlier audit records, because the clock was ahead when they were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowerClockFloor {
    /// How the clock came to be ahead.
    pub reason: String,
    /// The clock of this KMS when an operator compared it, Unix seconds: an earlier one is not confirmed.
    pub clock: u64,
}

/// Puts an allowlist in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivatePolicy {
    /// Its text.
    pub document: String,
    /// SHA-256 of the policy that it replaces, hex; another one in force is not replaced.
    pub replaces: Option<String>,
}

/// Puts a signed bundle of a policy in force: the one that waits, if it has this digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateBundle {
    /// The domain whose requests it decides.
    pub domain: String,
    /// Its name.
    pub name: String,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its text, hex.
    pub digest: String,
}

/// Replaces the users of the htpasswd file, who are owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceHtpasswd {
    /// The new file: names and bcrypt hashes.
    pub document: String,
    /// SHA-256 of the file that it replaces, hex.
    pub replaces: Option<String>,
    /// In which users it differs from that.
    #[serde(default)]
    pub changes: UserChanges,
}

/// Splits the root keys among officers. The set before counts no more, but its shares still open the keys that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRecoverySet {
    /// Who gets a share, encrypted to which key.
    pub officers: Vec<Named>,
    /// How many of them restore.
    pub threshold: u8,
}

/// Changes a credential of an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum OwnerCredential {
    /// Creates it.
    Create {
        /// Its name.
        name: String,
        /// The domain to which it is limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// Its end, Unix seconds.
        expires_at: Option<u64>,
    },
    /// Replaces its secret.
    Rotate {
        /// Its name.
        name: String,
        /// When it was created, Unix seconds: a later one of the same name stays as it is.
        created_at: u64,
    },
    /// Revokes it.
    Revoke {
        /// Its name.
        name: String,
        /// As above.
        created_at: u64,
    },
    /// Sets a secret that the requester has chosen, and creates the credential if there is none.
    SetSecret {
        /// Its name.
        name: String,
        /// Argon2id hash of the secret, PHC form.
        hash: String,
        /// As above, if there is one.
        created_at: Option<u64>,
    },
}

impl Action {
    /// The stable name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unfreeze(_) => "unfreeze",
            Self::LowerClockFloor(_) => "lower_clock_floor",
            Self::ActivatePolicy(_) => "activate_policy",
            Self::ActivateBundle(_) => "activate_bundle",
            Self::ReplaceHtpasswd(_) => "replace_htpasswd",
            Self::OwnerCredential(OwnerCredential::Create { .. }) => "create_owner",
            Self::OwnerCredential(OwnerCredential::Rotate { .. }) => "rotate_owner",
            Self::OwnerCredential(OwnerCredential::Revoke { .. }) => "revoke_owner",
            Self::OwnerCredential(OwnerCredential::SetSecret { .. }) => "set_owner_secret",
            Self::CreateRecoverySet(_) => "create_recovery_set",
            Self::Epoch(EpochAction::Prepare { .. }) => "prepare_epoch",
            Self::Epoch(EpochAction::Activate { .. }) => "activate_epoch",
            Self::Epoch(EpochAction::Retire { .. }) => "retire_epoch",
            Self::Epoch(EpochAction::Destroy { .. }) => "destroy_epoch",
            Self::Epoch(EpochAction::Accept { .. }) => "accept_epoch_state",
            Self::Epoch(EpochAction::Follow { .. }) => "follow_epochs",
            Self::MoveApp(_) => "move_app",
            Self::RepairFleet(_) => "repair_fleet",
            Self::RestoreDomain(_) => "restore_domain",
            Self::InviteReplica(_) => "invite_replica",
            Self::StartRollout(_) => "start_rollout",
            Self::ForgetNode(_) => "forget_node",
        }
    }

    /// The domain that it is about; `None` if it is about the whole KMS, or if it does not say.
    pub fn domain(&self) -> Option<DomainName> {
        match self {
            Self::ActivateBundle(ActivateBundle { domain, .. })
            | Self::OwnerCredential(OwnerCredential::Create { domain: Some(domain), .. }) => {
                domain.parse().ok()
            }
            Self::Unfreeze(_)
            | Self::LowerClockFloor(_)
            | Self::ActivatePolicy(_)
            | Self::ReplaceHtpasswd(_)
            | Self::OwnerCredential(_)
            | Self::CreateRecoverySet(_)
            | Self::Epoch(_)
            | Self::MoveApp(_)
            | Self::RepairFleet(_)
            | Self::RestoreDomain(_)
            | Self::ForgetNode(_)
            | Self::InviteReplica(_)
            | Self::StartRollout(_) => None,
        }
    }

    /// SHA-256 of what will be done, hex: of the document, or of the whole action as JSON where it has none.
    pub fn sha256(&self) -> String {
        match self.document() {
            Some(document) => hex::encode(Sha256::digest(document)),
            None => hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default())),
        }
    }

    /// The document that will be put in force, which may be long.
    pub fn document(&self) -> Option<&str> {
        match self {
            Self::ActivatePolicy(ActivatePolicy { document, .. })
            | Self::ReplaceHtpasswd(ReplaceHtpasswd { document, .. }) => Some(document),
            Self::Unfreeze(_)
            | Self::LowerClockFloor(_)
            | Self::ActivateBundle(_)
            | Self::OwnerCredential(_)
            | Self::CreateRecoverySet(_)
            | Self::Epoch(_)
            | Self::MoveApp(_)
            | Self::RepairFleet(_)
            | Self::RestoreDomain(_)
            | Self::ForgetNode(_)
            | Self::InviteReplica(_)
            | Self::StartRollout(_) => None,
        }
    }

    /// The document as an operator with this role may see it. Hashes of passwords are shown to nobody.
    pub fn shown_to(&self, role: Option<Role>) -> Option<String> {
        match self {
            Self::ActivatePolicy(ActivatePolicy { document, .. }) => Some(document.clone()),
            Self::ReplaceHtpasswd(ReplaceHtpasswd { document, .. }) if role == Some(Role::Owner) => {
                Users::parse(document).ok().map(|users| users.digests())
            }
            // With the keys, which the sentence has no space for.
            Self::CreateRecoverySet(CreateRecoverySet { officers, .. }) => {
                let line = |officer: &Named| format!("{} {}\n", officer.name, officer.recipient);
                Some(officers.iter().map(line).collect())
            }
            Self::ReplaceHtpasswd(_)
            | Self::ActivateBundle(_)
            | Self::Unfreeze(_)
            | Self::LowerClockFloor(_)
            | Self::OwnerCredential(_)
            | Self::Epoch(_)
            | Self::MoveApp(_)
            | Self::RepairFleet(_)
            | Self::RestoreDomain(_)
            | Self::ForgetNode(_)
            | Self::InviteReplica(_)
            | Self::StartRollout(_) => None,
        }
    }

    /// The same without its document or hash, which nobody needs after its end.
    pub(super) fn without_document(&self) -> Self {
        let mut action = self.clone();
        match &mut action {
            Self::OwnerCredential(OwnerCredential::SetSecret { hash, .. }) => *hash = String::new(),
            Self::ActivatePolicy(ActivatePolicy { document, .. })
            | Self::ReplaceHtpasswd(ReplaceHtpasswd { document, .. }) => *document = String::new(),
            Self::Unfreeze(_)
            | Self::LowerClockFloor(_)
            | Self::ActivateBundle(_)
            | Self::OwnerCredential(_)
            | Self::CreateRecoverySet(_)
            | Self::Epoch(_)
            | Self::MoveApp(_)
            | Self::RepairFleet(_)
            | Self::RestoreDomain(_)
            | Self::ForgetNode(_)
            | Self::InviteReplica(_)
            | Self::StartRollout(_) => {}
        }
        action
    }

    /// What will be done, as a sentence for the owner who approves it.
    pub fn detail(&self) -> String {
        let until = |end: Option<u64>| {
            end.map_or("without an end".to_owned(), |end| format!("until {}", rfc3339(end)))
        };
        match self {
            Self::Unfreeze(Unfreeze { scope, value, reason, freeze }) => {
                let mut text = match Scope::parse(scope, value) {
                    Ok(scope) => format!("unfreeze {scope}"),
                    Err(_) => "unfreeze nothing: the scope is not valid".to_owned(),
                };
                if let Some(SeenFreeze { since, reason, by, .. }) = freeze {
                    text.push_str(&format!(", frozen since {} by {by} ({reason})", rfc3339(*since)));
                }
                if !reason.is_empty() {
                    text.push_str(&format!("; because: {reason}"));
                }
                text
            }
            Self::LowerClockFloor(LowerClockFloor { reason, clock }) => format!(
                "ignore the dates of earlier audit records, because the clock was ahead, and right at {}: {reason}",
                rfc3339(*clock)
            ),
            Self::ActivatePolicy(ActivatePolicy { document, replaces }) => format!(
                "put the allowlist of {} bytes with SHA-256 {} in force, instead of {}",
                document.len(),
                self.sha256(),
                replaces.as_deref().unwrap_or("the one there is")
            ),
            Self::ActivateBundle(ActivateBundle { domain, name, serial, digest }) => format!(
                "put the signed policy bundle {name} with serial {serial} and digest {digest} in force in the domain {domain}"
            ),
            Self::ReplaceHtpasswd(ReplaceHtpasswd { changes, .. }) => {
                format!("replace the htpasswd file, whose users are owners; {changes}")
            }
            Self::OwnerCredential(OwnerCredential::Create { name, domain, expires_at }) => {
                let domain =
                    domain.as_ref().map(|domain| format!(" of the domain {domain}")).unwrap_or_default();
                let until = until(*expires_at);
                format!(
                    "invite {name} as an owner{domain}, {until}; each of the two owners gets half of the invitation"
                )
            }
            Self::OwnerCredential(OwnerCredential::Rotate { name, .. }) => {
                format!(
                    "replace the secret of the owner {name} by an invitation, of which each of the two owners gets half"
                )
            }
            Self::OwnerCredential(OwnerCredential::Revoke { name, .. }) => format!("revoke the owner {name}"),
            Self::OwnerCredential(OwnerCredential::SetSecret { name, .. }) => {
                format!("let the owner {name} have the secret that the requester has chosen")
            }
            Self::CreateRecoverySet(CreateRecoverySet { officers, threshold }) => {
                let named: Vec<&str> = officers.iter().map(|officer| officer.name.as_str()).collect();
                format!(
                    "split the root keys among {} officers, of whom {threshold} restore them: {}",
                    officers.len(),
                    named.join(", ")
                )
            }
            Self::Epoch(action) => action.detail(),
            Self::MoveApp(MoveApp { app_id, from, to, loses }) => {
                format!("move the app {} from the domain {from} to {to}; {loses}", hex::encode(app_id))
            }
            Self::RepairFleet(RepairFleet { state }) => format!(
                "write the freezes, credentials, domains and epochs of apps that this node has, as of state {state}, over those of all nodes"
            ),
            Self::RestoreDomain(RestoreDomain { name, archived_at, archived_by }) => format!(
                "let keys be released in the domain {name} again, archived since {} by {archived_by}",
                rfc3339(*archived_at)
            ),
            Self::InviteReplica(InviteReplica { domain, label, source_url, valid_for }) => {
                let label = label.as_ref().map_or_else(String::new, |label| format!(" ({label})"));
                let from = source_url.as_ref().map_or_else(String::new, |url| format!(" from {url}"));
                format!(
                    "invite {domain}{label} to get the root keys{from}, within {valid_for} s of the approval"
                )
            }
            Self::ForgetNode(ForgetNode { node, name }) => {
                format!("forget the node {name} ({node}), which is no longer in the fleet")
            }
            Self::StartRollout(StartRollout { image, nodes, min_serving, .. }) => format!(
                "roll the OS image {image} out, with {min_serving} other nodes serving, over {}",
                nodes.join(", ")
            ),
        }
    }

    /// Whether this person may make the change alone: it concerns their own secret or their own standing only.
    pub(super) fn is_own_of(&self, person: &Person) -> bool {
        let (Person::Named { name: own, created_at: since }, Self::OwnerCredential(change)) = (person, self)
        else {
            return false;
        };
        match change {
            OwnerCredential::Rotate { name, created_at } | OwnerCredential::Revoke { name, created_at } => {
                name == own && created_at == since
            }
            OwnerCredential::SetSecret { name, created_at, .. } => name == own && *created_at == Some(*since),
            OwnerCredential::Create { .. } => false,
        }
    }

    /// Whether it gives a KMS with one owner its second one.
    pub(super) fn adds_owner(&self) -> bool {
        let Self::OwnerCredential(change) = self else { return false };
        match change {
            OwnerCredential::Create { .. } => true,
            OwnerCredential::SetSecret { created_at, .. } => created_at.is_none(),
            OwnerCredential::Rotate { .. } | OwnerCredential::Revoke { .. } => false,
        }
    }

    /// Whether an owner who is limited to a domain may not make it. Of credentials each change checks its own domain.
    pub fn concerns_whole_kms(&self) -> bool {
        !matches!(self, Self::OwnerCredential(_))
    }

    /// Whether an owner may approve it who may have been revoked on another node: it only revokes, or ends that this is not known.
    pub fn counts_while_stale(&self) -> bool {
        matches!(self, Self::RepairFleet(_) | Self::OwnerCredential(OwnerCredential::Revoke { .. }))
    }
}

impl EpochAction {
    /// As a sentence for the owner who approves it.
    fn detail(&self) -> String {
        match self {
            Self::Prepare { epoch } => {
                format!("make new root keys, epoch {epoch}; no app gets keys of them yet")
            }
            Self::Activate { epoch, fingerprint, at, except } => {
                let from = at
                    .map_or_else(|| "when this is approved".to_owned(), |at| format!("from {}", rfc3339(at)));
                let mut text =
                    format!("let apps that follow get keys of epoch {epoch} (SHA-256 {fingerprint}) {from}");
                if !except.is_empty() {
                    text.push_str(&format!("; these replicas do not have it: {}", except.join(", ")));
                }
                text
            }
            Self::Retire { epoch, fingerprint } => {
                format!(
                    "let nobody get keys of epoch {epoch} (SHA-256 {fingerprint}) any more, which is final"
                )
            }
            Self::Destroy { epoch, fingerprint } => format!(
                "overwrite the keys of epoch {epoch} (SHA-256 {fingerprint}): what was encrypted with them is lost"
            ),
            Self::Accept { what: Accepted::LostEpochs, seen } => format!(
                "accept that the key directory is older than the audit log, and that nothing newer exists: {}",
                seen.join("; ")
            ),
            Self::Accept { what: Accepted::AppEpochs, seen } => format!(
                "say that the epochs chosen for apps are complete (SHA-256 {}); compare kmsctl epoch apps",
                seen.join(", ")
            ),
            Self::Follow { source, epochs, except } => {
                let change = |followed: &FollowedEpoch| {
                    let FollowedEpoch { epoch, fingerprint, to } = followed;
                    match to {
                        FollowedState::ActiveFrom(at) => {
                            format!(
                                "epoch {epoch} (SHA-256 {fingerprint}) is in force from {} on",
                                rfc3339(*at)
                            )
                        }
                        FollowedState::Retired => format!(
                            "nobody gets keys of epoch {epoch} (SHA-256 {fingerprint}) any more, which is final"
                        ),
                    }
                };
                let changes: Vec<String> = epochs.iter().map(change).collect();
                let mut text = format!("follow the KMS at {source}: {}", changes.join("; "));
                if !except.is_empty() {
                    text.push_str(&format!("; these replicas lack an epoch: {}", except.join(", ")));
                }
                text
            }
        }
    }
}

impl OwnerCredential {
    /// The creation of `new`.
    pub fn create(new: &NewCredential) -> Self {
        Self::Create {
            name: new.name.to_string(),
            domain: new.domain.as_ref().map(ToString::to_string),
            expires_at: new.expires_at,
        }
    }

    /// A secret that the requester has chosen.
    pub fn set_secret(secret: &OwnerSecret) -> Self {
        let OwnerSecret { name, hash, created_at } = secret;
        Self::SetSecret { name: name.to_string(), hash: hash.as_str().to_owned(), created_at: *created_at }
    }
}

impl StartRollout {
    /// What was started.
    pub fn of(rollout: &Rollout) -> Self {
        Self {
            image: hex::encode(rollout.image),
            mr_aggregated: rollout.mr_aggregated.map(|measured| hex::encode(measured.0)),
            nodes: rollout.nodes.iter().map(|node| node.name.clone()).collect(),
            min_serving: rollout.min_serving,
            drain_for: rollout.drain_for,
            healthy_for: rollout.healthy_for,
            node_timeout: rollout.node_timeout,
            driven: rollout.driven,
        }
    }
}

impl Unfreeze {
    /// The scope.
    ///
    /// # Errors
    /// It is not one.
    pub fn scope(&self) -> Result<Scope, ScopeError> {
        Scope::parse(&self.scope, &self.value)
    }
}

impl From<&Freeze> for SeenFreeze {
    fn from(freeze: &Freeze) -> Self {
        Self {
            since: freeze.since,
            expires_at: freeze.expires_at,
            reason: freeze.reason.clone(),
            by: freeze.author.by.clone(),
        }
    }
}

/// Makes each kind an [`Action`].
macro_rules! kinds {
    ($($kind:ident,)*) => {
        $(impl From<$kind> for Action {
            fn from(action: $kind) -> Self {
                Self::$kind(action)
            }
        })*
    };
}

kinds!(
    MoveApp,
    RepairFleet,
    RestoreDomain,
    InviteReplica,
    StartRollout,
    ForgetNode,
    Unfreeze,
    LowerClockFloor,
    ActivatePolicy,
    ActivateBundle,
    ReplaceHtpasswd,
    OwnerCredential,
    CreateRecoverySet,
);

impl From<EpochAction> for Action {
    fn from(action: EpochAction) -> Self {
        Self::Epoch(action)
    }
}
