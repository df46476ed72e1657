//! Classes of requests, each with its share of the memory.

use kms_attest::identity::AppId;

/// What kind of caller holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Holder {
    /// The caller has proved nothing.
    Stranger,
    /// The caller's address is one from which a caller was admitted before.
    Known,
    /// Policy has given this app a permit on the connection.
    Admitted(AppId),
    /// The caller has shown an operator's credentials.
    Operator,
    /// A health probe.
    Probe,
}

/// What has arrived of a request when it gets its first memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Arrival {
    /// Its line and headers: its body is waited for.
    Head,
    /// All of it.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Stranger,
    Known,
    Operator,
    Probe,
}

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Stranger, Self::Known, Self::Operator, Self::Probe];

    pub(super) fn index(self) -> usize {
        self as usize
    }

    pub(super) fn of(holder: Holder) -> Self {
        match holder {
            Holder::Stranger => Self::Stranger,
            Holder::Known | Holder::Admitted(_) => Self::Known,
            Holder::Operator => Self::Operator,
            Holder::Probe => Self::Probe,
        }
    }

    /// The part that no other kind can take.
    pub(super) fn guaranteed(self, total: usize) -> usize {
        match self {
            Self::Stranger | Self::Known => total / 16 * 3,
            Self::Operator | Self::Probe => total / 16,
        }
    }

    /// The most that one address or app may hold, however much is free.
    pub(super) fn largest_share(self, total: usize) -> usize {
        match self {
            Self::Stranger | Self::Known => total / 4,
            Self::Operator => total,
            Self::Probe => total / 32,
        }
    }
}
