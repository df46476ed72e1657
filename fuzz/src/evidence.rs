//! Evidence in either wire form, and the identity that it claims.

use kms_attest::evidence::{Evidence, Platform, Wire};
use kms_attest::identity::{AppInfo, Registers};
use kms_attest::measurement::EventVersion;

/// Evidence that decodes keeps [`check`]. V0 has only one form, so encoding gives the input again; trailing
/// bytes are refused.
pub fn evidence(data: &[u8]) {
    let Ok(evidence) = Evidence::decode(data) else { return };
    let encoded = evidence.encode();
    assert_eq!(evidence.wire == Wire::V0, data[0] == 0, "the first byte is the wire form");
    if evidence.wire == Wire::V0 {
        assert!(encoded == data, "V0 has one form only");
    }
    // Bytes become arrays of numbers of up to two bytes; an event gains its digest, which may be omitted.
    assert!(encoded.len() <= 2 * data.len() + 64, "{} bytes became {}", data.len(), encoded.len());
    assert!(carried(&evidence) == evidence, "it came with something that its wire form cannot carry");
    assert!(Evidence::decode(&[data, &[0]].concat()).is_err(), "something stands behind the evidence");
    check(&evidence);
}

/// Evidence survives both wire forms; stripping twice equals stripping once; the identity is the same after
/// stripping, and survives its own encodings.
pub fn check(evidence: &Evidence) {
    assert!(decoded(&evidence.encode()) == carried(evidence), "encoding lost something");
    let v1 = decoded(&evidence.to_v1_bytes());
    assert!(Evidence { wire: evidence.wire, ..v1 } == *evidence, "V1 lost something");
    match (evidence.to_v0_bytes(), evidence.report_data()) {
        (Ok(v0), Ok(report_data)) => {
            let read = decoded(&v0);
            assert_eq!(read.stack.report_data, report_data.0);
            assert!(read.encode() == v0, "V0 has one form only");
        }
        (Err(_), Err(_)) => {}
        (v0, _) => panic!("V0 needs report data of 64 bytes, and nothing else: {v0:?}"),
    }

    let stripped = evidence.stripped();
    assert!(stripped.stripped() == stripped, "stripping again strips more");
    assert!(stripped.encode().len() <= evidence.encode().len(), "stripping made it longer");
    assert!(decoded(&stripped.encode()) == carried(&stripped), "encoding lost something");
    for registers in [Registers::BootTime, Registers::RunTime] {
        let app_info = evidence.unverified_app_info(registers).ok();
        assert_eq!(stripped.unverified_app_info(registers).ok(), app_info);
        if let Some(app_info) = app_info {
            check_app_info(&app_info);
        }
    }
}

/// App info survives both of its encodings.
pub fn check_app_info(app_info: &AppInfo) {
    assert_eq!(AppInfo::from_msgpack(&app_info.to_msgpack()).as_ref(), Ok(app_info));
    let json = serde_json::to_string(app_info).expect("app info has a JSON form");
    let read: AppInfo = serde_json::from_str(&json).expect("app info in JSON is app info");
    assert_eq!(&read, app_info);
}

/// The part of evidence that its wire form carries: V0 has neither version nor preimage of entries of the
/// event log. (Runtime events of version 2 are never written in V0.)
pub fn carried(evidence: &Evidence) -> Evidence {
    let mut evidence = evidence.clone();
    let v0 = evidence.encode().first() == Some(&0);
    if let (true, Platform::Tdx(tdx) | Platform::GcpTdx { tdx, .. }) = (v0, &mut evidence.platform) {
        for entry in &mut tdx.event_log {
            (entry.version, entry.preimage) = (EventVersion::V1, None);
        }
    }
    evidence
}

fn decoded(bytes: &[u8]) -> Evidence {
    Evidence::decode(bytes).expect("our own encoding decodes")
}
