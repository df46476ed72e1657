//! Exit codes, and the failure that carries one.

use std::path::Path;
use std::process::ExitCode;
use std::{fmt, io};

use kms_client::boot::AttemptError;
use kms_client::identity::IdentityError;
use kms_client::server::ServerError;
use kms_client::sign::SignError;
use kms_client::text::causes;
use kms_client::{AppKeys, BootError, CallError, ConnectError};
use serde_json::Value;

/// Printed by `--help` and explained in `docs/kmsctl.md`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed, or a KMS could not be reached or is not ready
  2  wrong usage: arguments or input files
  3  refused by the KMS or its policy
  4  verification failed: the server is not the expected one";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Everything was done.
    Done = 0,
    /// It failed, no KMS responded, or a KMS is not ready.
    Failed = 1,
    /// Arguments or input files are wrong.
    Usage = 2,
    /// The KMS, or its policy, refused.
    Refused = 3,
    /// A check failed.
    Unproven = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: an exit code, a text, and details for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// Added to the JSON report beside `error`.
    pub(crate) details: Option<(&'static str, Value)>,
}

/// The result of a command.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), details: None }
    }

    /// A failure of the command itself.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The user's input is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The KMS refused.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// A check failed.
    pub(crate) fn unproven(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unproven, message)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::failed(format_args!("{doing} {}: {error}", path.display()))
    }

    /// Adds a detail for programs.
    pub(crate) fn with(mut self, name: &'static str, details: Value) -> Self {
        self.details = Some((name, details));
        self
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, advice: &str) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    /// Adds what the failure is about.
    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(connect_exit(&error), causes(&error))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let failure = Self::new(call_exit(&error), call_text(&error));
        match error {
            CallError::Refused { code: Some(code), .. } => failure.with("code", code.into()),
            CallError::Refused { code: None, .. }
            | CallError::Method(_)
            | CallError::Encode { .. }
            | CallError::Transport { .. }
            | CallError::TooLarge { .. }
            | CallError::Decode { .. }
            | CallError::Incomplete { .. }
            | CallError::Timeout { .. } => failure,
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::new(server_exit(&error), causes(&error))
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Call(error) => error.into(),
            SignError::Attester(error) => Self::failed(error.detailed()),
        }
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        let BootError::AllFailed(attempts) = &error else { return Self::usage(error) };
        // A failed verification takes precedence over a refusal, and that over no response.
        let exit = attempts.iter().map(|attempt| attempt_exit(&attempt.error)).max().unwrap_or(Exit::Failed);
        let reasons: Vec<String> = attempts
            .iter()
            .map(|attempt| format!("{}: {}", attempt.url, attempt_text(&attempt.error)))
            .collect();
        let message = format!("no KMS released the keys: {}", reasons.join("; "));
        Self::new(exit, message).with("attempts", failed_attempts(attempts))
    }
}

/// Each KMS that released no keys, with its reason.
pub(crate) fn failed_attempts(attempts: &[kms_client::boot::FailedAttempt]) -> Value {
    attempts
        .iter()
        .map(|attempt| {
            serde_json::json!({
                "url": attempt.url.to_string(),
                "error": attempt_text(&attempt.error),
                "exit": attempt_exit(&attempt.error) as u8,
            })
        })
        .collect()
}

/// The attempts before the successful one.
pub(crate) fn earlier_attempts(keys: &AppKeys) -> Value {
    failed_attempts(&keys.failed)
}

/// Includes the id with which the operator of the KMS finds the denial.
fn call_text(error: &CallError) -> String {
    match error {
        CallError::Refused { denial_id: Some(id), .. } => format!("{error} (denial {id})"),
        error => causes(error),
    }
}

/// Why one KMS did not release keys.
pub(crate) fn attempt_text(error: &AttemptError) -> String {
    match error {
        AttemptError::Call(error) => call_text(error),
        AttemptError::Identity(IdentityError::Attester(error)) => error.detailed(),
        error => causes(error),
    }
}

fn attempt_exit(error: &AttemptError) -> Exit {
    match error {
        AttemptError::Connect(error) => connect_exit(error),
        AttemptError::Call(error) => call_exit(error),
        AttemptError::Identity(_) | AttemptError::OutOfTime => Exit::Failed,
        AttemptError::Server(error) => server_exit(error),
        AttemptError::KeyProvider
        | AttemptError::RootCa { .. }
        | AttemptError::OtherRootCa
        | AttemptError::OtherEpochs { .. }
        | AttemptError::KeyLength { .. } => Exit::Unproven,
    }
}

/// A handshake fails because the server is not the expected one, or because it does not use TLS.
fn connect_exit(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Tls(error) if error.kind() == io::ErrorKind::InvalidData => Exit::Unproven,
        ConnectError::Config(_)
        | ConnectError::Name(_)
        | ConnectError::Tcp(_)
        | ConnectError::Tls(_)
        | ConnectError::NoCertificate
        | ConnectError::Http(_)
        | ConnectError::Timeout(_) => Exit::Failed,
    }
}

/// 400 is a refusal too, because `dstack-kms` uses it for every refusal.
fn call_exit(error: &CallError) -> Exit {
    match error {
        CallError::Refused { status, .. } if matches!(status.as_u16(), 400 | 401 | 403 | 409) => {
            Exit::Refused
        }
        CallError::Refused { .. }
        | CallError::Method(_)
        | CallError::Encode { .. }
        | CallError::Transport { .. }
        | CallError::TooLarge { .. }
        | CallError::Decode { .. }
        | CallError::Incomplete { .. }
        | CallError::Timeout { .. } => Exit::Failed,
    }
}

fn server_exit(error: &ServerError) -> Exit {
    match error {
        ServerError::Attestation(error) if error.is_unavailable() => Exit::Failed,
        ServerError::NoUsage
        | ServerError::Usage(_)
        | ServerError::App
        | ServerError::NoAttestation
        | ServerError::Certificate(_)
        | ServerError::Attestation(_) => Exit::Unproven,
    }
}
