//! Bundles of domains where what an owner changes waits for a second owner.

use cvm_kms::api::Role;

use super::domains::{Team, team};
use super::*;
use crate::credentials::{Admin, CREDENTIALS};
use crate::support::ADMIN_TOKEN;

const ACTIVATE: &str = "/api/v1/policy/bundles/activate";
const APPROVALS: &str = "/api/v1/approvals";

/// A team whose KMS has two owners, both of whom are needed, and an owner of each domain.
struct Owned {
    team: Team,
    admin: Admin,
    bob: String,
    of_team_b: String,
    of_default: String,
}

impl Owned {
    async fn ready() -> Self {
        let mut team = team("").await;
        let admin = Admin::of(&team.world).await;
        let of_domain = async |domain: &str| {
            let body = json!({ "name": format!("{domain}-owner"), "role": "owner", "domain": domain });
            admin.done("POST", CREDENTIALS, body).await["token"].as_str().expect("a token").to_owned()
        };
        let (of_team_b, of_default) = (of_domain("team-b").await, of_domain("default").await);
        let bob = admin.create("bob", Role::Owner).await;
        // With one signer each nothing may decide by itself any more.
        team.world.configure(
            "core.admin.approvals = 2\ncore.auth_api.bundle.activation = 'manual'\n\
             domains.team-b.auth_api.bundle.activation = 'manual'",
        );
        team.world.start().await.expect("it starts again");
        let admin = Admin::of(&team.world).await;
        team.in_force("default", 1).await;
        team.in_force("team-b", 1).await;
        Self { team, admin, bob, of_team_b, of_default }
    }

    async fn ask(&self, verb: &str, path: &str, body: Value, token: &str) -> (u16, Value) {
        let answer = self.admin.ask(verb, path, &body, token).await;
        (answer.status, if answer.text().is_empty() { Value::Null } else { answer.value() })
    }

    /// Brings the second bundle of a domain, and asks to put it in force; returns the bundle and the request that waits.
    async fn requested(&self, domain: &str, source: &PathBuf) -> (Vec<u8>, Value) {
        let second = self.team.bundle(domain, 2, Some(&fs::read(source).expect("source")));
        let call = post("/api/v1/policy/bundles", second.clone());
        let pushed = send(&self.team.world, with(call, "content-type", "application/octet-stream")).await;
        assert_eq!(pushed.status, 200, "{}", pushed.text());
        let by = json!({ "digest": digest(&second).to_string() });
        // Nor can an owner of a domain, also of this one.
        for token in [&self.of_team_b, &self.of_default] {
            let (status, told) = self.ask("POST", ACTIVATE, by.clone(), token).await;
            assert_eq!((status, &told["code"]), (403, &json!("other_domain")), "{told}");
        }
        let (_, told) = self.ask("POST", ACTIVATE, by, ADMIN_TOKEN).await;
        assert_eq!(told["code"], "approval_needed", "{told}");
        (second, told["approval"].clone())
    }

    async fn decide(&self, request: &Value, decision: &str, body: Value, token: &str) -> (u16, Value) {
        let id = request["id"].as_str().expect("an id");
        self.ask("POST", &format!("{APPROVALS}/{id}/{decision}"), body, token).await
    }

    async fn serials(&self) -> [Value; 2] {
        let serial = async |domain| self.team.state(domain).await["in_force"]["serial"].clone();
        [serial("default").await, serial("team-b").await]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_a_domain_is_put_in_force_by_two_owners_of_the_whole_kms() {
    let owned = Owned::ready().await;
    let [default, other] = &owned.team.sources;
    let (second, request) = owned.requested("team-b", other).await;
    let detail = request["detail"].as_str().expect("a sentence");
    assert!(detail.contains("serial 2") && detail.contains("in the domain team-b"), "{detail}");
    assert_eq!(owned.serials().await, [json!(1), json!(1)], "it waits");

    // Its domain sees what waits, another one does not, and no owner of a domain decides it.
    let path = format!("{APPROVALS}/{}", request["id"].as_str().expect("an id"));
    let seen = async |token| {
        let (status, told) = owned.ask("GET", &path, Value::Null, token).await;
        let (_, listed) = owned.ask("GET", APPROVALS, Value::Null, token).await;
        let count = listed["approvals"].as_array().map_or(0, Vec::len);
        assert_eq!(told["id"] == request["id"], count == 1, "{listed}");
        (status == 200, count)
    };
    assert_eq!(seen(&owned.of_team_b).await, (true, 1));
    assert_eq!(seen(&owned.of_default).await, (false, 0));
    for token in [&owned.of_team_b, &owned.of_default] {
        for decision in ["approve", "reject"] {
            let (status, told) = owned.decide(&request, decision, Value::Null, token).await;
            assert_eq!((status, &told["code"]), (403, &json!("other_domain")), "{decision}: {told}");
        }
    }
    // Nor does the owner who requested it.
    let (status, told) = owned.decide(&request, "approve", Value::Null, ADMIN_TOKEN).await;
    let text = told["message"].as_str().unwrap_or_default();
    assert!(status != 200 && text.contains("another owner than the one who requested it"), "{told}");

    // What was approved for one domain is nothing for another one.
    let (next, of_default) = owned.requested("default", default).await;
    assert_ne!(request["sha256"], of_default["sha256"]);
    let seen = json!({ "sha256": of_default["sha256"] });
    let (status, told) = owned.decide(&request, "approve", seen.clone(), &owned.bob).await;
    let text = told["message"].as_str().unwrap_or_default();
    assert!(status != 200 && text.contains("not the one that you approve"), "{told}");
    assert_eq!(owned.serials().await, [json!(1), json!(1)]);
    let (status, told) = owned.decide(&of_default, "approve", seen, &owned.bob).await;
    assert_eq!((status, &told["state"]), (200, &json!("done")), "{told}");
    assert_eq!(owned.serials().await, [json!(2), json!(1)]);

    let (status, told) = owned.decide(&request, "approve", Value::Null, &owned.bob).await;
    assert_eq!((status, &told["state"]), (200, &json!("done")), "{told}");
    assert_eq!(owned.serials().await, [json!(2), json!(2)]);
    let activated = owned.team.world.audited("policy_bundle_activated");
    let [.., before, last] = &activated[..] else { panic!("{activated:?}") };
    for (record, domain, bundle) in [(before, "default", &next), (last, "team-b", &second)] {
        assert_eq!((&record["domain"], &record["serial"]), (&json!(domain), &json!(2)), "{record}");
        assert_eq!(record["policy_sha256"], digest(bundle).to_string());
        assert!(record["by"].as_str().is_some_and(|by| by.ends_with(" with credential bob")), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_whose_request_is_rejected_goes_on_waiting() {
    let owned = Owned::ready().await;
    let (_, request) = owned.requested("team-b", &owned.team.sources[1]).await;
    let (status, told) = owned.decide(&request, "reject", Value::Null, &owned.bob).await;
    assert_eq!((status, &told["state"]), (200, &json!("rejected")), "{told}");
    assert_eq!(owned.serials().await, [json!(1), json!(1)]);
    let (status, _) = owned.decide(&request, "approve", Value::Null, &owned.bob).await;
    assert_ne!(status, 200);
    assert_eq!(owned.serials().await, [json!(1), json!(1)]);
}
