//! A real browser (Debian's Chromium, driven by Playwright): the onboarding page, checked by axe, and
//! gRPC-web from pages of other sites.

use crate::browser::play;
use crate::support::http::{post, request};
use crate::support::recovery::Officers;
use crate::support::{DOMAIN, World, free_port};
use cvm_kms::proto::GetMetaResponse;
use kms_simulator::{AgentMode, Cvm};
use serde_json::{Value, json};

fn page_of(world: &World) -> String {
    format!("http://{}/", world.address())
}

fn port_of(world: &World) -> Value {
    json!({ "port": world.address().port() })
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Where the state of the setup says that the console will be.
async fn console_of(toml: &str) -> Value {
    let world = World::onboarding_with(toml).await;
    let status = world.caller().plain().get("/api/v1/setup/status").await;
    assert_eq!(status.status, 200, "{}", status.text());
    status.value()["console"].clone()
}

#[tokio::test]
async fn the_state_of_the_setup_says_where_the_console_will_be() {
    let port = free_port();
    let everywhere =
        format!("core.admin = {{ address = \"0.0.0.0\", port = {port}, insecure_plain_http = true }}");
    let expected = json!({ "scheme": "http", "address": null, "port": port });
    assert_eq!(console_of(&everywhere).await, expected);
    let files = tempfile::tempdir().expect("directory");
    let (key, certs) = (files.path().join("admin.key"), files.path().join("admin.crt"));
    let tls = format!("tls = {{ key = {key:?}, certs = {certs:?}, create_if_missing = true }}");
    let expected = json!({ "scheme": "https", "address": "127.0.0.1", "port": port });
    assert_eq!(console_of(&format!("core.admin = {{ port = {port}, {tls} }}")).await, expected);
    assert_eq!(console_of("").await, Value::Null, "the system chooses its port later");
    assert_eq!(console_of("core.admin.enabled = false").await, Value::Null);
}

#[tokio::test]
async fn the_first_kms_goes_from_nothing_to_serving() {
    let port = free_port();
    let world = World::onboarding_with(&format!("core.admin.port = {port}")).await;
    let seen = play("bootstrap", &page_of(&world), json!({})).await;
    assert_eq!(seen["console"], format!("http://127.0.0.1:{port}/"));

    let (measured, image) = (hex::encode(world.cvm.mr_aggregated()), hex::encode(world.cvm.os_image_hash()));
    let device = hex::encode(world.platform.device_id());
    let contract = "0x1111111111111111111111111111111111111111";
    assert_eq!(texts(&seen["shown"]), [&*measured, &image, &device, "dstack-tdx", "test site", contract]);
    let file = json!({
        "osImages": [format!("0x{image}")],
        "kms": { "mrAggregated": [format!("0x{measured}")], "devices": [format!("0x{device}")] },
    });
    assert_eq!(seen["file"], file);
    assert_eq!(texts(&seen["steps"]), ["Done"; 3]);

    let meta = world.meta().await;
    let info = meta.bootstrap_info.expect("a statement");
    let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
    let key_provider = hex::encode(&info.ca_pubkey);
    let expected = [hex(&info.ca_pubkey), hex(&meta.k256_pubkey), hex(&info.attestation), key_provider];
    assert_eq!(texts(&seen["result"]), expected);
    assert_eq!(seen["clipboard"], expected[0]);
    let url = format!("https://{}", world.address());
    assert_eq!(texts(&seen["next"]), [format!("curl -k {url}/prpc/GetMeta"), url]);
}

#[tokio::test]
async fn what_the_page_gives_to_paste_is_an_allowlist_that_allows_this_kms() {
    let world = World::onboarding().await;
    world.allowlist.write(&json!({}));
    let refused = world.caller().plain().json("Bootstrap", json!({ "domain": "localhost" })).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let seen = play("paste", &page_of(&world), json!({ "allowlist": world.allowlist.path() })).await;
    assert_eq!(texts(&seen["checks"]), ["Failed", "Passed"]);
    world.bootstrap().await;
}

#[tokio::test]
async fn a_replica_is_onboarded_from_a_running_source() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let url = format!("https://{}", source.address());
    let seen = play("onboard", &page_of(&replica), json!({ "source": url })).await;
    assert_eq!(seen["steps"].as_array().map(Vec::len), Some(4), "{seen}");
    let finding = seen["finding"].as_str().expect("a text");
    assert!(finding.contains(&hex::encode(source.cvm.mr_aggregated())), "{finding}");
    assert_eq!(source.audited("kms_key_released").len(), 1, "a check asks for no keys");
    let (theirs, ours) = (source.meta().await, replica.meta().await);
    assert_eq!(theirs.k256_pubkey, ours.k256_pubkey);
    assert_eq!(texts(&seen["result"]), [format!("0x{}", hex::encode(ours.k256_pubkey))]);
    assert_eq!(texts(&seen["verdicts"]), ["match", "match", "match", "differs", ""]);
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());
}

#[tokio::test]
async fn officers_restore_a_kms_while_the_page_shows_whose_shares_have_arrived() {
    let root = cvm_kms::keys::RootKeys::generate();
    let officers = Officers::of(&root, 2, 3);
    let world = World::onboarding().await;
    let steps = tempfile::tempdir().expect("directory");
    let manifest = officers.manifest();
    let made = officers.set.manifest.manifest().created_at;
    let altered = manifest.replace(&format!(": {made},"), &format!(": {},", made + 1));
    assert_ne!(manifest, altered);
    let write = |name: &str, text: &str| {
        let path = steps.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let given = json!({
        "manifest": write("manifest.json", &manifest),
        "altered": write("altered.json", &altered),
        "steps": steps.path(),
        "domain": DOMAIN,
    });
    let reached = async |what: &str| {
        // As long as the browser needs, because the machine may be busy.
        while !steps.path().join(what).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let sending = async {
        for (step, index) in [("opened", 3), ("followed", 1)] {
            reached(step).await;
            let sent = world.caller().send(post("/recovery/shares", officers.share(index))).await;
            assert_eq!(sent.status, 200, "{}", sent.text());
        }
    };
    let url = page_of(&world);
    let playing = play("restore", &url, given);
    tokio::pin!(playing);
    let seen = tokio::select! {
        seen = &mut playing => panic!("it did not wait for the shares: {seen}"),
        () = sending => playing.await,
    };
    let refusal = seen["refusal"].as_str().expect("a text");
    assert!(refusal.contains("it was altered") && refusal.contains("Choose the file"), "{refusal}");
    assert_eq!(texts(&seen["chosen"])[2..], ["2 of 3", "officer-1, officer-2, officer-3"]);
    let command = seen["command"].as_str().expect("a text");
    let pin = format!("--pin {}", hex::encode(world.cvm.mr_aggregated()));
    assert!(command.contains(&pin) && command.contains(&officers.number()), "{command}");
    assert!(texts(&seen["officers"])[2].ends_with("Arrived"), "{seen:#}");
    assert!(texts(&seen["result"]).contains(&&*format!("0x{}", hex::encode(root.k256_public()))), "{seen:#}");
    assert_eq!(world.meta().await.k256_pubkey, root.k256_public());
}

#[tokio::test]
async fn other_tabs_say_that_the_kms_serves_once_it_does() {
    let world = World::onboarding().await;
    let seen = play("tabs", &page_of(&world), json!({})).await;
    assert_eq!(texts(&seen["modes"]), ["serving"; 2]);
}

#[tokio::test]
async fn keys_come_from_the_admin_listener_of_a_source_with_a_token() {
    let token = "t0ken-of-the-source";
    let mut source = World::stopped_with(&format!(
        "core.admin.auth_token = \"{token}\"\ncore.onboard.public_key_handover = false"
    ))
    .await;
    let (key, certs) = (source.path("admin.key"), source.path("admin.crt"));
    source.configure(&format!(
        "core.admin.tls = {{ key = {key:?}, certs = {certs:?}, create_if_missing = true }}"
    ));
    source.start().await.expect("it starts");
    source.bootstrap().await;
    source.finish().await;
    let replica = World::onboarding().await;
    let given = json!({
        "source": format!("https://{}", source.address()),
        "admin": format!("https://{}", source.admin_address().await),
        "token": token,
    });
    let seen = play("admin", &page_of(&replica), given).await;
    let told = texts(&seen["told"]);
    for (text, reason, advice) in [
        (told[0], "public KMS key handover is disabled; use the admin listener", "give that URL and a token"),
        (told[1], "GetKmsKey: the server answered 401", "does not accept this token"),
    ] {
        assert!(text.contains(reason) && text.contains(advice), "{text}");
    }
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());
}

#[tokio::test]
async fn whoever_keeps_the_check_of_the_source_busy_keeps_nobody_from_onboarding() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let url = format!("https://{}", source.address());
    let seen = play("busy", &page_of(&replica), json!({ "source": url })).await;
    assert_eq!(texts(&seen["steps"]), ["Done", "Skipped: others run it", "Done", "Done"]);
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());
}

#[tokio::test]
async fn refusals_are_told_with_the_reason_of_the_kms_and_can_be_retried() {
    let source = World::ready().await;
    let mut replica = World::of_another_image("").await;
    replica.start().await.expect("starts");
    let allows_itself = std::fs::read_to_string(replica.allowlist.path()).expect("allowlist");
    replica.allowlist.write(&json!({}));
    // First the replica allows itself and the source, then the source allows the replica.
    let with = |rules: &str, cvm: &Cvm| {
        let mut rules: Value = serde_json::from_str(rules).expect("JSON");
        for (list, value) in
            [("/osImages", cvm.os_image_hash().to_vec()), ("/kms/mrAggregated", cvm.mr_aggregated().to_vec())]
        {
            let list = rules.pointer_mut(list).and_then(Value::as_array_mut).expect("a list");
            list.push(json!(hex::encode(value)));
        }
        rules.to_string()
    };
    let theirs = std::fs::read_to_string(source.allowlist.path()).expect("allowlist");
    let seen = play(
        "refused",
        &page_of(&replica),
        json!({
            "source": format!("https://{}", source.address()),
            "own": { "path": replica.allowlist.path(), "text": with(&allows_itself, &source.cvm) },
            "theirs": { "path": source.allowlist.path(), "text": with(&theirs, &replica.cvm) },
        }),
    )
    .await;
    let text = |key: &str| seen[key].as_str().expect("a text").to_owned();
    assert!(text("check").contains("The policy denies this KMS: OS image is not allowed."), "{seen:#}");
    assert!(text("check").contains("Allow the values"), "{seen:#}");
    let reason =
        "Failed to onboard: GetKmsKey: the server answered 403: Boot denied: OS image is not allowed";
    assert!(text("refusal").contains(reason), "{seen:#}");
    assert!(text("refusal").contains("Allow the values of step 1 in the policy that refused"), "{seen:#}");
    assert_eq!(texts(&seen["steps"]), ["Done", "Done", "Failed", "Waits"]);
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());
}

#[tokio::test]
async fn a_page_opened_late_says_what_is_there_and_what_finish_waits_for() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    world.agent.set_mode(AgentMode::Down);
    let given = json!({ "key": world.key_file("root-k256.key"), "away": world.path("away") });
    let url = page_of(&world);
    let attester_returns = async {
        // As long as the browser needs, because the machine may be busy.
        loop {
            let answer = world.caller().plain().try_send(request("GET", "/api/v1/setup/status", "")).await;
            if answer.is_ok_and(|answer| answer.text().contains("the attester of this machine")) {
                break world.agent.set_mode(AgentMode::Up);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let playing = play("states", &url, given);
    tokio::pin!(playing);
    let seen = tokio::select! {
        seen = &mut playing => panic!("it did not wait for the attester: {seen}"),
        () = attester_returns => playing.await,
    };
    let notice = seen["notice"].as_str().expect("a text");
    assert!(notice.contains("root-k256.key is missing although root-ca.key is there"), "{notice}");
    let told = texts(&seen["told"]);
    assert!(
        told.iter().any(|text| text.contains("the attester of this machine does not answer")),
        "{told:?}"
    );
    assert_eq!(world.meta().await.k256_pubkey.len(), 33);
}

#[tokio::test]
async fn wrong_input_is_told_at_its_field_before_anything_is_called() {
    let world = World::onboarding().await;
    let seen = play("fields", &page_of(&world), json!({})).await;
    let told = &seen["told"];
    assert_eq!(told[""], "domain must be a non-empty ASCII DNS name of at most 253 bytes.");
    for wrong in ["a_b.example", "kms.example.com:8000", "https://kms.example.com"] {
        assert_eq!(told[wrong], "domain contains an invalid DNS label.", "{wrong}");
    }
    assert_eq!(told["source"], "the URL of a KMS starts with https://.");
    // The calls made at the end, once the input is valid.
    assert_eq!(texts(&seen["called"]), ["/prpc/Onboard.GetAttestationInfo", "/prpc/Onboard.Bootstrap"]);
    assert_eq!(std::fs::read(world.key_file("rpc-domain")).expect("domain"), b"localhost");
}

#[tokio::test]
async fn the_whole_road_can_be_walked_by_keyboard() {
    let world = World::onboarding().await;
    let seen = play("keyboard", &page_of(&world), json!({})).await;
    assert!(texts(&seen["stops"]).len() > 10, "{seen}");
    assert_eq!(world.meta().await.k256_pubkey.len(), 33);
}

#[tokio::test]
async fn the_token_is_asked_for_and_kept_in_memory_only() {
    let world = World::onboarding_with("core.onboard.auth_token = \"s3cret & more\"").await;
    play("token", &page_of(&world), json!({ "token": "s3cret & more" })).await;
    assert_eq!(world.meta().await.k256_pubkey.len(), 33);
}

#[tokio::test]
async fn the_page_works_over_plain_http_under_a_name_and_over_https() {
    let world = World::onboarding().await;
    let seen = play("plain", &page_of(&world), port_of(&world)).await;
    assert_eq!(seen["clipboard"], hex::encode(world.platform.device_id()));
    assert_eq!(world.meta().await.k256_pubkey.len(), 33);
}

#[tokio::test]
async fn a_page_of_another_site_in_the_same_browser_changes_nothing() {
    let world = World::onboarding().await;
    let seen = play("foreign", &page_of(&world), port_of(&world)).await;
    let statuses = texts(&seen["statuses"]);
    assert!(statuses.len() >= 10, "{seen:#}");
    assert!(statuses.iter().all(|status| status.ends_with(" 403")), "{seen:#}");
    // A link in a mail. Over plain HTTP with a name, the browser does not distinguish it from another page's
    // link.
    assert_eq!(texts(&seen["opened"]), ["400", "400", "403", "403"]);
    assert!(!world.key_file("root-ca.key").exists());
    // The operator's own call still works.
    world.bootstrap().await;
}

#[tokio::test]
async fn grpc_web_works_from_pages_of_listed_origins_and_no_others() {
    use prost::Message as _;
    let (listed, other) = ("http://app.test", "http://other.test");
    let port = free_port();
    let world = World::ready_with(&format!("rpc.cors_origins = [\"{listed}:{port}\"]")).await;
    let given = json!({ "port": port, "listed": listed, "other": other });
    let seen = play("grpc_web", &format!("https://{}", world.address()), given).await;
    for form in ["binary", "text"] {
        let message =
            hex::decode(seen[form]["meta"].as_str().unwrap_or_else(|| panic!("{seen:#}"))).expect("hex");
        let meta = GetMetaResponse::decode(&message[..]).expect("a message");
        assert_eq!(meta.k256_pubkey.len(), 33, "{form}");
        assert_eq!(seen[form]["refused"], json!([16, "No attestation provided"]), "{form}: {seen:#}");
        assert_eq!(seen[form]["denial_id"].as_str().map(str::is_empty), Some(false), "{form}: {seen:#}");
    }
    // Pages of unlisted sites cannot read the response.
    assert_eq!(seen["unlisted"], json!({ "binary": "blocked", "text": "blocked", "json": "blocked" }));
    assert_eq!(seen["json"], hex::encode(&world.meta().await.k256_pubkey));
}

#[tokio::test]
async fn the_page_is_small_and_names_no_other_origin() {
    let world = World::onboarding().await;
    let caller = world.caller().plain();
    let (mut total, mut asked, mut waiting) = (0, Vec::new(), vec!["/".to_owned()]);
    while let Some(path) = waiting.pop() {
        let answer = caller.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let policy = answer.header("content-security-policy");
        for part in
            ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        total += answer.body.len();
        let text = answer.text();
        for elsewhere in ["src=\"http", "href=\"http", "url(http", "@import", "src=\"//", "href=\"//"] {
            assert!(!text.contains(elsewhere), "{path}: {elsewhere}");
        }
        for quote in ["\"/assets/", "'./"] {
            for rest in text.split(quote).skip(1) {
                let name = rest.split(['\"', '\'']).next().expect("a name");
                let path = format!("/assets/{name}");
                if !asked.contains(&path) && !waiting.contains(&path) {
                    waiting.push(path);
                }
            }
        }
        asked.push(path);
    }
    assert!(asked.len() >= 11, "{asked:?}");
    assert!(total < 100_000, "{total} bytes");
}
