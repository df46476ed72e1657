//! `/attestation.json`: what outsiders can verify of a running KMS, and how much of its machine they may use for it.

use std::collections::HashSet;

use kms_attest::clock::unix_now;
use kms_attest::ra_tls;
use kms_attest::trust::TrustAnchors;
use kms_client::proof::attestation::{Answer as Document, Pin, Pins, Proved, Refusal, Rules};
use kms_simulator::{AgentMode, Cvm, CvmBuilder, PccsMode, Stage};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::http::{request, with};
use crate::support::images::{OsImage, verified_by_download};
use crate::support::{Answer, World, eventually};

const PATH: &str = "/attestation.json";

fn with_nonce(nonce: [u8; 32]) -> String {
    format!("{PATH}?nonce={}", hex::encode(nonce))
}

fn pins(world: &World) -> Pins {
    let mut pins = Pins::default();
    pins.add(Pin::MrAggregated, hex::encode(world.cvm.mr_aggregated())).expect("a measurement");
    let root = hex::encode(Sha256::digest(world.root_keys().ca_spki()));
    pins.add(Pin::RootCaSpkiSha256, root).expect("a root");
    pins
}

fn verify(world: &World, answer: &Answer, nonce: Option<[u8; 32]>) -> Result<Proved, Refusal> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let anchors = TrustAnchors::with_tdx_root(world.platform.root_der()).expect("a root");
    let rules = Rules { nonce, ..Rules::default() };
    Document::parse(&answer.body)?.verify(&pins(world), &rules, &anchors, unix_now())
}

#[tokio::test]
async fn an_outsider_verifies_what_answers_and_with_which_keys() {
    let world = World::ready_with("domains.sandbox.apps = []").await;
    let mut line = world.caller().connect().await.expect("a connection");
    let answer = line.send(request("GET", PATH, "")).await;
    let proved = verify(&world, &answer, None).expect("a proof");
    let shown = line.server_certificate.as_ref().expect("TLS");
    proved.check_tls_key(&ra_tls::spki_of(shown).expect("a key")).expect("the key of this connection");
    assert_eq!(proved.check_tls_key(&world.root_keys().ca_spki()).expect_err("another key"), Refusal::TlsKey);
    assert!(proved.is_signed_by_root());
    let statement = proved.statement();
    assert_eq!(statement.name, "localhost");
    assert_eq!(statement.root.k256_public_key.0, world.root_keys().k256_public());
    assert_eq!(statement.epochs.len(), 1);
    assert_eq!(statement.epochs[0].state, "active");
    let digest = Sha256::digest(std::fs::read(world.allowlist.path()).expect("the allowlist"));
    let policy = &statement.policies["default"];
    assert_eq!((policy.kind.as_str(), policy.digest.expect("a digest").0), ("allowlist", digest.into()));
    assert_eq!(statement.policies.keys().collect::<Vec<_>>(), ["default", "sandbox"]);
    assert_eq!(statement.policies["sandbox"].digest, policy.digest, "no policy of its own");
    let program = std::fs::read(std::env::current_exe().expect("a program")).expect("this program");
    let program = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &program);
    assert_eq!(&statement.program_sha256.expect("a program").0, program.as_ref());
    let log = statement.log.as_ref().expect("a log");
    let known = kms_ledger::log::Log::of_key(log.key.parse().expect("a verifier key")).expect("an origin");
    known.open(log.checkpoint.as_bytes(), &[]).expect("a checkpoint of this log");
    assert!(log.key.starts_with(&log.origin));
    assert_eq!(proved.verified().tcb_status(), "UpToDate");
}

#[tokio::test]
async fn outsiders_read_whether_anybody_can_log_in_to_the_machine() {
    let images = [OsImage::release(), OsImage::development()];
    let [release, development] = &images;
    let verifies = verified_by_download(&[release, development]).await;
    let elsewhere = "core.image = { verify = true, download_url = 'http://127.0.0.1:1/{OS_IMAGE_HASH}' }";
    let waived = "core.image.verify = false";
    type Boots = fn(&OsImage, CvmBuilder) -> CvmBuilder;
    let booted: Boots = OsImage::booted;
    for (image, boots, toml, opened, expected) in [
        (release, booted, &*verifies, false, Some(true)),
        (release, booted, &verifies, true, Some(false)),
        (development, booted, &verifies, false, Some(false)),
        (release, OsImage::named as Boots, &verifies, false, None),
        // Nothing is known of the image, and what opened the machine is.
        (release, booted, elsewhere, false, None),
        (release, booted, waived, false, None),
        (release, booted, waived, true, Some(false)),
    ] {
        let other = World::onboarding().await;
        let cvm = Cvm::builder(&other.platform).app_id([0xca; 20]).stage(Stage::Ready);
        let cvm = boots(image, cvm).build();
        let mut world = World::stopped_in(cvm, toml).await;
        world.start().await.expect("the KMS starts");
        world.bootstrap().await;
        world.finish().await;
        let caller = world.caller();
        let sealed = async |nonce: u8| {
            let answer = caller.get(&with_nonce([nonce; 32])).await;
            verify(&world, &answer, Some([nonce; 32])).expect("a proof").statement().sealed
        };
        if opened {
            // Also a machine that was sealed when it was last asked about.
            assert_eq!(sealed(1).await, if toml == waived { None } else { Some(true) }, "{toml}");
            world.cvm.emit("shell", b"open");
        }
        assert_eq!(sealed(2).await, expected, "{toml} {opened}");
    }
}

#[tokio::test]
async fn without_a_nonce_all_get_the_same_and_with_one_each_its_own() {
    let world = World::ready().await;
    let caller = world.caller();
    let first = caller.get(PATH).await;
    assert_eq!(first.header("access-control-allow-origin"), "*");
    assert_eq!(first.header("content-type"), "application/json");
    assert!(first.header("cache-control").starts_with("public, max-age="), "{first:?}");
    assert_eq!(caller.get(PATH).await.body, first.body, "cached");
    let head = caller.send(request("HEAD", PATH, "")).await;
    assert_eq!((head.status, head.header("content-length")), (200, first.body.len().to_string().as_str()));

    let fresh = caller.get(&with_nonce([1; 32])).await;
    assert_eq!(fresh.header("cache-control"), "no-store");
    verify(&world, &fresh, Some([1; 32])).expect("a proof");
    assert_eq!(verify(&world, &fresh, Some([2; 32])).expect_err("of another request"), Refusal::Nonce);
    assert_eq!(verify(&world, &first, Some([1; 32])).expect_err("of no request"), Refusal::Nonce);
    for query in ["?nonce=", "?nonce=ab", "?nonce=zz", "?other=1", "?nonce"] {
        let answer = caller.get(&format!("{PATH}{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert_eq!(answer.value()["code"], "invalid_request", "{query}");
    }
    assert_eq!(caller.send(request("POST", PATH, "")).await.status, 405);
}

#[tokio::test]
async fn a_crowd_with_nonces_is_told_to_wait_and_takes_nothing_from_others() {
    let world = World::ready_with("").await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller();
    let mut line = caller.connect().await.expect("a connection");
    let mut statuses = HashSet::new();
    for number in 0..40 {
        let answer = line.send(request("GET", &with_nonce([number; 32]), "")).await;
        statuses.insert(answer.status);
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), "10");
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            assert_eq!(answer.value()["code"], "too_many_requests");
        }
    }
    assert_eq!(statuses, HashSet::from([200, 429]));
    assert_eq!(caller.get(PATH).await.status, 200, "without a nonce");
    let released = caller.clone().shows(&world.attested(&app).await).json("GetAppKey", json!({})).await;
    assert_eq!(released.status, 200, "{released:?}");
}

#[tokio::test]
async fn while_there_is_no_quote_the_answer_says_so_and_comes_back() {
    let world = World::ready().await;
    let caller = world.caller();
    let kept = caller.get(PATH).await;
    for mode in [AgentMode::Down, AgentMode::Garbage, AgentMode::Disconnecting, AgentMode::WrongReportData] {
        world.agent.set_mode(mode);
        let answer = caller.get(&with_nonce([3; 32])).await;
        // The address may have asked too often already.
        assert!([429, 503].contains(&answer.status), "{mode:?}: {answer:?}");
        assert!(!answer.text().contains(".sock"), "{answer:?}");
        if answer.status == 503 {
            assert_eq!(answer.value()["code"], "own_evidence_unavailable");
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
    assert_eq!(caller.get(PATH).await.body, kept.body, "younger than a minute");

    let world = World::ready().await;
    world.agent.set_mode(AgentMode::Down);
    let caller = world.caller();
    let answer = caller.get(PATH).await;
    assert_eq!((answer.status, answer.value()["code"].clone()), (503, json!("own_evidence_unavailable")));
    world.agent.set_mode(AgentMode::Up);
    let answer = eventually("a document again", async || {
        let answer = caller.get(PATH).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    verify(&world, &answer, None).expect("a proof");
}

#[tokio::test]
async fn without_collateral_or_a_tee_there_is_no_document() {
    let mut world = World::ready_with("core.enforce_self_authorization = false").await;
    world.pccs.set_mode(PccsMode::Down);
    let answer = world.caller().get(PATH).await;
    assert_eq!((answer.status, answer.value()["code"].clone()), (503, json!("collateral_unavailable")));

    world.configure("core.insecure_no_tee = true\ncore.attest_rpc_cert = false\ncore.attester.type = 'none'");
    world.start().await.expect("it starts");
    let answer = world.caller().get(PATH).await;
    assert_eq!((answer.status, answer.value()["code"].clone()), (503, json!("no_attester")));
    let marked = with(request("GET", PATH, ""), "origin", "https://page.example");
    assert_eq!(world.caller().send(marked).await.header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn before_there_are_keys_there_is_no_document() {
    let world = World::onboarding().await;
    assert_eq!(world.caller().get(PATH).await.status, 404);
}
