//! One node is enough: the nodes are tried in order until one gives a result.

use std::sync::Arc;

use super::abi::{CallData, Verdict};
use super::block::Block;
use super::chain::Chain;
use super::error::{ChainError, NodeError};
use super::node::{Head, Node};
use super::view::{State, View};

impl Chain {
    pub(super) async fn view_of_first(&self, previous: Option<&Arc<State>>) -> Result<View, ChainError> {
        let mut errors = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let state = self.state_by(node, previous).await;
            node.note(state.as_ref().err());
            match state {
                Ok((state, latest)) => {
                    self.mark(node, latest);
                    return Ok(View { state, by: vec![index] });
                }
                Err(error) => errors.push((node.number, error)),
            }
        }
        Err(ChainError::Nodes(errors))
    }

    /// The state that a node gives, and its newest block.
    async fn state_by(
        &self,
        node: &Node,
        previous: Option<&Arc<State>>,
    ) -> Result<(Arc<State>, Block), NodeError> {
        let Head { latest, mut block } = self.head(node).await?;
        let floor = self.floor(previous).filter(|floor| block.number <= floor.number);
        if let Some(floor) = floor.filter(|floor| !self.is_disproved(floor, &block)) {
            // If the node lags, the block that was final or safe elsewhere must be one of its own.
            if block.number < floor.number {
                block = node.block_at(floor.number).await?;
            }
            if block != floor {
                self.disagree("a block that was final or safe");
                return Err(NodeError::NotFinal(floor.number));
            }
        }
        let block = self.recent(block)?;
        let state = match previous.filter(|previous| previous.block == block) {
            Some(known) => Arc::clone(known),
            None => Arc::new(self.state_at(node, block).await?),
        };
        Ok((state, latest))
    }

    /// Whether the floor has a higher number than a final block with a later time. No chain has both, so one
    /// node reported a false number. The later block counts: otherwise one false number would exclude all
    /// other nodes forever.
    fn is_disproved(&self, floor: &Block, block: &Block) -> bool {
        let is_disproved = block.number < floor.number && block.timestamp > floor.timestamp;
        if is_disproved {
            self.disagree("a block that was final or safe");
        }
        is_disproved
    }

    /// The verdict of a node outside `view`, in the state of its own newest block. So a node that reports a
    /// block that no other node has, and gives no result in its state, does not block decisions.
    pub(super) async fn call_others(&self, view: &View, call: &CallData) -> Option<(Verdict, Arc<State>)> {
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| !view.by.contains(index)) {
            let previous = self.floor(Some(&view.state)).map(|_| &view.state);
            let Ok((state, _)) = self.state_by(node, previous).await else { continue };
            if state.block == view.state.block {
                continue;
            }
            let own = View { state, by: vec![index] };
            if let Ok(verdict) = self.verdict(node, &own, call).await {
                return Some((verdict, own.state));
            }
        }
        None
    }

    pub(super) async fn call_first(&self, view: &View, call: &CallData) -> Result<Verdict, ChainError> {
        let (mut errors, chosen) = (Vec::new(), &view.by);
        let others = (0..self.nodes.len()).filter(|index| !chosen.contains(index));
        for index in chosen.iter().copied().chain(others) {
            let node = &self.nodes[index];
            let verdict = async {
                if !chosen.contains(&index) {
                    node.usable(self.terms.chain_id).await?;
                }
                self.verdict(node, view, call).await
            };
            match verdict.await {
                Ok(verdict) => return Ok(verdict),
                // Every other node would give the same result.
                Err(error) if error.is_the_contracts() => {
                    return Err(ChainError::Nodes(vec![(node.number, error)]));
                }
                Err(error) => errors.push((node.number, error)),
            }
        }
        Err(ChainError::Nodes(errors))
    }
}
