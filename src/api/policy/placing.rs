//! An allowlist is put into its place: checked whole, staged beside the old one, recorded, renamed, and in force at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_policy::review::Review;
use kms_policy::{Ruleset, Subject};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{PolicyService, Problem};
use crate::api::Caller;
use crate::api::exchange::{Exchange, digest_of, note_of};
use crate::control::{ActivatePolicy, Approved, Author, Consent};
use crate::error::{Code, Error, Result};
use crate::request;

/// The name of the allowlist among the files that can be uploaded.
pub(crate) const AUTH_CONFIG: &str = "auth-config";

/// How long a request waits for another one that puts a file into its place.
const MAX_TURN: Duration = Duration::from_secs(10);
/// How long it waits until the rules decide: a large file is read for seconds.
const MAX_READ: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The permissions of a file that did not exist. An allowlist is no secret.
const MODE: u32 = 0o644;
/// The most problems in an error.
const MAX_PROBLEMS: usize = 5;

/// A file that was checked, and replaced unless only the check was wanted.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Placed {
    /// `auth-config`, `htpasswd` or `collateral-bundle`.
    pub name: &'static str,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it, hex.
    pub sha256: String,
    /// Whether it differs from what was in force. A file that does not changes nothing.
    pub changed: bool,
    /// Whether it was only checked.
    pub dry_run: bool,
    /// What was done, and what to know about it.
    pub message: String,
    /// Warnings about its content.
    pub problems: Vec<Problem>,
}

/// An allowlist that could be used.
struct Candidate {
    content: Arc<[u8]>,
    sha256: [u8; 32],
    problems: Vec<Problem>,
    /// Whether it allows this KMS itself; `None` if that is not known.
    allows_this_kms: Option<bool>,
}

impl PolicyService {
    /// Checks an allowlist as an upload would, and changes nothing.
    ///
    /// # Errors
    /// As [`PolicyService::replace`].
    pub async fn examine(&self, content: Vec<u8>) -> Result<Placed> {
        let path = self.file()?;
        let candidate = self.candidate(content).await?;
        let changed = digest_of(path).await != Some(candidate.sha256);
        let message = match changed {
            true => format!("it could be used{}", candidate.warning()),
            false => "it is the file that is in force".to_owned(),
        };
        Ok(candidate.placed(changed, message, Run::Dry))
    }

    /// An owner replaces the allowlist.
    ///
    /// # Errors
    /// Another kind of policy decides; the document is not valid; the disk or the audit log refuses it; a second owner must
    /// approve it. Nothing has changed then.
    pub async fn replace(self: Arc<Self>, caller: &Caller, content: Vec<u8>) -> Result<Placed> {
        let mut replaces = None;
        if self.admin.gate().needs_two() {
            // A second owner is not asked for what could not be done, or is done already.
            let examined = self.examine(content.clone()).await?;
            if !examined.changed {
                return Ok(Placed { dry_run: false, ..examined });
            }
            replaces = digest_of(self.file()?).await.map(hex::encode);
        }
        let document = String::from_utf8(content)
            .map_err(|_| Error::invalid("the document is not UTF-8").because("invalid_file"))?;
        let approved = self.admin.gate().pass(caller, ActivatePolicy { document, replaces }).await?;
        self.place_approved(&approved).await
    }

    /// Puts an allowlist into its place. If it is the candidate in shadow, and a second owner has approved it, it is not a
    /// candidate any more.
    pub(in crate::api) async fn place_approved(
        self: Arc<Self>,
        approved: &Approved<ActivatePolicy>,
    ) -> Result<Placed> {
        let ActivatePolicy { document, replaces } = approved.action();
        let replaces = replaces.as_ref().map(|digest| {
            let bytes = hex::decode(digest).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            bytes.ok_or_else(|| Error::invalid("the request names no SHA-256; nothing was changed"))
        });
        let (author, content) = (approved.author().clone(), document.clone().into_bytes());
        let placed = Arc::clone(&self).place(author.clone(), content, replaces.transpose()?).await?;
        if approved.consent() == Consent::Second {
            self.admin.stop_shadow_if(author, &Sha256::digest(document).into()).await;
        }
        Ok(placed)
    }

    /// Puts an allowlist into its place, to its end also if the caller disconnects. With `replaces`, only if that is the
    /// digest of the file that is in force.
    ///
    /// # Errors
    /// As [`PolicyService::replace`]; the file in force is another one.
    async fn place(
        self: Arc<Self>,
        author: Author,
        content: Vec<u8>,
        replaces: Option<[u8; 32]>,
    ) -> Result<Placed> {
        let change = request::spawn(async move { self.put(author, content, replaces).await });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    fn file(&self) -> Result<&PathBuf> {
        self.file.as_ref().ok_or_else(|| {
            if self.foundation.policy.bundled().is_some() {
                let text = "signed bundles have the rules: push one with kmsctl policy push";
                return Error::new(Code::Conflict, text).because("not_configured");
            }
            let kind = self.foundation.policy.kind();
            let text = format!(
                "core.auth_api.type is \"{kind}\": an allowlist can be uploaded only where it is \"allowlist\""
            );
            Error::new(Code::Conflict, text).because("not_configured")
        })
    }

    async fn candidate(&self, content: Vec<u8>) -> Result<Candidate> {
        let empty_devices = self.empty_devices;
        let own = self.foundation.self_authorization.told_identity();
        let review = move || {
            let review = Review::of(&content, empty_devices);
            let problems: Vec<_> = review.findings().iter().map(Problem::from).collect();
            if review.is_usable() {
                let sha256 = Sha256::digest(&content).into();
                let rules = own.zip(Ruleset::parse(&content, empty_devices).ok());
                let of_this_kms = rules.map(|(own, rules)| rules.decide(Subject::Kms(&own)));
                let candidate =
                    Candidate { content: content.into(), sha256, problems, allows_this_kms: None };
                return Ok((candidate, of_this_kms));
            }
            let errors = problems.iter().filter(|problem| problem.is_error()).take(MAX_PROBLEMS);
            let errors: Vec<_> = errors.map(Problem::sentence).collect();
            Err(Error::invalid(errors.join("; ")).because("invalid_file"))
        };
        // Parsing a large file blocks for a while.
        let reviewed = tokio::task::spawn_blocking(review).await;
        let (candidate, of_this_kms) =
            reviewed.map_err(|error| Error::internal("the check ended in a panic", error))??;
        let allows_this_kms = match of_this_kms {
            None => None,
            Some(decision) => Some(self.foundation.self_authorization.settled(decision).await.is_allowed()),
        };
        Ok(Candidate { allows_this_kms, ..candidate })
    }

    async fn put(&self, author: Author, content: Vec<u8>, replaces: Option<[u8; 32]>) -> Result<Placed> {
        let path = self.file()?;
        let candidate = self.candidate(content).await?;
        let slow = |error| Error::unavailable("another file is being put into its place; try again", error);
        let _turn = tokio::time::timeout(MAX_TURN, self.turn.lock()).await.map_err(slow)?;
        let old = digest_of(path).await;
        if replaces.is_some() && replaces != old {
            let text = "the policy in force has changed since; review the difference again";
            return Err(Error::new(Code::Conflict, text).because("policy_changed"));
        }
        if old == Some(candidate.sha256) {
            let message = "it is the file that is in force; nothing was changed".to_owned();
            return Ok(candidate.placed(false, message, Run::Real));
        }
        let exchange = Exchange {
            name: AUTH_CONFIG,
            path,
            mode: MODE,
            content: Arc::clone(&candidate.content),
            sha256: candidate.sha256,
            replaces: old,
        };
        let durability = exchange.run(&author, &self.foundation.audit).await?;
        let mut message = match self.decides(&candidate.sha256).await {
            true => "it is in force".to_owned(),
            false => "it is in its place, and not in force yet: see GET /api/v1/policy".to_owned(),
        };
        message.push_str(note_of(durability));
        message.push_str(candidate.warning());
        Ok(candidate.placed(true, message, Run::Real))
    }

    /// Waits until the rules with this digest decide.
    async fn decides(&self, sha256: &[u8; 32]) -> bool {
        let policy = &self.foundation.policy;
        let deadline = Instant::now() + MAX_READ;
        loop {
            // Reads the file again.
            let _ = policy.info().await;
            if policy.in_force().digest.as_ref() == Some(sha256) {
                // Otherwise methods that anyone may call would notice half a second later.
                let _ = self.foundation.self_authorization.fresh().await;
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Dry,
    Real,
}

impl Candidate {
    /// Says so if it would stop everything.
    fn warning(&self) -> &'static str {
        match self.allows_this_kms {
            Some(false) => "; it does not allow this KMS itself, so with it nothing is released",
            Some(true) | None => "",
        }
    }

    fn placed(self, changed: bool, message: String, run: Run) -> Placed {
        Placed {
            name: AUTH_CONFIG,
            bytes: self.content.len() as u64,
            sha256: hex::encode(self.sha256),
            changed,
            dry_run: run == Run::Dry,
            message,
            problems: self.problems,
        }
    }
}
