//! The claims of a token whose signature is right.

use std::collections::BTreeMap;
use std::fmt;

use kms_wire::role::Role;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Holder, MAX_LIFETIME, Rules, TokenError};

/// The most members of an object, audiences, and groups.
const MAX_ENTRIES: usize = 1000;
/// The longest `sub` and name in bytes.
const MAX_NAME: usize = 128;

/// A JSON object in which no member is repeated: readers differ in which one counts.
pub(super) struct UniqueObject(BTreeMap<String, Value>);

impl UniqueObject {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = UniqueObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueObject, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() || members.len() > MAX_ENTRIES {
                        return Err(A::Error::custom("a member is repeated, or there are too many"));
                    }
                }
                Ok(UniqueObject(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The claims of a token.
pub(super) struct Claims(UniqueObject);

impl Claims {
    pub(super) fn new(claims: UniqueObject) -> Self {
        Self(claims)
    }

    /// The holder, if the token is for here and for now.
    pub(super) fn holder(&self, rules: &Rules, now: u64) -> Result<Holder, TokenError> {
        let claims = &self.0;
        if claims.text("iss") != Some(&rules.issuer) {
            return Err(TokenError::Claim("iss is another issuer"));
        }
        if !self.is_for(&rules.audience) {
            return Err(TokenError::Claim("aud is another audience"));
        }
        let skew = rules.clock_skew.as_secs();
        let expires_at =
            self.seconds("exp")?.ok_or(TokenError::Claim("exp is missing"))?.saturating_add(skew);
        if expires_at <= now {
            return Err(TokenError::Claim("it has expired"));
        }
        if expires_at > now.saturating_add(MAX_LIFETIME).saturating_add(skew) {
            return Err(TokenError::Claim("exp is more than a day away"));
        }
        for name in ["nbf", "iat"] {
            if self.seconds(name)?.is_some_and(|begin| begin > now.saturating_add(skew)) {
                return Err(TokenError::Claim("nbf or iat is in the future"));
            }
        }
        let subject = self.name("sub").ok_or(TokenError::Claim("sub is not a short text without spaces"))?;
        let name = self.name(&rules.name_claim);
        let name =
            name.ok_or(TokenError::Claim("the claim with the name is not a short text without spaces"))?;
        Ok(Holder { subject, name, role: self.role(rules), expires_at })
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.0.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(list)) if list.len() <= MAX_ENTRIES => {
                list.iter().all(Value::is_string) && list.iter().any(|one| one.as_str() == Some(audience))
            }
            Some(_) | None => false,
        }
    }

    /// A date in Unix seconds, rounded down.
    fn seconds(&self, name: &str) -> Result<Option<u64>, TokenError> {
        let Some(value) = self.0.0.get(name) else { return Ok(None) };
        let fraction = value.as_f64().filter(|seconds| (0.0..=4e12).contains(seconds));
        match value.as_u64().or(fraction.map(|seconds| seconds as u64)) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(TokenError::Claim("exp, nbf or iat is not a date")),
        }
    }

    /// A name that cannot be mistaken in a log.
    fn name(&self, claim: &str) -> Option<String> {
        let name = self.0.text(claim)?;
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        (is_plain && (1..=MAX_NAME).contains(&name.len())).then(|| name.to_owned())
    }

    /// The highest role of the holder's groups.
    fn role(&self, rules: &Rules) -> Option<Role> {
        let groups: Vec<&str> = match self.at(&rules.claim)? {
            Value::String(text) => text.split(' ').take(MAX_ENTRIES).collect(),
            Value::Array(list) => list.iter().take(MAX_ENTRIES).filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        };
        groups.into_iter().filter_map(|group| rules.roles.get(group).copied()).max()
    }

    /// The claim with this name, or at this path.
    fn at(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.0.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.0.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}
