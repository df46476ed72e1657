//! The two-person rule: what waits for a second owner, and what becomes of it.

use std::os::unix::fs::PermissionsExt as _;

use cvm_kms::config::Config;
use serde_json::{Value, json};

use crate::support::http::{request, with};
use crate::support::operator::authorized;
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, basic};

const APPROVALS: &str = "/api/v1/approvals";
const CREDENTIALS: &str = "/api/v1/credentials";
const TWO: &str = "core.admin.approvals = 2";

/// Owners at the admin listener. The first is the token.
struct Owners {
    admin: Caller,
    bob: String,
}

impl Owners {
    /// A KMS with two owners, and the rule that changes need both.
    async fn of_two(world: &mut World) -> Self {
        world.configure(TWO);
        world.start().await.expect("it starts again");
        let admin = Caller::new(world.admin_address().await).plain();
        let owners = Self { admin, bob: String::new() };
        let answer = owners.create("bob", "owner").await;
        assert_eq!(answer.status, 200, "with one owner there is nobody to ask: {}", answer.text());
        let bob = answer.value()["token"].as_str().expect("a token").to_owned();
        Self { bob, ..owners }
    }

    /// The same owners after a restart.
    async fn again(self, world: &World) -> Self {
        Self { admin: Caller::new(world.admin_address().await).plain(), ..self }
    }

    async fn ask(&self, verb: &str, path: &str, body: Value, token: &str) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bearer = format!("Bearer {token}");
        crate::support::eventually("a password that is checked", async || {
            let asked = with(request(verb, path, body.clone()), "authorization", &bearer);
            let answer = self.admin.send(with(asked, "content-type", "application/json")).await;
            (!answer.text().contains("passwords are being checked")).then_some(answer)
        })
        .await
    }

    async fn create(&self, name: &str, role: &str) -> Answer {
        self.ask("POST", CREDENTIALS, json!({ "name": name, "role": role }), ADMIN_TOKEN).await
    }

    async fn freeze(&self, reason: &str) {
        let body = json!({ "scope": "kms", "value": "", "reason": reason });
        let answer = self.ask("POST", "/prpc/Freeze", body, ADMIN_TOKEN).await;
        assert_eq!(answer.status, 200, "at once: {}", answer.text());
    }

    async fn is_frozen(&self) -> bool {
        let answer = self.ask("GET", "/prpc/ListFrozen?json", Value::Null, ADMIN_TOKEN).await;
        answer.text().contains("\"kms\"")
    }

    /// Requests the end of the freeze of everything; returns the request's id.
    async fn unfreeze(&self, token: &str) -> String {
        let answer = self.ask("POST", "/prpc/Unfreeze", json!({ "scope": "kms", "value": "" }), token).await;
        waiting(&answer, 400)
    }

    async fn decide(&self, id: &str, decision: &str, token: &str) -> (u16, Value) {
        let answer = self.ask("POST", &format!("{APPROVALS}/{id}/{decision}"), Value::Null, token).await;
        let told = if answer.text().is_empty() { Value::Null } else { answer.value() };
        (answer.status, told)
    }

    /// Approves a request, which must be made then.
    async fn approve(&self, id: &str, token: &str) -> Value {
        let (status, told) = self.decide(id, "approve", token).await;
        assert_eq!((status, &told["state"]), (200, &json!("done")), "{told}");
        told
    }

    async fn refused(&self, id: &str, decision: &str, token: &str) -> (u16, String) {
        let (status, told) = self.decide(id, decision, token).await;
        (status, told["message"].as_str().unwrap_or_default().to_owned())
    }

    async fn shown(&self, id: &str) -> Value {
        self.shown_to(id, ADMIN_TOKEN).await
    }

    async fn shown_to(&self, id: &str, token: &str) -> Value {
        let answer = self.ask("GET", &format!("{APPROVALS}/{id}"), Value::Null, token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()
    }

    /// The invitation that a request became: the half of its requester, and then that of the owner who approved it.
    async fn invitation(&self, id: &str, requester: &str, approver: &str) -> String {
        let told = self.approve(id, approver).await;
        let second = told["token"].as_str().expect("a half").to_owned();
        assert!(self.shown_to(id, approver).await["token"].is_null(), "each owner has one half");
        let first = self.shown_to(id, requester).await["token"].as_str().expect("the other half").to_owned();
        for half in [&first, &second] {
            assert_eq!(self.activate(half).await.status, 401, "neither of them can be activated");
        }
        first + &second
    }

    async fn activate(&self, invitation: &str) -> Answer {
        self.ask("POST", "/api/v1/activate", Value::Null, invitation).await
    }

    /// The token behind an invitation.
    async fn activated(&self, invitation: &str) -> String {
        let answer = self.activate(invitation).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()["token"].as_str().expect("a token").to_owned()
    }

    async fn status(&self, token: &str) -> u16 {
        self.ask("GET", APPROVALS, Value::Null, token).await.status
    }
}

/// The id of the request that an answer says to wait.
fn waiting(answer: &Answer, status: u16) -> String {
    let told = answer.value();
    assert_eq!((answer.status, &told["code"]), (status, &json!("approval_needed")), "{told}");
    let id = told["approval"]["id"].as_str().expect("an id").to_owned();
    let advice = format!("kmsctl approvals approve {id}");
    assert!(told["message"].as_str().expect("a message").contains(&advice), "{told}");
    assert_eq!(told["approval"]["state"], "waiting");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_invited_by_two_owners_who_have_half_of_the_token_each() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let joins = "/api/v1/replica-joins";
    let body = json!({ "domain": "kms2.example", "valid_for": 600 });
    let id = waiting(&owners.ask("POST", joins, body, ADMIN_TOKEN).await, 202);
    let shown = owners.shown(&id).await;
    let detail = shown["detail"].as_str().expect("a sentence");
    assert!(detail.contains("kms2.example") && detail.contains("600 s"), "{detail}");
    let made = async || owners.ask("GET", joins, Value::Null, ADMIN_TOKEN).await.value()["joins"].clone();
    assert_eq!(made().await, json!([]));
    assert_eq!(owners.decide(&id, "approve", ADMIN_TOKEN).await.0, 403, "not by who asked for it");
    let told = owners.approve(&id, &owners.bob).await;
    let second = told["token"].as_str().expect("a half").to_owned();
    let first = owners.shown(&id).await["token"].as_str().expect("the other half").to_owned();
    let join = &made().await[0];
    assert!(told["result"].as_str().expect("a text").contains(join["id"].as_str().expect("an id")), "{told}");
    let by = join["created_by"].as_str().expect("owners");
    assert!(by.contains("token") && by.contains("bob"), "{by}");
    let identity = world.attested(&world.replica()).await;
    let ask = async |token: &str| {
        world
            .caller()
            .shows(&identity)
            .json("GetKmsKey", json!({ "epochs": true, "join_token": token }))
            .await
    };
    for half in [&first, &second] {
        assert_eq!(ask(half).await.status, 401, "neither of them is enough");
    }
    let answer = ask(&(first + &second)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfreeze_waits_for_a_second_owner() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let viewer = owners.create("eve", "viewer").await.value()["token"].as_str().expect("a token").to_owned();
    owners.freeze("a leak").await;
    let id = owners.unfreeze(ADMIN_TOKEN).await;
    assert_eq!(owners.unfreeze(ADMIN_TOKEN).await, id, "one request for the same change");
    let shown = owners.shown(&id).await;
    for (field, value) in [
        ("action", json!("unfreeze")),
        ("requested_by", json!("token")),
        ("state", json!("waiting")),
        ("needed", json!(2)),
        ("own", json!(true)),
        ("approved_by", Value::Null),
        ("result", Value::Null),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let detail = shown["detail"].as_str().expect("a sentence");
    assert!(
        detail.starts_with("unfreeze the whole KMS, frozen since ") && detail.contains("(a leak)"),
        "{detail}"
    );
    assert!(owners.is_frozen().await);
    let (status, told) = owners.refused(&id, "approve", ADMIN_TOKEN).await;
    assert_eq!((status, told.as_str()), (403, "another owner than the one who requested it must approve it"));
    let (status, told) = owners.refused(&id, "approve", &viewer).await;
    assert_eq!(status, 403, "{told}");
    let seen = json!({ "sha256": "00" });
    let answer = owners.ask("POST", &format!("{APPROVALS}/{id}/approve"), seen, &owners.bob).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("not the one that you approve"), "{}", answer.text());
    assert!(owners.is_frozen().await);

    let seen = json!({ "sha256": shown["sha256"] });
    let answer = owners.ask("POST", &format!("{APPROVALS}/{id}/approve"), seen, &owners.bob).await;
    let told = answer.value();
    assert_eq!((answer.status, &told["state"]), (200, &json!("done")), "{told}");
    assert_eq!(told["approved_by"], "credential bob");
    for event in ["approval_approved", "unfrozen", "approval_done"] {
        assert_eq!(world.audited(event)[0]["request_id"], answer.header("x-request-id"), "{event}");
    }
    assert!(!owners.is_frozen().await);
    owners.freeze("again").await;
    let (status, told) = owners.refused(&id, "approve", &owners.bob).await;
    assert_eq!(status, 400, "{told}");
    assert!(
        told.contains("does not wait any more: credential bob has approved it, and it is done"),
        "{told}"
    );
    assert!(owners.is_frozen().await, "an approval counts once");

    for (event, by) in [("approval_requested", "token"), ("approval_approved", "credential bob")] {
        let records = world.audited(event);
        assert_eq!(records.len(), 1, "{event}");
        assert_eq!((&records[0]["id"], &records[0]["by"]), (&json!(id), &json!(by)), "{event}");
    }
    assert_eq!(world.audited("unfrozen")[0]["by"], "token with credential bob");
    assert_eq!(world.audited("approval_done")[0]["id"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_encoding_says_that_a_second_owner_is_needed() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    owners.freeze("a leak").await;
    let body = json!({ "reason": "it was ahead", "now": 0 });
    let answer = owners.ask("POST", "/prpc/LowerClockFloor", body, ADMIN_TOKEN).await;
    assert!(answer.text().contains("set the one that is wrong first"), "{}", answer.text());
    let now = kms_attest::clock::unix_now();
    let body = json!({ "reason": "it was ahead", "now": now });
    let id = waiting(&owners.ask("POST", "/prpc/LowerClockFloor", body, ADMIN_TOKEN).await, 400);
    let told = owners.approve(&id, &owners.bob).await;
    assert_eq!(told["result"], "the clock was not behind, so nothing was changed");
    let answer = owners.create("carol", "owner").await;
    assert_eq!(answer.header("x-error-code"), "");
    waiting(&answer, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_made_and_removed_by_two() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let waived = world.audited("approval_waived");
    assert_eq!(waived.len(), 1, "bob was made by one owner");
    assert_eq!(waived[0]["action"], "create_owner");
    assert_eq!(owners.create("ci", "operator").await.status, 200, "of a lower role");

    let carol = json!({ "name": "carol", "role": "owner" });
    let id = waiting(&owners.ask("POST", CREDENTIALS, carol.clone(), &owners.bob).await, 202);
    let invitation = owners.invitation(&id, &owners.bob, ADMIN_TOKEN).await;
    assert!(owners.shown(&id).await["token"].is_null(), "shown once");
    let activated = owners.activate(&invitation).await;
    assert_eq!(activated.status, 200, "{}", activated.text());
    let answer = owners.ask("POST", CREDENTIALS, carol, &owners.bob).await;
    assert_eq!(answer.status, 400, "the name is taken, which nobody needs to approve: {}", answer.text());

    let own = owners.ask("POST", &format!("{CREDENTIALS}/bob/rotate"), Value::Null, &owners.bob).await;
    assert_eq!(own.status, 200, "the own secret: {}", own.text());
    let bob = own.value()["token"].as_str().expect("a token").to_owned();
    let id =
        waiting(&owners.ask("POST", &format!("{CREDENTIALS}/carol/rotate"), Value::Null, &bob).await, 202);
    let invitation = owners.invitation(&id, &bob, ADMIN_TOKEN).await;
    assert!(invitation.starts_with("ckms_carol_"), "{invitation}");
    let carol = activated.value()["token"].as_str().expect("a token").to_owned();
    assert_eq!((owners.status(&carol).await, owners.status(&invitation).await), (200, 403), "not used yet");
    assert_eq!(world.audited("credential_rotated").last().expect("a record")["invited"], json!(true));
    let new = owners.activated(&invitation).await;
    assert_eq!(owners.status(&invitation).await, 401, "it serves once");
    assert_eq!(
        owners.ask("GET", APPROVALS, Value::Null, &carol).await.status,
        401,
        "her secret was replaced"
    );
    assert_eq!(owners.status(&new).await, 200);

    let id =
        waiting(&owners.ask("POST", &format!("{CREDENTIALS}/carol/revoke"), Value::Null, &bob).await, 202);
    owners.approve(&id, ADMIN_TOKEN).await;
    let answer = owners.ask("POST", &format!("{CREDENTIALS}/bob/revoke"), Value::Null, &bob).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("one of the last two owners"), "{}", answer.text());
    waiting(&owners.create("dave", "owner").await, 202);
    assert_eq!(world.audited("approval_waived").len(), 1, "never again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_since_it_was_requested_is_not_done() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    owners.freeze("a leak").await;
    let id = owners.unfreeze(ADMIN_TOKEN).await;
    owners.freeze("another leak").await;
    let (status, told) = owners.decide(&id, "approve", &owners.bob).await;
    assert_eq!((status, &told["state"]), (200, &json!("failed")), "{told}");
    let result = told["result"].as_str().expect("a reason");
    assert!(result.starts_with("it is still frozen: not the freeze whose end was approved"), "{result}");
    assert!(owners.is_frozen().await);
    assert_eq!(world.audited("approval_failed").len(), 1);
    let shorter = json!({ "scope": "kms", "value": "", "reason": "x", "replace": true, "expires_at": 4_000_000_000_u64 });
    let answer = owners.ask("POST", "/prpc/Freeze", shorter, ADMIN_TOKEN).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("only by unfreeze"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowlist_is_put_in_force_by_two_and_over_the_one_that_was_seen_only() {
    const UPLOAD: &str = "/api/v1/file-upload/auth-config";
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let before: Value =
        serde_json::from_slice(&std::fs::read(world.path("auth-config.json")).expect("the file"))
            .expect("JSON");
    let with = |image: &str| {
        let mut rules = before.clone();
        rules["osImages"].as_array_mut().expect("images").push(json!(format!("0x{}", image.repeat(32))));
        rules
    };
    let (first, second) = (with("11"), with("22"));
    let answer = owners.ask("POST", UPLOAD, json!({ "osImages": 1 }), ADMIN_TOKEN).await;
    assert_eq!(answer.status, 400, "nobody is asked for what cannot be used: {}", answer.text());
    let one = waiting(&owners.ask("POST", UPLOAD, first.clone(), ADMIN_TOKEN).await, 202);
    let other = waiting(&owners.ask("POST", UPLOAD, second.clone(), &owners.bob).await, 202);
    let shown = owners.shown(&one).await;
    let document: Value = serde_json::from_str(shown["document"].as_str().expect("a text")).expect("JSON");
    assert_eq!(document, first, "the approver sees it whole");
    let text = shown["document"].as_str().expect("a text");
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text));
    assert_eq!(shown["sha256"], digest);
    let full = waiting_is_full(&owners, with("33")).await;
    assert!(full.contains("2 requests with a document wait"), "{full}");

    owners.approve(&one, &owners.bob).await;
    let policy = owners.ask("GET", "/api/v1/policy", Value::Null, ADMIN_TOKEN).await.value();
    assert_eq!(policy["document"], first);
    let (status, told) = owners.decide(&other, "approve", ADMIN_TOKEN).await;
    assert_eq!((status, &told["state"]), (200, &json!("failed")), "{told}");
    assert!(
        told["result"].as_str().expect("a reason").contains("the policy in force has changed since"),
        "{told}"
    );
    assert!(owners.shown(&one).await["document"].is_null(), "it is not kept");
    assert_eq!(world.audited("file_uploaded")[0]["by"], "token with credential bob");
}

async fn waiting_is_full(owners: &Owners, document: Value) -> String {
    let answer = owners.ask("POST", "/api/v1/file-upload/auth-config", document, ADMIN_TOKEN).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    answer.text().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_owner_any_more_takes_no_part() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let id = waiting(&owners.create("carol", "owner").await, 202);
    let carol = owners.activated(&owners.invitation(&id, ADMIN_TOKEN, &owners.bob).await).await;
    owners.freeze("a leak").await;
    let of_carol = owners.unfreeze(&carol).await;
    let of_bob = owners.unfreeze(&owners.bob).await;
    assert_ne!(of_carol, of_bob, "each owner's own request");
    let revoke = owners.ask("POST", &format!("{CREDENTIALS}/carol/revoke"), Value::Null, ADMIN_TOKEN).await;
    owners.approve(&waiting(&revoke, 202), &owners.bob).await;
    let (status, told) = owners.refused(&of_carol, "approve", &owners.bob).await;
    assert_eq!(status, 400, "{told}");
    assert!(told.contains("the credential that requested it is not an owner's any more"), "{told}");
    assert_eq!(owners.shown(&of_carol).await["state"], "expired");
    assert_eq!(owners.decide(&of_bob, "approve", &carol).await.0, 401);
    assert_eq!(owners.decide(&of_bob, "reject", &carol).await.0, 401);
    assert!(owners.is_frozen().await);
    let (status, told) = owners.decide(&of_bob, "reject", &owners.bob).await;
    assert_eq!((status, &told["state"]), (200, &json!("rejected")), "taken back: {told}");
    let (status, told) = owners.refused(&of_bob, "approve", ADMIN_TOKEN).await;
    assert!(status == 400 && told.contains("credential bob has rejected it"), "{told}");
    assert_eq!(world.audited("approval_expired").len(), 1);
    assert_eq!(world.audited("approval_rejected").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_a_restart_and_is_done_once() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    owners.freeze("a leak").await;
    let id = owners.unfreeze(ADMIN_TOKEN).await;
    let file = world.key_file("approvals.json");
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.start().await.expect("it starts again");
    let owners = owners.again(&world).await;
    assert_eq!(owners.shown(&id).await["state"], "waiting");
    let approve = || owners.decide(&id, "approve", &owners.bob);
    let (first, second) = tokio::join!(approve(), approve());
    let mut statuses = [first.0, second.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "{first:?} {second:?}");
    assert_eq!(world.audited("unfrozen").len(), 1);
    assert_eq!(world.audited("approval_approved").len(), 1);

    // A process that stopped between the approval and the end of the change.
    owners.freeze("again").await;
    let id = owners.unfreeze(ADMIN_TOKEN).await;
    world.stop().await;
    let text = std::fs::read_to_string(&file).expect("the file");
    let approved =
        text.replace("\"state\": \"waiting\"", "\"state\": \"approved\", \"by\": \"credential bob\"");
    assert_ne!(text, approved);
    std::fs::write(&file, approved).expect("written");
    world.start().await.expect("it starts again");
    let owners = owners.again(&world).await;
    let shown = owners.shown(&id).await;
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(
        shown["result"].as_str().expect("a reason").contains("stopped before the end of the change"),
        "{shown}"
    );
    assert!(owners.is_frozen().await, "it is not done again");

    std::fs::write(&file, "{").expect("written");
    world.start().await.expect("it starts with a damaged file");
    let owners = owners.again(&world).await;
    let listed = owners.ask("GET", APPROVALS, Value::Null, ADMIN_TOKEN).await;
    assert_eq!(listed.value(), json!({ "approvals": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_does_not_happen() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    owners.freeze("a leak").await;
    let id = owners.unfreeze(ADMIN_TOKEN).await;
    let obstacle = world.key_file("approvals.json.new");
    std::fs::create_dir(&obstacle).expect("a directory where the new file is written");
    let (status, told) = owners.refused(&id, "approve", &owners.bob).await;
    assert_eq!(status, 503, "{told}");
    assert!(told.starts_with("nothing was changed: the file of approvals cannot be written"), "{told}");
    assert!(owners.is_frozen().await);
    let answer = owners.create("carol", "owner").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    std::fs::remove_dir(&obstacle).expect("removed");
    owners.approve(&id, &owners.bob).await;
    assert!(!owners.is_frozen().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_cannot_fill_the_list() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    for number in 0..8 {
        waiting(&owners.create(&format!("owner{number}"), "owner").await, 202);
    }
    let answer = owners.create("owner8", "owner").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("requests of yours wait"), "{}", answer.text());
    let of_bob = json!({ "name": "owner8", "role": "owner" });
    waiting(&owners.ask("POST", CREDENTIALS, of_bob, &owners.bob).await, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_owner_nothing_waits() {
    let world = World::ready().await;
    let admin = Caller::new(world.admin_address().await).plain();
    let owners = Owners { admin, bob: String::new() };
    owners.freeze("a leak").await;
    let body = json!({ "scope": "kms", "value": "" });
    let answer = owners.ask("POST", "/prpc/Unfreeze", body, ADMIN_TOKEN).await;
    assert_eq!(answer.value(), json!({ "was_frozen": true }));
    for name in ["bob", "carol", "dave"] {
        assert_eq!(owners.create(name, "owner").await.status, 200, "{name}");
    }
    assert!(world.audited("approval_waived").is_empty());
    let (status, told) = owners.refused("0011223344556677", "approve", ADMIN_TOKEN).await;
    assert_eq!((status, told.as_str()), (400, "there is no request 0011223344556677"));
}

#[test]
fn the_rule_needs_persons() {
    for (keys, expected) in [
        ("approvals = 2\ninsecure_no_auth = true", "core.admin.approvals: 2 needs credentials"),
        ("approvals = 3", "core.admin.approvals: must be 1, or 2"),
        ("approvals = 0", "core.admin.approvals: must be 1, or 2"),
        ("approvals = '2'", "core.admin.approvals: must be 1, or 2"),
        ("approval_lifetime = '1s'", "core.admin.approval_lifetime: must be from 5m to 30d"),
    ] {
        let text = format!("[core.admin]\nenabled = true\n{keys}");
        let findings = Config::from_toml(&text).err().expect("it contradicts itself").findings;
        let told: Vec<_> = findings.iter().map(|it| format!("{}: {}", it.subject, it.message)).collect();
        assert!(told.iter().any(|finding| finding.starts_with(expected)), "{keys}: {told:?}");
    }
}

#[tokio::test]
async fn a_chosen_secret_of_admin_waits_for_a_second_owner() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let secret = "a chosen: secret";
    let log_in = async || {
        crate::support::eventually("a password that is checked", async || {
            let asked = with(request("GET", "/api/v1/me", ""), "authorization", &basic("admin", secret));
            let answer = owners.admin.send(asked).await;
            (answer.status != 503).then_some(answer)
        })
        .await
    };
    let set = authorized(request("POST", "/api/v1/set-basic-auth", secret));
    let answer = owners.admin.send(set).await;
    let id = waiting(&answer, 202);
    assert!(!answer.text().contains("chosen:") && !answer.text().contains("argon2"), "{}", answer.text());
    assert_eq!(log_in().await.status, 401, "it waits");
    let (status, told) = owners.decide(&id, "approve", ADMIN_TOKEN).await;
    assert_eq!(status, 403, "by the requester: {told}");

    // An owner of one domain does not decide for the whole KMS.
    let body = json!({ "name": "limited", "role": "owner", "domain": "default" });
    let invite = owners.ask("POST", CREDENTIALS, body, ADMIN_TOKEN).await;
    let invitation = owners.invitation(&waiting(&invite, 202), ADMIN_TOKEN, &owners.bob).await;
    let limited = owners.activate(&invitation).await.value();
    assert_eq!((&limited["domain"], &limited["role"]), (&json!("default"), &json!("owner")));
    let (status, told) = owners.decide(&id, "approve", limited["token"].as_str().expect("a token")).await;
    assert_eq!(status, 403, "{told}");

    let made = owners.approve(&id, &owners.bob).await;
    assert_eq!(made["result"], "admin has the new secret", "{made}");
    let me = log_in().await;
    assert_eq!(me.status, 200, "though it was tried before: {}", me.text());
    assert_eq!((&me.value()["name"], &me.value()["role"]), (&json!("admin"), &json!("owner")));
    let kept = std::fs::read_to_string(world.key_file("approvals.json")).expect("the file");
    assert!(!kept.contains("$argon2id$"), "the hash of the secret is not kept: {kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_chosen_the_secret_of_admin_is_no_second_owner_by_it() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let set = async |secret: &'static str| {
        let set = authorized(request("POST", "/api/v1/set-basic-auth", secret));
        let id = waiting(&owners.admin.send(set).await, 202);
        owners.approve(&id, &owners.bob).await;
    };
    set("a chosen: secret").await;
    let rotate = async |value: String| {
        let path = format!("{CREDENTIALS}/admin/rotate");
        crate::support::eventually("a password that is checked", async || {
            let answer = owners.admin.send(with(request("POST", &path, ""), "authorization", &value)).await;
            (answer.status != 503).then_some(answer)
        })
        .await
    };
    // The requester knows the secret, and can replace it alone.
    let answer = rotate(basic("admin", "a chosen: secret")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let admin = answer.value()["token"].as_str().expect("a token").to_owned();
    owners.freeze("a leak").await;
    let of_token = owners.unfreeze(ADMIN_TOKEN).await;
    let same = "another owner than the one who requested it must approve it";
    assert_eq!(owners.refused(&of_token, "approve", &admin).await, (403, same.to_owned()));
    let of_admin = owners.unfreeze(&admin).await;
    assert_eq!(owners.refused(&of_admin, "approve", ADMIN_TOKEN).await, (403, same.to_owned()));
    let owners = {
        world.start().await.expect("it starts again");
        owners.again(&world).await
    };
    assert_eq!(owners.refused(&of_token, "approve", &admin).await, (403, same.to_owned()), "over a restart");
    assert!(owners.is_frozen().await);

    // An invitation, of which two owners have half each, makes it the credential of another person.
    let rotate = owners.ask("POST", &format!("{CREDENTIALS}/admin/rotate"), Value::Null, &owners.bob).await;
    let invitation = owners.invitation(&waiting(&rotate, 202), &owners.bob, ADMIN_TOKEN).await;
    let other = owners.activated(&invitation).await;
    assert_eq!(owners.status(&admin).await, 401);
    owners.approve(&of_token, &other).await;
    assert!(!owners.is_frozen().await);
}

/// Changes the credential `name` in the file of a KMS that does not run.
fn edit(world: &World, name: &str, field: &str, value: Value) {
    let file = world.key_file("credentials.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    let credentials = kept["credentials"].as_array_mut().expect("a list");
    let credential = credentials.iter_mut().find(|it| it["name"] == name).expect("the credential");
    credential[field] = value;
    std::fs::write(&file, kept.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_an_owner_who_has_ended_makes_nobody_the_only_owner() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    world.stop().await;
    edit(&world, "bob", "expires_at", json!(4_000_000_000_u64));
    world.start().await.expect("it starts again");
    let owners = owners.again(&world).await;
    let own = owners.ask("POST", &format!("{CREDENTIALS}/bob/revoke"), Value::Null, &owners.bob).await;
    assert_eq!(own.status, 400, "{}", own.text());
    assert!(own.text().contains("bob is one of the last two owners"), "{}", own.text());

    world.stop().await;
    edit(&world, "bob", "expires_at", json!(1));
    world.start().await.expect("it starts again");
    let owners = owners.again(&world).await;
    assert_eq!(owners.status(&owners.bob).await, 401, "it has ended");
    for role in ["viewer", "operator"] {
        let answer = owners.create("bob", role).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(
            answer.text().contains("bob was an owner, and counts as one after its end"),
            "{}",
            answer.text()
        );
    }
    waiting(&owners.create("evil", "owner").await, 202);
    waiting(&owners.create("bob", "owner").await, 202);
    assert_eq!(world.audited("approval_waived").len(), 1, "never again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_nobody_activates_takes_no_owner_away() {
    let mut world = World::ready().await;
    let owners = Owners::of_two(&mut world).await;
    let id = waiting(&owners.create("first", "owner").await, 202);
    let first = owners.activated(&owners.invitation(&id, ADMIN_TOKEN, &owners.bob).await).await;
    world.stop().await;
    edit(&world, "bob", "expires_at", json!(4_000_000_000_u64));
    world.configure("core.admin.auth_token = ''");
    world.start().await.expect("`first` is an owner without an end");
    let owners = owners.again(&world).await;
    let rotate = owners.ask("POST", &format!("{CREDENTIALS}/first/rotate"), Value::Null, &owners.bob).await;
    let invitation = owners.invitation(&waiting(&rotate, 202), &owners.bob, &first).await;
    world.start().await.expect("it starts again before it is activated");
    let owners = owners.again(&world).await;
    assert_eq!((owners.status(&first).await, owners.status(&invitation).await), (200, 403));
    world.stop().await;
    let mut kept: Value =
        serde_json::from_slice(&std::fs::read(world.key_file("credentials.json")).expect("the file"))
            .expect("JSON");
    let credential = kept["credentials"].as_array_mut().expect("a list").iter_mut();
    let pending = credential.filter(|it| it["name"] == "first").map(|it| it["invitation"].clone()).next();
    let pending = pending.expect("an invitation");
    edit(
        &world,
        "first",
        "invitation",
        json!({
            "hash": pending["hash"], "secret_version": pending["secret_version"], "until": 1
        }),
    );
    world.start().await.expect("it starts again after the invitation has lapsed");
    let owners = owners.again(&world).await;
    assert_eq!((owners.status(&first).await, owners.status(&invitation).await), (200, 401));
    let create = json!({ "name": "evil", "role": "owner" });
    waiting(&owners.ask("POST", CREDENTIALS, create, &first).await, 202);

    // Of the last owner without an end, the old secret counts until the new one is used: the response may be lost.
    let rotate = owners.ask("POST", &format!("{CREDENTIALS}/first/rotate"), Value::Null, &owners.bob).await;
    let invitation = owners.invitation(&waiting(&rotate, 202), &owners.bob, &first).await;
    let new = owners.activated(&invitation).await;
    assert_eq!((owners.status(&first).await, owners.status(&new).await), (200, 200));
    assert_eq!(owners.status(&first).await, 401);
}
