//! Secrets of named credentials: which ones count, for how long, and what happens to requests that run when that changes.

use std::net::{IpAddr, Ipv4Addr};

use cvm_kms::api::Role;
use http::Request;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::credentials::{Admin, CREDENTIALS, ME};
use crate::support::http::{post, request, with};
use crate::support::{ADMIN_TOKEN, Caller, Channel, PATIENCE, World, basic, eventually, grpc};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_health_ends_with_its_credential() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("probe", Role::Viewer).await;
    let stream = TcpStream::connect(world.admin_address().await).await.expect("a connection");
    let channel = Channel::over(stream).await.expect("HTTP/2");
    let mut health = HealthClient::with_origin(channel, grpc::origin());
    let mut call = tonic::Request::new(HealthCheckRequest::default());
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    let mut watch = health.watch(call).await.expect("a viewer may watch").into_inner();
    assert!(watch.message().await.expect("no error").is_some());
    admin.done("POST", &format!("{CREDENTIALS}/probe/revoke"), Value::Null).await;
    let ended = timeout(PATIENCE, watch.message()).await.expect("it ends at once");
    let status = ended.expect_err("not with success");
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn grpc_looks_at_the_role_before_it_reads_the_message() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("ci", Role::Viewer).await;
    let mut to = admin.0.clone().http2().connect().await.expect("a connection");
    for (method, header) in [("Freeze", 7), ("ListFrozen", 13)] {
        // No message of protobuf begins with this.
        let call = post(&format!("/kms.Admin/{method}"), vec![0, 0, 0, 0, 1, 0xff]);
        let call = with(call, "content-type", "application/grpc");
        let answer = to.send(with(call, "authorization", &format!("Bearer {token}"))).await;
        assert_eq!(answer.header("grpc-status"), header.to_string(), "{method}: {answer:?}");
    }
}

#[tokio::test]
async fn a_lost_response_of_a_rotation_leaves_a_way_for_the_last_owner() {
    let mut world = World::ready().await;
    let admin = Admin::of(&world).await;
    let first = admin.create("first", Role::Owner).await;
    let rotate = format!("{CREDENTIALS}/first/rotate");
    world.configure("core.admin.auth_token = ''");
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    let lost = admin.ask("POST", &rotate, &Value::Null, &first).await;
    assert_eq!(lost.status, 200, "{}", lost.text());
    let until = lost.value()["old_secret_until"].as_u64().expect("a time");
    assert_eq!(world.audited("credential_rotated")[0]["old_secret_until"], until);
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    assert_eq!(admin.status(&first).await, 200, "over a restart");
    let answer = admin.ask("POST", &rotate, &Value::Null, &first).await.value();
    let new = answer["token"].as_str().expect("a token");
    assert_eq!(admin.status(lost.value()["token"].as_str().expect("a token")).await, 401);
    assert_eq!((admin.status(&first).await, admin.status(new).await), (200, 200));
    assert_eq!(admin.status(&first).await, 401, "the new secret has been used");
    let listed = admin.ask("GET", CREDENTIALS, &Value::Null, new).await.value();
    assert_eq!(listed["credentials"][0]["old_secret_until"], Value::Null, "{listed}");
    eventually("the end of the old secret is recorded", async || {
        (world.audited("old_secret_ended").len() == 1).then_some(())
    })
    .await;
    world.start().await.expect("it starts again");
    assert_eq!(Admin::of(&world).await.status(&first).await, 401, "over a restart");
}

#[tokio::test]
async fn a_credential_may_be_limited_to_the_domain_that_there_is() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    for (domain, text) in [
        (json!("acme"), "this KMS has no domain acme; its only domain is default"),
        (json!(""), "a domain's name has 1 to 64 lower-case letters"),
        (json!("Default"), "a domain's name has 1 to 64 lower-case letters"),
        (json!("défaut"), "a domain's name has 1 to 64 lower-case letters"),
        (json!("d".repeat(65)), "a domain's name has 1 to 64 lower-case letters"),
    ] {
        let body = json!({ "name": "x", "role": "owner", "domain": domain });
        let (status, told) = admin.refused("POST", CREDENTIALS, body, ADMIN_TOKEN).await;
        assert_eq!(status, 400, "{domain}: {told}");
        assert!(told.starts_with(text), "{domain}: {told}");
    }
    let body = json!({ "name": "limited", "role": "owner", "domain": "default" });
    let made = admin.done("POST", CREDENTIALS, body).await;
    assert_eq!(made["domain"], "default");
    let limited = made["token"].as_str().expect("a token");
    let me = admin.ask("GET", ME, &Value::Null, limited).await.value();
    assert_eq!((&me["domain"], &me["role"]), (&json!("default"), &json!("owner")));
    assert_eq!(world.audited("credential_created")[0]["domain"], "default");

    // It gives no more than it has, and takes nothing from the whole KMS.
    admin.create("whole", Role::Viewer).await;
    let text =
        "your credential is limited to the domain default, so it changes only credentials of this domain";
    for (path, body) in [
        (CREDENTIALS.to_owned(), json!({ "name": "y", "role": "owner" })),
        (format!("{CREDENTIALS}/whole/rotate"), Value::Null),
        (format!("{CREDENTIALS}/whole/revoke"), Value::Null),
    ] {
        let refused = admin.refused("POST", &path, body, limited).await;
        assert_eq!(refused, (403, text.to_owned()), "{path}");
    }
    let body = json!({ "name": "y", "role": "viewer", "domain": "default" });
    assert_eq!(admin.ask("POST", CREDENTIALS, &body, limited).await.status, 200);
    let listed = admin.ask("GET", CREDENTIALS, &Value::Null, limited).await.value();
    let names: Vec<_> =
        listed["credentials"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["limited", "y"]);
    let listed = admin.done("GET", CREDENTIALS, Value::Null).await;
    assert_eq!(listed["credentials"].as_array().map(Vec::len), Some(3), "{listed}");
}

/// A loopback address that nothing else in this test uses.
fn at(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 66, 0, last).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_do_not_lock_an_owner_out_from_elsewhere() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("owner", Role::Owner).await;
    let other = admin.create("other", Role::Owner).await;
    let (attacker, office, home) = (admin.0.from(at(1)), admin.0.from(at(2)), admin.0.from(at(3)));
    let ask = async |from: &Caller, header: String| {
        let answer = eventually("a password that is checked", async || {
            let answer = from.send(with(request("GET", "/livez", ""), "authorization", &header)).await;
            (answer.status != 503).then_some(answer)
        });
        answer.await
    };
    let guess = async |from: &Caller, user: &str| {
        let mut locked = None;
        for number in 0..8 {
            let answer = ask(from, basic(user, &format!("guess {number} of {user}"))).await;
            match answer.status {
                401 => {}
                429 => locked = Some(answer.header("retry-after").parse::<u64>().expect("seconds")),
                other => panic!("{other}"),
            }
        }
        locked
    };
    // At this name, from another address; the owner has never logged in before.
    let locked = guess(&attacker, "owner").await.expect("the fifth guess locks");
    assert!(locked <= 61, "{locked}");
    assert_eq!(ask(&home, format!("Bearer {token}")).await.status, 200, "from elsewhere");
    // The same name at the attacker's address is locked, but not for one who has logged in.
    assert_eq!(ask(&attacker, format!("Bearer {token}")).await.status, 200, "it is known");
    // Behind the same address, at another name: each name has one of 256 locks, so try some.
    let mut passes = false;
    for name in ["a", "b", "c"] {
        guess(&office, name).await.expect("a lock");
        passes |= ask(&office, format!("Bearer {other}")).await.status == 200;
        assert_eq!(
            ask(&office, format!("Bearer {ADMIN_TOKEN}")).await.status,
            200,
            "the token is compared first"
        );
    }
    assert!(passes, "guesses at other names locked this one");
}

#[tokio::test]
async fn a_request_on_an_open_connection_is_refused_after_a_revocation() {
    let world = World::ready().await;
    let admin = Admin::of(&world).await;
    let token = admin.create("ci", Role::Viewer).await;
    let mut to = admin.0.clone().http2().connect().await.expect("a connection");
    let call = || -> Request<bytes::Bytes> {
        with(request("GET", ME, ""), "authorization", &format!("Bearer {token}"))
    };
    assert_eq!(to.send(call()).await.status, 200);
    admin.done("POST", &format!("{CREDENTIALS}/ci/revoke"), Value::Null).await;
    assert_eq!(to.send(call()).await.status, 401);
    // Two values are ambiguous, also if one of them is right.
    let mut two = with(request("GET", ME, ""), "authorization", &format!("Bearer {ADMIN_TOKEN}"));
    two.headers_mut().append("authorization", "Bearer other".parse().expect("a header"));
    assert_eq!(to.send(two).await.status, 401);
}

const BASIC_AUTH: &str = "/api/v1/set-basic-auth";

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_chooses_the_secret_of_admin() {
    let mut world = World::ready().await;
    let admin = Admin::of(&world).await;
    let viewer = admin.create("viewer", Role::Viewer).await;
    let secret = "pass: wörd 5/7";
    let set = async |admin: &Admin, body: &str, authorization: String| {
        admin.shows("POST", BASIC_AUTH, body.to_owned(), "authorization", &authorization).await
    };
    let mine = || basic("admin", secret);
    // It was tried before it counts: that does not keep its holder out.
    assert_eq!(set(&admin, secret, mine()).await.status, 401);
    for (body, text) in [
        ("short", "the secret must have at least 12 characters, got 5"),
        ("", "the secret must have at least 12 characters, got 0"),
        ("aaaaaaaaaaaaaaaa", "the secret must have at least 6 different characters, got 1"),
        ("a token of your own", "the secret is one that everybody knows"),
        ("line one\nline two", "the secret must be text in UTF-8 without control characters"),
    ] {
        let answer = set(&admin, body, format!("Bearer {ADMIN_TOKEN}")).await;
        let told = answer.value()["error"].as_str().expect("a text").to_owned();
        assert_eq!(answer.status, 400, "{body}: {told}");
        assert!(told.starts_with(text), "{body}: {told}");
    }
    assert_eq!(set(&admin, secret, format!("Bearer {viewer}")).await.status, 403);
    assert!(world.audited("basic_auth_set").is_empty());

    let answer = set(&admin, &format!("{secret}\n"), format!("Bearer {ADMIN_TOKEN}")).await;
    assert_eq!((answer.status, answer.value()), (200, json!({ "user": "admin" })));
    let me = admin.shows("GET", ME, String::new(), "authorization", &mine()).await.value();
    assert_eq!((&me["name"], &me["role"], &me["kind"]), (&json!("admin"), &json!("owner"), &json!("named")));
    let events = world.audited("basic_auth_set");
    assert_eq!((&events[0]["name"], &events[0]["by"]), (&json!("admin"), &json!("token")));
    let log = std::fs::read_to_string(world.key_file("audit.jsonl")).expect("the log");
    let file = world.key_file("credentials.json");
    let kept = std::fs::read_to_string(&file).expect("the file");
    for text in [&log, &kept] {
        assert!(!text.contains("wörd") && !text.contains("w\\u00f6rd"), "{text}");
    }
    assert!(kept.contains("$argon2id$"), "{kept}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600);

    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    assert_eq!(
        admin.shows("GET", ME, String::new(), "authorization", &mine()).await.status,
        200,
        "over a restart"
    );
    // Another one: the old one ends at once.
    assert_eq!(set(&admin, "another secret", mine()).await.status, 200);
    assert_eq!(set(&admin, "third secret 3", mine()).await.status, 401);
    let other = basic("admin", "another secret");
    assert_eq!(admin.shows("GET", ME, String::new(), "authorization", &other).await.status, 200);
    // Nothing that the disk does not take.
    let obstacle = world.key_file("credentials.json.new");
    std::fs::create_dir(&obstacle).expect("a directory where the new file is written");
    assert_eq!(set(&admin, "third secret 3", other.clone()).await.status, 503);
    assert_eq!(admin.shows("GET", ME, String::new(), "authorization", &other).await.status, 200);
}

#[tokio::test]
async fn a_user_admin_of_the_htpasswd_file_keeps_its_password() {
    let mut world = World::ready().await;
    let hash = bcrypt::hash("pass word", 4).expect("bcrypt");
    std::fs::write(world.path("htpasswd"), format!("admin:{hash}\n")).expect("the file");
    world.configure(&format!("core.admin.htpasswd_file = '{}'", world.path("htpasswd").display()));
    world.start().await.expect("it starts again");
    let admin = Admin::of(&world).await;
    let answer =
        admin.shows("POST", BASIC_AUTH, "another secret".to_owned(), "x-admin-token", ADMIN_TOKEN).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("admin is a user of the htpasswd file"), "{}", answer.text());
}

#[tokio::test]
async fn an_htpasswd_file_that_is_gone_makes_no_other_owner() {
    let mut world = World::ready().await;
    let file = world.path("htpasswd");
    world.configure(&format!("core.admin.auth_token = ''\ncore.admin.htpasswd_file = '{}'", file.display()));
    world.start().await.expect("the file is made");
    let made = std::fs::read_to_string(&file).expect("the file");
    assert!(made.starts_with("admin:$2y$12$"), "{made}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(world.audited("owner_created").len(), 1);
    assert!(!world.key_file("credentials.json").exists(), "one owner");
    std::fs::remove_file(&file).expect("removed");
    let error = world.start().await.expect_err("it has had an owner").to_string();
    assert!(error.contains("this KMS has had credentials"), "{error}");
    assert!(!file.exists());

    // Nor does it make one beside another owner.
    std::fs::write(&file, made).expect("the file");
    world.configure(&format!("core.admin.auth_token = '{ADMIN_TOKEN}'"));
    world.start().await.expect("it starts again");
    Admin::of(&world).await.create("first", Role::Owner).await;
    world.configure("core.admin.auth_token = ''");
    std::fs::remove_file(&file).expect("removed");
    let error = world.start().await.expect_err("the file is missing").to_string();
    assert!(error.starts_with("the file that core.admin.htpasswd_file names is missing"), "{error}");
    assert!(!file.exists());
}
