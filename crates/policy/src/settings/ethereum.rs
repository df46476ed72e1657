//! Settings of the policy that a contract decides.

use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::Address;
use kms_attest::outgoing::Endpoint;

/// `[core.auth_api.ethereum]`: a DstackKms contract decides, read by JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ethereum {
    /// One to eight endpoints, all different.
    pub rpc_urls: Vec<Endpoint>,
    /// The chain that each endpoint must serve; not zero.
    pub chain_id: u64,
    /// The DstackKms contract.
    pub kms_contract: Address,
    /// The block whose state decides.
    pub block: BlockChoice,
    /// Older blocks allow nothing.
    pub max_block_age: Duration,
    /// How many endpoints must say the same: one, or more than half of them.
    pub agreement: usize,
    /// End of one request to one endpoint; at most five seconds.
    pub request_timeout: Duration,
    /// PEM: what an endpoint's certificate may lead to, or be, besides the public roots.
    pub ca_file: Option<PathBuf>,
}

/// `block`: which block's state decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockChoice {
    /// The newest one that the chain cannot drop.
    Finalized,
    /// The newest one that it is unlikely to drop.
    Safe,
    /// The newest one that has this many above it; the chain may still drop it.
    Latest {
        /// How many.
        confirmations: u64,
    },
}

impl BlockChoice {
    /// The age that such a block may reach in normal operation, with a margin. `finalized` is 13 to 20 minutes old on Ethereum,
    /// up to half an hour on chains above it, and 6 minutes more for each epoch that is late.
    pub fn usual_age(self) -> Duration {
        Duration::from_secs(match self {
            Self::Finalized => 60 * 60,
            Self::Safe => 30 * 60,
            Self::Latest { .. } => 5 * 60,
        })
    }
}
