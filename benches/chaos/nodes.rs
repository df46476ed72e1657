//! KMSs with the same root keys and one database, each a process with a key directory, ports and a proxy to the database of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::http::{self, request, with};
use crate::support::postgres::Postgres;
use crate::support::program::{KMS, Setting};
use crate::support::proxy::Proxy;
use crate::support::{ADMIN_TOKEN, Answer, Caller, DOMAIN, World, copy_keys, eventually, free_port};

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
    address: SocketAddr,
    admin: SocketAddr,
    file: PathBuf,
    keys: PathBuf,
    log: PathBuf,
    /// Held by who lets it fail.
    pub(crate) process: Mutex<Process>,
}

/// The process of a node; dropping it kills it.
pub(crate) struct Process(Option<Child>);

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it runs");
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in order; its exit status.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let child = std::sync::Mutex::new(self.0.take().expect("it runs"));
        let ended =
            eventually("a node ends", async || child.lock().expect("no panic").try_wait().expect("a status"));
        ended.await.code()
    }
}

impl Nodes {
    /// `count` KMSs with `toml` in their configuration, which reach the databases through proxies.
    pub(crate) async fn start(count: usize, databases: &[&Postgres], toml: &str) -> Self {
        let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        // The first makes the keys, and ends so that they can be copied.
        let first = setting.start().await;
        eventually("keys are served", async || {
            let answer = setting.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        assert_eq!(first.stop(Signal::TERM).await, Some(0), "the first KMS ends in order");
        for who in ["unauthenticated", "app", "instance"] {
            let most = 1_000_000;
            setting.configure(&format!(
                "core.limits.{who}_per_second = {most}\ncore.limits.{who}_burst = {most}"
            ));
        }
        setting.configure(toml);
        let mut nodes = Self { setting, nodes: Vec::new() };
        for number in 0..count {
            let node = nodes.make(number, databases).await;
            node.start_process(&mut *node.process.lock().await);
            nodes.nodes.push(node);
        }
        for node in &nodes.nodes {
            eventually("a node is ready", async || node.is_ready().await.then_some(())).await;
        }
        nodes
    }

    async fn make(&self, number: usize, databases: &[&Postgres]) -> Node {
        let world = &self.setting.world;
        let keys = world.path(&format!("certs-{number}"));
        copy_keys(&world.path("certs"), &keys);
        let (port, admin) = (free_port(), free_port());
        let text = toml::to_string(&world.config).expect("TOML");
        // Every path in the key directory is under it.
        let old = world.path("certs");
        let text = text.replace(old.to_str().expect("a path"), keys.to_str().expect("a path"));
        let mut proxies = Vec::new();
        for database in databases {
            proxies.push(Proxy::start(&database.socket()).await);
        }
        let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let url = databases[0].url_through(&addresses);
        let own = format!(
            "core.state = \"postgres\"\ncore.postgres.url = \"{url}\"\ncore.postgres.node_name = \"node-{number}\"\n\
             rpc.port = {port}\ncore.onboard.port = {port}\ncore.admin.port = {admin}"
        );
        let config = crate::support::config::laid_over(text.parse().expect("TOML"), &own);
        let file = world.path(&format!("kms-{number}.toml"));
        fs::write(&file, toml::to_string(&config).expect("TOML")).expect("a configuration");
        let [address, admin] = [port, admin].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let log = world.path(&format!("log-{number}"));
        Node { number, proxies, address, admin, file, keys, log, process: Mutex::new(Process(None)) }
    }

    pub(crate) fn world(&self) -> &World {
        &self.setting.world
    }
}

impl Node {
    /// Starts its process, which is not there.
    pub(crate) fn start_process(&self, process: &mut Process) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(KMS);
        command.arg("-c").arg(&self.file).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        process.0 = Some(command.spawn().expect("the program starts"));
    }

    /// Its audit log.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.keys.join("audit.jsonl")
    }

    /// The number of the newest state that it remembers.
    pub(crate) fn remembered(&self) -> u64 {
        let text = fs::read_to_string(self.keys.join("fleet.json")).unwrap_or_default();
        let memory: Value = serde_json::from_str(&text).unwrap_or_default();
        memory["known"]["head"]["seq"].as_u64().unwrap_or_default()
    }

    /// The end of its process log.
    pub(crate) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.address)
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
        Caller::new(self.admin).plain().try_send(with(request, "x-admin-token", ADMIN_TOKEN)).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.caller().try_send(request("GET", "/readyz", "")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// The number of the state that it has, if it believes what it sees and all nodes answer it.
    pub(crate) async fn agreed(&self, nodes: usize) -> Option<u64> {
        let answer = self.route("GET", "/api/v1/fleet").await.ok().filter(|answer| answer.status == 200)?;
        let view = answer.value();
        let shown = view["nodes"].as_array()?;
        let states: Vec<_> = shown.iter().filter_map(|node| node["state"].as_u64()).collect();
        let is_whole = view["alarm"].is_null() && view["stale"].is_null();
        let all_answer = shown.len() == nodes && shown.iter().all(|node| node["answers"] == true);
        let is_one = states.len() == nodes && states.iter().all(|state| *state == states[0]);
        (is_whole && all_answer && is_one).then(|| states[0])
    }
}
