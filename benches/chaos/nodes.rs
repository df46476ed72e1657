//! KMSs with the same root keys and one database, each a process with a key directory, ports and a proxy to the database of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::support::http::{self, request};
use crate::support::operator::authorized;
use crate::support::postgres::Postgres;
use crate::support::program::{Program, Setting, Sibling};
use crate::support::proxy::Proxy;
use crate::support::{Answer, Caller, DOMAIN, World, eventually};

/// Which nodes share their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    All,
    /// The first has its own.
    AllButFirst,
}

/// All of them.
pub(crate) struct Nodes {
    pub(crate) setting: Setting,
    pub(crate) nodes: Vec<Node>,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) number: usize,
    /// Its proxies: the first is before the database, the second, where there is one, before its standby.
    pub(crate) proxies: Vec<Proxy>,
    program: Sibling,
    /// Held by who lets it fail.
    pub(crate) process: Mutex<Process>,
}

/// The process of a node; dropping it kills it.
pub(crate) struct Process(Option<Program>);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        self.0.as_ref().expect("it runs").signal(signal);
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.0 = None;
    }

    /// Ends it in order; its exit status.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.0.take().expect("it runs").stop(Signal::TERM).await
    }
}

impl Nodes {
    /// `count` KMSs with `toml` in their configuration, which reach the databases through proxies.
    pub(crate) async fn start(count: usize, databases: &[&Postgres], toml: &str, sharing: Sharing) -> Self {
        let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        setting.make_keys().await;
        setting.lift_rates();
        setting.configure(toml);
        let mut nodes = Self { setting, nodes: Vec::new() };
        for number in 0..count {
            let sharing = if number == 0 { sharing } else { Sharing::All };
            let node = nodes.make(number, databases, sharing).await;
            node.start_process(&mut *node.process.lock().await);
            nodes.nodes.push(node);
        }
        for node in &nodes.nodes {
            eventually("a node is ready", async || node.is_ready().await.then_some(())).await;
        }
        nodes
    }

    async fn make(&self, number: usize, databases: &[&Postgres], sharing: Sharing) -> Node {
        let mut proxies = Vec::new();
        for database in databases {
            proxies.push(Proxy::start(&database.socket()).await);
        }
        let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let url = databases[0].url_through(&addresses);
        let state = if sharing == Sharing::All { "postgres" } else { "files" };
        let own = format!(
            "core.state = \"{state}\"\ncore.postgres.url = \"{url}\"\ncore.postgres.node_name = \"node-{number}\""
        );
        let program = self.setting.sibling(number, &own);
        Node { number, proxies, program, process: Mutex::new(Process(None)) }
    }

    pub(crate) fn world(&self) -> &World {
        &self.setting.world
    }
}

impl Node {
    /// Starts its process, which is not there.
    pub(crate) fn start_process(&self, process: &mut Process) {
        process.0 = Some(self.program.spawn());
    }

    /// Its audit log.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.program.keys.join("audit.jsonl")
    }

    /// The number of the newest state that it remembers.
    pub(crate) fn remembered(&self) -> u64 {
        let text = fs::read_to_string(self.program.keys.join("fleet.json")).unwrap_or_default();
        let memory: Value = serde_json::from_str(&text).unwrap_or_default();
        memory["known"]["head"]["seq"].as_u64().unwrap_or_default()
    }

    /// The end of its process log.
    pub(crate) fn said(&self) -> String {
        self.program.said()
    }

    pub(crate) fn caller(&self) -> Caller {
        self.program.caller()
    }

    /// A call of an operator; the node may be down.
    pub(crate) async fn operate(&self, method: &str, body: Value) -> std::io::Result<Answer> {
        self.operator(http::json(method, body)).await
    }

    /// A request to a route of operators.
    pub(crate) async fn route(&self, verb: &str, path: &str) -> std::io::Result<Answer> {
        self.operator(request(verb, path, "")).await
    }

    async fn operator(&self, request: ::http::Request<bytes::Bytes>) -> std::io::Result<Answer> {
        Caller::new(self.program.admin).plain().try_send(authorized(request)).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.caller().try_send(request("GET", "/readyz", "")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// What it knows of the fleet; `None` if it does not answer soon.
    pub(crate) async fn view(&self) -> Option<Value> {
        let answer = timeout(Duration::from_secs(2), self.route("GET", "/api/v1/fleet")).await.ok()?.ok()?;
        (answer.status == 200).then(|| answer.value())
    }

    /// The number of the state that it has, if it believes what it sees and all nodes answer it.
    pub(crate) async fn agreed(&self, nodes: usize) -> Option<u64> {
        let view = self.view().await?;
        let shown = view["nodes"].as_array()?;
        let states: Vec<_> = shown.iter().filter_map(|node| node["state"].as_u64()).collect();
        let is_whole = view["alarm"].is_null() && view["stale"].is_null();
        let all_answer = shown.len() == nodes && shown.iter().all(|node| node["answers"] == true);
        let is_one = states.len() == nodes && states.iter().all(|state| *state == states[0]);
        (is_whole && all_answer && is_one).then(|| states[0])
    }
}
