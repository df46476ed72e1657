//! Writes `tests/vectors/attestation`: documents of simulated KMSs, good ones and bad ones, with the verdict that every
//! client must reach. Run in the directory of the repository:
//! `cargo run -p kms-client --features proof --example attestation_vectors`. The files are the same every time.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use kms_attest::binding::{ReportData, kms_attestation_by_root};
use kms_attest::measurement::{EventVersion, RuntimeEvent};
use kms_client::statement::Signer;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::hash::Hash;
use kms_ledger::signature::SigningKey;
use kms_simulator::{
    CollateralSpec, Cvm, CvmBuilder, KeyProvider, Platform, PlatformSpec, QuoteFormat, Revocation,
    SimulatedKey, Stage, Standing, TcbLevel, TdReport, Validity,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const DIRECTORY: &str = "tests/vectors/attestation";
const SEED: &[u8] = b"attestation vectors";
/// 2026-09-21.
const NOW: u64 = 1_790_000_000;
const NONCE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const SPKI_BEFORE_POINT: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const DAY: u64 = 86_400;

/// A KMS: its machine and its keys.
struct Kms {
    cvm: Arc<Cvm>,
    root: SimulatedKey,
    rpc: SimulatedKey,
    collateral: CollateralSpec,
}

fn spki(key: &SimulatedKey) -> Vec<u8> {
    [hex::decode(SPKI_BEFORE_POINT).expect("hex"), key.public_point().to_vec()].concat()
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn k256(seed: u8) -> Outcome<String> {
    Ok(hex::encode(Signer::of_secret(&[seed; 32])?.as_bytes()))
}

impl Kms {
    fn new() -> Self {
        Self::built(&Platform::from_seed(SEED), |cvm| cvm)
    }

    fn built(platform: &Arc<Platform>, with: impl FnOnce(CvmBuilder) -> CvmBuilder) -> Self {
        let cvm = Cvm::builder(platform).stage(Stage::Ready).key_provider(KeyProvider::None);
        Self {
            cvm: with(cvm).build(),
            root: SimulatedKey::derive(SEED, "root ca"),
            rpc: SimulatedKey::derive(SEED, "rpc"),
            collateral: CollateralSpec::default(),
        }
    }

    fn with(collateral: CollateralSpec) -> Self {
        Self { collateral, ..Self::new() }
    }

    fn at(level: TcbLevel) -> Self {
        Self::built(&Platform::from_seed(SEED), |cvm| cvm.tcb(level))
    }

    fn statement(&self) -> Outcome<Value> {
        let signing = SigningKey::from_seed("kms.example.com/audit".parse()?, &[7; 32])?;
        let checkpoint =
            Checkpoint::new("kms.example.com/audit".parse()?, "3".parse()?, Hash::leaf(b"a record"));
        let text = checkpoint.to_string();
        let root = json!({"ca_spki_sha256": sha256(spki(&self.root)), "k256_public_key": k256(1)?});
        Ok(json!({
            "version": 1,
            "time": NOW - 30,
            "nonce": null,
            "kms_version": "0.1.0",
            "program_sha256": sha256("a program"),
            "name": "kms.example.com",
            "endpoints": ["https://kms.example.com:8000"],
            "rpc_spki_sha256": sha256(spki(&self.rpc)),
            "root": root,
            "epochs": [{
                "epoch": 0,
                "state": "active",
                "ca_spki_sha256": sha256(spki(&self.root)),
                "k256_public_key": k256(1)?,
            }],
            "log": {
                "origin": "kms.example.com/audit",
                "key": signing.verifying_key().to_string(),
                "checkpoint": format!("{text}\n{}", signing.sign(&text)),
            },
            "policies": {"default": {"kind": "allowlist", "digest": sha256("a policy")}},
            "relaxed": [],
            "sealed": true,
        }))
    }

    /// The document over `statement`, signed by the root.
    fn answer_over(&self, statement: &str) -> Value {
        self.answer_of(statement, |_| ())
    }

    fn answer_of(&self, statement: &str, alter: impl FnOnce(&mut TdReport)) -> Value {
        let report_data = ReportData::kms_attestation(statement.as_bytes());
        let evidence = self.cvm.evidence_of(report_data, alter);
        let tdx = evidence.tdx().expect("a simulated TDX machine");
        let signature = self.root.sign_raw(&kms_attestation_by_root(&tdx.quote, statement.as_bytes()));
        json!({
            "version": 1,
            "statement": statement,
            "quote": hex::encode(&tdx.quote),
            "event_log": serde_json::to_string(&tdx.event_log).expect("events are JSON"),
            "vm_config": self.cvm.vm_config(),
            "collateral": self.cvm.platform().collateral_of(&self.collateral),
            "root": {"ca_spki": hex::encode(spki(&self.root)), "signature": hex::encode(signature)},
        })
    }

    fn answer(&self) -> Outcome<Value> {
        Ok(self.answer_over(&self.statement()?.to_string()))
    }

    /// The document with a changed statement, which the quote and the root cover.
    fn stating(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Outcome<Value> {
        let mut statement = self.statement()?;
        change(statement.as_object_mut().ok_or("not an object")?);
        Ok(self.answer_over(&statement.to_string()))
    }

    fn pins(&self) -> Value {
        json!({
            "root_ca_spki_sha256": sha256(spki(&self.root)),
            "mr_aggregated": hex::encode(self.cvm.mr_aggregated()),
        })
    }

    fn all_pins(&self) -> Outcome<Value> {
        let statement = self.statement()?;
        Ok(json!({
            "root_ca_spki_sha256": statement["root"]["ca_spki_sha256"],
            "k256_public_key": statement["root"]["k256_public_key"],
            "mr_aggregated": hex::encode(self.cvm.mr_aggregated()),
            "os_image_hash": hex::encode(self.cvm.os_image_hash()),
            "compose_hash": hex::encode(self.cvm.compose_hash()),
            "app_id": hex::encode(self.cvm.app_id()),
            "log_key": statement["log"]["key"],
            "policy_digest": statement["policies"]["default"]["digest"],
        }))
    }
}

/// One file.
struct Case(Map<String, Value>);

impl Case {
    fn new(name: &str, says: &str, answer: Value, pins: Value, expect: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("name".into(), name.into());
        fields.insert("says".into(), says.into());
        fields.insert("root".into(), "simulated".into());
        fields.insert("now".into(), NOW.into());
        fields.insert("nonce".into(), Value::Null);
        fields.insert("tcb_statuses".into(), json!(["UpToDate"]));
        fields.insert("pins".into(), pins);
        fields.insert("expect".into(), expect.into());
        fields.insert("answer".into(), answer);
        Self(fields)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// With the bytes of the document, where they are not those of a JSON object.
    fn in_text(mut self, text: impl Into<String>) -> Self {
        self.0.remove("answer");
        self.with("text", text.into())
    }
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: &str, says: &str, kms: &Kms, answer: Value, expect: &str) -> &mut Case {
        self.0.push(Case::new(name, says, answer, kms.pins(), expect));
        self.0.last_mut().expect("just added")
    }
}

impl Case {
    fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.into(), value.into());
        self
    }
}

fn changed(mut answer: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut answer);
    answer
}

/// With one byte of the quote changed.
fn quote_byte(answer: Value, at: usize) -> Value {
    changed(answer, |answer| {
        let mut quote = hex::decode(answer["quote"].as_str().expect("text")).expect("hex");
        quote[at] ^= 1;
        answer["quote"] = hex::encode(quote).into();
    })
}

/// With other events in the log.
fn events(answer: Value, change: impl FnOnce(&mut Vec<Value>)) -> Value {
    changed(answer, |answer| {
        let mut log: Vec<Value> =
            serde_json::from_str(answer["event_log"].as_str().expect("text")).expect("JSON");
        change(&mut log);
        answer["event_log"] = Value::from(log).to_string().into();
    })
}

fn good(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    cases.add("good", "Root and measurement are pinned.", &kms, kms.answer()?, "ok");
    let case = cases.add(
        "good-root-pin",
        "The root alone is pinned; its signature makes the quote its own.",
        &kms,
        kms.answer()?,
        "ok",
    );
    case.set("pins", json!({"root_ca_spki_sha256": kms.pins()["root_ca_spki_sha256"]}));
    let measured = json!({"mr_aggregated": kms.pins()["mr_aggregated"]});
    let case =
        cases.add("good-measurement-pin", "The measurement alone is pinned.", &kms, kms.answer()?, "ok");
    case.set("pins", measured.clone());
    let unsigned = changed(kms.answer()?, |answer| answer["root"] = Value::Null);
    let case = cases.add(
        "good-no-root-signature",
        "A signature of the root is needed only where the root is pinned.",
        &kms,
        unsigned,
        "ok",
    );
    case.set("pins", measured);
    cases.add("good-all-pins", "Every pin.", &kms, kms.answer()?, "ok").set("pins", kms.all_pins()?);
    let several = json!({
        "root_ca_spki_sha256": [sha256("another"), kms.pins()["root_ca_spki_sha256"]],
        "mr_aggregated": [kms.pins()["mr_aggregated"]],
    });
    cases
        .add("good-several-values", "One of several pinned values.", &kms, kms.answer()?, "ok")
        .set("pins", several);
    let fresh = kms.stating(|statement| drop(statement.insert("nonce".into(), NONCE.into())))?;
    cases
        .add("good-nonce", "The answer to a request with a nonce.", &kms, fresh.clone(), "ok")
        .set("nonce", NONCE);
    cases.add("good-nonce-not-asked", "A document with a nonce, read from a file.", &kms, fresh, "ok");
    let more =
        changed(kms.stating(|statement| drop(statement.insert("later".into(), json!([1]))))?, |answer| {
            answer["later"] = json!({"a": 1});
        });
    cases.add("good-unknown-fields", "Fields of later versions are skipped.", &kms, more, "ok");
    for (name, says, sealed) in [
        ("good-not-sealed", "Somebody may be able to log in to the machine.", json!(false)),
        (
            "good-sealed-not-known",
            "The KMS does not know whether anybody can log in to its machine.",
            Value::Null,
        ),
    ] {
        let other = kms.stating(|statement| drop(statement.insert("sealed".into(), sealed)))?;
        cases.add(name, says, &kms, other, "ok");
    }
    let bare = kms.stating(|statement| {
        statement.insert("log".into(), Value::Null);
        statement.insert("program_sha256".into(), Value::Null);
        statement.insert("policies".into(), json!({"default": {"kind": "webhook", "digest": null}}));
    })?;
    cases.add("good-nothing-optional", "No signed log, no digest of program and policy.", &kms, bare, "ok");
    let v2 = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.event_version(EventVersion::V2));
    cases.add("good-events-v2", "Events whose digest is over their canonical JSON.", &v2, v2.answer()?, "ok");
    for (name, format) in
        [("good-quote-v5-td10", QuoteFormat::V5Td10), ("good-quote-v5-td15", QuoteFormat::V5Td15)]
    {
        let kms = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.format(format));
        cases.add(name, "A quote of version 5.", &kms, kms.answer()?, "ok");
    }
    let old = Kms::at(TcbLevel::OutOfDate);
    let case = cases.add(
        "good-out-of-date-accepted",
        "The caller accepts this TCB status.",
        &old,
        old.answer()?,
        "ok",
    );
    case.set("tcb_statuses", json!(["UpToDate", "OutOfDate"]));
    let case = cases.add(
        "good-tls-key",
        "The server of the connection has the key of the statement.",
        &kms,
        kms.answer()?,
        "ok",
    );
    case.set("tls_spki", hex::encode(spki(&kms.rpc)));
    let case =
        cases.add("tls-key-other", "Another server answers at the address.", &kms, kms.answer()?, "tls_key");
    case.set("tls_spki", hex::encode(spki(&kms.root)));
    Ok(())
}

fn of_the_form(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    let text = kms.answer()?.to_string();
    for (name, says, text, expect) in [
        ("not-json", "Cut off.", text[..text.len() / 2].to_owned(), "malformed"),
        ("empty", "Nothing.", String::new(), "malformed"),
        ("a-list", "A list instead of an object.", format!("[{text}]"), "malformed"),
        ("nested-too-deep", "A hundred thousand brackets.", "[".repeat(100_000), "malformed"),
        ("trailing-text", "Text after the object.", format!("{text} {{}}"), "malformed"),
        (
            "duplicate-key",
            "Two statements in one document: which one a parser takes is chance.",
            text.replacen('{', "{\"statement\":\"{}\",", 1),
            "duplicate_key",
        ),
        (
            "duplicate-key-escaped",
            "The same with one key written in another way.",
            text.replacen('{', "{\"st\\u0061tement\":\"{}\",", 1),
            "duplicate_key",
        ),
    ] {
        let case = Case::new(name, says, Value::Null, kms.pins(), expect).in_text(text);
        cases.0.push(case);
    }
    let case =
        cases.add("too-large", "A good document, with spaces after it.", &kms, kms.answer()?, "too_large");
    case.set("padded_to", 1_048_577);
    let case = cases.add("good-at-the-limit", "The same, one byte shorter.", &kms, kms.answer()?, "ok");
    case.set("padded_to", 1_048_576);
    type Change = fn(&mut Value);
    let without: [(&str, &str, Change, &str); 8] = [
        (
            "no-quote",
            "No quote.",
            |answer| drop(answer.as_object_mut().map(|answer| answer.remove("quote"))),
            "malformed",
        ),
        (
            "quote-not-hex",
            "A quote that is not hexadecimal.",
            |answer| answer["quote"] = "zz".into(),
            "malformed",
        ),
        ("quote-a-number", "A quote that is a number.", |answer| answer["quote"] = 1.into(), "malformed"),
        (
            "version-2",
            "A version of the document that is not known.",
            |answer| answer["version"] = 2.into(),
            "unknown_version",
        ),
        ("version-text", "A version that is text.", |answer| answer["version"] = "1".into(), "malformed"),
        (
            "event-log-not-json",
            "An event log that is not JSON.",
            |answer| answer["event_log"] = "{".into(),
            "malformed",
        ),
        (
            "collateral-null",
            "No collateral.",
            |answer| answer["collateral"] = Value::Null,
            "collateral_missing",
        ),
        (
            "collateral-left-out",
            "No collateral.",
            |answer| drop(answer.as_object_mut().map(|answer| answer.remove("collateral"))),
            "collateral_missing",
        ),
    ];
    for (name, says, change, expect) in without {
        cases.add(name, says, &kms, changed(kms.answer()?, change), expect);
    }
    let later = kms.stating(|statement| drop(statement.insert("version".into(), 2.into())))?;
    cases.add(
        "statement-version-2",
        "A version of the statement that is not known.",
        &kms,
        later,
        "unknown_version",
    );
    let text = kms.statement()?.to_string();
    let twice = kms.answer_over(&text.replacen('{', "{\"sealed\":false,", 1));
    cases.add("statement-duplicate-key", "A statement that says two things.", &kms, twice, "duplicate_key");
    let list = kms.answer_over("[]");
    cases.add("statement-a-list", "A statement that is a list.", &kms, list, "malformed");
    let wrong = kms.stating(|statement| drop(statement.insert("rpc_spki_sha256".into(), "ab".into())))?;
    cases.add("statement-short-hash", "A hash that is too short.", &kms, wrong, "malformed");
    let wrong = kms.stating(|statement| {
        let upper = statement["rpc_spki_sha256"].as_str().unwrap_or_default().to_uppercase();
        statement.insert("rpc_spki_sha256".into(), upper.into());
    })?;
    cases.add(
        "statement-upper-case-hash",
        "Hexadecimal in upper case: one value has one spelling.",
        &kms,
        wrong,
        "malformed",
    );
    let without = kms.stating(|statement| drop(statement.remove("sealed")))?;
    cases.add("sealed-missing", "It is left out whether the machine is sealed.", &kms, without, "malformed");
    let text = kms.stating(|statement| drop(statement.insert("sealed".into(), "true".into())))?;
    cases.add("sealed-text", "Whether the machine is sealed is a text.", &kms, text, "malformed");
    Ok(())
}

/// The quote is at fault, or what it covers.
fn of_the_quote(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    let other = kms.stating(|statement| drop(statement.insert("sealed".into(), false.into())))?;
    let altered = changed(kms.answer()?, |answer| {
        let statement =
            answer["statement"].as_str().unwrap_or_default().replace("\"sealed\":true", "\"sealed\":false");
        answer["statement"] = statement.into();
    });
    cases.add("statement-altered", "One word of the statement was changed.", &kms, altered, "report_data");
    let spaced = changed(kms.answer()?, |answer| {
        answer["statement"] = format!("{} ", answer["statement"].as_str().unwrap_or_default()).into();
    });
    cases.add("statement-with-a-space", "The same statement in other bytes.", &kms, spaced, "report_data");
    let swapped = changed(kms.answer()?, |answer| answer["statement"] = other["statement"].clone());
    cases.add(
        "statement-of-another-answer",
        "A statement of the same KMS under another quote.",
        &kms,
        swapped,
        "report_data",
    );
    cases.add(
        "quote-report-data-altered",
        "The report data in the quote were changed.",
        &kms,
        quote_byte(kms.answer()?, 48 + 520),
        "report_data",
    );
    cases.add(
        "quote-mrtd-altered",
        "MRTD in the quote was changed.",
        &kms,
        quote_byte(kms.answer()?, 48 + 136),
        "quote",
    );
    cases.add(
        "quote-signature-altered",
        "The signature of the quote was changed.",
        &kms,
        quote_byte(kms.answer()?, 48 + 584 + 4 + 10),
        "quote",
    );
    let short = changed(kms.answer()?, |answer| {
        let quote = answer["quote"].as_str().unwrap_or_default();
        answer["quote"] = quote[..quote.len() / 4 * 2].into();
    });
    cases.add("quote-cut", "Half of the quote.", &kms, short, "quote");
    let empty = changed(kms.answer()?, |answer| answer["quote"] = "".into());
    cases.add("quote-empty", "An empty quote.", &kms, empty, "quote");
    let foreign = Kms::built(&Platform::from_seed(b"another root"), |cvm| cvm);
    cases.add(
        "quote-of-another-root",
        "Everything is genuine, under another root.",
        &foreign,
        foreign.answer()?,
        "quote",
    );

    let debug = Kms::built(&Platform::from_seed(SEED), CvmBuilder::debug);
    cases.add("debug", "A TD in debug mode.", &debug, debug.answer()?, "debug");
    for (name, says, attributes) in [
        ("sept-ve-enabled", "SEPT_VE_DISABLE is clear.", 0),
        ("migratable", "A reserved attribute, migration.", TdReport::SEPT_VE_DISABLE | 1 << 29),
        ("perfmon", "The attribute PERFMON.", TdReport::SEPT_VE_DISABLE | 1 << 63),
    ] {
        let kms = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.td_attributes(attributes));
        cases.add(name, says, &kms, kms.answer()?, "td_isolation");
    }
    let td15 = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.format(QuoteFormat::V5Td15));
    let bound = td15.answer_of(&td15.statement()?.to_string(), |report| report.mr_service_td = [1; 48]);
    cases.add("service-td", "A service TD is bound to the TD.", &td15, bound, "td_isolation");

    let renamed = events(kms.answer()?, |log| {
        for event in log.iter_mut().filter(|event| event["event"] == "compose-hash") {
            event["event_payload"] = sha256("another compose file").into();
        }
    });
    cases.add("event-altered", "The payload of an event was changed.", &kms, renamed, "event_log");
    let fewer = events(kms.answer()?, |log| log.retain(|event| event["event"] != "instance-id"));
    cases.add("event-removed", "An event was left out.", &kms, fewer, "event_log");
    let more = events(kms.answer()?, |log| {
        let mut event = log.last().cloned().unwrap_or_default();
        event["event"] = "another".into();
        log.push(event);
    });
    cases.add("event-added", "An event was added.", &kms, more, "event_log");
    let none = changed(kms.answer()?, |answer| answer["event_log"] = "[]".into());
    cases.add("event-log-empty", "No event.", &kms, none, "event_log");
    let colon = RuntimeEvent { event: "app-id:".to_owned(), payload: vec![1; 20], version: EventVersion::V1 };
    let colon = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.runtime_events(vec![colon]));
    cases.add(
        "event-with-a-colon",
        "A name with a colon, which makes its digest that of another event.",
        &colon,
        colon.answer()?,
        "event_log",
    );
    let v2 = Kms::built(&Platform::from_seed(SEED), |cvm| cvm.event_version(EventVersion::V2));
    let wrong = events(v2.answer()?, |log| {
        for event in log.iter_mut().filter(|event| event["event"] == "compose-hash") {
            event["preimage"] = hex::encode("{}").into();
        }
    });
    cases.add("event-v2-other-preimage", "An event whose preimage is not its own.", &v2, wrong, "event_log");
    Ok(())
}

fn of_the_platform(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    let past = Validity::new(NOW - 40 * DAY, NOW - 10 * DAY);
    let default = CollateralSpec::default;
    for (name, says, spec) in [
        ("collateral-expired", "All documents of the collateral have expired.", CollateralSpec::valid(past)),
        (
            "collateral-tcb-info-expired",
            "TCB info has expired.",
            CollateralSpec { tcb_info: past, ..default() },
        ),
        (
            "collateral-qe-identity-expired",
            "QE identity has expired.",
            CollateralSpec { qe_identity: past, ..default() },
        ),
        ("collateral-crls-expired", "The CRLs have expired.", CollateralSpec { crls: past, ..default() }),
        (
            "collateral-of-the-future",
            "TCB info is issued tomorrow.",
            CollateralSpec { tcb_info: Validity::new(NOW + DAY, NOW + 30 * DAY), ..default() },
        ),
    ] {
        let kms = Kms::with(spec);
        cases.add(name, says, &kms, kms.answer()?, "collateral_expired");
    }
    let model = Platform::new(&PlatformSpec { fmspc: *b"OTHER\0", ..PlatformSpec::from_seed(SEED) });
    let other = changed(kms.answer()?, |answer| answer["collateral"] = json!(model.collateral()));
    cases.add(
        "collateral-of-another-model",
        "Collateral of another model under the same root.",
        &kms,
        other,
        "collateral_mismatch",
    );
    let forged = changed(kms.answer()?, |answer| {
        let text = answer["collateral"]["tcb_info"].as_str().unwrap_or_default();
        answer["collateral"]["tcb_info"] = text.replace("OutOfDate", "UpToDate").into();
    });
    cases.add(
        "collateral-altered",
        "TCB info was changed, so its signature is wrong.",
        &kms,
        forged,
        "quote",
    );
    for (name, says, revoked) in [
        ("pck-revoked", "The PCK certificate is revoked.", Revocation::Pck),
        ("pck-ca-revoked", "The CA of the PCK certificate is revoked.", Revocation::PckCa),
        ("tcb-signer-revoked", "The signer of TCB info is revoked.", Revocation::TcbSigner),
    ] {
        let kms = Kms::with(CollateralSpec { revoked: vec![revoked], ..default() });
        cases.add(name, says, &kms, kms.answer()?, "quote");
    }
    for (name, level) in [
        ("tcb-out-of-date", TcbLevel::OutOfDate),
        ("tcb-sw-hardening-needed", TcbLevel::SwHardeningNeeded),
        ("tcb-configuration-needed", TcbLevel::ConfigurationNeeded),
        ("tcb-revoked", TcbLevel::Revoked),
        ("tcb-unlisted", TcbLevel::Unlisted),
    ] {
        let kms = Kms::at(level);
        cases.add(name, &format!("The platform is {level}."), &kms, kms.answer()?, "tcb_status");
    }
    let recovered = Kms::with(CollateralSpec::after_tcb_recovery(TcbLevel::OutOfDate));
    cases.add(
        "tcb-recovery",
        "Intel found a fault after the KMS started.",
        &recovered,
        recovered.answer()?,
        "tcb_status",
    );
    let qe = Kms::with(CollateralSpec { qe: Standing::of(TcbLevel::OutOfDate), ..default() });
    cases.add("tcb-qe-out-of-date", "The quoting enclave is out of date.", &qe, qe.answer()?, "tcb_status");
    let revoked = Kms::at(TcbLevel::Revoked);
    let case = cases.add(
        "tcb-revoked-accepted",
        "Revoked is accepted by nobody.",
        &revoked,
        revoked.answer()?,
        "tcb_status",
    );
    case.set("tcb_statuses", json!(["UpToDate", "Revoked"]));
    Ok(())
}

fn of_the_caller(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    let other = kms.stating(|statement| drop(statement.insert("name".into(), "other.example.com".into())))?;
    type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let signatures: [(&str, &str, Change<'_>); 4] = [
        (
            "root-signature-missing",
            "The root is pinned, and has not signed.",
            Box::new(|answer| answer["root"] = Value::Null),
        ),
        (
            "root-signature-of-another-quote",
            "A signature over another quote.",
            Box::new(|answer| answer["root"] = other["root"].clone()),
        ),
        (
            "root-signature-zero",
            "A signature of zero bytes.",
            Box::new(|answer| answer["root"]["signature"] = "00".repeat(64).into()),
        ),
        (
            "root-signature-by-another-key",
            "The signer is another key than the root of the statement.",
            Box::new(|answer| answer["root"]["ca_spki"] = hex::encode(spki(&kms.rpc)).into()),
        ),
    ];
    for (name, says, change) in signatures {
        cases.add(name, says, &kms, changed(kms.answer()?, change), "root_signature");
    }
    let impostor = Kms { root: SimulatedKey::derive(SEED, "another root ca"), ..Kms::new() };
    let claims = kms.statement()?.to_string();
    cases.add(
        "root-signature-of-an-impostor",
        "Another KMS states the pinned root, and signs with its own.",
        &kms,
        impostor.answer_over(&claims),
        "root_signature",
    );

    let fresh = kms.stating(|statement| drop(statement.insert("nonce".into(), "11".repeat(32).into())))?;
    cases.add("nonce-other", "The answer to another request.", &kms, fresh, "nonce").set("nonce", NONCE);
    cases
        .add("nonce-missing", "A document without the nonce of the request.", &kms, kms.answer()?, "nonce")
        .set("nonce", NONCE);
    for (name, says, time, expect) in [
        ("time-old", "Older than ten minutes.", NOW - 601, "time"),
        ("good-time-old", "Ten minutes old.", NOW - 600, "ok"),
        ("time-future", "More than five minutes ahead.", NOW + 301, "time"),
        ("good-time-ahead", "Five minutes ahead.", NOW + 300, "ok"),
    ] {
        let answer = kms.stating(|statement| drop(statement.insert("time".into(), time.into())))?;
        cases.add(name, says, &kms, answer, expect);
    }

    let all = kms.all_pins()?;
    for (pin, value) in all.as_object().ok_or("not an object")? {
        let value = value.as_str().ok_or("not text")?;
        let other = match pin.as_str() {
            "k256_public_key" => k256(2)?,
            "log_key" => value.replace("kms.example.com", "kms.example.org"),
            _ => value.chars().rev().collect(),
        };
        let name = format!("pin-{}", pin.replace('_', "-"));
        let case = cases.add(&name, "Another value is pinned.", &kms, kms.answer()?, "pin_mismatch");
        let mut pins = all.clone();
        pins[pin] = other.into();
        case.set("pins", pins).set("pin", pin.as_str());
    }
    let bare = kms.stating(|statement| drop(statement.insert("log".into(), Value::Null)))?;
    let case = cases.add(
        "pin-log-key-missing",
        "The key of a log is pinned, and there is no log.",
        &kms,
        bare,
        "pin_mismatch",
    );
    case.set("pins", all.clone()).set("pin", "log_key");
    for (name, says, pins, expect) in [
        ("no-pin", "Nothing is pinned.", json!({}), "no_pin"),
        (
            "no-sufficient-pin",
            "What anyone's KMS can have is pinned.",
            json!({"os_image_hash": all["os_image_hash"], "compose_hash": all["compose_hash"], "app_id": all["app_id"], "k256_public_key": all["k256_public_key"]}),
            "no_pin",
        ),
        (
            "pins-unknown-key",
            "A key that is misspelt must not count as no pin.",
            json!({"root_ca_spki": "00"}),
            "bad_pins",
        ),
        ("pins-short-value", "A value that is too short.", json!({"mr_aggregated": "ab"}), "bad_pins"),
        (
            "pins-upper-case",
            "Hexadecimal in upper case.",
            json!({"mr_aggregated": "AB".repeat(32)}),
            "bad_pins",
        ),
        ("pins-empty-list", "An empty list.", json!({"mr_aggregated": []}), "bad_pins"),
        ("pins-a-number", "A number.", json!({"mr_aggregated": 7}), "bad_pins"),
        ("pins-a-list", "A list instead of an object.", json!([]), "bad_pins"),
    ] {
        cases.add(name, says, &kms, kms.answer()?, expect).set("pins", pins);
    }
    Ok(())
}

/// Recorded quotes of real hardware (`tests/vectors/README.md` has their origin), which are over other things.
fn recorded(cases: &mut Cases) -> Outcome {
    let kms = Kms::new();
    let fixtures = Path::new("tests/vectors/fixtures/dcap-qvl");
    for (name, says, quote, expect) in [
        (
            "real-quote-of-other-data",
            "A genuine quote of a real CVM, which is not over the statement.",
            "tdx_quote",
            "report_data",
        ),
        ("real-sgx-quote", "A genuine quote of an SGX enclave.", "sgx_quote", "quote"),
    ] {
        let bytes = fs::read(fixtures.join(format!("{quote}.bin")))?;
        let collateral: Value =
            serde_json::from_slice(&fs::read(fixtures.join(format!("{quote}_collateral.json")))?)?;
        let answer = changed(kms.answer()?, |answer| {
            answer["quote"] = hex::encode(bytes).into();
            answer["collateral"] = collateral;
        });
        cases.add(name, says, &kms, answer, expect).set("root", "intel").set("now", 1_751_000_000);
    }
    Ok(())
}

fn main() -> Outcome {
    let directory = Path::new(DIRECTORY);
    if !directory.is_dir() {
        return Err("run this in the directory of the repository".into());
    }
    let mut cases = Cases(Vec::new());
    good(&mut cases)?;
    of_the_form(&mut cases)?;
    of_the_quote(&mut cases)?;
    of_the_platform(&mut cases)?;
    of_the_caller(&mut cases)?;
    recorded(&mut cases)?;
    let platform = Platform::from_seed(SEED);
    fs::write(directory.join("root.der"), platform.root_der())?;
    fs::write(directory.join("root.pem"), platform.root_pem())?;
    for Case(fields) in cases.0 {
        let name = fields["name"].as_str().ok_or("no name")?.to_owned();
        let mut text = serde_json::to_string_pretty(&Value::Object(fields))?;
        text.push('\n');
        fs::write(directory.join(format!("{name}.json")), text)?;
    }
    Ok(())
}
