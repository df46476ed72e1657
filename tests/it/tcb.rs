//! Platforms that Intel rates out of date: refused unless the operator tolerates it, which is visible to
//! everyone; and the warning some weeks ahead.

use std::sync::{Arc, Mutex};

use crate::support::operator::ask;
use crate::support::program::Setting;
use crate::support::{Answer, Identity, World, eventually};
use cvm_kms::proto::{GetMetaResponse, RefreshCollateralResponse};
use kms_attest::binding::ReportData;
use kms_attest::evidence::Platform;
use kms_attest::p256::P256Key;
use kms_simulator::{
    CollateralSpec, Cvm, EarlySet, Endpoint, PccsMode, PccsServer, Stage, Standing, TcbLevel, Validity,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DAY: u64 = 86_400;

fn days_ago(days: u64) -> u64 {
    kms_attest::clock::unix_now() - days * DAY
}

/// Collateral in which outdated platforms are outdated since a date; the others stay up to date.
fn behind_since(date: u64) -> CollateralSpec {
    CollateralSpec { newest: Some(date), ..CollateralSpec::default() }
}

/// A KMS that serves keys with the given collateral from its first request on.
async fn ready_with(collateral: &CollateralSpec, toml: &str) -> World {
    let mut world = World::stopped_with(toml).await;
    world.pccs.publish(collateral);
    world.start().await.expect("the KMS starts");
    world.bootstrap().await;
    world.finish().await;
    world
}

/// An allowed app on a platform at `level`.
fn app_at(world: &World, level: TcbLevel) -> Arc<Cvm> {
    let app = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).tcb(level).build();
    world.allow_app(&app);
    app
}

async fn app_key(world: &World, app: &Cvm) -> Answer {
    world.caller().shows(&world.attested(app).await).json("GetAppKey", json!({})).await
}

async fn relaxed_settings(world: &World) -> Vec<String> {
    world.caller().json("GetMeta", json!({})).await.message::<GetMetaResponse>().relaxed_settings
}

async fn relaxed_decisions(world: &World, relaxation: &str) -> u64 {
    let name = format!("cvm_kms_relaxed_decisions_total{{relaxation=\"{relaxation}\"}}");
    world.metric(&name).await.unwrap_or(0)
}

/// The last record of an event: the measured status and advisories, and the relaxations.
async fn recorded(world: &World, event: &str) -> (Value, Value, Value) {
    // A record that nothing waits for, such as a denial, may be written after the response.
    let line = eventually(event, async || world.audited(event).pop()).await;
    (line["tcb_status"].clone(), line["advisory_ids"].clone(), line["relaxations"].clone())
}

const STATUS: &str = "App not allowed: Boot denied: TCB status is not allowed";
const ADVISORY: &str = "App not allowed: Boot denied: advisory ID is not allowed";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_of_the_operator_a_platform_behind_is_refused() {
    let world = ready_with(&behind_since(days_ago(1)), "").await;
    for level in [TcbLevel::OutOfDate, TcbLevel::SwHardeningNeeded, TcbLevel::ConfigurationNeeded] {
        let app = app_at(&world, level);
        assert_eq!(app_key(&world, &app).await.refusal(), (403, STATUS.to_owned()), "{level}");
        let denial = (json!(level.status()), Value::Null);
        eventually("the denial", async || {
            let (status, _, relaxations) = recorded(&world, "denied").await;
            ((status, relaxations) == denial).then_some(())
        })
        .await;
    }
    assert!(!relaxed_settings(&world).await.iter().any(|code| code.starts_with("tcb")));
    assert_eq!(world.audited("app_key_released"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_counts_from_the_recovery_and_shows_everywhere() {
    let toml = "core.tcb.grace = { OutOfDate = '60d' }";
    let world = ready_with(&behind_since(days_ago(59)), toml).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.status, 200, "status and advisories are covered");
    let advisories = json!(["INTEL-SA-00837", "INTEL-SA-00960"]);
    let expected = (json!("OutOfDate"), advisories, json!(["tcb_grace:OutOfDate"]));
    assert_eq!(recorded(&world, "app_key_released").await, expected, "the log has what was measured");
    assert_eq!(relaxed_decisions(&world, "tcb_grace:OutOfDate").await, 1);
    assert!(relaxed_settings(&world).await.contains(&"tcb_grace".to_owned()));
    assert_eq!(world.metric("cvm_kms_relaxed{code=\"tcb_grace\"}").await, Some(1));

    let other = app_at(&world, TcbLevel::OutOfDateConfigurationNeeded);
    assert_eq!(app_key(&world, &other).await.refusal(), (403, STATUS.to_owned()), "another status");
    let fine = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &fine).await.status, 200);
    assert_eq!(recorded(&world, "app_key_released").await.2, Value::Null, "nothing was needed");
    assert_eq!(relaxed_decisions(&world, "tcb_grace:OutOfDate").await, 1);

    let world = ready_with(&behind_since(days_ago(61)), toml).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.refusal(), (403, STATUS.to_owned()), "the grace is over");
    assert_eq!(relaxed_decisions(&world, "tcb_grace:OutOfDate").await, 0);
}

/// The CPUSVN in the SGX extension of a PCK certificate: its OID, then the header of the value.
const CPU_SVN: &[u8] = b"\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x02\x12\x04\x10";

/// Evidence of `app` whose quote has another certificate chain. The chain of a quote is not signed.
async fn with_chain(world: &World, app: &Cvm, chain: impl Fn(&[String]) -> String) -> Identity {
    let genuine: Vec<String> = world
        .platform
        .pck_chain_pem()
        .split_inclusive("-----END CERTIFICATE-----\n")
        .map(str::to_owned)
        .collect();
    let key = P256Key::generate();
    let mut evidence = app.evidence(ReportData::ra_tls(&key.spki_der()));
    let Platform::Tdx(tdx) = &mut evidence.platform else { panic!("not TDX") };
    let at = tdx.quote.windows(10).position(|window| window == b"-----BEGIN").expect("a chain");
    let length = genuine.concat().len();
    let chain = chain(&genuine).into_bytes();
    // Lengths before the chain: of the chain, of the certification data, of all signature data.
    let grown = chain.len() as u32;
    let mut quote = tdx.quote[..at].to_vec();
    // Type and length of the chain, QE authentication data, QE report with its signature: then the length of all that;
    // before its type the attestation key and the quote's signature, and the length of everything.
    let content = 4 + 2 + 32 + 2 + 64 + 384;
    for before in [4, content + 4, content + 4 + 2 + 64 + 64 + 4] {
        let field = at - before;
        let old = u32::from_le_bytes(quote[field..field + 4].try_into().expect("four bytes"));
        quote[field..field + 4].copy_from_slice(&(old - length as u32 + grown).to_le_bytes());
    }
    quote.extend_from_slice(&chain);
    quote.extend_from_slice(&tdx.quote[at + length..]);
    tdx.quote = quote;
    let temp_ca = world.caller().json("GetTempCaCert", json!({})).await.message();
    Identity::with_evidence(&temp_ca, &key, &evidence)
}

/// The leaf with newer firmware, without a valid signature.
fn forged(leaf: &str) -> String {
    let mut der = kms_attest::certificate::der(leaf).expect("a certificate");
    let at = der.windows(CPU_SVN.len()).position(|window| window == CPU_SVN).expect("CPUSVN") + CPU_SVN.len();
    der[at] += 1;
    kms_attest::certificate::pem(&der)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_nobody_signed_says_nothing_about_how_far_a_platform_is_behind() {
    type Chain = fn(&[String]) -> String;
    let chains: [(&str, Chain, bool); 6] = [
        ("as it is", |chain| chain.concat(), true),
        (
            "the genuine leaf under another label, a forged one behind it",
            |chain| {
                let genuine = chain[0].replace("CERTIFICATE", "PCK CERTIFICATE");
                [&genuine, &forged(&chain[0]), &chain[1], &chain[2]].map(String::as_str).concat()
            },
            false,
        ),
        (
            "the forged leaf alone",
            |chain| [&forged(&chain[0]), &chain[1], &chain[2]].map(String::as_str).concat(),
            false,
        ),
        (
            "both",
            |chain| [&chain[0], &forged(&chain[0]), &chain[1], &chain[2]].map(String::as_str).concat(),
            false,
        ),
        ("twice", |chain| [&chain[0], &chain[0], &chain[1], &chain[2]].map(String::as_str).concat(), false),
        ("text between", |chain| chain.join("-\n"), false),
    ];
    // With its own firmware the platform is 400 days behind, with that of the forged leaf 10 days.
    let collateral = CollateralSpec { firmware: Some(days_ago(400)), ..behind_since(days_ago(10)) };
    for (toml, is_within) in [
        ("", false),
        ("core.tcb.grace = { OutOfDate = '60d' }", false),
        ("core.tcb.grace = { OutOfDate = '500d' }", true),
    ] {
        let world = ready_with(&collateral, toml).await;
        let app = app_at(&world, TcbLevel::OutOfDate);
        // Twice, so that each chain meets a cache filled by the one before.
        for (case, chain, is_genuine) in chains.into_iter().chain(chains) {
            let identity = with_chain(&world, &app, chain).await;
            let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
            let expected = if is_genuine && is_within { 200 } else { 403 };
            let expected = if is_genuine { expected } else { 401 };
            assert_eq!(answer.status, expected, "{toml}, {case}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_quoting_enclave_gets_no_platform_in_that_is_refused_without_it() {
    let old_qe = CollateralSpec { qe: Standing::of(TcbLevel::OutOfDate), ..CollateralSpec::default() };
    let advisories = "core.tcb.advisories = ['INTEL-SA-00615', 'INTEL-SA-00837', 'INTEL-SA-00960']";
    let one = format!("{advisories}\ncore.tcb.grace = {{ OutOfDate = '36500d' }}");
    let two =
        format!("{advisories}\ncore.tcb.grace = {{ OutOfDate = '36500d', SWHardeningNeeded = '36500d' }}");
    for (toml, is_allowed) in [(one, false), (two, true)] {
        let world = ready_with(&old_qe, &toml).await;
        let fine = app_at(&world, TcbLevel::UpToDate);
        assert_eq!(app_key(&world, &fine).await.status, 200, "its quoting enclave is covered");
        let soft = app_at(&world, TcbLevel::SwHardeningNeeded);
        let answer = app_key(&world, &soft).await;
        if !is_allowed {
            assert_eq!(answer.refusal(), (403, STATUS.to_owned()));
            assert_eq!(recorded(&world, "denied").await.0, json!("OutOfDate"), "the verdict hides the rest");
            continue;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let (status, _, relaxations) = recorded(&world, "app_key_released").await;
        assert_eq!(status, json!("OutOfDate"));
        let relaxations = relaxations.as_array().expect("a list").clone();
        for needed in ["tcb_grace:SWHardeningNeeded", "tcb_grace:OutOfDate"] {
            assert!(relaxations.contains(&json!(needed)), "{relaxations:?}");
            assert!(relaxed_decisions(&world, needed).await > 0, "{needed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_advisories_are_not_shown_to_policy() {
    let toml = "core.tcb.advisories = ['INTEL-SA-00615']";
    for (toml, expected) in [("", 403), (toml, 200)] {
        let world = ready_with(&CollateralSpec::default(), toml).await;
        world.allowlist.change(|rules| {
            rules["allowedTcbStatuses"] = json!(["UpToDate", "SWHardeningNeeded"]);
        });
        let app = app_at(&world, TcbLevel::SwHardeningNeeded);
        let answer = app_key(&world, &app).await;
        assert_eq!(answer.status, expected, "{answer:?}");
        if expected == 403 {
            assert_eq!(answer.refusal().1, ADVISORY);
            continue;
        }
        let relaxations = json!(["advisory:INTEL-SA-00615"]);
        let expected = (json!("SWHardeningNeeded"), json!(["INTEL-SA-00615"]), relaxations);
        assert_eq!(recorded(&world, "app_key_released").await, expected);
        assert!(relaxed_settings(&world).await.contains(&"tcb_advisories".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exempted_model_is_accepted_at_any_age_but_with_no_advisory_that_is_not_listed() {
    let model = "core.tcb.fmspcs = ['53494D000000']";
    let world = ready_with(&CollateralSpec::default(), model).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.refusal(), (403, ADVISORY.to_owned()));
    assert_eq!(
        recorded(&world, "denied").await.2,
        json!(["fmspc:53494d000000"]),
        "what policy was told is known"
    );
    assert_eq!(relaxed_decisions(&world, "fmspc:53494d000000").await, 0, "nobody was allowed by it");

    let both = format!("{model}\ncore.tcb.advisories = ['INTEL-SA-00837', 'INTEL-SA-00960']");
    let world = ready_with(&CollateralSpec::default(), &both).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    let relaxations = ["fmspc:53494d000000", "advisory:INTEL-SA-00837", "advisory:INTEL-SA-00960"];
    assert_eq!(recorded(&world, "app_key_released").await.2, json!(relaxations));
    for relaxation in relaxations {
        assert_eq!(relaxed_decisions(&world, relaxation).await, 1);
    }
    let other = "core.tcb.fmspcs = ['b0c06f000000']";
    let world = ready_with(&CollateralSpec::default(), other).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.refusal(), (403, STATUS.to_owned()), "another model");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_helps_a_revoked_platform() {
    let everything = "core.tcb.fmspcs = ['53494d000000']\n\
                      core.tcb.advisories = ['INTEL-SA-00289', 'INTEL-SA-00837', 'INTEL-SA-00960']\n\
                      core.tcb.grace = { OutOfDate = '36500d', OutOfDateConfigurationNeeded = '36500d' }";
    let world = ready_with(&behind_since(days_ago(1)), everything).await;
    let app = app_at(&world, TcbLevel::Revoked);
    let (status, told) = app_key(&world, &app).await.refusal();
    assert_eq!(status, 401, "{told}");
    assert!(told.contains("Revoked"), "{told}");
    assert_eq!(world.audited("app_key_released"), Vec::<Value>::new());
}

/// Our own machine and all others became outdated ten days ago.
fn recovery() -> CollateralSpec {
    CollateralSpec::after_tcb_recovery_of(days_ago(10), TcbLevel::OutOfDate)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_standing_is_held_to_the_same_rules() {
    let mut world = World::stopped_with("").await;
    world.pccs.publish(&recovery());
    world.start().await.expect("the KMS starts");
    let bootstrap = json!({ "domain": crate::support::DOMAIN });
    let (status, told) = world.caller().plain().json("Bootstrap", bootstrap).await.refusal();
    assert_eq!((status, told.contains("TCB status is not allowed")), (403, true), "{told}");

    let world = ready_with(&recovery(), "core.tcb.grace = { OutOfDate = '60d' }").await;
    assert_eq!(world.caller().json("GetTempCaCert", json!({})).await.status, 200);
    let relaxed = "tcb_grace:OutOfDate";
    eventually("our own need", async || (relaxed_decisions(&world, relaxed).await > 0).then_some(())).await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200, "it runs on the same machine");
    assert_eq!(recorded(&world, "app_key_released").await.0, json!("OutOfDate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_a_replica_is_held_to_the_same_rules() {
    let tolerant = "core.tcb.grace = { OutOfDate = '60d' }";
    let source = ready_with(&recovery(), tolerant).await;
    for (toml, allowed) in [("", false), (tolerant, true)] {
        let mut replica = World::stopped_with(toml).await;
        replica.pccs.publish(&recovery());
        replica.start().await.expect("the replica starts");
        let body = json!({
            "source_url": format!("https://{}", source.address()),
            "domain": "replica.example",
        });
        let answer = replica.caller().plain().json("Onboard", body).await;
        if !allowed {
            let (status, told) = answer.refusal();
            assert_eq!((status, told.contains("TCB status is not allowed")), (403, true), "{told}");
            continue;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let (status, _, relaxations) = recorded(&replica, "source_relaxed").await;
        assert_eq!((status, relaxations), (json!("OutOfDate"), json!(["tcb_grace:OutOfDate"])));
        assert_eq!(recorded(&source, "kms_key_released").await.2, json!(["tcb_grace:OutOfDate"]));
    }
}

/// All collateral with this number, issued on this day.
fn numbered(number: u32, issued: u64) -> CollateralSpec {
    let validity = Validity::new(issued, days_ago(0) + 20 * DAY);
    CollateralSpec { evaluation_number: number, ..CollateralSpec::valid(validity) }
}

async fn refresh(world: &World) -> RefreshCollateralResponse {
    let answer = ask(world, "POST", "/prpc/RefreshCollateral?json", json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.message()
}

/// Refusals of collateral by kind.
async fn rollbacks(world: &World, kind: &str) -> u64 {
    let name = format!("cvm_kms_collateral_rollbacks_total{{kind=\"{kind}\"}}");
    world.metric(&name).await.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_cannot_choose_an_older_recovery_neither_now_nor_after_a_restart() {
    let newest = CollateralSpec {
        platform: Standing::of(TcbLevel::OutOfDate),
        newest: Some(days_ago(30)),
        ..numbered(20, days_ago(9))
    };
    let mut world = ready_with(&newest, "core.tcb.grace = { OutOfDate = '40d' }").await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    assert_eq!(recorded(&world, "app_key_released").await.0, json!("OutOfDate"));

    // Issued later, and the platform would be up to date by it.
    world.pccs.publish(&numbered(17, days_ago(1)));
    let refreshed = refresh(&world).await;
    assert_eq!(refreshed.models.len(), 1);
    let model = &refreshed.models[0];
    assert_eq!((model.tcb_evaluation_number, model.is_newer), (20, false));
    let expected = "tcb_info/standard/53494d000000: number 17 is lower than 20, which was seen before";
    assert!(model.failure.starts_with(expected), "{}", model.failure);
    eventually("the count", async || (rollbacks(&world, "tcb_info").await > 0).then_some(())).await;
    assert_eq!(world.audited("collateral_refreshed").len(), 1);
    assert_eq!(app_key(&world, &app).await.status, 200);
    assert_eq!(recorded(&world, "app_key_released").await.0, json!("OutOfDate"), "20 still decides");

    world.forget_collateral();
    world.start().await.expect("it starts");
    let cold = world.caller().json("GetTempCaCert", json!({})).await;
    assert_eq!(cold.status, 503, "a new process does not believe 17 either, even about itself: {cold:?}");

    // The same set again, and a newer one, are fine.
    world.pccs.publish(&CollateralSpec { evaluation_number: 21, ..newest });
    eventually("newer collateral", async || {
        let answer = world.caller().json("GetTempCaCert", json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(app_key(&world, &app).await.status, 200);
    let refreshed = refresh(&world).await;
    assert_eq!((refreshed.models[0].tcb_evaluation_number, refreshed.models[0].failure.as_str()), (21, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_floors_file_keeps_the_kms_from_starting() {
    let mut world = ready_with(&numbered(20, days_ago(9)), "").await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    let file = world.key_file("collateral-floors.json");
    let text = std::fs::read_to_string(&file).expect("floors");
    std::fs::write(&file, text.replace(": 20", ": 17")).expect("floors");
    let error = world.start().await.expect_err("damaged").to_string();
    assert!(error.contains("core.tcb.floors_file names is damaged"), "{error}");
    std::fs::write(&file, text).expect("floors");
    world.start().await.expect("restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_minimum_holds_from_the_first_answer_on() {
    let mut world = World::stopped_with("core.tcb.min_evaluation_number = 18").await;
    world.start().await.expect("the KMS starts");
    let bootstrap = json!({ "domain": crate::support::DOMAIN });
    let answer = world.caller().plain().json("Bootstrap", bootstrap).await;
    assert_ne!(answer.status, 200, "17 is too low, even for ourselves: {answer:?}");
    let world = ready_with(&numbered(18, days_ago(9)), "core.tcb.min_evaluation_number = 18").await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_this_version_does_not_know_send_it_to_the_next_service() {
    let mut world = World::stopped_with("").await;
    let unknown = CollateralSpec { word: Some("Splendid"), ..CollateralSpec::default() };
    world.pccs.publish(&unknown);
    let second = PccsServer::start(&world.platform).await.expect("PCCS");
    let urls = format!("core.attestation.urls.pccs = ['{}', '{}']", world.pccs.url(), second.url());
    world.config = crate::support::config::laid_over(world.config.clone(), &urls);
    world.start().await.expect("the KMS starts");
    world.bootstrap().await;
    world.finish().await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    assert!(world.pccs.requests_to(Endpoint::TcbInfo) > 0 && second.requests_to(Endpoint::TcbInfo) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_platform_below_every_level_is_told_so() {
    let world = ready_with(&CollateralSpec::default(), "").await;
    let app = app_at(&world, TcbLevel::Unlisted);
    let (status, told) = app_key(&world, &app).await.refusal();
    assert_eq!(status, 401, "{told}");
    let expected = "No matching TCB level found: the platform is below every level that Intel lists: TDX component 2 is \
                    0, the nearest level needs 1; update BIOS";
    assert!(told.contains(expected), "{told}");
    eventually("the denial", async || {
        world.audited("refused").iter().any(|line| line["code"] == "tcb_level_not_listed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_file_that_cannot_be_used_keeps_the_kms_from_starting() {
    let mut world = World::stopped_with("").await;
    let without = world.config.clone();
    let file = world.path("ca.pem");
    let text = |key: &str| format!("{key} = '{}'", file.display());
    for (content, expected) in [
        (None, "core.attestation.ca_file cannot be read"),
        (Some("no certificate"), "core.attestation.ca_file holds no certificate in PEM"),
    ] {
        if let Some(content) = content {
            std::fs::write(&file, content).expect("a file");
        }
        world.config = crate::support::config::laid_over(without.clone(), &text("core.attestation.ca_file"));
        let error = world.start().await.expect_err(expected).to_string();
        assert_eq!(error, expected);
    }
    std::fs::write(&file, world.platform.root_pem()).expect("a file");
    world.start().await.expect("any certificate will do");
}

/// The gauges of the forecast: platforms, date, models by state.
async fn tcb_forecast(world: &World) -> (Option<u64>, Option<u64>, [Option<u64>; 3]) {
    let state = async |state| world.metric(&format!("cvm_kms_early_tcb_sets{{state=\"{state}\"}}")).await;
    (
        world.metric("cvm_kms_tcb_falling_behind").await,
        world.metric("cvm_kms_tcb_recovery_timestamp_seconds").await,
        [state("newer").await, state("same").await, state("unavailable").await],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_early_set_warns_ahead_and_changes_nothing_today() {
    let world = ready_with(&CollateralSpec::default(), "core.tcb.look_ahead = '1s'").await;
    let shows = async |what: &str, expected| {
        eventually(what, async || (tcb_forecast(&world).await == expected).then_some(())).await;
    };
    shows("no recovery", (Some(0), Some(0), [Some(0), Some(1), Some(0)])).await;

    let date = days_ago(3);
    let coming = CollateralSpec::after_tcb_recovery_of(date, TcbLevel::OutOfDate);
    world.pccs.set_early(EarlySet::Published(Box::new(coming)));
    shows("the warning", (Some(1), Some(date), [Some(1), Some(0), Some(0)])).await;
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    assert_eq!(recorded(&world, "app_key_released").await.0, json!("UpToDate"), "the standard set decides");

    // A platform that is seen later is watched too; one whose status stays the same is not reported.
    let soft = app_at(&world, TcbLevel::SwHardeningNeeded);
    app_key(&world, &soft).await;
    shows("the same one", (Some(1), Some(date), [Some(1), Some(0), Some(0)])).await;

    let revoked = CollateralSpec {
        platform: Standing::of(TcbLevel::Revoked),
        ..CollateralSpec::after_tcb_recovery_of(date, TcbLevel::OutOfDate)
    };
    world.pccs.set_early(EarlySet::Published(Box::new(revoked)));
    shows("a refusal has no date", (Some(1), Some(0), [Some(1), Some(0), Some(0)])).await;

    world.pccs.set_early(EarlySet::Standard);
    shows("all clear", (Some(0), Some(0), [Some(0), Some(1), Some(0)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_set_that_cannot_be_had_or_is_not_intels_warns_of_nothing_and_disturbs_nobody() {
    let world = ready_with(&CollateralSpec::default(), "core.tcb.look_ahead = '1s'").await;
    let unavailable = (Some(0), Some(0), [Some(0), Some(0), Some(1)]);
    let shows = async |what: &str| {
        eventually(what, async || (tcb_forecast(&world).await == unavailable).then_some(())).await;
    };
    world.pccs.set_early(EarlySet::Refused);
    shows("a service that does not know the parameter").await;
    let coming = CollateralSpec::after_tcb_recovery_of(days_ago(3), TcbLevel::OutOfDate);
    world.pccs.set_early(EarlySet::Published(Box::new(coming)));
    for mode in [PccsMode::Corrupt, PccsMode::Garbage, PccsMode::Down, PccsMode::Endless] {
        world.pccs.set_endpoint_mode(Endpoint::TcbInfo, mode);
        let before = world.pccs.requests_to(Endpoint::TcbInfo);
        eventually("two looks", async || {
            (world.pccs.requests_to(Endpoint::TcbInfo) >= before + 2).then_some(())
        })
        .await;
        shows(&format!("{mode:?}")).await;
    }
    let app = app_at(&world, TcbLevel::UpToDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    assert_eq!(world.metric("cvm_kms_collateral_failures_total").await, Some(0), "nobody is blamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warning_is_logged_once_with_both_dates() {
    let toml = "core.onboard.auto_bootstrap_domain = 'localhost'\n\
                core.tcb = { look_ahead = '1s', grace = { OutOfDate = '60d' } }";
    let setting = Setting::with(toml).await;
    let coming = CollateralSpec::after_tcb_recovery_of(1_790_812_800, TcbLevel::OutOfDate);
    setting.world.pccs.set_early(EarlySet::Published(Box::new(coming)));
    let program = setting.start().await;
    let warning = eventually("the warning", async || {
        program.log().lines().find(|line| line.contains("early TCB set")).map(str::to_owned)
    })
    .await;
    for part in ["53494d000000", "UpToDate", "OutOfDate", "INTEL-SA-00837", "2026-10-01", "2026-11-30"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    let looks = || setting.world.pccs.requests().iter().filter(|line| line.contains("update=early")).count();
    let before = looks();
    eventually("more looks", async || (looks() >= before + 6).then_some(())).await;
    let times = program.log().lines().filter(|line| line.contains("early TCB set")).count();
    assert_eq!(times, 1, "{}", program.log());
    assert!(program.log().contains("RELAXED: platforms that Intel calls out of date"), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_td_that_was_launched_before_an_update_is_told_apart() {
    let world =
        ready_with(&behind_since(days_ago(5)), "core.tcb.grace = { TDRelaunchAdvised = '60d' }").await;
    let app = Cvm::builder(&world.platform)
        .app_id([1; 20])
        .compose_hash([1; 32])
        .format(kms_simulator::QuoteFormat::V5Td15)
        .tcb(TcbLevel::OutOfDate)
        .current_tcb(TcbLevel::UpToDate)
        .stage(Stage::AwaitingKeys)
        .build();
    world.allow_app(&app);
    assert_eq!(app_key(&world, &app).await.status, 200);
    let (status, _, relaxations) = recorded(&world, "app_key_released").await;
    assert_eq!((status, relaxations), (json!("TDRelaunchAdvised"), json!(["tcb_grace:TDRelaunchAdvised"])));
}

/// A webhook that allows everyone and stores the requests.
async fn webhook() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let questions = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("connection");
            let questions = Arc::clone(&questions);
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut chunk = [0; 4096];
                // A request ends with its object; one for the description has no body.
                while !request.ends_with(b"}") && !request.starts_with(b"GET") {
                    match stream.read(&mut chunk).await {
                        Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
                        _ => return,
                    }
                }
                let body =
                    request.windows(4).position(|end| end == b"\r\n\r\n").map(|end| &request[end + 4..]);
                questions
                    .lock()
                    .expect("no panic")
                    .extend(body.and_then(|body| serde_json::from_slice(body).ok()));
                let answer = r#"{"isAllowed":true,"gatewayAppId":"any","reason":""}"#;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_what_is_left_and_the_log_what_was_measured() {
    let (address, asked) = webhook().await;
    let toml = format!(
        "core.auth_api = {{ type = 'webhook', webhook.url = '{address}' }}\n\
         core.tcb.grace = {{ OutOfDate = '60d' }}"
    );
    let world = ready_with(&behind_since(days_ago(1)), &toml).await;
    let app = app_at(&world, TcbLevel::OutOfDate);
    assert_eq!(app_key(&world, &app).await.status, 200);
    let app_id = hex::encode(app.app_id());
    let questions = asked.lock().expect("no panic").clone();
    let question = questions.iter().find(|question| question["appId"] == app_id).expect("a question");
    assert_eq!((&question["tcbStatus"], &question["advisoryIds"]), (&json!("UpToDate"), &json!([])));
    let (status, advisories, _) = recorded(&world, "app_key_released").await;
    assert_eq!((status, advisories), (json!("OutOfDate"), json!(["INTEL-SA-00837", "INTEL-SA-00960"])));
}
