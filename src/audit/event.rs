//! The events of the audit log: releases, refusals and actions of operators. They never contain a secret.

mod form;
mod requested;
mod subject;

use std::net::IpAddr;

use serde::Serialize;

pub use self::subject::{Basis, Proof, ROLE_OF_KMS, Subject, Why};
use crate::config::DomainRules;

/// A node of a fleet that an operator names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnNode {
    /// Its id, hex.
    pub node: String,
    /// What people call it.
    pub name: String,
}

/// One event; its name and fields are the file's JSON, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The service started. Records have no boot id of their own: each belongs to the boot of the last `started` before
    /// it, except the records that opening the log makes, which come before the `started` of the same boot.
    Started {
        /// Version of this program.
        version: String,
        /// `onboarding` or `ready`.
        phase: &'static str,
        /// Codes of the relaxed settings.
        posture: Vec<String>,
        /// The id of this start of the process: 16 random bytes, hex.
        boot_id: String,
        /// The kind of the policy, which is the same until the next start: `allowlist`, `webhook`, `ethereum`, `dev`.
        policy: &'static str,
        /// SHA-256 of the domains and their apps, hex; left out where there is only the default domain. It is another one if the
        /// configuration has moved an app since the last start.
        #[serde(skip_serializing_if = "Option::is_none")]
        domains_sha256: Option<String>,
    },
    /// The log begins here, but the keys are older: earlier releases are recorded elsewhere or no longer at
    /// all.
    LogBegan {
        /// Why: `keys_exist`.
        reason: &'static str,
    },
    /// The log is signed under a new name, because an operator has moved the name of the node away.
    LogRenamed {
        /// The old name, as in signed checkpoints.
        previous: String,
        /// Number of leaves in the newest known checkpoint of that name.
        size: u64,
        /// The root of that tree, base64.
        root: String,
    },
    /// The log is signed with a new key from here on, because the root keys of another epoch sign what this node says of
    /// itself.
    LogKeyChanged {
        /// The old verifier key, as in `GetMeta` and in the file beside the log.
        previous: String,
        /// The old root key's signature over it, hex.
        previous_statement: String,
        /// The new verifier key.
        key: String,
        /// The new root key's signature over it, hex.
        statement: String,
        /// The old root key's signature over the new verifier key, hex; absent if the old root key is destroyed.
        #[serde(skip_serializing_if = "Option::is_none")]
        endorsement: Option<String>,
    },
    /// The records before this one are of a version without a ledger. They were verified, and this record seals them.
    Imported {
        /// The number of the first of them.
        first: u64,
        /// Number of these records.
        lines: u64,
        /// Their length together with newlines, bytes.
        bytes: u64,
        /// SHA-256 of them all, hex: of the file, if they are in one.
        sha256: String,
        /// The hash of the last of them, hex.
        head: String,
    },
    /// A closed file was moved away by `kms audit archive`.
    SegmentArchived {
        /// The number of the last record in it.
        last: u64,
        /// Its length, bytes.
        bytes: u64,
        /// SHA-256 of it, hex.
        sha256: String,
    },
    /// The download of an OS image has started, because an allowed caller names it.
    ImageDownloadStarted {
        /// Its hash, hex.
        image: String,
    },
    /// The progress of the download.
    ImageDownloadProgress {
        /// The image's hash, hex.
        image: String,
        /// Bytes downloaded.
        bytes: u64,
        /// Percent, if the server stated the total length.
        #[serde(skip_serializing_if = "Option::is_none")]
        percent: Option<u64>,
    },
    /// The image is in the cache.
    ImageDownloaded {
        /// Its hash, hex.
        image: String,
        /// The duration.
        seconds: u64,
    },
    /// The image could not be obtained.
    ImageDownloadFailed {
        /// Its hash, hex.
        image: String,
        /// The reason.
        reason: String,
    },
    /// The service stopped regularly.
    Stopped,
    /// A crash left an incomplete record at the end, which was cut off.
    Recovered {
        /// Bytes cut off.
        dropped_bytes: u64,
    },
    /// No event could be recorded for a while; the chain has no gap.
    Resumed {
        /// The reason: `disk_full`, `write_failed`, `clock_behind`.
        reason: &'static str,
        /// The duration.
        seconds: u64,
    },
    /// The log continues in this file, because the previous one is not reliable.
    SegmentBegan {
        /// Why: `sync_failed`, `file_gone`, `file_replaced`, `file_truncated`, `file_written_by_others`, `write_failed`,
        /// `damaged_end`.
        reason: &'static str,
        /// The number of the last record before this file.
        after: u64,
        /// Number of bytes after that record that are not records: they stay in the closed file.
        #[serde(skip_serializing_if = "Option::is_none")]
        damaged_bytes: Option<u64>,
    },
    /// An operator states that earlier records were made by a clock that was ahead, and that it is right now.
    ClockFloorLowered {
        /// The date, Unix seconds, below which the clock could not be until now.
        from: u64,
        /// The date that replaces it: the time of this record.
        to: u64,
        /// The operator's reason.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Refusals came faster than they are recorded.
    Suppressed {
        /// Number of refusals that are not recorded.
        events: u64,
        /// Where they came from; absent for those of this KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'static str>,
    },
    /// Root keys were generated.
    KeysBootstrapped {
        /// Domain of the server certificate.
        domain: String,
        /// SPKI of the root CA, hex.
        ca_pubkey: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
    },
    /// Root keys were received from another KMS.
    KeysReceived {
        /// Domain of the server certificate.
        domain: String,
        /// Where they came from.
        source: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
        /// The highest of their epochs, unless there is epoch 0 only.
        #[serde(skip_serializing_if = "Option::is_none")]
        up_to_epoch: Option<u32>,
        /// For how many apps operators had chosen epochs there; absent if the source does not tell.
        #[serde(skip_serializing_if = "Option::is_none")]
        apps_with_epochs: Option<usize>,
    },
    /// Another KMS was asked for its root keys, and they were not received.
    KeysNotReceived {
        /// Domain that the server certificate would have had.
        domain: String,
        /// Which KMS was asked.
        source: String,
        /// A stable code; `source_invitation_over`: the invitation is used up, expired, cancelled or unknown there.
        code: &'static str,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Officers may bring shares of a recovery set to a KMS without keys.
    RestoreOpened {
        /// The number of the set.
        set: String,
        /// SHA-256 of its manifest, hex.
        manifest_sha256: String,
        /// How many shares are needed.
        threshold: u8,
        /// Domain of the server certificate.
        domain: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A restore ended without keys: its shares are forgotten.
    RestoreCancelled {
        /// The number of the set.
        set: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Root keys were put together from the shares of officers.
    KeysRestored {
        /// Domain of the server certificate.
        domain: String,
        /// The number of the set.
        set: String,
        /// Who brought a share.
        officers: Vec<String>,
        /// The epochs of the root keys.
        epochs: Vec<u32>,
        /// Compressed secp256k1 root of the last epoch, hex.
        k256_pubkey: String,
        /// SHA-256 of the set's manifest, hex.
        manifest_sha256: String,
        /// The log of the KMS that made the set.
        #[serde(skip_serializing_if = "Option::is_none")]
        ledger_origin: Option<String>,
        /// Its size and its root hash (base64) when the set was made.
        #[serde(skip_serializing_if = "Option::is_none")]
        ledger_checkpoint: Option<String>,
        /// When the set was made, Unix seconds: what operators chose later is not in it.
        made_at: u64,
        /// For how many apps the set has epochs that operators chose; absent if the set does not tell.
        #[serde(skip_serializing_if = "Option::is_none")]
        apps_with_epochs: Option<usize>,
    },
    /// The KMS that root keys are received from was allowed only by relaxed rules.
    SourceRelaxed {
        /// Its measurement, hex.
        mr_aggregated: String,
        /// As verified.
        tcb_status: String,
        /// As verified.
        advisory_ids: Vec<String>,
        /// The rules.
        relaxations: Vec<String>,
    },
    /// An epoch of the root keys was made. It is in use once it is activated.
    EpochPrepared {
        /// Its number.
        epoch: u32,
        /// SPKI of its root CA, hex.
        ca_pubkey: String,
        /// Its compressed secp256k1 root, hex.
        k256_pubkey: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An epoch of the root keys, or what happened to one, was received from another KMS.
    EpochReceived {
        /// Its number.
        epoch: u32,
        /// Its state: `prepared`, `active`, `retired` or `destroyed`.
        state: &'static str,
        /// Unix seconds from which it is in force, if it was activated.
        #[serde(skip_serializing_if = "Option::is_none")]
        active_from: Option<u64>,
        /// SPKI of its root CA, hex.
        ca_pubkey: String,
        /// Its compressed secp256k1 root, hex.
        k256_pubkey: String,
        /// Where it came from.
        source: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An epoch of the root keys comes into force.
    EpochActivated {
        /// Its number.
        epoch: u32,
        /// Unix seconds from which it is in force.
        at: u64,
        /// The KMSs, as `mr_aggregated/device_id` in hex, that have no keys of it and were left out.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The keys of an epoch cannot be read any more.
    EpochRetired {
        /// Its number.
        epoch: u32,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The keys of an epoch are overwritten.
    EpochDestroyed {
        /// Its number.
        epoch: u32,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The change of an epoch that a record before says was not made, or not wholly.
    EpochChangeFailed {
        /// Its number.
        epoch: u32,
        /// Which change: the type of the record before.
        change: &'static str,
        /// Why.
        reason: String,
        /// Who asked for it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The key directory is older than this log: what the records say of root epochs is not so.
    EpochsMissing {
        /// What is not so, a sentence for each.
        lost: Vec<String>,
    },
    /// An owner accepted a state of epochs that this KMS warned of.
    EpochStateAccepted {
        /// `lost_epochs`: the key directory is older than this log, and stays so. `app_epochs`: the epochs chosen for apps are
        /// complete, after a restore or a handover that did not bring all.
        what: &'static str,
        /// What the owner saw: what is lost, or the SHA-256 of the choices in hex.
        seen: Vec<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator chose the epochs of an app, where the policy says nothing of them, or took the choice back.
    AppEpochSet {
        /// The app, hex.
        app_id: String,
        /// `current`, or the number of an epoch of the root keys; null if the choice was taken back.
        root_epoch: Option<String>,
        /// The epoch of the app itself.
        app_epoch: Option<u32>,
        /// As `root_epoch`, before.
        previous_root_epoch: Option<String>,
        /// As `app_epoch`, before.
        previous_app_epoch: Option<u32>,
        /// The KMS or the recovery set from which the choice came; absent if an operator made it here.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain of the app; absent if it is about none, and where there is only the default one.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The epochs that operators chose for apps at another KMS were received; each choice that changed has a record of its own.
    AppEpochsReceived {
        /// The other KMS.
        source: String,
        /// For how many apps there is a choice there.
        apps: usize,
        /// How many apps have another choice since.
        changed: usize,
        /// How many apps have another choice here than there.
        kept: usize,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner made a domain.
    DomainCreated {
        /// Its name.
        domain: String,
        /// What holds in it.
        rules: Box<DomainRules>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner archived a domain: nothing is released in it any more.
    DomainArchived {
        /// Its name.
        domain: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner restored an archived domain.
    DomainRestored {
        /// Its name.
        domain: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner put an app that no domain named into one.
    AppAssigned {
        /// The app, hex.
        app_id: String,
        /// The domain.
        domain: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner moved an app to another domain: it gets other keys.
    AppMoved {
        /// The app, hex.
        app_id: String,
        /// The new domain.
        domain: String,
        /// The domain whose keys it loses.
        previous_domain: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The domains that operators had made at another KMS came with the root keys; each has a record of its own after this one.
    DomainsReceived {
        /// The KMS or the recovery set.
        source: String,
        /// How many domains.
        domains: usize,
        /// How many of the domains are archived.
        archived: usize,
        /// How many apps are in a domain by it.
        apps: usize,
        /// SHA-256 of what decides which domain's keys an app gets, hex.
        #[serde(skip_serializing_if = "Option::is_none")]
        domains_sha256: Option<String>,
        /// Who received them: `onboarding`.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A change of a domain that is in the log was not made.
    DomainChangeFailed {
        /// The domain.
        domain: String,
        /// `create`, `archive`, `restore`, `assign` or `move`.
        change: &'static str,
        /// The app, hex; empty if it is about none.
        app_id: String,
        /// Why.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An app got its keys.
    AppKeyReleased {
        /// The app.
        #[serde(flatten)]
        subject: Subject,
    },
    /// A KMS got the root keys.
    KmsKeyReleased {
        /// The KMS.
        #[serde(flatten)]
        subject: Subject,
        /// The highest of the epochs that it got, unless there is epoch 0 only.
        #[serde(skip_serializing_if = "Option::is_none")]
        up_to_epoch: Option<u32>,
    },
    /// An app got a certificate.
    CertificateIssued {
        /// The app.
        #[serde(flatten)]
        subject: Subject,
        /// The certificate's common name.
        common_name: String,
        /// Its subject alternative names.
        names: Vec<String>,
    },
    /// A verified caller was refused.
    Denied {
        /// The caller.
        #[serde(flatten)]
        subject: Subject,
        /// Stable code of the reason.
        code: String,
        /// The reason in the response.
        reason: String,
        /// Where and why.
        #[serde(flatten)]
        why: Why,
    },
    /// A caller was refused whose evidence does not verify, or because this KMS itself is not allowed.
    Refused {
        /// Where the request came from.
        remote: IpAddr,
        /// Stable code of the reason.
        code: String,
        /// The reason in the response.
        reason: String,
        /// Where and why.
        #[serde(flatten)]
        why: Why,
    },
    /// A release recorded earlier did not happen: a freeze came in between, or recording took so long that
    /// the decision was outdated.
    Withheld {
        /// The subject of the release.
        #[serde(flatten)]
        subject: Subject,
        /// The number of the record of the release.
        released: u64,
    },
    /// An operator has frozen something.
    Frozen {
        /// `app`, `instance`, `device`, `os_image` or `kms`.
        scope: &'static str,
        /// Hex; empty for `kms`.
        value: String,
        /// The operator's reason.
        reason: String,
        /// Unix seconds at which it expires.
        expires_at: Option<u64>,
        /// `token`, `user <name>` or `anyone`.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain of the app; absent if it is about none, and where there is only the default one.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// An operator has removed a freeze.
    Unfrozen {
        /// As in `frozen`.
        scope: &'static str,
        /// Hex; empty for `kms`.
        value: String,
        /// The operator's reason; may be empty.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain of the app; absent if it is about none, and where there is only the default one.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The removal of a freeze that is in the log was not made.
    UnfreezeFailed {
        /// As in `frozen`.
        scope: &'static str,
        /// Hex; empty for `kms`.
        value: String,
        /// Why.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain of the app; absent if it is about none, and where there is only the default one.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// An operator asked for the reason of a refusal. Nothing was released.
    Explained {
        /// `evidence`, `certificate` or `denial <id>`.
        input: String,
        /// `app`, `kms` or `certificate`.
        subject: &'static str,
        /// `allowed`, `denied` or `unknown`.
        verdict: String,
        /// The code of the first check that fails; may be empty.
        code: String,
        /// The domain to which the operator is limited.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A shadow policy was started: a candidate allowlist that is evaluated and decides nothing.
    ShadowStarted {
        /// The operators' name for it.
        name: String,
        /// SHA-256 of its text, hex.
        sha256: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The shadow policy ended.
    ShadowStopped {
        /// The operators' name for it.
        name: String,
        /// What it would have newly allowed.
        newly_allowed: u64,
        /// What it would have newly denied.
        newly_denied: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A signed bundle of a policy came that may be put in force.
    PolicyBundleReceived {
        /// The bundle.
        #[serde(flatten)]
        bundle: BundleFacts,
        /// The operator; `None` if the source gave it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// A signed bundle decides from now on. Its serial is the highest that was seen: the record outlives the file of serials.
    PolicyBundleActivated {
        /// The bundle.
        #[serde(flatten)]
        bundle: BundleFacts,
        /// The digest of the one before, hex.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<String>,
        /// The operator; `None` if the configuration says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// A bundle of a policy was refused.
    PolicyBundleRefused {
        /// The domain that it was for.
        domain: String,
        /// From where it came: `file`, `server`, `operators` or `fleet`.
        origin: &'static str,
        /// A stable code.
        code: &'static str,
        /// Why.
        reason: String,
        /// The operator; `None` if the source gave it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// A bundle of the source waits for an operator: it would deny what is allowed.
    PolicyBundleHeld {
        /// The bundle, which is not put in force.
        #[serde(flatten)]
        bundle: BundleFacts,
        /// Requests that it has judged.
        compared: u64,
        /// Requests that only the bundle in force allows.
        newly_denied: u64,
        /// Whether it denies this KMS itself.
        denies_this_kms: bool,
    },
    /// A bundle with enough signatures contradicts one that was seen: its signers have signed two policies.
    PolicyForked {
        /// The bundle, which is not put in force.
        #[serde(flatten)]
        bundle: BundleFacts,
        /// The digest of the bundle that it contradicts, hex.
        known: String,
    },
    /// The file with the serials of bundles is gone. Those of the audit log count.
    PolicySerialsLost {
        /// The domain.
        domain: String,
        /// No lower serial is used.
        floor: u64,
    },
    /// What an operator changed on another node of the fleet is in force here too.
    StateAdopted {
        /// What was changed: `freezes`.
        document: &'static str,
        /// What became of it: `frozen`, `unfrozen` or `changed`.
        change: &'static str,
        /// The target, such as `app 0101…`; empty if it is the whole document.
        target: String,
        /// The operator; empty if that is not known.
        by: String,
        /// The name or id of the node on which it was changed.
        node: String,
        /// The number of the state that has it.
        state: u64,
        /// The domain of the target, unless it is the default one; `None` also if it is of none.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The shared state is not as it was, so it is not believed.
    StateAlarm {
        /// A stable code: `rolled_back`.
        code: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// There is something in the fleet that must not be, such as two sets of root keys.
    FleetAlarm {
        /// A stable code: `fleet_roots`.
        code: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// An owner said that a node is no longer in the fleet.
    NodeForgotten {
        /// Its id, hex.
        node: String,
        /// What people call it.
        name: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner wrote the state of this node over that of its fleet.
    StateRepaired {
        /// The number of the state that was written.
        state: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// What was in a file here was replaced by what the fleet has, and kept beside it.
    StateSetAside {
        /// What it was.
        document: &'static str,
        /// The name of the file that keeps it.
        file: String,
    },
    /// An owner invited a replica.
    ReplicaInvited {
        /// The id of the invitation.
        invitation: String,
        /// The name in the certificate of the replica.
        domain: String,
        /// What people call it.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// Until when its token can be used, Unix seconds.
        expires_at: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A replica that was invited has come further.
    ReplicaProgress {
        /// The id of the invitation.
        invitation: String,
        /// The name in the certificate of the replica.
        domain: String,
        /// `started`, `attested`, `allowed`, `keys`, `committed` or `serving`.
        stage: &'static str,
        /// Where the replica called from.
        remote: IpAddr,
    },
    /// A replica that was invited was refused.
    ReplicaRefused {
        /// The id of the invitation.
        invitation: String,
        /// The name in the certificate of the replica.
        domain: String,
        /// A stable code; `join_used_by_another`: another machine has used the invitation first; `join_used`, `join_expired` or
        /// `join_cancelled`: it is over.
        code: String,
        /// The id of the denial, if it is kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        denial_id: Option<String>,
        /// Where the replica called from.
        remote: IpAddr,
    },
    /// An invitation can be used no more, and nobody got keys by it.
    InvitationEnded {
        /// The id of the invitation.
        invitation: String,
        /// The name in the certificate of the replica.
        domain: String,
        /// `cancelled` or `expired`.
        reason: &'static str,
        /// The operator who cancelled it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the operator's request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// An owner started a rollout.
    RolloutStarted {
        /// Its id.
        rollout: String,
        /// The hash of the OS image, hex.
        image: String,
        /// The names of the nodes in their order.
        nodes: Vec<String>,
        /// How many other nodes must serve whenever one is taken out of service.
        min_serving: u32,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator changed how a rollout goes on.
    RolloutChanged {
        /// Its id.
        rollout: String,
        /// `pause`, `resume`, `retry`, `skip` or `cancel`.
        change: &'static str,
        /// The name of the node; empty if it is about the whole rollout.
        #[serde(skip_serializing_if = "String::is_empty")]
        node: String,
        /// Whether the database did not confirm it: it may not have been done.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unconfirmed: bool,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A node took a step of a rollout.
    RolloutNode {
        /// The id of the rollout.
        rollout: String,
        /// The name of the node.
        node: String,
        /// The step that it left.
        from: &'static str,
        /// The step that it is in.
        to: &'static str,
        /// Why, if it did not go well.
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A rollout has paused because a node failed.
    RolloutFailed {
        /// Its id.
        rollout: String,
        /// The name of the node.
        node: String,
        /// Why it failed.
        reason: String,
    },
    /// A rollout has ended.
    RolloutEnded {
        /// Its id.
        rollout: String,
        /// `done` or `cancelled`.
        state: &'static str,
        /// How many nodes are done.
        done: usize,
        /// How many failed.
        failed: usize,
        /// How many were skipped.
        skipped: usize,
    },
    /// An operator refreshed the collateral.
    CollateralRefreshed {
        /// Number of models with collateral.
        models: u64,
        /// Number of models for which no service had usable collateral.
        failed: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Collateral was refused that is older than what was seen before, or a kept file that is not as it was written.
    CollateralRefused {
        /// Where it came from: `service` or `disk`.
        source: &'static str,
        /// Why.
        reason: String,
    },
    /// An operator has started an action; another event follows when it has ended.
    ActionStarted {
        /// Its name.
        action: &'static str,
        /// The node of the fleet that it is about, if an operator named one.
        #[serde(flatten)]
        on: Option<OnNode>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An action was done.
    ActionSucceeded {
        /// Its name.
        action: &'static str,
        /// The node of the fleet that it is about, if an operator named one.
        #[serde(flatten)]
        on: Option<OnNode>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An action could not be done.
    ActionFailed {
        /// Its name.
        action: &'static str,
        /// The node of the fleet that it is about, if an operator named one.
        #[serde(flatten)]
        on: Option<OnNode>,
        /// Why.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An owner has changed a setting at run time.
    SettingChanged {
        /// Its name.
        setting: &'static str,
        /// Its value from now on.
        value: String,
        /// Its value before.
        previous: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Configuration files, policy and certificates were read or made again.
    Reloaded {
        /// Settings that are in force now.
        changed: Vec<String>,
        /// Settings that need a restart.
        restart_required: Vec<String>,
        /// The operator, or `SIGHUP`.
        by: String,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// An owner has the process end, so that its supervisor starts it again.
    RestartRequested {
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator replaces a file of the configuration: recorded before it is done.
    FileUploaded {
        /// Which: `auth-config`, `htpasswd` or `collateral-bundle`.
        name: &'static str,
        /// Its length.
        bytes: u64,
        /// SHA-256 of it, hex.
        sha256: String,
        /// SHA-256 of what it replaces, hex; absent where there was none.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The file before this in the log could not be put into its place: the old one stays.
    FileUploadFailed {
        /// Which, as in `file_uploaded`.
        name: &'static str,
        /// SHA-256 of it, hex.
        sha256: String,
        /// Why.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// No credential was configured, so the first start made one of an owner.
    OwnerCreated {
        /// Its name.
        name: String,
    },
    /// An owner has made a credential.
    CredentialCreated {
        /// Its name.
        name: String,
        /// What it may do.
        role: &'static str,
        /// The domain to which it is limited.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// Unix seconds at which it ends by itself.
        expires_at: Option<u64>,
        /// Whether its holder has to activate it.
        invited: bool,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A credential has another secret, or an invitation to replace its secret.
    CredentialRotated {
        /// Its name.
        name: String,
        /// Whether its holder has to activate the new secret; the old one is valid until then.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        invited: bool,
        /// Unix seconds until which the old secret is valid at most: only the last owner's stays valid.
        #[serde(skip_serializing_if = "Option::is_none")]
        old_secret_until: Option<u64>,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain to which it is limited; absent for the whole KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The holder of an invitation has exchanged it for a secret.
    CredentialActivated {
        /// Its name.
        name: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain to which it is limited; absent for the whole KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The new secret of the last owner was used after a rotation, so the old one is no longer valid.
    OldSecretEnded {
        /// The name of the credential.
        name: String,
    },
    /// An owner has chosen the secret of the owner `admin`.
    BasicAuthSet {
        /// Its name.
        name: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A credential was revoked.
    CredentialRevoked {
        /// Its name.
        name: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain to which it is limited; absent for the whole KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The change that the record before says was not made: the file of credentials could not be written.
    CredentialChangeFailed {
        /// The name of the credential.
        name: String,
        /// Who asked for it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
        /// The domain to which it is limited; absent for the whole KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// A request had wrong credentials.
    CredentialsRefused {
        /// `admin` or `onboarding`.
        listener: &'static str,
        /// `token` or `password`: the kind of credentials.
        shown: &'static str,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A change was requested that needs a second owner.
    ApprovalRequested {
        /// The id of the request.
        id: String,
        /// The kind of the change.
        action: &'static str,
        /// The change in words.
        detail: String,
        /// SHA-256 of what will be done, hex.
        sha256: String,
        /// Unix seconds until which it can be approved.
        expires_at: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A second owner has approved a change, which is made now.
    ApprovalApproved {
        /// As in `approval_requested`.
        id: String,
        /// As in `approval_requested`.
        action: &'static str,
        /// As in `approval_requested`.
        detail: String,
        /// As in `approval_requested`.
        sha256: String,
        /// The owner who requested it.
        requested_by: String,
        /// The second owner.
        by: String,
        /// Where the approval came from.
        remote: IpAddr,
    },
    /// An owner has rejected a change, or has taken back the own request.
    ApprovalRejected {
        /// As in `approval_requested`.
        id: String,
        /// As in `approval_requested`.
        action: &'static str,
        /// The owner who requested it.
        requested_by: String,
        /// The owner who rejected it.
        by: String,
        /// Where the rejection came from.
        remote: IpAddr,
    },
    /// A change cannot be approved any more.
    ApprovalExpired {
        /// As in `approval_requested`.
        id: String,
        /// As in `approval_requested`.
        action: &'static str,
        /// Why.
        reason: String,
    },
    /// A change that was approved is made.
    ApprovalDone {
        /// As in `approval_requested`.
        id: String,
        /// As in `approval_requested`.
        action: &'static str,
        /// What happened.
        result: String,
    },
    /// A change that was requested or approved was not made.
    ApprovalFailed {
        /// As in `approval_requested`.
        id: String,
        /// As in `approval_requested`.
        action: &'static str,
        /// Why.
        reason: String,
    },
    /// A change that needs two owners was made by one, because there are not two yet.
    ApprovalWaived {
        /// As in `approval_requested`.
        action: &'static str,
        /// As in `approval_requested`.
        detail: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A local program or an operator reported something. The text is theirs, with control characters
    /// escaped.
    Reported {
        /// `pipe` or `api`: how it was reported.
        source: &'static str,
        /// The reported text.
        message: String,
        /// The domain to which the reporter is limited.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// The reporter, if credentials named one.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// The root keys were split among officers. The set before counts no more.
    RecoverySetCreated {
        /// Its number.
        set: String,
        /// How many officers restore.
        threshold: u8,
        /// The officers.
        officers: Vec<String>,
        /// SHA-256 of the text of each officer's recipient, hex, in the same order.
        recipients_sha256: Vec<String>,
        /// The epochs of root keys in it.
        epochs: Vec<u32>,
        /// SHA-256 of the manifest in its canonical form (RFC 8785), hex.
        manifest_sha256: String,
        /// The number of the set that it replaces. Its shares still open the root keys that it was made of.
        #[serde(skip_serializing_if = "Option::is_none")]
        retires: Option<String>,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The recovery set that was just recorded is void: nobody has got it.
    RecoverySetFailed {
        /// Its number.
        set: String,
        /// Why.
        reason: String,
    },
    /// Officers may bring their shares to prove a recovery set.
    RecoveryDrillStarted {
        /// The set.
        set: String,
        /// When it ends, Unix seconds.
        ends_at: u64,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// The shares of these officers gave the root keys of this KMS, which has forgotten them.
    RecoveryDrill {
        /// The set.
        set: String,
        /// Who brought a share.
        officers: Vec<String>,
        /// The epochs of root keys that were compared.
        epochs: Vec<u32>,
    },
    /// A drill ended without the root keys.
    RecoveryDrillFailed {
        /// The set.
        set: String,
        /// Who brought a share.
        officers: Vec<String>,
        /// Why.
        reason: String,
    },
    /// A drill ended before enough shares were there.
    RecoveryDrillCancelled {
        /// The set.
        set: String,
        /// Who brought a share.
        officers: Vec<String>,
        /// Why.
        reason: String,
    },
    /// An operator reminds of the next drill.
    RecoveryDrillReminder {
        /// What is to be done.
        reason: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator has cleared caches of OS images.
    CachesCleared {
        /// Hash, `all`, or empty.
        image_hash: String,
        /// Hash, `all`, or empty.
        config_hash: String,
        /// The operator.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
}

/// A signed bundle of a policy in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BundleFacts {
    /// The domain that it is for.
    pub domain: String,
    /// Its name.
    pub bundle: String,
    /// Its serial.
    pub serial: u64,
    /// Its digest, hex: the same as in the records of what it decides.
    pub policy_sha256: String,
    /// The pinned keys that have signed it.
    pub signers: Vec<String>,
    /// When it expires, RFC 3339 in UTC.
    pub expires: String,
    /// From where it came: `file`, `server`, `operators` or `fleet`.
    pub origin: &'static str,
}
