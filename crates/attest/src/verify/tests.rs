//! Attestations of the vectors with the peer's results, and each refusal with its message.

use super::*;
use crate::collateral::testing::{NOW, bytes_of, collateral_set, json, mock_anchors, other_anchors};
use crate::measurement::{RuntimeEvent, TdxEvent};

fn blob(name: &str) -> Evidence {
    let vectors = json("attestation.json");
    let blobs = vectors["blobs"].as_array().unwrap();
    let blob = blobs.iter().find(|blob| blob["name"] == name).unwrap_or_else(|| panic!("{name}"));
    Evidence::decode(&bytes_of(&blob["bytes"])).unwrap()
}

fn verified(evidence: &Evidence) -> Result<Verified, VerifyError> {
    verify(evidence, Binding::SelfReported, &collateral_set("good"), &mock_anchors(), NOW)
}

fn refusal(evidence: &Evidence) -> String {
    verified(evidence).unwrap_err().to_string()
}

#[test]
fn what_was_verified_is_what_was_sent() {
    let evidence = blob("mock-tdx-v0");
    let verified = verified(&evidence).unwrap();
    assert_eq!(verified.evidence(), &evidence);
    assert_eq!(*verified.report_data(), evidence.report_data().unwrap());
    assert_eq!(verified.tcb_status(), "UpToDate");
    assert!(verified.advisory_ids().is_empty());
    assert_eq!(verified.ppid(), [0; 16]);
    assert_eq!(verified.fmspc(), [0; 6]);
    assert_eq!(verified.collateral_expires(), collateral_set("good").expires());
    assert_eq!(verified.td(), verified.quote().td());
}

#[test]
fn evidence_is_bound_to_what_the_caller_demands() {
    let vectors = json("certs.json");
    let certificate = &vectors["client_certificates"][0];
    let der = bytes_of(&certificate["der"]);
    let evidence = crate::ra_tls::evidence_in(&der).unwrap().unwrap();
    let spki = crate::ra_tls::spki_of(&der).unwrap();
    let (collateral, anchors) = (collateral_set("good"), mock_anchors());
    let bind = |binding| verify(&evidence, binding, &collateral, &anchors, NOW);
    assert!(bind(Binding::PublicKey(&spki)).is_ok());
    let report_data = ReportData::ra_tls(&spki);
    assert!(bind(Binding::ReportData(&report_data)).is_ok());
    assert!(bind(Binding::SelfReported).is_ok());

    let mut other_key = spki.clone();
    *other_key.last_mut().unwrap() ^= 1;
    let other_data = ReportData([1; 64]);
    for binding in [Binding::PublicKey(&other_key), Binding::ReportData(&other_data), Binding::PublicKey(b"")]
    {
        assert_eq!(bind(binding).unwrap_err().to_string(), "report data mismatch");
    }
}

#[test]
fn rewriting_the_stacks_report_data_is_caught_by_the_quote() {
    let mut evidence = blob("mock-tdx-v0");
    evidence.stack.report_data = vec![7; 64];
    let bound = ReportData([7; 64]);
    let result =
        verify(&evidence, Binding::ReportData(&bound), &collateral_set("good"), &mock_anchors(), NOW);
    assert_eq!(result.unwrap_err().to_string(), "tdx report_data mismatch");
    evidence.stack.report_data.pop();
    assert_eq!(refusal(&evidence), "stack.report_data must be 64 bytes, got 63");
}

#[test]
fn runtime_events_must_replay_to_rtmr3() {
    let good = blob("mock-tdx-v0");
    type Spoil = fn(&mut Vec<RuntimeEvent>);
    let cases: [(&str, Spoil); 5] = [
        ("none", |events| events.clear()),
        ("one less", |events| drop(events.pop())),
        ("swapped", |events| events.swap(0, 1)),
        ("other payload", |events| events[1].payload[0] ^= 1),
        ("other version", |events| events[0].version = EventVersion::V2),
    ];
    for (case, spoil) in cases {
        let mut evidence = good.clone();
        spoil(&mut evidence.stack.runtime_events);
        let quoted = hex::encode(verified(&good).unwrap().td().quoted.rt_mr3);
        let expected = format!("RTMR3 mismatch, quoted: {quoted}, replayed: ");
        assert!(refusal(&evidence).starts_with(&expected), "{case}");
    }
}

#[test]
fn identity_does_not_come_from_the_event_log() {
    let mut evidence = blob("mock-tdx-v0");
    let before = verified(&evidence).unwrap().identity(Registers::RunTime, "").unwrap();
    let Platform::Tdx(tdx) = &mut evidence.platform else { panic!() };
    for event in &mut tdx.event_log {
        event.event_payload = vec![9; 20];
    }
    let after = verified(&evidence).unwrap().identity(Registers::RunTime, "").unwrap();
    assert_eq!(before, after);
}

/// Alters one entry of an event log.
type Spoil = fn(&mut TdxEvent);

fn log_of(evidence: &mut Evidence) -> &mut Vec<TdxEvent> {
    let Platform::Tdx(tdx) = &mut evidence.platform else { panic!() };
    &mut tdx.event_log
}

fn v2_entries(evidence: &Evidence) -> Vec<usize> {
    let log = evidence.tdx().unwrap().event_log.iter().enumerate();
    log.filter(|(_, event)| event.is_runtime() && event.version == EventVersion::V2)
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn v2_events_pass_with_their_preimages_and_stripped_for_a_certificate() {
    let whole = blob("mock-tdx-v1-v2events-with-preimages");
    assert!(verified(&whole).is_ok());
    // Stripped like the peer does: without digest, with preimage.
    let stripped = whole.stripped();
    assert!(!v2_entries(&stripped).is_empty());
    assert!(log_of(&mut stripped.clone()).iter().all(|event| event.digest.is_empty() || event.imr != 3));
    assert!(verified(&stripped).is_ok());
    // As in a guest's request for its keys: without preimages.
    let mut bare = stripped.clone();
    log_of(&mut bare).iter_mut().for_each(|event| event.preimage = None);
    assert!(verified(&bare).is_ok());
}

#[test]
fn each_v2_event_that_was_altered_is_refused_whole_and_stripped() {
    let whole = blob("mock-tdx-v1-v2events-with-preimages");
    let stripped = whole.stripped();
    let mut bare = stripped.clone();
    log_of(&mut bare).iter_mut().for_each(|event| event.preimage = None);
    let not_replayed = "has no digest and is not among the events that replay to the register";
    let not_canonical = "preimage is not the canonical event representation";
    let (not_hex, missing) = ("is not hex", "is missing its digest preimage");
    let mismatch = "digest does not match its preimage";
    let cases: [(&str, Spoil, [Option<&str>; 3]); 8] = [
        (
            "another name",
            |e| e.event.push('x'),
            [Some(not_canonical), Some(not_replayed), Some(not_replayed)],
        ),
        (
            "another payload",
            |e| e.event_payload.push(1),
            [Some(not_canonical), Some(not_replayed), Some(not_replayed)],
        ),
        ("no preimage", |e| e.preimage = None, [Some(missing), None, None]),
        ("not hex", |e| e.preimage = Some("zz".into()), [Some(not_hex); 3]),
        ("a preimage of nothing", |e| e.preimage = Some(String::new()), {
            [Some(mismatch), Some(not_canonical), Some(not_canonical)]
        }),
        (
            "a preimage of another text",
            |e| e.preimage = Some(hex::encode(r#"{"name":"app-id","payload":"00","type":134217729}"#)),
            [Some(mismatch), Some(not_canonical), Some(not_canonical)],
        ),
        ("another digest", |e| e.digest = vec![1; 48], [Some(mismatch), Some(mismatch), Some(missing)]),
        // The result is a stripped event with its preimage.
        ("no digest", |e| e.digest.clear(), [None, None, None]),
    ];
    for (form, (name, good)) in
        [("whole", &whole), ("stripped", &stripped), ("bare", &bare)].iter().enumerate()
    {
        let entries = v2_entries(good);
        assert!(entries.len() >= 5, "{name}: {entries:?}");
        for (case, spoil, expected) in &cases {
            for index in &entries {
                let mut evidence = Evidence::clone(good);
                spoil(&mut log_of(&mut evidence)[*index]);
                match (verified(&evidence), expected[form]) {
                    (Ok(_), None) => {}
                    (Err(error), Some(text)) => {
                        let found = error.to_string();
                        assert!(found.starts_with("failed to validate TDX V2 event digest preimages: "));
                        assert!(
                            found.ends_with(&format!("V2 runtime event {index} {text}")),
                            "{name}: {case}: {found}"
                        );
                    }
                    (outcome, _) => panic!("{name}: {case}: {outcome:?}"),
                }
            }
        }
    }
}

#[test]
fn a_stripped_log_has_the_events_that_were_replayed_in_their_order() {
    let good = blob("mock-tdx-v1-v2events-with-preimages").stripped();
    let last = *v2_entries(&good).last().unwrap();
    type Alter = fn(&mut Vec<TdxEvent>, usize);
    let cases: [(&str, Alter); 4] = [
        ("swapped", |log, last| log.swap(last - 1, last)),
        ("repeated", |log, last| log.insert(last, log[last].clone())),
        ("one missing", |log, last| drop(log.remove(last - 1))),
        ("one more", |log, last| {
            let (event, preimage) = ("app-id".to_owned(), None);
            log.push(TdxEvent { event, preimage, ..log[last].clone() });
        }),
    ];
    for (case, alter) in cases {
        let mut evidence = good.clone();
        alter(log_of(&mut evidence), last);
        assert!(refusal(&evidence).contains("is not among the events that replay"), "{case}");
    }
    let mut evidence = good.clone();
    log_of(&mut evidence).truncate(last);
    assert!(refusal(&evidence).contains("replay to the register"));
    // A log without runtime events is accepted, as in the peer.
    log_of(&mut evidence).clear();
    assert!(verified(&evidence).is_ok());
}

/// The entry as the guest agent would write it: with the digest and preimage of its name and payload.
fn sealed(entry: &mut TdxEvent) {
    let (event, payload, version) = (entry.event.clone(), entry.event_payload.clone(), entry.version);
    let event = RuntimeEvent { event, payload, version };
    let was_stripped = entry.digest.is_empty();
    let with_preimage = entry.preimage.is_some();
    let imr = entry.imr;
    *entry = match with_preimage {
        true => event.to_tdx_event_with_preimage(),
        false => event.to_tdx_event(),
    };
    entry.imr = imr;
    if was_stripped {
        entry.digest.clear();
    }
}

#[test]
fn no_runtime_event_of_a_v2_log_differs_from_what_was_replayed() {
    type Alter = fn(&mut Vec<TdxEvent>, usize);
    let cases: [(&str, Alter); 12] = [
        ("name", |log, index| log[index].event.push('x')),
        ("name of another event", |log, index| {
            let other = if log[index].event == "app-id" { "compose-hash" } else { "app-id" };
            log[index].event = other.into();
        }),
        ("longer payload", |log, index| log[index].event_payload.push(1)),
        ("no payload", |log, index| log[index].event_payload = b"\0other".to_vec()),
        ("digest", |log, index| log[index].digest = vec![1; 48]),
        ("short digest", |log, index| log[index].digest = vec![1]),
        ("preimage", |log, index| log[index].preimage = Some("00".into())),
        ("version", |log, index| {
            log[index].version = match log[index].version {
                EventVersion::V1 => EventVersion::V2,
                EventVersion::V2 => EventVersion::V1,
            };
        }),
        ("register", |log, index| log[index].imr = 1),
        ("type", |log, index| log[index].event_type = 1),
        ("twice", |log, index| log.insert(index, log[index].clone())),
        ("missing", |log, index| drop(log.remove(index))),
    ];
    let whole = blob("mock-tdx-v1-v2events-with-preimages");
    let stripped = whole.stripped();
    let mut bare = stripped.clone();
    log_of(&mut bare).iter_mut().for_each(|event| event.preimage = None);
    for (form, good) in [("whole", &whole), ("stripped", &stripped), ("bare", &bare)] {
        assert!(verified(good).is_ok(), "{form}");
        let log = &good.tdx().unwrap().event_log;
        let runtime: Vec<usize> = (0..log.len()).filter(|index| log[*index].is_runtime()).collect();
        assert!(runtime.len() >= 5, "{form}");
        for index in runtime.iter().copied() {
            for (case, alter) in &cases {
                // Unsealed, and with a digest and preimage that match the alteration.
                let keeps_digest = ["digest", "short digest", "preimage"].contains(case);
                for seal in [false, true].into_iter().filter(|seal| !(*seal && keeps_digest)) {
                    let mut evidence = Evidence::clone(good);
                    let log = log_of(&mut evidence);
                    alter(log, index);
                    if seal {
                        log.iter_mut().filter(|entry| entry.is_runtime()).for_each(sealed);
                    }
                    let outcome = verified(&evidence);
                    assert!(
                        matches!(outcome, Err(VerifyError::Preimages(_))),
                        "{form}: event {index}: {case}, sealed {seal}: {:?}",
                        outcome.map(drop)
                    );
                }
            }
            for other in runtime.iter().copied().filter(|other| log[*other] != log[index]) {
                let mut evidence = Evidence::clone(good);
                log_of(&mut evidence).swap(index, other);
                assert!(verified(&evidence).is_err(), "{form}: {index} for {other}");
            }
        }
    }
}

#[test]
fn the_stage_is_what_was_replayed() {
    let mut evidence = blob("mock-tdx-v0");
    let events = evidence.stack.runtime_events.clone();
    assert_eq!(Stage::of(&[]), Stage::Boot);
    for end in 0..=events.len() {
        let ready = events[..end].iter().any(|event| event.event == SYSTEM_READY);
        let expected = if ready { Stage::Running } else { Stage::Boot };
        assert_eq!(Stage::of(&events[..end]), expected, "{end}");
    }
    assert_eq!(verified(&evidence).unwrap().stage(), Stage::of(&events));
    // Evidence that omits or renames the event does not verify.
    let ready = events.iter().position(|event| event.event == SYSTEM_READY);
    if let Some(ready) = ready {
        evidence.stack.runtime_events.remove(ready);
        assert!(refusal(&evidence).starts_with("RTMR3 mismatch"));
    }
}

#[test]
fn a_pods_payload_makes_its_report_data() {
    let mut evidence = blob("mock-tdx-v1-pod");
    assert!(verified(&evidence).is_ok());
    evidence.stack.report_data_payload.as_mut().unwrap().push(' ');
    assert_eq!(refusal(&evidence), "report_data does not match report_data_payload");
}

#[test]
fn other_platforms_are_refused_by_name() {
    let cases = [
        ("synthetic-gcp-tdx-v1", "gcp-tdx"),
        ("synthetic-aws-nitro-tpm-v1", "aws-nitro-tpm"),
        ("synthetic-nitro-enclave-v0", "nitro-enclave"),
        ("synthetic-sev-snp-v1", "sev-snp"),
    ];
    for (name, kind) in cases {
        let expected = format!("verification of {kind} evidence is not supported");
        assert_eq!(refusal(&blob(name)), expected);
    }
}

#[test]
fn the_quotes_refusal_is_passed_on() {
    let evidence = blob("mock-tdx-v0");
    let at = |collateral: &str, anchors: &TrustAnchors, now| {
        verify(&evidence, Binding::SelfReported, &collateral_set(collateral), anchors, now)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        at("platform-revoked", &mock_anchors(), NOW),
        "failed to verify TDX quote: TCB status is invalid: Revoked"
    );
    assert_eq!(at("short-validity", &mock_anchors(), NOW), "failed to verify TDX quote: TCBInfo expired");
    assert!(at("good", &other_anchors(), NOW).starts_with("failed to verify TDX quote: "));
}

#[test]
fn a_status_other_than_revoked_is_for_the_policy() {
    let evidence = blob("mock-tdx-v0");
    let outdated = collateral_set("both");
    let verified = verify(&evidence, Binding::SelfReported, &outdated, &mock_anchors(), NOW).unwrap();
    let identity = verified.identity(Registers::RunTime, "").unwrap();
    assert_eq!(identity.tcb_status.to_string(), "OutOfDate");
    assert_eq!(identity.advisory_ids, ["INTEL-SA-00001", "INTEL-SA-00010", "INTEL-SA-00011"]);
}

#[test]
fn evidence_without_an_app_id_has_no_identity() {
    let evidence = blob("mock-tdx-v0");
    let mut nameless = verified(&evidence).unwrap();
    Arc::make_mut(&mut nameless.evidence).stack.runtime_events.clear();
    let error = nameless.identity(Registers::RunTime, "").unwrap_err();
    assert_eq!(error.to_string(), "app_id must be 20 bytes, got 0");
}

mod with_a_cache {
    use super::*;
    use crate::collateral::testing::{Server, normal_routes};
    use crate::collateral::{CacheOptions, Clock};

    async fn verifier(server: &Server) -> Verifier {
        let options = CacheOptions { clock: Clock::fixed(NOW), ..CacheOptions::default() };
        let cache = CollateralCache::new(&[&server.base], &mock_anchors(), options).unwrap();
        Verifier::new(mock_anchors(), cache)
    }

    #[tokio::test]
    async fn the_first_verification_fetches_and_the_next_does_not() {
        let server = Server::start(normal_routes()).await;
        let verifier = verifier(&server).await;
        let evidence = blob("mock-tdx-v0");
        for _ in 0..3 {
            assert!(verifier.verify(&evidence, Binding::SelfReported).await.is_ok());
        }
        assert_eq!(server.requests().len(), 4);
    }

    #[tokio::test]
    async fn evidence_that_is_not_bound_causes_no_request() {
        let server = Server::start(normal_routes()).await;
        let verifier = verifier(&server).await;
        let error = verifier.verify(&blob("mock-tdx-v0"), Binding::PublicKey(b"key")).await.unwrap_err();
        assert!(!error.is_unavailable());
        let error = verifier.verify(&blob("synthetic-sev-snp-v1"), Binding::SelfReported).await.unwrap_err();
        assert!(!error.is_unavailable());
        assert!(server.requests().is_empty());
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_verifies_nothing_for_a_reason_of_its_own() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        let server = Server::start(normal_routes()).await;
        let time = Arc::new(AtomicU64::new(NOW));
        let told = Arc::clone(&time);
        let clock = Clock::from_fn(move || told.load(Ordering::Relaxed));
        let options = CacheOptions { clock: clock.clone(), ..CacheOptions::default() };
        let cache = CollateralCache::new(&[&server.base], &mock_anchors(), options).unwrap();
        let verifier = Verifier::new(mock_anchors(), cache);
        let evidence = blob("mock-tdx-v0");
        assert!(verifier.verify(&evidence, Binding::SelfReported).await.is_ok());
        clock.floor().raise(NOW);
        // All collateral is still cached, and valid at both times.
        time.store(NOW - crate::clock_floor::MAX_BEHIND, Ordering::Relaxed);
        assert!(verifier.verify(&evidence, Binding::SelfReported).await.is_ok());
        time.store(NOW - crate::clock_floor::MAX_BEHIND - 1, Ordering::Relaxed);
        let error = verifier.verify(&evidence, Binding::SelfReported).await.unwrap_err();
        assert!(matches!(error, VerifyError::Clock(ClockBehind { seconds: 301 })), "{error}");
        assert!(error.is_unavailable(), "nothing is known about the evidence");
        time.store(NOW, Ordering::Relaxed);
        assert!(verifier.verify(&evidence, Binding::SelfReported).await.is_ok());
    }

    #[tokio::test]
    async fn collateral_from_after_now_says_that_the_clock_is_behind() {
        let server = Server::start(normal_routes()).await;
        let options = CacheOptions { clock: Clock::fixed(1_577_850_000), ..CacheOptions::default() };
        let cache = CollateralCache::new(&[&server.base], &mock_anchors(), options).unwrap();
        let verifier = Verifier::new(mock_anchors(), cache);
        let error = verifier.verify(&blob("mock-tdx-v0"), Binding::SelfReported).await.unwrap_err();
        assert!(matches!(error, VerifyError::Clock(_)), "{error}");
    }

    #[tokio::test]
    async fn missing_collateral_is_no_refusal() {
        let server = Server::start(Default::default()).await;
        let verifier = verifier(&server).await;
        let error = verifier.verify(&blob("mock-tdx-v0"), Binding::SelfReported).await.unwrap_err();
        assert!(error.is_unavailable());
        assert_eq!(
            error.to_string(),
            "collateral for the platform of this quote is not available at the moment"
        );
    }
}
