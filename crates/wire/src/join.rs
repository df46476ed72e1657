//! Invitations of replicas, as source and replica write them.

/// What a replica tells after it has the root keys: `stage` of `ReportJoin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinReport {
    /// They are on its disk.
    Committed,
    /// It serves them.
    Serving,
}

impl JoinReport {
    /// As in the message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Serving => "serving",
        }
    }

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Committed, Self::Serving].into_iter().find(|report| report.name() == name)
    }
}

/// Why an invitation opens nothing for a machine, whatever it tries: only a new one helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadInvitation {
    /// No invitation has this token: it is wrong, or of one that is forgotten.
    Wrong,
    /// It was forgotten meanwhile.
    Forgotten,
    /// Its time is over.
    Expired,
    /// An owner has cancelled it.
    Cancelled,
    /// The keys were sent by it.
    Used,
    /// Another machine, or an earlier run of this one, has used it first.
    UsedByAnother,
}

impl DeadInvitation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Wrong, Self::Forgotten, Self::Expired, Self::Cancelled, Self::Used, Self::UsedByAnother];

    /// The stable code with which the source refuses it (`X-Error-Code`).
    pub fn code(self) -> &'static str {
        match self {
            Self::Wrong => "join_token_wrong",
            Self::Forgotten => "join_unknown",
            Self::Expired => "join_expired",
            Self::Cancelled => "join_cancelled",
            Self::Used => "join_used",
            Self::UsedByAnother => "join_used_by_another",
        }
    }

    /// The one with this code.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dead| dead.code() == code)
    }
}

/// Whether a text is so many lower-case hex digits, as the ids, secrets and keys of invitations are, and the ids of rollouts.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}
