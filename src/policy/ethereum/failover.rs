//! One node's word is enough: they are asked in order until one answers.

use std::sync::Arc;

use super::abi::{CallData, Verdict};
use super::chain::{Chain, State, View};
use super::node::Node;
use super::trouble::{Trouble, Unanswered};

impl Chain {
    pub(super) async fn view_of_first(&self, previous: Option<&Arc<State>>) -> Result<View, Unanswered> {
        let mut troubles = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let state = self.state_by(node, previous).await;
            node.note(state.as_ref().err());
            match state {
                Ok(state) => return Ok(View { state, by: vec![index] }),
                Err(trouble) => troubles.push((node.number, trouble)),
            }
        }
        Err(Unanswered::Troubles(troubles))
    }

    async fn state_by(&self, node: &Node, previous: Option<&Arc<State>>) -> Result<Arc<State>, Trouble> {
        let mut block = self.head(node).await?;
        if let Some(floor) = self.floor(previous).filter(|floor| block.number <= floor.number) {
            // Where a node lags, the block that was final or safe elsewhere must be one of its own.
            if block.number < floor.number {
                block = node.block_at(floor.number).await?;
            }
            if block != floor {
                self.disagree("a block that was final or safe");
                return Err(Trouble::NotFinal(floor.number));
            }
        }
        let block = self.recent(block)?;
        match previous.filter(|previous| previous.block == block) {
            Some(known) => Ok(Arc::clone(known)),
            None => Ok(Arc::new(self.state_at(node, block).await?)),
        }
    }

    pub(super) async fn ask_first(&self, view: &View, question: &CallData) -> Result<Verdict, Unanswered> {
        let (mut troubles, chosen) = (Vec::new(), &view.by);
        let others = (0..self.nodes.len()).filter(|index| !chosen.contains(index));
        for index in chosen.iter().copied().chain(others) {
            let node = &self.nodes[index];
            let verdict = async {
                if !chosen.contains(&index) {
                    node.usable(self.terms.chain_id).await?;
                }
                self.verdict(node, view, question).await
            };
            match verdict.await {
                Ok(verdict) => return Ok(verdict),
                // Any other node would say the same.
                Err(trouble) if trouble.is_the_contracts() => {
                    return Err(Unanswered::Troubles(vec![(node.number, trouble)]));
                }
                Err(trouble) => troubles.push((node.number, trouble)),
            }
        }
        Err(Unanswered::Troubles(troubles))
    }
}
