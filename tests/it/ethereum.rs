//! The policy that reads a DstackKms contract, against real EVM nodes with our own contracts.

use std::time::{Duration, Instant};

use crate::anvil::{CHAIN_ID, GENESIS_AGE};
use crate::chain::{Chain, allowed, boot_info, denied, policy, unanswered, word};
use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::{DOMAIN, World, eventually};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolValue as _;
use kms_attest::identity::BootInfo;
use kms_policy::{Info, Subject};
use kms_simulator::Cvm;
use serde_json::json;

/// A decision ends within ten seconds; the machine may be busy.
const TOTAL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_kms_is_denied_for_each_reason_in_order_and_then_allowed() {
    let chain = Chain::new().await;
    let mut info = boot_info(Address::repeat_byte(0x11));
    info.tcb_status = "OutOfDate".to_owned();
    let on_kms = format!("on the DstackKms contract {}", chain.kms);
    let hex = |byte: &str| format!("0x{}", byte.repeat(32));

    let denial = chain.denial(Subject::Kms(&info)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("tcb_status_not_allowed", "TCB status is not up to date")
    );
    info.tcb_status = "UpToDate".to_owned();

    let denial = chain.denial(Subject::Kms(&info)).await;
    assert_eq!((denial.code.name(), &*denial.reason), ("os_image_not_allowed", "OS image is not allowed"));
    assert_eq!(denial.expected, Some(format!("addOsImageHash({}) {on_kms}", hex("44"))));
    chain.send(chain.kms, crate::anvil::addOsImageHashCall { image: word(&info.os_image_hash) }).await;

    let denial = chain.denial(Subject::Kms(&info)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("kms_measurement_not_allowed", "Aggregated MR not allowed")
    );
    assert_eq!(denial.expected, Some(format!("addKmsAggregatedMr({}) {on_kms}", hex("55"))));
    chain.send(chain.kms, crate::anvil::addKmsAggregatedMrCall { mr: word(&info.mr_aggregated) }).await;

    let denial = chain.denial(Subject::Kms(&info)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("device_not_allowed", "KMS is not allowed to boot on this device")
    );
    assert_eq!(denial.expected, Some(format!("addKmsDevice({}) {on_kms}", hex("33"))));
    assert_eq!(denial.actual, Some(hex("33")));
    chain.send(chain.kms, crate::anvil::addKmsDeviceCall { device: word(&info.device_id) }).await;

    assert_eq!(allowed(chain.decide(Subject::Kms(&info)).await), "0xgateway");
    // Permission for a KMS allows no app.
    assert_eq!(chain.denial(Subject::App(&info)).await.code.name(), "app_not_registered");
}

#[tokio::test]
async fn an_app_is_denied_for_each_reason_in_order_and_then_allowed() {
    let chain = Chain::new().await;
    let app = chain.deploy("DstackApp", &[]).await;
    let mut info = boot_info(app);
    info.tcb_status = "OutOfDate".to_owned();
    let (on_kms, on_app) = (
        format!("on the DstackKms contract {}", chain.kms),
        format!("on the app's contract 0x{}", hex::encode(app)),
    );
    let hex = |byte: &str| format!("0x{}", byte.repeat(32));

    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!((denial.code.name(), &*denial.reason), ("app_not_registered", "App not registered"));
    assert_eq!(denial.expected, Some(format!("registerApp(0x{}) {on_kms}", hex::encode(app))));
    chain.send(chain.kms, crate::anvil::registerAppCall { app }).await;

    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!((denial.code.name(), &*denial.reason), ("os_image_not_allowed", "OS image is not allowed"));
    chain.allow_image(&info).await;

    chain.send(app, crate::anvil::setRequireTcbUpToDateCall { value: true }).await;
    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("tcb_status_not_allowed", "TCB status is not up to date")
    );
    assert_eq!(denial.expected, Some(format!("UpToDate, or setRequireTcbUpToDate(false) {on_app}")));
    assert_eq!(denial.actual.as_deref(), Some("OutOfDate"));
    chain.send(app, crate::anvil::setRequireTcbUpToDateCall { value: false }).await;

    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("compose_hash_not_allowed", "Compose hash not allowed")
    );
    assert_eq!(denial.expected, Some(format!("addComposeHash({}) {on_app}", hex("22"))));
    chain.send(app, crate::anvil::addComposeHashCall { hash: word(&info.compose_hash) }).await;

    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!((denial.code.name(), &*denial.reason), ("device_not_allowed", "Device not allowed"));
    assert_eq!(denial.expected, Some(format!("addDevice({}) {on_app}", hex("33"))));
    chain.send(app, crate::anvil::setAllowAnyDeviceCall { value: true }).await;

    assert_eq!(allowed(chain.decide(Subject::App(&info)).await), "0xgateway");

    let nowhere = boot_info(Address::repeat_byte(0x12));
    chain.send(chain.kms, crate::anvil::registerAppCall { app: Address::repeat_byte(0x12) }).await;
    let denial = chain.denial(Subject::App(&nowhere)).await;
    assert_eq!(
        (denial.code.name(), &*denial.reason),
        ("app_not_deployed", "App not deployed or invalid address")
    );
}

#[tokio::test]
async fn an_app_may_have_rules_of_its_own() {
    let chain = Chain::new().await;
    let mut info = chain.app("OwnRulesApp", &[]).await;
    info.advisory_ids = vec!["INTEL-SA-1".to_owned(), "INTEL-SA-2".to_owned()];
    assert_eq!(allowed(chain.decide(Subject::App(&info)).await), "0xgateway");

    info.advisory_ids.pop();
    let denial = chain.denial(Subject::App(&info)).await;
    assert_eq!((denial.code.name(), &*denial.reason), ("denied_by_backend", "advisories differ"));
    assert_eq!(denial.expected, None);

    info.instance_id = Vec::new();
    assert_eq!(chain.denial(Subject::App(&info)).await.reason, "instances only, please — désolé");
}

#[tokio::test]
async fn what_the_contract_has_no_words_for_is_denied_without_asking() {
    let node = FaultServer::answering(|_| Reply::json(&json!({}))).await;
    let policy = policy(&[node.url()], Address::repeat_byte(1), "");
    for (alter, expected) in [
        ((|info| info.app_id = vec![1; 19]) as fn(&mut BootInfo), "app_id of length 20"),
        (|info| info.app_id = Vec::new(), "app_id of length 20"),
        (|info| info.compose_hash = vec![1; 31], "compose_hash of length 32"),
        (|info| info.compose_hash = Vec::new(), "compose_hash of length 32"),
        (|info| info.instance_id = vec![1; 21], "instance_id of length 20"),
        (|info| info.device_id = vec![1; 64], "device_id of length 32"),
        (|info| info.mr_aggregated = vec![1; 33], "mr_aggregated of length 32"),
        (|info| info.mr_system = vec![1; 31], "mr_system of length 32"),
        (|info| info.os_image_hash = vec![1; 31], "os_image_hash of length 32"),
        (|info| info.tcb_status = "x".repeat(129), "tcb_status of length at most 128"),
        (|info| info.advisory_ids = vec![String::new(); 129], "advisory_ids of length at most 128"),
        (|info| info.advisory_ids = vec!["x".repeat(257)], "an advisory id of length at most 256"),
    ] {
        let mut info = boot_info(Address::repeat_byte(0x11));
        alter(&mut info);
        for subject in [Subject::App(&info), Subject::Kms(&info)] {
            let denial = denied(policy.decide(subject).await);
            assert_eq!(
                (denial.code.name(), &*denial.reason),
                ("invalid_request", "invalid authorization request")
            );
            assert_eq!(denial.expected.as_deref(), Some(expected));
        }
    }
    assert!(node.asked().is_empty());
}

#[tokio::test]
async fn a_caller_without_instance_or_image_is_asked_about_as_zero() {
    let chain = Chain::new().await;
    let mut info = chain.allowed_app().await;
    info.instance_id = Vec::new();
    assert_eq!(allowed(chain.decide(Subject::App(&info)).await), "0xgateway");
    info.os_image_hash = Vec::new();
    assert_eq!(chain.denial(Subject::App(&info)).await.code.name(), "os_image_not_allowed");
    chain.send(chain.kms, crate::anvil::addOsImageHashCall { image: B256::ZERO }).await;
    assert_eq!(
        allowed(chain.decide(Subject::App(&info)).await),
        "0xgateway",
        "zero is what it was asked about"
    );
}

#[tokio::test]
async fn an_app_whose_contract_fails_gets_no_answer_and_harms_nobody_else() {
    let chain = Chain::new().await;
    let good = chain.allowed_app().await;
    let policy = chain.policy("");
    for (contract, arguments, expected) in [
        ("RevertingApp", vec![], "the contract call failed: execution reverted: closed for repairs"),
        ("BurningApp", vec![], "the contract call failed"),
        ("UnreadableApp", vec![], "the contract returned not a result of a DstackKms contract"),
        ("WordyApp", 4097_u64.abi_encode(), "the contract returned a text of more than 4096 bytes"),
        ("WordyApp", 40_000_u64.abi_encode(), "an answer of more than 65536 bytes"),
        ("Parrot", vec![], "the contract call failed"),
        // A KMS contract is not an app contract.
        ("DstackKms", vec![], "App not registered"),
    ] {
        let bad = chain.app(contract, &arguments).await;
        eventually("a view with that app", async || policy.info().await.ok()).await;
        policy.look_again();
        let began = Instant::now();
        match policy.decide(Subject::App(&bad)).await {
            Ok(_) if contract == "DstackKms" => {}
            decision => assert!(unanswered(decision).contains(expected), "{contract}"),
        }
        assert!(began.elapsed() < TOTAL);
        // The contract's failure is not the node's.
        assert_eq!(policy.last_error(), None);
        assert_eq!(allowed(policy.decide(Subject::App(&good)).await), "0xgateway");
    }
    let short = chain.app("WordyApp", &4096_u64.abi_encode()).await;
    assert_eq!(allowed(chain.decide(Subject::App(&short)).await), "0xgateway");
}

#[tokio::test]
async fn only_the_canonical_encoding_of_an_answer_is_one() {
    let chain = Chain::new().await;
    let kms = chain.deploy("ParrotKms", &[]).await;
    let info = boot_info(Address::repeat_byte(0x11));
    let yes = (true, "because").abi_encode_params();
    let no = (false, "because").abi_encode_params();
    let altered = |alter: fn(&mut Vec<u8>)| {
        let mut answer = yes.clone();
        alter(&mut answer);
        answer
    };
    for (what, answer) in [
        ("nothing", Vec::new()),
        ("a byte", vec![1]),
        ("one word", yes[..32].to_vec()),
        ("a boolean that is 2", altered(|answer| answer[31] = 2)),
        ("a boolean with a high bit", altered(|answer| answer[0] = 0x80)),
        ("another offset", altered(|answer| answer[63] = 0x60)),
        ("an offset beyond the end", altered(|answer| answer[62] = 0xff)),
        ("an offset beyond everything", altered(|answer| answer[32..64].fill(0xff))),
        ("a length beyond the end", altered(|answer| answer[95] = 0xff)),
        ("a length beyond everything", altered(|answer| answer[64..96].fill(0xff))),
        ("padding that is not zero", altered(|answer| *answer.last_mut().expect("bytes") = 1)),
        ("a word more", altered(|answer| answer.extend([0; 32]))),
        ("a byte less", altered(|answer| answer.truncate(answer.len() - 1))),
        ("no UTF-8", altered(|answer| answer[96] = 0xff)),
        ("only a boolean", true.abi_encode()),
        ("only a text", "because".abi_encode()),
        ("an address", Address::repeat_byte(1).abi_encode()),
    ] {
        chain.send(kms, crate::anvil::teachCall { value: answer.into() }).await;
        let policy = policy(&[chain.url()], kms, "");
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(detail.contains("the contract returned"), "{what}: {detail}");
    }
    chain.send(kms, crate::anvil::teachCall { value: yes.into() }).await;
    assert_eq!(allowed(policy(&[chain.url()], kms, "").decide(Subject::App(&info)).await), "gateway");
    chain.send(kms, crate::anvil::teachCall { value: no.into() }).await;
    assert_eq!(denied(policy(&[chain.url()], kms, "").decide(Subject::Kms(&info)).await).reason, "because");
}

#[tokio::test]
async fn an_address_without_the_contract_decides_nothing() {
    let chain = Chain::new().await;
    let app = chain.deploy("DstackApp", &[]).await;
    let info = boot_info(app);
    for (address, expected) in [
        (Address::repeat_byte(0x13), "the contract returned nothing: there is no such contract"),
        (app, "the contract call failed"),
    ] {
        let policy = policy(&[chain.url()], address, "");
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(policy.last_error(), Some(detail));
        assert_eq!(policy.last_info(), None);
    }
}

#[tokio::test]
async fn the_policy_tells_about_itself() {
    let chain = Chain::new().await;
    let policy = policy(&[format!("{}/?key=hush-hush", chain.url())], chain.kms, "");
    assert_eq!((policy.kind(), policy.is_dev(), policy.last_info()), ("ethereum", false, None));
    let state = policy.chain_state().expect("a chain");
    assert_eq!((state.block, state.block_age), (None, None));

    let info = policy.info().await.expect("info");
    let expected = Info {
        gateway_app_id: Some("0xgateway".to_owned()),
        kms_contract_address: Some(chain.kms.to_string()),
        chain_id: Some(CHAIN_ID),
        app_auth_implementation: Some(Address::repeat_byte(0x99).to_string()),
        eth_rpc_url: Some(chain.url()),
    };
    assert_eq!(info, expected);
    assert_eq!(policy.last_info(), Some(expected));
    let state = policy.chain_state().expect("a chain");
    assert_eq!(state.block, Some(chain.height().await));
    assert!(state.block_age.expect("a block") >= GENESIS_AGE / 2);
    assert_eq!((state.endpoints, state.disagreements), (1, 0));
}

#[tokio::test]
async fn an_operator_allows_a_kms_and_an_app_on_the_chain_and_nobody_else_has_keys() {
    let chain = Chain::new().await;
    let node = FaultServer::before(chain.address()).await;
    let section = format!(
        "rpc_urls = [\"{}\"]\nchain_id = {CHAIN_ID}\nkms_contract = \"{}\"\nblock = \"latest\"",
        node.url(),
        chain.kms
    );
    let world = World::onboarding_with(&format!(
        "[core.auth_api]\ntype = \"ethereum\"\n[core.auth_api.ethereum]\n{section}"
    ))
    .await;

    // The operator's view and actions.
    let own = world.caller().plain().json("GetAttestationInfo", json!({})).await.value();
    assert_eq!(own["kms_contract_address"], chain.kms.to_string());
    assert_eq!(own["eth_rpc_url"], format!("http://{}", node.address()));
    let refused = world.caller().plain().json("Bootstrap", json!({ "domain": DOMAIN })).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("OS image is not allowed"), "{}", refused.text());
    let measured =
        |name: &str| B256::from_slice(&hex::decode(own[name].as_str().expect("hex")).expect("hex"));
    chain.send(chain.kms, crate::anvil::addOsImageHashCall { image: measured("os_image_hash") }).await;
    chain.send(chain.kms, crate::anvil::addKmsAggregatedMrCall { mr: measured("mr_aggregated") }).await;
    chain.send(chain.kms, crate::anvil::addKmsDeviceCall { device: measured("device_id") }).await;
    eventually("bootstrapping", async || {
        let answer = world.caller().plain().json("Bootstrap", json!({ "domain": DOMAIN })).await;
        (answer.status == 200).then_some(())
    })
    .await;
    world.finish().await;

    let contract = chain.deploy("DstackApp", &[]).await;
    let app = Cvm::builder(&world.platform).app_id(contract.into()).compose_hash([7; 32]).build();
    let identity = world.attested(&app).await;
    let ask = async || world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    // A change takes effect once its block is the newest known one, at most a second later.
    let refused = async |status: u16| {
        Some(ask().await).filter(|answer| answer.status == status).map(|answer| answer.refusal().1)
    };
    let until_denied = async |reason: &str| {
        let expected = format!("App not allowed: Boot denied: {reason}");
        eventually(reason, async || refused(403).await.filter(|message| *message == expected)).await
    };

    until_denied("App not registered").await;
    chain.send(chain.kms, crate::anvil::registerAppCall { app: contract }).await;
    chain.send(chain.kms, crate::anvil::addOsImageHashCall { image: word(app.os_image_hash()) }).await;
    until_denied("Compose hash not allowed").await;
    chain.send(contract, crate::anvil::addComposeHashCall { hash: B256::repeat_byte(7) }).await;
    until_denied("Device not allowed").await;
    assert!(world.audited("app_key_released").is_empty());
    chain.send(contract, crate::anvil::setAllowAnyDeviceCall { value: true }).await;
    let keys = eventually("keys", async || Some(ask().await).filter(|answer| answer.status == 200)).await;
    assert_eq!(keys.value()["gateway_app_id"], "0xgateway");
    assert_eq!(world.audited("app_key_released").len(), 1);

    let meta = world.caller().json("GetMeta", json!({})).await.value();
    assert_eq!(meta["kms_contract_address"], chain.kms.to_string());
    assert_eq!((&meta["chain_id"], &meta["gateway_app_id"]), (&json!(CHAIN_ID), &json!("0xgateway")));
    assert!(meta["relaxed_settings"].as_array().expect("a list").contains(&json!("chain_not_final")));
    let height = format!("cvm_kms_chain_block {}\n", chain.height().await);
    eventually("the block in the metrics", async || {
        world.caller().get("/metrics").await.text().contains(&height).then_some(())
    })
    .await;

    // This KMS itself is revoked, each time after a pause without calls.
    let image = measured("os_image_hash");
    let temp_ca = async |status: u16| {
        let answer = world.caller().json("GetTempCaCert", json!({})).await;
        (answer.status == status).then_some(())
    };
    let mut waits = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        chain.send(chain.kms, crate::anvil::removeOsImageHashCall { image }).await;
        let revoked = Instant::now();
        // When the last request began that still got an answer.
        let last = std::cell::Cell::new(Duration::ZERO);
        eventually("the own revocation", async || {
            let asked = revoked.elapsed();
            let refused = temp_ca(403).await;
            last.set(if refused.is_none() { asked } else { last.get() });
            refused
        })
        .await;
        waits.push(last.get());
        chain.send(chain.kms, crate::anvil::addOsImageHashCall { image }).await;
        eventually("the own permission", async || temp_ca(200).await).await;
    }
    waits.sort_unstable();
    assert!(waits[1] < Duration::from_secs(1), "{waits:?}");

    // A permission is revoked, and then the node is gone.
    chain.send(contract, crate::anvil::removeComposeHashCall { hash: B256::repeat_byte(7) }).await;
    until_denied("Compose hash not allowed").await;
    node.suffer(Fault::Down).await;
    let message = eventually("no answer without the node", async || refused(503).await).await;
    assert!(message.ends_with("the authorization backend does not answer"), "{message}");
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
    node.recover().await;
    until_denied("Compose hash not allowed").await;
}
