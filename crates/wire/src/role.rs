//! What a credential of the admin listener may do.

use std::fmt;
use std::str::FromStr;

/// The role of a credential. Each method and route of operators names the least role that may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reports events, and reads nothing.
    EventsWriter,
    /// Reads state, events and denials.
    Viewer,
    /// Also reads the audit log with its proofs.
    Auditor,
    /// Also reports events and changes what can be undone: freezes, shadow policies, caches.
    Operator,
    /// Everything, such as lifting freezes, handing root keys to replicas, and managing credentials.
    Owner,
}

/// A text that is not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role must be owner, operator, auditor, viewer or events-writer")]
pub struct UnknownRole;

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::EventsWriter, Self::Viewer, Self::Auditor, Self::Operator, Self::Owner];

    /// Its name in requests, responses, files and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::EventsWriter => "events-writer",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    /// Whether a credential with this role may use what requires `least`. Viewer and auditor cannot report events.
    pub fn includes(self, least: Self) -> bool {
        match least {
            Self::EventsWriter => matches!(self, Self::EventsWriter | Self::Operator | Self::Owner),
            Self::Viewer | Self::Auditor | Self::Operator | Self::Owner => self >= least,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(UnknownRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_what_is_below_it_but_those_that_read_do_not_write() {
        use Role::{Auditor, EventsWriter, Operator, Owner, Viewer};
        for (role, included) in [
            (EventsWriter, &[EventsWriter][..]),
            (Viewer, &[Viewer]),
            (Auditor, &[Viewer, Auditor]),
            (Operator, &[EventsWriter, Viewer, Auditor, Operator]),
            (Owner, &[EventsWriter, Viewer, Auditor, Operator, Owner]),
        ] {
            for least in Role::ALL {
                assert_eq!(role.includes(least), included.contains(&least), "{role} for {least}");
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        for other in ["Owner", "admin", "", "owner "] {
            assert_eq!(other.parse::<Role>(), Err(UnknownRole), "{other:?}");
        }
    }
}
