//! Real EVM nodes: anvil, with our own contracts.
//!
//! Two test programs use parts of this file.
#![allow(dead_code)]

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::Address;
use alloy_sol_types::{SolCall, sol};
use kms_attest::clock::unix_now;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::support::{eventually, tools};

/// The default chain id of a node.
pub(crate) const CHAIN_ID: u64 = 31337;
/// The longest life of a node, in seconds, in case its test is killed.
const LIFETIME: &str = "600";
/// How old the first block of a chain is.
pub(crate) const GENESIS_AGE: Duration = Duration::from_secs(100);

sol! {
    function setGatewayAppId(string value);
    function setAppImplementation(address value);
    function registerApp(address app);
    function addKmsAggregatedMr(bytes32 mr);
    function addKmsDevice(bytes32 device);
    function addOsImageHash(bytes32 image);
    function removeOsImageHash(bytes32 image);
    function addComposeHash(bytes32 hash);
    function removeComposeHash(bytes32 hash);
    function addDevice(bytes32 device);
    function setAllowAnyDevice(bool value);
    function setRequireTcbUpToDate(bool value);
    function teach(bytes value);
}

/// The directory with the node, the compiler and our contracts.
static TOOLS: LazyLock<std::path::PathBuf> = LazyLock::new(|| tools::npm("ethereum"));

/// Creation code by the contract's name, compiled once.
static CONTRACTS: LazyLock<Value> = LazyLock::new(|| {
    let output = Command::new(tools::program("node"))
        .arg("compile.mjs")
        .current_dir(&*TOOLS)
        .output()
        .expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
});

/// A node with its own chain, with a block each second; two of the same age with the same calls have the same
/// blocks. Killed when dropped.
pub(crate) struct Anvil {
    process: Child,
    address: SocketAddr,
    client: reqwest::Client,
    next_id: AtomicU64,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // `timeout` forwards the signal.
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

impl Anvil {
    /// A node with a new chain.
    pub(crate) async fn start() -> Self {
        Self::begun(unix_now() - GENESIS_AGE.as_secs(), CHAIN_ID).await
    }

    /// A node whose chain began at this time, in seconds since 1970. Its finalized block is two blocks old.
    pub(crate) async fn begun(genesis: u64, chain_id: u64) -> Self {
        let mut command = Command::new(tools::program("timeout"));
        command
            .arg(LIFETIME)
            .arg(TOOLS.join("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"))
            .args(["--host", "127.0.0.1", "--port", "0", "--accounts", "1", "--threads", "1"])
            .args(["--slots-in-an-epoch", "1", "--timestamp", &genesis.to_string()])
            .args(["--chain-id", &chain_id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (process, address) = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().expect("anvil starts");
            let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
            let address = lines
                .find_map(|line| line.ok()?.strip_prefix("Listening on ")?.parse().ok())
                .expect("anvil says where it listens");
            // Keeps reading, so that its output does not block it.
            std::thread::spawn(move || lines.for_each(drop));
            (process, address)
        })
        .await
        .expect("no panic");
        let node = Self { process, address, client: client(), next_id: AtomicU64::new(1) };
        node.rpc("anvil_setBlockTimestampInterval", json!([1])).await;
        node
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The result of a method.
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let post = self.client.post(self.url()).header("content-type", "application/json");
        let answer = post.body(request.to_string()).send().await.expect("anvil answers");
        let mut answer: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Adds empty blocks.
    pub(crate) async fn mine(&self, count: u64) {
        for _ in 0..count {
            self.rpc("anvil_mine", json!(["0x1"])).await;
        }
    }

    /// Number of the newest block.
    pub(crate) async fn height(&self) -> u64 {
        let number = self.rpc("eth_blockNumber", json!([])).await;
        u64::from_str_radix(number.as_str().and_then(|hex| hex.strip_prefix("0x")).expect("hex"), 16)
            .expect("hex")
    }

    /// Calls a contract so that its state changes, in a block of its own.
    pub(crate) async fn send(&self, contract: Address, call: impl SolCall) {
        self.transact(json!({ "to": contract.to_string(), "data": hexed(&call.abi_encode()) })).await;
    }

    /// Deploys a contract of `tests/ethereum/contracts` with these constructor arguments.
    pub(crate) async fn deploy(&self, name: &str, arguments: &[u8]) -> Address {
        let code = CONTRACTS[name].as_str().unwrap_or_else(|| panic!("no contract {name}"));
        let receipt = self.transact(json!({ "data": format!("{code}{}", hex::encode(arguments)) })).await;
        receipt["contractAddress"].as_str().expect("an address").parse().expect("an address")
    }

    async fn transact(&self, mut transaction: Value) -> Value {
        let accounts = self.rpc("eth_accounts", json!([])).await;
        transaction["from"] = accounts[0].clone();
        transaction["gas"] = json!("0x800000");
        transaction["gasPrice"] = json!("0x77359400");
        let hash = self.rpc("eth_sendTransaction", json!([transaction])).await;
        let receipt = eventually("a receipt", async || {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash])).await;
            (!receipt.is_null()).then_some(receipt)
        })
        .await;
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt
    }
}

fn hexed(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A client for plain HTTP on this machine.
fn client() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    client.timeout(Duration::from_secs(30)).build().expect("a client")
}
