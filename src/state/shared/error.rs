//! Why the database cannot be used, in words that name no host, user or password; the whole cause is for the terminal of an operator.

use std::error::Error as _;
use std::{fmt, io};

use rustls::CertificateError;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{WasNull, WrongType};

use crate::config::PostgresError;

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// It does not answer.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It does not accept the user or the password.
    #[error("the database refuses the user or the password")]
    Credentials,
    /// There is no such database.
    #[error("there is no database of that name")]
    NoDatabase,
    /// The TLS handshake fails.
    #[error("the TLS handshake with the database fails: {0}")]
    Tls(TlsFault, Cause),
    /// The user may not do what is needed.
    #[error("the database user lacks the right to create or to use the tables kms_*")]
    NoRights,
    /// It is a standby.
    #[error("the database is read-only: it is a standby")]
    ReadOnly,
    /// A newer version of this program has changed the tables.
    #[error(
        "the tables are of a newer version: they need a program that knows version {needs}, this one knows {knows}"
    )]
    TooNew {
        /// The version that is needed.
        needs: i32,
        /// The version that is known here.
        knows: i32,
    },
    /// They are not as a migration leaves them.
    #[error(
        "a table kms_* is missing, empty or of another form: restore the database, or drop the tables kms_*"
    )]
    Schema,
    /// A row that was written cannot be read back.
    #[error("the database did not store what was written: look for triggers and rules on the tables kms_*")]
    Ignored,
    /// More rows than were asked for.
    #[error("the database sends more than it was asked for")]
    TooMuch,
    /// Its disk is full.
    #[error("the disk of the database is full")]
    Full,
    /// It has no connection to give.
    #[error("the database has no free connection: end some, or raise its max_connections")]
    NoConnection,
    /// The end of a change was not heard of.
    #[error(
        "the database did not confirm the change, which may or may not have been made: look before you try again"
    )]
    Unconfirmed,
    /// It took too long.
    #[error("the database does not answer in time")]
    Slow,
    /// Another session held what was asked for too long. The connection is as good as before.
    #[error("the database does not answer in time: another session holds a lock there")]
    Locked,
    /// Something else, by its SQLSTATE.
    #[error("the database refuses a statement (SQLSTATE {0})")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Settings(String),
}

/// What is wrong with the TLS of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// It has none.
    #[error("it has no TLS")]
    Missing,
    /// The certificate has another name.
    #[error("its certificate is not for the host that core.postgres.url names")]
    Name,
    /// The certificate is of an unknown CA.
    #[error("its certificate is of no CA that is trusted here: name the CA in core.postgres.ca_file")]
    Issuer,
    /// The certificate has expired, or begins to be valid later.
    #[error("its certificate is not valid at this time")]
    Time,
    /// The certificate has another fault.
    #[error("its certificate is invalid")]
    Certificate,
    /// They do not understand each other.
    #[error("it does not speak TLS 1.2 or 1.3 as this node does")]
    Protocol,
}

/// The whole cause, which may name the host: shown only where it is asked for, and no part of what an error is.
#[derive(Clone)]
pub struct Cause(String);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cause")
    }
}

impl PartialEq for Cause {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Cause {}

impl DatabaseError {
    /// Why the name of a host has no address.
    pub(super) fn of_lookup(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(_) => error.into(),
            // Of the resolver, whose codes the standard library does not give.
            None => Self::Unreachable("the name of its host is not known".to_owned()),
        }
    }

    /// What the failure of a commit says of the change.
    pub(super) fn of_commit(error: tokio_postgres::Error) -> Self {
        // A server that ends over it may have written the commit, and finds it when it starts again.
        let is_over =
            |told: &DbError| matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        match error.as_db_error() {
            Some(told) if refuses_commit(told.code().code()) && !is_over(told) => error.into(),
            Some(_) | None => Self::Unconfirmed,
        }
    }

    /// What an operator can do; `None` where the text says it.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable(_) => "Start PostgreSQL, or correct core.postgres.url or the network between",
            Self::Credentials => "Correct them in core.postgres.url, or the database's pg_hba.conf",
            Self::NoDatabase => "Create it with createdb, or correct core.postgres.url",
            Self::Tls(TlsFault::Missing, _) => "Turn it on (ssl = on): beyond this machine it is required",
            Self::Tls(..) => {
                "Correct the certificate of the database, or core.postgres; kms check on this node shows the whole cause"
            }
            Self::NoRights => "Make the user the owner of the database and of these tables",
            Self::ReadOnly => "Name its primary in core.postgres.url, or promote the standby",
            Self::TooNew { .. } => "Update this node",
            Self::TooMuch => "Look at who else writes to the tables kms_*",
            Self::Full => "Free some space there",
            Self::Slow => "Look at the load of the database, and at the network between",
            Self::Locked => "Find that session in pg_stat_activity, and end it",
            Self::Refused(_) => "Look at the log of the database",
            Self::Schema | Self::Ignored | Self::NoConnection | Self::Unconfirmed | Self::Settings(_) => {
                return None;
            }
        })
    }

    /// With the whole cause, which may name the host: for the terminal of an operator, never for the log or for callers.
    pub fn detailed(&self) -> String {
        match self {
            Self::Tls(_, Cause(cause)) => format!("{self} ({cause})"),
            Self::Unreachable(_)
            | Self::Credentials
            | Self::NoDatabase
            | Self::NoRights
            | Self::ReadOnly
            | Self::TooNew { .. }
            | Self::Schema
            | Self::Ignored
            | Self::TooMuch
            | Self::Full
            | Self::NoConnection
            | Self::Unconfirmed
            | Self::Slow
            | Self::Locked
            | Self::Refused(_)
            | Self::Settings(_) => self.to_string(),
        }
    }
}

impl From<&rustls::Error> for DatabaseError {
    fn from(error: &rustls::Error) -> Self {
        let fault = match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    TlsFault::Name
                }
                CertificateError::UnknownIssuer => TlsFault::Issuer,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => TlsFault::Time,
                _ => TlsFault::Certificate,
            },
            rustls::Error::NoCertificatesPresented => TlsFault::Certificate,
            _ => TlsFault::Protocol,
        };
        Self::Tls(fault, Cause(error.to_string()))
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(state) = error.code() {
            return match state {
                state
                    if *state == SqlState::INVALID_PASSWORD
                        || *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
                {
                    Self::Credentials
                }
                state if *state == SqlState::INVALID_CATALOG_NAME => Self::NoDatabase,
                // Where a schema may not be used, there seems to be none.
                state
                    if *state == SqlState::INSUFFICIENT_PRIVILEGE
                        || *state == SqlState::INVALID_SCHEMA_NAME =>
                {
                    Self::NoRights
                }
                state if *state == SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
                state if *state == SqlState::QUERY_CANCELED => Self::Slow,
                state if *state == SqlState::LOCK_NOT_AVAILABLE => Self::Locked,
                state if *state == SqlState::DISK_FULL => Self::Full,
                state if *state == SqlState::TOO_MANY_CONNECTIONS => Self::NoConnection,
                state if *state == SqlState::UNDEFINED_TABLE || *state == SqlState::UNDEFINED_COLUMN => {
                    Self::Schema
                }
                state if *state == SqlState::CANNOT_CONNECT_NOW || *state == SqlState::ADMIN_SHUTDOWN => {
                    Self::Unreachable("it starts or stops".to_owned())
                }
                other => Self::Refused(sqlstate(other.code()).to_owned()),
            };
        }
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return tls.into();
            }
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                return io.into();
            }
            // A column of another type than ours.
            if inner.is::<WrongType>() || inner.is::<WasNull>() {
                return Self::Schema;
            }
            cause = inner.source();
        }
        // The library has no codes for these. Its words name no value.
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        match cause.as_str() {
            _ if error.is_closed() => Self::Unreachable("the connection was closed".to_owned()),
            "password missing" => {
                Self::Settings("the database asks for a password, and core.postgres.url has none".to_owned())
            }
            "server does not support TLS" => Self::Tls(TlsFault::Missing, Cause(cause)),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// Whether a change whose commit ends with this code was certainly not made. A server that stops, crashes or ends the connection
/// (classes 57P and 08) may do so after it has written the commit, and 40003 says that this is unknown.
fn refuses_commit(sqlstate: &str) -> bool {
    !sqlstate.starts_with("57P") && !sqlstate.starts_with("08") && sqlstate != "40003"
}

/// A code of PostgreSQL; the database may send any text in its place.
fn sqlstate(code: &str) -> &str {
    let is_code = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_code { code } else { "unknown" }
}

impl From<&io::Error> for DatabaseError {
    fn from(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return tls.into();
        }
        match error.kind() {
            // The system does not say this: the library of the database does, of a server that is read-only.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Self::ReadOnly,
            io::ErrorKind::FileTooLarge => Self::TooMuch,
            kind => Self::Unreachable(unreachable(kind)),
        }
    }
}

/// Why nothing comes from the database, in a sentence.
fn unreachable(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::PermissionDenied => "this process may not open its socket".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no network leads to its host".to_owned()
        }
        io::ErrorKind::TimedOut => "its host does not answer".to_owned(),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        other => other.to_string(),
    }
}

impl From<PostgresError> for DatabaseError {
    fn from(error: PostgresError) -> Self {
        Self::Settings(error.to_string())
    }
}

#[cfg(test)]
mod tests;
