//! The inventory of CVMs, freezes, resolve, platforms, ledger and replicas as operators read them.

use std::sync::Arc;

use crate::support::operator::Operator;
use crate::support::{Answer, World, eventually};
use kms_simulator::Cvm;
use serde_json::{Value, json};

struct Reader(Operator);

impl Reader {
    async fn of(world: &World) -> Self {
        Self(Operator::of(world).await)
    }

    async fn get(&self, path: &str) -> Answer {
        self.0.get(path).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.0.ask("POST", path, body).await
    }

    /// The document at `path`, once the index is as far as the audit log.
    async fn document(&self, path: &str) -> Value {
        self.caught_up().await;
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.value()
    }

    async fn caught_up(&self) {
        eventually("an index with all records", async || {
            let answer = self.get("/api/v1/events?limit=1").await;
            let is_complete = answer.header("x-index-last") == answer.header("x-log-newest");
            (answer.status == 200 && is_complete).then_some(())
        })
        .await;
    }
}

async fn boot(world: &World, cvm: &Arc<Cvm>) -> u16 {
    let caller = world.caller().shows(&world.attested(cvm).await);
    caller.json("GetAppKey", json!({ "api_version": 1 })).await.status
}

/// A KMS that has released keys to app 1 twice and to app 3, and refused app 2.
async fn world() -> World {
    let world = World::ready().await;
    for number in [1, 3] {
        world.allow_app(&world.app(number));
    }
    let mut statuses = Vec::new();
    for number in [1, 1, 2, 3] {
        statuses.push(boot(&world, &world.app(number)).await);
    }
    assert_eq!(statuses, [200, 200, 403, 200]);
    world
}

fn app_id(world: &World, number: u8) -> String {
    hex::encode(world.app(number).app_id())
}

#[tokio::test]
async fn the_inventory_says_who_got_keys_when_and_how_often_also_after_a_restart_and_without_its_index() {
    let mut world = world().await;
    let apps = [3, 1].map(|number| app_id(&world, number));
    let seqs: Vec<_> = world.audited("app_key_released").iter().map(|line| line["seq"].clone()).collect();
    for is_rebuilt in [None, Some(false), Some(true)] {
        if let Some(is_lost) = is_rebuilt {
            world.stop().await;
            if is_lost {
                std::fs::remove_file(world.key_file("events.redb")).expect("an index");
            }
            world.start().await.expect("a start");
        }
        let reader = Reader::of(&world).await;
        let list = reader.document("/api/v1/cvms").await;
        let found: Vec<_> =
            list["cvms"].as_array().expect("a list").iter().map(|cvm| &cvm["app_id"]).collect();
        assert_eq!(found, [&apps[0], &apps[1]], "newest first, and none that was refused");
        assert_eq!(
            (&list["total"], &list["next"], &list["building"]),
            (&json!(2), &Value::Null, &Value::Null)
        );
        let cvm = &list["cvms"][1];
        assert_eq!((&cvm["releases"], &cvm["methods"]["GetAppKey"]), (&json!(2), &json!(2)), "{cvm}");
        assert_eq!((&cvm["last_seq"], &cvm["tcb_status"]), (&seqs[1], &json!("UpToDate")));
        assert_eq!((&cvm["address"], &cvm["tee"]), (&json!("127.0.0.1"), &json!("dstack-tdx")));
        let one = reader.document(&format!("/api/v1/cvms/{}", cvm["id"].as_str().expect("an id"))).await;
        assert_eq!(one, *cvm);
        let image = cvm["os_image_hash"].as_str().expect("a hash");
        let device = cvm["device_id"].as_str().expect("a hash");
        for (query, count) in [
            (format!("app={}", apps[1]), 1),
            (format!("image={image}&tcb=UpToDate&since=1h"), 2),
            (format!("device={device}&limit=1"), 1),
            ("tcb=OutOfDate".to_owned(), 0),
            ("since=2099-01-01".to_owned(), 0),
            (format!("cursor={}", seqs[2]), 1),
            ("cursor=18446744073709551615".to_owned(), 2),
            ("cursor=0".to_owned(), 0),
        ] {
            let page = reader.document(&format!("/api/v1/cvms?{query}")).await;
            assert_eq!(page["cvms"].as_array().expect("a list").len(), count, "{query}");
        }
    }
    let reader = Reader::of(&world).await;
    for (path, status, told) in [
        ("/api/v1/cvms/x", 400, "the id of a CVM has 32 hex digits"),
        (
            "/api/v1/cvms/00000000000000000000000000000000",
            404,
            "CVM 00000000000000000000000000000000: not found",
        ),
        ("/api/v1/cvms?app=xyz", 400, "app, image and device must be hexadecimal digits"),
        ("/api/v1/cvms?cursor=18446744073709551616", 400, "cursor must be `next` of an earlier response"),
    ] {
        assert_eq!(reader.get(path).await.refusal(), (status, told.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_proxy_is_told_whether_an_app_may_be_routed_to_by_the_rules_of_now() {
    let world = world().await;
    let reader = Reader::of(&world).await;
    reader.caught_up().await;
    let (app, other) = (app_id(&world, 1), app_id(&world, 2));
    for path in [format!("/v1/resolve/{app}"), format!("/api/v1/resolve/0x{}", app.to_uppercase())] {
        let answer = reader.get(&path).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, "private, max-age=5"), "{path}");
        let resolved = answer.value();
        assert_eq!((&resolved["app"], &resolved["tcb_status"]), (&json!(app), &json!("UpToDate")));
        assert_eq!(resolved["policy_checked"], true);
    }
    let denied = async |path: &str| {
        let answer = reader.get(path).await;
        assert_eq!(answer.status, 403, "{path}");
        answer.header("x-error-code").to_owned()
    };
    assert_eq!(denied(&format!("/v1/resolve/{other}")).await, "never_released");
    let operator = Operator::of(&world).await;
    let app_bytes = world.app(1).app_id().to_vec();
    for (scope, value) in [("app", &app_bytes[..]), ("kms", &[])] {
        operator.freeze(scope, value).await;
        assert_eq!(denied(&format!("/v1/resolve/{app}")).await, "frozen", "{scope}");
        assert!(operator.unfreeze(scope, value).await);
    }
    assert_eq!(reader.get(&format!("/v1/resolve/{app}")).await.status, 200);
    world.allowlist.change(|rules| {
        let apps = rules["apps"].as_object_mut().expect("apps");
        apps.retain(|id, _| !id.ends_with(&app));
    });
    eventually("the new rules", async || {
        // A live request makes the allowlist read its file again.
        boot(&world, &world.app(3)).await;
        (reader.get(&format!("/v1/resolve/{app}")).await.status == 403).then_some(())
    })
    .await;
    assert_eq!(denied(&format!("/v1/resolve/{app}")).await, "app_not_registered");
    let answer = reader.get("/v1/resolve/00").await;
    assert_eq!(answer.refusal(), (400, "an app id has 40 hexadecimal digits".to_owned()));
    assert_eq!(
        reader.get(&format!("/v1/resolve/{app}?max_age=1y")).await.refusal(),
        (400, "max_age must be a span such as 30m, 12h or 90d".to_owned())
    );
}

#[tokio::test]
async fn no_app_is_routed_to_by_an_allowlist_that_has_changed_and_nobody_has_read() {
    let world = world().await;
    let reader = Reader::of(&world).await;
    reader.caught_up().await;
    let app = app_id(&world, 1);
    let resolved = async || reader.get(&format!("/v1/resolve/{app}")).await;
    assert_eq!(resolved().await.status, 200);
    let allowing = std::fs::read_to_string(world.allowlist.path()).expect("an allowlist");
    world.allowlist.change(|rules| {
        let apps = rules["apps"].as_object_mut().expect("apps");
        apps.retain(|id, _| !id.ends_with(&app));
    });
    // No guest asks, and no time passes.
    let answer = resolved().await;
    assert_eq!((answer.status, answer.header("x-error-code")), (403, "app_not_registered"));
    for (text, status, code) in [("{", 403, "allowlist_unusable"), (&allowing, 200, "")] {
        world.allowlist.write_text(text);
        let answer = resolved().await;
        assert_eq!(answer.status, status, "{text}");
        if status != 200 {
            assert_eq!(answer.header("x-error-code"), code);
        }
    }
}

#[tokio::test]
async fn a_freeze_is_previewed_made_listed_and_lifted() {
    let world = world().await;
    let reader = Reader::of(&world).await;
    reader.caught_up().await;
    let app = app_id(&world, 1);
    for (body, releases, cvms) in [
        (json!({ "scope": "app", "target": app }), 2, 1),
        (json!({ "scope": "all" }), 3, 2),
        (json!({ "scope": "app", "target": app_id(&world, 2) }), 0, 0),
    ] {
        let preview = reader.post("/api/v1/freezes/preview", body.clone()).await;
        assert_eq!(preview.status, 200, "{}", preview.text());
        let preview = preview.value();
        let counts = (&preview["releases_24h"], &preview["cvm_count"]);
        assert_eq!(counts, (&json!(releases), &json!(cvms)), "{body}");
        assert_eq!(preview["cvms"].as_array().expect("a list").len(), cvms);
    }
    let body =
        json!({ "scope": "app", "target": app, "reason": "a test", "expires_at": "2099-01-01T00:00:00Z" });
    let made = reader.post("/api/v1/freezes", body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let list = reader.document("/api/v1/freezes").await;
    assert_eq!(list["freezes"], json!([made.value()]));
    let freeze = &list["freezes"][0];
    assert_eq!((&freeze["id"], &freeze["target"]), (&json!(format!("app-{app}")), &json!(app)));
    assert_eq!((&freeze["by"], &freeze["expires_at"]), (&json!("token"), &json!("2099-01-01T00:00:00Z")));
    assert_eq!(boot(&world, &world.app(1)).await, 403);
    let lift = format!("/api/v1/freezes/app-{app}/lift");
    assert_eq!(reader.post(&lift, json!({ "reason": "over" })).await.value()["lifted"], true);
    assert_eq!(world.audited("unfrozen")[0]["reason"], "over");
    assert_eq!(boot(&world, &world.app(1)).await, 200);

    let all = reader.post("/api/v1/freezes", json!({ "scope": "all", "reason": "a test" })).await.value();
    assert_eq!((&all["id"], &all["scope"], &all["target"]), (&json!("all"), &json!("all"), &json!("")));
    assert_eq!(reader.post("/api/v1/freezes/all/lift", json!({})).await.status, 200);
    for (path, body, status, told) in [
        (&*lift, json!({}), 404, format!("freeze of app {app}: not found")),
        (
            "/api/v1/freezes/x/lift",
            json!({}),
            400,
            "scope must be app, instance, device, os_image or kms".to_owned(),
        ),
        (
            "/api/v1/freezes",
            json!({ "scope": "app", "target": "00", "reason": "x" }),
            400,
            "value must be 20 bytes for this scope, got 1".to_owned(),
        ),
        (
            "/api/v1/freezes",
            json!({ "scope": "all", "reason": "x", "expires_at": "soon" }),
            400,
            "expires_at must be a time as in RFC 3339".to_owned(),
        ),
        (
            "/api/v1/freezes",
            json!({ "scope": "all", "reason": "" }),
            400,
            "reason must not be empty: other operators will need it".to_owned(),
        ),
        (
            "/api/v1/freezes/preview",
            json!({ "scope": "app", "target": "zz" }),
            400,
            "target must be hexadecimal digits".to_owned(),
        ),
    ] {
        assert_eq!(reader.post(path, body.clone()).await.refusal(), (status, told), "{path} {body}");
    }
    let unknown = reader.post("/api/v1/freezes/preview", json!({ "scope": "all", "x": 1 })).await.refusal();
    assert!(unknown.0 == 400 && unknown.1.starts_with("unknown field `x`"), "{unknown:?}");
    assert!(world.audited("frozen").len() == 2, "a refused freeze is none");
}

#[tokio::test]
async fn platforms_ledger_and_replicas_are_what_the_kms_knows() {
    let world = world().await;
    let reader = Reader::of(&world).await;
    let platforms = reader.document("/api/v1/platforms").await;
    let collateral = &platforms["collateral"][0];
    assert!(collateral["expires_in_s"].as_u64().is_some_and(|left| left > 0), "{platforms}");
    assert_eq!(platforms["last_refresh"]["ok"], true);
    let up_to_date = &platforms["platforms"][0];
    assert_eq!((&up_to_date["tcb_status"], &up_to_date["cvms"]), (&json!("UpToDate"), &json!(2)));

    let ledger = reader.document("/api/v1/ledger").await;
    assert_eq!(
        (&ledger["healthy"], &ledger["problem"], &ledger["vouched"]),
        (&json!(true), &Value::Null, &json!(true))
    );
    let size = world.audit().len();
    assert_eq!(ledger["size"], size);
    let checkpoint = ledger["checkpoint"].as_str().expect("text");
    let mut lines = checkpoint.lines();
    assert_eq!(lines.next(), ledger["origin"].as_str());
    assert_eq!((lines.next(), lines.next()), (Some(&*size.to_string()), ledger["root"].as_str()));
    let files = ledger["files"].as_array().expect("files");
    assert_eq!(files.len(), 1);
    let file = (&files[0]["name"], &files[0]["first"], &files[0]["last"], &files[0]["archived"]);
    assert_eq!(file, (&json!("audit.jsonl"), &json!(1), &json!(size), &json!(false)));

    let replicas = reader.document("/api/v1/replicas").await;
    assert_eq!((&replicas["self"]["ready"], &replicas["handovers"]), (&json!(true), &json!([])));
    let replica = world.replica();
    let caller = world.caller().shows(&world.attested(&replica).await);
    assert_eq!(caller.json("GetKmsKey", json!({})).await.status, 200);
    let stranger = world.app(9);
    let caller = world.caller().shows(&world.attested(&stranger).await);
    assert_eq!(caller.json("GetKmsKey", json!({})).await.status, 403);
    let replicas = reader.document("/api/v1/replicas").await;
    let handovers = replicas["handovers"].as_array().expect("a list");
    assert_eq!(handovers.len(), 2, "{replicas}");
    let received = handovers.iter().find(|handover| handover["allowed"] == true).expect("one");
    assert_eq!(received["seq"], world.audited("kms_key_released")[0]["seq"]);
    let refused = handovers.iter().find(|handover| handover["allowed"] == false).expect("one");
    assert!(refused["denial_id"].is_string() && refused["seq"].is_null(), "{refused}");
    let root = reader.document("/api/v1/overview").await["root_fingerprint"].clone();
    assert_eq!(replicas["self"]["root_fingerprint"], root);
}

#[tokio::test]
async fn a_denial_is_explained_on_request_as_by_the_method() {
    let world = world().await;
    let reader = Reader::of(&world).await;
    let id = reader.document("/api/v1/denials").await["denials"][0]["id"].clone();
    let explained = reader.post("/api/v1/explain", json!({ "denial_id": id })).await;
    assert_eq!(
        (explained.status, &explained.value()["verdict"]),
        (200, &json!("denied")),
        "{}",
        explained.text()
    );
    assert_eq!(world.audited("explained").len(), 1, "as by the method, it is recorded");
    let nothing = reader.post("/api/v1/explain", json!({})).await.refusal();
    assert_eq!(nothing, (400, "exactly one of evidence, certificate and denial_id must be given".to_owned()));
}
