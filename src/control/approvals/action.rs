//! What waits for a second owner: each kind of change with everything that it needs to be made later.

mod credentials;
mod epochs;
mod fleet;
mod freezes;

use kms_attest::identity::DomainName;
use kms_recovery::Named;
use kms_wire::role::Role;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::credentials::{OwnerCredential, ReplaceHtpasswd};
pub use self::epochs::{Accepted, EpochAction, FollowedEpoch, FollowedState};
pub use self::fleet::{ForgetNode, InviteReplica, RepairFleet, StartRollout};
pub use self::freezes::{SeenFreeze, Unfreeze};
use super::super::Scope;
use crate::clock::rfc3339;
use crate::operator::{Person, Users};

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

/// Splits the root keys among officers. The set before counts no more, but its shares still open the keys that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRecoverySet {
    /// Who gets a share, encrypted to which key.
    pub officers: Vec<Named>,
    /// How many of them restore.
    pub threshold: u8,
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
