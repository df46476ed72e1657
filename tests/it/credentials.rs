//! Named credentials: what each role may use, how they come and go, and what outlives a restart.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use cvm_kms::api::routes::{ROUTES, Route, Verb};
use cvm_kms::api::{Access, METHODS, Reach, Role, Service};
use kms_attest::clock::unix_now;
use serde_json::{Value, json};

use crate::access_cases::codec::Codec;
use crate::access_cases::fixtures::{Ask, Fixtures};
use crate::support::http::{request, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, basic};

pub(crate) const CREDENTIALS: &str = "/api/v1/credentials";
pub(crate) const ME: &str = "/api/v1/me";

/// The admin listener, with what its callers show.
pub(crate) struct Admin(pub(crate) Caller);

impl Admin {
    pub(crate) async fn of(world: &World) -> Self {
        Self(Caller::new(world.admin_address().await).plain())
    }

    pub(crate) async fn ask(&self, verb: &str, path: &str, body: &Value, token: &str) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.shows(verb, path, body, "authorization", &format!("Bearer {token}")).await
    }

    /// The answer, once the queue of passwords has had room for the request: a busy machine hashes slowly.
    pub(crate) async fn shows(
        &self,
        verb: &str,
        path: &str,
        body: String,
        name: &'static str,
        value: &str,
    ) -> Answer {
        crate::support::eventually("a password that is checked", async || {
            let answer = self.0.send(with(request(verb, path, body.clone()), name, value)).await;
            let is_busy = answer.status == 503 && answer.text().contains("passwords are being checked");
            (!is_busy).then_some(answer)
        })
        .await
    }

    /// Sends the head of a request, and waits until its body is asked for: then the caller is known, and may use it.
    fn begin(&self, verb: &str, path: &str, body: &str, token: &str) -> Begun {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nhost: kms\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        Begun { stream, body: body.to_owned() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.0.address()).expect("a connection");
        stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
        stream
    }

    pub(crate) async fn done(&self, verb: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(verb, path, &body, ADMIN_TOKEN).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.value()
    }

    /// The token of a new credential.
    pub(crate) async fn create(&self, name: &str, role: Role) -> String {
        let made = self.done("POST", CREDENTIALS, json!({ "name": name, "role": role.name() })).await;
        made["token"].as_str().expect("a token").to_owned()
    }

    pub(crate) async fn status(&self, token: &str) -> u16 {
        self.ask("GET", "/livez", &Value::Null, token).await.status
    }

    pub(crate) async fn refused(&self, verb: &str, path: &str, body: Value, token: &str) -> (u16, String) {
        let answer = self.ask(verb, path, &body, token).await;
        (answer.status, answer.value()["error"].as_str().unwrap_or_default().to_owned())
    }
}

/// A request whose body has not been sent.
struct Begun {
    stream: TcpStream,
    body: String,
}

impl Begun {
    /// The next head of a response.
    fn head(&mut self) -> String {
        read_until(&mut self.stream, "\r\n\r\n")
    }

    /// Sends the body, and reads the status.
    fn finish(mut self) -> String {
        self.stream.write_all(self.body.as_bytes()).expect("sent");
        self.head().lines().next().expect("a status").to_owned()
    }
}

/// Reads byte by byte, and nothing after `wanted`.
fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(wanted) {
        let read = stream.read(&mut byte).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(read > 0, "it ended: {text}");
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn each_route_needs_the_role_that_it_should() {
    use Role::{Auditor, EventsWriter, Operator, Owner, Viewer};
    use Verb::{Delete, Get, Patch, Post, Put};
    let routes = ROUTES.iter().filter(|route| route.service == Service::Admin);
    let pairs = |route: &'static Route| route.verbs.iter().map(|(verb, access)| (*verb, route.path, *access));
    let routes: Vec<_> = routes.flat_map(pairs).collect();
    let of = |role| Access::Operator(role);
    assert_eq!(
        routes,
        [
            (Get, "/", Access::Open),
            (Get, "/assets/console/{*file}", Access::Open),
            (Get, "/assets/vendor/{*file}", Access::Open),
            (Get, "/openapi.json", Access::Open),
            (Get, "/docs", Access::Open),
            (Get, "/assets/docs/{*file}", Access::Open),
            (Get, "/livez", of(Viewer)),
            (Get, "/readyz", of(Viewer)),
            (Get, "/api/v1/health", of(Viewer)),
            (Get, "/api/v1/diagnostics/key-flow", of(Viewer)),
            (Get, "/api/v1/fleet", of(Viewer)),
            (Post, "/api/v1/fleet/repair", of(Owner)),
            (Get, "/api/v1/rollout", of(Viewer)),
            (Post, "/api/v1/rollout", of(Owner)),
            (Post, "/api/v1/rollout/step", of(Operator)),
            (Post, "/api/v1/rollout/{order}", of(Owner)),
            (Post, "/api/v1/fleet/forget", of(Owner)),
            (Get, "/api/v1/replica-joins", of(Viewer)),
            (Post, "/api/v1/replica-joins", of(Owner)),
            (Get, "/api/v1/replica-joins/{id}", of(Viewer)),
            (Delete, "/api/v1/replica-joins/{id}", of(Owner)),
            (Get, "/api/v1/operations", of(Viewer)),
            (Get, "/api/v1/operations/{id}", of(Viewer)),
            (Get, "/status/{id}", of(Viewer)),
            (Get, "/api/v1/actions", of(Viewer)),
            (Get, "/api/v1/actions/{name}", of(Operator)),
            (Post, "/api/v1/actions/{name}", of(Operator)),
            (Get, "/api/v1/settings", of(Viewer)),
            (Patch, "/api/v1/settings", of(Owner)),
            (Post, "/api/v1/reload", of(Operator)),
            (Post, "/api/v1/restart", of(Owner)),
            (Get, "/api/v1/setup/status", of(Viewer)),
            (Get, "/api/v1/policy", of(Viewer)),
            (Post, "/api/v1/policy/check", of(Operator)),
            (Post, "/api/v1/policy/activate", of(Owner)),
            (Get, "/api/v1/policy/bundles", of(Viewer)),
            (Post, "/api/v1/policy/bundles", of(Operator)),
            (Post, "/api/v1/policy/bundles/fetch", of(Operator)),
            (Post, "/api/v1/policy/bundles/shadow", of(Operator)),
            (Post, "/api/v1/policy/bundles/activate", of(Owner)),
            (Post, "/api/v1/file-upload/{name}", of(Owner)),
            (Get, "/log/checkpoint", of(Viewer)),
            (Get, "/log/tile/entries/{*tile}", of(Auditor)),
            (Get, "/log/tile/{*tile}", of(Viewer)),
            (Get, "/logs", of(Viewer)),
            (Get, "/api/v1/events", of(Viewer)),
            (Get, "/api/v1/events/stream", of(Viewer)),
            (Get, "/api/v1/new_event", of(EventsWriter)),
            (Post, "/api/v1/new_event", of(EventsWriter)),
            (Get, "/api/v1/audit-logs", of(Auditor)),
            (Get, "/api/v1/me", of(Viewer)),
            (Get, "/api/v1/approvals", of(Viewer)),
            (Get, "/api/v1/approvals/{id}", of(Viewer)),
            (Post, "/api/v1/approvals/{id}/approve", of(Owner)),
            (Post, "/api/v1/approvals/{id}/reject", of(Owner)),
            (Get, "/api/v1/credentials", of(Owner)),
            (Post, "/api/v1/credentials", of(Owner)),
            (Post, "/api/v1/credentials/{name}/rotate", of(Owner)),
            (Post, "/api/v1/credentials/{name}/revoke", of(Owner)),
            (Post, "/api/v1/set-basic-auth", of(Owner)),
            (Post, "/api/v1/activate", Access::Invitation),
            (Get, "/api/v1/overview", of(Viewer)),
            (Get, "/api/v1/history", of(Viewer)),
            (Get, "/api/v1/releases", of(Viewer)),
            (Get, "/api/v1/releases/{seq}", of(Viewer)),
            (Get, "/api/v1/denials", of(Viewer)),
            (Get, "/api/v1/denials/{id}", of(Viewer)),
            (Post, "/api/v1/explain", of(Viewer)),
            (Get, "/api/v1/cvms", of(Viewer)),
            (Get, "/api/v1/cvms/{id}", of(Viewer)),
            (Get, "/api/v1/resolve/{app}", of(Viewer)),
            (Get, "/v1/resolve/{app}", of(Viewer)),
            (Get, "/api/v1/freezes", of(Viewer)),
            (Post, "/api/v1/freezes", of(Operator)),
            (Post, "/api/v1/freezes/preview", of(Viewer)),
            (Post, "/api/v1/freezes/{id}/lift", of(Owner)),
            (Get, "/api/v1/epochs", of(Viewer)),
            (Post, "/api/v1/epochs", of(Owner)),
            (Post, "/api/v1/epochs/fetch", of(Owner)),
            (Post, "/api/v1/epochs/accept", of(Owner)),
            (Get, "/api/v1/epochs/apps", of(Viewer)),
            (Get, "/api/v1/epochs/apps/{app}", of(Viewer)),
            (Put, "/api/v1/epochs/apps/{app}", of(Owner)),
            (Delete, "/api/v1/epochs/apps/{app}", of(Owner)),
            (Get, "/api/v1/epochs/{id}", of(Viewer)),
            (Post, "/api/v1/epochs/{id}/activate", of(Owner)),
            (Post, "/api/v1/epochs/{id}/retire", of(Owner)),
            (Post, "/api/v1/epochs/{id}/destroy", of(Owner)),
            (Get, "/api/v1/domains", of(Viewer)),
            (Post, "/api/v1/domains", of(Owner)),
            (Get, "/api/v1/domains/{name}", of(Viewer)),
            (Post, "/api/v1/domains/{name}/archive", of(Owner)),
            (Post, "/api/v1/domains/{name}/restore", of(Owner)),
            (Post, "/api/v1/domains/{name}/apps", of(Owner)),
            (Post, "/api/v1/domains/{name}/apps/{app}/move", of(Owner)),
            (Get, "/api/v1/platforms", of(Viewer)),
            (Get, "/api/v1/collateral", of(Viewer)),
            (Get, "/api/v1/collateral/bundle", of(Viewer)),
            (Get, "/api/v1/ledger", of(Viewer)),
            (Get, "/api/v1/replicas", of(Viewer)),
            (Get, "/api/v1/recovery", of(Viewer)),
            (Post, "/api/v1/recovery/sets", of(Owner)),
            (Get, "/api/v1/recovery/sets/{id}", of(Owner)),
            (Get, "/api/v1/recovery/drill", of(Viewer)),
            (Post, "/api/v1/recovery/drill", of(Owner)),
            (Delete, "/api/v1/recovery/drill", of(Owner)),
        ]
    );
}

#[test]
fn credentials_of_a_domain_may_use_these_methods_and_routes_and_no_others() {
    let methods = METHODS.iter().filter(|row| row.service == Service::Admin);
    let methods: Vec<_> = methods.filter(|row| row.reach == Reach::Domain).map(|row| row.name).collect();
    assert_eq!(methods, ["Explain", "ListDenials", "Freeze", "ListFrozen"]);
    let routes = ROUTES.iter().filter(|route| route.reach == Reach::Domain);
    let routes: Vec<_> = routes.map(|route| (route.service, route.path)).collect();
    assert_eq!(
        routes,
        [
            "/livez",
            "/readyz",
            "/api/v1/health",
            "/api/v1/policy",
            "/api/v1/policy/check",
            "/api/v1/policy/bundles",
            "/api/v1/policy/bundles/fetch",
            "/log/checkpoint",
            "/log/tile/{*tile}",
            "/logs",
            "/api/v1/events",
            "/api/v1/events/stream",
            "/api/v1/new_event",
            "/api/v1/audit-logs",
            "/api/v1/me",
            "/api/v1/approvals",
            "/api/v1/approvals/{id}",
            "/api/v1/credentials",
            "/api/v1/credentials/{name}/rotate",
            "/api/v1/credentials/{name}/revoke",
            "/api/v1/overview",
            "/api/v1/history",
            "/api/v1/releases",
            "/api/v1/releases/{seq}",
            "/api/v1/denials",
            "/api/v1/denials/{id}",
            "/api/v1/explain",
            "/api/v1/cvms",
            "/api/v1/cvms/{id}",
            "/api/v1/resolve/{app}",
            "/v1/resolve/{app}",
            "/api/v1/freezes",
            "/api/v1/freezes/preview",
            "/api/v1/epochs/apps",
            "/api/v1/epochs/apps/{app}",
            "/api/v1/domains",
            "/api/v1/domains/{name}",
        ]
        .map(|path| (Service::Admin, path))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_again_admits_nobody_who_had_it() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let first = admin.create("ci", Role::Viewer).await;
    assert_eq!(admin.status(&first).await, 200, "it is remembered");
    admin.done("POST", &format!("{CREDENTIALS}/ci/revoke"), Value::Null).await;
    let second = admin.create("ci", Role::Owner).await;
    assert_eq!(admin.status(&first).await, 401);
    assert_eq!(admin.ask("GET", CREDENTIALS, &Value::Null, &second).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_began_before_a_revocation_does_nothing_after_it() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let freeze = json!({ "scope": "all", "value": "", "reason": "late" }).to_string();
    let create = json!({ "name": "door", "role": "owner" }).to_string();
    let paths = [
        ("/prpc/Freeze?json", freeze.as_str()),
        (CREDENTIALS, &create),
        ("/api/v1/credentials/other/rotate", "{}"),
        ("/api/v1/credentials/other/revoke", "{}"),
        ("/api/v1/new_event", "late"),
    ];
    admin.create("other", Role::Viewer).await;
    let token = admin.create("eve", Role::Owner).await;
    let mut begun = paths.map(|(path, body)| admin.begin("POST", path, body, &token));
    for request in &mut begun {
        assert!(request.head().starts_with("HTTP/1.1 100 "));
    }
    let mut stream = admin.connect();
    let call =
        format!("GET /api/v1/events/stream HTTP/1.1\r\nhost: kms\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(call.as_bytes()).expect("sent");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    admin.done("POST", &format!("{CREDENTIALS}/eve/revoke"), Value::Null).await;
    let streamed = read_until(&mut stream, "0\r\n\r\n");
    assert!(!streamed.contains("credential_revoked"), "{streamed}");
    for (request, (path, _)) in begun.into_iter().zip(paths) {
        assert!(request.finish().starts_with("HTTP/1.1 401 "), "{path}");
    }
    let listed = admin.done("GET", CREDENTIALS, Value::Null).await;
    assert_eq!(listed["credentials"].as_array().map(Vec::len), Some(1), "{listed}");
    for event in ["frozen", "reported", "credential_rotated"] {
        assert!(world.audited(event).is_empty(), "{event}");
    }

    // An invitation activates only the credential that it was made for.
    let invitation = json!({ "name": "eve", "role": "viewer", "invite": true });
    let invited = admin.done("POST", CREDENTIALS, invitation).await;
    let mut begun =
        admin.begin("POST", "/api/v1/activate", "{}", invited["token"].as_str().expect("a token"));
    assert!(begun.head().starts_with("HTTP/1.1 100 "));
    admin.done("POST", &format!("{CREDENTIALS}/eve/revoke"), Value::Null).await;
    admin.done("POST", CREDENTIALS, json!({ "name": "eve", "role": "owner", "invite": true })).await;
    assert!(begun.finish().starts_with("HTTP/1.1 401 "));
    assert!(world.audited("credential_activated").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_not_read_from_who_may_not_send_it() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("ci", Role::Viewer).await;
    let mut begun = admin.begin("POST", "/prpc/StartShadow?json", &"x".repeat(1 << 20), &token);
    let head = begun.head();
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_but_not_kept_is_revoked_again() {
    let mut world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("ci", Role::Viewer).await;
    let obstacle = world.key_file("credentials.json.new");
    std::fs::create_dir(&obstacle).expect("a directory where the new file is written");
    let revoke = format!("{CREDENTIALS}/ci/revoke");
    for _ in 0..2 {
        let (status, told) = admin.refused("POST", &revoke, Value::Null, ADMIN_TOKEN).await;
        assert_eq!(status, 503, "{told}");
        assert!(told.starts_with("the credential does not count any more, but it would again"), "{told}");
        assert_eq!(admin.status(&token).await, 401);
    }
    let (status, _) =
        admin.refused("POST", &format!("{CREDENTIALS}/cj/revoke"), Value::Null, ADMIN_TOKEN).await;
    assert_eq!(status, 400, "another name");
    std::fs::remove_dir(&obstacle).expect("removed");
    admin.done("POST", &revoke, Value::Null).await;
    assert_eq!(admin.refused("POST", &revoke, Value::Null, ADMIN_TOKEN).await.0, 400, "once");
    world.start().await.expect("it starts again");
    assert_eq!(Admin::of(&world).await.status(&token).await, 401, "over a restart");
}

#[tokio::test]
async fn each_caller_is_told_which_credential_it_uses() {
    let mut world = World::ready().await;
    let hash = bcrypt::hash("pass word", 4).expect("bcrypt");
    std::fs::write(world.path("htpasswd"), format!("alice:{hash}\n")).expect("the file");
    world.configure(&format!("core.admin.htpasswd_file = '{}'", world.path("htpasswd").display()));
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    let end = unix_now() + 3600;
    let made = json!({ "name": "ci", "role": "viewer", "expires_at": end });
    let made = admin.done("POST", CREDENTIALS, made).await;
    let named = format!("Bearer {}", made["token"].as_str().expect("a token"));
    let end = time::OffsetDateTime::from_unix_timestamp(i64::try_from(end).expect("fits")).expect("a date");
    let end = end.format(&time::format_description::well_known::Rfc3339).expect("a date");
    for (authorization, name, role, kind, expires_at) in [
        (named, "ci", "viewer", "named", json!(end)),
        (basic("alice", "pass word"), "alice", "owner", "user", Value::Null),
        (format!("Bearer {ADMIN_TOKEN}"), "token", "owner", "token", Value::Null),
    ] {
        let answer = admin.shows("GET", ME, String::new(), "authorization", &authorization).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        let me = answer.value();
        let expected = json!({
            "name": name, "role": role, "domain": null, "kind": kind, "expires_at": expires_at,
            "server_time": me["server_time"], "boot_id": me["boot_id"], "version": me["version"],
        });
        assert_eq!(me, expected);
        for field in ["server_time", "boot_id", "version"] {
            assert!(me[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
        }
    }
    let reporter = admin.create("reporter", Role::EventsWriter).await;
    let (status, told) = admin.refused("GET", ME, Value::Null, &reporter).await;
    assert_eq!(status, 403, "{told}");
}

#[tokio::test]
async fn only_operators_and_owners_are_not_limited_in_their_rate() {
    let mut world = World::ready().await;
    world.configure("core.limits.unauthenticated_per_second = 1\ncore.limits.unauthenticated_burst = 3");
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    for role in [Role::Operator, Role::Owner, Role::Viewer, Role::Auditor] {
        let token = admin.create(role.name(), role).await;
        let mut limited = 0;
        for _ in 0..20 {
            match admin.ask("GET", "/api/v1/events", &Value::Null, &token).await.status {
                200 => {}
                429 => limited += 1,
                other => panic!("{role}: {other}"),
            }
        }
        assert_eq!(limited == 0, role.includes(Role::Operator), "{role}: {limited} of 20");
    }
}

#[tokio::test]
async fn the_health_service_of_the_admin_listener_needs_a_viewer() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let mut to = admin.0.clone().http2().connect().await.expect("a connection");
    for role in Role::ALL {
        let token = admin.create(role.name(), role).await;
        let call = request("POST", "/grpc.health.v1.Health/Check", vec![0; 5]);
        let call = with(call, "content-type", "application/grpc");
        let answer = to.send(with(call, "authorization", &format!("Bearer {token}"))).await;
        let is_refused = answer.header("grpc-status") == "7";
        assert_eq!(is_refused, !role.includes(Role::Viewer), "{role}: {answer:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_locked_is_not_used() {
    let mut world = World::ready().await;
    let file = world.path("elsewhere").join("credentials.json");
    std::fs::create_dir_all(file.with_file_name("credentials.json.lock")).expect("where the lock would be");
    world.configure(&format!("core.admin.credentials_file = '{}'", file.display()));
    let error = world.start().await.expect_err("another process could replace it").to_string();
    assert!(error.ends_with("cannot be locked against other processes"), "{error}");
}

#[tokio::test]
async fn a_credential_and_a_user_of_one_name_are_refused() {
    let mut world = World::ready().await;
    Admin::of(&world).await.create("alice", Role::Viewer).await;
    let hash = bcrypt::hash("pass word", 4).expect("bcrypt");
    std::fs::write(world.path("htpasswd"), format!("alice:{hash}\n")).expect("the file");
    world.configure(&format!("core.admin.htpasswd_file = '{}'", world.path("htpasswd").display()));
    let error = world.start().await.expect_err("who is alice?").to_string();
    assert!(error.starts_with("alice is a credential") && error.ends_with("rename the user"), "{error}");
}

#[tokio::test]
async fn each_role_may_use_the_methods_that_the_table_says() {
    let fixtures = Fixtures::gather().await;
    let admin = Admin::of(&fixtures.world).await;
    for role in Role::ALL {
        let token = admin.create(role.name(), role).await;
        let mut to = admin.0.clone().http2().connect().await.expect("a connection");
        for row in METHODS.iter().filter(|row| row.service == Service::Admin) {
            let least = row.access.role().expect("a method of operators has a role");
            for codec in Codec::ALL {
                let call = codec.request(Service::Admin, row.name, &fixtures.message(row.method, Ask::Valid));
                let answer = to.send(with(call, "authorization", &format!("Bearer {token}"))).await;
                let told = format!("{} {codec:?} by {role}: {answer:?}", row.name);
                let text =
                    format!("this needs a credential with the role {least}; yours has the role {role}");
                let is_refused = codec.told(&answer).text == text;
                assert_eq!(is_refused, !role.includes(least), "{told}");
                assert!(answer.header("www-authenticate").is_empty(), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn each_role_may_use_the_routes_that_the_table_says() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    for role in Role::ALL {
        let token = admin.create(role.name(), role).await;
        let admins = ROUTES.iter().filter(|route| route.service == Service::Admin);
        let pairs = admins.flat_map(|route| route.verbs.iter().map(move |pair| (route, *pair)));
        for (route, (verb, access)) in pairs.filter(|(_, (_, access))| *access != Access::Open) {
            let path = route
                .path
                .replace("entries/{*tile}", "entries/000.p/1")
                .replace("{*tile}", "0/000.p/1")
                .replace("{*file}", "none")
                .replace("{name}", "nobody")
                .replace("{seq}", "x")
                .replace("{id}", "x")
                .replace("{app}", "x");
            let path = if path.ends_with("/stream") { format!("{path}?limit=0") } else { path };
            let verb = verb.name();
            // A body that no route takes, where an empty one would change something.
            let is_read_too = route.access(Verb::Get).is_some() && verb != "GET";
            let body = if is_read_too { json!({ "no_such_field": 1 }) } else { Value::Null };
            let status = admin.ask(verb, &path, &body, &token).await.status;
            let may = match access {
                Access::Operator(least) => role.includes(least),
                Access::Open => true,
                Access::Invitation => false,
                other => panic!("{path} is served to {other:?}"),
            };
            assert_eq!(status != 403, may, "{verb} {path} by {role}: {status}");
            assert_ne!(status, 401, "{verb} {path} by {role}");
        }
    }
}

#[tokio::test]
async fn a_credential_is_shown_in_each_way_and_only_while_it_counts() {
    let mut world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("ci", Role::Viewer).await;
    let secret = token.rsplit('_').next().expect("a secret");
    let other = format!("{}{}", &token[..token.len() - 1], if token.ends_with('0') { '1' } else { '0' });
    for (name, value, status) in [
        ("authorization", format!("Bearer {token}"), 200),
        ("authorization", basic("ci", secret), 200),
        ("authorization", basic("ci", &token), 200),
        ("x-admin-token", token.clone(), 200),
        ("authorization", format!("Digest {token}"), 401),
        ("authorization", basic("cj", secret), 401),
        ("authorization", format!("Bearer {other}"), 401),
        ("authorization", format!("Bearer {}", token.replace("_ci_", "_cj_")), 401),
    ] {
        let answer = admin.shows("GET", "/livez", String::new(), name, &value).await;
        assert_eq!(answer.status, status, "{name}: {value}: {answer:?}");
        // The token between the wrong ones: this is not about lockouts.
        assert_eq!(admin.status(ADMIN_TOKEN).await, 200);
    }
    assert_eq!(world.audited("credential_created")[0]["role"], "viewer");

    let rotated = admin.done("POST", &format!("{CREDENTIALS}/ci/rotate"), Value::Null).await;
    let rotated = rotated["token"].as_str().expect("a token").to_owned();
    assert_eq!(
        (admin.status(&token).await, admin.status(&rotated).await),
        (401, 200),
        "the old secret is remembered"
    );

    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    assert_eq!((admin.status(&token).await, admin.status(&rotated).await), (401, 200), "over a restart");
    admin.done("POST", &format!("{CREDENTIALS}/ci/revoke"), Value::Null).await;
    assert_eq!(admin.status(&rotated).await, 401, "revoked");
    let again = admin.create("ci", Role::Viewer).await;
    assert_eq!((admin.status(&rotated).await, admin.status(&again).await), (401, 200), "under the same name");
    assert_eq!(admin.status(&token).await, 401, "the first secret");

    let mode = std::fs::metadata(world.key_file("credentials.json")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = std::fs::read_to_string(world.key_file("credentials.json")).expect("the file");
    let log = world.audit().iter().map(ToString::to_string).collect::<String>();
    for token in [&token, &rotated, &again] {
        let secret = token.rsplit('_').next().expect("a secret");
        assert!(!kept.contains(secret) && !log.contains(secret), "a secret is kept");
    }
}

#[tokio::test]
async fn an_invitation_serves_once_and_only_to_activate() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let body = json!({ "name": "eve", "role": "owner", "invite": true });
    let invited = admin.done("POST", CREDENTIALS, body).await;
    assert_eq!(invited["state"], "invited");
    let invitation = invited["token"].as_str().expect("a token");
    for (verb, path, body) in [
        ("GET", "/livez", Value::Null),
        ("GET", CREDENTIALS, Value::Null),
        ("POST", "/prpc/Freeze?json", json!({})),
        ("POST", "/prpc/ListFrozen?json", json!({})),
    ] {
        let (status, text) = admin.refused(verb, path, body, invitation).await;
        assert_eq!(status, 403, "{path}: {text}");
        assert!(text.ends_with("an invitation must be activated first"), "{path}: {text}");
    }
    let first = admin.ask("POST", "/api/v1/activate", &Value::Null, invitation);
    let second = admin.ask("POST", "/api/v1/activate", &Value::Null, invitation);
    let (first, second) = tokio::join!(first, second);
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert!(statuses[0] == 200 && [401, 403].contains(&statuses[1]), "{statuses:?}: it served twice");
    let made = if first.status == 200 { first } else { second }.value();
    let token = made["token"].as_str().expect("a token");
    assert_eq!((made["state"].as_str(), admin.status(token).await), (Some("active"), 200));
    assert_eq!(admin.ask("GET", CREDENTIALS, &Value::Null, token).await.status, 200, "an owner");
    assert_eq!(admin.status(invitation).await, 401);
    assert_eq!(world.audited("credential_activated").len(), 1);
    let (status, _) = admin.refused("POST", "/api/v1/activate", Value::Null, token).await;
    assert_eq!(status, 403, "no invitation");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_what_to_change() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    admin.create("ci", Role::Viewer).await;
    let begins = |body: Value, text: &str| (body, text.to_owned());
    for (body, text) in [
        begins(json!({ "name": "ci", "role": "viewer" }), "there is a credential named ci already"),
        begins(
            json!({ "name": "CI", "role": "viewer" }),
            "a credential's name has 1 to 64 lower-case letters",
        ),
        begins(
            json!({ "name": "x", "role": "root" }),
            "role must be owner, operator, auditor, viewer or events-writer",
        ),
        begins(
            json!({ "name": "x", "role": "viewer", "expires_at": 1 }),
            "expires_at must be later than now",
        ),
        begins(json!({ "name": "x" }), "missing field `role`"),
        begins(json!({ "name": "x", "role": "viewer", "rôle": 1 }), "unknown field"),
        begins(json!([]), "the body must be a JSON object"),
    ] {
        let (status, told) = admin.refused("POST", CREDENTIALS, body.clone(), ADMIN_TOKEN).await;
        assert_eq!(status, 400, "{body}: {told}");
        assert!(told.starts_with(&text), "{body}: {told}");
    }
    for action in ["rotate", "revoke"] {
        let path = format!("{CREDENTIALS}/nobody/{action}");
        let (status, told) = admin.refused("POST", &path, Value::Null, ADMIN_TOKEN).await;
        assert_eq!((status, told.as_str()), (400, "there is no credential named nobody"), "{action}");
    }
    let listed = admin.done("GET", CREDENTIALS, Value::Null).await;
    let listed = listed["credentials"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["name"], &listed[0]["token"]), (&json!("ci"), &Value::Null));
}

#[tokio::test]
async fn while_the_audit_log_cannot_be_written_no_owner_is_made_and_the_start_goes_on() {
    let mut world = World::ready().await;
    world.configure("core.admin.auth_token = ''");
    world.start_without_room_for_audit().await;
    let admin = Admin::of(&world).await;
    assert_eq!(admin.status(ADMIN_TOKEN).await, 401);
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
    assert!(!world.key_file("credentials.json").exists(), "nobody could know its token");

    let file = world.key_file("audit.jsonl");
    world.configure(&format!("core.audit.file = {file:?}"));
    world.start().await.expect("it starts again");
    assert!(world.key_file("credentials.json").exists());
    assert_eq!(world.audited("owner_created").len(), 1);
}

#[tokio::test]
async fn a_credential_ends_when_it_is_to_end() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let now = unix_now();
    let body = json!({ "name": "short", "role": "viewer", "expires_at": now + 2 });
    let made = admin.done("POST", CREDENTIALS, body).await;
    let token = made["token"].as_str().expect("a token").to_owned();
    // It is remembered as right, and must not count by that.
    let before = admin.status(&token).await;
    crate::support::eventually("the end of a credential", async || {
        (admin.status(&token).await == 401).then_some(())
    })
    .await;
    assert!(before == 200 || now + 2 <= unix_now(), "it never counted: {before}");
    assert_eq!(admin.done("GET", CREDENTIALS, Value::Null).await["credentials"][0]["state"], "ended");
    // Its name is free.
    assert_eq!(admin.status(&admin.create("short", Role::Viewer).await).await, 200);
}

#[tokio::test]
async fn the_last_owner_stays() {
    let mut world = World::ready().await;
    let admin = Admin::of(&world).await;
    let first = admin.create("first", Role::Owner).await;
    let revoke = |name: &str| format!("{CREDENTIALS}/{name}/revoke");
    // Without the token of the configuration.
    world.configure("core.admin.auth_token = ''");
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    let (status, told) = admin.refused("POST", &revoke("first"), Value::Null, &first).await;
    assert_eq!(status, 400, "{told}");
    assert!(told.starts_with("first is the last credential of an owner without an end"), "{told}");
    let second = admin.ask("POST", CREDENTIALS, &json!({ "name": "second", "role": "owner" }), &first).await;
    let second = second.value()["token"].as_str().expect("a token").to_owned();
    assert_eq!(admin.ask("POST", &revoke("first"), &Value::Null, &second).await.status, 200);
    assert_eq!((admin.status(&first).await, admin.status(&second).await), (401, 200));
    assert_eq!(world.audited("credential_revoked")[0]["by"], "credential second");

    // A file without an owner is no way in, and no way to make a new owner.
    let file = world.key_file("credentials.json");
    world.stop().await;
    let text = std::fs::read_to_string(&file).expect("the file").replace("\"owner\"", "\"viewer\"");
    std::fs::write(&file, text).expect("the file");
    let error = world.start().await.expect_err("nobody could manage it").to_string();
    assert!(error.starts_with("no credential of an owner without an end"), "{error}");
    std::fs::write(&file, "{").expect("the file");
    let error = world.start().await.expect_err("it is damaged").to_string();
    assert!(error.contains("is damaged"), "{error}");
    // Nor is one that is gone.
    std::fs::remove_file(&file).expect("removed");
    let error = world.start().await.expect_err("it has had owners").to_string();
    assert!(error.contains("names is gone, and this KMS has had credentials"), "{error}");
    assert!(!file.exists() && world.audited("owner_created").is_empty(), "an owner was made");
    world.configure(&format!("core.admin.auth_token = '{ADMIN_TOKEN}'"));
    world.start().await.expect("an owner is configured");
}
