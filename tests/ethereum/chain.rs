//! A chain with a DstackKms contract, and the policy that reads it.
//!
//! Two test programs use parts of this file.
#![allow(dead_code)]

use std::ops::Deref;

use alloy_primitives::{Address, B256, keccak256};
use cvm_kms::config::Config;
use kms_attest::identity::BootInfo;
use kms_policy::{Decision, Denial, Policy, PolicyError, Subject};
use serde_json::json;

use super::anvil::{self, Anvil, CHAIN_ID};
use super::support::config::laid_over;

/// A node with a DstackKms contract that allows nothing yet.
pub(crate) struct Chain {
    node: Anvil,
    /// The contract.
    pub(crate) kms: Address,
}

impl Deref for Chain {
    type Target = Anvil;

    fn deref(&self) -> &Anvil {
        &self.node
    }
}

impl Chain {
    pub(crate) async fn new() -> Self {
        Self::on(Anvil::start().await).await
    }

    pub(crate) async fn on(node: Anvil) -> Self {
        let kms = node.deploy("DstackKms", &[]).await;
        node.send(kms, anvil::setGatewayAppIdCall { value: "0xgateway".to_owned() }).await;
        node.send(kms, anvil::setAppImplementationCall { value: Address::repeat_byte(0x99) }).await;
        Self { node, kms }
    }

    /// An app with a new contract of this kind; it is registered, and its OS image is allowed.
    pub(crate) async fn app(&self, contract: &str, arguments: &[u8]) -> BootInfo {
        let app = self.deploy(contract, arguments).await;
        let info = boot_info(app);
        self.send(self.kms, anvil::registerAppCall { app }).await;
        self.allow_image(&info).await;
        info
    }

    /// An allowed app with the usual contract.
    pub(crate) async fn allowed_app(&self) -> BootInfo {
        let info = self.app("DstackApp", &[]).await;
        let app = Address::from_slice(&info.app_id);
        self.send(app, anvil::addComposeHashCall { hash: word(&info.compose_hash) }).await;
        self.send(app, anvil::addDeviceCall { device: word(&info.device_id) }).await;
        info
    }

    pub(crate) async fn allow_image(&self, info: &BootInfo) {
        self.send(self.kms, anvil::addOsImageHashCall { image: word(&info.os_image_hash) }).await;
    }

    pub(crate) async fn forbid_image(&self, info: &BootInfo) {
        self.send(self.kms, anvil::removeOsImageHashCall { image: word(&info.os_image_hash) }).await;
    }

    /// Makes the node lie about an OS image in the state of its newest block, which stays the same.
    pub(crate) async fn lie_about_image(&self, info: &BootInfo, is_allowed: bool) {
        let slot = keccak256([word(&info.os_image_hash), B256::with_last_byte(ALLOWED_OS_IMAGES)].concat());
        let value = B256::with_last_byte(is_allowed.into());
        let lie = json!([self.kms.to_string(), slot.to_string(), value.to_string()]);
        assert_eq!(self.rpc("anvil_setStorageAt", lie).await, true);
    }

    /// A policy that reads the newest block of this chain, with TOML added to its section.
    pub(crate) fn policy(&self, toml: &str) -> Policy {
        policy(&[self.url()], self.kms, toml)
    }

    /// The decision in the newest block.
    pub(crate) async fn decide(&self, subject: Subject<'_>) -> Result<Decision, PolicyError> {
        self.policy("").decide(subject).await
    }

    pub(crate) async fn denial(&self, subject: Subject<'_>) -> Denial {
        denied(self.decide(subject).await)
    }
}

/// Position of `allowedOsImages` among the variables of our DstackKms.
const ALLOWED_OS_IMAGES: u8 = 5;

/// A policy that reads a contract by these endpoints.
pub(crate) fn policy(urls: &[String], kms: Address, toml: &str) -> Policy {
    Policy::from_config(&configured(urls, kms, toml).core.auth_api).expect("a policy")
}

/// The newest block decides unless `toml`, added to the policy's section, says otherwise.
pub(crate) fn configured(urls: &[String], kms: Address, toml: &str) -> Config {
    let base = format!(
        "rpc_urls = {urls:?}\nchain_id = {CHAIN_ID}\nkms_contract = \"{kms}\"\nblock = \"latest\"\nrequest_timeout = \"5s\""
    );
    let section = laid_over(base.parse().expect("TOML"), toml);
    let auth_api = toml::Table::from_iter([
        ("type".to_owned(), "ethereum".into()),
        ("ethereum".to_owned(), section.into()),
    ]);
    let text = toml::to_string(&toml::toml! { core.auth_api = auth_api }).expect("TOML");
    Config::from_toml(&text).expect("a valid configuration").0
}

/// A verified identity: device `33…`, OS image `44…`, mrAggregated `55…`, compose hash `22…`.
pub(crate) fn boot_info(app: Address) -> BootInfo {
    BootInfo { app_id: app.to_vec(), ..BootInfo::example() }
}

pub(crate) fn word(bytes: &[u8]) -> B256 {
    B256::from_slice(bytes)
}

/// The gateway of a decision that must allow.
pub(crate) fn allowed(decision: Result<Decision, PolicyError>) -> String {
    match decision.expect("a decision") {
        Decision::Allowed { gateway_app_id, .. } => gateway_app_id,
        Decision::IfImage(condition) => panic!("a contract names no image: {condition:?}"),
        Decision::Denied(denial) => panic!("denied: {denial:?}"),
    }
}

/// The denial of a decision that must deny.
pub(crate) fn denied(decision: Result<Decision, PolicyError>) -> Denial {
    match decision.expect("a decision") {
        Decision::Denied(denial) => denial,
        Decision::Allowed { .. } | Decision::IfImage(_) => panic!("allowed"),
    }
}

/// The logged reason of a missing decision, which callers are not told.
pub(crate) fn unanswered(decision: Result<Decision, PolicyError>) -> String {
    let error = match decision {
        Ok(decision) => panic!("{decision:?}"),
        Err(error) => error,
    };
    assert_eq!(error.to_string(), "authorization backend unavailable");
    error.detail().to_owned()
}
