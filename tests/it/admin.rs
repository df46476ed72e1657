//! Operators clear caches: over the admin listener, and by the older method on the main listener.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::support::http::{json, post, request, with};
use crate::support::operator::authorized;
use crate::support::{ADMIN_TOKEN, Answer, Caller, World};
use cvm_kms::app::Preflight;
use cvm_kms::config::Config;
use cvm_kms::proto::{ClearImageCacheRequest, LegacyClearImageCacheRequest, PrpcError};
use kms_attest::binding::ReportData;
use kms_attest::p256::P256Key;
use kms_attest::{certificate, ra_tls};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A KMS with two images and two measurements in its cache.
async fn with_cache(toml: &str) -> World {
    let world = World::ready_with(toml).await;
    for directory in ["images/images/aa11", "images/images/bb22", "images/measurements"] {
        fs::create_dir_all(world.path(directory)).expect("directory");
    }
    for file in
        ["images/images/aa11/metadata.json", "images/measurements/cc33.json", "images/measurements/dd44.json"]
    {
        fs::write(world.path(file), "{}").expect("file");
    }
    world
}

async fn admin(world: &World) -> Caller {
    Caller::new(world.admin_address().await).plain()
}

/// The value of `Authorization` for a name, a colon and a password.
fn basic(pair: &str) -> String {
    let (name, password) = pair.split_once(':').expect("a colon");
    crate::support::basic(name, password)
}

/// 401 without a body, and the challenge.
fn is_challenged(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.body.len()), (401, 0), "{what}: {answer:?}");
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"dstack-kms admin\"", "{what}");
    assert_eq!(answer.header("content-type"), "", "{what}");
    assert_eq!(answer.header("x-app-version"), "", "{what}");
}

#[tokio::test]
async fn every_path_and_verb_of_the_admin_listener_asks_for_credentials_first() {
    let world = World::ready().await;
    let caller = admin(&world).await;
    for verb in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
        for path in [
            "/prpc/ClearImageCache",
            "/prpc/Nothing",
            "/",
            "/health",
            "/livez",
            "/readyz",
            "/metrics",
            "/nowhere",
        ] {
            let answer = caller.send(request(verb, path, "")).await;
            // The page of the console is the same for everyone, and holds no data.
            if path == "/" && ["GET", "HEAD"].contains(&verb) {
                assert_eq!(answer.status, 200, "{verb} {path}: {answer:?}");
                continue;
            }
            is_challenged(&answer, &format!("{verb} {path}"));
        }
    }
    assert_eq!(caller.send(request("TRACE", "/prpc/ClearImageCache", "")).await.status, 404);
}

#[tokio::test]
async fn a_token_or_a_password_opens_the_admin_listener() {
    let mut world = World::ready().await;
    let hash =
        bcrypt::hash_with_result("pass word", 4).expect("bcrypt").format_for_version(bcrypt::Version::TwoY);
    fs::write(world.path("htpasswd"), format!("# people\nalice:{hash}\n")).expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", world.path("htpasswd").display()));
    world.start().await.expect("starts");
    let caller = admin(&world).await;
    let token = ADMIN_TOKEN;
    for (name, value, passes) in [
        ("x-admin-token", token.to_owned(), true),
        ("x-admin-token", token.to_uppercase(), false),
        ("x-admin-token", format!("{token}x"), false),
        ("x-admin-token", String::new(), false),
        ("authorization", format!("Bearer {token}"), true),
        ("authorization", format!("bearer {token}"), true),
        ("authorization", "Bearer other".to_owned(), false),
        ("authorization", token.to_owned(), false),
        ("authorization", basic("alice:pass word"), true),
        ("authorization", basic("alice:wrong"), false),
        ("authorization", basic("bob:pass word"), false),
        ("authorization", basic(&format!("anyone:{token}")), true),
        ("authorization", basic(&format!("{token}:")), true),
        ("authorization", basic(&format!("{token}:x")), false),
        ("authorization", basic(":"), false),
        ("authorization", "Basic !!!".to_owned(), false),
        ("authorization", format!("Digest {token}"), false),
        ("x-onboard-token", token.to_owned(), false),
        ("cookie", format!("token={token}"), false),
    ] {
        let answer = caller.send(with(json("ClearImageCache", json!({})), name, &value)).await;
        match passes {
            true => assert_eq!((answer.status, answer.text()), (200, "null"), "{name}: {value}"),
            false => is_challenged(&answer, &format!("{name}: {value}")),
        }
    }
    let in_query = format!("/prpc/ClearImageCache?token={}", token.replace(' ', "%20"));
    is_challenged(&caller.get(&in_query).await, "a token in the query");
    for (token, bearer) in
        [(ADMIN_TOKEN, "Bearer other".to_owned()), ("other", format!("Bearer {ADMIN_TOKEN}"))]
    {
        let both = with(json("ClearImageCache", json!({})), "authorization", &bearer);
        assert_eq!(caller.send(with(both, "x-admin-token", token)).await.status, 200, "one of two is enough");
    }
}

#[tokio::test]
async fn behind_the_credentials_there_is_one_method() {
    let world = World::ready().await;
    for caller in [admin(&world).await, admin(&world).await.offers(&[b"h2"])] {
        for (call, status, error) in [
            (json("Nothing", json!({})), 404, Some("Service not found: Nothing")),
            (json("GetMeta", json!({})), 404, Some("Service not found: GetMeta")),
            (json("KMS.ClearImageCache", json!({})), 404, Some("Service not found: KMS.ClearImageCache")),
            (json("Admin.ClearImageCache", json!({})), 200, None),
            (request("GET", "/prpc/Admin.ClearImageCache?image_hash=", ""), 200, None),
            (request("GET", "/health", ""), 404, None),
            (request("GET", "/livez", ""), 200, None),
            (request("GET", "/readyz", ""), 200, None),
            (request("GET", "/metrics", ""), 404, None),
            (request("GET", "/", ""), 200, None),
        ] {
            let shown = call.uri().to_string();
            let answer = caller.send(authorized(call)).await;
            assert_eq!(answer.status, status, "{shown}: {answer:?}");
            if let Some(error) = error {
                assert_eq!(answer.refusal().1, error);
            }
        }
    }
}

/// The files left in the cache.
fn left(world: &World) -> Vec<&'static str> {
    [
        "images/images/aa11",
        "images/images/bb22",
        "images/measurements/cc33.json",
        "images/measurements/dd44.json",
    ]
    .into_iter()
    .filter(|path| world.path(path).exists())
    .map(|path| path.rsplit('/').next().expect("a name"))
    .collect()
}

#[tokio::test]
async fn caches_are_cleared_entry_by_entry_or_whole_through_the_admin_listener() {
    let world = with_cache("").await;
    let caller = admin(&world).await;
    let clear = async |image: &str, config: &str| {
        let body = json!({ "image_hash": image, "config_hash": config });
        caller.send(authorized(json("ClearImageCache", body))).await
    };
    assert_eq!(clear("", "").await.text(), "null");
    assert_eq!(left(&world).len(), 4);
    assert_eq!(clear("AA11", "").await.status, 200);
    assert_eq!(left(&world), ["bb22", "cc33.json", "dd44.json"]);
    assert_eq!(clear("aa11", "cc33").await.status, 200, "what is not there is no error");
    assert_eq!(left(&world), ["bb22", "dd44.json"]);
    for (image, config, text) in [
        ("../images", "", "failed to clear image cache: invalid cache key"),
        ("zz", "", "failed to clear image cache: invalid cache key"),
        ("", "a", "failed to clear measurement cache: invalid cache key"),
        ("", "ALL", "failed to clear measurement cache: invalid cache key"),
    ] {
        assert_eq!(clear(image, config).await.refusal(), (400, text.to_owned()), "{image} {config}");
    }
    assert_eq!(left(&world), ["bb22", "dd44.json"]);
    let request = ClearImageCacheRequest { image_hash: "bb22".to_owned(), config_hash: "dd44".to_owned() };
    let answer =
        caller.send(authorized(post("/prpc/ClearImageCache", prost::Message::encode_to_vec(&request)))).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(left(&world).is_empty());
    assert_eq!(clear("all", "all").await.status, 200);
    assert!(!world.path("images/images").exists() && !world.path("images/measurements").exists());
}

#[tokio::test]
async fn the_older_method_on_the_main_port_has_its_token_inside() {
    let hash = hex::encode(Sha256::digest(b"old token"));
    let world = with_cache(&format!("core.admin_token_hash = \"{hash}\"")).await;
    let wrong = (400, "Invalid token".to_owned());
    // Concurrently, because wrong tokens are slowed down.
    let asked = ["", "Old token", "old token ", &hash, ADMIN_TOKEN].map(async |token| {
        let body = json!({ "token": token, "image_hash": "all", "config_hash": "all" });
        assert_eq!(world.caller().json("ClearImageCache", body.clone()).await.refusal(), wrong, "{token}");
        let request = LegacyClearImageCacheRequest {
            token: token.to_owned(),
            image_hash: "all".to_owned(),
            config_hash: "all".to_owned(),
        };
        let answer = world.caller().protobuf("ClearImageCache", &request).await;
        assert_eq!(
            (answer.status, &*answer.decoded::<PrpcError>().message),
            (400, "Invalid token"),
            "{token}"
        );
        // A token in a header is for the admin listener.
        let with_header = with(json("ClearImageCache", body), "x-admin-token", "old token");
        assert_eq!(world.caller().send(with_header).await.refusal(), wrong);
    });
    futures_util::future::join_all(asked).await;
    assert_eq!(left(&world).len(), 4);

    let body = json!({ "token": "old token", "image_hash": "aa11", "config_hash": "" });
    let answer = world.caller().json("KMS.ClearImageCache", body).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0), "the peer's client reads nothing as null");
    assert_eq!(left(&world), ["bb22", "cc33.json", "dd44.json"]);
    let answer = world.caller().get("/prpc/ClearImageCache?token=old%20token&config_hash=cc33").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(left(&world), ["bb22", "dd44.json"]);
    // Field 2 is the image here, but the configuration in the admin service's message.
    let request = LegacyClearImageCacheRequest {
        token: "old token".to_owned(),
        image_hash: "bb22".to_owned(),
        config_hash: String::new(),
    };
    let answer = world.caller().protobuf("ClearImageCache", &request).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(left(&world), ["dd44.json"]);
    let bad = json!({ "token": "old token", "image_hash": "..", "config_hash": "" });
    let text = "failed to clear image cache: invalid cache key".to_owned();
    assert_eq!(world.caller().json("ClearImageCache", bad).await.refusal(), (400, text));
}

#[tokio::test]
async fn wrong_tokens_of_the_older_method_are_counted_recorded_and_slowed_and_the_right_one_passes() {
    let world = with_cache("").await;
    let ask = async |token: &str| {
        let body = json!({ "token": token, "image_hash": "", "config_hash": "" });
        world.caller().json("ClearImageCache", body).await
    };
    for _ in 0..5 {
        assert_eq!(ask("wrong").await.refusal(), (400, "Invalid token".to_owned()));
    }
    let began = Instant::now();
    assert_eq!(ask("wrong").await.refusal(), (400, "Invalid token".to_owned()), "as the peer says it");
    assert!(began.elapsed() > Duration::from_millis(500), "the answer comes late: {:?}", began.elapsed());
    assert_eq!(ask("").await.status, 400, "none is none wrong");
    let recorded = crate::support::eventually("a line for each", async || {
        Some(world.audited("credentials_refused")).filter(|lines| lines.len() == 6)
    })
    .await;
    assert_eq!((&recorded[0]["listener"], &recorded[0]["shown"]), (&json!("main"), &json!("token")));
    let metrics = world.caller().get("/metrics").await;
    assert!(metrics.text().contains("\ncvm_kms_failed_credentials_total 6\n"), "{}", metrics.text());
    let log = std::fs::read_to_string(world.key_file("audit.jsonl")).expect("audit log");
    assert!(!log.contains("wrong") && !log.contains(ADMIN_TOKEN), "{log}");
    let flood = futures_util::future::join_all((0..20).map(|_| ask("wrong")));
    tokio::select! {
        answer = ask(ADMIN_TOKEN) => assert_eq!(answer.status, 200),
        _ = flood => panic!("the right one waits for wrong ones"),
    }
}

#[tokio::test]
async fn without_a_hash_of_its_own_the_older_method_takes_the_operators_token_or_none() {
    let world = with_cache("").await;
    let body = json!({ "token": ADMIN_TOKEN, "image_hash": "all" });
    assert_eq!(world.caller().json("ClearImageCache", body.clone()).await.status, 200);
    let world = with_cache("core.admin = { enabled = false, auth_token = \"\" }").await;
    for token in ["", ADMIN_TOKEN] {
        let refusal = world
            .caller()
            .json("ClearImageCache", json!({ "token": token, "image_hash": "all" }))
            .await
            .refusal();
        assert_eq!(refusal, (400, "Invalid token".to_owned()));
    }
    assert_eq!(left(&world).len(), 4);
}

#[tokio::test]
async fn an_open_admin_listener_has_to_be_asked_for_and_shows() {
    let world = World::ready_with("core.admin = { auth_token = \"\", insecure_no_auth = true }").await;
    assert_eq!(admin(&world).await.json("ClearImageCache", json!({})).await.text(), "null");
    let meta = world.caller().json("GetMeta", json!({})).await.value();
    let relaxed = meta["relaxed_settings"].as_array().expect("a list");
    assert!(relaxed.contains(&Value::from("admin_without_credentials")), "{relaxed:?}");
}

#[tokio::test]
async fn an_address_with_too_many_wrong_credentials_has_to_wait() {
    let world = World::ready().await;
    let caller = admin(&world).await;
    let clear = async |token: &str| {
        caller.send(with(json("ClearImageCache", json!({})), "x-admin-token", token)).await
    };
    for _ in 0..10 {
        is_challenged(&caller.json("ClearImageCache", json!({})).await, "nothing shown is nothing wrong");
    }
    for round in 0..2 {
        for attempt in 0..4 {
            is_challenged(&clear("wrong").await, &format!("{round} {attempt}"));
        }
        assert_eq!(clear(ADMIN_TOKEN).await.status, 200, "the right ones start a new count");
    }
    for attempt in 0..5 {
        is_challenged(&clear("wrong").await, &format!("{attempt}"));
    }
    let mut failed = 13;
    let answer = loop {
        let began = Instant::now();
        let answer = clear("wrong").await;
        failed += 1;
        if answer.status == 429 {
            assert!(
                began.elapsed() > Duration::from_millis(500),
                "a wrong one is slowed down: {:?}",
                began.elapsed()
            );
            break answer;
        }
        // The lock may be over on a slow machine; the next one is longer.
        is_challenged(&answer, &format!("after {failed}"));
        assert!(failed < 20, "never locked out");
    };
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!(wait == 1 || (failed > 14 && wait > 1), "{answer:?} after {failed}");
    let metrics = world.caller().get("/metrics").await;
    let counted = format!("\ncvm_kms_failed_credentials_total {failed}\n");
    assert!(metrics.text().contains(&counted), "{}", metrics.text());
    assert_eq!(clear(ADMIN_TOKEN).await.status, 200);
    let recorded = crate::support::eventually("a line for each", async || {
        Some(world.audited("credentials_refused")).filter(|lines| lines.len() == failed)
    })
    .await;
    assert_eq!((&recorded[0]["listener"], &recorded[0]["shown"]), (&json!("admin"), &json!("token")));
    let log = std::fs::read_to_string(world.key_file("audit.jsonl")).expect("audit log");
    assert!(!log.contains("wrong") && !log.contains(ADMIN_TOKEN), "{log}");
}

#[tokio::test]
async fn the_right_token_passes_at_once_while_wrong_ones_flood_from_its_address() {
    let world = World::ready().await;
    let address = world.admin_address().await;
    let flood: Vec<_> = (0..20)
        .map(|number| {
            let caller = Caller::new(address).plain();
            tokio::spawn(async move {
                loop {
                    let wrong = format!("wrong {number}");
                    let _ = caller.send(with(json("ListFrozen", json!({})), "x-admin-token", &wrong)).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    let caller = admin(&world).await;
    crate::support::eventually("a lock", async || {
        let answer = caller.send(with(json("ListFrozen", json!({})), "x-admin-token", "wrong")).await;
        (answer.status == 429).then_some(())
    })
    .await;
    let operator = crate::support::operator::Operator::of(&world).await;
    let mut took = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        operator.freeze("kms", &[]).await;
        assert!(operator.unfreeze("kms", &[]).await);
        took.push(began.elapsed());
    }
    // A wrong one waits for a second each time. The disk of a busy machine may take long now and then.
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    flood.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn a_flood_of_wrong_passwords_holds_up_neither_callers_nor_an_operator_who_has_logged_in() {
    let mut world = World::ready().await;
    let hash = bcrypt::hash("pass word", 8).expect("bcrypt");
    fs::write(world.path("htpasswd"), format!("alice:{hash}\nbob:{hash}\n")).expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", world.path("htpasswd").display()));
    world.start().await.expect("starts");
    let caller = admin(&world).await;
    let ask = async |credentials: String| {
        caller.send(with(json("ListFrozen", json!({})), "authorization", &basic(&credentials))).await.status
    };
    assert_eq!(ask("alice:pass word".to_owned()).await, 200);
    let flood = futures_util::future::join_all((0..300).map(|number| ask(format!("bob:wrong {number}"))));
    let meta = async {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
            assert_eq!(ask("alice:pass word".to_owned()).await, 200, "known by now, lock or not");
            longest = longest.max(began.elapsed());
        }
        longest
    };
    let (statuses, longest) = tokio::join!(flood, meta);
    let hashed = statuses.iter().filter(|status| **status == 401).count();
    assert!((1..=6).contains(&hashed), "{hashed} were hashed");
    // 503: too many are being checked.
    assert!(statuses.iter().all(|status| [401, 429, 503].contains(status)), "{statuses:?}");
    assert!(longest < Duration::from_secs(20), "{longest:?}");
}

#[tokio::test]
async fn a_password_file_with_which_nobody_could_log_in_is_refused_at_start() {
    let hash = bcrypt::hash("pass word", 4).expect("bcrypt");
    let mut world = World::stopped_with("core.admin.auth_token = \"\"").await;
    let file = world.path("htpasswd");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", file.display()));
    for (content, text) in [
        (format!("\u{feff}alice:{hash}\n").into_bytes(), "starts with a byte order mark"),
        (b"al\xefce:x\n".to_vec(), "is not UTF-8"),
        (format!("alice:{hash}\nalice:{hash}\n").into_bytes(), "line 2 of the htpasswd file names a user"),
        (b"# nobody yet\n".to_vec(), "nobody could log in"),
    ] {
        fs::write(&file, content).expect("file");
        let error = world.start().await.expect_err(text).to_string();
        assert!(error.contains("core.admin.htpasswd_file: ") && error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn an_htpasswd_file_without_users_is_refused_also_beside_a_token() {
    let mut world = World::stopped_with("").await;
    let file = world.path("htpasswd");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", file.display()));
    for content in ["", "\n", "# nobody yet\n"] {
        fs::write(&file, content).expect("file");
        let error = world.start().await.expect_err("no user").to_string();
        assert!(error.starts_with("core.admin.htpasswd_file: the htpasswd file names no user"), "{error}");
    }
}

#[tokio::test]
async fn a_bad_htpasswd_file_is_refused_before_onboarding() {
    let mut world = World::stopped_with("").await;
    let file = world.path("htpasswd");
    fs::write(&file, "alice:plain text\n").expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", file.display()));
    let error = world.start().await.expect_err("no hash").to_string();
    assert!(error.contains("core.admin.htpasswd_file: line 1 of the htpasswd file is not"), "{error}");
}

#[tokio::test]
async fn an_admin_listener_with_broken_credentials_does_not_start() {
    let mut world = World::ready().await;
    world.configure("core.admin.auth_token = \" \"");
    let file = world.path("htpasswd");
    // A missing file is made, but not its directory's obstacle.
    fs::write(world.path("obstacle"), "").expect("file");
    let below = world.path("obstacle").join("htpasswd");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", below.display()));
    let error = world.start().await.expect_err("no file").to_string();
    assert!(error.contains("htpasswd"), "{error}");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", file.display()));
    fs::write(&file, "alice:plain text\n").expect("file");
    let error = world.start().await.expect_err("no hash").to_string();
    assert!(error.contains("core.admin.htpasswd_file: line 1 of the htpasswd file is not"), "{error}");
    assert!(!error.contains("plain text"), "{error}");
}

#[tokio::test]
async fn what_changes_something_is_not_done_by_a_link_or_by_another_sites_page() {
    let world = World::ready().await;
    let caller = admin(&world).await;
    for query in [
        "Freeze?scope=kms&reason=r",
        "Unfreeze?scope=kms",
        "StartShadow?auth_config_json=%7B%7D",
        "StopShadow",
        "RefreshCollateral",
        "LowerClockFloor?reason=r&now=1",
    ] {
        for verb in ["GET", "HEAD"] {
            let answer = caller.send(authorized(request(verb, &format!("/prpc/{query}"), ""))).await;
            assert_eq!(answer.status, 400, "{verb} {query}: {answer:?}");
        }
    }
    assert_eq!(
        caller.send(authorized(request("GET", "/prpc/ListFrozen", ""))).await.text(),
        r#"{"frozen":[]}"#
    );
    let freeze = || authorized(json("Freeze", json!({ "scope": "kms", "reason": "r" })));
    for origin in ["https://evil.example", "null", "http://localhost:1", "localhost"] {
        let answer = caller.send(with(freeze(), "origin", origin)).await;
        assert_eq!(answer.refusal().0, 403, "{origin}");
    }
    // An image on a page or a link in a mail: the browser adds the stored password.
    let kept = basic(&format!("{ADMIN_TOKEN}:"));
    for (headers, status) in [
        (&[("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")][..], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("accept-language", "en")], 403),
        (&[("sec-fetch-site", "none"), ("sec-fetch-user", "?1")], 400),
        (&[("sec-fetch-mode", "cors")], 200),
        (&[], 200),
    ] {
        for verb in ["GET", "HEAD"] {
            let image = request(verb, "/prpc/Admin.ClearImageCache?config_hash=cc33", "");
            let image = with(image, "authorization", &kept);
            let image = headers.iter().fold(image, |call, (name, value)| with(call, name, value));
            let answer = caller.send(image).await;
            assert_eq!(answer.status, status, "{verb} {headers:?}: {answer:?}");
        }
    }
    // Methods that change nothing may be opened in a browser, but not by other pages.
    let typed = with(authorized(request("GET", "/prpc/ListFrozen", "")), "sec-fetch-site", "none");
    assert_eq!(caller.send(typed).await.status, 200);
    let framed = with(authorized(request("GET", "/prpc/ListFrozen", "")), "sec-fetch-site", "cross-site");
    assert_eq!(caller.send(framed).await.status, 403);
    assert!(world.audited("frozen").is_empty());
    let own = format!("http://{}:{}", crate::support::DOMAIN, world.admin_address().await.port());
    assert_eq!(caller.send(with(freeze(), "origin", &own)).await.status, 200);
}

/// A KMS with keys whose admin listener serves HTTPS with these files.
async fn over_https(key: &str, certs: &str, more: &str, prepare: impl FnOnce(&World)) -> World {
    let mut world = World::stopped_with("").await;
    prepare(&world);
    let (key, certs) = (world.path(key), world.path(certs));
    world.configure(&format!("core.admin.tls = {{ key = {key:?}, certs = {certs:?}{more} }}"));
    world.start().await.expect("it starts");
    world.bootstrap().await;
    world.finish().await;
    world
}

/// The certificate of the admin listener.
async fn shown(world: &World) -> Vec<u8> {
    let line = Caller::new(world.admin_address().await).connect().await.expect("a connection");
    line.server_certificate.expect("a certificate").to_vec()
}

#[tokio::test]
async fn a_missing_certificate_is_issued_by_our_root_attested_and_again_at_each_start() {
    let hosts = ", create_if_missing = true, hosts = [\"admin.example\", \"10.9.8.7\"]";
    let mut world = over_https("made/admin.key", "made/admin.crt", hosts, |_| ()).await;
    let root = world.root_keys().ca_spki();
    let mut before: Option<(Vec<u8>, Vec<u8>)> = None;
    for _ in 0..2 {
        let certificate = shown(&world).await;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("DER");
        assert!(certificate::is_signed_by(&certificate, &root));
        assert_eq!(parsed.subject().to_string(), "CN=admin.example");
        let names = parsed.subject_alternative_name().expect("readable").expect("names");
        use x509_parser::extensions::GeneralName::{DNSName, IPAddress};
        assert_eq!(names.value.general_names, [DNSName("admin.example"), IPAddress(&[10, 9, 8, 7])]);
        assert_eq!(ra_tls::special_usage(&certificate).expect("readable").as_deref(), Some("kms:rpc"));
        let evidence = ra_tls::evidence_in(&certificate).expect("readable").expect("evidence");
        let key = ra_tls::spki_of(&certificate).expect("a key");
        assert_eq!(evidence.report_data().expect("64 bytes"), ReportData::ra_tls(&key));
        for (name, mode) in [("made/admin.key", 0o600), ("made/admin.crt", 0o644)] {
            let found = fs::metadata(world.path(name)).expect("a file").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
        let pem = fs::read_to_string(world.path("made/admin.crt")).expect("PEM");
        assert_eq!(certificate::der(&pem).expect("PEM"), certificate);
        if let Some((old_key, old_certificate)) = before.replace((key.clone(), certificate.clone())) {
            assert_eq!(old_key, key, "the key stays");
            assert!(old_certificate != certificate, "the certificate is new");
        }
        world.start().await.expect("it starts again");
    }
    // If the certificate is removed, it is made again for the same key; without its key it is not.
    fs::remove_file(world.path("made/admin.crt")).expect("removed");
    world.start().await.expect("it starts");
    assert_eq!(ra_tls::spki_of(&shown(&world).await).expect("a key"), before.expect("a key").0);
    world.stop().await;
    fs::remove_file(world.path("made/admin.key")).expect("removed");
    assert_eq!(world.start().await.expect_err("no key").to_string(), "core.admin.tls.key cannot be read");
}

#[tokio::test]
async fn an_operators_own_certificate_is_used_as_it_is_and_must_fit_its_key() {
    let key = P256Key::generate();
    let spec = crate::support::identity::spec();
    let own = certificate::self_signed(&spec, &key).expect("a certificate");
    let (pem, der) = (certificate::pem(&own), own.clone());
    let private = key.pem().to_string();
    let world = over_https("own.key", "own.crt", ", create_if_missing = true", |world| {
        fs::write(world.path("own.key"), &private).expect("a file");
        fs::write(world.path("own.crt"), &pem).expect("a file");
    })
    .await;
    assert_eq!(shown(&world).await, der);
    assert_eq!(fs::read_to_string(world.path("own.crt")).expect("a file"), pem, "it stays as it was");
    let caller = Caller::new(world.admin_address().await);
    let call = authorized(json("ListFrozen", json!({})));
    assert_eq!(caller.send(call).await.status, 200);

    let other = P256Key::generate().pem().to_string();
    for (what, key, certs, expected) in [
        ("no key", None, Some(&pem), "core.admin.tls.key cannot be read"),
        ("no certificate", Some(&private), None, "core.admin.tls.certs cannot be read"),
        ("another key", Some(&other), Some(&pem), "tls: "),
        ("no PEM", Some(&pem), Some(&pem), "core.admin.tls.key cannot be read"),
        ("an empty file", Some(&private), Some(&String::new()), "core.admin.tls.certs cannot be read"),
    ] {
        let mut world = World::ready().await;
        world.stop().await;
        let (key_file, certs_file) = (world.path("a.key"), world.path("a.crt"));
        if let Some(text) = key {
            fs::write(&key_file, text).expect("a file");
        }
        if let Some(text) = certs {
            fs::write(&certs_file, text).expect("a file");
        }
        world.configure(&format!("core.admin.tls = {{ key = {key_file:?}, certs = {certs_file:?} }}"));
        let text = toml::to_string(&world.config).expect("TOML");
        let (config, _) = Config::from_toml(&text).expect("a configuration");
        // The guest agent that the preflight calls is served by this thread.
        let preflight = tokio::task::spawn_blocking(move || Preflight::of(&config)).await.expect("an answer");
        let problems: Vec<String> = preflight.problems.iter().map(ToString::to_string).collect();
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{what}: {problems:?}");
        let error = world.start().await.expect_err(what).to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}
