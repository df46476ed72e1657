//! Invitations of replicas: a token opens the handover of root keys to one machine, once, and nothing else.

use std::fs;

use crate::support::http::{request, with};
use crate::support::operator::Operator;
use crate::support::postgres::Postgres;
use crate::support::{ADMIN_TOKEN, Answer, Caller, Identity, World, eventually};
use cvm_kms::api::routes::ROUTES;
use cvm_kms::api::{Access, METHODS, Service};
use futures_util::future::join_all;
use serde_json::{Value, json};

const JOINS: &str = "/api/v1/replica-joins";
const BY_INVITATION: &str = "core.onboard.public_key_handover = false";

/// An operator of a KMS.
struct Owner(Operator);

impl Owner {
    async fn of(world: &World) -> Self {
        Self(Operator::of(world).await)
    }

    /// Invites a replica: the id, the token and the SHA-256 of the root.
    async fn invites(&self, valid_for: u64) -> Invited {
        let body = json!({ "domain": "replica.example", "label": "rack 7", "valid_for": valid_for });
        let made = self.0.done("POST", JOINS, body).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Invited {
            id: text(&made["join"]["id"]),
            token: text(&made["token"]),
            root: text(&made["join"]["source_root_sha256"]),
        }
    }

    async fn join(&self, invited: &Invited) -> Value {
        self.0.done("GET", &format!("{JOINS}/{}", invited.id), Value::Null).await
    }

    async fn cancels(&self, invited: &Invited) -> Answer {
        self.0.ask("DELETE", &format!("{JOINS}/{}", invited.id), &Value::Null).await
    }

    /// Waits until an invitation is in this state.
    async fn is(&self, invited: &Invited, state: &str) -> Value {
        let path = format!("{JOINS}/{}", invited.id);
        eventually(&format!("the state {state}"), async || {
            let join = self.0.ask("GET", &path, &Value::Null).await.value();
            (join["state"] == state).then_some(join)
        })
        .await
    }
}

struct Invited {
    id: String,
    token: String,
    root: String,
}

fn stages(join: &Value) -> Vec<&str> {
    let stages = join["stages"].as_array().expect("stages").iter();
    stages.map(|stage| stage["stage"].as_str().expect("a stage")).collect()
}

async fn onboard_with(replica: &World, source: &World, token: &str, root: &str) -> Answer {
    let url = format!("https://{}", source.address());
    let body = json!({
        "source_url": url, "domain": "replica.example", "source_token": token, "source_root_sha256": root,
    });
    replica.caller().plain().json("Onboard", body).await
}

async fn onboard(replica: &World, source: &World, invited: &Invited) -> Answer {
    onboard_with(replica, source, &invited.token, &invited.root).await
}

/// Asks for the root keys with a certificate of one's own.
async fn get_keys(source: &World, identity: &Identity, token: &str) -> Answer {
    source.caller().shows(identity).json("GetKmsKey", json!({ "epochs": true, "join_token": token })).await
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned())
}

/// Checks that a method was refused with this status and text.
fn refuses(answer: &Answer, status: u16, text: &str) {
    let (found, said) = answer.refusal();
    assert!(found == status && said.contains(text), "{text}: {answer:?}");
}

/// Checks that the operator of a new node is told to ask for another invitation, in the answer and in its log.
async fn needs_new_invitation(replica: &World, answer: &Answer) {
    assert_eq!((answer.status, answer.header("x-error-code")), (403, "source_invitation_over"), "{answer:?}");
    assert!(answer.text().contains("ask an owner of the source for a new invitation"), "{answer:?}");
    eventually("the refusal in the log of the new node", async || {
        let told = replica.audited("keys_not_received");
        told.iter().any(|event| event["code"] == "source_invitation_over").then_some(())
    })
    .await;
}

fn released(world: &World) -> usize {
    world.audited("kms_key_released").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_replica_gets_the_keys_and_says_that_it_serves() {
    let source = World::ready_with(BY_INVITATION).await;
    let owner = Owner::of(&source).await;
    let replica = World::onboarding().await;
    let answer = onboard_with(&replica, &source, "", "").await;
    assert_eq!((answer.status, answer.header("x-error-code")), (403, "source_denies"), "{answer:?}");

    let invited = owner.invites(900).await;
    let join = owner.join(&invited).await;
    assert_eq!(
        (&join["state"], &join["over"], &join["label"]),
        (&json!("waiting"), &json!(false), &json!("rack 7"))
    );
    let command = join["command"].as_str().expect("a command");
    for part in [
        "kmsctl onboard --kms http://NEW-NODE:8000 ",
        "--source https://",
        "--domain replica.example",
        &invited.root,
    ] {
        assert!(command.contains(part), "{command}");
    }
    assert!(!join.to_string().contains(&invited.token[30..]), "{join}");
    assert!(join["advice"].is_null(), "{join}");
    let body = json!({ "domain": "nat.example", "source_url": "https://[2001:db8::1]:9000/prpc" });
    let made = owner.0.done("POST", JOINS, body).await;
    let command = made["join"]["command"].as_str().expect("a command");
    assert!(command.contains(" --source 'https://[2001:db8::1]:9000' "), "{command}");

    let other_root = "07".repeat(32);
    let answer = onboard_with(&replica, &source, &invited.token, &other_root).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text().contains("the root CA of the source KMS is not the one"), "{answer:?}");
    assert_eq!(owner.join(&invited).await["state"], "waiting", "the token was not sent");

    let answer = onboard(&replica, &source, &invited).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let join = owner.is(&invited, "committed").await;
    assert_eq!(stages(&join), ["started", "attested", "allowed", "keys", "committed"]);
    assert_eq!((&join["over"], &join["confirmed"]), (&json!(false), &json!(false)));
    replica.finish().await;
    let join = owner.is(&invited, "serving").await;
    assert_eq!((&join["over"], &join["confirmed"]), (&json!(true), &json!(true)));
    let operation = owner.0.done("GET", &format!("/api/v1/operations/{}", invited.id), Value::Null).await;
    assert_eq!(operation, owner.0.done("GET", &format!("/status/{}", invited.id), Value::Null).await);
    assert_eq!(
        (&operation["kind"], &operation["state"], &operation["succeeded"], &operation["stages"]),
        (&json!("replica_join"), &json!("serving"), &json!(true), &join["stages"])
    );
    let listed = owner.0.done("GET", "/api/v1/operations", Value::Null).await;
    let listed = listed["operations"].as_array().expect("operations").clone();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.contains(&operation), "{listed:?}");
    let answer = owner.0.ask("GET", "/api/v1/operations/0123456789abcdef", &Value::Null).await;
    assert_eq!(code(&answer), (400, "operation_unknown".to_owned()), "{answer:?}");
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());

    let told = eventually("events", async || {
        let told = source.audited("replica_progress");
        (told.len() == 6).then_some(told)
    })
    .await;
    let told: Vec<_> = told.iter().map(|event| event["stage"].as_str().expect("a stage")).collect();
    assert_eq!(told, ["started", "attested", "allowed", "keys", "committed", "serving"]);
    let made = &source.audited("replica_invited")[0];
    assert_eq!((&made["invitation"], &made["by"]), (&json!(invited.id), &json!("token")));
    let secret = &invited.token[invited.token.len() - 64..];
    for file in ["joins.json", "audit.jsonl"] {
        let text = fs::read_to_string(source.key_file(file)).expect("a file");
        assert!(!text.contains(secret) && text.contains(&invited.id), "{file}");
    }

    let second = World::onboarding().await;
    let answer = onboard(&second, &source, &invited).await;
    assert!(answer.status == 403 && answer.text().contains("used up"), "{answer:?}");
    needs_new_invitation(&second, &answer).await;
    let unknown = format!("ckmsjoin_{}_{}", "1".repeat(16), "0".repeat(64));
    let answer = onboard_with(&second, &source, &unknown, &invited.root).await;
    needs_new_invitation(&second, &answer).await;
    eventually("the late use in the log of the source", async || {
        let refused = source.audited("replica_refused");
        refused.iter().any(|event| event["code"] == "join_used").then_some(())
    })
    .await;
    assert_eq!(owner.cancels(&invited).await.status, 409, "the keys are gone");
    assert_eq!(released(&source), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_belongs_to_the_machine_that_used_it_first_and_replaces_no_policy() {
    let source = World::ready_with(BY_INVITATION).await;
    let owner = Owner::of(&source).await;
    let invited = owner.invites(900).await;
    let stranger = source.app(1);
    let identity = source.attested(&stranger).await;
    for _ in 0..2 {
        let answer = get_keys(&source, &identity, &invited.token).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.text().contains("Boot denied: aggregated MR not allowed"), "{answer:?}");
    }
    let join = owner.is(&invited, "refused").await;
    let refused = &join["stages"].as_array().expect("stages")[2];
    let denial = refused["denial_id"].as_str().expect("a denial");
    assert!(refused["code"].is_string(), "{join}");
    owner.0.done("GET", &format!("/api/v1/denials/{denial}"), Value::Null).await;

    // Another machine with the right measurement.
    let replica = World::onboarding().await;
    let answer = onboard(&replica, &source, &invited).await;
    assert!(answer.status == 403 && answer.text().contains("belongs to another machine"), "{answer:?}");
    needs_new_invitation(&replica, &answer).await;
    let join = owner.join(&invited).await;
    assert_eq!(join["state"], "refused", "{join}");
    assert!(stages(&join).contains(&"used_by_another"), "{join}");

    // The same machine again, now allowed; and never again.
    source.allow_kms(&stranger);
    let answer = eventually("the policy", async || {
        let answer = get_keys(&source, &identity, &invited.token).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(answer.text().contains("BEGIN PRIVATE KEY"));
    owner.is(&invited, "keys").await;
    let answer = get_keys(&source, &identity, &invited.token).await;
    refuses(&answer, 403, "the invitation is used up");
    // Who has no key of the machine reports nothing.
    let report = json!({ "join_token": invited.token, "stage": "serving" });
    let another = source.attested(&stranger).await;
    for (caller, status) in [
        (source.caller(), 401),
        (source.caller().shows(&another), 403),
        (source.caller().shows(&identity), 200),
    ] {
        let answer = caller.json("ReportJoin", report.clone()).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(owner.join(&invited).await["confirmed"], true);
    assert_eq!(released(&source), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_cancelled_and_wrong_tokens_open_nothing() {
    let source = World::ready().await;
    let owner = Owner::of(&source).await;
    let identity = source.attested(&source.replica()).await;
    let (late, cancelled) = (owner.invites(1).await, owner.invites(900).await);
    owner.is(&late, "expired").await;
    let answer = get_keys(&source, &identity, &late.token).await;
    refuses(&answer, 403, "the invitation has expired");
    assert_eq!(owner.cancels(&cancelled).await.status, 200);
    assert_eq!(owner.cancels(&cancelled).await.status, 409);
    let answer = get_keys(&source, &identity, &cancelled.token).await;
    refuses(&answer, 403, "the invitation was cancelled");
    let replica = World::onboarding().await;
    for dead in [&late, &cancelled] {
        let answer = onboard(&replica, &source, dead).await;
        needs_new_invitation(&replica, &answer).await;
    }
    let ended = source.audited("invitation_ended");
    assert!(ended.iter().any(|event| event["reason"] == "cancelled" && event["by"] == "token"), "{ended:?}");
    eventually("the end of an invitation", async || {
        let ended = source.audited("invitation_ended");
        ended
            .iter()
            .any(|event| event["reason"] == "expired" && event["invitation"] == *late.id)
            .then_some(())
    })
    .await;

    let open = owner.invites(900).await;
    let wrong_secret = format!("{}{}", &open.token[..open.token.len() - 64], "0".repeat(64));
    let unknown = format!("ckmsjoin_{}_{}", "0".repeat(16), "0".repeat(64));
    for wrong in [&wrong_secret, &unknown, "ckmsjoin_", ADMIN_TOKEN, &wrong_secret] {
        let answer = get_keys(&source, &identity, wrong).await;
        refuses(&answer, 401, "the join token is wrong");
    }
    let answer = get_keys(&source, &identity, &open.token).await;
    refuses(&answer, 429, "too many wrong credentials from this address");
    assert_eq!(owner.join(&open).await["state"], "waiting");
    assert_eq!(released(&source), 0, "the public handover is no way around a token that does not count");
    eventually("the right one, after the lock", async || {
        (get_keys(&source, &identity, &open.token).await.status == 200).then_some(())
    })
    .await;

    for (body, text) in [
        (json!({ "domain": "a b" }), "invalid DNS label"),
        (json!({ "domain": "a.example", "valid_for": 901 }), "from 1 to 900"),
        (json!({ "domain": "a.example", "valid_for": 0 }), "from 1 to 900"),
        (json!({ "domain": "a.example", "label": "a\nb" }), "control characters"),
        (json!({ "domain": "a.example", "token": "x" }), "unknown field"),
        (json!({ "domain": "a.example", "source_url": "http://a.example" }), "starts with https://"),
        (json!({ "domain": "a.example", "source_url": "https://a.example/$(id)" }), "letters, digits"),
        (json!({}), "missing field"),
    ] {
        let answer = owner.0.ask("POST", JOINS, &body).await;
        assert!(answer.status == 400 && answer.text().contains(text), "{body}: {answer:?}");
    }
    assert_eq!(owner.0.ask("GET", &format!("{JOINS}/x"), &Value::Null).await.status, 400);
    let mut made = 0;
    while owner.0.ask("POST", JOINS, &json!({ "domain": "a.example" })).await.status == 200 {
        made += 1;
        assert!(made <= 32, "they are bounded");
    }
    let answer = owner.0.ask("POST", JOINS, &json!({ "domain": "a.example" })).await;
    assert_eq!(code(&answer), (409, "joins_full".to_owned()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_is_no_credential_of_an_operator() {
    let source = World::ready().await;
    let owner = Owner::of(&source).await;
    let invited = owner.invites(900).await;
    let admin = Caller::new(source.admin_address().await).plain();
    let bearer = format!("Bearer {}", invited.token);
    let methods = METHODS.iter().filter(|row| row.service == Service::Admin);
    let methods = methods.map(|row| ("POST", format!("/prpc/{}?json", row.name)));
    let routes = ROUTES
        .iter()
        .filter(|route| route.service == Service::Admin)
        .filter(|route| route.verbs.iter().all(|(_, access)| *access != Access::Open))
        .flat_map(|route| {
            ["GET", "POST", "DELETE"].map(|verb| (verb, route.path.replace(['{', '}', '*'], "")))
        });
    let calls: Vec<_> = methods.chain(routes).collect();
    assert!(calls.len() > 200);
    let (admin, bearer, token) = (&admin, &bearer, &invited.token);
    let asked = join_all(calls.iter().enumerate().map(|(number, (verb, path))| async move {
        let call = request(verb, path, "{}");
        let call = match number % 2 {
            0 => with(call, "authorization", bearer),
            _ => with(call, "x-admin-token", token),
        };
        (verb, path, admin.try_send(call).await)
    }))
    .await;
    let mut answered = 0;
    for (verb, path, answer) in asked {
        let Ok(answer) = answer else { continue };
        answered += 1;
        assert!([401, 404, 429, 503].contains(&answer.status), "{verb} {path}: {answer:?}");
    }
    assert!(answered > calls.len() / 2, "{answered}");
    let answer = source.caller().json("ClearImageCache", json!({ "token": invited.token })).await;
    assert_eq!(answer.refusal(), (400, "Invalid token".to_owned()));
    assert_eq!(owner.join(&invited).await["stages"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_survive_a_restart_and_what_the_disk_does_not_take_opens_nothing() {
    let mut source = World::ready_with(BY_INVITATION).await;
    let (used, open) = {
        let owner = Owner::of(&source).await;
        (owner.invites(900).await, owner.invites(900).await)
    };
    let identity = source.attested(&source.replica()).await;
    assert_eq!(get_keys(&source, &identity, &used.token).await.status, 200);
    let file = source.key_file("joins.json");
    source.stop().await;
    // As if the new node had been silent for a while.
    let mut kept: Value = serde_json::from_str(&fs::read_to_string(&file).expect("a file")).expect("JSON");
    for step in kept["joins"][0]["steps"].as_array_mut().expect("steps") {
        step["at"] = (step["at"].as_u64().expect("a time") - 60).into();
    }
    fs::write(&file, kept.to_string()).expect("a file");
    source.start().await.expect("a restart");
    let owner = Owner::of(&source).await;
    let answer = get_keys(&source, &identity, &used.token).await;
    refuses(&answer, 403, "the invitation is used up");

    let advice = owner.join(&used).await["advice"].as_str().expect("advice").to_owned();
    assert!(advice.ends_with("kmsctl replica invite --domain replica.example"), "{advice}");
    fs::remove_file(&file).expect("a file");
    fs::create_dir_all(file.join("x")).expect("a directory in its place");
    let answer = get_keys(&source, &identity, &open.token).await;
    refuses(&answer, 503, "cannot be noted now");
    assert!(!answer.text().contains("joins.json"), "{answer:?}");
    let answer = owner.0.ask("POST", JOINS, &json!({ "domain": "a.example" })).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(owner.join(&open).await["stages"], json!([]));
    assert_eq!(released(&source), 1);
    fs::remove_dir_all(&file).expect("a directory");
    assert_eq!(get_keys(&source, &identity, &open.token).await.status, 200);
    owner.is(&open, "keys").await;
    assert_eq!(released(&source), 2);
    let text = fs::read_to_string(&file).expect("a file");
    source.stop().await;
    fs::write(&file, text.replace("\"version\": 1", "\"version\": 9")).expect("a file");
    let error = source.start().await.expect_err("a damaged file").to_string();
    assert!(error.contains("joins.json") && error.contains("remove it"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_callers_at_once_one_gets_the_keys() {
    let source = World::ready_with(BY_INVITATION).await;
    let owner = Owner::of(&source).await;
    let invited = owner.invites(900).await;
    let identity = source.attested(&source.replica()).await;
    let others = join_all((0..3).map(|_| async { source.attested(&source.replica()).await })).await;
    let callers = [&identity, &identity, &identity].into_iter().chain(&others);
    let answers = join_all(callers.map(|identity| get_keys(&source, identity, &invited.token))).await;
    let given = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(given, 1, "{answers:?}");
    assert!(answers.iter().all(|answer| [200, 403].contains(&answer.status)), "{answers:?}");
    assert_eq!(released(&source), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_never_both_use_one_invitation_and_without_the_database_none_does() {
    let mut postgres = Postgres::start().await;
    let config = |number: usize| format!("{}\n{BY_INVITATION}", postgres.toml(&format!("node-{number}")));
    let first = World::ready_with(&config(0)).await;
    let second = first.sibling_with(&config(1)).await;
    let (here, there) = (Owner::of(&first).await, Owner::of(&second).await);
    eventually("a shared state", async || {
        let view = there.0.done("GET", "/api/v1/fleet", Value::Null).await;
        (view["stale"].is_null() && view["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let identity = first.attested(&first.replica()).await;
    for round in 0..3 {
        let invited = here.invites(900).await;
        there.is(&invited, "waiting").await;
        let both = [&first, &second, &first, &second].map(|node| get_keys(node, &identity, &invited.token));
        let answers = join_all(both).await;
        let given = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(given, 1, "{round}: {answers:?}");
        for owner in [&here, &there] {
            owner.is(&invited, "keys").await;
        }
        assert_eq!(released(&first) + released(&second), round + 1);
    }
    eventually("what another node changed", async || {
        let adopted = second.audited("state_adopted");
        adopted.iter().any(|event| event["document"] == "joins").then_some(())
    })
    .await;
    let invited = here.invites(900).await;
    there.is(&invited, "waiting").await;
    // No look before: the other node waits until it knows.
    let unseen = here.invites(900).await;
    assert_eq!(get_keys(&second, &identity, &unseen.token).await.status, 200);
    postgres.stop();
    for node in [&first, &second] {
        let answer = get_keys(node, &identity, &invited.token).await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(released(&first) + released(&second), 4);
    // What another node may have made meanwhile is not wrong, and does not count as a guess.
    let guesses = (0..6).map(|number| format!("ckmsjoin_{number:016x}_{}", "0".repeat(64)));
    let guesses: Vec<_> = guesses.collect();
    for answer in join_all(guesses.iter().map(|token| get_keys(&second, &identity, token))).await {
        refuses(&answer, 503, "does not know now which invitations other nodes have made");
    }
    let answer = get_keys(&second, &identity, &guesses[0]).await;
    assert_eq!(answer.status, 503, "the address is not locked: {answer:?}");
}
