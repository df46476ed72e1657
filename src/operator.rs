//! How operators prove who they are: the token of the configuration, a user of an htpasswd file, or a named credential.

pub mod named;
mod person;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use http::{HeaderMap, header};
use kms_wire::role::Role;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use self::named::{Named, NamedCredential, Standing};
pub use self::person::Person;

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

/// The operator that a request's credentials identify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Anyone, because no credentials are needed.
    Anyone,
    /// A holder of the token.
    Token,
    /// A user of the htpasswd file.
    User(String),
    /// The holder of a named credential.
    Named {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// Which secret was shown: the operator is nobody once another one counts.
        version: u64,
    },
    /// The holder of an invitation, who may only exchange it for a credential.
    Invited {
        /// The name of the credential.
        name: String,
        /// Which invitation was shown.
        version: u64,
    },
}

impl Operator {
    /// What this operator may do. The token and users of the htpasswd file are owners.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Anyone | Self::Token | Self::User(_) => Some(Role::Owner),
            Self::Named { role, .. } => Some(*role),
            Self::Invited { .. } => None,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Token => f.write_str("token"),
            Self::User(name) => write!(f, "user {name}"),
            Self::Named { name, .. } | Self::Invited { name, .. } => write!(f, "credential {name}"),
        }
    }
}

/// Who may use the admin listener.
#[derive(Debug)]
pub enum Credentials {
    /// `core.admin.insecure_no_auth = true`.
    NoneNeeded,
    /// A token, users with bcrypt hashes, named credentials, or several of these.
    Needed {
        /// `core.admin.auth_token` or its environment variables.
        token: Option<OperatorToken>,
        /// `core.admin.htpasswd_file`.
        users: Users,
        /// `core.admin.credentials_file`.
        named: Arc<Named>,
    },
}

/// The credentials in the headers, as far as they can be checked without hashing a password.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// No credentials.
    Nothing,
    /// The token, or nothing where no credentials are needed.
    Right(Operator),
    /// Neither the token nor a user's name and password.
    Wrong,
    /// A name and a password: [`Credentials::admits`] decides, which takes the computation of a hash.
    Password(Password),
}

/// A name and a password that may be wrong. Its `Debug` prints neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    user: String,
    password: Zeroizing<String>,
}

impl Password {
    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Name and password in one unambiguous text, because a name contains no colon.
    pub fn joined(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}:{}", self.user, self.password.as_str()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").finish_non_exhaustive()
    }
}

/// The entries of an htpasswd file.
#[derive(Default)]
pub struct Users {
    hashes: BTreeMap<String, Hash>,
    /// The hash for unknown names, so that the response time does not tell which names exist.
    nobody: Option<String>,
}

struct Hash {
    text: String,
    cost: u32,
}

/// Why an htpasswd file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadHtpasswd {
    /// A line is not an entry.
    #[error("line {line} of the htpasswd file is not `user:bcrypt hash` ($2a$, $2b$ or $2y$)")]
    Malformed {
        /// The line number, from 1.
        line: usize,
    },
    /// A hash whose cost is too low or too high.
    #[error(
        "line {line} of the htpasswd file has a bcrypt cost of {cost}; {MIN_COST} to {MAX_COST} can be used, 10 to 12 are usual"
    )]
    Cost {
        /// The line number, from 1.
        line: usize,
        /// The cost of the entry.
        cost: u32,
    },
    /// Two entries for one name, of which only one would be used.
    #[error("line {line} of the htpasswd file names a user that an earlier line names")]
    Repeated {
        /// The line number, from 1.
        line: usize,
    },
    /// A byte order mark, which would become part of the first name.
    #[error("the htpasswd file starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Not text, or not in this encoding.
    #[error("the htpasswd file is not UTF-8")]
    NotUtf8,
    /// It is empty, and there is no token either.
    #[error("the htpasswd file names no user, and there is no token: nobody could log in")]
    NoUsers,
}

const BCRYPT_LENGTH: usize = 60;
/// bcrypt's lowest cost.
const MIN_COST: u32 = 4;
/// A hash of a higher cost takes longer than a request may.
const MAX_COST: u32 = 18;
/// A hash of a higher cost delays every login by two seconds or more.
const USUAL_COST: u32 = 14;
/// Longer credentials are refused.
const MAX_HEADER: usize = 4096;
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Users {
    /// Reads a file; see [`Users::parse`].
    ///
    /// # Errors
    /// [`BadHtpasswd`].
    pub fn read(bytes: &[u8]) -> Result<Self, BadHtpasswd> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| BadHtpasswd::NotUtf8)?)
    }

    /// Reads `user:hash` lines; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`BadHtpasswd`] with the first invalid line.
    pub fn parse(text: &str) -> Result<Self, BadHtpasswd> {
        if text.starts_with(BYTE_ORDER_MARK) {
            return Err(BadHtpasswd::ByteOrderMark);
        }
        let mut hashes = BTreeMap::new();
        for (index, entry) in text.lines().enumerate() {
            let (line, entry) = (index + 1, entry.trim());
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            let malformed = || BadHtpasswd::Malformed { line };
            let (user, hash) = entry.split_once(':').ok_or_else(malformed)?;
            let is_name = !user.is_empty()
                && user.trim() == user
                && !user.chars().any(|character| character.is_control() || character == BYTE_ORDER_MARK);
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind));
            if !is_name || !known || hash.len() != BCRYPT_LENGTH {
                return Err(malformed());
            }
            let parts: bcrypt::HashParts = hash.parse().map_err(|_| malformed())?;
            let cost = parts.get_cost();
            if !(MIN_COST..=MAX_COST).contains(&cost) {
                return Err(BadHtpasswd::Cost { line, cost });
            }
            if hashes.insert(user.to_owned(), Hash { text: hash.to_owned(), cost }).is_some() {
                return Err(BadHtpasswd::Repeated { line });
            }
        }
        Ok(Self { nobody: nobody(&hashes), hashes })
    }

    /// Whether the file has no entries.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Users with a slow hash, which makes other logins wait, and its cost.
    pub fn slow(&self) -> impl Iterator<Item = (&str, u32)> {
        let slow = self.hashes.iter().filter(|(_, hash)| hash.cost > USUAL_COST);
        slow.map(|(name, hash)| (name.as_str(), hash.cost))
    }

    /// The names in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.keys().map(String::as_str)
    }

    /// Whether the file has an entry for `user`.
    pub fn has(&self, user: &str) -> bool {
        self.hashes.contains_key(user)
    }

    /// Whether the password is that of the user. Takes as long as bcrypt takes, for every name.
    pub fn admits(&self, shown: &Password) -> bool {
        let known = self.hashes.get(&shown.user);
        let Some(hash) = known.map(|hash| &hash.text).or(self.nobody.as_ref()) else { return false };
        bcrypt::verify(shown.password.as_str(), hash).unwrap_or(false) && known.is_some()
    }
}

/// A hash with the most frequent cost (the lowest of several), but not one that delays every login.
fn nobody(hashes: &BTreeMap<String, Hash>) -> Option<String> {
    let pattern = hashes.values().next()?;
    let mut users_by_cost = BTreeMap::<u32, usize>::new();
    for hash in hashes.values() {
        *users_by_cost.entry(hash.cost).or_default() += 1;
    }
    let commonest = users_by_cost.iter().max_by_key(|(cost, users)| (**users, std::cmp::Reverse(**cost)));
    let cost = commonest.map_or(pattern.cost, |(cost, _)| *cost).min(USUAL_COST);
    // A hash begins with `$2y$12$`. After its cost is replaced, no known password matches it.
    Some(format!("{}{cost:02}{}", &pattern.text[..4], &pattern.text[6..]))
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}

impl Credentials {
    /// The credentials in these headers: `X-Admin-Token`, then `Authorization` (`Bearer`; or `Basic` with a
    /// user of the file, with the token as password, or with the token as user name and an empty password).
    /// Hashes no password.
    pub fn shown(&self, headers: &HeaderMap) -> Shown {
        let Self::Needed { token, users, named } = self else { return Shown::Right(Operator::Anyone) };
        if !headers.contains_key("x-admin-token") && !headers.contains_key(header::AUTHORIZATION) {
            return Shown::Nothing;
        }
        let is_token = |candidate: &str| token.as_ref().is_some_and(|token| token.is(candidate));
        let text = |name: &str| {
            let value = headers.get(name).filter(|value| value.len() <= MAX_HEADER)?;
            value.to_str().ok()
        };
        let of_name = |token: &str| {
            let (user, secret) = named::parts_of_token(token)?;
            Some(Shown::Password(Password {
                user: user.to_owned(),
                password: Zeroizing::new(secret.to_owned()),
            }))
        };
        if let Some(candidate) = text("x-admin-token") {
            if is_token(candidate) {
                return Shown::Right(Operator::Token);
            }
            if let Some(shown) = of_name(candidate) {
                return shown;
            }
        }
        let authorization = text(header::AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '));
        let Some((scheme, rest)) = authorization else { return Shown::Wrong };
        if scheme.eq_ignore_ascii_case("bearer") {
            let candidate = rest.trim();
            return match is_token(candidate) {
                true => Shown::Right(Operator::Token),
                false => of_name(candidate).unwrap_or(Shown::Wrong),
            };
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Shown::Wrong;
        }
        let Some(shown) = basic(rest.trim()) else { return Shown::Wrong };
        if is_token(&shown.password) || (shown.password.is_empty() && is_token(&shown.user)) {
            return Shown::Right(Operator::Token);
        }
        if let Some(named) = of_name(&shown.password) {
            return named;
        }
        if users.is_empty() && named.is_empty() { Shown::Wrong } else { Shown::Password(shown) }
    }

    /// See [`Users::slow`].
    pub fn slow_users(&self) -> impl Iterator<Item = (&str, u32)> {
        let users = match self {
            Self::NoneNeeded => None,
            Self::Needed { users, .. } => Some(users),
        };
        users.into_iter().flat_map(Users::slow)
    }

    /// The named credentials; `None` where no credentials are needed.
    pub fn named(&self) -> Option<&Arc<Named>> {
        match self {
            Self::NoneNeeded => None,
            Self::Needed { named, .. } => Some(named),
        }
    }

    /// Whether the htpasswd file has an entry for `name`.
    pub fn has_user(&self, name: &str) -> bool {
        match self {
            Self::NoneNeeded => false,
            Self::Needed { users, .. } => users.has(name),
        }
    }

    /// Whether a named credential or a user of the file has this password. Takes as long for each name: where there are both
    /// kinds, both hashes are computed.
    pub fn admits(&self, shown: &Password) -> bool {
        let Self::Needed { users, named, .. } = self else { return true };
        let now = named.now();
        let by_name = !named.is_empty() && named.admits(&shown.user, &shown.password, now);
        let by_user = users.admits(shown);
        match named.get(&shown.user, now) {
            Some(_) => by_name,
            None => by_user,
        }
    }

    /// The operator of this name, whose password was right when `version` was the one that counts; `None` if it has changed.
    pub fn operator(&self, user: &str, version: u64) -> Option<Operator> {
        let Self::Needed { users, named, .. } = self else { return Some(Operator::Anyone) };
        let now = named.now();
        let Some(credential) = named.get(user, now) else {
            return (version == 0 && users.has(user)).then(|| Operator::User(user.to_owned()));
        };
        let operator = of_version(&credential, version)?;
        credential.used(now);
        Some(operator)
    }

    /// Whether the secret with which `operator` was identified still counts, for the same role. A request may wait or run for
    /// long after that.
    pub fn is_live(&self, operator: &Operator) -> bool {
        let Self::Needed { users, named, .. } = self else { return true };
        match operator {
            // The configuration does not change while this process runs.
            Operator::Anyone | Operator::Token => true,
            Operator::User(name) => users.has(name) && named.get(name, named.now()).is_none(),
            Operator::Named { name, version, .. } | Operator::Invited { name, version } => {
                let credential = named.get(name, named.now());
                credential.and_then(|credential| of_version(&credential, *version)).as_ref() == Some(operator)
            }
        }
    }

    /// When the credential of `operator` ends, in Unix seconds; `None` if it does not expire.
    pub fn expires_at(&self, operator: &Operator) -> Option<u64> {
        match operator {
            Operator::Anyone | Operator::Token | Operator::User(_) => None,
            Operator::Named { name, .. } | Operator::Invited { name, .. } => {
                let named = self.named()?;
                named.get(name, named.now())?.expires_at
            }
        }
    }

    /// Which secret of this name counts: what is remembered of another version does not. 0 for users of the htpasswd file.
    pub fn version(&self, user: &str) -> u64 {
        match self {
            Self::NoneNeeded => 0,
            Self::Needed { named, .. } => {
                named.get(user, named.now()).map_or(0, |credential| credential.version)
            }
        }
    }
}

/// The holder of the secret of this version; `None` if another one counts.
fn of_version(credential: &NamedCredential, version: u64) -> Option<Operator> {
    let name = credential.name.to_string();
    (credential.version == version).then_some(match credential.standing {
        Standing::Active(_) => Operator::Named { name, role: credential.role, version },
        Standing::Invited { .. } => Operator::Invited { name, version },
    })
}

fn basic(encoded: &str) -> Option<Password> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = Zeroizing::new(String::from_utf8(bytes).ok()?);
    let (user, password) = text.split_once(':')?;
    Some(Password { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
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

    fn hash(cost: u32) -> String {
        let hash = bcrypt::hash_with_result("pass word", 4).expect("bcrypt");
        let hash = hash.format_for_version(bcrypt::Version::TwoY);
        // The hash of no password at another cost, in the form of one.
        format!("$2y${cost:02}{}", &hash[6..])
    }

    fn password(user: &str, password: &str) -> Password {
        Password { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) }
    }

    fn credentials() -> Credentials {
        let users = Users::parse(&format!("# people\r\n\r\nalice:{}\r\n", hash(4))).expect("file");
        Credentials::Needed { token: Some(OperatorToken::new("s3cret")), users, named: Arc::default() }
    }

    /// As on the admin listener, but without delays.
    fn admits(credentials: &Credentials, headers: &HeaderMap) -> bool {
        match credentials.shown(headers) {
            Shown::Nothing | Shown::Wrong => false,
            Shown::Right(_) => true,
            Shown::Password(password) => credentials.admits(&password),
        }
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
            assert_eq!(admits(&credentials, &headers), admitted, "{headers:?}");
        }
    }

    #[test]
    fn only_a_name_and_a_password_cost_a_hash() {
        let without_users = Credentials::Needed {
            token: Some(OperatorToken::new("s3cret")),
            users: Users::default(),
            named: Arc::default(),
        };
        for (headers, shown) in [
            (HeaderMap::new(), Shown::Nothing),
            (headers("x-onboard-token", "x"), Shown::Nothing),
            (headers("x-admin-token", "s3cret"), Shown::Right(Operator::Token)),
            (headers("x-admin-token", "x"), Shown::Wrong),
            (basic_header("anyone:s3cret"), Shown::Right(Operator::Token)),
            (basic_header("alice:wrong"), Shown::Password(password("alice", "wrong"))),
        ] {
            assert_eq!(credentials().shown(&headers), shown, "{headers:?}");
            if matches!(shown, Shown::Password(_)) {
                assert_eq!(without_users.shown(&headers), Shown::Wrong, "nobody to compare with");
            }
        }
        assert_eq!(Credentials::NoneNeeded.shown(&HeaderMap::new()), Shown::Right(Operator::Anyone));
    }

    #[test]
    fn an_unknown_user_takes_as_long_as_a_known_one() {
        let hash = bcrypt::hash("pass word", 7).expect("bcrypt");
        let users = Users::parse(&format!("alice:{hash}")).expect("file");
        let time = |user| {
            let started = std::time::Instant::now();
            assert!(!users.admits(&password(user, "wrong")));
            started.elapsed()
        };
        let known = (0..3).map(|_| time("alice")).min().expect("three");
        let unknown = (0..3).map(|_| time("bob")).max().expect("three");
        assert!(unknown * 4 > known, "{unknown:?}, but {known:?} for a known one");
    }

    #[test]
    fn a_name_that_is_nobodys_is_compared_at_the_usual_cost_not_at_the_largest() {
        for (costs, expected) in [
            (&[4][..], "04"),
            (&[17, 4, 5, 5][..], "05"),
            (&[12, 10][..], "10"),
            (&[17][..], "14"),
            (&[17, 17, 10][..], "14"),
        ] {
            let lines: Vec<String> =
                costs.iter().enumerate().map(|(number, cost)| format!("u{number}:{}", hash(*cost))).collect();
            let users = Users::parse(&lines.join("\n")).expect("file");
            let nobody = users.nobody.as_ref().expect("a hash");
            assert_eq!(&nobody[4..6], expected, "{costs:?}");
            assert_eq!(users.slow().count(), costs.iter().filter(|cost| **cost > 14).count());
            assert!(nobody.parse::<bcrypt::HashParts>().is_ok(), "{nobody}");
        }
    }

    #[test]
    fn a_token_that_looks_like_a_named_credential_is_the_token() {
        let token = format!("ckms_x_{}", "0".repeat(64));
        let credentials = Credentials::Needed {
            token: Some(OperatorToken::new(&token)),
            users: Users::default(),
            named: Arc::default(),
        };
        for headers in [
            headers("x-admin-token", &token),
            headers("authorization", &format!("Bearer {token}")),
            basic_header(&format!("x:{token}")),
        ] {
            assert_eq!(credentials.shown(&headers), Shown::Right(Operator::Token), "{headers:?}");
        }
    }

    #[test]
    fn without_a_token_no_token_is_right() {
        let credentials = Credentials::Needed { token: None, users: Users::default(), named: Arc::default() };
        assert!(!admits(&credentials, &headers("x-admin-token", "")));
        assert!(!admits(&credentials, &basic_header(":")));
    }

    #[test]
    fn a_file_with_which_somebody_could_not_log_in_is_refused_with_its_line() {
        let good = hash(4);
        let broken = format!("a:{}!", &good[..59]);
        for (text, bad) in [
            ("alice".to_owned(), BadHtpasswd::Malformed { line: 1 }),
            ("\nalice:plain".to_owned(), BadHtpasswd::Malformed { line: 2 }),
            ("a:$2y$10$short".to_owned(), BadHtpasswd::Malformed { line: 1 }),
            (":$2y$".to_owned(), BadHtpasswd::Malformed { line: 1 }),
            (broken, BadHtpasswd::Malformed { line: 1 }),
            (format!("a :{good}"), BadHtpasswd::Malformed { line: 1 }),
            (format!("a:{good}\n\u{feff}b:{good}"), BadHtpasswd::Malformed { line: 2 }),
            (format!("\u{feff}a:{good}"), BadHtpasswd::ByteOrderMark),
            (format!("a:{good}\nb:{good}\na:{good}"), BadHtpasswd::Repeated { line: 3 }),
            (format!("a:{}", hash(3)), BadHtpasswd::Cost { line: 1, cost: 3 }),
            (format!("a:{}", hash(19)), BadHtpasswd::Cost { line: 1, cost: 19 }),
            (format!("a:{}", hash(31)), BadHtpasswd::Cost { line: 1, cost: 31 }),
        ] {
            assert_eq!(Users::parse(&text).expect_err("malformed"), bad, "{text:?}");
        }
        assert_eq!(Users::read(b"a\xff:x").expect_err("no text"), BadHtpasswd::NotUtf8);
        let utf16: Vec<u8> = "a:b".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(Users::read(&utf16).expect_err("UTF-16"), BadHtpasswd::Malformed { line: 1 });
    }

    #[test]
    fn a_password_and_its_parts_are_not_printed() {
        assert_eq!(format!("{:?}", Shown::Password(password("alice", "hush"))), "Password(Password { .. })");
    }

    #[test]
    fn a_token_is_known_by_its_hash() {
        let hash = Sha256::digest(b"old token").into();
        assert!(OperatorToken::from_hash(hash).is("old token"));
        assert!(!OperatorToken::from_hash(hash).is("old token "));
    }
}
