//! Settings of the policy of a contract.

use std::path::PathBuf;
use std::time::Duration;

pub use alloy_primitives::Address as ContractAddress;
use kms_attest::outgoing::Endpoint;

/// `[core.auth_api.ethereum]`: a DstackKms contract decides. It is read over JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ethereum {
    /// One to eight endpoints, all different.
    pub rpc_urls: Vec<Endpoint>,
    /// The chain that each endpoint must serve; not zero.
    pub chain_id: u64,
    /// The DstackKms contract.
    pub kms_contract: ContractAddress,
    /// The block whose state decides.
    pub block: BlockChoice,
    /// The maximum age of that block; older blocks allow nothing.
    pub max_block_age: Duration,
    /// How many endpoints must agree: one, or more than half of them.
    pub agreement: usize,
    /// The time-out of one request to one endpoint; at most five seconds.
    pub request_timeout: Duration,
    /// PEM: additional roots or certificates of endpoints, besides the public roots.
    pub ca_file: Option<PathBuf>,
}

/// `block`: the block whose state decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockChoice {
    /// The newest block that the chain cannot drop.
    Finalized,
    /// The newest block that the chain is unlikely to drop.
    Safe,
    /// The newest block with this many confirmations; the chain can still drop it.
    Latest {
        /// The number of later blocks.
        confirmations: u64,
    },
}

impl BlockChoice {
    /// The normal maximum age of such a block, with a margin. `finalized` is 13 to 20 minutes old on Ethereum
    /// and up to half an hour on chains above it; each late epoch adds 6 minutes.
    pub fn usual_age(self) -> Duration {
        Duration::from_secs(match self {
            Self::Finalized => 60 * 60,
            Self::Safe => 30 * 60,
            Self::Latest { .. } => 5 * 60,
        })
    }
}

/// Parses `0x` and 40 hex digits. Letters of mixed case must match the checksum of EIP-55.
///
/// # Errors
/// The expected format.
pub fn contract_address(text: &str) -> Result<ContractAddress, String> {
    let error = || "must be 0x and 40 hex digits".to_owned();
    let digits = text.strip_prefix("0x").ok_or_else(error)?;
    let mut bytes = [0; 20];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| error())?;
    let address = ContractAddress::from(bytes);
    let has = |case: fn(&u8) -> bool| digits.bytes().any(|digit| case(&digit));
    let is_checksummed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    if is_checksummed && address.to_checksum(None) != text {
        return Err("must be an address whose capital letters are right (EIP-55), or without any".to_owned());
    }
    match address.is_zero() {
        true => Err("must not be the zero address".to_owned()),
        false => Ok(address),
    }
}
