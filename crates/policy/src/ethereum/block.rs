//! A block: its number, hash and time.

use std::fmt;
use std::time::{Duration, SystemTime};

use kms_attest::clock::unix;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::NodeError;
use super::rpc;

/// How far the time of a block may be ahead of our clock.
const SKEW: Duration = Duration::from_secs(120);

/// A block of the chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) number: u64,
    pub(super) hash: [u8; 32],
    /// Seconds since 1970.
    pub(super) timestamp: u64,
}

#[derive(Deserialize)]
struct Header {
    number: String,
    hash: String,
    timestamp: String,
}

impl Block {
    /// Parses the result of `eth_getBlockByNumber`; `None` if the node does not have the block.
    pub(super) fn parse(result: Option<&RawValue>) -> Result<Option<Self>, NodeError> {
        const OTHER: NodeError = NodeError::NotJsonRpc("a result that is not a block");
        let Some(result) = result else { return Ok(None) };
        if !result.get().starts_with('{') {
            return Err(OTHER);
        }
        let header: Header = serde_json::from_str(result.get()).map_err(|_| OTHER)?;
        let hash = rpc::bytes(&header.hash).and_then(|hash| hash.try_into().ok());
        match (rpc::quantity(&header.number), hash, rpc::quantity(&header.timestamp)) {
            (Some(number), Some(hash), Some(timestamp)) => Ok(Some(Self { number, hash, timestamp })),
            _ => Err(OTHER),
        }
    }

    /// Identifies the block by hash for a call, so that another block cannot replace it (EIP-1898).
    pub(super) fn by_hash(&self) -> Value {
        json!({ "blockHash": format!("0x{}", hex::encode(self.hash)), "requireCanonical": true })
    }

    /// The age of the block by our clock.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        Duration::from_secs(unix(now).saturating_sub(self.timestamp))
    }

    /// The block, unless it is too old or too far ahead of our clock.
    pub(super) fn recent(self, now: SystemTime, limit: Duration) -> Result<Self, NodeError> {
        let number = self.number;
        let ahead = self.timestamp.saturating_sub(unix(now));
        if ahead > SKEW.as_secs() {
            return Err(NodeError::Ahead { number, ahead });
        }
        match self.age(now) {
            age if age > limit => Err(NodeError::Stale { number, age: age.as_secs() }),
            _ => Ok(self),
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {})", self.number, hex::encode(&self.hash[..4]))
    }
}

/// The number of a block as a parameter.
pub(super) fn by_number(number: u64) -> String {
    format!("0x{number:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(result: &Value) -> Result<Option<Block>, NodeError> {
        let raw = serde_json::value::to_raw_value(result).expect("JSON");
        Block::parse(Some(&raw))
    }

    #[test]
    fn a_block_is_its_number_hash_and_time() {
        let hash = format!("0x{}", "ab".repeat(32));
        let good = json!({ "number": "0x10", "hash": hash, "timestamp": "0x20", "transactions": ["0x1"] });
        assert_eq!(parse(&good), Ok(Some(Block { number: 16, hash: [0xab; 32], timestamp: 32 })));
        assert_eq!(Block::parse(None), Ok(None));
        for (key, value) in [
            ("number", json!(16)),
            ("number", json!(null)),
            ("hash", json!("0xabab")),
            ("hash", json!(null)),
            ("timestamp", json!("32")),
            ("timestamp", json!("0x10000000000000000")),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(parse(&bad).is_err(), "{bad}");
        }
        for bad in [json!("0x10"), json!(["0x10", hash, "0x20"]), json!({}), json!(7)] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_block_is_recent_if_it_is_neither_old_nor_of_the_future() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let limit = Duration::from_secs(60);
        for (timestamp, is_recent) in [
            (10_000, true),
            (9_940, true),
            (9_939, false),
            (0, false),
            (10_120, true),
            (10_121, false),
            (u64::MAX, false),
        ] {
            let block = Block { number: 1, hash: [0; 32], timestamp };
            assert_eq!(block.recent(now, limit).is_ok(), is_recent, "{timestamp}");
        }
    }
}
