//! Each row of the admin listener with each kind of credential: one table, which asserts status and code.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use cvm_kms::api::routes::{ROUTES, Verb};
use cvm_kms::api::{Access, METHODS, Reach, Role, Service};
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};

use crate::access_cases::codec::{Codec, Message};
use crate::support::http::{request, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, basic};

const CREDENTIALS: &str = "/api/v1/credentials";
/// Requests at a time.
const AT_ONCE: usize = 32;

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// 401 without a body, and a challenge.
    Challenged,
    /// The request of a role that is high enough: anything but 401 and 403.
    Passed,
    /// 403 with this code, or the same in gRPC.
    Refused(&'static str),
}

/// What is shown, and what each row answers to it.
struct Column {
    name: String,
    header: Option<(&'static str, String)>,
    rule: Rule,
}

#[derive(Clone, Copy)]
enum Rule {
    /// The same on every row.
    Always(Told),
    /// As the row's role says.
    Role(Role),
    /// The same of a credential that is limited to the only domain, which changes nothing of the whole KMS.
    Limited(Role),
    /// Passes only where an invitation is needed.
    Invitation,
}

impl Rule {
    fn told(self, row: &Row) -> Told {
        match (self, row.access) {
            (Self::Always(told), _) => told,
            (Self::Limited(role), access) => {
                let is_change = access.role().is_some_and(|least| least.includes(Role::Operator));
                match Self::Role(role).told(row) {
                    Told::Passed if is_change && row.reach == Reach::WholeKms => {
                        Told::Refused("other_domain")
                    }
                    told => told,
                }
            }
            (Self::Role(role), Access::Operator(least) | Access::OperatorAndAttestedCertificate(least)) => {
                if role.includes(least) {
                    Told::Passed
                } else {
                    Told::Refused("denied")
                }
            }
            (Self::Invitation, Access::Invitation) => Told::Passed,
            (Self::Role(_) | Self::Invitation, _) => Told::Refused("denied"),
        }
    }
}

/// A request to one row, and who may make it.
struct Row {
    name: String,
    access: Access,
    reach: Reach,
    codec: Option<Codec>,
    call: Request<Bytes>,
}

fn rows() -> Vec<Row> {
    let methods = METHODS.iter().filter(|row| row.service == Service::Admin).flat_map(|row| {
        Codec::ALL.map(|codec| Row {
            name: format!("{} {codec:?}", row.name),
            access: row.access,
            reach: row.reach,
            codec: Some(codec),
            call: codec.request(Service::Admin, row.name, &Message::empty()),
        })
    });
    let routes = ROUTES.iter().filter(|row| row.service == Service::Admin).flat_map(|row| {
        let closed = row.verbs.iter().filter(|(_, access)| *access != Access::Open);
        closed.map(move |(verb, access)| (row, *verb, *access))
    });
    let app = format!("epochs/apps/{}", "ab".repeat(20));
    let routes = routes.map(|(row, verb, access)| {
        let path = row.path.replace("entries/{*tile}", "entries/000.p/1").replace("{*tile}", "0/000.p/1");
        let path = path
            .replace("{name}", "nobody")
            .replace("{id}", "nobody")
            .replace("epochs/apps/{app}", &app)
            .replace("{app}", "nobody")
            .replace("{seq}", "x");
        // A stream ends after so many events.
        let path = if path.ends_with("/stream") { format!("{path}?limit=0") } else { path };
        // No route of operators takes this, or it reports it as an event: nothing is changed.
        let body = if verb == Verb::Get { "" } else { r#"{"no_such_field":1}"# };
        let call = request(verb.name(), &path, body);
        Row { name: format!("{} {path}", verb.name()), access, reach: row.reach, codec: None, call }
    });
    let health = request("POST", "/grpc.health.v1.Health/Check", vec![0; 5]);
    let health = Row {
        name: "the health service".to_owned(),
        access: Access::Operator(Role::Viewer),
        reach: Reach::Domain,
        codec: Some(Codec::Grpc),
        call: with(with(health, "content-type", "application/grpc"), "te", "trailers"),
    };
    let mut rows: Vec<_> = methods.chain(routes).chain([health]).collect();
    // The last one, because it uses up the invitation.
    rows.sort_by_key(|row| row.access == Access::Invitation);
    rows
}

fn told(row: &Row, answer: &Answer) -> Told {
    // Evidence of a replica, which no caller here has, is looked at after its credential.
    let needs_evidence = matches!(row.access, Access::OperatorAndAttestedCertificate(_));
    if needs_evidence && answer.status == 401 && answer.header("www-authenticate").is_empty() {
        return Told::Passed;
    }
    if answer.status == 401 {
        assert!(answer.body.is_empty(), "{}: {answer:?}", row.name);
        assert_eq!(answer.header("www-authenticate"), r#"Basic realm="dstack-kms admin""#, "{}", row.name);
        return Told::Challenged;
    }
    let grpc_status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    let is_denied = match row.codec {
        Some(Codec::Grpc) => {
            assert_eq!(answer.status, 200, "{}: {answer:?}", row.name);
            grpc_status.is_some_and(|status| status == "7")
        }
        Some(Codec::Json | Codec::Protobuf) | None => answer.status == 403,
    };
    match (is_denied, row.codec) {
        (false, _) => Told::Passed,
        (true, Some(Codec::Grpc)) if answer.header("grpc-message").contains("domain") => {
            Told::Refused("other_domain")
        }
        (true, Some(Codec::Grpc)) => Told::Refused("denied"),
        (true, _) => match answer.header("x-error-code") {
            "denied" => Told::Refused("denied"),
            "other_domain" => Told::Refused("other_domain"),
            other => panic!("{}: {other}: {answer:?}", row.name),
        },
    }
}

fn by_password(user: &str, password: &str) -> Option<(&'static str, String)> {
    Some(("authorization", basic(user, password)))
}

fn bearer(token: &str) -> Option<(&'static str, String)> {
    Some(("authorization", format!("Bearer {token}")))
}

/// Creates a credential and returns its token.
async fn create(admin: &Caller, body: Value) -> String {
    let call = with(request("POST", CREDENTIALS, body.to_string()), "x-admin-token", ADMIN_TOKEN);
    let answer = admin.send(call).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.value()["token"].as_str().expect("a token").to_owned()
}

/// All columns. The KMS is started again with a file that has an ended credential, and one of another domain.
async fn columns(world: &mut World) -> Vec<Column> {
    let admin = Caller::new(world.admin_address().await).plain();
    let mut columns = Vec::new();
    let mut add = |name: &str, header, rule| columns.push(Column { name: name.to_owned(), header, rule });
    let nobody = "0".repeat(64);
    let never = Rule::Always(Told::Challenged);
    add("none", None, never);
    add("a wrong token", bearer("another token"), never);
    add("a wrong X-Admin-Token", Some(("x-admin-token", "another token".to_owned())), never);
    add("an unknown name", bearer(&format!("ckms_nobody_{nobody}")), never);
    add("an unknown name and password", by_password("nobody", "a password"), never);
    add("a wrong secret", bearer(&format!("ckms_viewer_{nobody}")), never);
    add("a wrong password of a name", by_password("viewer", "a password"), never);
    add("a name with a capital", by_password("Viewer", "a password"), never);
    add("a name beyond ASCII", by_password("vïewer", "a password"), never);
    add("another scheme", Some(("authorization", format!("Digest {ADMIN_TOKEN}"))), never);
    add("no scheme", Some(("authorization", ADMIN_TOKEN.to_owned())), never);
    add("the token of the configuration", bearer(ADMIN_TOKEN), Rule::Role(Role::Owner));
    for role in Role::ALL {
        let token = create(&admin, json!({ "name": role.name(), "role": role.name() })).await;
        add(role.name(), bearer(&token), Rule::Role(role));
        let secret = token.rsplit('_').next().expect("a secret");
        add(&format!("{role} by password"), by_password(role.name(), secret), Rule::Role(role));
        let name = format!("default-{role}");
        let body = json!({ "name": name, "role": role.name(), "domain": "default" });
        add(&name, bearer(&create(&admin, body).await), Rule::Limited(role));
    }
    let revoked = create(&admin, json!({ "name": "revoked", "role": "owner" })).await;
    let call =
        with(request("POST", &format!("{CREDENTIALS}/revoked/revoke"), ""), "x-admin-token", ADMIN_TOKEN);
    assert_eq!(admin.send(call).await.status, 200);
    add("revoked", bearer(&revoked), never);
    let invited = create(&admin, json!({ "name": "invited", "role": "owner", "invite": true })).await;
    let late = create(&admin, json!({ "name": "late", "role": "owner", "invite": true })).await;
    add("an invitation that has ended", bearer(&late), never);
    let ended = create(&admin, json!({ "name": "ended", "role": "owner" })).await;
    add("ended", bearer(&ended), never);
    let foreign = Rule::Always(Told::Refused("other_domain"));
    for role in Role::ALL {
        let name = format!("foreign-{role}");
        let token = create(&admin, json!({ "name": name, "role": role.name() })).await;
        add(&name, bearer(&token), foreign);
    }
    let body = json!({ "name": "foreign-guest", "role": "owner", "invite": true });
    add("an invitation of another domain", bearer(&create(&admin, body).await), foreign);
    let wrong = bearer(&format!("ckms_foreign-owner_{nobody}"));
    add("a wrong secret of another domain", wrong, never);
    // The last one, because it can be used once.
    add("an invitation", bearer(&invited), Rule::Invitation);

    world.stop().await;
    let file = world.key_file("credentials.json");
    let mut text: Value = serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    for record in text["credentials"].as_array_mut().expect("a list") {
        match record["name"].as_str().expect("a name") {
            "ended" => record["expires_at"] = json!(1),
            "late" => record["invited_until"] = json!(1),
            name if name.starts_with("foreign-") => record["domain"] = json!("acme"),
            _ => {}
        }
    }
    std::fs::write(&file, text.to_string()).expect("the file");
    world.start().await.expect("it starts again");
    columns
}

/// A loopback address for each request, so that no lock-out decides.
fn address(number: usize) -> IpAddr {
    let number = u16::try_from(number).expect("few").to_be_bytes();
    Ipv4Addr::new(127, 77, number[0], number[1]).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_answers_every_credential_as_the_table_says() {
    let mut world = World::ready().await;
    let columns = columns(&mut world).await;
    let admin = Caller::new(world.admin_address().await).plain();
    let rows = rows();
    assert!(rows.len() > 40, "{}", rows.len());
    for column in &columns {
        for (chunk_number, chunk) in rows.chunks(AT_ONCE).enumerate() {
            let calls = chunk.iter().enumerate().map(|(at, row)| {
                let caller = admin.from(address(1 + chunk_number * AT_ONCE + at));
                let caller = if row.codec == Some(Codec::Grpc) { caller.http2() } else { caller };
                let call = match &column.header {
                    Some((name, value)) => with(row.call.clone(), name, value),
                    None => row.call.clone(),
                };
                async move { (row, settled(&caller, call).await) }
            });
            for (row, answer) in join_all(calls).await {
                let expected = column.rule.told(row);
                assert_eq!(told(row, &answer), expected, "{} with {}: {answer:?}", row.name, column.name);
            }
        }
    }
    assert_eq!(world.audited("credential_activated").len(), 1, "by the invitation");
    assert_eq!(world.audited("credential_created").len(), world_credentials(&columns));
}

/// How many credentials the columns have made.
fn world_credentials(columns: &[Column]) -> usize {
    let roles = Role::ALL.len();
    // Each role: whole KMS, default and another domain. Revoked, invited, late, ended, and a guest of another domain.
    assert!(columns.len() > 3 * roles);
    3 * roles + 5
}

/// The answer, once the queue of passwords has had room for the request.
async fn settled(caller: &Caller, call: Request<Bytes>) -> Answer {
    crate::support::eventually("a password that is checked", async || {
        let answer = caller.send(call.clone()).await;
        let is_busy = answer.text().contains("passwords are being checked")
            || answer.header("grpc-message").contains("passwords");
        (!is_busy).then_some(answer)
    })
    .await
}
