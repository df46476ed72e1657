//! What is asked of a chain, and the block that decides.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;

use super::block::Block;
use crate::settings::BlockChoice;

/// How many blocks `latest` may go back, as compared with the newest that decided: more than a chain drops in practice,
/// and than honest nodes are apart. With confirmations, both blocks have as many.
pub(super) const MAX_BACK: u64 = 64;

/// How many blocks the newest may be ahead of the newest that decided, beyond [`BLOCKS_A_SECOND`] since then: no chain
/// makes more, so a number that is further ahead is a lie.
pub(super) const MAX_LEAP: u64 = 1000;
pub(super) const BLOCKS_A_SECOND: u64 = 100;

/// What makes an answer count.
pub(super) struct Terms {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    pub(super) block: BlockChoice,
    pub(super) max_block_age: Duration,
    /// How many nodes must say the same: one, or more than half.
    pub(super) agreement: usize,
}

/// A block, and what all decisions in its state share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) block: Block,
    pub(super) gateway_app_id: String,
    pub(super) app_implementation: Address,
}

/// The block that decides for now, and which nodes say so.
#[derive(Clone)]
pub(super) struct View {
    pub(super) state: Arc<State>,
    /// Indices of nodes; never none.
    pub(super) by: Vec<usize>,
}
