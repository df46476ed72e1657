//! The terms of using a chain, and the block that decides.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;

use super::block::Block;
use crate::settings::BlockChoice;

/// How many blocks `latest` may be behind the newest block that decided. It is more than a chain drops in
/// practice, and more than the distance between honest nodes. With confirmations, both blocks have the same
/// number of them.
pub(super) const MAX_BACK: u64 = 64;

/// How many blocks a new block may be ahead of the newest one that decided, in addition to
/// [`BLOCKS_A_SECOND`] since then. No chain is faster, so a number that is further ahead is false.
pub(super) const MAX_LEAP: u64 = 1000;
pub(super) const BLOCKS_A_SECOND: u64 = 100;

/// The conditions for a response to count.
pub(super) struct Terms {
    pub(super) chain_id: u64,
    pub(super) contract: Address,
    pub(super) block: BlockChoice,
    pub(super) max_block_age: Duration,
    /// How many nodes must agree: one, or more than half.
    pub(super) agreement: usize,
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
