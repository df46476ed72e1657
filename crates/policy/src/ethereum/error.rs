//! Why there is no result from the chain; for the log, never for callers.

use std::fmt;

use reqwest::StatusCode;

use super::abi::NotAbi;
use super::bounds::MAX_BACK;

/// Why one endpoint gave no valid result. It contains no URL, and at most a bounded part of a node's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NodeError {
    #[error("no answer in time")]
    Silent,
    #[error("hung a moment ago, not used for now")]
    Resting,
    #[error("slower than the others")]
    Slow,
    #[error("{0}")]
    Connection(String),
    #[error("HTTP status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
    #[error("not a JSON-RPC response: {0}")]
    NotJsonRpc(&'static str),
    #[error("JSON-RPC error {code}: {message}")]
    Error { code: i64, message: String },
    #[error("the contract call failed: {message}")]
    Reverted { message: String },
    #[error("the contract returned {0}")]
    Contract(#[from] NotAbi),
    #[error("serves chain {found} instead of chain {expected}, so it is not used")]
    OtherChain { found: u64, expected: u64 },
    #[error("does not have block {0}")]
    NoBlock(String),
    #[error("answered with block {found} when asked for block {asked}")]
    OtherBlock { asked: u64, found: u64 },
    #[error("its block {number} is {age} s old, more than max_block_age")]
    Stale { number: u64, age: u64 },
    #[error("its block {number} is {ahead} s ahead of this machine's clock; one of the two is wrong")]
    Ahead { number: u64, ahead: u64 },
    #[error("contradicts block {0}, which was final or safe before")]
    NotFinal(u64),
    #[error("its block {number} is more than {MAX_BACK} below block {highest}, which decided before")]
    FarBack { number: u64, highest: u64 },
    #[error(
        "its block {number} is further above block {highest}, which decided before, than a chain can grow in that time"
    )]
    FarAhead { number: u64, highest: u64 },
    #[error("block {0} is no longer what it was when the call began")]
    Moved(u64),
}

impl NodeError {
    /// Whether another honest node would give the same result for the same block. That is not so for an empty
    /// result: a node that no longer has the state returns it too.
    pub(super) fn is_the_contracts(&self) -> bool {
        matches!(self, Self::Reverted { .. } | Self::Contract(NotAbi::Malformed | NotAbi::TooLong))
    }
}

/// Why all endpoints together gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChainError {
    /// Too few endpoints gave a result; the errors by the number of the endpoint.
    Nodes(Vec<(usize, NodeError)>),
    /// The lookup of a block took too long.
    Late,
    /// The endpoints gave different results.
    Disagreement {
        /// The value that differs.
        about: &'static str,
    },
}

impl ChainError {
    /// Whether the called contract is the cause, so that a retry is of no use.
    pub(super) fn is_the_contracts(&self) -> bool {
        match self {
            Self::Nodes(errors) => errors.iter().any(|(_, error)| error.is_the_contracts()),
            Self::Late | Self::Disagreement { .. } => false,
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("the chain endpoints did not answer in time"),
            Self::Disagreement { about } => write!(f, "the chain endpoints disagree about {about}"),
            Self::Nodes(errors) => {
                f.write_str("too few chain endpoints can be used")?;
                let mut separator = ": ";
                errors.iter().try_for_each(|(number, error)| {
                    write!(f, "{}endpoint {number}: {error}", std::mem::replace(&mut separator, "; "))
                })
            }
        }
    }
}
