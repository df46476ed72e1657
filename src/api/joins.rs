//! `/api/v1/replica-joins`: invitations by which replicas get the root keys, and how far each has come.

mod advice;
mod operation;

use std::sync::Arc;

use kms_wire::join::is_hex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Caller;
use super::approval_gate::ApprovalGate;
use crate::admission::Foundation;
use crate::clock::rfc3339;
use crate::config::Config;
use crate::control::{
    Approved, Author, InviteReplica, InvitedReplica, JOIN_REPORTS, JoinError, JoinLabel, MAX_JOIN_VALID,
    NewJoin,
};
use crate::domain::Domain;
use crate::error::{Code, Error, Result};
use crate::lifecycle::Ready;
use crate::request;
use crate::state::{JoinRecord, JoinStage, SourceUrl};

/// Invites replicas.
#[derive(Debug)]
pub struct JoinService {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    gate: ApprovalGate,
    /// Of the main listener.
    port: u16,
}

/// The body of `POST /api/v1/replica-joins`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteBody {
    /// The DNS name or IPv4 address in the certificate of the new replica.
    domain: String,
    /// What people call it; at most 100 bytes.
    #[serde(default)]
    label: Option<String>,
    /// The URL by which the new node reaches this KMS, if not by the name and port of its main listener; `https` without a query.
    #[serde(default)]
    source_url: Option<String>,
    /// For how many seconds it is valid: from 1 to 900, which is the default.
    #[serde(default)]
    valid_for: Option<u64>,
}

/// A new invitation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InvitedShown {
    /// The invitation.
    join: JoinShown,
    /// Its token, shown only now.
    token: String,
}

/// An invitation. Times are RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JoinShown {
    /// 16 hex digits.
    id: String,
    /// The name in the certificate of the replica.
    domain: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// Who invited it.
    created_by: String,
    /// When.
    created_at: String,
    /// Until when the root keys can be asked for.
    expires_at: String,
    /// The stage that was reached last, or `waiting`. `used_by_another` is in `stages` only.
    state: &'static str,
    /// Whether nothing can happen any more.
    over: bool,
    /// Whether the replica said itself that it serves. False with the stage `keys`: whether it has kept them is not known.
    confirmed: bool,
    /// SHA-256 of the attested key of the machine that used it first, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_sha256: Option<String>,
    /// What happened, oldest first.
    stages: Vec<StageShown>,
    /// What to do now, for people; absent while the next step is that of the new node.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// What brings the new node the keys: `NEW-NODE:8000` stands for the address of its onboarding, and the token goes to standard
    /// input.
    command: String,
    /// SHA-256 of the public key of the root CA, hex: the replica takes no other keys.
    source_root_sha256: String,
}

/// A stage that was reached.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StageShown {
    /// Its name.
    stage: JoinStage,
    /// When; of `refused` the latest time.
    at: String,
    /// Of `refused`: the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Of `refused`: the id of the denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    denial_id: Option<String>,
}

/// Invitations.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JoinList {
    /// Newest first.
    pub(super) joins: Vec<JoinShown>,
}

impl JoinService {
    /// Over the configuration, for the addresses in commands.
    pub fn new(config: &Config, foundation: Arc<Foundation>, ready: Arc<Ready>, gate: ApprovalGate) -> Self {
        Self { foundation, ready, gate, port: config.rpc.port }
    }

    /// Invites a replica.
    ///
    /// # Errors
    /// An invalid body; a second owner must approve it; too many invitations; a disk, database or audit log that does not take it.
    pub async fn invite(&self, caller: &Caller, body: InviteBody) -> Result<InvitedShown> {
        let InviteBody { domain, label, source_url, valid_for } = body;
        let valid_for = valid_for.unwrap_or(MAX_JOIN_VALID);
        let action = InviteReplica { domain, label, source_url, valid_for };
        let _: NewJoin = asked(&action)?;
        let invited = self.invite_approved(self.gate.pass(caller, action).await?).await?;
        let token = invited.token.expose().to_owned();
        Ok(InvitedShown { join: self.shown(&invited.record), token })
    }

    /// Makes the invitation.
    pub(in crate::api) async fn invite_approved(
        &self,
        approved: Approved<InviteReplica>,
    ) -> Result<InvitedReplica> {
        let new = asked(approved.action())?;
        let (joins, author) = (Arc::clone(&self.foundation.joins), approved.author().clone());
        // A task of its own: what is recorded is made.
        let made = request::spawn(async move { joins.invite(new, &author).await });
        made.await.map_err(|error| Error::internal("the invitation ended in a panic", error))?.map_err(failed)
    }

    /// All that are known.
    pub fn list(&self) -> JoinList {
        let records = self.foundation.joins.list();
        JoinList { joins: records.iter().rev().map(|record| self.shown(record)).collect() }
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn show(&self, id: &str) -> Result<JoinShown> {
        let record = self.foundation.joins.get(id).ok_or_else(|| failed(unknown(id)))?;
        Ok(self.shown(&record))
    }

    /// Cancels one.
    ///
    /// # Errors
    /// It is over, or its keys were sent.
    pub async fn cancel(&self, author: Author, id: &str) -> Result<JoinShown> {
        let (joins, id) = (Arc::clone(&self.foundation.joins), id.to_owned());
        // Another node may just have made it.
        if !is_hex(&id, 16) {
            return Err(failed(unknown(&id)));
        }
        let cancelled = request::spawn(async move { joins.cancel(&id, &author).await });
        let cancelled =
            cancelled.await.map_err(|error| Error::internal("the change ended in a panic", error))?;
        Ok(self.shown(&cancelled.map_err(failed)?))
    }

    fn shown(&self, record: &JoinRecord) -> JoinShown {
        let now = self.foundation.joins.now();
        let has = |stage| record.step(stage).is_some();
        let last = record.steps.iter().rev().find(|step| step.stage != JoinStage::UsedByAnother);
        let is_late = record.expires_at <= now && !has(JoinStage::Keys) && !has(JoinStage::Cancelled);
        let state = match last {
            _ if is_late => JoinStage::Expired.name(),
            None => "waiting",
            Some(step) => step.stage.name(),
        };
        let unheard = record.step(JoinStage::Keys).is_some_and(|keys| now > keys.at + JOIN_REPORTS);
        let root = hex::encode(Sha256::digest(self.ready.ca_public_key()));
        let over = is_late || unheard || has(JoinStage::Cancelled) || has(JoinStage::Serving);
        JoinShown {
            id: record.id.clone(),
            domain: record.domain.clone(),
            label: record.label.clone(),
            created_by: record.created_by.clone(),
            created_at: rfc3339(record.created_at),
            expires_at: rfc3339(record.expires_at),
            state,
            over,
            confirmed: has(JoinStage::Serving),
            key_sha256: record.key.clone(),
            stages: record
                .steps
                .iter()
                .map(|step| StageShown {
                    stage: step.stage,
                    at: rfc3339(step.at),
                    code: step.code.clone(),
                    denial_id: step.denial.clone(),
                })
                .collect(),
            advice: advice::now(record, over, now),
            command: self.command(record, &root),
            source_root_sha256: root,
        }
    }

    /// What an operator runs, with the address of the new node, which nobody knows here. Names have no characters that a shell
    /// reads otherwise.
    fn command(&self, record: &JoinRecord, root: &str) -> String {
        let by_name = || format!("https://{}:{}", self.ready.domain(), self.port);
        let source = record.source_url.as_ref().map_or_else(by_name, SourceUrl::quoted);
        format!(
            "kmsctl onboard --kms http://NEW-NODE:8000 --source {source} --source-root-sha256 {root} \
             --source-token-file - --domain {}",
            record.domain
        )
    }
}

fn asked(action: &InviteReplica) -> Result<NewJoin> {
    let InviteReplica { domain, label, source_url, valid_for } = action;
    if !(1..=MAX_JOIN_VALID).contains(valid_for) {
        return Err(failed(JoinError::Validity));
    }
    Ok(NewJoin {
        domain: Domain::parse(domain).map_err(|error| Error::invalid(error.to_string()))?,
        label: JoinLabel::parse(label.as_deref().unwrap_or_default()).map_err(failed)?,
        source_url: source_url
            .clone()
            .map(SourceUrl::try_from)
            .transpose()
            .map_err(|error| Error::invalid(error.to_string()))?,
        valid_for: *valid_for,
    })
}

fn unknown(id: &str) -> JoinError {
    JoinError::Unknown(id.chars().filter(char::is_ascii_alphanumeric).take(16).collect())
}

/// What an operator is told.
fn failed(error: JoinError) -> Error {
    let code = match error.class() {
        // It was asked for rightly, but too late.
        Code::Denied => Code::Conflict,
        code => code,
    };
    Error::new(code, error.to_string()).because(error.code()).caused_by(error)
}
