//! The terms of using a chain, and the block that decides.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use sha2::{Digest as _, Sha256};

use super::block::Block;
use crate::settings::BlockChoice;

/// The conditions for a response to count.
pub(super) struct Terms {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    pub(super) block: BlockChoice,
    pub(super) max_block_age: Duration,
    /// How many nodes must agree: one, or more than half.
    pub(super) agreement: usize,
}

impl Terms {
    /// The digest of a [`Ruling`](crate::decision::Ruling) by the contract in the state of `block`.
    pub(super) fn digest(&self, block: &Block) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.chain_id.to_be_bytes());
        digest.update(self.contract);
        digest.update(block.number.to_be_bytes());
        digest.update(block.hash);
        digest.finalize().into()
    }
}

/// A block, and the values in its state that all decisions share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) block: Block,
    pub(super) gateway_app_id: String,
    pub(super) app_implementation: Address,
}

/// The block that currently decides, and the nodes that reported it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) state: Arc<State>,
    /// Indices of nodes; never empty.
    pub(super) by: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_names_chain_contract_and_block() {
        let terms = |chain_id, contract| Terms {
            chain_id,
            contract: Address::repeat_byte(contract),
            block: BlockChoice::Finalized,
            max_block_age: Duration::ZERO,
            agreement: 1,
        };
        let block = |number, hash| Block { number, hash: [hash; 32], timestamp: 9 };
        let digest = terms(1, 2).digest(&block(3, 4));
        let mut bytes = [[0; 7].as_slice(), &[1], &[2; 20], &[0; 7], &[3]].concat();
        bytes.extend([4; 32]);
        assert_eq!(digest[..], Sha256::digest(bytes)[..]);
        for other in [
            terms(5, 2).digest(&block(3, 4)),
            terms(1, 5).digest(&block(3, 4)),
            terms(1, 2).digest(&block(5, 4)),
            terms(1, 2).digest(&block(3, 5)),
        ] {
            assert_ne!(other, digest);
        }
    }
}
