//! An invitation by which a replica joins, and how it tells the source what became of it.

use std::fmt;

use kms_wire::join::{JoinReport, is_hex};
use zeroize::Zeroizing;

use crate::connection::{ConnectError, Connection};
use crate::proto::ReportJoinRequest;
use crate::rpc::CallError;
use crate::tls::{ClientIdentity, Trust};
use crate::url::KmsUrl;

/// What the token of an invitation begins with. That of a named credential begins with `ckms_`.
const PREFIX: &str = "ckmsjoin_";
/// Hex digits of the id.
const ID_DIGITS: usize = 16;
/// Hex digits of the secret.
const SECRET_DIGITS: usize = 64;

/// The token of an invitation: `ckmsjoin_<id>_<secret>`. Not printed by `Debug`, and wiped when dropped.
pub struct JoinToken(Zeroizing<String>);

/// Not the token of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token of an invitation is ckmsjoin_, its id of 16 lower-case hex digits, _, and 64 more")]
pub struct NotAJoinToken;

impl JoinToken {
    /// Whether a text begins like the token of an invitation, so that it cannot be meant as another token.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`NotAJoinToken`].
    pub fn parse(text: &str) -> Result<Self, NotAJoinToken> {
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        match parts {
            Some((id, secret)) if is_hex(id, ID_DIGITS) && is_hex(secret, SECRET_DIGITS) => {
                Ok(Self(Zeroizing::new(text.to_owned())))
            }
            _ => Err(NotAJoinToken),
        }
    }

    /// The token of the invitation `id` with this secret.
    ///
    /// # Errors
    /// [`NotAJoinToken`].
    pub fn of(id: &str, secret: &str) -> Result<Self, NotAJoinToken> {
        Self::parse(&Zeroizing::new(format!("{PREFIX}{id}_{secret}")))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The id of the invitation, which is no secret.
    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ID_DIGITS]
    }

    /// The secret alone.
    pub fn secret(&self) -> &str {
        &self.0[PREFIX.len() + ID_DIGITS + 1..]
    }

    pub(super) fn again(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken")
    }
}

/// A replica that has received the root keys by an invitation, and can say what becomes of them: to the source with the key
/// that was attested, over the key that was attested to the source.
pub struct Joined {
    pub(super) source: KmsUrl,
    /// The attested key of the source.
    pub(super) server: Vec<u8>,
    pub(super) identity: ClientIdentity,
    pub(super) token: JoinToken,
}

/// Why the source did not hear it.
#[derive(Debug, thiserror::Error)]
pub enum Unreported {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not accept it.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Joined {
    /// Tells the source.
    ///
    /// # Errors
    /// [`Unreported`].
    pub async fn report(&self, stage: JoinReport) -> Result<(), Unreported> {
        let Self { source, server, identity, token } = self;
        let connection = Connection::open(source, Trust::PublicKey(server), Some(identity)).await?;
        let request =
            ReportJoinRequest { join_token: token.expose().to_owned(), stage: stage.name().to_owned() };
        connection.call::<_, ()>("ReportJoin", &request).await?;
        Ok(())
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").field("source", &self.source.to_string()).finish_non_exhaustive()
    }
}

impl Unreported {
    /// Whether the source does not want to hear it: to try again is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Call(CallError::Refused { status, .. }) if status.is_client_error()
            && *status != http::StatusCode::TOO_MANY_REQUESTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let (id, secret) = ("0123456789abcdef", "5".repeat(64));
        let token = JoinToken::of(id, &secret).expect("a token");
        assert_eq!((token.id(), token.secret()), (id, secret.as_str()));
        assert_eq!(format!("{token:?}"), "JoinToken");
        let text = token.expose().to_owned();
        assert!(JoinToken::is_meant(&text) && JoinToken::parse(&text).is_ok());
        for other in [
            String::new(),
            "ckmsjoin_".to_owned(),
            text.to_uppercase(),
            format!("{text}0"),
            format!(" {text}"),
            text[1..].to_owned(),
            text[..text.len() - 1].to_owned(),
            text.replace("ckmsjoin_", "ckms_"),
            text.replace("_5", "5_"),
        ] {
            assert_eq!(JoinToken::parse(&other).err(), Some(NotAJoinToken), "{other}");
        }
    }
}
