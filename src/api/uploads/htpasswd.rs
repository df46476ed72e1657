//! The htpasswd file: its users are owners, so that replacing it may need a second one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::{Intent, UploadName};
use crate::api::Caller;
use crate::api::approval_gate::ApprovalGate;
use crate::api::exchange::{Exchange, content_of, digest_of, note_of};
use crate::api::policy::Placed;
use crate::audit::Audit;
use crate::control::{Approved, Author, Consent, ReplaceHtpasswd};
use crate::error::{Code, Error, Result};
use crate::operator::{BadHtpasswd, Credentials, Users};
use crate::request;

/// The largest file: thousands of users.
const MAX_FILE: usize = 1 << 20;
/// How long a request waits for another one.
const MAX_TURN: Duration = Duration::from_secs(10);
const MODE: u32 = 0o600;
/// How many bytes the names of changed users may have where a second owner approves the change: it is shown by all of them.
const MAX_NAMES: usize = 4096;

/// Replaces the htpasswd file of the configuration.
#[derive(Debug)]
pub struct HtpasswdFile {
    /// `None` where the configuration names none.
    path: Option<PathBuf>,
    credentials: Arc<Credentials>,
    gate: ApprovalGate,
    audit: Arc<Audit>,
    turn: Mutex<()>,
}

impl HtpasswdFile {
    /// The file at `path`, whose users are among `credentials`.
    pub fn new(
        path: Option<PathBuf>,
        credentials: Arc<Credentials>,
        gate: ApprovalGate,
        audit: Arc<Audit>,
    ) -> Self {
        Self { path, credentials, gate, audit, turn: Mutex::default() }
    }

    /// Checks a file, and replaces the one in force if that is the intent and needs no second owner.
    ///
    /// # Errors
    /// `not_configured`; `invalid_file`; a second owner is needed; a disk or an audit log that does not take it.
    pub async fn upload(
        self: Arc<Self>,
        caller: &Caller,
        content: Vec<u8>,
        intent: Intent,
    ) -> Result<Placed> {
        let path = self.path()?;
        let users = self.users(&content)?;
        let sha256: [u8; 32] = Sha256::digest(&content).into();
        let old_content = content_of(path).await;
        let old: Option<[u8; 32]> = old_content.as_ref().map(|content| Sha256::digest(content).into());
        if intent == Intent::Check || old == Some(sha256) {
            let changed = old != Some(sha256);
            let message = if changed { "it could be used" } else { "it is the file that is in force" };
            let dry_run = intent == Intent::Check;
            return Ok(Placed { dry_run, ..placed(&content, changed, message.to_owned()) });
        }
        let document = String::from_utf8(content).map_err(|_| invalid(&BadHtpasswd::NotUtf8))?;
        // With an old file that cannot be read, all users are new.
        let old_users = old_content.and_then(|content| Users::read(&content).ok()).unwrap_or_default();
        let changes = users.changes_from(&old_users);
        if self.gate.needs_two() && changes.names_length() > MAX_NAMES {
            let text = format!(
                "the approver has to see each user that is changed: upload it in steps, each with at most {MAX_NAMES} bytes of \
                 changed names"
            );
            return Err(Error::invalid(text).because("invalid_file"));
        }
        let action = ReplaceHtpasswd { document, replaces: old.map(hex::encode), changes };
        let approved = self.gate.pass(caller, action).await?;
        self.place_approved(approved).await
    }

    /// Replaces the file, to its end also if the caller disconnects. What a second owner has approved replaces only what
    /// was in force when it was requested.
    ///
    /// # Errors
    /// As [`HtpasswdFile::upload`].
    pub(in crate::api) async fn place_approved(
        self: Arc<Self>,
        approved: Approved<ReplaceHtpasswd>,
    ) -> Result<Placed> {
        let change = request::spawn(async move {
            let ReplaceHtpasswd { document, replaces, changes: _ } = approved.action();
            let seen = (approved.consent() == Consent::Second).then_some(replaces.as_deref());
            self.put(approved.author(), document, seen).await
        });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn put(&self, author: &Author, document: &str, seen: Option<Option<&str>>) -> Result<Placed> {
        let path = self.path()?;
        let slow = |error| {
            Error::unavailable("another file or credential is being put into its place; try again", error)
        };
        let _turn = tokio::time::timeout(MAX_TURN, self.turn.lock()).await.map_err(slow)?;
        let _names = match self.credentials.named() {
            Some(named) => Some(tokio::time::timeout(MAX_TURN, named.names()).await.map_err(slow)?),
            None => None,
        };
        let users = self.users(document.as_bytes())?;
        let replaces = digest_of(path).await;
        if seen.is_some_and(|seen| seen != replaces.map(hex::encode).as_deref()) {
            let text = "the file in force has changed since it was requested; nothing was changed";
            return Err(Error::new(Code::Conflict, text).because("file_changed"));
        }
        let exchange = Exchange {
            name: UploadName::Htpasswd.name(),
            path,
            mode: MODE,
            content: document.as_bytes().into(),
            sha256: Sha256::digest(document).into(),
            replaces,
        };
        let durability = exchange.run(author, &self.audit).await?;
        self.credentials.set_users(users);
        let message = format!(
            "its users are in force, and nothing that was shown before counts{}",
            note_of(durability)
        );
        Ok(placed(document.as_bytes(), true, message))
    }

    fn path(&self) -> Result<&PathBuf> {
        self.path.as_ref().ok_or_else(|| {
            let text = "core.admin.htpasswd_file names no file, so none can be uploaded";
            Error::new(Code::Conflict, text).because("not_configured")
        })
    }

    /// The users of a file that a start would accept.
    fn users(&self, content: &[u8]) -> Result<Users> {
        if content.len() > MAX_FILE {
            let text = format!("the file must be at most {MAX_FILE} bytes, got {}", content.len());
            return Err(Error::invalid(text).because("invalid_file"));
        }
        let users = Users::read(content).map_err(|error| invalid(&error))?;
        if users.is_empty() {
            return Err(invalid(&BadHtpasswd::NoUsers));
        }
        // A start also refuses the name of a credential that has ended.
        if let Some(named) = self.credentials.named()
            && let Some(name) = named.current().keys().find(|name| users.has(name.as_str()))
        {
            let text = format!(
                "{name} is a named credential, or was one until it ended; a name can be one of both only, so revoke that first"
            );
            return Err(Error::invalid(text).because("invalid_file"));
        }
        Ok(users)
    }
}

fn invalid(error: &BadHtpasswd) -> Error {
    Error::invalid(error.to_string()).because("invalid_file")
}

fn placed(content: &[u8], changed: bool, message: String) -> Placed {
    Placed {
        name: UploadName::Htpasswd.name(),
        bytes: content.len() as u64,
        sha256: hex::encode(Sha256::digest(content)),
        changed,
        dry_run: false,
        message,
        problems: Vec::new(),
    }
}
