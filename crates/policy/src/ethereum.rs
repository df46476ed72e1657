//! The policy of a DstackKms contract, read from nodes of its chain.
//!
//! A decision uses the state of one block, identified by its hash. The block, and the values that all
//! decisions in its state share, are looked up about once a second for all callers; a decision then costs one
//! call.

mod abi;
mod block;
mod bounds;
mod chain;
mod denial;
mod error;
mod failover;
mod http;
mod marks;
mod node;
mod quorum;
mod rpc;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use kms_attest::single_flight::{Answer, Latest};

use self::abi::{CallData, Verdict};
use self::chain::Chain;
use self::error::ChainError;
use self::node::Node;
use self::view::{State, Terms, View};
use crate::decision::{Decision, PolicyError, Ruling, Subject};
use crate::error::SetupError;
use crate::info::{ChainState, Info};
use crate::queue::{ConcurrencyLimits, FairnessKey, Queue, Shed};
use crate::settings;

const CA_FILE: &str = "core.auth_api.ethereum.ca_file";
/// The time-out of a decision.
const TOTAL: Duration = Duration::from_secs(10);
/// The time-out of looking up a block; the decisions that wait for it then have time left.
const LOOKING: Duration = Duration::from_secs(8);
/// A view younger than this serves all decisions.
const FRESH: Duration = Duration::from_secs(1);
/// The same for decisions about this KMS, so that key release stops soon after it is revoked.
const OWN_FRESH: Duration = Duration::from_millis(300);
/// Limits of the decisions in flight. The contract of an app influences how long a call about it takes.
const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
    slots: 256,
    queued: 4096,
    slots_each: 32,
    queued_each: 1024,
    queue_timeout: Duration::from_secs(5),
};

/// Calls `isAppAllowed` and `isKmsAllowed` of a DstackKms contract for each decision.
pub struct Ethereum {
    chain: Chain,
    queue: Queue,
    views: Latest<View>,
    last_failure: ArcSwapOption<Failure>,
}

/// A view, and when it was looked up.
type Look = Answer<View>;

struct Failure {
    why: ChainError,
    at: Instant,
}

impl Ethereum {
    /// A client for the configured endpoints. It sends no request yet.
    pub fn new(config: &settings::Ethereum) -> Result<Self, SetupError> {
        let extra_roots = match &config.ca_file {
            Some(path) => crate::file::ca_file(CA_FILE, path)?,
            None => Vec::new(),
        };
        let tls = http::tls(&extra_roots)
            .map_err(|error| SetupError::file(CA_FILE, format!("cannot be used: {error}")))?;
        let nodes = config
            .rpc_urls
            .iter()
            .enumerate()
            .map(|(index, url)| Node::new(index + 1, url.clone(), config.request_timeout, tls.clone()));
        let terms = Terms {
            chain_id: config.chain_id,
            contract: config.kms_contract,
            block: config.block,
            max_block_age: config.max_block_age,
            agreement: config.agreement,
        };
        Ok(Self {
            chain: Chain::new(nodes.collect::<Result<_, _>>().map_err(SetupError::Client)?, terms),
            queue: Queue::new(LIMITS),
            views: Latest::default(),
            last_failure: ArcSwapOption::empty(),
        })
    }

    pub(crate) async fn decide(&self, subject: Subject<'_>, key: FairnessKey) -> Result<Ruling, PolicyError> {
        let call = match CallData::decision(subject) {
            Ok(call) => call,
            // No contract was asked.
            Err(denial) => return Ok(Ruling { decision: Decision::Denied(denial), digest: None }),
        };
        let fresh = if matches!(key, FairnessKey::Own) { OWN_FRESH } else { FRESH };
        let verdict = async {
            let slot = self.queue.slot(key).await;
            let _slot =
                slot.map_err(|Shed| PolicyError::unavailable("too many requests wait for the chain"))?;
            let look = self.look(None, fresh).await.map_err(PolicyError::unavailable)?;
            match self.chain.call(&look.value, &call).await {
                Ok(verdict) => Ok((verdict, Arc::clone(&look.value.state))),
                Err(why) if why.is_the_contracts() => Err(PolicyError::unavailable(why)),
                // The chain may have dropped the block in the meantime.
                Err(_) => {
                    let look = self.look(Some(&look), fresh).await.map_err(PolicyError::unavailable)?;
                    match self.chain.call(&look.value, &call).await {
                        Ok(verdict) => Ok((verdict, Arc::clone(&look.value.state))),
                        Err(why) => {
                            self.elsewhere(&look.value, &call, why).await.map_err(PolicyError::unavailable)
                        }
                    }
                }
            }
        };
        let (verdict, state) = self.in_time(verdict).await?;
        let decision = match verdict.is_allowed {
            // The contract cannot express stages.
            true => Decision::Allowed {
                gateway_app_id: state.gateway_app_id.clone(),
                release_stage: None,
                epochs: None,
            },
            false => Decision::Denied(denial::denial(subject, self.chain.terms.contract, &verdict.reason)),
        };
        Ok(Ruling { decision, digest: Some(self.chain.terms.digest(&state.block)) })
    }

    /// The verdict of nodes that did not choose the block, if one node is enough and the contract did not
    /// cause `why`.
    async fn elsewhere(
        &self,
        view: &View,
        call: &CallData,
        why: ChainError,
    ) -> Result<(Verdict, Arc<State>), ChainError> {
        if self.chain.terms.agreement > 1 || why.is_the_contracts() {
            return Err(why);
        }
        self.chain.call_others(view, call).await.ok_or(why)
    }

    pub(crate) async fn info(&self) -> Result<Info, PolicyError> {
        let look =
            self.in_time(async { self.look(None, FRESH).await.map_err(PolicyError::unavailable) }).await?;
        Ok(self.info_of(&look.value))
    }

    pub(crate) fn last_info(&self) -> Option<Info> {
        self.views.last().map(|look| self.info_of(&look.value))
    }

    /// Why the last lookup found no block; `None` after it found one.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_failure.load().as_ref().map(|failure| failure.why.to_string())
    }

    /// The state of the chain, for metrics.
    pub(crate) fn state(&self) -> ChainState {
        let look = self.views.last();
        let block = look.as_ref().map(|look| look.value.state.block);
        ChainState {
            block: block.map(|block| block.number),
            block_age: block.map(|block| block.age(SystemTime::now())),
            endpoints: self.chain.nodes.iter().filter(|node| node.is_well()).count() as u64,
            disagreements: self.chain.disagreements(),
        }
    }

    fn info_of(&self, view: &View) -> Info {
        Info {
            gateway_app_id: Some(view.state.gateway_app_id.clone()),
            kms_contract_address: Some(self.chain.terms.contract.to_string()),
            chain_id: Some(self.chain.terms.chain_id),
            app_auth_implementation: Some(view.state.app_implementation.to_string()),
            eth_rpc_url: self.chain.nodes.first().map(Node::origin),
        }
    }

    /// The view to decide by: the current one while it is younger than `fresh` and not `outdated`, otherwise
    /// a new one.
    async fn look(&self, outdated: Option<&Arc<Look>>, fresh: Duration) -> Result<Arc<Look>, ChainError> {
        let began = Instant::now();
        let is_current = |look: &Arc<Look>| {
            look.answered.elapsed() < fresh && outdated.is_none_or(|outdated| !Arc::ptr_eq(outdated, look))
        };
        self.views
            .get(is_current, async |previous| {
                // A lookup that failed while this request waited counts for this request too.
                if let Some(failure) = self.last_failure.load().as_ref().filter(|failure| failure.at >= began)
                {
                    return Err(failure.why.clone());
                }
                let view = self.chain.view(previous.as_ref().map(|look| &look.value.state));
                let view = tokio::time::timeout(LOOKING, view).await.unwrap_or(Err(ChainError::Late));
                let failure = view.as_ref().err().map(|why| Failure { why: why.clone(), at: Instant::now() });
                self.last_failure.store(failure.map(Arc::new));
                view
            })
            .await
    }

    /// Treats the current view as old.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn look_again(&self) {
        self.views.age_by(FRESH);
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, PolicyError>>,
    ) -> Result<T, PolicyError> {
        tokio::time::timeout(TOTAL, answer)
            .await
            .unwrap_or_else(|_| Err(PolicyError::unavailable(ChainError::Late)))
    }
}
