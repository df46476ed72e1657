//! Who may call what: one table over descriptors, codecs and callers. A method that is not in it fails the
//! test.

use std::collections::{BTreeMap, BTreeSet};

use crate::access_cases::codec::{Codec, Message, Told};
use crate::access_cases::fixtures::{Ask, Certificate, Credential, Fixtures};
use crate::support::http::{post, request, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, Line, World};
use base64::Engine as _;
use bytes::Bytes;
use cvm_kms::api::Method::{self, *};
use cvm_kms::api::routes::{ROUTES, Route, Verb};
use cvm_kms::api::{Access, METHODS, Role, Service};
use cvm_kms::error::Code;
use cvm_kms::keys::derive;
use cvm_kms::proto::{ClearImageCacheRequest, DESCRIPTORS};
use http::Request;
use kms_attest::identity::AppId;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::json;

/// The result in a cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Refused(Code, &'static str),
    /// Credentials are required, before the method is dispatched.
    Challenged,
}
use Outcome::*;

struct Row<const COLUMNS: usize> {
    method: Method,
    ask: Ask,
    expected: [Outcome; COLUMNS],
}

const fn row<const COLUMNS: usize>(method: Method, ask: Ask, expected: [Outcome; COLUMNS]) -> Row<COLUMNS> {
    Row { method, ask, expected }
}

const NO_EVIDENCE: Outcome = Refused(Code::Unauthenticated, "No attestation provided");
const APP_WITHOUT_EVIDENCE: Outcome =
    Refused(Code::Unauthenticated, "App not allowed: No attestation provided");
const UNREGISTERED: Outcome = Refused(Code::Denied, "Boot denied: app not registered");
const APP_UNREGISTERED: Outcome = Refused(Code::Denied, "App not allowed: Boot denied: app not registered");
const NO_KMS: Outcome = Refused(Code::Denied, "Boot denied: aggregated MR not allowed");
const UNBOUND: Outcome = Refused(Code::Unauthenticated, "Quote verification failed: report data mismatch");
const NO_VERSION: Outcome = Refused(Code::InvalidRequest, "Unsupported API version: 0");
const NO_STAGE: Outcome = Refused(Code::InvalidRequest, "stage must be committed or serving");
const BAD_TOKEN: Outcome = Refused(Code::InvalidRequest, "Invalid token");
const BOOTSTRAPPED: Outcome = Refused(Code::AlreadyOnboarded, "KMS has already been bootstrapped");
const ONBOARDED: Outcome = Refused(Code::AlreadyOnboarded, "KMS has already been onboarded");
const NO_TOKEN: Outcome = Refused(Code::Unauthenticated, "this KMS asks for its onboarding token");
const WRONG_TOKEN: Outcome = Refused(Code::Unauthenticated, "this is not the onboarding token of this KMS");

/// The main listener of a KMS with keys. Columns: no certificate, an unattested one, an attested app, an attested KMS.
const SERVING: [Row<{ Certificate::ALL.len() }>; 14] = [
    row(GetAppKey, Ask::Valid, [APP_WITHOUT_EVIDENCE, APP_WITHOUT_EVIDENCE, Answered, APP_UNREGISTERED]),
    row(KmsGetKmsKey, Ask::Valid, [NO_EVIDENCE, NO_EVIDENCE, NO_KMS, Answered]),
    row(ReportJoin, Ask::Empty, [NO_STAGE, NO_STAGE, NO_STAGE, NO_STAGE]),
    row(GetAppEnvEncryptPubKey, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(GetMeta, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(GetTempCaCert, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(KmsGetChallenge, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(SignCert, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(SignCert, Ask::ByStranger, [UNREGISTERED, UNREGISTERED, UNREGISTERED, UNREGISTERED]),
    row(SignCert, Ask::Unbound, [UNBOUND, UNBOUND, UNBOUND, UNBOUND]),
    row(SignCert, Ask::Empty, [NO_VERSION, NO_VERSION, NO_VERSION, NO_VERSION]),
    row(KmsClearImageCache, Ask::Valid, [Answered, Answered, Answered, Answered]),
    row(KmsClearImageCache, Ask::WrongToken, [BAD_TOKEN, BAD_TOKEN, BAD_TOKEN, BAD_TOKEN]),
    row(KmsClearImageCache, Ask::Empty, [BAD_TOKEN, BAD_TOKEN, BAD_TOKEN, BAD_TOKEN]),
];

/// A KMS without keys. Columns: plain HTTP, then over TLS as above; certificates make no difference.
const ONBOARDING: [Row<{ 1 + Certificate::ALL.len() }>; 6] = [
    row(Bootstrap, Ask::Valid, [Answered, Answered, Answered, Answered, Answered]),
    row(Bootstrap, Ask::Again, [BOOTSTRAPPED, BOOTSTRAPPED, BOOTSTRAPPED, BOOTSTRAPPED, BOOTSTRAPPED]),
    row(Method::Onboard, Ask::Valid, [Answered, Answered, Answered, Answered, Answered]),
    row(Method::Onboard, Ask::Again, [ONBOARDED, ONBOARDED, ONBOARDED, ONBOARDED, ONBOARDED]),
    row(GetAttestationInfo, Ask::Valid, [Answered, Answered, Answered, Answered, Answered]),
    row(Finish, Ask::Valid, [Answered, Answered, Answered, Answered, Answered]),
];

/// A KMS without keys that requires its onboarding token, plain or over TLS. Columns: no token, a wrong one,
/// the right one.
const GUARDED_ONBOARDING: [Row<{ Credential::ALL.len() }>; 4] = [
    row(Bootstrap, Ask::Valid, [NO_TOKEN, WRONG_TOKEN, Answered]),
    row(Method::Onboard, Ask::Valid, [NO_TOKEN, WRONG_TOKEN, Answered]),
    row(GetAttestationInfo, Ask::Valid, [Answered, Answered, Answered]),
    row(Finish, Ask::Valid, [NO_TOKEN, WRONG_TOKEN, Answered]),
];

/// The admin listener: the lowest role that may call a method, and its line. Columns: no token, a wrong one, the right one, of
/// an owner.
const ADMIN: &[(Role, Row<{ Credential::ALL.len() }>)] = &[
    (Role::Operator, row(AdminClearImageCache, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Owner, row(AdminGetKmsKey, Ask::Valid, [Challenged, Challenged, NO_EVIDENCE])),
    (Role::Owner, row(AdminGetChallenge, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Viewer, row(Explain, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Viewer, row(ListDenials, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Operator, row(Freeze, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Owner, row(Unfreeze, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Viewer, row(ListFrozen, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Operator, row(StartShadow, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Viewer, row(ShadowReport, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Operator, row(StopShadow, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Operator, row(RefreshCollateral, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Viewer, row(RecentReleases, Ask::Valid, [Challenged, Challenged, Answered])),
    (Role::Owner, row(LowerClockFloor, Ask::Valid, [Challenged, Challenged, Answered])),
];

/// The admin listener over TLS, with the right token. Columns: as for the main listener.
const ADMIN_OVER_TLS: [Row<{ Certificate::ALL.len() }>; 1] =
    [row(AdminGetKmsKey, Ask::Valid, [NO_EVIDENCE, NO_EVIDENCE, NO_KMS, Answered])];

/// The methods of the proto file: service and name.
fn declared() -> Vec<(String, String)> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptor set");
    let services = set.file.iter().filter(|file| file.package() == "kms").flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        service.method.iter().map(|method| (service.name().to_owned(), method.name().to_owned()))
    });
    let mut methods: Vec<_> = methods.collect();
    methods.sort();
    methods
}

fn named<'a>(methods: impl IntoIterator<Item = &'a Method>) -> Vec<(String, String)> {
    let name = |method: &Method| (method.row().service.name().to_owned(), method.row().name.to_owned());
    let mut names: Vec<_> = methods.into_iter().map(name).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn the_proto_file_and_the_method_table_have_the_same_methods() {
    let declared = declared();
    assert!(declared.len() >= 12, "the descriptors hold the services: {declared:?}");
    assert_eq!(METHODS.len(), declared.len(), "no row is there twice");
    assert_eq!(named(METHODS.iter().map(|row| &row.method)), declared);
    let served: BTreeSet<&str> = METHODS.iter().map(|row| row.name).collect();
    assert_eq!(BTreeSet::from(cvm_kms::config::METHODS), served, "the methods that `limits` knows");
}

#[test]
fn every_method_of_the_proto_file_has_its_lines_here() {
    let of = |service: &str| declared().into_iter().filter(|(of, _)| of == service).collect::<Vec<_>>();
    assert_eq!(named(SERVING.iter().map(|row| &row.method)), of("KMS"));
    assert_eq!(named(ONBOARDING.iter().map(|row| &row.method)), of("Onboard"));
    assert_eq!(named(GUARDED_ONBOARDING.iter().map(|row| &row.method)), of("Onboard"));
    assert_eq!(named(ADMIN.iter().map(|(_, row)| &row.method)), of("Admin"));
    assert_eq!(
        ["KMS", "Onboard", "Admin"].map(of).concat().len(),
        declared().len(),
        "a service has no lines"
    );
}

/// The outcomes in a method's line.
fn line<const COLUMNS: usize>(table: &[Row<COLUMNS>], method: Method, ask: Ask) -> [Outcome; COLUMNS] {
    let row = table.iter().find(|row| row.method == method && row.ask == ask);
    row.unwrap_or_else(|| panic!("no line for {method:?} {ask:?}")).expected
}

/// The outcomes in the line of a method of operators.
fn admin_line(method: Method) -> [Outcome; Credential::ALL.len()] {
    let line = ADMIN.iter().find(|(_, row)| row.method == method);
    line.unwrap_or_else(|| panic!("no line for {method:?}")).1.expected
}

#[test]
fn each_method_of_operators_needs_the_role_of_its_line() {
    for (role, row) in ADMIN {
        assert_eq!(row.method.row().access.role(), Some(*role), "{:?}", row.method);
    }
}

fn is_unauthenticated(outcome: &Outcome) -> bool {
    matches!(outcome, Challenged | Refused(Code::Unauthenticated, _))
}

#[test]
fn the_access_that_a_method_declares_is_the_access_that_its_lines_show() {
    for row in METHODS {
        let method = row.method;
        match (row.access, row.service) {
            (Access::Open, Service::Kms) => assert_eq!(line(&SERVING, method, Ask::Valid), [Answered; 4]),
            (Access::Open, Service::Onboard) => {
                assert_eq!(line(&ONBOARDING, method, Ask::Valid), [Answered; 5]);
                assert_eq!(line(&GUARDED_ONBOARDING, method, Ask::Valid), [Answered; 3]);
            }
            (Access::AttestedCertificate, Service::Kms) => {
                for (certificate, outcome) in Certificate::ALL.iter().zip(line(&SERVING, method, Ask::Valid))
                {
                    assert_ne!(is_unauthenticated(&outcome), certificate.is_attested(), "{method:?}");
                }
                assert_eq!(line(&SERVING, method, Ask::Valid).iter().filter(|o| **o == Answered).count(), 1);
            }
            (Access::AttestedMessage, Service::Kms) => {
                assert_eq!(line(&SERVING, method, Ask::Valid), [Answered; 4]);
                assert!(line(&SERVING, method, Ask::Unbound).iter().all(is_unauthenticated));
            }
            // Its token is that of an invitation, which tests/it/joins.rs has.
            (Access::TokenInMessage, Service::Kms) if method == ReportJoin => {
                assert_eq!(line(&SERVING, method, Ask::Empty), [NO_STAGE; 4]);
            }
            (Access::TokenInMessage, Service::Kms) => {
                assert_eq!(line(&SERVING, method, Ask::Valid), [Answered; 4]);
                assert_eq!(line(&SERVING, method, Ask::WrongToken), [BAD_TOKEN; 4]);
            }
            (Access::Onboarding, Service::Onboard) => {
                assert_eq!(line(&ONBOARDING, method, Ask::Valid), [Answered; 5]);
                assert_eq!(line(&GUARDED_ONBOARDING, method, Ask::Valid), [NO_TOKEN, WRONG_TOKEN, Answered]);
            }
            (Access::Operator(_), Service::Admin) => {
                assert_eq!(admin_line(method), [Challenged, Challenged, Answered]);
            }
            (Access::OperatorAndAttestedCertificate(_), Service::Admin) => {
                assert_eq!(admin_line(method), [Challenged, Challenged, NO_EVIDENCE]);
                let outcomes = line(&ADMIN_OVER_TLS, method, Ask::Valid);
                for (certificate, outcome) in Certificate::ALL.iter().zip(&outcomes) {
                    assert_ne!(is_unauthenticated(outcome), certificate.is_attested(), "{method:?}");
                }
                assert_eq!(outcomes.iter().filter(|outcome| **outcome == Answered).count(), 1);
            }
            (access, service) => panic!("{method:?}: nobody has said what {access:?} means for {service:?}"),
        }
    }
}

/// Makes the calls in one codec and compares the results with the table.
async fn check(
    to: &mut Line,
    codec: Codec,
    method: Method,
    message: &Message,
    credential: Credential,
    expected: Outcome,
) -> Answer {
    let row = method.row();
    let mut call = codec.request(row.service, row.name, message);
    if let Some(value) = credential.header() {
        call = with(call, "authorization", &value);
    }
    let answer = to.send(call).await;
    let expected = match expected {
        Answered => Told::success(codec),
        Refused(code, text) => Told::error(codec, code, text),
        Challenged => {
            assert_eq!(answer.header("www-authenticate"), r#"Basic realm="dstack-kms admin""#, "{answer:?}");
            assert!(answer.body.is_empty(), "{answer:?}");
            Told::error(codec, Code::Unauthenticated, "")
        }
    };
    assert_eq!(codec.told(&answer), expected, "{method:?} {codec:?} {credential:?}");
    answer
}

async fn connected(caller: &Caller) -> Line {
    caller.connect().await.expect("a connection")
}

#[tokio::test]
async fn a_kms_with_keys_answers_each_caller_as_the_table_says() {
    let fixtures = Fixtures::gather().await;
    for (column, certificate) in Certificate::ALL.into_iter().enumerate() {
        let mut to = connected(&fixtures.world.caller().shows(fixtures.identity(certificate))).await;
        for row in &SERVING {
            for codec in Codec::ALL {
                let message = fixtures.message(row.method, row.ask);
                check(&mut to, codec, row.method, &message, Credential::None, row.expected[column]).await;
            }
        }
    }
}

/// Whether a method that succeeds only once needs another KMS for each success.
fn works_once(method: Method, expected: Outcome) -> bool {
    matches!(method, Bootstrap | Method::Onboard) && expected == Answered
}

#[tokio::test]
async fn a_kms_without_keys_answers_each_caller_as_the_table_says() {
    let fixtures = Fixtures::gather().await;
    let (empty, committed) = (World::onboarding().await, World::onboarding().await);
    committed.bootstrap().await;
    let visitors = [None].into_iter().chain(Certificate::ALL.map(Some));
    for (column, visitor) in visitors.enumerate() {
        for row in &ONBOARDING {
            let expected = row.expected[column];
            for codec in Codec::ALL {
                let own =
                    if works_once(row.method, expected) { Some(World::onboarding().await) } else { None };
                let world = own.as_ref().unwrap_or(if row.ask == Ask::Again { &committed } else { &empty });
                let mut to = match visitor {
                    None => connected(&world.caller().plain().http2()).await,
                    Some(certificate) => {
                        connected(&world.caller().shows(fixtures.identity(certificate))).await
                    }
                };
                let message = fixtures.message(row.method, row.ask);
                check(&mut to, codec, row.method, &message, Credential::None, expected).await;
            }
        }
    }
}

async fn guarded_world() -> World {
    World::onboarding_with(&format!(r#"core.onboard.auth_token = "{ADMIN_TOKEN}""#)).await
}

#[tokio::test]
async fn a_kms_that_asks_for_its_onboarding_token_answers_as_the_table_says() {
    let fixtures = Fixtures::gather().await;
    let empty = guarded_world().await;
    for (column, credential) in Credential::ALL.into_iter().enumerate() {
        for row in &GUARDED_ONBOARDING {
            let expected = row.expected[column];
            for codec in Codec::ALL {
                for is_plain in [true, false] {
                    let own =
                        if works_once(row.method, expected) { Some(guarded_world().await) } else { None };
                    let caller = own.as_ref().unwrap_or(&empty).caller();
                    let mut to = connected(&if is_plain { caller.plain().http2() } else { caller }).await;
                    let message = fixtures.message(row.method, row.ask);
                    check(&mut to, codec, row.method, &message, credential, expected).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_is_decoded_twice_does_not_get_around_the_onboarding_token() {
    let world = guarded_world().await;
    let mut to = connected(&world.caller().plain()).await;
    for name in
        ["%42ootstrap", "%2542ootstrap", "%252542ootstrap", "Onboard%2EBootstrap", "Onboard%252EBootstrap"]
    {
        let body = json!({ "domain": crate::support::DOMAIN });
        let answer = to.json(name, body).await;
        assert!([401, 404].contains(&answer.status), "{name}: {answer:?}");
    }
    for path in ["/finish", "//finish", "/%66inish", "/%2566inish", "/finish?token=x"] {
        let answer = to.send(request("GET", path, "")).await;
        assert!([401, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    assert!(world.audited("keys_bootstrapped").is_empty(), "no keys were made");
}

#[tokio::test]
async fn the_admin_listener_answers_each_caller_as_the_table_says() {
    let fixtures = Fixtures::gather().await;
    let caller = Caller::new(fixtures.world.admin_address().await).plain().http2();
    let mut to = connected(&caller).await;
    for (column, credential) in Credential::ALL.into_iter().enumerate() {
        for (_, row) in ADMIN {
            for codec in Codec::ALL {
                let message = fixtures.message(row.method, row.ask);
                check(&mut to, codec, row.method, &message, credential, row.expected[column]).await;
            }
            // Right credentials between the wrong ones, so that no lockout interferes.
            let message = Message::empty();
            check(&mut to, Codec::Json, ListFrozen, &message, Credential::Right, Answered).await;
        }
    }
}

#[tokio::test]
async fn the_admin_listener_over_tls_answers_each_caller_as_the_table_says() {
    let mut fixtures = Fixtures::gather().await;
    let (key, certs) = (fixtures.world.key_file("rpc.key"), fixtures.world.key_file("rpc.crt"));
    fixtures.world.configure(&format!("core.admin.tls = {{ key = {key:?}, certs = {certs:?} }}"));
    fixtures.world.start().await.expect("it starts again");
    let admin = Caller::new(fixtures.world.admin_address().await);
    for (column, certificate) in Certificate::ALL.into_iter().enumerate() {
        let mut to = connected(&admin.shows(fixtures.identity(certificate))).await;
        for row in &ADMIN_OVER_TLS {
            for codec in Codec::ALL {
                let message = fixtures.message(row.method, row.ask);
                check(&mut to, codec, row.method, &message, Credential::None, Challenged).await;
                let expected = row.expected[column];
                check(&mut to, codec, row.method, &message, Credential::Right, expected).await;
            }
        }
    }
}

#[tokio::test]
async fn no_verb_and_no_path_gets_around_the_credentials_of_the_admin_listener() {
    let world = World::ready().await;
    let mut to = connected(&Caller::new(world.admin_address().await).plain().http2()).await;
    std::fs::create_dir_all(world.path("images/images/aa")).expect("a cached image");
    let body = Message::of(&ClearImageCacheRequest { image_hash: "all".to_owned(), ..Default::default() });
    for verb in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"] {
        for codec in Codec::ALL {
            let mut call = codec.request(Service::Admin, "ClearImageCache", &body);
            *call.method_mut() = verb.parse().expect("a verb");
            let answer = to.send(call).await;
            assert!([401, 404].contains(&answer.status), "{verb} {codec:?}: {answer:?}");
            assert!(
                answer.header("grpc-status").is_empty() && answer.trailers.is_empty(),
                "{verb} {answer:?}"
            );
        }
    }
    for path in ["/", "/health", "/metrics", "/nowhere", "/prpc/", "/grpc.health.v1.Health/Check"] {
        let answer = to.send(post(path, "")).await;
        assert_eq!((answer.status, answer.text()), (401, ""), "{path}");
    }
    assert!(world.path("images/images/aa").exists(), "nothing was cleared");
}

/// A connection to the listener of `service`, with the required credentials.
struct Open<'a> {
    service: Service,
    caller: &'a Caller,
    credential: Credential,
}

impl Open<'_> {
    fn signed(&self, call: Request<Bytes>) -> Request<Bytes> {
        match self.credential.header() {
            Some(value) => with(call, "authorization", &value),
            None => call,
        }
    }
}

/// Visits each service as its callers reach it: a KMS with keys, one without keys (plain and over TLS), and
/// the admin listener.
async fn each_listener(serving: &World, onboarding: &World, visit: impl AsyncFn(Open<'_>)) {
    let admin = Caller::new(serving.admin_address().await).plain().http2();
    for (service, caller, credential) in [
        (Service::Kms, serving.caller(), Credential::None),
        (Service::Onboard, onboarding.caller(), Credential::None),
        (Service::Onboard, onboarding.caller().plain().http2(), Credential::None),
        (Service::Admin, admin, Credential::Right),
    ] {
        visit(Open { service, caller: &caller, credential }).await;
    }
}

/// Whether a route of this access accepts the credentials. On the admin listener an open route is open for its own
/// methods only.
fn is_let_in(service: Service, access: Access, credential: Credential, is_served: bool) -> bool {
    match access {
        Access::Open if service == Service::Admin => is_served || matches!(credential, Credential::Right),
        Access::Open => true,
        Access::Onboarding | Access::Operator(_) => matches!(credential, Credential::Right),
        // Operators are no holders of an invitation: 403.
        Access::Invitation => matches!(credential, Credential::Right),
        Access::AttestedCertificate
        | Access::AttestedMessage
        | Access::TokenInMessage
        | Access::OperatorAndAttestedCertificate(_) => panic!("no route asks for {access:?}"),
    }
}

#[tokio::test]
async fn every_route_asks_for_what_its_row_says_and_is_served_nowhere_else() {
    let (serving, onboarding) = (World::ready().await, guarded_world().await);
    let admin = Caller::new(serving.admin_address().await).plain();
    for (service, caller) in [
        (Service::Kms, serving.caller()),
        (Service::Onboard, onboarding.caller().plain()),
        (Service::Onboard, onboarding.caller()),
        (Service::Admin, admin),
    ] {
        let mut to = connected(&caller).await;
        for route in ROUTES {
            let path = route
                .path
                .replace("{file}", "view.js")
                .replace("vendor/{*file}", "vendor/preact.js")
                .replace("docs/{*file}", "docs/docs.js")
                .replace("{*file}", "views/overview.js")
                .replace("{check}", "clock")
                .replace("{name}", "nobody")
                .replace("{seq}", "x")
                .replace("{id}", "x")
                .replace("{order}", "pause")
                .replace("{app}", "x")
                .replace("entries/{*tile}", "entries/000.p/1")
                .replace("{*tile}", "0/000.p/1");
            let here = Route::serving(service, &path);
            for verb in [Verb::Get, Verb::Post, Verb::Put, Verb::Patch, Verb::Delete] {
                for credential in Credential::ALL {
                    // A stream ends after so many events.
                    let is_stream = path.ends_with("/stream");
                    let target = if is_stream { format!("{path}?limit=0") } else { path.clone() };
                    let mut call = request(verb.name(), &target, "");
                    if let Some(value) = credential.header() {
                        call = with(call, "authorization", &value);
                    }
                    let status = to.send(call).await.status;
                    let told = format!("{verb:?} {path} at {service:?} with {credential:?}: {status}");
                    if service == Service::Kms && path.contains("/entries/") {
                        // Below the path of the tiles of hashes, which everyone may read.
                        assert_eq!(status, if verb == Verb::Get { 403 } else { 405 }, "{told}");
                        continue;
                    }
                    let Some(row) = here else {
                        assert!([401, 404, 405].contains(&status), "{told}");
                        continue;
                    };
                    let is_served = row.access(verb).is_some();
                    let access = row.access(verb).unwrap_or(row.verbs[0].1);
                    match (is_let_in(service, access, credential, is_served), is_served) {
                        (false, _) => assert_eq!(status, 401, "{told}"),
                        (true, _) if access == Access::Invitation => assert_eq!(status, 403, "{told}"),
                        (true, false) => assert_eq!(status, 405, "{told}"),
                        // What it would end is not there.
                        (true, true) if verb == Verb::Delete => {
                            assert!(![401, 403, 405].contains(&status), "{told}");
                        }
                        (true, true) => assert!(![401, 403, 404, 405].contains(&status), "{told}"),
                    }
                }
            }
            let posted =
                |row: &&Route| matches!(row.verbs, [(Verb::Post, access)] if *access != Access::Invitation);
            if let Some(row) = here.filter(posted) {
                let authorization = Credential::Right.header().expect("a token");
                for (length, is_taken) in [(row.body_limit, true), (row.body_limit + 1, false)] {
                    let call = with(post(&path, vec![b' '; length]), "authorization", &authorization);
                    assert_eq!(to.send(call).await.status != 413, is_taken, "{path}: {length} bytes");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_methods_of_another_service_are_unknown() {
    let (serving, onboarding) = (World::ready().await, World::onboarding().await);
    each_listener(&serving, &onboarding, async |open| {
        let mut to = connected(open.caller).await;
        for row in METHODS.iter().filter(|row| row.service != open.service) {
            for codec in Codec::ALL {
                let call = open.signed(codec.request(row.service, row.name, &Message::empty()));
                let text = match codec {
                    Codec::Json | Codec::Protobuf => {
                        format!("Service not found: {}.{}", row.service.name(), row.name)
                    }
                    Codec::Grpc => "no such service".to_owned(),
                };
                let told = codec.told(&to.send(call).await);
                assert_eq!(
                    told,
                    Told::error(codec, Code::UnknownMethod, text),
                    "{row:?} at {:?}",
                    open.service
                );
            }
            if Method::find(open.service, row.name).is_none() {
                let call = open.signed(post(&format!("/prpc/{}?json", row.name), "{}"));
                let expected = (404, format!("Service not found: {}", row.name));
                assert_eq!(to.send(call).await.refusal(), expected, "{row:?} at {:?}", open.service);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn each_method_takes_a_message_of_its_limit_and_none_of_a_byte_more_in_every_codec() {
    let (serving, onboarding) = (World::ready().await, World::onboarding().await);
    each_listener(&serving, &onboarding, async |open| {
        let mut to = connected(open.caller).await;
        for row in METHODS.iter().filter(|row| row.service == open.service) {
            for codec in Codec::ALL {
                let mut told = async |message: &Message| {
                    let answer = to.send(open.signed(codec.request(row.service, row.name, message))).await;
                    codec.told(&answer)
                };
                let small = told(&Message::empty()).await;
                let largest = told(&Message::empty_of_length(row.body_limit)).await;
                assert_eq!(largest, small, "{} {codec:?}: a message of its limit is read", row.name);
                let too_large = told(&Message::empty_of_length(row.body_limit + 1)).await;
                let text = "failed to read data: payload too large";
                assert_eq!(too_large, Told::error(codec, Code::TooLarge, text), "{} {codec:?}", row.name);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn grpc_web_has_the_same_limit_in_both_its_forms() {
    let world = World::ready().await;
    let mut to = connected(&world.caller().http1()).await;
    let limit = SignCert.row().body_limit;
    for (length, status, text) in [
        (limit, "3", "Unsupported API version: 0"),
        (limit + 1, "8", "failed to read data: payload too large"),
    ] {
        let call = Codec::Grpc.request(Service::Kms, "SignCert", &Message::empty_of_length(length));
        let frame = call.body();
        let in_base64 = Bytes::from(base64::engine::general_purpose::STANDARD.encode(frame));
        for (kind, body) in
            [("application/grpc-web+proto", frame.clone()), ("application/grpc-web-text", in_base64)]
        {
            let answer = to.send(with(post("/kms.KMS/SignCert", body), "content-type", kind)).await;
            let told = (answer.header("grpc-status"), answer.header("grpc-message").replace("%20", " "));
            assert_eq!(told, (status, text.to_owned()), "{kind} {length}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn too_many_requests_are_refused_in_the_words_of_each_protocol() {
    let world =
        World::ready_with("core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 50 }")
            .await;
    let mut to = connected(&world.caller()).await;
    while to.json("GetMeta", json!({})).await.status == 200 {}
    let text = "too many requests from this address; slow down";
    for codec in [Codec::Json, Codec::Grpc] {
        let told = codec.told(&to.send(codec.request(Service::Kms, "GetMeta", &Message::empty())).await);
        assert_eq!(told, Told::error(codec, Code::TooManyRequests, text), "{codec:?}");
    }
}

/// The requests counted so far, by method and status.
async fn counted(world: &World) -> BTreeMap<(String, String), u64> {
    let exposition = world.caller().get("/metrics").await;
    let counts = exposition.text().lines().filter_map(|line| {
        let (labels, count) = line.strip_prefix("cvm_kms_requests_total{")?.split_once("} ")?;
        let [_, method, _, status, _] = labels.split('"').collect::<Vec<_>>()[..] else { return None };
        Some(((method.to_owned(), status.to_owned()), count.parse().expect("a whole number")))
    });
    counts.collect()
}

/// The requests to one method, of any status.
fn of_method(counts: &BTreeMap<(String, String), u64>, name: &str) -> u64 {
    counts.iter().filter(|((method, _), _)| method == name).map(|(_, count)| count).sum()
}

#[tokio::test]
async fn each_call_is_counted_once_under_its_methods_name() {
    let world = World::onboarding().await;
    let call_all = async |service: Service, caller: &Caller| {
        let open = Open { service, caller, credential: Credential::Right };
        let mut to = connected(caller).await;
        for row in METHODS.iter().filter(|row| row.service == service) {
            for codec in Codec::ALL {
                to.send(open.signed(codec.request(service, row.name, &Message::empty()))).await;
            }
        }
    };
    call_all(Service::Onboard, &world.caller()).await;
    world.bootstrap().await;
    world.finish().await;
    let before = counted(&world).await;
    call_all(Service::Kms, &world.caller()).await;
    call_all(Service::Admin, &Caller::new(world.admin_address().await).plain().http2()).await;
    let after = counted(&world).await;

    let calls = |row: &cvm_kms::api::Row| match row.method {
        // One more each, because the setup calls them.
        Bootstrap | Finish => 4,
        // Two services may have a method of the same name.
        _ => 3 * METHODS.iter().filter(|other| other.name == row.name).count() as u64,
    };
    for row in &METHODS {
        let (before, after) = (of_method(&before, row.name), of_method(&after, row.name));
        match row.service {
            Service::Onboard => assert_eq!(before, calls(row), "{}", row.name),
            Service::Kms | Service::Admin => assert_eq!(after - before, calls(row), "{}", row.name),
        }
    }
    for (name, calls) in [("/metrics", 1), ("other", 0)] {
        assert_eq!(of_method(&after, name) - of_method(&before, name), calls, "{name}: the first scrape");
    }
    for (method, status) in
        [("GetAppKey", "401"), ("GetAppEnvEncryptPubKey", "400"), ("GetTempCaCert", "200")]
    {
        let key = (method.to_owned(), status.to_owned());
        assert_eq!(after.get(&key), Some(&3), "each codec's {method} counts as {status}: {after:?}");
    }
}

/// Every secret that this KMS could release to the allowed app or to a replica, in every form that a response
/// could have.
fn secrets(fixtures: &Fixtures) -> Vec<Vec<u8>> {
    let root = fixtures.world.root_keys();
    let app = fixtures.app();
    let keys = derive::app_keys(&root, &AppId(*app.app_id()), app.instance_id()).expect("keys");
    let raw = [
        root.ca().scalar(),
        root.k256().scalar(),
        root.temp_ca().scalar(),
        keys.disk_crypt_key.expose(),
        keys.env_crypt_key.expose(),
        keys.k256_key.expose(),
    ];
    let hex = raw.iter().map(|secret| hex::encode(secret).into_bytes());
    raw.iter().map(|secret| secret.to_vec()).chain(hex).chain([b"PRIVATE KEY".to_vec()]).collect()
}

fn holds(answer: &Answer, secrets: &[Vec<u8>]) -> bool {
    let fields = answer.headers.values().chain(answer.trailers.values()).map(|value| value.as_bytes());
    fields
        .chain([&answer.body[..]])
        .any(|bytes| secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret)))
}

#[tokio::test]
async fn no_answer_without_attestation_holds_a_key() {
    let fixtures = Fixtures::gather().await;
    let secrets = secrets(&fixtures);
    for row in &SERVING {
        let gives_keys = match row.method.row().access {
            Access::AttestedCertificate => true,
            Access::AttestedMessage => false,
            _ => continue,
        };
        for (column, certificate) in Certificate::ALL.into_iter().enumerate() {
            let mut to = connected(&fixtures.world.caller().shows(fixtures.identity(certificate))).await;
            let message = fixtures.message(row.method, row.ask);
            let gives_keys = gives_keys && row.expected[column] == Answered;
            for codec in Codec::ALL {
                let answer =
                    check(&mut to, codec, row.method, &message, Credential::None, row.expected[column]);
                let found = holds(&answer.await, &secrets);
                assert_eq!(found, gives_keys, "{:?} {codec:?} {certificate:?}", row.method);
            }
            for verb in ["GET", "HEAD"] {
                let answer = to.send(request(verb, &format!("/prpc/{}", row.method.row().name), "")).await;
                let found = holds(&answer, &secrets);
                assert_eq!(found, gives_keys && verb == "GET", "{:?} {verb} {certificate:?}", row.method);
            }
        }
    }
}
