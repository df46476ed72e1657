//! Several nodes taken for one chain: which block decides, and what its state says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use alloy_primitives::Address;

use super::abi::{self, CallData, Verdict};
use super::block::Block;
use super::node::Node;
use super::trouble::{Trouble, Unanswered};
use crate::config::BlockChoice;

/// How often the log tells of disagreement: the metric counts them all.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How many blocks `latest` may go back, as compared with the newest that decided: more than a chain drops in practice,
/// and than honest nodes are apart. With confirmations, both blocks have as many.
pub(super) const MOST_BACK: u64 = 64;

/// The nodes, and what is asked of them.
pub(super) struct Chain {
    pub(super) nodes: Vec<Node>,
    pub(super) terms: Terms,
    disagreements: AtomicU64,
    /// Number of the newest block that ever was a view's.
    highest: AtomicU64,
    /// When the log was last told of one.
    told: Mutex<Option<Instant>>,
}

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
pub(super) struct View {
    pub(super) state: Arc<State>,
    /// Indices of nodes; never none.
    pub(super) by: Vec<usize>,
}

impl Chain {
    pub(super) fn new(nodes: Vec<Node>, terms: Terms) -> Self {
        Self {
            nodes,
            terms,
            disagreements: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// The newest block that the terms accept. With `finalized` and `safe` it is never one before that of `previous`:
    /// what was seen revoked stays revoked, whichever node is asked. With `latest` it is at most [`MOST_BACK`] before the
    /// newest that there was: a node that stands still, or pretends to, cannot take the place of one that went on.
    pub(super) async fn view(&self, previous: Option<&Arc<State>>) -> Result<View, Unanswered> {
        let view = match self.terms.agreement {
            1 => self.view_of_first(previous).await,
            agreement => self.view_of_many(agreement, previous).await,
        }?;
        self.highest.fetch_max(view.state.block.number, Ordering::Relaxed);
        Ok(view)
    }

    /// What the contract says to `question` in the state of `view`.
    pub(super) async fn ask(&self, view: &View, question: &CallData) -> Result<Verdict, Unanswered> {
        match self.terms.agreement {
            1 => self.ask_first(view, question).await,
            agreement => self.ask_many(agreement, view, question).await,
        }
    }

    /// How often nodes contradicted each other.
    pub(super) fn disagreements(&self) -> u64 {
        self.disagreements.load(Ordering::Relaxed)
    }

    pub(super) fn disagree(&self, about: &'static str) -> Unanswered {
        self.disagreements.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(about, "chain endpoints disagree");
        }
        Unanswered::Disagreement { about }
    }

    /// The block behind which no decision may go back.
    pub(super) fn floor(&self, previous: Option<&Arc<State>>) -> Option<Block> {
        let goes_back = matches!(self.terms.block, BlockChoice::Latest { .. });
        previous.filter(|_| !goes_back).map(|state| state.block)
    }

    /// The node's newest block that the terms name, unless it is `latest` and too far back. Where there is a floor, one
    /// below it may confirm it still.
    pub(super) async fn head(&self, node: &Node) -> Result<Block, Trouble> {
        let block = node.head(self.terms.chain_id, self.terms.block).await?;
        let (number, highest) = (block.number, self.highest.load(Ordering::Relaxed));
        let goes_back = matches!(self.terms.block, BlockChoice::Latest { .. });
        if goes_back && highest.saturating_sub(number) > MOST_BACK {
            return Err(Trouble::FarBack { number, highest });
        }
        Ok(block)
    }

    pub(super) fn recent(&self, block: Block) -> Result<Block, Trouble> {
        block.recent(SystemTime::now(), self.terms.max_block_age)
    }

    pub(super) async fn state_at(&self, node: &Node, block: Block) -> Result<State, Trouble> {
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
        question: &CallData,
    ) -> Result<Verdict, Trouble> {
        let answer = node.call(self.terms.contract, question, &view.state.block).await?;
        Ok(abi::verdict(&answer)?)
    }
}
