//! The sources of identity: quotes, reports and documents of the platforms, VM configurations, app info.

use kms_attest::evidence::{Evidence, Platform, Stack, Tdx, Wire};
use kms_attest::identity::AppInfo;
use kms_attest::identity::mr_config::MrConfigDocument;
use kms_attest::platform::tdx::Quoted;
use kms_attest::vm_config::VmConfig;

use super::evidence::{check, check_app_info};

/// Uses the bytes as evidence of each platform, as app info and as both kinds of configuration: what decodes
/// is the same after it is written again.
pub fn identity(data: &[u8]) {
    let _ = Quoted::parse(data);
    for platform in [
        Platform::Tdx(Tdx { quote: data.to_vec(), event_log: Vec::new() }),
        Platform::NitroEnclave { nsm_quote: data.to_vec() },
        Platform::AwsNitroTpm { attestation_doc: data.to_vec() },
        Platform::SevSnp { report: data.to_vec(), cert_chain: Vec::new(), mr_config: text(data) },
        Platform::SevSnp { report: report(), cert_chain: Vec::new(), mr_config: text(data) },
    ] {
        let stack = Stack {
            report_data: vec![0; 64],
            runtime_events: Vec::new(),
            config: String::new(),
            report_data_payload: None,
        };
        check(&Evidence { wire: Wire::V0, platform, stack });
    }

    if let Ok(app_info) = AppInfo::from_msgpack(data) {
        check_app_info(&app_info);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = VmConfig::parse(text) {
        let written = serde_json::to_string(&config).expect("a configuration has a JSON form");
        assert_eq!(VmConfig::parse(&written).expect("our own JSON reads"), config);
    }
    if let Ok(document) = MrConfigDocument::parse(text) {
        let written = document.to_text();
        assert_eq!(MrConfigDocument::parse(&written).expect("our own JSON reads"), document);
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// A SEV-SNP report of version 2, otherwise zero.
fn report() -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 2;
    report
}
