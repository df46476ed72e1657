//! The policy that reads a chain whose nodes lag, lie, fail or hang: no keys are released by it, and it
//! recovers.

use std::time::{Duration, Instant};

use crate::anvil::{Anvil, CHAIN_ID, GENESIS_AGE};
use crate::chain::{Chain, allowed, boot_info, denied, policy, unanswered, word};
use crate::support::eventually;
use crate::support::faults::{Asked, ELSEWHERE, Fault, FaultServer, Reply, SECRET, SECRET_PATH};
use alloy_primitives::Address;
use kms_attest::clock::unix_now;
use kms_attest::identity::BootInfo;
use kms_policy::{Policy, Subject};
use serde_json::{Value, json};

/// A decision ends within ten seconds; the machine may be busy.
const TOTAL: Duration = Duration::from_secs(30);

fn method(asked: &Asked) -> String {
    asked.json()["method"].as_str().unwrap_or_default().to_owned()
}

fn calls(node: &FaultServer, name: &str) -> usize {
    node.asked().iter().filter(|asked| method(asked) == name).count()
}

/// How often the node was called for its newest block.
fn looks(node: &FaultServer) -> usize {
    calls(node, "eth_getBlockByNumber")
}

/// The same chain on several nodes, with an allowed app.
async fn copies<const N: usize>() -> ([Chain; N], BootInfo) {
    let genesis = unix_now() - GENESIS_AGE.as_secs();
    let (mut chains, mut info) = (Vec::new(), None);
    for _ in 0..N {
        let chain = Chain::on(Anvil::begun(genesis, CHAIN_ID).await).await;
        info = Some(chain.allowed_app().await);
        chains.push(chain);
    }
    let heads: Vec<Value> = futures_util::future::join_all(chains.iter().map(head)).await;
    assert!(heads.iter().all(|head| *head == heads[0]), "the same blocks everywhere");
    (chains.try_into().unwrap_or_else(|_| panic!("{N} chains")), info.expect("some"))
}

async fn head(chain: &Chain) -> Value {
    chain.rpc("eth_getBlockByNumber", json!(["latest", false])).await["hash"].take()
}

fn urls(chains: &[Chain]) -> Vec<String> {
    chains.iter().map(|chain| chain.url()).collect()
}

#[tokio::test]
async fn a_decision_in_a_block_that_the_chain_drops_is_made_anew() {
    let chain = Chain::new().await;
    let info = chain.app("DstackApp", &[]).await;
    let app = Address::from_slice(&info.app_id);
    chain.send(app, crate::anvil::setAllowAnyDeviceCall { value: true }).await;
    let before = chain.rpc("evm_snapshot", json!([])).await;
    chain.send(app, crate::anvil::addComposeHashCall { hash: word(&info.compose_hash) }).await;
    let policy = chain.policy("");
    allowed(policy.decide(Subject::App(&info)).await);
    assert_eq!(chain.rpc("evm_revert", json!([before])).await, true);
    // At once, while the dropped block still counts as the newest.
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "compose_hash_not_allowed");

    chain.send(app, crate::anvil::addComposeHashCall { hash: word(&info.compose_hash) }).await;
    policy.look_again();
    allowed(policy.decide(Subject::App(&info)).await);
    chain.rpc("anvil_reorg", json!([1, []])).await;
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "compose_hash_not_allowed");
}

#[tokio::test]
async fn what_is_not_final_does_not_count() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let decide = async |toml: &str| chain.policy(toml).decide(Subject::App(&info)).await;
    let (finalized, confirmed) = ("block = 'finalized'", "confirmations = 3");
    // The newest of them allowed the device; three blocks below it, not even the compose hash is allowed.
    assert_eq!(denied(decide(finalized).await).code.name(), "compose_hash_not_allowed");
    assert_eq!(denied(decide(confirmed).await).code.name(), "os_image_not_allowed");
    chain.mine(2).await;
    allowed(decide(finalized).await);
    assert_eq!(denied(decide(confirmed).await).code.name(), "device_not_allowed");
    chain.mine(1).await;
    allowed(decide(confirmed).await);
    let detail = unanswered(decide("confirmations = 9999").await);
    assert!(detail.contains("does not have block with 9999 confirmations"), "{detail}");
}

#[tokio::test]
async fn what_was_final_or_safe_stays_so_on_nodes_that_lag() {
    // The distances from anvil's newest block.
    for (block, depth) in [("block = 'finalized'", 2), ("block = 'safe'", 1)] {
        let ([ahead, behind], info) = copies::<2>().await;
        ahead.mine(2).await;
        behind.mine(2).await;
        ahead.forbid_image(&info).await;
        ahead.mine(depth).await;
        let first = FaultServer::before(ahead.address()).await;
        let policy = policy(&[first.url(), behind.url()], ahead.kms, block);
        let deny = async || denied(policy.decide(Subject::App(&info)).await).code.name();
        assert_eq!(deny().await, "os_image_not_allowed");

        // The other one would still allow it.
        let other = crate::chain::policy(&[behind.url()], ahead.kms, block);
        allowed(other.decide(Subject::App(&info)).await);
        first.suffer(Fault::Down).await;
        policy.look_again();
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(detail.contains("endpoint 2: does not have block"), "{block}: {detail}");

        // It has the block, but not yet as a final or safe one.
        behind.forbid_image(&info).await;
        assert_eq!(deny().await, "os_image_not_allowed");
        behind.mine(5).await;
        policy.look_again();
        assert_eq!(deny().await, "os_image_not_allowed");
    }
}

#[tokio::test]
async fn the_newest_block_goes_back_by_a_few_at_most() {
    let ([ahead, behind], info) = copies::<2>().await;
    let height = behind.height().await;
    ahead.forbid_image(&info).await;
    ahead.mine(63).await;
    let first = FaultServer::before(ahead.address()).await;
    let policy = policy(&[first.url(), behind.url()], ahead.kms, "");
    let decide = async || policy.decide(Subject::App(&info)).await;
    assert_eq!(denied(decide().await).code.name(), "os_image_not_allowed");
    first.suffer(Fault::Down).await;
    policy.look_again();
    allowed(decide().await);

    first.recover().await;
    ahead.mine(1).await;
    policy.look_again();
    assert_eq!(denied(decide().await).code.name(), "os_image_not_allowed");
    first.suffer(Fault::Down).await;
    policy.look_again();
    let detail = unanswered(decide().await);
    let expected = format!("endpoint 2: its block {height} is more than 64 below block {}", height + 65);
    assert!(detail.contains(&expected), "{detail}");
    behind.mine(1).await;
    policy.look_again();
    allowed(decide().await);
    // The known newest block stays the limit, step by step.
    ahead.mine(1).await;
    first.recover().await;
    policy.look_again();
    assert_eq!(denied(decide().await).code.name(), "os_image_not_allowed");
    first.suffer(Fault::Down).await;
    policy.look_again();
    unanswered(decide().await);
}

#[tokio::test]
async fn nodes_that_agree_on_going_far_back_are_not_believed() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let (one, two) = (FaultServer::before(chain.address()).await, FaultServer::before(chain.address()).await);
    let before = chain.rpc("evm_snapshot", json!([])).await;
    chain.mine(65).await;
    let policy = policy(&[one.url(), two.url()], chain.kms, "agreement = 2");
    allowed(policy.decide(Subject::App(&info)).await);
    assert_eq!(chain.rpc("evm_revert", json!([before])).await, true);
    policy.look_again();
    let detail = unanswered(policy.decide(Subject::App(&info)).await);
    assert!(detail.contains("is more than 64 below block"), "{detail}");
    chain.mine(1).await;
    policy.look_again();
    allowed(policy.decide(Subject::App(&info)).await);
}

#[tokio::test]
async fn one_absurd_block_number_does_not_end_the_use_of_honest_nodes() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let honest = FaultServer::before(chain.address()).await;
    let mut block = chain.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
    block["number"] = json!("0xfffffffffffffff0");
    let liar = saying_of(&chain, block, json!({ "result": "0x" })).await;
    let policy = policy(&[honest.url(), liar.url()], chain.kms, "");
    let decide = async || policy.decide(Subject::App(&info)).await;
    allowed(decide().await);
    honest.suffer(Fault::Down).await;
    policy.look_again();
    let detail = unanswered(decide().await);
    assert!(detail.contains("endpoint 2: its block 18446744073709551600 is further above block"), "{detail}");
    honest.recover().await;
    policy.look_again();
    allowed(decide().await);
}

/// The newest block of a chain, or its final one, with another number.
async fn block_with(chain: &Chain, name: &str, number: impl FnOnce(u64) -> u64) -> Value {
    let mut block = chain.rpc("eth_getBlockByNumber", json!([name, false])).await;
    let own =
        block["number"].as_str().and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    block["number"] = json!(format!("0x{:x}", number(own.expect("a number"))));
    block["hash"] = json!(format!("0x{}", "5a".repeat(32)));
    block
}

#[tokio::test]
async fn a_node_that_is_ahead_by_its_own_word_keeps_no_honest_node_out() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    for lead in [1, 100, 999] {
        let block = block_with(&chain, "latest", |number| number + lead).await;
        // It responds that it cannot tell, for every identity.
        let liar = saying_of(&chain, block, json!({ "result": "0x" })).await;
        let honest = FaultServer::before(chain.address()).await;
        // First: no other node has its block, and it cannot read its state.
        let first = policy(&[liar.url(), honest.url()], chain.kms, "");
        allowed(first.decide(Subject::App(&info)).await);
        assert!(calls(&liar, "eth_call") > 0, "{lead}: it was asked");
        liar.suffer(Fault::Down).await;
        first.look_again();
        allowed(first.decide(Subject::App(&info)).await);
        liar.recover().await;

        // Second: it is used while the first is down, and no longer.
        let second = policy(&[honest.url(), liar.url()], chain.kms, "");
        allowed(second.decide(Subject::App(&info)).await);
        honest.suffer(Fault::Down).await;
        second.look_again();
        unanswered(second.decide(Subject::App(&info)).await);
        let number = second.chain_state().expect("a chain").block;
        assert_eq!(number, Some(chain.height().await + lead), "its block was taken");
        honest.recover().await;
        second.look_again();
        allowed(second.decide(Subject::App(&info)).await);
        assert_eq!(second.chain_state().expect("a chain").block, Some(chain.height().await));
    }
}

#[tokio::test]
async fn an_absurd_final_block_counts_until_a_later_one_is_final() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    chain.mine(2).await;
    let block = block_with(&chain, "finalized", |_| 1 << 63).await;
    let liar = saying_of(&chain, block, json!({ "result": "0x" })).await;
    let policy = policy(&[liar.url(), chain.url()], chain.kms, "block = 'finalized'");
    policy.info().await.expect("its word");
    liar.suffer(Fault::Down).await;
    policy.look_again();
    // As old as what it said, so nothing shows which of the two is wrong.
    let detail = unanswered(policy.decide(Subject::App(&info)).await);
    assert!(detail.contains("endpoint 2: does not have block 0x8000000000000000"), "{detail}");
    chain.mine(1).await;
    policy.look_again();
    allowed(policy.decide(Subject::App(&info)).await);
    assert!(policy.chain_state().expect("a chain").disagreements > 0);
}

/// A node with the newest block of a chain that returns `answer` for every call of its contract.
async fn saying(chain: &Chain, answer: Value) -> FaultServer {
    let block = chain.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
    saying_of(chain, block, answer).await
}

/// The same for a node that shows this block as the newest.
async fn saying_of(chain: &Chain, block: Value, answer: Value) -> FaultServer {
    let chain_id = format!("0x{CHAIN_ID:x}");
    let mut about_itself = Vec::new();
    for function in ["gatewayAppId()", "appImplementation()"] {
        let selector = alloy_primitives::keccak256(function);
        let data = format!("0x{}", hex::encode(&selector[..4]));
        let call = json!([{ "to": chain.kms.to_string(), "data": data }, "latest"]);
        about_itself.push((data, chain.rpc("eth_call", call).await));
    }
    FaultServer::answering(move |asked| {
        let request = asked.json();
        let known = about_itself.iter().find(|(data, _)| request["params"][0]["data"] == data.as_str());
        let mut reply = match (method(asked).as_str(), known) {
            ("eth_chainId", _) => json!({ "result": chain_id }),
            ("eth_getBlockByNumber", _) => json!({ "result": block }),
            (_, Some((_, value))) => json!({ "result": value }),
            _ => answer.clone(),
        };
        (reply["jsonrpc"], reply["id"]) = (json!("2.0"), request["id"].clone());
        Reply::json(&reply)
    })
    .await
}

#[tokio::test]
async fn only_a_revert_is_the_contracts_word_the_rest_may_be_the_nodes() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let error = |code: i64, message: &str| json!({ "error": { "code": code, "message": message } });
    for (answer, is_final) in [
        (json!({ "result": "0x" }), false),
        (error(-32000, "out of gas"), false),
        (error(-32003, "EVM error: OutOfGas"), false),
        (error(-32000, "missing trie node, the state was reverted"), false),
        (error(3, "execution reverted"), true),
        (error(-32000, "execution reverted: closed for repairs"), true),
    ] {
        let first = saying(&chain, answer.clone()).await;
        let second = FaultServer::before(chain.address()).await;
        let decision = policy(&[first.url(), second.url()], chain.kms, "").decide(Subject::App(&info)).await;
        assert!(calls(&first, "eth_call") > 0);
        if is_final {
            assert!(
                unanswered(decision).contains("the contract call failed: execution reverted"),
                "{answer}"
            );
            assert_eq!(calls(&second, "eth_call"), 0, "{answer}");
        } else {
            assert_eq!(allowed(decision), "0xgateway", "{answer}");
            assert_eq!(calls(&second, "eth_call"), 1, "{answer}");
        }
        unanswered(policy(&[first.url()], chain.kms, "").decide(Subject::App(&info)).await);
    }
}

#[tokio::test]
async fn two_final_blocks_of_one_number_are_a_contradiction() {
    let ([one, other], info) = copies::<2>().await;
    one.forbid_image(&info).await;
    other.mine(1).await;
    for chain in [&one, &other] {
        chain.mine(2).await;
    }
    let first = FaultServer::before(one.address()).await;
    let policy = policy(&[first.url(), other.url()], one.kms, "block = 'finalized'");
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "os_image_not_allowed");
    first.suffer(Fault::Down).await;
    policy.look_again();
    let detail = unanswered(policy.decide(Subject::App(&info)).await);
    assert!(detail.contains("endpoint 2: contradicts block"), "{detail}");
    assert_eq!(policy.chain_state().expect("a chain").disagreements, 1);
}

#[tokio::test]
async fn a_node_that_says_too_little_about_the_present_is_not_used() {
    let old = Chain::on(Anvil::begun(unix_now() - 7200, CHAIN_ID).await).await;
    let info = old.allowed_app().await;
    let early = Chain::on(Anvil::begun(unix_now() + 600, CHAIN_ID).await).await;
    early.allowed_app().await;
    let current = Chain::new().await;
    current.allowed_app().await;
    assert_eq!(old.kms, current.kms, "the same contract, as far as nodes tell");

    for (chain, toml, expected) in [
        (&old, "", "s old, more than max_block_age"),
        (&old, "block = 'finalized'", "s old, more than max_block_age"),
        (&early, "", "ahead of this machine's clock"),
    ] {
        let policy = chain.policy(toml);
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(policy.last_error(), Some(detail));
    }
    allowed(old.policy("max_block_age = '3h'").decide(Subject::App(&info)).await);
    current.forbid_image(&info).await;
    let chains = [old, early, current];
    let policy = policy(&urls(&chains), chains[0].kms, "");
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "os_image_not_allowed");
}

#[tokio::test]
async fn a_node_of_another_chain_is_never_asked_who_is_allowed() {
    let other = Chain::on(Anvil::begun(unix_now() - GENESIS_AGE.as_secs(), 5).await).await;
    let info = other.allowed_app().await;
    let chain = Chain::new().await;
    chain.app("DstackApp", &[]).await;
    assert_eq!(other.kms, chain.kms);
    let wrong = FaultServer::before(other.address()).await;

    let alone = policy(&[wrong.url()], chain.kms, "");
    let detail = unanswered(alone.decide(Subject::App(&info)).await);
    assert!(
        detail.contains("endpoint 1: serves chain 5 instead of chain 31337, so it is not used"),
        "{detail}"
    );
    assert_eq!(alone.last_error(), Some(detail));
    assert_eq!(alone.chain_state().expect("a chain").endpoints, 0);

    let policy = policy(&[wrong.url(), chain.url()], chain.kms, "");
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "compose_hash_not_allowed");
    assert_eq!(policy.last_error(), None);
    assert_eq!(calls(&wrong, "eth_call"), 0);

    // Nor if the right one fails between the block and the call.
    let right = FaultServer::before(chain.address()).await;
    let policy = crate::chain::policy(&[right.url(), wrong.url()], chain.kms, "");
    policy.info().await.expect("the first one serves");
    right.suffer_when(Fault::Closing, |asked| method(asked) == "eth_call").await;
    unanswered(policy.decide(Subject::App(&info)).await);
    assert_eq!(calls(&wrong, "eth_call"), 0);
}

#[tokio::test]
async fn the_next_endpoint_serves_while_the_first_is_down_and_the_first_serves_again() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let (first, second) =
        (FaultServer::before(chain.address()).await, FaultServer::before(chain.address()).await);
    let policy = policy(&[first.url(), second.url()], chain.kms, "");
    let decide = async || allowed(policy.decide(Subject::App(&info)).await);
    decide().await;
    assert!(second.asked().is_empty());

    // It fails in the middle: the block is known, the call has no result.
    first.suffer_when(Fault::Page(502, Vec::new()), |asked| method(asked) == "eth_call").await;
    decide().await;
    assert_eq!(calls(&second, "eth_call"), 1);

    first.suffer(Fault::Down).await;
    policy.look_again();
    decide().await;
    assert!(looks(&second) > 0);
    assert_eq!(policy.chain_state().expect("a chain").endpoints, 1);

    first.recover().await;
    policy.look_again();
    let before = second.asked().len();
    decide().await;
    assert_eq!(second.asked().len(), before);
    assert_eq!(policy.chain_state().expect("a chain").endpoints, 2);
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_left_alone_for_a_while() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let (first, second) =
        (FaultServer::before(chain.address()).await, FaultServer::before(chain.address()).await);
    first.suffer(Fault::Hanging).await;
    let policy = policy(&[first.url(), second.url()], chain.kms, "request_timeout = '2s'");
    let decide = async || policy.decide(Subject::App(&info)).await;
    allowed(decide().await);
    let asked = first.asked().len();
    policy.look_again();
    let began = Instant::now();
    allowed(decide().await);
    if began.elapsed() < Duration::from_secs(2) {
        assert_eq!(first.asked().len(), asked, "it was asked again although it hangs");
    }

    // If no other node is left, the failure is immediate.
    second.suffer(Fault::Hanging).await;
    policy.look_again();
    let began = Instant::now();
    unanswered(decide().await);
    assert!(began.elapsed() < TOTAL);
    let detail = eventually("both resting", async || {
        let detail = unanswered(decide().await);
        (!detail.contains("no answer in time")).then_some(detail)
    })
    .await;
    assert!(
        detail.contains("endpoint 1: hung a moment ago") || detail.contains("endpoint 2: hung"),
        "{detail}"
    );

    for node in [&first, &second] {
        node.recover().await;
    }
    eventually("a decision", async || decide().await.ok()).await;
    eventually("the first one", async || {
        let before = second.asked().len();
        policy.look_again();
        allowed(decide().await);
        (second.asked().len() == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_fault_of_a_node_is_no_answer_and_passes() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let node = FaultServer::before(chain.address()).await;
    for fault in Fault::table(Duration::from_secs(1)).into_iter().chain([Fault::TooLong]) {
        let policy = policy(&[node.url()], chain.kms, "request_timeout = '1s'");
        node.suffer(fault.clone()).await;
        let began = Instant::now();
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(began.elapsed() < TOTAL, "{fault}: {:?}", began.elapsed());
        assert_private(&detail);
        assert_eq!(policy.last_error(), Some(detail), "{fault}");
        assert!(node.asked().iter().all(|asked| asked.path != ELSEWHERE), "a redirect was followed");
        node.recover().await;
        eventually(&fault.to_string(), async || policy.decide(Subject::App(&info)).await.ok()).await;
        assert_eq!(policy.last_error(), None, "{fault}");
    }
}

#[tokio::test]
async fn each_fault_of_the_call_alone_is_no_answer_and_no_judgement_of_the_node() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let node = FaultServer::before(chain.address()).await;
    let policy = policy(&[node.url()], chain.kms, "request_timeout = '1s'");
    eventually("info", async || policy.info().await.ok()).await;
    for fault in [
        Fault::Hanging,
        Fault::HangingInBody,
        Fault::Dripping(Duration::from_millis(300)),
        Fault::Reset,
        Fault::Closing,
        Fault::Page(429, SECRET.into()),
        Fault::Page(
            200,
            json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32005, "message": "slow down"}})
                .to_string()
                .into(),
        ),
        Fault::Page(200, b"<html>".to_vec()),
        Fault::Endless,
        Fault::TooShort,
        Fault::TooLong,
        // The response to another request.
        Fault::Replay,
    ] {
        node.suffer_when(fault.clone(), |asked| method(asked) == "eth_call").await;
        let began = Instant::now();
        let detail = unanswered(policy.decide(Subject::App(&info)).await);
        assert!(began.elapsed() < TOTAL, "{fault}: {:?}", began.elapsed());
        assert_private(&detail);
        node.recover().await;
        // At once: an app's contract that breaks its own call must not affect other calls.
        eventually(&fault.to_string(), async || policy.decide(Subject::App(&info)).await.ok()).await;
    }
}

#[tokio::test]
async fn what_an_url_keeps_secret_is_nowhere_to_be_read() {
    let echo = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": format!("no such key: {SECRET_PATH}")}});
    let node = FaultServer::answering(move |_| Reply::json(&echo)).await;
    let policy = policy(&[node.url()], Address::repeat_byte(1), "");
    let detail = unanswered(policy.decide(Subject::App(&boot_info(Address::ZERO))).await);
    assert!(detail.contains("JSON-RPC error -32001: no such key: …"), "{detail}");
    assert_private(&detail);
    assert_private(&format!("{policy:?}"));
    assert!(policy.info().await.is_err());
}

fn assert_private(text: &str) {
    for secret in [SECRET, SECRET_PATH, "http://", "127.0.0.1"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_node_that_knows_no_hashes_is_asked_by_number_and_checked() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let node = FaultServer::before(chain.address()).await;
    let error =
        json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32602, "message": "invalid argument 1"}});
    let by_hash = |asked: &Asked| asked.json()["params"][1]["blockHash"].is_string();
    node.suffer_when(Fault::Page(200, error.to_string().into()), by_hash).await;
    let policy = policy(&[node.url()], chain.kms, "");
    allowed(policy.decide(Subject::App(&info)).await);
    let before = node.asked();
    assert!(before.iter().any(by_hash));
    allowed(policy.decide(Subject::App(&info)).await);
    let asked: Vec<String> = node.asked()[before.len()..].iter().map(method).collect();
    assert!(asked.ends_with(&["eth_call".to_owned(), "eth_getBlockByNumber".to_owned()]), "{asked:?}");
    assert!(!node.asked()[before.len()..].iter().any(by_hash), "it was asked by hash again");

    // Another block with the same number replaces the known one: the two are never mixed.
    let before = chain.rpc("evm_snapshot", json!([])).await;
    chain.send(chain.kms, crate::anvil::setGatewayAppIdCall { value: "0xother".to_owned() }).await;
    policy.look_again();
    assert_eq!(allowed(policy.decide(Subject::App(&info)).await), "0xother");
    assert_eq!(chain.rpc("evm_revert", json!([before])).await, true);
    chain.mine(1).await;
    assert_eq!(allowed(policy.decide(Subject::App(&info)).await), "0xgateway");
}

#[tokio::test]
async fn many_callers_share_a_look() {
    let chain = Chain::new().await;
    let info = chain.allowed_app().await;
    let node = FaultServer::before(chain.address()).await;
    let policy = policy(&[node.url()], chain.kms, "");
    let began = Instant::now();
    let all = (0..200).map(|_| policy.decide(Subject::App(&info)));
    for decision in futures_util::future::join_all(all).await {
        allowed(decision);
    }
    let looks = looks(&node);
    assert!(looks as u64 <= 2 + began.elapsed().as_secs(), "{looks} looks");
    // A block and a chain id for each check, the contract's two values, and one call for each caller.
    assert_eq!(calls(&node, "eth_chainId"), looks);
    assert_eq!(calls(&node, "eth_call"), 202);
}

#[tokio::test]
async fn so_many_must_agree_and_one_that_is_down_does_not_matter() {
    let ([one, two, three], info) = copies::<3>().await;
    let first = FaultServer::before(one.address()).await;
    let second = FaultServer::before(two.address()).await;
    let urls = [first.url(), second.url(), three.url()];
    let policy = policy(&urls, one.kms, "agreement = 2\nrequest_timeout = '5s'");
    let decide = async || policy.decide(Subject::App(&info)).await;
    allowed(decide().await);
    for fault in [Fault::Down, Fault::Page(500, Vec::new()), Fault::Hanging] {
        first.suffer(fault.clone()).await;
        policy.look_again();
        let began = Instant::now();
        allowed(decide().await);
        assert!(began.elapsed() < Duration::from_secs(5), "{fault}: it was waited for");
        eventually("word of it", async || {
            policy.look_again();
            allowed(decide().await);
            (policy.chain_state()?.endpoints == 2).then_some(())
        })
        .await;
    }
    second.suffer(Fault::Down).await;
    policy.look_again();
    let began = Instant::now();
    unanswered(decide().await);
    assert!(began.elapsed() < TOTAL);
    first.recover().await;
    eventually("two of three", async || decide().await.ok()).await;
    assert_eq!(policy.chain_state().expect("a chain").disagreements, 0);
}

#[tokio::test]
async fn nodes_that_disagree_about_the_chain_decide_nothing() {
    let ([one, other], info) = copies::<2>().await;
    let policy = policy(&[one.url(), other.url()], one.kms, "agreement = 2");
    allowed(policy.decide(Subject::App(&info)).await);
    // From here on each has a block of the same number that the other does not have.
    one.forbid_image(&info).await;
    other.mine(1).await;
    policy.look_again();
    let detail = unanswered(policy.decide(Subject::App(&info)).await);
    assert_eq!(detail, "the chain endpoints disagree about a block");
    assert_eq!(policy.last_error(), Some(detail));
    assert_eq!(policy.chain_state().expect("a chain").disagreements, 1);
}

#[tokio::test]
async fn nodes_that_disagree_about_the_contract_decide_nothing_unless_enough_agree() {
    let ([one, two, three], info) = copies::<3>().await;
    one.lie_about_image(&info, false).await;
    let chains = [one, two, three];
    for (agreement, is_decided) in [(2, true), (3, false)] {
        let policy = policy(&urls(&chains), chains[0].kms, &format!("agreement = {agreement}"));
        let decision = policy.decide(Subject::App(&info)).await;
        if is_decided {
            allowed(decision);
        } else {
            assert_eq!(unanswered(decision), "the chain endpoints disagree about who is allowed");
            assert!(policy.chain_state().expect("a chain").disagreements > 0);
        }
    }
    // Two liars are the majority: only the agreement of that many endpoints is checked.
    chains[1].lie_about_image(&info, false).await;
    let policy: Policy = policy(&urls(&chains), chains[0].kms, "agreement = 2");
    assert_eq!(denied(policy.decide(Subject::App(&info)).await).code.name(), "os_image_not_allowed");
}

#[tokio::test]
async fn one_node_cannot_keep_the_others_from_agreeing() {
    let ([one, two, three], info) = copies::<3>().await;
    // `one` and `three` have the same next block, `two` has another, and `three` is far ahead.
    one.mine(1).await;
    two.forbid_image(&info).await;
    three.mine(30).await;
    let height = one.height().await;
    let chains = [one, two, three];
    let policy = policy(&urls(&chains), chains[0].kms, "agreement = 2");
    let disagreements = async || {
        allowed(policy.decide(Subject::App(&info)).await);
        let state = policy.chain_state().expect("a chain");
        assert_eq!(state.block, Some(height));
        policy.look_again();
        (state.disagreements > 0).then_some(())
    };
    eventually("a word about the other block", disagreements).await;
}
