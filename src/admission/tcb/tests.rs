//! Each kind of tolerance by itself, and together.

use std::time::Duration;

use kms_attest::tcb::TcbGap;

use super::*;
use crate::config::Grace;

const RECOVERY: u64 = 1_790_812_800;
const DAY: u64 = 86_400;
const FMSPC: [u8; 6] = *b"SIM\0\0\0";

/// What real collateral says of a platform one recovery behind, with another date.
fn gap(status: &str, advisories: &[&str], newest: &[&str]) -> Option<TcbGap> {
    lag_with_qe("UpToDate", status, advisories, newest)
}

/// The same with a quoting enclave behind since 2024, which no update settles.
fn lag_with_qe(qe: &str, status: &str, advisories: &[&str], newest: &[&str]) -> Option<TcbGap> {
    let level = |svn: u8, date: &str, status: &str, advisories: &[&str]| {
        let components = |svn| vec![serde_json::json!({ "svn": svn }); 16];
        serde_json::json!({
            "tcb": { "sgxtcbcomponents": components(svn), "pcesvn": 1, "tdxtcbcomponents": components(0) },
            "tcbDate": date, "tcbStatus": status, "advisoryIDs": advisories,
        })
    };
    let tcb_info = serde_json::json!({
        "id": "TDX", "version": 3, "issueDate": "2026-10-01T00:00:00Z", "nextUpdate": "2026-11-01T00:00:00Z",
        "fmspc": hex::encode(FMSPC), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 1,
        "tcbLevels": [
            level(2, "2026-10-01T00:00:00Z", "UpToDate", newest),
            level(1, "2025-01-01T00:00:00Z", status, advisories),
        ],
    });
    let qe_identity = serde_json::json!({
        "id": "TD_QE", "version": 2, "issueDate": "2026-10-01T00:00:00Z", "nextUpdate": "2026-11-01T00:00:00Z",
        "tcbEvaluationDataNumber": 1, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "00".repeat(16), "attributesMask": "00".repeat(16), "mrsigner": "00".repeat(32),
        "isvprodid": 2, "tcbLevels": [{
            "tcb": { "isvsvn": 1 }, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": qe,
        }],
    });
    let platform = kms_attest::tcb::PlatformTcb {
        model: kms_attest::collateral::PlatformKey {
            fmspc: FMSPC,
            ca: kms_attest::collateral::CaKind::Platform,
        },
        cpu_svn: [1; 16],
        pce_svn: 1,
        tee_tcb_svn: [0; 16],
        tee_tcb_svn2: None,
        qe_isv_svn: 1,
    };
    TcbGap::read(&platform, TcbStatus::OutOfDate, &tcb_info.to_string(), &qe_identity.to_string())
}

/// A platform and a quoting enclave by themselves, and what Intel makes of both.
fn both(platform: &str, qe: &str, verdict: TcbStatus) -> (TcbVerdict, Identity) {
    let gap = lag_with_qe(qe, platform, &[], &[]);
    let identity = Identity { tcb_status: verdict, ..Identity::example() };
    (TcbVerdict { status: verdict, advisory_ids: Vec::new(), fmspc: FMSPC, gap }, identity)
}

/// An identity on a platform with a status and advisories, and what Intel says of it.
fn measured(status: TcbStatus, advisories: &[&str], newest: &[&str]) -> (TcbVerdict, Identity) {
    let advisory_ids: Vec<String> = advisories.iter().map(|id| (*id).to_owned()).collect();
    let gap = gap(&status.to_string(), advisories, newest);
    let identity = Identity { tcb_status: status, advisory_ids: advisory_ids.clone(), ..Identity::example() };
    (TcbVerdict { status, advisory_ids, fmspc: FMSPC, gap }, identity)
}

fn tolerance(text: &str, now: u64) -> TcbTolerance {
    let (config, _) = crate::config::Config::from_toml(&format!("core.tcb = {text}")).expect("valid");
    TcbTolerance::new(config.core.tcb, Clock::fixed(now), Arc::new(Metrics::new([])))
}

/// Status, advisories and relaxations after `core.tcb` was applied.
fn applied(text: &str, now: u64, measured: &(TcbVerdict, Identity)) -> (String, Vec<String>, Vec<String>) {
    let tolerated = tolerance(text, now).apply(&measured.0, &measured.1);
    let told = tolerated.told;
    let (status, advisories) = (told.tcb_status.clone(), told.advisory_ids.clone());
    let measured = BootInfo::from(&measured.1);
    let unchanged = BootInfo {
        tcb_status: measured.tcb_status.clone(),
        advisory_ids: measured.advisory_ids.clone(),
        ..told
    };
    assert_eq!(unchanged, measured, "nothing else changes");
    (status, advisories, tolerated.relaxations.0)
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn without_tolerance_policy_is_told_what_was_measured() {
    for status in kms_attest::tcb::TOLERABLE {
        let measured = measured(status, &["INTEL-SA-00837"], &[]);
        let tolerated = tolerance("{}", RECOVERY).apply(&measured.0, &measured.1);
        assert_eq!(tolerated.told, BootInfo::from(&measured.1), "{status}");
        assert!(tolerated.relaxations.is_empty(), "{status}");
    }
    let fine = measured(TcbStatus::UpToDate, &[], &[]);
    let everything =
        "{ grace = { OutOfDate = '60d' }, advisories = ['INTEL-SA-00837'], fmspcs = ['53494d000000'] }";
    assert_eq!(applied(everything, RECOVERY, &fine), ("UpToDate".into(), vec![], vec![]));
}

#[test]
fn a_grace_counts_from_the_recovery_and_covers_what_an_update_settles() {
    let behind = measured(TcbStatus::OutOfDate, &["INTEL-SA-00837", "INTEL-SA-00960"], &["INTEL-SA-00960"]);
    let grace = "{ grace = { OutOfDate = '15d' } }";
    for (now, is_within) in [(0, true), (RECOVERY + 15 * DAY, true), (RECOVERY + 15 * DAY + 1, false)] {
        let (status, advisories, relaxations) = applied(grace, now, &behind);
        match is_within {
            true => {
                assert_eq!(status, "UpToDate");
                assert_eq!(advisories, ["INTEL-SA-00960"], "an update does not settle it");
                assert_eq!(relaxations, ["tcb_grace:OutOfDate"]);
            }
            false => assert_eq!((status.as_str(), advisories.len(), relaxations.len()), ("OutOfDate", 2, 0)),
        }
    }
    let other = measured(TcbStatus::OutOfDateConfigurationNeeded, &[], &[]);
    assert_eq!(applied(grace, RECOVERY, &other).0, "OutOfDateConfigurationNeeded");
    let (mut verdict, identity) = measured(TcbStatus::OutOfDate, &[], &[]);
    verdict.gap = None;
    assert_eq!(applied(grace, RECOVERY, &(verdict, identity)).0, "OutOfDate", "nothing tells since when");
}

#[test]
fn a_grace_without_missing_updates_covers_no_advisory() {
    let soft = measured(TcbStatus::SWHardeningNeeded, &["INTEL-SA-00615"], &[]);
    let grace = "{ grace = { SWHardeningNeeded = '10000d' } }";
    let expected =
        ("UpToDate".to_owned(), texts(&["INTEL-SA-00615"]), texts(&["tcb_grace:SWHardeningNeeded"]));
    assert_eq!(applied(grace, RECOVERY, &soft), expected);
}

#[test]
fn an_exempted_model_is_forgiven_its_status_for_good_but_no_advisory() {
    let behind = measured(TcbStatus::OutOfDate, &["INTEL-SA-00837"], &[]);
    let exempt = "{ fmspcs = ['53494D000000'] }";
    let expected = ("UpToDate".to_owned(), texts(&["INTEL-SA-00837"]), texts(&["fmspc:53494d000000"]));
    assert_eq!(applied(exempt, u64::MAX, &behind), expected);
    assert_eq!(applied("{ fmspcs = ['000000000000'] }", 0, &behind).0, "OutOfDate");
}

#[test]
fn a_listed_advisory_is_not_shown_and_changes_no_status() {
    let behind = measured(TcbStatus::OutOfDate, &["INTEL-SA-00837", "INTEL-SA-00960"], &[]);
    let listed = "{ advisories = ['intel-sa-00837'] }";
    let expected = ("OutOfDate".to_owned(), texts(&["INTEL-SA-00960"]), texts(&["advisory:INTEL-SA-00837"]));
    assert_eq!(applied(listed, RECOVERY, &behind), expected);
    let both = "{ advisories = ['INTEL-SA-00837', 'INTEL-SA-00960'], fmspcs = ['53494d000000'] }";
    let relaxations = texts(&["fmspc:53494d000000", "advisory:INTEL-SA-00837", "advisory:INTEL-SA-00960"]);
    assert_eq!(applied(both, RECOVERY, &behind), ("UpToDate".to_owned(), vec![], relaxations));
}

#[test]
fn a_grace_forgives_no_part_that_it_does_not_name() {
    use TcbStatus::{OutOfDate, OutOfDateConfigurationNeeded, UpToDate};
    let (soft, set, both_kinds) =
        ("SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded");
    for (platform, qe, verdict, graces, needed) in [
        // The older quoting enclave hides what is wrong with the platform.
        (soft, "OutOfDate", OutOfDate, &["OutOfDate"][..], None),
        (soft, "OutOfDate", OutOfDate, &[soft], None),
        (soft, "OutOfDate", OutOfDate, &["OutOfDate", soft], Some(&[soft, "OutOfDate"][..])),
        ("UpToDate", "OutOfDate", OutOfDate, &["OutOfDate"], Some(&["OutOfDate"])),
        ("OutOfDate", "OutOfDate", OutOfDate, &["OutOfDate"], Some(&["OutOfDate"])),
        // A combined name covers what it combines, where it is the verdict.
        (set, "OutOfDate", OutOfDateConfigurationNeeded, &["OutOfDate"], None),
        (set, "OutOfDate", OutOfDateConfigurationNeeded, &[set], None),
        (set, "OutOfDate", OutOfDateConfigurationNeeded, &["OutOfDate", set], Some(&[set, "OutOfDate"])),
        (
            set,
            "OutOfDate",
            OutOfDateConfigurationNeeded,
            &["OutOfDateConfigurationNeeded"],
            Some(&["OutOfDateConfigurationNeeded"]),
        ),
        ("OutOfDate", "UpToDate", OutOfDate, &["OutOfDateConfigurationNeeded"], None),
        (both_kinds, "OutOfDate", OutOfDateConfigurationNeeded, &["OutOfDateConfigurationNeeded"], None),
        (
            both_kinds,
            "OutOfDate",
            OutOfDateConfigurationNeeded,
            &["OutOfDateConfigurationNeeded", both_kinds],
            Some(&[both_kinds, "OutOfDateConfigurationNeeded"]),
        ),
        // The verdict leaves out settings of the quoting enclave where it is not out of date; a grace does not.
        ("OutOfDate", set, OutOfDate, &["OutOfDate"], None),
        ("UpToDate", set, UpToDate, &[], Some(&[])),
    ] {
        let graces: Vec<String> = graces.iter().map(|status| format!("{status} = '10000d'")).collect();
        let text = format!("{{ grace = {{ {} }} }}", graces.join(", "));
        let (shown, _, relaxations) = applied(&text, RECOVERY, &both(platform, qe, verdict));
        let expected = match needed {
            Some(needed) => needed.iter().map(|status| format!("tcb_grace:{status}")).collect(),
            None => Vec::new(),
        };
        let status = if needed.is_some() { UpToDate } else { verdict };
        assert_eq!((shown, relaxations), (status.to_string(), expected), "{platform} and {qe} by {text}");
    }
}

#[test]
fn each_part_has_its_own_time_and_the_first_to_end_ends_it() {
    let measured = both("SWHardeningNeeded", "OutOfDate", TcbStatus::OutOfDate);
    // The platform counts from 2025-01-01, the quoting enclave from 2024-01-01.
    let (platform, qe) = (1_735_689_600, 1_704_067_200);
    let text = "{ grace = { OutOfDate = '500d', SWHardeningNeeded = '30d' } }";
    let end = platform + 30 * DAY;
    assert!(end < qe + 500 * DAY);
    assert_eq!(applied(text, end, &measured).0, "UpToDate");
    assert_eq!(applied(text, end + 1, &measured).0, "OutOfDate");
    assert_eq!(tolerance(text, 0).grace_ends(&measured.0), Some(end));
    assert_eq!(tolerance("{ grace = { OutOfDate = '500d' } }", 0).grace_ends(&measured.0), None);
    let with_model = "{ grace = { OutOfDate = '500d' }, fmspcs = ['53494d000000'] }";
    assert_eq!(tolerance(with_model, 0).grace_ends(&measured.0), Some(qe + 500 * DAY));
}

#[test]
fn an_exempted_model_is_forgiven_its_platform_and_no_other_part() {
    let model = "{ fmspcs = ['53494d000000'] }";
    let with_grace = "{ fmspcs = ['53494d000000'], grace = { OutOfDate = '10000d' } }";
    for platform in ["UpToDate", "SWHardeningNeeded", "OutOfDate"] {
        let measured = both(platform, "OutOfDate", TcbStatus::OutOfDate);
        assert_eq!(applied(model, RECOVERY, &measured).0, "OutOfDate", "{platform}");
    }
    let measured = both("SWHardeningNeeded", "OutOfDate", TcbStatus::OutOfDate);
    let (status, _, relaxations) = applied(with_grace, RECOVERY, &measured);
    assert_eq!(
        (status.as_str(), relaxations),
        ("UpToDate", texts(&["fmspc:53494d000000", "tcb_grace:OutOfDate"]))
    );
    // Which part it is cannot be told: none is forgiven.
    let (mut verdict, identity) = measured;
    verdict.gap = None;
    assert_eq!(applied(with_grace, RECOVERY, &(verdict, identity)).0, "OutOfDate");
}

#[test]
fn a_grace_never_overflows() {
    let grace = Grace { status: TcbStatus::OutOfDate, lasts: Duration::from_secs(u64::MAX) };
    let tcb = Tcb { grace: vec![grace], ..Tcb::default() };
    let (verdict, _) = measured(TcbStatus::OutOfDate, &[], &[]);
    let tolerance = TcbTolerance::new(tcb, Clock::fixed(0), Arc::new(Metrics::new([])));
    assert_eq!(tolerance.grace_ends(&verdict), Some(u64::MAX));
}
