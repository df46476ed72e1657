//! Why what the database shows is not believed.

use std::fmt;

/// What is wrong with what the database shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// The state is older than what this node knows: a backup was restored, or a failover lost changes.
    RolledBack {
        /// The number of the state that is known here.
        known: u64,
        /// The number of the one that is shown; 0 if there is none.
        shown: u64,
    },
    /// Another node knows a newer state than the one that is shown.
    Hidden {
        /// The name or id of that node.
        node: String,
        /// The number of the state that it knows.
        known: u64,
        /// The number of the one that is shown.
        shown: u64,
    },
    /// The state is of another history than the one that this node knows.
    Forked {
        /// The number of the state.
        known: u64,
    },
    /// The database does not show that its state follows the one that this node has known for long.
    Unproven {
        /// The number of the state that is known here.
        known: u64,
        /// The number of the one that is shown.
        shown: u64,
    },
    /// The state is of another history than the one that another node knows.
    ForkedFrom {
        /// The name or id of that node.
        node: String,
        /// The number of the state that it knows.
        known: u64,
    },
    /// A row is not authentic.
    Altered {
        /// Which: the name of a document, or `head`.
        row: String,
    },
    /// A row is missing, is there although it is not listed, or is of another version than the head says.
    Mismatched {
        /// The name of the document.
        row: String,
    },
    /// It is authentic, but this version cannot read it.
    Unreadable {
        /// The name of the document, or `head`.
        row: String,
        /// What is wrong.
        problem: String,
    },
    /// It is authentic, and contradicts the configuration of this node.
    Contradicts {
        /// The name of the document.
        row: String,
        /// In what.
        problem: String,
    },
    /// It is authenticated under a root epoch that this node does not have, or that is retired here.
    Epoch {
        /// The epoch.
        epoch: u32,
    },
}

impl Alarm {
    /// A stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } | Self::Hidden { .. } => "rolled_back",
            Self::Forked { .. } | Self::Unproven { .. } | Self::ForkedFrom { .. } => "forked",
            Self::Altered { .. } => "altered",
            Self::Mismatched { .. } => "mismatched",
            Self::Unreadable { .. } | Self::Contradicts { .. } => "unreadable",
            Self::Epoch { .. } => "root_epoch",
        }
    }

    /// What an operator does about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::RolledBack { .. }
            | Self::Hidden { .. }
            | Self::Forked { .. }
            | Self::Unproven { .. }
            | Self::ForkedFrom { .. } => {
                "Bring the newer database back, or run kmsctl fleet repair on the node with the right state"
            }
            Self::Altered { .. } | Self::Mismatched { .. } => {
                "Find out who wrote to the database, then run kmsctl fleet repair on the node with the right state"
            }
            Self::Unreadable { .. } => "Update this node to the version of the others",
            Self::Contradicts { .. } => {
                "Change the configuration file of this node, so that it agrees with what the nodes share, and restart it"
            }
            Self::Epoch { .. } => "Bring the root epoch to this node, or update its state: kmsctl epoch list",
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolledBack { known, shown: 0 } => {
                write!(f, "the database shows no state, but number {known} is known here")
            }
            Self::RolledBack { known, shown } => {
                write!(f, "the database shows state number {shown}, but number {known} is known here")
            }
            Self::Hidden { node, known, shown } => {
                write!(f, "the database shows state number {shown}, but the node {node} knows number {known}")
            }
            Self::Forked { known } => {
                write!(f, "the state in the database does not follow number {known}, which is known here")
            }
            Self::Unproven { known, shown } => {
                write!(
                    f,
                    "the database does not show that its state number {shown} follows number {known}, which is known here"
                )
            }
            Self::ForkedFrom { node, known } => {
                write!(
                    f,
                    "the state in the database does not follow number {known}, which the node {node} knows"
                )
            }
            Self::Altered { row } => {
                write!(f, "a row in the database ({row}) was not written by a node of this fleet")
            }
            Self::Mismatched { row } => {
                write!(f, "a row in the database ({row}) is not the one that the head lists")
            }
            Self::Unreadable { row, problem } => {
                write!(f, "a row in the database ({row}) cannot be read here: {problem}")
            }
            Self::Contradicts { row, problem } => {
                write!(
                    f,
                    "a row in the database ({row}) contradicts the configuration file of this node: {problem}"
                )
            }
            Self::Epoch { epoch } => {
                write!(
                    f,
                    "the state is authenticated under root epoch {epoch}, which this node does not have or has retired"
                )
            }
        }
    }
}
