//! Tests of replicas, one file for each topic.

mod admin;
mod chain;
mod disaster;
mod killed;
mod load;
mod peers;

use cvm_kms::keys::RootKeys;
use cvm_kms::proto::{GetMetaResponse, OnboardResponse};
use kms_simulator::Cvm;
use rustix::process::Signal;
use serde_json::json;

use crate::support::program::{Program, Setting};
use crate::support::{Answer, Caller, eventually};

/// One KMS of a cluster: its surroundings, and its process while it runs.
struct Node {
    setting: Setting,
    program: Option<Program>,
}

/// Keeps the log of a failed test.
impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(program) = &self.program
        {
            eprintln!("{}:\n{}", self.setting.address, program.log());
        }
    }
}

impl Node {
    /// A running KMS without keys.
    async fn empty(toml: &str) -> Self {
        let setting = Setting::with(toml).await;
        let program = Some(setting.start().await);
        Self { setting, program }
    }

    /// A running KMS that made the keys of a cluster.
    async fn first(domain: &str, toml: &str) -> Self {
        let node = Self::empty(toml).await;
        let answer = node.caller().plain().json("Bootstrap", json!({ "domain": domain })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        node.finish().await;
        node
    }

    /// A running KMS that received its keys from `source`.
    async fn replica(source: &Node, domain: &str, toml: &str) -> Self {
        let node = Self::empty(toml).await;
        let answer = node.onboard(&source.url(), domain).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.message::<OnboardResponse>().k256_pubkey, source.meta().await.k256_pubkey);
        node.finish().await;
        node
    }

    /// A chain of KMS nodes, one for each domain, each but the first onboarded from the one before.
    async fn chain(domains: &[&str], toml: &str) -> Vec<Self> {
        let mut nodes = vec![Self::first(domains[0], toml).await];
        for domain in &domains[1..] {
            let source = nodes.last().expect("the first");
            let node = Self::replica(source, domain, toml).await;
            nodes.push(node);
        }
        nodes
    }

    async fn onboard(&self, url: &str, domain: &str) -> Answer {
        let body = json!({ "source_url": url, "domain": domain });
        self.caller().plain().json("Onboard", body).await
    }

    async fn finish(&self) {
        let answer = self.caller().plain().json("Finish", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.serves().await;
    }

    /// Waits until it serves keys.
    async fn serves(&self) {
        eventually("GetMeta", async || {
            let answer = self.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    fn caller(&self) -> Caller {
        self.setting.caller()
    }

    fn url(&self) -> String {
        format!("https://{}", self.setting.address)
    }

    async fn meta(&self) -> GetMetaResponse {
        self.caller().json("GetMeta", json!({})).await.message()
    }

    fn root_keys(&self) -> RootKeys {
        self.setting.world.root_keys()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.setting.world.key_file(name)).expect("a file")
    }

    fn allow_app(&self, app: &Cvm) {
        self.setting.world.allow_app(app);
    }

    /// Kills the process.
    async fn kill(&mut self) {
        let mut program = self.program.take().expect("it runs");
        program.signal(Signal::KILL);
        program.ended().await;
    }

    /// Starts the process again.
    async fn restart(&mut self) {
        self.program = Some(self.setting.start().await);
    }

    /// Ends the process in order, and has the program verify its audit log.
    async fn stop(&mut self) {
        let program = self.program.take().expect("it runs");
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
        let log = self.setting.world.key_file("audit.jsonl");
        let ran = self.setting.run(&["audit", "verify", log.to_str().expect("text")]).await;
        assert!(ran.expect_ok().out.contains(" records, unbroken; head "));
    }
}
