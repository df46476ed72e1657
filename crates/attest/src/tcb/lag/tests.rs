//! Dates and advisories out of real and made-up TCB info.

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

/// A platform at the best level of the real set, whose module is of the first generation.
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

fn lag(platform: &PlatformTcb, (tcb_info, qe_identity): &(Value, Value)) -> Option<Lag> {
    Lag::read(platform, &tcb_info.to_string(), &qe_identity.to_string())
}

fn day(date: &str) -> u64 {
    unix_seconds(&format!("{date}T00:00:00Z")).unwrap()
}

#[test]
fn a_platform_at_the_best_level_is_not_behind() {
    assert_eq!(lag(&current(), &outdated()), None);
}

#[test]
fn a_platform_is_behind_since_the_date_of_the_next_level() {
    let mut second = current();
    second.cpu_svn = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    second.tee_tcb_svn[2] = 2;
    let behind = lag(&second, &outdated()).unwrap();
    assert_eq!(behind.since(), day("2024-11-13"));
    assert_eq!(behind.settled_by_update().len(), 5);
    // Two recoveries behind: the first one that it missed counts, not the last.
    let third = PlatformTcb { pce_svn: 5, ..second };
    let behind = lag(&third, &outdated()).unwrap();
    assert_eq!(behind.since(), day("2024-03-13"));
    assert_eq!(behind.settled_by_update().len(), 19);
}

#[test]
fn the_order_in_the_document_does_not_matter() {
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"].as_array_mut().unwrap().reverse();
    assert_eq!(lag(&current(), &(tcb_info, qe_identity)), None);
}

#[test]
fn an_old_module_or_quoting_enclave_counts_too() {
    let mut old_module = current();
    old_module.tee_tcb_svn[0] = 4;
    let behind = lag(&old_module, &outdated()).unwrap();
    assert_eq!((behind.since(), behind.settled_by_update().len()), (day("2024-11-13"), 2));
    let (tcb_info, mut qe_identity) = outdated();
    let mut newer = qe_identity["tcbLevels"][0].clone();
    newer["tcb"]["isvsvn"] = json!(5);
    newer["tcbDate"] = json!("2026-10-01T00:00:00Z");
    qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    qe_identity["tcbLevels"].as_array_mut().unwrap().insert(0, newer);
    let documents = (tcb_info, qe_identity);
    assert_eq!(lag(&current(), &documents).unwrap().since(), OCTOBER_2026);
    assert_eq!(lag(&old_module, &documents).unwrap().since(), day("2024-11-13"), "the earliest counts");
}

#[test]
fn what_is_not_about_updates_counts_from_the_levels_own_date_and_settles_nothing() {
    for status in ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"] {
        let (mut tcb_info, qe_identity) = outdated();
        tcb_info["tcbLevels"][0]["tcbStatus"] = json!(status);
        tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00615"]);
        let behind = lag(&current(), &(tcb_info, qe_identity)).unwrap();
        assert_eq!((behind.since(), behind.settled_by_update()), (day("2024-11-13"), &[][..]));
    }
    // Out of date without any later level: nothing tells since when.
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    assert_eq!(lag(&current(), &(tcb_info, qe_identity)).unwrap().since(), day("2024-11-13"));
}

#[test]
fn an_advisory_that_the_newest_level_still_has_is_not_settled_by_an_update() {
    let (mut tcb_info, qe_identity) = outdated();
    tcb_info["tcbLevels"][0]["tcbStatus"] = json!("SWHardeningNeeded");
    tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-01036"]);
    let mut second = current();
    second.cpu_svn = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    second.tee_tcb_svn[2] = 2;
    let behind = lag(&second, &(tcb_info, qe_identity)).unwrap();
    let settled: Vec<&str> = behind.settled_by_update().iter().map(String::as_str).collect();
    assert_eq!(settled, ["INTEL-SA-01079", "INTEL-SA-01099", "INTEL-SA-01103", "INTEL-SA-01111"]);
}

#[test]
fn documents_that_tell_nothing_give_nothing() {
    let (tcb_info, qe_identity) = outdated();
    let nowhere = PlatformTcb { pce_svn: 0, ..current() };
    assert_eq!(lag(&nowhere, &(tcb_info.clone(), qe_identity.clone())), None);
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
        assert_eq!(lag(&old, &(spoilt, qe_identity.clone())), None, "{pointer}");
    }
    assert_eq!(Lag::read(&old, "{", &qe_identity.to_string()), None);
    assert_eq!(Lag::read(&old, &tcb_info.to_string(), "[]"), None);
}
