//! How operators prove who they are: a token, or a user of an htpasswd file.

use std::fmt;

use base64::Engine as _;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// SHA-256 of the operator's token: all comparisons are over digests, in constant time.
pub struct OperatorToken([u8; 32]);

impl OperatorToken {
    /// From the token itself.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// From its SHA-256 (`core.admin_token_hash`).
    pub fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Whether `candidate` is the token.
    pub fn is(&self, candidate: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(candidate.as_bytes()).into();
        self.0.ct_eq(&digest).into()
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorToken").finish_non_exhaustive()
    }
}

/// Who has shown credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Somebody, where none are needed.
    Anyone,
    /// A holder of the token.
    Token,
    /// A user of the htpasswd file.
    User(String),
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Token => f.write_str("token"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// Who may use the admin listener.
#[derive(Debug)]
pub enum Credentials {
    /// `core.admin.insecure_no_auth = true`.
    NoneNeeded,
    /// A token, users with bcrypt hashes, or both.
    Needed {
        /// `core.admin.auth_token` or its environment variables.
        token: Option<OperatorToken>,
        /// `core.admin.htpasswd_file`.
        users: Users,
    },
}

/// The entries of an htpasswd file.
#[derive(Default)]
pub struct Users(Vec<(String, String)>);

/// Why an htpasswd file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the htpasswd file is not `user:bcrypt hash` ($2a$, $2b$ or $2y$)")]
pub struct BadHtpasswd {
    /// Counted from one.
    pub line: usize,
}

impl Users {
    /// Reads `user:hash` lines; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`BadHtpasswd`] with the first line that is not one.
    pub fn parse(text: &str) -> Result<Self, BadHtpasswd> {
        let mut users = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || BadHtpasswd { line: index + 1 };
            let (user, hash) = line.split_once(':').ok_or_else(bad)?;
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind));
            if user.is_empty() || !known || hash.len() != BCRYPT_LENGTH {
                return Err(bad());
            }
            users.push((user.to_owned(), hash.to_owned()));
        }
        Ok(Self(users))
    }

    fn admits(&self, user: &str, password: &str) -> bool {
        let known = self.0.iter().find(|(name, _)| name == user);
        // Somebody else's hash for a name that is nobody's: the time of an answer does not tell who exists.
        let Some((_, hash)) = known.or(self.0.first()) else { return false };
        bcrypt::verify(password, hash).unwrap_or(false) && known.is_some()
    }
}

const BCRYPT_LENGTH: usize = 60;
/// Longer credentials are nobody's.
const LONGEST_HEADER: usize = 4096;

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

impl Credentials {
    /// Whether these headers try to show credentials at all.
    pub fn are_shown(headers: &HeaderMap) -> bool {
        headers.contains_key("x-admin-token") || headers.contains_key(header::AUTHORIZATION)
    }

    /// Whether these headers carry credentials.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        self.identify(headers).is_some()
    }

    /// Whose credentials these headers carry: `X-Admin-Token`, then `Authorization` (`Bearer`, or `Basic` with a user
    /// of the file, or with the token as password, or as user name with an empty password).
    pub fn identify(&self, headers: &HeaderMap) -> Option<Operator> {
        let Self::Needed { token, users } = self else { return Some(Operator::Anyone) };
        let is_token = |candidate: &str| token.as_ref().is_some_and(|token| token.is(candidate));
        let text = |name: &str| {
            let value = headers.get(name).filter(|value| value.len() <= LONGEST_HEADER)?;
            value.to_str().ok()
        };
        if text("x-admin-token").is_some_and(is_token) {
            return Some(Operator::Token);
        }
        let (scheme, rest) = text(header::AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '))?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return is_token(rest.trim()).then_some(Operator::Token);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let (user, password) = basic(rest.trim())?;
        if is_token(&password) || (password.is_empty() && is_token(&user)) {
            return Some(Operator::Token);
        }
        users.admits(&user, &password).then_some(Operator::User(user))
    }
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("header"));
        headers
    }

    fn basic_header(text: &str) -> HeaderMap {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        headers("authorization", &format!("Basic {encoded}"))
    }

    fn credentials() -> Credentials {
        let hash = bcrypt::hash_with_result("pass word", 4)
            .expect("bcrypt")
            .format_for_version(bcrypt::Version::TwoY);
        let users = Users::parse(&format!("# people\n\nalice:{hash}\n")).expect("file");
        Credentials::Needed { token: Some(OperatorToken::new("s3cret")), users }
    }

    #[test]
    fn each_way_to_show_credentials_passes_and_each_wrong_one_does_not() {
        let credentials = credentials();
        for (headers, admitted) in [
            (headers("x-admin-token", "s3cret"), true),
            (headers("x-admin-token", "S3cret"), false),
            (headers("authorization", "Bearer s3cret"), true),
            (headers("authorization", "bearer s3cret"), true),
            (headers("authorization", "Bearer other"), false),
            (basic_header("alice:pass word"), true),
            (basic_header("alice:wrong"), false),
            (basic_header("bob:pass word"), false),
            (basic_header("anyone:s3cret"), true),
            (basic_header("s3cret:"), true),
            (basic_header("s3cret:x"), false),
            (basic_header("nocolon"), false),
            (headers("authorization", "Basic !!!"), false),
            (headers("authorization", "Digest s3cret"), false),
            (HeaderMap::new(), false),
        ] {
            assert_eq!(credentials.admit(&headers), admitted, "{headers:?}");
        }
    }

    #[test]
    fn an_unknown_user_takes_as_long_as_a_known_one() {
        let hash = bcrypt::hash("pass word", 7).expect("bcrypt");
        let users = Users::parse(&format!("alice:{hash}")).expect("file");
        let time = |user| {
            let started = std::time::Instant::now();
            assert!(!users.admits(user, "wrong"));
            started.elapsed()
        };
        let known = (0..3).map(|_| time("alice")).min().expect("three");
        let unknown = (0..3).map(|_| time("bob")).max().expect("three");
        assert!(unknown * 4 > known, "{unknown:?}, but {known:?} for a known one");
    }

    #[test]
    fn credentials_are_shown_in_two_headers() {
        for (headers, are_shown) in [
            (headers("x-admin-token", "x"), true),
            (basic_header("x"), true),
            (headers("x-onboard-token", "x"), false),
            (HeaderMap::new(), false),
        ] {
            assert_eq!(Credentials::are_shown(&headers), are_shown, "{headers:?}");
        }
    }

    #[test]
    fn without_a_token_no_token_is_right() {
        let credentials = Credentials::Needed { token: None, users: Users::default() };
        assert!(!credentials.admit(&headers("x-admin-token", "")));
        assert!(!credentials.admit(&basic_header(":")));
    }

    #[test]
    fn a_malformed_file_is_refused_with_its_line() {
        for (text, line) in [("alice", 1), ("\nalice:plain", 2), ("a:$2y$10$short", 1), (":$2y$", 1)] {
            assert_eq!(Users::parse(text).expect_err("malformed"), BadHtpasswd { line });
        }
    }

    #[test]
    fn a_token_is_known_by_its_hash() {
        let hash = Sha256::digest(b"old token").into();
        assert!(OperatorToken::from_hash(hash).is("old token"));
        assert!(!OperatorToken::from_hash(hash).is("old token "));
    }
}
