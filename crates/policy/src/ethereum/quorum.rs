//! Several nodes must agree: they are asked in parallel about the same block.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::abi::{CallData, Verdict};
use super::block::Block;
use super::chain::Chain;
use super::error::{ChainError, NodeError};
use super::view::{State, View};

/// The additional time for slower nodes after enough have responded.
const GRACE: Duration = Duration::from_millis(200);

/// The responses and errors of nodes, by index.
struct Answers<T> {
    given: Vec<(usize, T)>,
    errors: Vec<(usize, NodeError)>,
}

impl Chain {
    pub(super) async fn view_of_many(
        &self,
        agreement: usize,
        previous: Option<&Arc<State>>,
    ) -> Result<View, ChainError> {
        let heads = (0..self.nodes.len())
            .map(async |index| (index, self.head(&self.nodes[index]).await.map(|head| head.block)));
        let heads = Answers::gather(heads, GRACE, |heads| heads.given.len() >= agreement).await;
        self.note_those_without(&heads);
        let (block, by) = self.common_block(agreement, heads, self.floor(previous)).await?;
        let block = self
            .recent(block)
            .map_err(|error| self.named(by.iter().map(|index| (*index, error.clone())).collect()))?;
        if let Some(known) = previous.filter(|previous| previous.block == block) {
            return Ok(self.agreed_by(by, Arc::clone(known)));
        }
        let states = by.iter().map(async |&index| (index, self.state_at(&self.nodes[index], block).await));
        let states = Answers::gather(states, GRACE, |states| states.agreed(agreement).is_some()).await;
        for (index, error) in &states.errors {
            self.nodes[*index].note(Some(error));
        }
        let (state, by) =
            self.settle(agreement, states, "the contract's gatewayAppId or appImplementation")?;
        Ok(self.agreed_by(by, Arc::new(state)))
    }

    fn note_those_without(&self, heads: &Answers<Block>) {
        for (index, node) in self.nodes.iter().enumerate() {
            if heads.given.iter().all(|(given, _)| *given != index) {
                let error = heads.errors.iter().find(|(failed, _)| *failed == index);
                node.note(Some(error.map_or(&NodeError::Slow, |(_, error)| error)));
            }
        }
    }

    fn agreed_by(&self, by: Vec<usize>, state: Arc<State>) -> View {
        by.iter().for_each(|index| self.nodes[*index].note(None));
        View { state, by }
    }

    pub(super) async fn call_many(
        &self,
        agreement: usize,
        view: &View,
        call: &CallData,
    ) -> Result<Verdict, ChainError> {
        let asked =
            view.by.iter().map(async |&index| (index, self.verdict(&self.nodes[index], view, call).await));
        let answers =
            Answers::gather(asked, Duration::ZERO, |answers| answers.agreed(agreement).is_some()).await;
        Ok(self.settle(agreement, answers, "who is allowed")?.0)
    }

    /// The newest block that enough nodes have reached and agree on. A node that claims to be ahead cannot
    /// prevent agreement: the next older head is tried, and finally the block that decided before.
    async fn common_block(
        &self,
        agreement: usize,
        heads: Answers<Block>,
        floor: Option<Block>,
    ) -> Result<(Block, Vec<usize>), ChainError> {
        let mut numbers: Vec<u64> = heads.given.iter().map(|(_, head)| head.number).collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        let mut reached_by_enough = numbers.split_off(numbers.len().min(agreement - 1));
        reached_by_enough.dedup();
        reached_by_enough.retain(|number| floor.is_none_or(|floor| *number > floor.number));

        let (mut errors, mut disagreement) = (heads.errors, None);
        for number in reached_by_enough {
            let there = heads.given.iter().filter(|(_, head)| head.number >= number);
            let blocks = self.blocks_at(number, there, agreement).await;
            if blocks.differ() {
                disagreement = Some(self.disagree("a block"));
            }
            if let Some(agreed) = blocks.agreed(agreement) {
                return Ok(agreed);
            }
            errors.extend(blocks.errors);
        }
        if let Some(floor) = floor {
            // Nodes that lag can confirm it too, because it was final or safe before.
            let mut blocks = self.blocks_at(floor.number, heads.given.iter(), agreement).await;
            if blocks.given.iter().any(|(_, block)| *block != floor) {
                disagreement = Some(self.disagree("a block that was final or safe"));
            }
            blocks.given.retain(|(_, block)| *block == floor);
            if let Some(agreed) = blocks.agreed(agreement) {
                return Ok(agreed);
            }
            errors.extend(blocks.errors);
        }
        Err(disagreement.unwrap_or_else(|| self.named(errors)))
    }

    async fn blocks_at(
        &self,
        number: u64,
        heads: impl Iterator<Item = &(usize, Block)>,
        agreement: usize,
    ) -> Answers<Block> {
        let blocks = heads.map(async |&(index, head)| match head.number == number {
            true => (index, Ok(head)),
            false => (index, self.nodes[index].block_at(number).await),
        });
        Answers::gather(blocks, GRACE, |blocks| blocks.agreed(agreement).is_some()).await
    }

    /// The response that enough nodes gave, and those nodes.
    fn settle<T: Clone + PartialEq>(
        &self,
        agreement: usize,
        answers: Answers<T>,
        about: &'static str,
    ) -> Result<(T, Vec<usize>), ChainError> {
        let disagreement = answers.differ().then(|| self.disagree(about));
        match answers.agreed(agreement) {
            Some(agreed) => Ok(agreed),
            None => Err(disagreement.unwrap_or_else(|| self.named(answers.errors))),
        }
    }
}

impl Chain {
    fn named(&self, errors: Vec<(usize, NodeError)>) -> ChainError {
        let named = errors.into_iter().map(|(index, error)| (self.nodes[index].number, error));
        ChainError::Nodes(named.collect())
    }
}

impl<T: Clone + PartialEq> Answers<T> {
    /// Waits for all responses; after `enough` is true, only for `grace`.
    async fn gather<F>(
        asked: impl Iterator<Item = F>,
        grace: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Self
    where
        F: Future<Output = (usize, Result<T, NodeError>)>,
    {
        let mut running: FuturesUnordered<F> = asked.collect();
        let mut answers = Self { given: Vec::new(), errors: Vec::new() };
        let mut end = None;
        loop {
            if end.is_none() && enough(&answers) {
                end = Some(Instant::now() + grace);
            }
            let next = match end {
                None => running.next().await,
                Some(end) => timeout_at(end, running.next()).await.unwrap_or(None),
            };
            match next {
                Some((index, Ok(answer))) => answers.given.push((index, answer)),
                Some((index, Err(error))) => answers.errors.push((index, error)),
                None => return answers,
            }
        }
    }

    /// The response that at least `agreement` nodes gave, and those nodes.
    fn agreed(&self, agreement: usize) -> Option<(T, Vec<usize>)> {
        self.given.iter().find_map(|(_, candidate)| {
            let same = self.given.iter().filter(|(_, answer)| answer == candidate);
            let by: Vec<usize> = same.map(|(index, _)| *index).collect();
            (by.len() >= agreement).then(|| (candidate.clone(), by))
        })
    }

    fn differ(&self) -> bool {
        self.given.iter().any(|(_, answer)| *answer != self.given[0].1)
    }
}
