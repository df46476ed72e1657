//! Whose log is believed: the key of the log, vouched for by the root key of a KMS, or known from elsewhere.

use std::time::Duration;

use clap::Args;
use kms_client::ledger::RemoteLog;
use kms_client::log_keys::{EarlierKey, earlier_keys};
use kms_client::operator::{OperatorConnection, OperatorUrl};
use kms_client::proto::GetMetaResponse;
use kms_client::receipt::shown_log;
use kms_client::root_epochs::follow;
use kms_client::statement::Signer;
use kms_client::text::causes;
use kms_client::{CallError, ConnectError, Trust};
use kms_ledger::log::Log;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::{Belief, Server, unconnected};

/// How long `GetMeta` may take.
const CALL_TIME: Duration = Duration::from_secs(30);

/// What is known of a KMS.
#[derive(Args, Debug)]
pub(super) struct Source {
    /// Root k256 key of the KMS, 66 hexadecimal digits: it must have signed the key of the log
    #[arg(long, value_name = "HEX")]
    k256_pubkey: Option<Signer>,
    #[command(flatten)]
    server: Server,
}

/// What else is known of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// Nothing: the server must be known.
    Nothing,
    /// The same, at the first look of a watcher: a server of which nothing is known is wrong usage, and no alarm.
    FirstLook,
    /// A signature of it, which the shown key must have made: any server may show it.
    Signature,
}

/// A log, and why it is believed to be that of the KMS.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) files: RemoteLog,
    pub(super) log: Log,
    /// The text of its key.
    pub(super) log_key: String,
    /// The root key of the KMS, if something else than a signature of the log or `--log-key` shows that it is.
    pub(super) root_key: Option<Signer>,
    /// The root key that has signed the log's key, if `GetMeta` is served. It may be that of somebody in between.
    pub(super) signer: Option<Signer>,
    pub(super) because: Because,
    /// The keys that the log had before, the newest first, if this server can be believed about them.
    pub(super) claimed: Vec<EarlierKey>,
}

/// Why the key of a log is believed to be that of the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// A root key has signed it that the key of `--k256-pubkey` states.
    StatedRootKey,
    /// It comes after the key of `--log-key`, as the root key says.
    FollowsLogKey,
    /// It is the key of `--log-key`.
    LogKey,
    /// The key of `--k256-pubkey` has signed it.
    RootKey,
    /// The root key of a server that an option identifies has.
    VerifiedServer,
    /// It signed what was kept.
    SignedWhatWasKept,
    /// Any server was to be believed.
    AnyServer,
    /// The root key of a server with a certificate of a public CA has signed it.
    PublicCertificate,
}

impl Because {
    /// For people, and `log_key_believed_because` of reports.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::StatedRootKey => "signed by a root key that --k256-pubkey states",
            Self::FollowsLogKey => "it follows --log-key, as the root key says",
            Self::LogKey => "--log-key",
            Self::RootKey => "signed by --k256-pubkey",
            Self::VerifiedServer => "signed by the root key of the verified server",
            Self::SignedWhatWasKept => "it signed what was kept",
            Self::AnyServer => "any server was believed",
            Self::PublicCertificate => "signed by the root key of a server with a public certificate",
        }
    }
}

impl Shown {
    /// The keys that the log had before, the newest first, as a root key says that is known.
    pub(super) fn earlier(&self) -> &[EarlierKey] {
        if self.root_key.is_some() { &self.claimed } else { &[] }
    }

    /// The log under its key, and under those that it had before.
    pub(super) fn logs(&self) -> impl Iterator<Item = &Log> {
        [&self.log].into_iter().chain(self.earlier().iter().map(|earlier| &earlier.log))
    }
}

impl Source {
    /// The root key that must have signed the key of the log.
    pub(super) fn root_key(&self) -> Option<Signer> {
        self.k256_pubkey
    }

    /// The options about the server.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Connects, and learns which log the KMS signs.
    pub(super) async fn open(
        &self,
        url: &OperatorUrl,
        known: &[LogKey],
        elsewhere: Elsewhere,
    ) -> Outcome<Shown> {
        let belief = self.server.belief(url)?;
        let is_pinned = !known.is_empty() || self.k256_pubkey.is_some() || elsewhere == Elsewhere::Signature;
        if !is_pinned && matches!((url, &belief), (OperatorUrl::Plain(_), Belief::Unsaid)) {
            return Err(Failure::usage(format_args!(
                "{url}: plain http proves no server: name the root key (--k256-pubkey) or the key of the log (--log-key)"
            )));
        }
        let otherwise = if is_pinned { Trust::DangerousAnyServer } else { Trust::PublicRoots };
        let connection = OperatorConnection::open(url, belief.trust(otherwise), None).await;
        let connection = connection.map_err(|error| {
            let is_foreign = matches!((&error, &belief), (ConnectError::Tls(_), Belief::Unsaid));
            let failure = unconnected(error, url);
            if !is_foreign {
                return failure;
            }
            let failure = failure.hint(
                "name the root key of the KMS (--k256-pubkey, which `kmsctl verify` checks), its root CA (--root-ca) or \
                 the key of its log (--log-key)",
            );
            let is_unnamed = elsewhere == Elsewhere::FirstLook && !is_pinned && failure.exit == Exit::Unproven;
            if is_unnamed { Failure::usage(failure.message) } else { failure }
        })?;
        let meta = connection.call::<_, GetMetaResponse>(CALL_TIME, "GetMeta", &()).await;
        let meta = match (meta, known) {
            (Ok(meta), _) => meta,
            // A copy of the files, or the admin listener.
            (Err(CallError::Refused { .. }), [known]) => {
                return Ok(Shown {
                    files: RemoteLog::new(connection),
                    log: known.log.clone(),
                    log_key: known.text.clone(),
                    root_key: None,
                    signer: None,
                    because: Because::LogKey,
                    claimed: Vec::new(),
                });
            }
            (Err(error), _) => return Err(Failure::from(error).about(url)),
        };
        let unproven = |what: &dyn std::fmt::Display| Failure::unproven(format_args!("{url}: {what}"));
        let (log, signer) = shown_log(&meta).map_err(|error| unproven(&causes(&error)))?;
        let mut leads_here = false;
        if let Some(root) = self.k256_pubkey.filter(|root| *root != signer) {
            follow(&meta, &root).map_err(|error| {
                unproven(&format_args!(
                    "the key of the log is signed by {signer}, not by --k256-pubkey: {error}"
                ))
            })?;
            leads_here = true;
        }
        if signer.as_bytes()[..] != meta.k256_pubkey {
            return Err(unproven(
                &"the key of the log is signed by another key than the root key of the KMS",
            ));
        }
        let claimed = earlier_keys(&meta).map_err(|error| unproven(&causes(&error)))?;
        let is_known = |log: &Log| known.iter().any(|known| known.log == *log);
        let is_renewed = !known.is_empty() && !is_known(&log) && claimed.iter().any(|key| is_known(&key.log));
        if !known.is_empty() && !is_known(&log) && !is_renewed {
            return Err(unproven(&format_args!("it has another log, {}, than --log-key", log.origin())));
        }
        let because = match (known, self.k256_pubkey, &belief, elsewhere) {
            (_, Some(_), ..) if leads_here => Because::StatedRootKey,
            ([_, ..], ..) if is_renewed => Because::FollowsLogKey,
            ([_, ..], ..) => Because::LogKey,
            (_, Some(_), ..) => Because::RootKey,
            (.., Belief::Root(_) | Belief::Key(_), _) => Because::VerifiedServer,
            (.., Elsewhere::Signature) => Because::SignedWhatWasKept,
            (.., Belief::Any, _) => Because::AnyServer,
            (.., Belief::Unsaid, _) => Because::PublicCertificate,
        };
        let files = RemoteLog::new(connection);
        let is_verified = match &belief {
            Belief::Root(_) | Belief::Key(_) => true,
            // Then any server was connected to, and it may show a root key of its own.
            Belief::Any | Belief::Unsaid => {
                self.k256_pubkey.is_some() || (known.is_empty() && elsewhere != Elsewhere::Signature)
            }
        };
        if is_renewed && !is_verified {
            return Err(unproven(&format_args!(
                "the log has another key than --log-key; name the root key that says so (--k256-pubkey), or the root CA of \
                 the KMS (--root-ca)"
            )));
        }
        let root_key = is_verified.then_some(signer);
        Ok(Shown { files, log, log_key: meta.log_key, root_key, signer: Some(signer), because, claimed })
    }
}

/// The key of a log, and its text.
#[derive(Clone, Debug)]
pub(super) struct LogKey {
    pub(super) log: Log,
    pub(super) text: String,
}

impl std::str::FromStr for LogKey {
    type Err = String;

    /// The key as `GetMeta` shows it.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let key: kms_ledger::key::VerifyingKey = text.parse().map_err(|error| format!("{error}"))?;
        let log = Log::of_key(key).map_err(|error| error.to_string())?;
        Ok(Self { log, text: text.to_owned() })
    }
}
