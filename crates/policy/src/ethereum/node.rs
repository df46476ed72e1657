//! A node of the chain: its newest block, its other blocks, and contract calls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use kms_attest::outgoing::Endpoint;
use rustls::ClientConfig;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::abi::CallData;
use super::block::{self, Block};
use super::error::NodeError;
use super::http::Http;
use super::rpc;
use crate::settings::BlockChoice;

/// Maximum size of a block; it contains the hashes of its transactions, 69 bytes each.
const MAX_BLOCK: usize = 2 << 20;
/// Maximum size of other responses: two words and a bounded string, twice as long in hex.
const MAX_ANSWER: usize = 64 << 10;
/// The gas limit of a transaction (EIP-7825). It bounds the cost of an app's contract, equally on all nodes.
const GAS: &str = "0x1000000";
/// JSON-RPC's code for invalid parameters.
const INVALID_PARAMS: i64 = -32602;
/// How long a node that hung is not used: the first time and at most.
const REST: Duration = Duration::from_secs(5);
const MAX_REST: Duration = Duration::from_secs(60);

pub(super) struct Node {
    /// Its number in the log: counted from one in the order of the configuration.
    pub(super) number: usize,
    http: Http,
    next_id: AtomicU64,
    health: Mutex<Health>,
    /// It does not support EIP-1898, so calls identify the block by number.
    knows_no_hashes: AtomicBool,
}

/// The newest blocks of a node.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// Its newest block; with `finalized` and `safe`, the one that decides.
    pub(super) latest: Block,
    /// The block that decides.
    pub(super) block: Block,
}

impl From<Block> for Head {
    fn from(block: Block) -> Self {
        Self { latest: block, block }
    }
}

/// The outcome of recent block lookups on a node.
#[derive(Default)]
struct Health {
    error: Option<NodeError>,
    rests_until: Option<Instant>,
    rest: Duration,
}

impl Node {
    pub(super) fn new(
        number: usize,
        url: Endpoint,
        timeout: Duration,
        tls: ClientConfig,
    ) -> reqwest::Result<Self> {
        Ok(Self {
            number,
            http: Http::new(url, timeout, tls)?,
            next_id: AtomicU64::new(1),
            health: Mutex::default(),
            knows_no_hashes: AtomicBool::new(false),
        })
    }

    /// Its index among the endpoints.
    pub(super) fn index(&self) -> usize {
        self.number - 1
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.http.origin()
    }

    /// Whether the last lookup succeeded.
    pub(super) fn is_well(&self) -> bool {
        self.health().error.is_none()
    }

    /// Ensures that the node serves `chain` and is not paused.
    pub(super) async fn usable(&self, chain: u64) -> Result<(), NodeError> {
        self.awake()?;
        self.serves(chain).await
    }

    fn awake(&self) -> Result<(), NodeError> {
        match self.health().rests_until {
            Some(until) if Instant::now() < until => Err(NodeError::Resting),
            _ => Ok(()),
        }
    }

    /// The block for `choice` on this node now. Also checks that the node serves `chain`.
    pub(super) async fn head(&self, chain: u64, choice: BlockChoice) -> Result<Head, NodeError> {
        self.awake()?;
        let (chain, head) = tokio::join!(self.serves(chain), self.newest(choice));
        chain.and(head)
    }

    async fn newest(&self, choice: BlockChoice) -> Result<Head, NodeError> {
        let confirmations = match choice {
            BlockChoice::Finalized => return Ok(self.block("finalized").await?.into()),
            BlockChoice::Safe => return Ok(self.block("safe").await?.into()),
            BlockChoice::Latest { confirmations } => confirmations,
        };
        let latest = self.block("latest").await?;
        match confirmations {
            0 => Ok(latest.into()),
            _ => match latest.number.checked_sub(confirmations) {
                Some(number) => Ok(Head { latest, block: self.block_at(number).await? }),
                None => Err(NodeError::NoBlock(format!("with {confirmations} confirmations"))),
            },
        }
    }

    async fn serves(&self, expected: u64) -> Result<(), NodeError> {
        let body = self.ask("eth_chainId", &json!([]), MAX_ANSWER).await?;
        let found = rpc::quantity(&rpc::text(body.result()?)?);
        match found.ok_or(NodeError::NotJsonRpc("a chain id that is not a number"))? {
            found if found != expected => Err(NodeError::OtherChain { found, expected }),
            _ => Ok(()),
        }
    }

    /// Its canonical block with this number.
    pub(super) async fn block_at(&self, number: u64) -> Result<Block, NodeError> {
        match self.block(&block::by_number(number)).await? {
            block if block.number != number => {
                Err(NodeError::OtherBlock { asked: number, found: block.number })
            }
            block => Ok(block),
        }
    }

    async fn block(&self, name: &str) -> Result<Block, NodeError> {
        let body = self.ask("eth_getBlockByNumber", &json!([name, false]), MAX_BLOCK).await?;
        Block::parse(body.result()?)?.ok_or_else(|| NodeError::NoBlock(name.to_owned()))
    }

    /// The result of calling `contract` with `data` in the state of exactly `block`.
    pub(super) async fn call(
        &self,
        contract: Address,
        data: &CallData,
        block: &Block,
    ) -> Result<Vec<u8>, NodeError> {
        if !self.knows_no_hashes.load(Ordering::Relaxed) {
            match self.call_in(contract, data, block.by_hash()).await {
                Err(NodeError::Error { code: INVALID_PARAMS, .. }) => {}
                answer => return answer,
            }
        }
        let answer = self.call_in(contract, data, block::by_number(block.number).into()).await;
        // If the chain was reorganized in the meantime, the result is of another block with this number.
        if self.block_at(block.number).await? != *block {
            return Err(NodeError::Moved(block.number));
        }
        if answer.is_ok() {
            self.knows_no_hashes.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn call_in(&self, contract: Address, data: &CallData, block: Value) -> Result<Vec<u8>, NodeError> {
        let to = format!("0x{}", hex::encode(contract));
        let call = json!([{ "to": to, "data": data.to_hex(), "gas": GAS }, block]);
        let body = self.ask("eth_call", &call, MAX_ANSWER).await?;
        rpc::bytes(&rpc::text(body.result()?)?).ok_or(NodeError::NotJsonRpc("a result that is not hex"))
    }

    async fn ask(&self, method: &'static str, params: &Value, limit: usize) -> Result<Answer, NodeError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = self.http.post(rpc::request(id, method, params), limit).await?;
        match rpc::result(id, &body) {
            Ok(_) => Ok(Answer { id, body }),
            Err(NodeError::Error { code, message }) => {
                Err(NodeError::Error { code, message: self.http.redacted(&message) })
            }
            Err(NodeError::Reverted { message }) => {
                Err(NodeError::Reverted { message: self.http.redacted(&message) })
            }
            Err(error) => Err(error),
        }
    }

    /// Records the outcome of a block lookup, and logs a change. A node that hung is not used for some time.
    /// Failed calls are not recorded here: the contract of one app must not affect other apps.
    pub(super) fn note(&self, error: Option<&NodeError>) {
        let mut health = self.health();
        match error {
            Some(NodeError::Resting) => return,
            Some(NodeError::Silent) => {
                health.rest = (health.rest * 2).clamp(REST, MAX_REST);
                health.rests_until = Some(Instant::now() + health.rest);
            }
            None
            | Some(
                NodeError::Slow
                | NodeError::Connection(_)
                | NodeError::Status(_)
                | NodeError::TooLarge(_)
                | NodeError::NotJsonRpc(_)
                | NodeError::Error { .. }
                | NodeError::Reverted { .. }
                | NodeError::Contract(_)
                | NodeError::OtherChain { .. }
                | NodeError::NoBlock(_)
                | NodeError::OtherBlock { .. }
                | NodeError::Stale { .. }
                | NodeError::Ahead { .. }
                | NodeError::NotFinal(_)
                | NodeError::FarBack { .. }
                | NodeError::FarAhead { .. }
                | NodeError::Moved(_),
            ) => (health.rests_until, health.rest) = (None, Duration::ZERO),
        }
        if health.error.as_ref().map(std::mem::discriminant) != error.map(std::mem::discriminant) {
            let endpoint = self.number;
            match error {
                Some(problem @ NodeError::Slow) => {
                    tracing::debug!(endpoint, %problem, "a chain endpoint is left out")
                }
                Some(problem) => tracing::warn!(endpoint, %problem, "a chain endpoint cannot be used"),
                None => tracing::info!(endpoint, "a chain endpoint can be used again"),
            }
        }
        health.error = error.cloned();
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The body of a response with a valid envelope.
struct Answer {
    id: u64,
    body: Vec<u8>,
}

impl Answer {
    fn result(&self) -> Result<Option<&RawValue>, NodeError> {
        rpc::result(self.id, &self.body)
    }
}
