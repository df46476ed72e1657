//! Credentials of a domain: what they see and change, and that it is nothing of another domain.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use cvm_kms::api::routes::{ROUTES, Verb};
use cvm_kms::api::{METHODS, Reach, Role, Service};
use kms_simulator::Cvm;
use serde_json::{Value, json};

use crate::access_cases::codec::{Codec, Message};
use crate::credentials::{Admin, CREDENTIALS, ME};
use crate::support::http::{post, with};
use crate::support::{ADMIN_TOKEN, World, eventually};

/// A KMS with a domain `sandbox`, two apps in it and two outside; the first of each is allowed and has keys, the second is refused.
struct Teams {
    world: World,
    admin: Admin,
    sandbox: [Arc<Cvm>; 2],
    default: [Arc<Cvm>; 2],
}

fn id(app: &Cvm) -> String {
    hex::encode(app.app_id())
}

async fn asks_for_keys(world: &World, app: &Cvm) -> u16 {
    world.caller().shows(&world.attested(app).await).json("GetAppKey", json!({})).await.status
}

impl Teams {
    async fn gather() -> Self {
        let mut world = World::ready().await;
        let [one, two, three, four] = [1, 2, 3, 4].map(|number| world.app(number));
        world.allow_app(&one);
        world.allow_app(&three);
        let apps = format!("apps = ['{}', '{}']", id(&one), id(&two));
        world.configure(&format!("[domains.sandbox]\n{apps}\nallow_dev_images = true\n[domains.prod]"));
        world.start().await.expect("it starts again");
        for (app, status) in [(&one, 200), (&two, 403), (&three, 200), (&four, 403)] {
            assert_eq!(asks_for_keys(&world, app).await, status);
        }
        let admin = Admin::of(&world).await;
        let teams = Self { world, admin, sandbox: [one, two], default: [three, four] };
        eventually("the index", async || {
            let denials = teams.whole("/api/v1/denials").await;
            let cvms = teams.whole("/api/v1/cvms").await;
            let counts = [&denials["denials"], &cvms["cvms"]].map(|it| it.as_array().map_or(0, Vec::len));
            (counts == [2, 2]).then_some(())
        })
        .await;
        teams
    }

    async fn whole(&self, path: &str) -> Value {
        self.admin.done("GET", path, Value::Null).await
    }

    /// The token of a new credential of a domain.
    async fn credential(&self, domain: &str, role: Role) -> String {
        let name = format!("{domain}-{}", role.name());
        let body = json!({ "name": name, "role": role.name(), "domain": domain });
        self.admin.done("POST", CREDENTIALS, body).await["token"].as_str().expect("a token").to_owned()
    }

    /// What a credential of a domain gets.
    async fn gets(&self, token: &str, path: &str) -> (u16, Value) {
        let answer = self.admin.ask("GET", path, &Value::Null, token).await;
        (answer.status, answer.value())
    }
}

/// The texts of one field in a list.
fn texts(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_a_domain_uses_nothing_that_is_about_the_whole_kms() {
    let teams = Teams::gather().await;
    for domain in ["sandbox", "default"] {
        let token = teams.credential(domain, Role::Owner).await;
        let text =
            format!("your credential is limited to the domain {domain}, and this is about the whole KMS");
        for row in METHODS.iter().filter(|row| row.service == Service::Admin) {
            for codec in Codec::ALL {
                let caller =
                    if codec == Codec::Grpc { teams.admin.0.clone().http2() } else { teams.admin.0.clone() };
                let call = codec.request(Service::Admin, row.name, &Message::empty());
                let answer = caller.send(with(call, "authorization", &format!("Bearer {token}"))).await;
                let is_refused = codec.told(&answer).text == text;
                assert_eq!(is_refused, row.reach == Reach::WholeKms, "{} {codec:?}: {answer:?}", row.name);
            }
        }
        let health =
            with(post("/grpc.health.v1.Health/Check", vec![0; 5]), "content-type", "application/grpc");
        let health = with(with(health, "te", "trailers"), "authorization", &format!("Bearer {token}"));
        let answer = teams.admin.0.clone().http2().send(health).await;
        let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
        assert!(status.is_some_and(|status| status == "0"), "{answer:?}");
        for row in ROUTES.iter().filter(|row| row.service == Service::Admin) {
            let guarded = row.verbs.iter().filter(|(_, access)| access.role().is_some());
            let path = row
                .path
                .replace("entries/{*tile}", "entries/000.p/1")
                .replace("{*tile}", "0/000.p/1")
                .replace("{name}", "nobody")
                .replace("{seq}", "1")
                .replace("{id}", "x")
                .replace("{app}", &id(&teams.default[0]));
            let path = if path.ends_with("/stream") { format!("{path}?limit=0") } else { path };
            let verbs = guarded.flat_map(|(verb, _)| match verb {
                Verb::Get => &["GET", "HEAD"][..],
                Verb::Post => &["POST"],
                Verb::Put => &["PUT"],
                Verb::Patch => &["PATCH"],
                Verb::Delete => &["DELETE"],
            });
            for verb in verbs {
                let body = if *verb == "GET" || *verb == "HEAD" {
                    Value::Null
                } else {
                    json!({ "no_such_field": 1 })
                };
                let answer = teams.admin.ask(verb, &path, &body, &token).await;
                let is_refused = answer.status == 403 && answer.header("x-error-code") == "other_domain";
                if row.reach == Reach::WholeKms {
                    assert!(is_refused, "{verb} {path}: {answer:?}");
                }
                assert!(
                    !is_refused || row.reach == Reach::WholeKms || path.contains("/epochs/apps/"),
                    "{verb} {path}: {answer:?}"
                );
                assert!(![401, 500].contains(&answer.status), "{verb} {path}: {answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_domain_sees_its_own_releases_denials_and_cvms() {
    let teams = Teams::gather().await;
    let owners = [("sandbox", &teams.sandbox, &teams.default), ("default", &teams.default, &teams.sandbox)];
    for (domain, [own, refused], [other, other_refused]) in owners {
        let token = teams.credential(domain, Role::Owner).await;
        let (_, releases) = teams.gets(&token, "/api/v1/releases").await;
        assert_eq!(texts(&releases["releases"], "app_id"), [id(own)], "{domain}");
        assert_eq!(releases["releases"][0]["domain"], domain);
        let (_, denials) = teams.gets(&token, "/api/v1/denials").await;
        assert_eq!(texts(&denials["denials"], "app_id"), [id(refused)], "{domain}");
        assert_eq!(denials["denials"][0]["domain"], domain);
        let (_, cvms) = teams.gets(&token, "/api/v1/cvms").await;
        assert_eq!(texts(&cvms["cvms"], "app_id"), [id(own)], "{domain}");
        assert_eq!((&cvms["total"], &cvms["cvms"][0]["domain"]), (&json!(1), &json!(domain)));
        for path in ["releases", "denials", "cvms"] {
            let elsewhere = if domain == "default" { "sandbox" } else { "default" };
            for asked in
                [format!("domain={elsewhere}"), format!("app={}", id(other)), "domain=prod".to_owned()]
            {
                let (status, found) = teams.gets(&token, &format!("/api/v1/{path}?{asked}")).await;
                assert_eq!((status, texts(&found[path], "app_id").len()), (200, 0), "{path} {asked}");
            }
        }

        // Ids that belong to the other one.
        let all = teams.whole("/api/v1/releases").await;
        let of = |list: &Value, app: &Cvm, field: &str| {
            let items = list.as_array().expect("a list");
            let item = items.iter().find(|item| item["app_id"] == id(app)).expect("an item");
            item[field].as_str().map_or_else(|| item[field].to_string(), str::to_owned)
        };
        let seq = [own, other].map(|app| of(&all["releases"], app, "seq"));
        let all = teams.whole("/api/v1/denials").await;
        let denial = [refused, other_refused].map(|app| of(&all["denials"], app, "id"));
        let all = teams.whole("/api/v1/cvms").await;
        let cvm = [own, other].map(|app| of(&all["cvms"], app, "id"));
        for (path, [known, foreign]) in [("releases", &seq), ("denials", &denial), ("cvms", &cvm)] {
            assert_eq!(teams.gets(&token, &format!("/api/v1/{path}/{known}")).await.0, 200, "{path}");
            let (status, told) = teams.gets(&token, &format!("/api/v1/{path}/{foreign}")).await;
            assert_eq!(status, 404, "{path}: {told}");
            let unknown = if path == "releases" { "999999".to_owned() } else { "0".repeat(foreign.len()) };
            let text = |told: &Value, id: &str| told["error"].as_str().expect("a text").replace(id, "");
            let (_, unknown_told) = teams.gets(&token, &format!("/api/v1/{path}/{unknown}")).await;
            assert_eq!(text(&told, foreign), text(&unknown_told, &unknown), "no oracle");
        }
        assert_eq!(teams.gets(&token, &format!("/v1/resolve/{}", id(own))).await.0, 200);
        let (status, told) = teams.gets(&token, &format!("/v1/resolve/{}", id(other))).await;
        assert_eq!((status, &told["code"]), (403, &json!("never_released")), "{told}");

        let listed = teams.admin.ask("POST", "/prpc/ListDenials?json", &json!({}), &token).await.value();
        assert_eq!(listed["denials"].as_array().map(Vec::len), Some(1), "{listed}");
        let explain = |id: &str| json!({ "denial_id": id });
        let [known, foreign] = &denial;
        for (path, denial, status) in
            [("/prpc/Explain?json", known, 200), ("/prpc/Explain?json", foreign, 400)]
        {
            let answer = teams.admin.ask("POST", path, &explain(denial), &token).await;
            assert_eq!(answer.status, status, "{denial}: {}", answer.text());
        }
        let (pem, _) = teams.world.attested(other).await.pem();
        let answer = teams
            .admin
            .ask("POST", "/api/v1/explain", &json!({ "certificate": hex::encode(pem) }), &token)
            .await;
        assert_eq!(
            (answer.status, answer.header("x-error-code")),
            (403, "other_domain"),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_kms_is_in_no_domain_also_after_a_restart() {
    let mut teams = Teams::gather().await;
    let token = teams.credential("default", Role::Owner).await;
    let identity = teams.world.attested(&teams.default[0]).await;
    let asked = teams.world.caller().shows(&identity).json("GetKmsKey", json!({})).await;
    assert_eq!(asked.status, 403, "{asked:?}");
    for _ in 0..2 {
        let of_kms = eventually("the denial in the index", async || {
            let all = teams.whole("/api/v1/denials").await["denials"].clone();
            let all = all.as_array().expect("a list");
            all.iter().find(|denial| denial["role"] == "kms").filter(|_| all.len() == 3).cloned()
        })
        .await;
        assert_eq!((&of_kms["app_id"], &of_kms["domain"]), (&json!(id(&teams.default[0])), &Value::Null));
        let (_, own) = teams.gets(&token, "/api/v1/denials").await;
        assert_eq!(texts(&own["denials"], "app_id"), [id(&teams.default[1])], "{own}");
        let (status, _) =
            teams.gets(&token, &format!("/api/v1/denials/{}", of_kms["id"].as_str().expect("an id"))).await;
        assert_eq!(status, 404);
        let events = eventually("the denial in the index of events", async || {
            let (_, events) = teams.gets(&token, "/api/v1/events?type=denied").await;
            events.as_array().is_some_and(|events| !events.is_empty()).then_some(events)
        })
        .await;
        assert_eq!(texts(&events, "app_id"), [id(&teams.default[1])], "{events}");
        teams.world.start().await.expect("it starts again");
        teams.admin = Admin::of(&teams.world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_domain_sees_its_own_events_on_pages_and_streams() {
    let teams = Teams::gather().await;
    let token = teams.credential("sandbox", Role::Owner).await;
    let said =
        teams.admin.ask("POST", "/api/v1/new_event", &json!({ "message": "from sandbox" }), &token).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(teams.world.audited("reported")[0]["domain"], "sandbox");
    teams.admin.done("POST", "/api/v1/new_event", json!({ "message": "from the KMS" })).await;
    let of_sandbox = ["app_key_released", "denied", "credential_created", "reported"];
    let own = eventually("the index", async || {
        let (status, own) = teams.gets(&token, "/api/v1/events").await;
        assert_eq!(status, 200, "{own}");
        (own.as_array().map(Vec::len) == Some(of_sandbox.len())).then_some(own)
    })
    .await;
    assert_eq!(texts(&own, "type"), of_sandbox, "{own}");
    let all = teams.whole("/api/v1/events").await;
    assert!(all.as_array().is_some_and(|all| all.len() > 6), "{all}");

    // Cursors of the whole log show no more.
    let newest =
        all.as_array().and_then(|all| all.last()).expect("an event")["seq"].as_u64().expect("a number");
    for cursor in 1..=newest + 1 {
        for path in ["events", "audit-logs"] {
            let (status, page) = teams.gets(&token, &format!("/api/v1/{path}?cursor={cursor}")).await;
            assert_eq!(status, 200, "{page}");
            assert!(texts(&page, "type").iter().all(|kind| of_sandbox.contains(&&**kind)), "{page}");
            assert!(!page.to_string().contains(&id(&teams.default[0])), "{page}");
            assert!(!page.to_string().contains("from the KMS"), "{page}");
        }
    }
    for asked in ["domain=default", "type=started", &format!("app_id={}", id(&teams.default[0]))] {
        assert_eq!(teams.gets(&token, &format!("/api/v1/events?{asked}")).await, (200, json!([])), "{asked}");
    }
    let of_whole = teams.whole("/api/v1/events?domain=sandbox").await;
    assert_eq!(of_whole, own, "the same filter for others");

    // A stream from the beginning, and from the index.
    for after in ["0", "1"] {
        let mut stream = TcpStream::connect(teams.admin.0.address()).expect("a connection");
        stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
        let call = format!(
            "GET /api/v1/events/stream?limit={} HTTP/1.0\r\nhost: kms\r\nlast-event-id: {after}\r\nauthorization: Bearer {token}\r\n\r\n",
            of_sandbox.len()
        );
        stream.write_all(call.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it ends after as many events");
        assert_eq!(text.matches("\nid: ").count(), of_sandbox.len(), "{text}");
        assert!(text.contains("from sandbox") && !text.contains("from the KMS"), "{text}");
        assert!(!text.contains(&id(&teams.default[0])) && !text.contains(&id(&teams.default[1])), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_reader_may_see_less_because_of_a_new_domain() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let body = json!({ "name": "team", "role": "viewer", "domain": "default" });
    let token = admin.done("POST", CREDENTIALS, body).await["token"].as_str().expect("a token").to_owned();
    let mut stream = TcpStream::connect(admin.0.address()).expect("a connection");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
    let call =
        format!("GET /api/v1/events/stream HTTP/1.0\r\nhost: kms\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(call.as_bytes()).expect("sent");
    let report = async |text: &str| {
        admin.done("POST", "/api/v1/new_event", json!({ "message": text })).await;
    };
    let mut reader = stream.try_clone().expect("the same connection");
    let (told, read) = std::sync::mpsc::sync_channel(1);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let mut part = [0; 4096];
        loop {
            let length = reader.read(&mut part).expect("the stream, or its end");
            if length == 0 {
                return text;
            }
            text.push_str(&String::from_utf8_lossy(&part[..length]));
            // A text that finds no room is part of the next one.
            let _ = told.try_send(text.clone());
        }
    });
    // With one domain it reads what is about the whole KMS, once the stream is open.
    eventually("the first report", async || {
        report("of one domain").await;
        read.try_iter().last().filter(|text| text.contains("of one domain"))
    })
    .await;
    let rules = json!({ "name": "prod", "rules": {} });
    admin.done("POST", "/api/v1/domains", rules).await;
    report("of the whole KMS").await;
    let all = tokio::task::spawn_blocking(|| reading.join().expect("it ends")).await.expect("joined");
    assert!(all.contains("of one domain") && !all.contains("of the whole KMS"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_a_domain_freezes_and_renews_only_its_apps() {
    let teams = Teams::gather().await;
    let token = teams.credential("sandbox", Role::Owner).await;
    let instance = hex::encode(teams.sandbox[0].instance_id());
    for (scope, target, status) in [
        ("all", String::new(), 403),
        ("app", id(&teams.default[0]), 403),
        ("instance", instance, 403),
        ("device", "00".repeat(32), 403),
        ("os_image", "00".repeat(32), 403),
        ("app", id(&teams.sandbox[0]), 200),
    ] {
        let body = json!({ "scope": scope, "target": target, "reason": "a test" });
        let preview = json!({ "scope": scope, "target": target });
        for (path, body) in [("/api/v1/freezes/preview", preview), ("/api/v1/freezes", body)] {
            let answer = teams.admin.ask("POST", path, &body, &token).await;
            assert_eq!(answer.status, status, "{path} {scope}: {}", answer.text());
            let code = if status == 403 { "other_domain" } else { "" };
            assert_eq!(answer.header("x-error-code"), code, "{path} {scope}");
        }
    }
    assert_eq!(teams.world.audited("frozen").len(), 1);
    // In the default domain are also apps that nobody has seen: they must not take the room for the freezes of others.
    let of_default = teams.credential("default", Role::Owner).await;
    let freeze =
        |number: u32| json!({ "scope": "app", "target": format!("{number:040x}"), "reason": "many" });
    for number in 0..100 {
        let answer = teams.admin.ask("POST", "/api/v1/freezes", &freeze(number), &of_default).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
    }
    let answer = teams.admin.ask("POST", "/api/v1/freezes", &freeze(100), &of_default).await;
    assert!(
        answer.status == 400 && answer.text().contains("100 freezes of the domain default"),
        "{}",
        answer.text()
    );
    let answer = teams.admin.ask("POST", "/api/v1/freezes", &freeze(7), &of_default).await;
    assert_eq!(answer.status, 200, "one that is in force can be prolonged: {}", answer.text());
    let other = json!({ "scope": "app", "target": id(&teams.default[0]), "reason": "another" });
    teams.admin.done("POST", "/api/v1/freezes", other).await;
    let (_, listed) = teams.gets(&token, "/api/v1/freezes").await;
    assert_eq!(texts(&listed["freezes"], "target"), [id(&teams.sandbox[0])], "{listed}");
    let listed = teams.admin.ask("POST", "/prpc/ListFrozen?json", &json!({}), &token).await.value();
    assert_eq!(listed["frozen"].as_array().map(Vec::len), Some(1), "{listed}");

    for (app, status) in [(&teams.sandbox[0], 200), (&teams.default[0], 403)] {
        let path = format!("/api/v1/epochs/apps/{}", id(app));
        let chosen = teams.admin.ask("PUT", &path, &json!({ "app_epoch": 1 }), &token).await;
        assert_eq!(chosen.status, status, "{}", chosen.text());
        assert_eq!(teams.gets(&token, &path).await.0, status);
        teams.admin.done("PUT", &path, json!({ "app_epoch": 2 })).await;
    }
    let (_, listed) = teams.gets(&token, "/api/v1/epochs/apps").await;
    assert_eq!(texts(&listed["apps"], "app_id"), [id(&teams.sandbox[0])], "{listed}");
}

/// What the routes and methods that credentials of one domain may use answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// What is in the domain, and nothing else.
    OfDomain,
    /// Nothing of any domain: hashes, the state of this process, the caller itself.
    OfNone,
    /// It changes something, and answers with what it changed.
    Changes,
}

/// Every route and method with [`Reach::Domain`]: one that is added is classified here, after a look at what it shows.
const CONTENT: &[(&str, Content)] = &{
    use Content::{Changes, OfDomain, OfNone};
    [
        ("/livez", OfNone),
        ("/readyz", OfNone),
        ("/api/v1/health", OfNone),
        ("/api/v1/policy", OfDomain),
        ("/api/v1/policy/check", Changes),
        ("/api/v1/policy/bundles", OfDomain),
        ("/api/v1/policy/bundles/fetch", Changes),
        ("/log/checkpoint", OfNone),
        ("/log/tile/{*tile}", OfNone),
        ("/logs", OfDomain),
        ("/api/v1/events", OfDomain),
        ("/api/v1/events/stream", OfDomain),
        ("/api/v1/new_event", Changes),
        ("/api/v1/audit-logs", OfDomain),
        ("/api/v1/me", OfNone),
        ("/api/v1/approvals", OfDomain),
        ("/api/v1/approvals/{id}", OfDomain),
        ("/api/v1/credentials", OfDomain),
        ("/api/v1/credentials/{name}/rotate", Changes),
        ("/api/v1/credentials/{name}/revoke", Changes),
        ("/api/v1/overview", OfDomain),
        ("/api/v1/history", OfDomain),
        ("/api/v1/releases", OfDomain),
        ("/api/v1/releases/{seq}", OfDomain),
        ("/api/v1/denials", OfDomain),
        ("/api/v1/denials/{id}", OfDomain),
        ("/api/v1/explain", OfDomain),
        ("/api/v1/cvms", OfDomain),
        ("/api/v1/cvms/{id}", OfDomain),
        ("/api/v1/resolve/{app}", OfDomain),
        ("/v1/resolve/{app}", OfDomain),
        ("/api/v1/freezes", OfDomain),
        ("/api/v1/freezes/preview", OfDomain),
        ("/api/v1/epochs/apps", OfDomain),
        ("/api/v1/epochs/apps/{app}", OfDomain),
        ("/api/v1/domains", OfDomain),
        ("/api/v1/domains/{name}", OfDomain),
        ("Explain", OfDomain),
        ("ListDenials", OfDomain),
        ("Freeze", Changes),
        ("ListFrozen", OfDomain),
    ]
};

#[test]
fn what_credentials_of_a_domain_may_use_is_classified() {
    let routes = ROUTES.iter().filter(|row| row.reach == Reach::Domain).map(|row| row.path);
    let methods = METHODS.iter().filter(|row| row.reach == Reach::Domain).map(|row| row.name);
    let served: Vec<_> = routes.chain(methods).collect();
    let classified: Vec<_> = CONTENT.iter().map(|(name, _)| *name).collect();
    assert_eq!(served, classified, "a new one: look at what it shows, and classify it");
}

/// What must appear in no answer to a credential of another domain.
const MARK: &str = "mark-of-others";

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_to_a_credential_of_a_domain_has_anything_of_others() {
    let teams = Teams::gather().await;
    let admin = &teams.admin;
    // Something with the mark in the other domain, in a domain of its name, and of the whole KMS.
    admin.done("POST", "/api/v1/domains", json!({ "name": MARK })).await;
    for domain in [Value::Null, json!("default"), json!(MARK)] {
        let name = format!("{MARK}-{}", domain.as_str().unwrap_or("kms").len());
        admin.done("POST", CREDENTIALS, json!({ "name": name, "role": "viewer", "domain": domain })).await;
    }
    admin.done("POST", "/api/v1/new_event", json!({ "message": MARK })).await;
    for (scope, target) in [("app", id(&teams.default[0])), ("device", "00".repeat(32))] {
        let freeze = json!({ "scope": scope, "target": target, "reason": MARK });
        admin.done("POST", "/api/v1/freezes", freeze).await;
    }
    let other_app = format!("/api/v1/epochs/apps/{}", id(&teams.default[0]));
    admin.done("PUT", &other_app, json!({ "app_epoch": 3 })).await;
    let shadow = json!({ "auth_config_json": "{}", "name": MARK });
    let started = admin.ask("POST", "/prpc/StartShadow?json", &shadow, ADMIN_TOKEN).await;
    assert_eq!(started.status, 200, "{}", started.text());
    let own_freeze = json!({ "scope": "app", "target": id(&teams.sandbox[1]), "reason": "own" });
    admin.done("POST", "/api/v1/freezes", own_freeze).await;

    let token = teams.credential("sandbox", Role::Owner).await;
    eventually("the index", async || {
        let (_, events) = teams.gets(&token, "/api/v1/events").await;
        (texts(&events, "type").iter().filter(|kind| *kind == "credential_created").count() == 1)
            .then_some(())
    })
    .await;
    let mut of_others = vec![MARK.to_owned()];
    for other in &teams.default {
        of_others.extend([id(other), hex::encode(other.instance_id())]);
    }
    let clean = |what: &str, text: &str| {
        for mark in &of_others {
            assert!(!text.contains(mark), "{what} has {mark}: {text}");
        }
    };
    let seq = teams.gets(&token, "/api/v1/releases").await.1["releases"][0]["seq"].to_string();
    let first = async |list: &str| {
        let (_, found) = teams.gets(&token, &format!("/api/v1/{list}")).await;
        found[list][0]["id"].as_str().expect("an id").to_owned()
    };
    let (denial, cvm) = (first("denials").await, first("cvms").await);
    let mut shown = 0;
    for (path, content) in CONTENT.iter().filter(|(path, _)| path.starts_with('/')) {
        let asked = match *path {
            "/api/v1/denials/{id}" => path.replace("{id}", &denial),
            "/api/v1/cvms/{id}" => path.replace("{id}", &cvm),
            "/api/v1/domains/{name}" => path.replace("{name}", "sandbox"),
            "/api/v1/events/stream" => format!("{path}?limit=0"),
            _ => path
                .replace("{*tile}", "0/000.p/1")
                .replace("{seq}", &seq)
                .replace("{id}", "x")
                .replace("{name}", "sandbox-owner")
                .replace("{app}", &id(&teams.sandbox[0])),
        };
        let answer = admin.ask("GET", &asked, &Value::Null, &token).await;
        clean(&asked, &format!("{:?} {}", answer.headers, answer.text()));
        let is_read = *content == Content::OfDomain;
        let has_no_get =
            ["/api/v1/explain", "/api/v1/freezes/preview", "/api/v1/approvals/{id}"].contains(path);
        assert!(answer.status == 200 || !is_read || has_no_get, "{asked}: {answer:?}");
        shown += usize::from(answer.status == 200 && answer.text().contains(&id(&teams.sandbox[0])));
    }
    assert!(shown > 8, "what is its own is there: {shown}");
    for method in ["ListDenials", "ListFrozen"] {
        let answer = admin.ask("POST", &format!("/prpc/{method}?json"), &json!({}), &token).await;
        assert_eq!(answer.status, 200, "{method}");
        clean(method, answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_a_domain_are_its_own() {
    let teams = Teams::gather().await;
    let (token, empty) =
        (teams.credential("sandbox", Role::Owner).await, teams.credential("prod", Role::Viewer).await);
    let (status, own) = teams.gets(&token, "/api/v1/overview").await;
    assert_eq!((status, &own["domain"], &own["ready"]), (200, &json!("sandbox"), &json!(true)), "{own}");
    let day = &own["last_24h"];
    let figures = ["releases", "cvms", "apps", "denials", "distinct_denials", "denied_cvms"];
    assert_eq!(figures.map(|name| day[name].clone()), [1, 1, 1, 1, 1, 1].map(Value::from), "{own}");
    assert_eq!((&own["cvms"], &own["archived"]), (&json!(1), &json!(false)));
    let denied = texts(&own["attention"], "code");
    assert_eq!(denied.len(), 1, "{own}");
    for field in ["ledger", "latency", "relaxed", "epochs", "reasons", "boot_id", "os_image_hash", "mode"] {
        assert!(own.get(field).is_none(), "{field}: {own}");
    }
    let whole = teams.whole("/api/v1/overview").await;
    assert!(whole.get("domain").is_none() && whole["ledger"].is_object());
    assert_eq!((&whole["last_24h"]["releases"], &whole["cvms"]), (&json!(2), &json!(2)), "{whole}");
    assert!(texts(&whole["attention"], "code").contains(&"domain_empty".to_owned()), "{whole}");
    let (_, other) = teams.gets(&empty, "/api/v1/overview").await;
    assert_eq!((&other["last_24h"]["releases"], &other["cvms"]), (&json!(0), &json!(0)), "{other}");
    assert_eq!(texts(&other["attention"], "code"), ["domain_empty"], "{other}");

    let sum = |history: &Value, field: &str| -> u64 {
        let points = history["points"].as_array().expect("points");
        points.iter().map(|point| point[field].as_u64().expect("a number")).sum()
    };
    for (token, expected) in [(&*token, (1, 1)), (&*empty, (0, 0)), (ADMIN_TOKEN, (2, 2))] {
        for window in ["1h", "30d"] {
            let (status, history) = teams.gets(token, &format!("/api/v1/history?window={window}")).await;
            assert_eq!(status, 200, "{history}");
            assert_eq!((sum(&history, "released"), sum(&history, "denied")), expected, "{window} {history}");
            let latencies =
                history["points"].as_array().expect("points").iter().map(|point| &point["p50_ms"]);
            assert_eq!(latencies.filter(|it| !it.is_null()).count() > 0, token == ADMIN_TOKEN, "{history}");
        }
    }

    // The policy: what decides, without what it says of others.
    let whole = teams.whole("/api/v1/policy").await;
    let (status, own) = teams.gets(&token, "/api/v1/policy").await;
    assert_eq!((status, &own["kind"], &own["document"]), (200, &whole["kind"], &Value::Null), "{own}");
    assert_eq!((&own["sha256"], &own["editable"]), (&whole["sha256"], &json!(false)));
    assert!(whole["document"].is_object() && own["sha256"].is_string());
    let denial = texts(&teams.whole("/api/v1/denials").await["denials"], "id");
    let own_denial = texts(&teams.gets(&token, "/api/v1/denials").await.1["denials"], "id");
    for id in denial {
        let body = json!({ "document": {}, "denial_id": id });
        let answer = teams.admin.ask("POST", "/api/v1/policy/check", &body, &token).await;
        assert_eq!(answer.status, if own_denial.contains(&id) { 200 } else { 400 }, "{}", answer.text());
        if answer.status == 200 {
            assert_eq!(answer.value()["difference"]["added"], json!([]));
            assert_eq!(answer.value()["allows_this_kms"], Value::Null);
        }
    }
    assert_eq!(teams.gets(&token, "/api/v1/policy/bundles").await, (200, json!({ "domains": [] })));

    let (_, domains) = teams.gets(&token, "/api/v1/domains").await;
    assert_eq!(texts(&domains["domains"], "name"), ["sandbox"], "{domains}");
    assert_eq!(texts(&teams.whole("/api/v1/domains").await["domains"], "name").len(), 3);
    let (foreign, unknown) =
        (teams.gets(&token, "/api/v1/domains/prod").await, teams.gets(&token, "/api/v1/domains/nope").await);
    let text = |told: &Value, name: &str| told["error"].as_str().expect("a text").replace(name, "");
    assert_eq!((foreign.0, text(&foreign.1, "prod")), (unknown.0, text(&unknown.1, "nope")), "no oracle");
    assert_ne!(foreign.0, 200);
    for body in [json!({ "name": "mine" }), json!({ "name": "sandbox" })] {
        let answer = teams.admin.ask("POST", "/api/v1/domains", &body, &token).await;
        assert_eq!(
            (answer.status, answer.header("x-error-code")),
            (403, "other_domain"),
            "{}",
            answer.text()
        );
    }
    for (domain, status) in [("default", 403), ("prod", 403), ("sandbox", 409)] {
        let body = json!({ "domain": domain });
        let answer = teams.admin.ask("POST", "/api/v1/policy/bundles/fetch", &body, &token).await;
        assert_eq!(answer.status, status, "{domain}: {}", answer.text());
    }

    for (domain, count) in [("sandbox", 1), ("default", 1), ("prod", 0), ("", 2)] {
        let listed = teams
            .admin
            .ask("POST", "/prpc/ListDenials?json", &json!({ "domain": domain }), ADMIN_TOKEN)
            .await;
        assert_eq!(listed.value()["denials"].as_array().map(Vec::len), Some(count), "{domain}");
        let own =
            teams.admin.ask("POST", "/prpc/ListDenials?json", &json!({ "domain": domain }), &token).await;
        let expected = usize::from(domain.is_empty() || domain == "sandbox");
        assert_eq!(own.value()["denials"].as_array().map(Vec::len), Some(expected), "{domain}");
    }
    let wrong = teams.admin.ask("POST", "/prpc/ListDenials?json", &json!({ "domain": "A b" }), &token).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_and_denials_are_counted_by_domain_beside_the_counts_without_one() {
    let teams = Teams::gather().await;
    let shown = teams.world.caller().get("/metrics").await;
    // The world starts again after the apps are in the configuration, so these are all.
    for line in [
        r#"cvm_kms_releases_by_domain_total{domain="default",method="GetAppKey"} 1"#,
        r#"cvm_kms_releases_by_domain_total{domain="sandbox",method="GetAppKey"} 1"#,
        r#"cvm_kms_denials_by_domain_total{code="app_not_registered",domain="default"} 1"#,
        r#"cvm_kms_denials_by_domain_total{code="app_not_registered",domain="sandbox"} 1"#,
        r#"cvm_kms_denials_total{code="app_not_registered"} 2"#,
    ] {
        assert!(shown.text().lines().any(|shown| shown == line), "{line} is not in {}", shown.text());
    }
    let answers = |domain: &str, answer: &str| {
        let begin =
            format!(r#"cvm_kms_policy_answers_by_domain_total{{answer="{answer}",domain="{domain}"}} "#);
        shown.text().lines().any(|line| line.starts_with(&begin))
    };
    for domain in ["default", "sandbox"] {
        assert!(answers(domain, "allowed") && answers(domain, "denied"), "{domain}");
    }
    assert!(!shown.text().contains(r#"domain="prod""#), "nothing has happened there");
    // A name in a request is no label.
    let asked = json!({ "app_domain": "chosen-by-the-caller" });
    let caller = teams.world.caller().shows(&teams.world.attested(&teams.sandbox[0]).await);
    let answer = caller.json("GetAppKey", asked).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    let shown = teams.world.caller().get("/metrics").await;
    assert!(!shown.text().contains("chosen-by-the-caller"));
    let line = r#"cvm_kms_denials_by_domain_total{code="domain_mismatch",domain="sandbox"} 1"#;
    assert!(shown.text().contains(line), "{}", shown.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_domain_is_seen_in_it_and_a_move_in_both() {
    let teams = Teams::gather().await;
    let admin = &teams.admin;
    let app = id(&teams.world.app(5));
    admin.done("POST", "/api/v1/domains", json!({ "name": "team" })).await;
    let tokens = [
        teams.credential("team", Role::Owner).await,
        teams.credential("sandbox", Role::Owner).await,
        teams.credential("prod", Role::Owner).await,
        teams.credential("default", Role::Owner).await,
    ];
    admin.done("POST", "/api/v1/domains/team/apps", json!({ "app_id": app })).await;
    let freeze = json!({ "scope": "app", "target": app, "reason": "a test" });
    admin.done("POST", "/api/v1/freezes", freeze).await;
    admin.done("POST", &format!("/api/v1/freezes/app-{app}/lift"), json!({})).await;
    admin.done("PUT", &format!("/api/v1/epochs/apps/{app}"), json!({ "app_epoch": 1 })).await;
    admin.done("POST", &format!("/api/v1/domains/sandbox/apps/{app}/move"), Value::Null).await;
    admin.done("POST", "/api/v1/domains/team/archive", Value::Null).await;
    admin.done("POST", "/api/v1/domains/team/restore", Value::Null).await;
    let passing = json!({ "name": "passing", "role": "viewer", "domain": "team" });
    admin.done("POST", CREDENTIALS, passing).await;
    for change in ["rotate", "revoke"] {
        admin.done("POST", &format!("{CREDENTIALS}/passing/{change}"), Value::Null).await;
    }
    let of_default = json!({ "scope": "app", "target": id(&teams.default[0]), "reason": "a test" });
    admin.done("POST", "/api/v1/freezes", of_default).await;
    let life = [
        "domain_created",
        "app_assigned",
        "frozen",
        "unfrozen",
        "app_epoch_set",
        "app_moved",
        "domain_archived",
        "domain_restored",
        "credential_rotated",
        "credential_revoked",
    ];
    eventually("the index", async || {
        let all = texts(&teams.whole("/api/v1/events?limit=1000").await, "type");
        (all.iter().filter(|kind| *kind == "frozen").count() == 2).then_some(())
    })
    .await;
    for (token, expected) in tokens.iter().zip([&life[..], &["app_moved"], &[], &["frozen"]]) {
        for path in ["events", "audit-logs"] {
            let (status, own) = teams.gets(token, &format!("/api/v1/{path}?limit=1000")).await;
            assert_eq!(status, 200, "{own}");
            let mut kinds = texts(&own, "type");
            kinds.retain(|kind| life.contains(&&**kind));
            assert_eq!(kinds, expected, "{own}");
            let told = own.to_string();
            let is_told = ["team", "sandbox"].map(|name| told.contains(name));
            assert!(is_told != [true, true], "the name of the other domain: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_shows_no_entry_of_another_domains_app() {
    let teams = Teams::gather().await;
    let (refused, other) = (&teams.sandbox[1], &teams.default[1]);
    let twin = Cvm::builder(&teams.world.platform)
        .app_id(*other.app_id())
        .compose_hash(*refused.compose_hash())
        .build();
    teams.world.allow_app(&twin);
    let token = teams.credential("sandbox", Role::Owner).await;
    let denials = teams.whole("/api/v1/denials").await;
    let denials = denials["denials"].as_array().expect("a list");
    let denial = denials.iter().find(|denial| denial["app_id"] == id(refused)).expect("a denial");
    let path = format!("/api/v1/denials/{}", denial["id"].as_str().expect("an id"));
    let entry = format!("apps.\"{}\"", id(other));
    eventually("the entry", async || (teams.whole(&path).await["nearest"]["entry"] == entry).then_some(()))
        .await;
    let (status, told) = teams.gets(&token, &path).await;
    assert_eq!((status, &told["nearest"]), (200, &Value::Null), "{told}");
    assert!(!told.to_string().contains(&id(other)), "{told}");
    let (pem, _) = teams.world.attested(refused).await.pem();
    let body = json!({ "certificate": hex::encode(pem) });
    for path in ["/api/v1/explain", "/prpc/Explain?json"] {
        let answer = teams.admin.ask("POST", path, &body, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(&id(other)), "{path}: {}", answer.text());
        let answer = teams.admin.ask("POST", path, &body, ADMIN_TOKEN).await;
        assert!(answer.text().contains(&id(other)), "{path}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_leads_to_an_app_that_its_domain_would_refuse() {
    let mut teams = Teams::gather().await;
    let path = format!("/v1/resolve/{}", id(&teams.sandbox[0]));
    let token = teams.credential("sandbox", Role::Viewer).await;
    assert_eq!(teams.gets(&token, &path).await.0, 200);
    teams.admin.done("POST", "/api/v1/domains/sandbox/archive", json!({})).await;
    for token in [&*token, ADMIN_TOKEN] {
        let (status, told) = teams.gets(token, &path).await;
        assert_eq!((status, &told["code"]), (403, &json!("domain_archived")), "{told}");
    }
    teams.admin.done("POST", "/api/v1/domains/sandbox/restore", json!({})).await;
    assert_eq!(teams.gets(&token, &path).await.0, 200);
    for (key, allowed, code) in [
        ("devices", "00".repeat(32), "domain_device_not_allowed"),
        ("os_images", "00".repeat(32), "domain_os_image_not_allowed"),
        ("tcb_statuses", "OutOfDate".to_owned(), "domain_tcb_status_not_allowed"),
    ] {
        let before = teams.world.config.clone();
        let sandbox = teams.world.config["domains"]["sandbox"].as_table_mut().expect("a domain");
        sandbox.insert(key.to_owned(), toml::Value::Array(vec![toml::Value::String(allowed)]));
        teams.world.start().await.expect("it starts again");
        teams.admin = Admin::of(&teams.world).await;
        let told = eventually("the index", async || {
            let (status, told) = teams.gets(&token, &path).await;
            (status == 403 && told["code"] != "never_released").then_some(told)
        })
        .await;
        assert_eq!(told["code"], code, "{told}");
        teams.world.config = before;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_a_domain_that_is_gone_is_refused() {
    let mut teams = Teams::gather().await;
    let token = teams.credential("prod", Role::Owner).await;
    let (status, told) = teams
        .admin
        .refused("POST", CREDENTIALS, json!({ "name": "x", "role": "viewer", "domain": "acme" }), ADMIN_TOKEN)
        .await;
    let expected = "this KMS has no domain acme; its domains are default, prod, sandbox";
    assert_eq!((status, &*told), (400, expected));
    let (_, me) = teams.gets(&token, ME).await;
    assert_eq!((&me["domain"], &me["role"]), (&json!("prod"), &json!("owner")));
    // An owner of a domain makes credentials of this domain only, and learns of no other one.
    let [known, unknown] =
        ["sandbox", "acme"].map(|domain| json!({ "name": "x", "role": "viewer", "domain": domain }));
    let of_known = teams.admin.refused("POST", CREDENTIALS, known, &token).await;
    assert_eq!(of_known, teams.admin.refused("POST", CREDENTIALS, unknown, &token).await);
    assert!(of_known.0 == 403 && !of_known.1.contains("sandbox"), "{of_known:?}");
    for (domain, status) in [(json!("prod"), 200), (json!("sandbox"), 403), (Value::Null, 403)] {
        let body = json!({ "name": "more", "role": "viewer", "domain": domain });
        let answer = teams.admin.ask("POST", CREDENTIALS, &body, &token).await;
        assert_eq!(answer.status, status, "{domain}: {}", answer.text());
    }
    let domains = teams.world.config["domains"].as_table_mut().expect("domains");
    assert!(domains.remove("prod").is_some());
    teams.world.start().await.expect("it starts again");
    teams.admin = Admin::of(&teams.world).await;
    let (status, told) = teams.gets(&token, ME).await;
    assert_eq!((status, &told["code"]), (403, &json!("other_domain")), "{told}");
    let attention = teams.whole("/api/v1/overview").await["attention"].clone();
    let gone =
        attention.as_array().expect("a list").iter().filter(|it| it["code"] == "credential_domain_gone");
    let names: Vec<_> = gone.map(|item| item["link"]["id"].clone()).collect();
    assert_eq!(names, ["more", "prod-owner"], "{attention}");
}
