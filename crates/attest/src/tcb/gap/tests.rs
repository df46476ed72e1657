//! Dates and advisories from real and constructed TCB info.

use serde_json::{Value, json};

use super::*;
use crate::collateral::testing::vector;
use crate::collateral::{CaKind, PlatformKey};

const OCTOBER_2026: u64 = 1_790_812_800;

fn outdated() -> (Value, Value) {
    let set: Value =
        serde_json::from_slice(&vector("fixtures/dcap-qvl/tdx_quote_outdated_collateral.json")).unwrap();
    let parse = |name: &str| serde_json::from_str(set[name].as_str().unwrap()).unwrap();
    (parse("tcb_info"), parse("qe_identity"))
}

/// A platform at the best level of the real set, whose TDX module is of the first generation.
fn current() -> PlatformTcb {
    PlatformTcb {
        model: PlatformKey { fmspc: [0x90, 0xc0, 0x6f, 0, 0, 0], ca: CaKind::Platform },
        cpu_svn: [3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        pce_svn: 13,
        tee_tcb_svn: [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        tee_tcb_svn2: None,
        qe_isv_svn: 4,
    }
}

fn gap(platform: &PlatformTcb, (tcb_info, qe_identity): &(Value, Value)) -> Option<TcbGap> {
    gap_of(platform, TcbStatus::OutOfDate, tcb_info, qe_identity)
}

fn gap_of(
    platform: &PlatformTcb,
    verdict: TcbStatus,
    tcb_info: &Value,
    qe_identity: &Value,
) -> Option<TcbGap> {
    TcbGap::read(platform, verdict, &tcb_info.to_string(), &qe_identity.to_string())
}

/// Part, status and date of each entry.
fn parts(gap: &TcbGap) -> Vec<(TcbPart, TcbStatus, u64)> {
    gap.parts().iter().map(|part| (part.part, part.status, part.since)).collect()
}

fn day(date: &str) -> u64 {
    unix_seconds(&format!("{date}T00:00:00Z")).unwrap()
}

#[test]
fn a_platform_at_the_best_level_is_not_behind() {
    assert_eq!(gap(&current(), &outdated()), None);
}

#[test]
fn a_platform_is_behind_since_the_date_of_the_next_level() {
    let mut second = current();
    second.cpu_svn = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    second.tee_tcb_svn[2] = 2;
    let behind = gap(&second, &outdated()).unwrap();
    assert_eq!(behind.since(), day("2024-11-13"));
    assert_eq!(behind.settled_by_update(|_| true).len(), 5);
    // Two TCB recoveries behind: the first that it missed counts, not the last.
    let third = PlatformTcb { pce_svn: 5, ..second };
    let behind = gap(&third, &outdated()).unwrap();
    assert_eq!(behind.since(), day("2024-03-13"));
    assert_eq!(behind.settled_by_update(|_| true).len(), 19);
}

#[test]
fn the_order_in_the_document_does_not_matter() {
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"].as_array_mut().unwrap().reverse();
    assert_eq!(gap(&current(), &(tcb_info, qe_identity)), None);
}

#[test]
fn an_old_module_or_quoting_enclave_counts_too() {
    let mut old_module = current();
    old_module.tee_tcb_svn[0] = 4;
    let behind = gap(&old_module, &outdated()).unwrap();
    assert_eq!((behind.since(), behind.settled_by_update(|_| true).len()), (day("2024-11-13"), 2));
    let (tcb_info, mut qe_identity) = outdated();
    let mut newer = qe_identity["tcbLevels"][0].clone();
    newer["tcb"]["isvsvn"] = json!(5);
    newer["tcbDate"] = json!("2026-10-01T00:00:00Z");
    qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    qe_identity["tcbLevels"].as_array_mut().unwrap().insert(0, newer);
    let documents = (tcb_info, qe_identity);
    assert_eq!(gap(&current(), &documents).unwrap().since(), OCTOBER_2026);
    assert_eq!(gap(&old_module, &documents).unwrap().since(), day("2024-11-13"), "the earliest counts");
}

#[test]
fn what_is_not_about_updates_counts_from_the_levels_own_date_and_settles_nothing() {
    for status in ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"] {
        let (mut tcb_info, qe_identity) = outdated();
        tcb_info["tcbLevels"][0]["tcbStatus"] = json!(status);
        tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00615"]);
        let behind = gap(&current(), &(tcb_info, qe_identity)).unwrap();
        assert_eq!((behind.since(), behind.settled_by_update(|_| true)), (day("2024-11-13"), vec![]));
    }
    // Out of date without a later level: the date of the change is unknown.
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    assert_eq!(gap(&current(), &(tcb_info, qe_identity)).unwrap().since(), day("2024-11-13"));
}

#[test]
fn an_advisory_that_the_newest_level_still_has_is_not_settled_by_an_update() {
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("SWHardeningNeeded");
    tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-01036"]);
    let mut second = current();
    second.cpu_svn = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    second.tee_tcb_svn[2] = 2;
    let behind = gap(&second, &(tcb_info, qe_identity)).unwrap();
    let settled = behind.settled_by_update(|_| true);
    assert_eq!(settled, ["INTEL-SA-01079", "INTEL-SA-01099", "INTEL-SA-01103", "INTEL-SA-01111"]);
}

#[test]
fn each_part_keeps_the_status_that_the_verdict_hides() {
    let (mut tcb_info, mut qe_identity) = outdated();
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("SWHardeningNeeded");
    tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00615"]);
    let mut newer = qe_identity["tcbLevels"][0].clone();
    newer["tcb"]["isvsvn"] = json!(5);
    newer["tcbDate"] = json!("2026-10-01T00:00:00Z");
    qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    qe_identity["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00615", "INTEL-SA-00837"]);
    qe_identity["tcbLevels"].as_array_mut().unwrap().insert(0, newer);
    let behind = gap(&current(), &(tcb_info.clone(), qe_identity.clone())).unwrap();
    let expected = [
        (TcbPart::Platform, TcbStatus::SWHardeningNeeded, day("2024-11-13")),
        (TcbPart::QuotingEnclave, TcbStatus::OutOfDate, OCTOBER_2026),
    ];
    assert_eq!(parts(&behind), expected);
    let of_qe = |part: &PartGap| part.part() == TcbPart::QuotingEnclave;
    assert_eq!(behind.settled_by_update(of_qe), ["INTEL-SA-00837"], "the platform has the other one, too");

    let mut old_module = current();
    old_module.tee_tcb_svn[0] = 4;
    let behind = gap(&old_module, &(tcb_info, qe_identity)).unwrap();
    let parts: Vec<TcbPart> = behind.parts().iter().map(PartGap::part).collect();
    assert_eq!(parts, [TcbPart::Platform, TcbPart::Module, TcbPart::QuotingEnclave]);
    assert_eq!(behind.parts()[1].status(), TcbStatus::OutOfDate);
}

#[test]
fn what_an_update_of_two_parts_settles_needs_both() {
    let (mut tcb_info, mut qe_identity) = outdated();
    let mut old = current();
    old.tee_tcb_svn[0] = 4;
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("UpToDate");
    let mut newer = qe_identity["tcbLevels"][0].clone();
    newer["tcb"]["isvsvn"] = json!(5);
    let shared = gap(&old, &(tcb_info.clone(), qe_identity.clone())).unwrap();
    let shared: Vec<String> = shared.settled_by_update(|_| true).into_iter().map(str::to_owned).collect();
    qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    qe_identity["tcbLevels"][0]["advisoryIDs"] = json!(shared);
    qe_identity["tcbLevels"].as_array_mut().unwrap().insert(0, newer);
    let behind = gap(&old, &(tcb_info, qe_identity)).unwrap();
    assert!(!shared.is_empty());
    assert_eq!(behind.settled_by_update(|_| true), shared);
    for part in [TcbPart::Module, TcbPart::QuotingEnclave] {
        assert!(behind.settled_by_update(|gap| gap.part() == part).is_empty(), "{part:?}");
    }
}

#[test]
fn a_launch_that_was_out_of_date_is_told_from_what_runs_now() {
    let (mut tcb_info, qe_identity) = outdated();
    let launched = PlatformTcb { tee_tcb_svn2: Some(current().tee_tcb_svn), ..current() };
    let mut launched = launched;
    launched.tee_tcb_svn[0] = 4;
    let relaunch = TcbStatus::TDRelaunchAdvised;
    let behind = gap_of(&launched, relaunch, &tcb_info, &qe_identity).unwrap();
    assert_eq!(parts(&behind), [(TcbPart::Module, relaunch, day("2024-11-13"))]);
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("SWHardeningNeeded");
    let behind = gap_of(&launched, relaunch, &tcb_info, &qe_identity).unwrap();
    let expected = [
        (TcbPart::Platform, TcbStatus::SWHardeningNeeded, day("2024-11-13")),
        (TcbPart::Module, relaunch, day("2024-11-13")),
    ];
    assert_eq!(parts(&behind), expected, "the same platform counts once");
    // If the module is also out of date now, that alone is reported.
    launched.tee_tcb_svn2 = Some(launched.tee_tcb_svn);
    let behind = gap_of(&launched, TcbStatus::OutOfDate, &tcb_info, &qe_identity).unwrap();
    assert_eq!(behind.parts()[1].status(), TcbStatus::OutOfDate);
    assert_eq!(behind.parts().len(), 2);
}

#[test]
fn documents_that_tell_nothing_give_nothing() {
    let (tcb_info, qe_identity) = outdated();
    let nowhere = PlatformTcb { pce_svn: 0, ..current() };
    assert_eq!(gap(&nowhere, &(tcb_info.clone(), qe_identity.clone())), None);
    let mut old = current();
    old.tee_tcb_svn[0] = 4;
    for (pointer, value) in [
        ("/tcbLevels/0/tcbDate", json!("yesterday")),
        ("/tcbLevels/0/tcb/sgxtcbcomponents", json!([])),
        ("/tdxModuleIdentities", json!([])),
        ("/tcbLevels", json!([])),
    ] {
        let mut spoilt = tcb_info.clone();
        *spoilt.pointer_mut(pointer).unwrap() = value;
        assert_eq!(gap(&old, &(spoilt, qe_identity.clone())), None, "{pointer}");
    }
    assert_eq!(TcbGap::read(&old, TcbStatus::OutOfDate, "{", &qe_identity.to_string()), None);
    assert_eq!(TcbGap::read(&old, TcbStatus::OutOfDate, &tcb_info.to_string(), "[]"), None);
}
