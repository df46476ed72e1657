//! Credentials of a domain: what they see and change, and that it is nothing of another domain.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use cvm_kms::api::routes::{ROUTES, Verbs};
use cvm_kms::api::{Access, METHODS, Reach, Role, Service};
use kms_simulator::Cvm;
use serde_json::{Value, json};

use crate::access_cases::codec::{Codec, Message};
use crate::credentials::{Admin, CREDENTIALS, ME};
use crate::support::http::with;
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
        let guarded = ROUTES.iter().filter(|row| row.service == Service::Admin && row.access != Access::Open);
        for row in guarded.filter(|row| row.access != Access::Invitation) {
            let path = row
                .path
                .replace("entries/{*tile}", "entries/000.p/1")
                .replace("{*tile}", "0/000.p/1")
                .replace("{name}", "nobody")
                .replace("{seq}", "1")
                .replace("{id}", "x")
                .replace("{app}", &id(&teams.default[0]));
            let path = if path.ends_with("/stream") { format!("{path}?limit=0") } else { path };
            let verbs: &[&str] = match row.verbs {
                Verbs::Get => &["GET", "HEAD"],
                Verbs::Post => &["POST"],
                Verbs::GetAndPost => &["GET", "POST"],
                Verbs::GetAndPatch => &["GET", "PATCH"],
                Verbs::GetPutAndDelete => &["GET", "PUT", "DELETE"],
                Verbs::GetPostAndDelete => &["GET", "POST", "DELETE"],
            };
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
    // An owner of a domain makes credentials of this domain only.
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
}
