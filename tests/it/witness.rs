//! Witnesses of the log: what they receive, what is published of them, and what waits for them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;
use kms_ledger::signature::CosigningKey;
use kms_ledger::witness::{Rejection, Request, SIZE_TYPE};
use kms_ledger::{Hash, Size};
use serde_json::{Value, json};

use crate::support::http::request;
use crate::support::operator::{Operator, ask};
use crate::support::{Identity, World, eventually, free_port, tools};
use cvm_kms::proto::{AppKeyResponse, GetMetaResponse};

/// A witness that follows the specification, with its one log.
struct Witness {
    key: CosigningKey,
    log: Mutex<Option<Log>>,
    /// The last checkpoint that it has cosigned.
    last: Mutex<(Size, Hash)>,
}

impl Witness {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let key =
            CosigningKey::from_seed("witness.example/w1".parse().expect("a name"), &[5; 32]).expect("a key");
        let witness =
            Arc::new(Self { key, log: Mutex::default(), last: Mutex::new((Size::ZERO, Hash::EMPTY_ROOT)) });
        let router = Router::new().route("/w1/add-checkpoint", post(add)).with_state(Arc::clone(&witness));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (witness, address)
    }

    fn key(&self) -> VerifyingKey {
        self.key.verifying_key().clone()
    }

    fn cosigned(&self) -> u64 {
        self.last.lock().expect("no panic").0.get()
    }
}

async fn add(State(witness): State<Arc<Witness>>, body: Bytes) -> axum::response::Response {
    let Some(log) = witness.log.lock().expect("no panic").clone() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(request) = Request::parse(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut last = witness.last.lock().expect("no panic");
    match request.judge(&log, (last.0, &last.1)) {
        Ok(()) => {
            *last = (request.checkpoint().size, request.checkpoint().root);
            witness.key.cosign(request.text(), 1_800_000_000.try_into().expect("a time")).into_response()
        }
        Err(Rejection::Conflict { known }) => {
            (StatusCode::CONFLICT, [("content-type", SIZE_TYPE)], format!("{known}\n")).into_response()
        }
        Err(other) => StatusCode::from_u16(other.status()).expect("a status").into_response(),
    }
}

async fn log_of(world: &World) -> Log {
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    Log::of_key(meta.log_key.parse().expect("a key")).expect("an origin")
}

/// A document of the admin listener, once the index is open.
async fn read(world: &World, path: &str) -> Value {
    let admin = Operator::of(world).await;
    eventually("a document", async || {
        let answer = admin.get(path).await;
        (answer.status == 200).then(|| answer.value())
    })
    .await
}

/// A KMS that requires a witness which knows its log, with an allowed app.
async fn witnessed_world() -> (World, Arc<Witness>, Identity) {
    let (witness, address) = Witness::start().await;
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    *witness.log.lock().expect("no panic") = Some(log_of(&world).await);
    world.configure(&format!(
        "[core.ledger.witnesses]\nlist = [\"{} http://{address}/w1\"]\nrequire = 1\nmax_wait = \"3s\"",
        witness.key()
    ));
    world.start().await.expect("the KMS starts");
    (world, witness, identity)
}

#[tokio::test]
async fn a_release_waits_for_its_witness_and_the_checkpoint_shows_it() {
    let (world, witness, identity) = witnessed_world().await;
    let mut last = 0;
    for _ in 0..5 {
        let keys: AppKeyResponse =
            world.caller().shows(&identity).json("GetAppKey", json!({})).await.message();
        last = keys.receipt.as_ref().expect("a receipt").index;
        assert!(witness.cosigned() > last, "cosigned {} before the answer", witness.cosigned());
    }
    let shown = world.caller().send(request("GET", "/log/checkpoint", "")).await;
    let signed = log_of(&world).await.open(&shown.body, &[witness.key()]).expect("a signed checkpoint");
    assert!(signed.checkpoint().size.get() > last);
    assert_eq!(signed.cosignatures().len(), 1);
    assert_eq!(signed.cosignatures()[0].key, witness.key());
}

#[tokio::test]
async fn without_its_witness_nothing_is_released_in_time_and_it_resumes_by_itself() {
    let (world, witness, identity) = witnessed_world().await;
    let ask = async || world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    assert_eq!(ask().await.status, 200);
    let log = witness.log.lock().expect("no panic").take();
    let began = Instant::now();
    assert_eq!(ask().await.status, 503);
    assert!((Duration::from_secs(2)..Duration::from_secs(40)).contains(&began.elapsed()));
    assert_eq!(world.audited("withheld").len(), 1, "its record says that it was not released");
    let ledger = read(&world, "/api/v1/ledger").await;
    let shown = &ledger["witnesses"][0];
    assert_eq!(
        (&shown["state"], &shown["name"]),
        (&json!("failing"), &json!("witness.example/w1")),
        "{ledger}"
    );
    assert!(shown["last_at"].is_string() && shown["message"].is_string(), "it has cosigned before: {shown}");
    let overview = read(&world, "/api/v1/overview").await;
    let codes: Vec<_> =
        overview["attention"].as_array().expect("a list").iter().map(|item| &item["code"]).collect();
    assert!(codes.contains(&&json!("witnesses_behind")), "{codes:?}");
    assert_eq!(
        (&overview["ledger"]["witnesses_ok"], &overview["ledger"]["required"]),
        (&json!(0), &json!(1))
    );
    *witness.log.lock().expect("no panic") = log;
    eventually("a release", async || (ask().await.status == 200).then_some(())).await;
    let ledger = read(&world, "/api/v1/ledger").await;
    assert_eq!((&ledger["witnesses"][0]["state"], &ledger["require"]), (&json!("ok"), &json!(1)), "{ledger}");
}

#[tokio::test]
async fn a_witness_that_knows_more_than_the_log_stops_all_releases() {
    let (world, witness, identity) = witnessed_world().await;
    let ask = async || world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    assert_eq!(ask().await.status, 200);
    *witness.last.lock().expect("no panic") = (1_000_000.try_into().expect("a size"), Hash::EMPTY_ROOT);
    assert_eq!(ask().await.status, 503);
    let ready = world.caller().send(request("GET", "/readyz", "")).await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("audit_log_unavailable"), "{}", ready.text());
    // Not even if the witness has lost its state.
    *witness.last.lock().expect("no panic") = (Size::ZERO, Hash::EMPTY_ROOT);
    let recorded = world.audited("app_key_released").len();
    assert_eq!(ask().await.status, 503);
    assert_eq!(world.audited("app_key_released").len(), recorded, "refused at once, and not withheld");
}

/// A running program that ends with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// PyPI `aics-witness` and `aics-tlog`.
#[tokio::test]
async fn a_witness_that_we_did_not_write_cosigns_and_a_verifier_agrees() {
    let python = tools::python("clients/python");
    let programs = python.parent().expect("a directory");
    let mut world = World::ready().await;
    let directory = world.path("witness");
    std::fs::create_dir(&directory).expect("a directory");
    let program = |name: &str| {
        // Not the program itself, which names the directory that its Python was installed in.
        let mut program = std::process::Command::new(&python);
        program
            .arg(programs.join(name))
            .env("AICS_WITNESS_CONFIG", directory.join("witness.json"))
            .current_dir(&directory);
        program
    };
    let run = |arguments: &[&str]| {
        let output = program("aics-witness").args(arguments).output().expect("aics-witness");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let said = run(&["init", "--name", "witness.example/aics"]);
    let key: VerifyingKey =
        said.lines().find_map(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("no key: {said}"));
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    let log = log_of(&world).await;
    run(&["add-log", "--origin", log.origin().as_str(), "--vkey", &meta.log_key]);
    let address = format!("127.0.0.1:{}", free_port());
    let serving =
        program("aics-witness").args(["serve", "--listen", &address]).spawn().expect("aics-witness");
    let _serving = Program(serving);
    world.configure(&format!(
        "[core.ledger.witnesses]\nlist = [\"{key} http://{address}\"]\nrequire = 1\nmax_wait = \"3s\""
    ));
    world.start().await.expect("the KMS starts");
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    let ask = async || world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    eventually("a release", async || (ask().await.status == 200).then_some(())).await;
    for _ in 0..20 {
        assert_eq!(ask().await.status, 200);
    }
    let answer = ask().await;
    let shown = world.caller().send(request("GET", "/log/checkpoint", "")).await;
    let signed = log.open(&shown.body, std::slice::from_ref(&key)).expect("a signed checkpoint");
    assert_eq!(signed.cosignatures()[0].key, key);
    let size = signed.checkpoint().size.get();
    let tiles = directory.join("tiles");
    std::fs::create_dir_all(tiles.join("tile/0/000.p")).expect("a directory");
    std::fs::write(tiles.join("checkpoint"), &shown.body).expect("written");
    let path = format!("tile/0/000.p/{size}");
    let tile = world.caller().send(request("GET", &format!("/log/{path}"), "")).await;
    std::fs::write(tiles.join(&path), &tile.body).expect("written");
    std::fs::write(directory.join("vkey"), format!("{}\n", meta.log_key)).expect("written");
    let keys: AppKeyResponse = answer.message();
    let receipt = keys.receipt.as_ref().expect("a receipt");
    let (index, leaf) = (receipt.index.to_string(), hex::encode(Hash::leaf(&receipt.entry).as_bytes()));
    let witness = key.to_string();
    let verified = program("aics-tlog")
        .args(["verify-inclusion", "--tiles", "tiles", "--vkey-file", "vkey", "--witness-key", &witness])
        .args(["--quorum", "1", "--index", &index, "--leaf-hash", &leaf])
        .output()
        .expect("aics-tlog");
    assert!(verified.status.success(), "{verified:?}");
}

async fn change(world: &World, path: &str) -> crate::support::Answer {
    ask(world, "POST", path, Value::Null).await
}

#[tokio::test]
async fn keys_whose_epoch_is_retired_while_their_release_waits_are_withheld() {
    let (mut world, witness, identity) = witnessed_world().await;
    world.configure("core.ledger.witnesses.max_wait = \"25s\"");
    world.start().await.expect("the KMS starts");
    for path in ["/api/v1/epochs", "/api/v1/epochs/1/activate"] {
        let answer = change(&world, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let log = witness.log.lock().expect("no panic").take();
    let (before, caller) = (world.audited("app_key_released").len(), world.caller().shows(&identity));
    let release = tokio::spawn(async move { caller.json("GetAppKey", json!({})).await });
    let record = eventually("a record that waits for the witness", async || {
        world.audited("app_key_released").get(before).cloned()
    })
    .await;
    let retired = change(&world, "/api/v1/epochs/0/retire").await;
    assert_eq!(retired.status, 200, "{}", retired.text());
    *witness.log.lock().expect("no panic") = log;
    let answer = release.await.expect("an answer");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text().contains("retired"), "{}", answer.text());
    let withheld = world.audited("withheld");
    assert_eq!(withheld.len(), 1, "the log does not say that it has them");
    assert_eq!(withheld[0]["released"], record["seq"]);
}

#[tokio::test]
async fn a_replica_whose_hand_over_was_withheld_lacks_the_new_epoch() {
    let (world, witness, _) = witnessed_world().await;
    let replica = world.replica();
    world.allow_kms(&replica);
    let caller = world.caller().shows(&world.attested(&replica).await);
    let ask = async || caller.json("GetKmsKey", json!({ "epochs": true })).await.status;
    assert_eq!(ask().await, 200);
    let made = change(&world, "/api/v1/epochs").await;
    assert_eq!(made.status, 200, "{}", made.text());
    let log = witness.log.lock().expect("no panic").take();
    assert_eq!(ask().await, 503);
    assert_eq!(world.audited("withheld").len(), 1);
    let without = async || read(&world, "/api/v1/epochs").await["epochs"][1]["replicas_without"].clone();
    // The index may be behind the log for a moment, in which the record of the handover counts.
    eventually("the replica lacks it", async || {
        without().await.as_array().is_some_and(|list| list.len() == 1).then_some(())
    })
    .await;
    assert_eq!(change(&world, "/api/v1/epochs/1/activate").await.status, 409);
    *witness.log.lock().expect("no panic") = log;
    eventually("a handover", async || (ask().await == 200).then_some(())).await;
    eventually("it has the epoch", async || {
        without().await.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    assert_eq!(change(&world, "/api/v1/epochs/1/activate").await.status, 200);
}
