//! A refusal of a call with fresh evidence keeps that evidence, and an explanation judges it as the call was judged.

use kms_simulator::{Cvm, KeyProvider};
use serde_json::{Value, json};

use super::{Guest, code, fields};
use crate::support::http::{json, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};

const METHOD: &str = "KMS.GetAppKey";

struct Operator(Caller);

impl Operator {
    async fn of(world: &World) -> Self {
        Self(Caller::new(world.admin_address().await).plain())
    }

    async fn ask(&self, method: &str, body: Value) -> Value {
        let request = with(json(method, body), "authorization", &format!("Bearer {ADMIN_TOKEN}"));
        self.0.send(request).await.value()
    }

    /// The explanation of this refusal.
    async fn explain(&self, refused: &Answer) -> Explained {
        let id = refused.value()["denial_id"].as_str().expect("an id").to_owned();
        Explained(self.ask("Explain", json!({ "denial_id": id })).await)
    }
}

struct Explained(Value);

impl Explained {
    /// The verdict, its code, and what is listed of the fresh evidence.
    fn verdict(&self) -> [&str; 3] {
        [&self.0["verdict"], &self.0["code"], &self.0["denial"]["fresh_evidence"]].map(text)
    }

    /// The results of the checks of this step, and their codes.
    fn checks(&self, step: &str) -> Vec<(&str, &str)> {
        let checks = self.0["checks"].as_array().expect("checks").iter();
        let of_step = checks.filter(|check| check["step"] == step);
        of_step.map(|check| (text(&check["result"]), text(&check["code"]))).collect()
    }
}

/// A text, empty if it is left out.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test]
async fn the_guest_of_now_is_explained_and_not_that_of_its_certificate() {
    let world = World::ready_with("core.release_stage = \"boot\"").await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut guest = Guest::connect(&world, &app).await;
    app.finish_boot(&KeyProvider::None);
    assert_eq!(guest.ask(json!({})).await.status, 200, "the certificate is from before");
    let fresh = guest.fresh(METHOD).await;
    let refused = guest.ask(fresh).await;
    assert_eq!(code(&refused), (403, "guest_has_booted".to_owned()));
    let operator = Operator::of(&world).await;
    let explained = operator.explain(&refused).await;
    assert_eq!(explained.verdict(), ["denied", "guest_has_booted", "verified"]);
    assert_eq!(explained.checks("session"), [("pass", "")]);
    assert_eq!(explained.checks("stage"), [("fail", "guest_has_booted")]);
    let now = hex::encode(app.mr_aggregated());
    let measured = &explained.0["identity"]["mr_aggregated"];
    assert_eq!(measured, now.as_str(), "{measured}");

    // It is judged by the rules of now.
    world.allowlist.change(|rules| {
        rules["apps"][hex::encode(app.app_id())]["releaseStage"] = json!("any");
    });
    eventually("the new rule", async || {
        let explained = operator.explain(&refused).await;
        (explained.verdict() == ["allowed", "", "verified"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_domain_that_refuses_the_guest_of_now_has_judged_its_fresh_evidence() {
    let world =
        World::ready_with(&format!("[domains.forge]\nsealed = true\napps = [\"{}\"]", "01".repeat(20))).await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut guest = Guest::connect(&world, &app).await;
    app.emit("shell-opened", b"");
    // The images of these tests are not known to be no images for development, which is found last.
    assert_eq!(
        code(&guest.ask(json!({})).await).1,
        "dev_image_not_allowed",
        "the certificate is from before"
    );
    let fresh = guest.fresh(METHOD).await;
    let refused = guest.ask(fresh).await;
    assert_eq!(code(&refused), (403, "not_sealed".to_owned()));
    let operator = Operator::of(&world).await;
    let explained = operator.explain(&refused).await;
    assert_eq!(explained.verdict(), ["denied", "not_sealed", "verified"]);
    assert_eq!(explained.checks("session"), [("pass", "")]);
    // The domain admits the certificate's evidence, and not the later one.
    assert_eq!(explained.checks("domain"), [("pass", ""), ("fail", "not_sealed")]);
    let is_of_it = |denied: &Value| denied["code"] == "not_sealed";
    let denied = async || world.audited("denied").into_iter().find(is_of_it);
    let denied = eventually("the record", denied).await;
    assert_eq!((&denied["code"], &denied["fresh"]), (&json!("not_sealed"), &json!(true)));
}

#[tokio::test]
async fn what_was_found_in_the_session_is_explained_as_it_was_found() {
    let world = World::ready().await;
    let (app, other) = (world.app(1), world.app(2));
    world.allow_app(&app);
    world.allow_app(&other);
    let mut guest = Guest::connect(&world, &app).await;
    let operator = Operator::of(&world).await;
    let twin = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]);
    let twin = twin.vm_config(r#"{"cpu_count":99}"#).build();

    let used = guest.bound(METHOD).await;
    let used = fields(&used.challenge, &app.evidence(used.report_data()));
    assert_eq!(guest.ask(used.clone()).await.status, 200);
    let (first, second) = (guest.bound(METHOD).await, guest.bound(METHOD).await);
    let unbound = fields(&second.challenge, &app.evidence(first.report_data()));
    let bound = guest.bound(METHOD).await;
    let of_other = fields(&bound.challenge, &other.evidence(bound.report_data()));
    let bound = guest.bound(METHOD).await;
    let of_twin = fields(&bound.challenge, &twin.evidence(bound.report_data()));
    let bound = guest.bound(METHOD).await;
    let mut malformed = fields(&bound.challenge, &app.evidence(bound.report_data()));
    malformed["fresh_evidence"] = json!("00");
    for (body, expected) in [
        (used, "challenge_unknown"),
        (unbound, "fresh_evidence_not_bound"),
        (of_other, "fresh_evidence_mismatch"),
        (of_twin, "fresh_evidence_mismatch"),
        (malformed, "evidence_malformed"),
    ] {
        let refused = guest.ask(body).await;
        assert_eq!(code(&refused), (403, expected.to_owned()), "{refused:?}");
        let explained = operator.explain(&refused).await;
        assert_eq!(explained.verdict(), ["denied", expected, "refused"]);
        assert_eq!(explained.checks("session"), [("fail", expected)]);
        let denial = &explained.0["denial"];
        let checks = explained.0["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["step"] == "session").expect("the step");
        assert_eq!(
            (text(&check["expected"]), text(&check["actual"])),
            (text(&denial["expected"]), text(&denial["actual"])),
            "{expected}"
        );
    }
}

#[tokio::test]
async fn fresh_evidence_that_was_not_looked_at_is_judged_without_its_session() {
    let world = World::ready_with("core.release_stage = \"boot\"").await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut guest = Guest::connect(&world, &app).await;
    let operator = Operator::of(&world).await;
    let in_other = |mut fields: Value| {
        fields["app_domain"] = json!("elsewhere");
        fields
    };
    let fresh = guest.fresh(METHOD).await;
    let refused = guest.ask(in_other(fresh)).await;
    assert_eq!(code(&refused), (403, "domain_mismatch".to_owned()));
    let explained = operator.explain(&refused).await;
    assert_eq!(explained.verdict(), ["denied", "domain_mismatch", "not_judged"]);
    assert_eq!(explained.checks("session"), [("skipped", "")]);
    assert_eq!(explained.checks("stage"), [("pass", "")]);

    // The same refusal again, by a guest that has booted since: the last evidence is what is kept.
    app.finish_boot(&KeyProvider::None);
    let fresh = guest.fresh(METHOD).await;
    let again = guest.ask(in_other(fresh)).await;
    assert_eq!(again.value()["denial_id"], refused.value()["denial_id"]);
    let explained = operator.explain(&again).await;
    assert_eq!(explained.0["denial"]["count"], 2);
    assert_eq!(explained.checks("stage"), [("fail", "guest_has_booted")]);
}
