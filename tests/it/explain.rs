//! Every denial can be explained with what would allow it, and an explanation releases nothing.

use std::sync::Arc;

use crate::support::faults::{FaultServer, Reply};
use crate::support::operator::Operator;
use crate::support::{Answer, Identity, World};
use cvm_kms::proto::{Check, ExplainRequest, ExplainResponse, GetAppKeyRequest, ListDenialsResponse};
use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use kms_policy::remedy::merged;
use kms_simulator::{Cvm, TcbLevel};
use serde_json::{Value, json};

/// Code and id of a refusal, which must be the same in body and header.
fn reference(answer: &Answer) -> (String, String) {
    let value = answer.value();
    let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("{key}: {answer:?}")).to_owned();
    assert_eq!(text("denial_id"), answer.header("x-denial-id"), "{answer:?}");
    assert_eq!(text("denial_id").len(), 12);
    let keys: Vec<_> = value.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["error", "code", "denial_id"], "the text stays first");
    (text("code"), text("denial_id"))
}

fn by_id(denial_id: &str) -> ExplainRequest {
    ExplainRequest { denial_id: denial_id.to_owned(), ..Default::default() }
}

fn failed(explanation: &ExplainResponse) -> Vec<&Check> {
    explanation.checks.iter().filter(|check| check.result == "fail").collect()
}

fn check<'a>(explanation: &'a ExplainResponse, step: &str, rule: &str) -> &'a Check {
    let found = explanation.checks.iter().find(|check| check.step == step && check.rule == rule);
    found.unwrap_or_else(|| panic!("no check {step} {rule} in {explanation:#?}"))
}

fn rules(world: &World) -> Value {
    serde_json::from_slice(&std::fs::read(world.allowlist.path()).expect("allowlist")).expect("JSON")
}

/// A refusal.
struct Case {
    name: &'static str,
    /// The caller's CVM, and the allowlist's entry for it.
    arrange: fn(&World) -> Arc<Cvm>,
    code: &'static str,
    step: &'static str,
    /// Whether merging the remedy allows the caller.
    is_healed: bool,
}

fn at_level(world: &World, level: TcbLevel) -> Arc<Cvm> {
    Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).tcb(level).build()
}

fn other_compose(world: &World) -> Arc<Cvm> {
    world.allow_app(&world.app(1));
    Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([2; 32]).build()
}

const CASES: [Case; 9] = [
    Case {
        name: "an app without entry",
        arrange: |world| world.app(1),
        code: "app_not_registered",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "another compose file",
        arrange: other_compose,
        code: "compose_hash_not_allowed",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "another machine",
        arrange: |world| {
            let app = world.app(1);
            world.allow_app(&app);
            world.allowlist.change(|rules| {
                rules["apps"][hex::encode(app.app_id())] = json!({
                    "composeHashes": [hex::encode(app.compose_hash())],
                    "devices": ["07".repeat(32)],
                });
            });
            app
        },
        code: "device_not_allowed",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "another OS image",
        arrange: |world| {
            world.allow_app(&world.app(1));
            Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).os_image_hash([9; 32]).build()
        },
        code: "os_image_not_allowed",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "a platform that lacks updates",
        arrange: |world| {
            world.allow_app(&world.app(1));
            at_level(world, TcbLevel::OutOfDate)
        },
        code: "tcb_status_not_allowed",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "everything at once",
        arrange: |world| {
            Cvm::builder(&world.platform)
                .app_id([8; 20])
                .os_image_hash([9; 32])
                .tcb(TcbLevel::OutOfDate)
                .build()
        },
        code: "tcb_status_not_allowed",
        step: "policy",
        is_healed: true,
    },
    Case {
        name: "a debug TD",
        arrange: |world| Cvm::builder(&world.platform).app_id([1; 20]).debug().build(),
        code: "td_debug",
        step: "td_attributes",
        is_healed: false,
    },
    Case {
        name: "an unusual TD",
        arrange: |world| {
            Cvm::builder(&world.platform).app_id([1; 20]).td_attributes(1 << 28 | 1 << 63).build()
        },
        code: "td_attributes_not_allowed",
        step: "td_attributes",
        is_healed: false,
    },
    Case {
        name: "a revoked platform",
        arrange: |world| at_level(world, TcbLevel::Revoked),
        code: "tcb_revoked",
        step: "tcb_status",
        is_healed: false,
    },
];

/// The live error, the explanation and the record agree, and the remedy works.
#[tokio::test]
async fn what_is_explained_is_what_happens_and_what_it_proposes_helps() {
    for case in &CASES {
        let name = case.name;
        let world = World::ready().await;
        let operator = Operator::of(&world).await;
        let cvm = (case.arrange)(&world);
        let identity = world.attested(&cvm).await;
        let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
        let (code, id) = reference(&answer);
        assert_eq!(code, case.code, "{name}");
        let text = answer.text();
        assert!(!text.contains("expected") && !text.contains(&"07".repeat(32)), "{name}: {text}");

        let explanation = operator.explain(by_id(&id)).await;
        assert_eq!(
            (explanation.verdict.as_str(), explanation.code.as_str()),
            ("denied", case.code),
            "{name}"
        );
        let told = answer.refusal().1;
        assert!(told.ends_with(&explanation.reason), "{name}: {told} | {}", explanation.reason);
        let first = failed(&explanation)[0];
        assert_eq!((first.step.as_str(), first.code.as_str()), (case.step, case.code), "{name}");

        // The same by the certificate and by the evidence alone.
        let (pem, _) = identity.pem();
        let by_certificate = ExplainRequest { certificate: pem.clone().into_bytes(), ..Default::default() };
        let by_der =
            ExplainRequest { certificate: certificate::der(&pem).expect("DER"), ..Default::default() };
        let evidence = cvm.evidence(ReportData([7; 64])).encode();
        let by_evidence = ExplainRequest { evidence, ..Default::default() };
        for request in [by_certificate, by_der, by_evidence] {
            let other = operator.explain(request).await;
            assert_eq!((&other.verdict, &other.code), (&explanation.verdict, &explanation.code), "{name}");
            assert_eq!(other.remedies, explanation.remedies, "{name}");
            assert_eq!(other.denial, None);
        }

        let record = explanation.denial.as_ref().expect("a denial");
        assert_eq!(
            (record.id.as_str(), record.method.as_str(), record.count),
            (&*id, "GetAppKey", 1),
            "{name}"
        );
        assert_eq!((record.code.as_str(), record.step.as_str()), (case.code, case.step), "{name}");
        let event = if explanation.identity.is_some() { "denied" } else { "refused" };
        let [recorded] = &world.audited(event)[..] else { panic!("{name}: {:?}", world.audit()) };
        assert_eq!((&recorded["code"], &recorded["step"]), (&json!(case.code), &json!(case.step)), "{name}");
        assert_eq!(recorded["denial_id"], json!(id), "{name}");

        // An operator merges the remedy.
        if case.is_healed {
            assert!(!explanation.remedies.is_empty(), "{name}");
            let fragment: Value = serde_json::from_str(&explanation.allowlist_fragment).expect("JSON");
            let pasted = merged([&rules(&world), &fragment]);
            world.allowlist.write(&pasted);
            let healed = operator.explain(by_id(&id)).await;
            assert_eq!(healed.verdict, "allowed", "{name}: {healed:#?}");
            let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        } else {
            assert_eq!(explanation.allowlist_fragment, "", "{name}");
        }
    }
}

#[tokio::test]
async fn a_dry_run_of_an_allowed_caller_releases_nothing_and_is_recorded() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    for (subject, cvm) in [("app", &app), ("certificate", &app), ("kms", &world.replica())] {
        let (pem, _) = world.attested(cvm).await.pem();
        let request = ExplainRequest {
            certificate: pem.into_bytes(),
            subject: subject.to_owned(),
            ..Default::default()
        };
        let answer = operator.call("Explain", serde_json::to_value(request).expect("JSON")).await;
        let explanation: ExplainResponse = answer.message();
        assert_eq!(explanation.verdict, "allowed", "{subject}: {explanation:#?}");
        assert!(failed(&explanation).is_empty() && explanation.remedies.is_empty(), "{subject}");
        assert_eq!(explanation.identity.expect("an identity").app_id, cvm.app_id(), "{subject}");
        assert!(!answer.text().contains("PRIVATE KEY"), "{subject}");
    }
    for event in ["app_key_released", "kms_key_released", "certificate_issued", "denied"] {
        assert!(world.audited(event).is_empty(), "{event}");
    }
    let notes = world.audited("explained");
    let said = |note: &Value| (note["input"].clone(), note["subject"].clone(), note["verdict"].clone());
    let subjects = ["app", "certificate", "kms"];
    let expected = subjects.map(|subject| (json!("certificate"), json!(subject), json!("allowed")));
    assert_eq!(notes.iter().map(said).collect::<Vec<_>>(), expected);
    assert_eq!((&notes[0]["by"], &notes[0]["remote"]), (&json!("token"), &json!("127.0.0.1")));
}

#[tokio::test]
async fn every_rule_is_shown_with_the_nearest_entry() {
    let world = World::ready().await;
    let app = other_compose(&world);
    let operator = Operator::of(&world).await;
    let evidence = app.evidence(ReportData::ZERO).encode();
    let explanation = operator.explain(ExplainRequest { evidence, ..Default::default() }).await;
    let steps: Vec<_> =
        explanation.checks.iter().map(|check| (check.step.as_str(), check.rule.as_str())).collect();
    let expected = [
        ("own_standing", ""),
        ("evidence", ""),
        ("platform", ""),
        ("key_binding", ""),
        ("event_log", ""),
        ("report_data", ""),
        ("collateral", ""),
        ("quote", ""),
        ("td_attributes", ""),
        ("tcb_status", ""),
        ("identity", ""),
        ("frozen", ""),
        ("policy", "tcb_status"),
        ("policy", "advisories"),
        ("policy", "os_image"),
        ("policy", "app"),
        ("policy", "compose_hash"),
        ("policy", "app_device"),
        ("stage", ""),
        ("os_image", ""),
    ];
    assert_eq!(steps, expected);
    assert_eq!(check(&explanation, "key_binding", "").result, "skipped", "evidence alone names no key");
    assert_eq!(check(&explanation, "os_image", "").result, "skipped", "core.image.verify is false here");
    let compose = check(&explanation, "policy", "compose_hash");
    assert_eq!((compose.result.as_str(), compose.code.as_str()), ("fail", "compose_hash_not_allowed"));
    assert_eq!((compose.expected.as_str(), compose.actual.as_str()), (&*"01".repeat(32), &*"02".repeat(32)));
    let nearest = explanation.nearest.expect("the app's own entry");
    assert_eq!(nearest.entry, format!("apps.\"{}\"", hex::encode(app.app_id())));
    let [difference] = &nearest.differences[..] else { panic!("{nearest:?}") };
    assert_eq!(
        (difference.field.as_str(), difference.measured.as_str()),
        ("composeHashes", &*"02".repeat(32))
    );
    assert_eq!(explanation.policy, "allowlist");
}

#[tokio::test]
async fn evidence_of_somebody_else_and_events_that_do_not_replay_are_told_apart() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    let temp_ca = world.temp_ca().await;
    let key = P256Key::generate();
    let stolen = app.evidence(ReportData::ra_tls(&P256Key::generate().spki_der()));
    let mut forged = app.evidence(ReportData::ra_tls(&key.spki_der()));
    forged.stack.runtime_events[0].payload.push(0);
    for (identity, code, step) in [
        (Identity::with_evidence(&temp_ca, &key, &stolen), "evidence_not_bound", "key_binding"),
        (Identity::with_evidence(&temp_ca, &key, &forged), "event_log_mismatch", "event_log"),
        (Identity::with_evidence_bytes(&temp_ca, &key, b"\x00nonsense"), "evidence_malformed", "evidence"),
        (Identity::unattested(&temp_ca), "no_attestation", "evidence"),
    ] {
        let answer = world.caller().shows(&identity).json("GetKmsKey", json!({})).await;
        assert_eq!(answer.status, 401, "{code}");
        let (told, id) = reference(&answer);
        assert_eq!(told, code);
        let explanation = operator.explain(by_id(&id)).await;
        let [failure] = &failed(&explanation)[..] else { panic!("{code}: {explanation:#?}") };
        assert_eq!((failure.step.as_str(), failure.code.as_str()), (step, code));
        assert_eq!(explanation.denial.as_ref().expect("a denial").subject, "kms");
        assert_eq!(explanation.identity, None, "{code}");
        let before: Vec<_> = explanation
            .checks
            .iter()
            .take_while(|check| check.result != "fail")
            .map(|c| &*c.result)
            .collect();
        assert!(before.iter().all(|result| *result == "pass"), "{code}: {before:?}");
        assert_eq!(check(&explanation, "policy", "").result, "skipped", "{code}");
        let (pem, _) = identity.pem();
        let request = ExplainRequest { certificate: pem.into_bytes(), ..Default::default() };
        assert_eq!(operator.explain(request).await.code, code);
    }
    let codes: Vec<_> = world.audited("refused").iter().map(|event| event["code"].clone()).collect();
    assert_eq!(codes, ["evidence_not_bound", "event_log_mismatch", "evidence_malformed", "no_attestation"]);
}

#[tokio::test]
async fn a_freeze_and_our_own_standing_are_explained_too() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    operator.freeze("device", &world.platform.device_id()).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    let (code, id) = reference(&caller.json("GetAppKey", json!({})).await);
    assert_eq!(code, "frozen");
    let explanation = operator.explain(by_id(&id)).await;
    let frozen = check(&explanation, "frozen", "");
    assert_eq!(
        (frozen.result.as_str(), frozen.actual.as_str()),
        ("fail", "a test"),
        "operators see the reason"
    );
    assert_eq!(explanation.allowlist_fragment, "", "the policy has nothing against it");
    let sentence = format!("kmsctl unfreeze device {}", hex::encode(world.platform.device_id()));
    assert_eq!(explanation.remedies[0].sentence, sentence);
    assert!(operator.unfreeze("device", &world.platform.device_id()).await);

    let listed: ListDenialsResponse = operator.call("ListDenials", json!({})).await.message();
    assert_eq!(listed.denials[0].remedy, sentence, "the list has it too");

    let mut own = Value::Null;
    world.allowlist.change(|rules| own = std::mem::replace(&mut rules["kms"]["mrAggregated"], json!([])));
    let own = own[0].as_str().expect("a measurement").to_lowercase();
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let (code, id) = reference(&answer);
    assert_eq!(code, "kms_not_allowed");
    let explanation = operator.explain(by_id(&id)).await;
    assert_eq!(explanation.code, "kms_not_allowed");
    assert_eq!(failed(&explanation).len(), 1, "the caller itself would be allowed: {explanation:#?}");
    let remedy = &explanation.remedies[0];
    assert_eq!(remedy.code, "kms_not_allowed");
    assert!(
        remedy.sentence.starts_with("allow this KMS in its own policy: ") && remedy.sentence.contains(&own),
        "{}",
        remedy.sentence
    );
    let fragment: Value = serde_json::from_str(&explanation.allowlist_fragment).expect("JSON");
    assert!(fragment["kms"].is_object(), "{fragment}");
}

#[tokio::test]
async fn the_same_refusal_is_counted_and_pages_do_not_overlap() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let mut ids = Vec::new();
    for number in 1..=7 {
        let caller = world.caller().shows(&world.attested(&world.app(number)).await);
        let (_, id) = reference(&caller.json("GetAppKey", json!({})).await);
        let (_, again) = reference(&caller.json("GetAppKey", json!({})).await);
        assert_eq!(id, again, "a caller that tries again keeps its id");
        ids.push(id);
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut before = 0;
    loop {
        let request = json!({ "limit": 3, "before": before });
        let page: ListDenialsResponse = operator.call("ListDenials", request).await.message();
        assert!(page.denials.len() <= 3);
        listed.extend(page.denials.iter().map(|denial| denial.id.clone()));
        assert!(page.denials.iter().all(|denial| denial.count == 2 && denial.explainable));
        before = page.next;
        if before == 0 {
            break;
        }
    }
    assert_eq!(listed, ids);
    let of_one: ListDenialsResponse =
        operator.call("ListDenials", json!({ "app_id": hex::encode([3; 20]) })).await.message();
    let [denial] = &of_one.denials[..] else { panic!("{of_one:?}") };
    assert_eq!(denial.identity.as_ref().expect("an identity").app_id, AppId([3; 20]).as_ref());
    assert!(denial.remedy.starts_with("register the app 0303"), "{}", denial.remedy);
    let of_none: ListDenialsResponse =
        operator.call("ListDenials", json!({ "code": "frozen" })).await.message();
    assert!(of_none.denials.is_empty());
}

#[tokio::test]
async fn grpc_carries_the_reference_as_metadata() {
    let world = World::ready().await;
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    let request = GetAppKeyRequest { api_version: 1, ..Default::default() };
    let status = caller.grpc().await.get_app_key(request).await.expect_err("a refusal");
    assert_eq!(status.message(), "App not allowed: Boot denied: app not registered");
    let text = |key: &str| status.metadata().get(key).expect("metadata").to_str().expect("text").to_owned();
    assert_eq!(text("x-denial-code"), "app_not_registered");
    let explanation = Operator::of(&world).await.explain(by_id(&text("x-denial-id"))).await;
    assert_eq!(explanation.code, "app_not_registered");
}

#[tokio::test]
async fn an_outage_is_listed_once_and_is_no_denial_of_an_app() {
    let world = World::ready_with(
        r#"core = { enforce_self_authorization = false, auth_api = { type = "webhook", webhook.url = "http://127.0.0.1:9" } }"#,
    )
    .await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.value()["code"], "policy_unavailable", "{answer:?}");
    let id = answer.header("x-denial-id").to_owned();
    assert_eq!(answer.value()["denial_id"], id.as_str(), "{answer:?}");
    let operator = Operator::of(&world).await;
    let listed: ListDenialsResponse = operator.call("ListDenials", json!({})).await.message();
    let ids: Vec<&str> = listed.denials.iter().map(|denial| denial.id.as_str()).collect();
    assert_eq!(ids, [id.as_str()]);
    assert_eq!(listed.denials[0].code, "policy_unavailable");
    let evidence = app.evidence(ReportData::ZERO).encode();
    let explanation = operator.explain(ExplainRequest { evidence, ..Default::default() }).await;
    assert_eq!((explanation.verdict.as_str(), explanation.policy.as_str()), ("unknown", "webhook"));
    assert_eq!(check(&explanation, "policy", "").result, "unknown");
}

#[tokio::test]
async fn a_webhooks_words_are_shown_as_they_are() {
    let server = FaultServer::answering(|asked| {
        let is_allowed = asked.path.ends_with("/kms");
        let reason = if is_allowed { "" } else { "Compose hash not allowed" };
        Reply::json(&json!({ "isAllowed": is_allowed, "gatewayAppId": "any", "reason": reason }))
    })
    .await;
    let world = World::ready_with(&format!(
        "core.auth_api = {{ type = \"webhook\", webhook.url = \"{}\" }}",
        server.url()
    ))
    .await;
    let app = world.app(1);
    let operator = Operator::of(&world).await;
    let answer = world.caller().shows(&world.attested(&app).await).json("GetAppKey", json!({})).await;
    let (code, id) = reference(&answer);
    assert_eq!(code, "compose_hash_not_allowed");
    let explanation = operator.explain(by_id(&id)).await;
    assert_eq!(
        (&*explanation.policy, &*explanation.reason),
        ("webhook", "Boot denied: Compose hash not allowed")
    );
    let [failure] = &failed(&explanation)[..] else { panic!("{explanation:#?}") };
    assert_eq!((&*failure.step, &*failure.code), ("policy", "compose_hash_not_allowed"));
    let compose = hex::encode(app.compose_hash());
    let sentence = &explanation.remedies[0].sentence;
    assert!(sentence.starts_with("at the authorization backend, add the compose hash"), "{sentence}");
    assert!(explanation.allowlist_fragment.contains(&compose), "{}", explanation.allowlist_fragment);
    let asked = server.asked().iter().filter(|asked| asked.path.ends_with("/app")).count();
    assert_eq!(asked, 2, "once live and once to explain");
}

#[tokio::test]
async fn what_was_tolerated_is_said() {
    let world = World::ready_with("core.tcb.grace.OutOfDate = \"3650d\"").await;
    let app = at_level(&world, TcbLevel::OutOfDate);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    let evidence = app.evidence(ReportData::ZERO).encode();
    let explanation = operator.explain(ExplainRequest { evidence, ..Default::default() }).await;
    assert_eq!(explanation.verdict, "allowed", "{explanation:#?}");
    assert_eq!(explanation.relaxations, ["tcb_grace:OutOfDate"]);
    assert_eq!(explanation.identity.as_ref().expect("an identity").tcb_status, "OutOfDate", "as verified");
    assert_eq!(check(&explanation, "policy", "tcb_status").actual, "UpToDate", "as the policy is told");
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_in_words() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    for (request, told) in [
        (json!({}), "exactly one of evidence, certificate and denial_id must be given"),
        (json!({ "evidence": "00", "denial_id": "001122334455" }), "exactly one of"),
        (json!({ "denial_id": "xyz" }), "denial_id must be twelve hex digits"),
        (json!({ "denial_id": "001122334455" }), "no denial 001122334455 is kept here"),
        (json!({ "evidence": "00", "subject": "guest" }), "subject must be app, kms or certificate"),
        (json!({ "certificate": hex::encode("-----BEGIN CERTIFICATE-----") }), "certificate: "),
    ] {
        let (status, text) = operator.call("Explain", request.clone()).await.refusal();
        assert_eq!(status, 400, "{request}");
        assert!(text.starts_with(told), "{request}: {text}");
    }
    for request in [json!({ "evidence": "00" }), json!({ "certificate": "3003020100" })] {
        let explanation: ExplainResponse = operator.call("Explain", request.clone()).await.message();
        assert_eq!(explanation.code, "evidence_malformed", "{request}");
    }
}

#[tokio::test]
async fn a_denial_is_read_by_a_plain_get() {
    let world = World::ready().await;
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    let (_, id) = reference(&caller.get("/prpc/GetAppKey").await);
    let path = format!("/prpc/Admin.Explain?denial_id={id}");
    let explanation: ExplainResponse = Operator::of(&world).await.get(&path).await.message();
    assert_eq!(explanation.code, "app_not_registered");
}

#[tokio::test]
async fn the_stage_of_the_guest_is_explained() {
    let world = World::ready_with("core.release_stage = \"boot\"").await;
    let operator = Operator::of(&world).await;
    let app = world.app(1);
    world.allow_app(&app);
    let explained = async |subject: &str| {
        let evidence = app.evidence(ReportData::ZERO).encode();
        let subject = subject.to_owned();
        operator.explain(ExplainRequest { evidence, subject, ..Default::default() }).await
    };
    let explanation = explained("app").await;
    let stage = check(&explanation, "stage", "");
    assert_eq!((stage.result.as_str(), stage.actual.as_str()), ("pass", "boot"));
    assert!(stage.detail.ends_with("(core.release_stage boot)"), "{stage:?}");
    app.finish_boot(&kms_simulator::KeyProvider::None);
    let explanation = explained("app").await;
    let stage = check(&explanation, "stage", "");
    assert_eq!((stage.result.as_str(), stage.code.as_str()), ("fail", "guest_has_booted"));
    assert_eq!((stage.expected.as_str(), stage.actual.as_str()), ("boot", "running"));
    assert!(stage.detail.ends_with("(core.release_stage boot)"), "{stage:?}");
    assert_eq!((explanation.verdict.as_str(), explanation.code.as_str()), ("denied", "guest_has_booted"));
    assert!(explanation.remedies.iter().any(|remedy| remedy.sentence.contains("releaseStage")));
    assert_eq!(check(&explained("certificate").await, "stage", "").result, "pass");
    world.allowlist.change(|rules| {
        rules["apps"][hex::encode(app.app_id())]["releaseStage"] = json!("any");
    });
    let explanation = explained("app").await;
    let stage = check(&explanation, "stage", "");
    assert_eq!((stage.result.as_str(), stage.actual.as_str()), ("pass", "running"));
    assert!(stage.detail.ends_with("(releaseStage any)"), "{stage:?}");
}
