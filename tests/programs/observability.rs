//! Metrics, alerts, dashboard and traces, as Prometheus' and OpenTelemetry's own tools read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_policy::bundle::SecretKey;
use serde_json::{Value, json};

use crate::clients::{python, said};
use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::http::{post, request, with};
use crate::support::operator::authorized;
use crate::support::process::finish;
use crate::support::program::Setting;
use crate::support::{ADMIN_TOKEN, Caller, World, eventually, tools};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability")
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new(tools::program("promtool"));
    command.current_dir(docs()).args(arguments);
    command
}

/// The metrics of a KMS that has done something of everything.
async fn exposition() -> String {
    let target = FaultServer::answering(|_| Reply::json(&json!({}))).await;
    let key = SecretKey::generate("team/ann".parse().expect("a name")).expect("a key");
    let signer = key.verifying_key();
    let toml = format!(
        "[domains.signed.auth_api]\ntype = \"allowlist\"\n[domains.signed.auth_api.bundle]\nkeys = [\"{signer}\"]\n\
         source = \"/no/such/policy.bundle\"\n[[core.notify]]\nname = \"pager\"\nurl = \"{}\"\nsecret = \"sixteen bytes or more\"\n\
         [core.traces]\nendpoint = \"{}/v1/traces\"\nsample_ratio = 1",
        target.url(),
        target.url()
    );
    let world = World::ready_with(&toml).await;
    let [allowed, denied] = [1, 2].map(|number| world.app(number));
    world.allow_app(&allowed);
    for (app, status) in [(&allowed, 200), (&denied, 403)] {
        let caller = world.caller().shows(&world.attested(app).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, status);
    }
    let admin = Caller::new(world.admin_address().await).plain();
    assert_eq!(admin.send(with(request("GET", "/livez", ""), "x-admin-token", "wrong")).await.status, 401);
    eventually("a trace is sent", async || {
        let text = world.caller().get("/metrics").await.text().to_owned();
        let is_sent = text.contains(r#"cvm_kms_upstream_requests_total{result="ok",upstream="traces"} 1"#);
        let is_asked =
            text.contains(r#"cvm_kms_policy_bundle_fetches_total{domain="signed",result="failed"}"#);
        (is_sent && is_asked).then_some(text)
    })
    .await
}

/// Each metric that is exposed, with the names of its labels.
fn exposed(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').expect("its end").0);
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
        found.entry(name).or_default().extend(labels);
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The metrics of the program that an expression of PromQL names, each with the labels that it selects by.
fn named(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let word = rest[start..].split(|character| !is_word(character)).next().expect("a word");
        rest = &rest[start + word.len()..];
        if !["cvm_kms_", "dstack_kms_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
            continue;
        }
        let selector =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |found| found.0);
        let labels = selector.split(',').filter_map(|label| label.split(['=', '!']).next());
        found.push((word, labels.map(str::trim).filter(|label| !label.is_empty()).collect()));
    }
    found
}

#[test]
fn the_reader_of_expressions_finds_names_and_labels() {
    let expression =
        r#"rate(cvm_kms_a_total{job=~"x", code!="ok"}[5m]) > 2 * process_open_fds and up{job="y"}"#;
    assert_eq!(named(expression), [("cvm_kms_a_total", vec!["job", "code"]), ("process_open_fds", vec![])]);
}

#[tokio::test]
async fn promtool_has_nothing_against_the_metrics_of_a_running_kms() {
    let ran = finish(promtool(&["check", "metrics"]), exposition().await).await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "", ""), "promtool has findings");
}

#[tokio::test]
async fn the_alerts_pass_their_own_tests() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let ran = finish(promtool(&arguments), String::new()).await.expect_ok();
        assert!(ran.text().contains("SUCCESS"), "{}", ran.text());
    }
}

#[tokio::test]
async fn alerts_and_dashboard_name_metrics_and_labels_that_a_kms_exposes() {
    let text = exposition().await;
    let exposed = exposed(&text);
    let dashboard = fs::read_to_string(docs().join("grafana-dashboard.json")).expect("the dashboard");
    let parsed: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect();
    let annotations = parsed["annotations"]["list"].as_array().expect("annotations");
    expressions.extend(annotations.iter().filter_map(|one| Some(one["expr"].as_str()?.to_owned())));
    // Texts for people name metrics too.
    expressions.push(fs::read_to_string(docs().join("alerts.yaml")).expect("the alerts"));
    let mut count = 0;
    for (metric, labels) in expressions.iter().flat_map(|expression| named(expression)) {
        // Texts name histograms without what is made of them.
        let shown = exposed.get(metric).or_else(|| exposed.get(&*format!("{metric}_bucket")));
        let shown = shown.unwrap_or_else(|| panic!("no KMS has {metric}"));
        for label in labels.into_iter().filter(|label| !["job", "instance"].contains(label)) {
            assert!(shown.contains(label), "{metric} has no label {label}, but {shown:?}");
        }
        count += 1;
    }
    assert!(count > 60, "only {count} metrics were found");
    let page = fs::read_to_string(docs().join("README.md")).expect("the page");
    for (metric, _) in named(&page) {
        let is_exposed = exposed.keys().any(|name| name.starts_with(metric));
        assert!(is_exposed, "no KMS has {metric}");
    }
}

#[tokio::test]
async fn labels_are_not_the_callers_to_choose() {
    let world = World::ready().await;
    let before = world.caller().get("/metrics").await.text().lines().count();
    let caller = world.caller();
    for number in 0..200 {
        for path in [
            format!("/prpc/NoSuchMethod{number}"),
            format!("/prpc/KMS.Other{number}?json"),
            format!("/kms.KMS/Unknown{number}"),
            format!("/x{number}/\"}} 1\nforged_metric 1"),
        ] {
            let path = path.replace(['\n', '"', ' ', '}'], "%0A");
            caller.send(post(&path, "{}")).await;
        }
    }
    let text = world.caller().get("/metrics").await.text().to_owned();
    assert!(!text.contains("NoSuchMethod") && !text.contains("forged"), "{text}");
    // Some lines for new statuses of `other`, not one for each path.
    assert!(text.lines().count() < before + 60, "{before} lines, then {}", text.lines().count());
}

/// A collector of traces.
async fn collector() -> FaultServer {
    FaultServer::answering(|_| Reply::json(&json!({}))).await
}

fn traced(collector: &FaultServer, ratio: &str) -> String {
    let url = collector.url();
    format!("[core.traces]\nendpoint = \"{url}/v1/traces\"\nsample_ratio = {ratio}")
}

/// The spans that the collector has got, decoded by OpenTelemetry's library.
async fn spans(collector: &FaultServer) -> Vec<Value> {
    let bodies: Vec<String> = collector.asked().iter().map(|asked| hex::encode(&asked.body)).collect();
    said(&python("traces.py", &[], &json!(bodies)).await).as_array().expect("a list").clone()
}

/// The spans, once there is a root with this name.
async fn spans_with(collector: &FaultServer, root: &str) -> Vec<Value> {
    eventually("a trace arrives", async || {
        // The name of a root is in the body as it is.
        let has_arrived = |body: &[u8]| body.windows(root.len()).any(|window| window == root.as_bytes());
        collector.asked().iter().any(|asked| has_arrived(&asked.body)).then_some(())
    })
    .await;
    spans(collector).await
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PARENTS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_traced_with_its_stages_and_without_secrets() {
    let collector = collector().await;
    let world = World::ready_with(&traced(&collector, "1.0")).await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let request = with(post("/prpc/GetAppKey?json", "{}"), "traceparent", PARENT);
    let answer = caller.send(with(request, "x-request-id", "boot-7")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let spans = spans_with(&collector, "GetAppKey").await;
    let root = spans.iter().find(|span| span["name"] == "GetAppKey").expect("the root");
    assert_eq!((&root["kind"], &root["parent"]), (&json!("SPAN_KIND_SERVER"), &json!("")), "{root:#}");
    assert_eq!(root["attributes"]["http.response.status_code"], 200);
    assert_eq!(root["attributes"]["request.id"], "caller:boot-7");
    assert_eq!(root["resource"]["service.name"], "cvm-kms");
    // A stranger's trace is only named: it decides nothing here.
    assert_ne!(root["trace"], PARENTS_TRACE);
    assert_eq!(root["links"], json!([PARENTS_TRACE]));
    let children: BTreeSet<&str> = spans
        .iter()
        .filter(|span| span["parent"] == root["id"] && span["trace"] == root["trace"])
        .map(|span| span["name"].as_str().expect("a name"))
        .collect();
    for stage in ["verification", "self_authorization", "policy", "record", "key_derivation"] {
        assert!(children.contains(stage), "{stage}: {children:?}");
    }
    for single in ["handshake", "collateral"] {
        assert!(
            spans.iter().any(|span| span["name"] == single && span["parent"] == ""),
            "{single}: {spans:#?}"
        );
    }
    // Neither the keys of the app nor credentials leave in a trace.
    let keys = answer.value();
    let bodies: Vec<u8> = collector.asked().into_iter().flat_map(|asked| asked.body).collect();
    let holds = |part: &[u8]| bodies.windows(part.len()).any(|window| window == part);
    for key in ["disk_crypt_key", "env_crypt_key", "k256_key"] {
        let key = keys[key].as_str().expect("a key");
        assert!(!holds(key.as_bytes()) && !holds(&hex::decode(key).expect("hex")), "a key is in a trace");
    }
    assert!(!holds(ADMIN_TOKEN.as_bytes()) && !holds(collector.address().to_string().as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_operator_can_ask_for_a_trace() {
    let collector = collector().await;
    let world = World::ready_with(&traced(&collector, "0.0")).await;
    let admin = Caller::new(world.admin_address().await).plain();
    let asked = |path| with(request("GET", path, ""), "traceparent", PARENT);
    assert_eq!(world.caller().send(asked("/health")).await.status, 200);
    assert_eq!(admin.send(asked("/api/v1/me")).await.status, 401);
    assert_eq!(admin.send(with(asked("/livez"), "x-admin-token", "wrong")).await.status, 401);
    let right = with(post("/prpc/Admin.ListFrozen?json", "{}"), "traceparent", PARENT);
    assert_eq!(admin.send(authorized(right)).await.status, 200);
    let spans = spans_with(&collector, "ListFrozen").await;
    let [span] = &spans[..] else { panic!("one was asked for: {spans:#?}") };
    assert_eq!((&span["trace"], &span["parent"]), (&json!(PARENTS_TRACE), &json!("b7ad6b7169203331")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_fails_or_never_ends_delays_nobody() {
    for fault in [
        Fault::Hanging,
        Fault::Down,
        Fault::Page(500, b"hush".to_vec()),
        Fault::Endless,
        Fault::HangingInBody,
    ] {
        let collector = collector().await;
        let toml = traced(&collector, "1.0") + "\ntimeout = \"1s\"";
        let world = World::ready_with(&toml).await;
        collector.suffer(fault.clone()).await;
        let began = std::time::Instant::now();
        let caller = world.caller();
        // More than may wait.
        for _ in 0..700 {
            assert_eq!(caller.get("/health").await.status, 200);
        }
        let took = began.elapsed();
        // Each trace would wait for a second.
        assert!(took < std::time::Duration::from_secs(300), "{fault}: {took:?}");
        let dropped = eventually("traces are dropped", async || {
            let text = world.caller().get("/metrics").await.text().to_owned();
            let line =
                text.lines().find(|line| line.starts_with(r#"cvm_kms_queue_shed_total{queue="traces"}"#))?;
            let dropped: u64 = line.rsplit(' ').next()?.parse().ok()?;
            (dropped > 0).then_some(dropped)
        });
        if !matches!(fault, Fault::Endless) {
            assert!(dropped.await > 0, "{fault}");
        }
        collector.recover().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_of_a_request_end_with_its_id_and_no_caller_can_forge_one() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    let caller = setting.caller();
    eventually("keys are served", async || {
        let answer = caller.try_send(request("GET", "/readyz", "")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let ask = |id: &str| with(post("/prpc/GetAppKey?json", "{}"), "x-request-id", id);
    assert_eq!(caller.send(ask("boot-1")).await.status, 401);
    let forged = "x level=ERROR request_id=0123";
    let answer = caller.send(ask(forged)).await;
    let id = answer.header("x-request-id").to_owned();
    assert!(id.len() == 32 && id != forged, "{id}");
    let log = eventually("both lines", async || {
        let log = program.log();
        (log.matches("request refused").count() == 2).then_some(log)
    })
    .await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("request refused")).collect();
    assert!(lines[0].ends_with(" request_id=caller:boot-1"), "{}", lines[0]);
    assert!(lines[1].ends_with(&format!(" request_id={id}")), "{}", lines[1]);
    assert!(!log.contains("level=ERROR"), "{log}");
    assert!(lines.iter().all(|line| line.matches("request_id=").count() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kms_check_reads_the_files_of_the_collector() {
    for (toml, problem) in [
        ("header_file = \"/nonexistent/headers\"", Some("core.traces.header_file cannot be read")),
        ("ca_file = \"/nonexistent/ca.pem\"", Some("core.traces.ca_file cannot be read")),
        ("ca_file = \"/dev/null\"", Some("core.traces.ca_file")),
        ("", None),
    ] {
        let toml = format!("[core.traces]\nendpoint = \"https://collector.example/v1/traces\"\n{toml}");
        let ran = Setting::with(&toml).await.run(&["check"]).await;
        match problem {
            Some(problem) => assert!(ran.code != 0 && ran.text().contains(problem), "{}", ran.text()),
            None => assert_eq!(ran.code, 0, "{}", ran.text()),
        }
    }
}
