//! Several nodes of one chain: finds the block that decides, and reads its state.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kms_attest::clock::unix_now;

use super::abi::{self, CallData, Verdict};
use super::block::Block;
use super::bounds::{BLOCKS_A_SECOND, MAX_BACK, MAX_LEAP};
use super::error::{ChainError, NodeError};
use super::marks::{Marks, Now};
use super::node::{Head, Node};
use super::view::{State, Terms, View};
use crate::settings::BlockChoice;

/// The log mentions disagreement at most this often; the metric counts all cases.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The nodes and the terms of their use.
pub(super) struct Chain {
    pub(super) nodes: Vec<Node>,
    pub(super) terms: Terms,
    disagreements: AtomicU64,
    /// The newest block of a view, if several nodes must agree.
    newest: Mutex<Newest>,
    /// The newest blocks of the nodes that gave a view, if one node is enough.
    marks: Mutex<Marks>,
    /// When the log last mentioned a disagreement.
    told: Mutex<Option<Instant>>,
}

/// The newest block that several nodes agreed on. Other blocks are compared with it for as long as a block
/// may be old: after that, an honest node that is further behind is stale anyway.
#[derive(Debug, Default)]
struct Newest(Option<(u64, Instant)>);

impl Newest {
    fn current(&self, now: Instant, lifetime: Duration) -> Option<(u64, Instant)> {
        self.0.filter(|(_, at)| now.saturating_duration_since(*at) < lifetime)
    }

    /// Refuses a number that is too far below or above the newest.
    fn judge(&self, number: u64, now: Instant, lifetime: Duration) -> Result<(), NodeError> {
        let Some((newest, at)) = self.current(now, lifetime) else { return Ok(()) };
        let elapsed = now.saturating_duration_since(at).as_secs();
        let leap = MAX_LEAP.saturating_add(BLOCKS_A_SECOND.saturating_mul(elapsed));
        if newest.saturating_sub(number) > MAX_BACK {
            return Err(NodeError::FarBack { number, highest: newest });
        }
        match number.saturating_sub(newest) > leap {
            true => Err(NodeError::FarAhead { number, highest: newest }),
            false => Ok(()),
        }
    }

    /// Records a block that decided. A lower one replaces the newest only after that has expired.
    fn note(&mut self, number: u64, now: Instant, lifetime: Duration) {
        if self.current(now, lifetime).is_none_or(|(newest, _)| number >= newest) {
            self.0 = Some((number, now));
        }
    }
}

impl Chain {
    pub(super) fn new(nodes: Vec<Node>, terms: Terms) -> Self {
        let marks = Mutex::new(Marks::new(nodes.len(), terms.max_block_age));
        Self {
            nodes,
            terms,
            marks,
            disagreements: AtomicU64::new(0),
            newest: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// The newest block that the terms accept. With `finalized` and `safe` it is never before the block of
    /// `previous`, so a revocation that was seen stays in force with every node. With `latest` it is at most
    /// [`MAX_BACK`] before the newest one so far, so a node that stopped, or pretends so, cannot replace one
    /// that continued.
    pub(super) async fn view(&self, previous: Option<&Arc<State>>) -> Result<View, ChainError> {
        match self.terms.agreement {
            1 => self.view_of_first(previous).await,
            agreement => {
                let view = self.view_of_many(agreement, previous).await?;
                let number = view.state.block.number;
                self.newest().note(number, Instant::now(), self.terms.max_block_age);
                Ok(view)
            }
        }
    }

    /// The contract's verdict on `call` in the state of `view`.
    pub(super) async fn call(&self, view: &View, call: &CallData) -> Result<Verdict, ChainError> {
        match self.terms.agreement {
            1 => self.call_first(view, call).await,
            agreement => self.call_many(agreement, view, call).await,
        }
    }

    /// How often nodes contradicted each other.
    pub(super) fn disagreements(&self) -> u64 {
        self.disagreements.load(Ordering::Relaxed)
    }

    pub(super) fn disagree(&self, about: &'static str) -> ChainError {
        self.disagreements.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
            *told = Some(Instant::now());
            tracing::warn!(about, "chain endpoints disagree");
        }
        ChainError::Disagreement { about }
    }

    /// The block that later decisions must not go behind.
    pub(super) fn floor(&self, previous: Option<&Arc<State>>) -> Option<Block> {
        let goes_back = matches!(self.terms.block, BlockChoice::Latest { .. });
        previous.filter(|_| !goes_back).map(|state| state.block)
    }

    /// The newest block of the node by the terms; with `latest`, one too far back or ahead is refused. A
    /// block below the floor is allowed here, because that node can still confirm the floor.
    pub(super) async fn head(&self, node: &Node) -> Result<Head, NodeError> {
        let head = node.head(self.terms.chain_id, self.terms.block).await?;
        if matches!(self.terms.block, BlockChoice::Latest { .. }) {
            match self.terms.agreement {
                1 => self.marks().judge(node.index(), head.latest, now())?,
                _ => {
                    self.newest().judge(head.block.number, Instant::now(), self.terms.max_block_age)?;
                }
            }
        }
        Ok(head)
    }

    /// Records the newest block of a node that decided alone.
    pub(super) fn mark(&self, node: &Node, latest: Block) {
        self.marks().note(node.index(), latest, now());
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent(&self, block: Block) -> Result<Block, NodeError> {
        block.recent(SystemTime::now(), self.terms.max_block_age)
    }

    pub(super) async fn state_at(&self, node: &Node, block: Block) -> Result<State, NodeError> {
        let contract = self.terms.contract;
        let (gateway, implementation) = (CallData::gateway_app_id(), CallData::app_implementation());
        let (gateway, implementation) = tokio::try_join!(
            node.call(contract, &gateway, &block),
            node.call(contract, &implementation, &block)
        )?;
        Ok(State {
            block,
            gateway_app_id: abi::gateway_app_id(&gateway)?,
            app_implementation: abi::app_implementation(&implementation)?,
        })
    }

    pub(super) async fn verdict(
        &self,
        node: &Node,
        view: &View,
        call: &CallData,
    ) -> Result<Verdict, NodeError> {
        let answer = node.call(self.terms.contract, call, &view.state.block).await?;
        Ok(abi::verdict(&answer)?)
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), unix: unix_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(300);

    #[test]
    fn a_number_is_compared_with_the_newest_until_that_expires() {
        let start = Instant::now();
        let mut newest = Newest::default();
        assert_eq!(newest.judge(u64::MAX, start, LIFETIME), Ok(()), "nothing has decided yet");
        newest.note(1_000, start, LIFETIME);
        let back = |number| Err(NodeError::FarBack { number, highest: 1_000 });
        let ahead = |number| Err(NodeError::FarAhead { number, highest: 1_000 });
        for (seconds, number, expected) in [
            (0, 1_000, Ok(())),
            (0, 1_000 - MAX_BACK, Ok(())),
            (0, 999 - MAX_BACK, back(999 - MAX_BACK)),
            (0, 1_000 + MAX_LEAP, Ok(())),
            (0, 1_001 + MAX_LEAP, ahead(1_001 + MAX_LEAP)),
            (0, u64::MAX, ahead(u64::MAX)),
            (10, 1_000 + MAX_LEAP + 10 * BLOCKS_A_SECOND, Ok(())),
            (299, 0, back(0)),
            (299, u64::MAX, ahead(u64::MAX)),
            (300, 0, Ok(())),
            (300, u64::MAX, Ok(())),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(newest.judge(number, now, LIFETIME), expected, "{number} after {seconds} s");
        }
    }

    #[test]
    fn a_false_first_number_expires() {
        let start = Instant::now();
        let mut newest = Newest::default();
        newest.note(u64::MAX, start, LIFETIME);
        assert!(newest.judge(1_000, start, LIFETIME).is_err());
        let later = start + LIFETIME;
        assert_eq!(newest.judge(1_000, later, LIFETIME), Ok(()));
        newest.note(1_000, later, LIFETIME);
        assert!(newest.judge(u64::MAX, later, LIFETIME).is_err());
        // A slightly lower block does not lower the mark.
        newest.note(990, later, LIFETIME);
        assert!(newest.judge(990 - MAX_BACK, later, LIFETIME).is_err());
    }
}
