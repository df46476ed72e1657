//! Persons, as the two-person rule counts them: one for each credential of an owner.

use kms_wire::role::Role;
use serde::{Deserialize, Serialize};

use super::named::{Directory, Standing, counting};
use super::{Credentials, Operator};

/// The holder of one credential, whatever its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Person {
    /// Everybody who has the token of the configuration.
    Token,
    /// A user of the htpasswd file.
    User {
        /// The user's name.
        name: String,
    },
    /// The holder of a named credential.
    Named {
        /// The name of the credential.
        name: String,
        /// Unix seconds: a revoked credential is not the later one of the same name.
        created_at: u64,
    },
    /// A user of the issuer of access tokens.
    Oidc {
        /// Who it is for the issuer.
        subject: String,
        /// The same for people.
        name: String,
    },
}

impl Person {
    /// Whether both may be the same person: a name is one person, whatever kind of credential has it.
    pub fn may_be(&self, other: &Self) -> bool {
        match (self.names(), other.names()) {
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
            (Some(own), Some(others)) => own.iter().any(|name| others.contains(name)),
        }
    }

    /// `None` for everybody who has the token.
    fn names(&self) -> Option<[&str; 2]> {
        match self {
            Self::Token => None,
            Self::User { name } | Self::Named { name, .. } => Some([name, name]),
            Self::Oidc { subject, name } => Some([subject, name]),
        }
    }
}

impl Credentials {
    /// The person behind `operator`; `None` for a credential that is no longer valid, an invitation, and where no
    /// credentials are needed.
    pub fn person(&self, operator: &Operator) -> Option<Person> {
        if !self.is_live(operator) {
            return None;
        }
        match operator {
            Operator::Anyone | Operator::Invited { .. } => None,
            Operator::Token => Some(Person::Token),
            Operator::User { name, .. } => Some(Person::User { name: name.clone() }),
            Operator::Oidc { subject, name, .. } => {
                Some(Person::Oidc { subject: subject.clone(), name: name.clone() })
            }
            Operator::Named { name, .. } => {
                let named = self.named()?;
                let created_at = named.get(name, named.now())?.created_at;
                Some(Person::Named { name: name.clone(), created_at })
            }
        }
    }

    /// Whether `person` is an owner of the whole KMS now.
    pub fn is_owner(&self, person: &Person) -> bool {
        self.named().is_some_and(|named| self.is_owner_in(person, &named.current()))
    }

    /// Whether `person` would be one if these were the named credentials.
    pub fn is_owner_in(&self, person: &Person, directory: &Directory) -> bool {
        let Self::Needed { token, users, named, .. } = self else { return false };
        let now = named.now();
        match person {
            Person::Token => token.is_some(),
            // The issuer cannot be asked; a token says it when it is shown.
            Person::Oidc { .. } => true,
            Person::User { name } => users.load().has(name) && counting(directory, name, now).is_none(),
            Person::Named { name, created_at } => counting(directory, name, now).is_some_and(|credential| {
                credential.created_at == *created_at
                    && credential.role == Role::Owner
                    && credential.domain.is_none()
                    && matches!(credential.standing, Standing::Active(_))
            }),
        }
    }

    /// How many owners of the whole KMS there are or were, including those whose credential has expired: time must not take the second one
    /// away. An invitation counts until it ends.
    pub fn count_owners(&self) -> usize {
        let Self::Needed { named, .. } = self else { return self.count_configured_owners() };
        let (current, now) = (named.current(), named.now());
        let owners = current.values().filter(|credential| credential.counts_as_owner(now));
        self.count_configured_owners() + owners.count()
    }

    /// Whether both may be the same person, also because one has chosen the secret of the other.
    pub fn may_be_same(&self, one: &Person, other: &Person) -> bool {
        let (chose_one, chose_other) = (self.chooser(one), self.chooser(other));
        let holders = [Some(one), chose_one.as_ref()];
        let others = [Some(other), chose_other.as_ref()];
        holders.iter().flatten().any(|holder| others.iter().flatten().any(|other| holder.may_be(other)))
    }

    /// The other owner who has chosen the secret of `person`.
    fn chooser(&self, person: &Person) -> Option<Person> {
        let Person::Named { name, created_at } = person else { return None };
        let named = self.named()?;
        let credential = named.get(name, named.now())?;
        credential.chosen_by.clone().filter(|_| credential.created_at == *created_at)
    }

    /// How many owners the configuration has: the token, and users of the htpasswd file whose name no credential has; one
    /// where no credentials are needed.
    pub fn count_configured_owners(&self) -> usize {
        let Self::Needed { token, users, named, .. } = self else { return 1 };
        let now = named.now();
        usize::from(token.is_some())
            + users.load().names().filter(|user| named.get(user, now).is_none()).count()
    }
}
