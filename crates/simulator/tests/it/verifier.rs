//! Simulated evidence verified by the KMS's own verifier; the expected values are computed here from the
//! CVM's parameters.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use kms_attest::binding::ReportData;
use kms_attest::collateral::{CacheOptions, Clock, Collateral, CollateralCache};
use kms_attest::evidence::Evidence;
use kms_attest::identity::{BootInfo, Registers as Moment};
use kms_attest::measurement::EventVersion;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Binding, Verified, Verifier, verify};
use kms_simulator::{
    Certification, Cvm, Endpoint, KeyProvider, PccsMode, PccsServer, Platform, PlatformSpec, QuoteFormat,
    Stage, TcbLevel,
};
use sha2::{Digest, Sha256};

const NOW: u64 = 1_750_000_000;

fn verified(cvm: &Cvm, evidence: &Evidence) -> Result<Verified, String> {
    let anchors = TrustAnchors::with_tdx_root(cvm.platform().root_der()).unwrap();
    let collateral = Collateral::new(cvm.platform().collateral()).unwrap();
    verify(evidence, Binding::SelfReported, &collateral, &anchors, NOW).map_err(|error| error.to_string())
}

#[test]
fn the_identity_is_the_one_the_cvm_was_given() {
    let platform = Platform::from_seed(b"verifier");
    for format in QuoteFormat::ALL {
        for version in [EventVersion::V1, EventVersion::V2] {
            let provider = KeyProvider::LocalSgx(vec![9; 32]);
            let cvm = Cvm::builder(&platform)
                .app_id([1; 20])
                .compose_hash([2; 32])
                .instance_id(&[3; 20])
                .os_image_hash([4; 32])
                .tcb(TcbLevel::OutOfDate)
                .format(format)
                .event_version(version)
                .key_provider(provider.clone())
                .stage(Stage::Ready)
                .build();
            let verified = verified(&cvm, &cvm.evidence(ReportData([5; 64]))).unwrap();
            assert_eq!(verified.tcb_status(), "OutOfDate");
            assert_eq!(verified.fmspc(), platform.fmspc());

            let info = BootInfo::from(&verified.identity(Moment::RunTime, "").unwrap());
            assert_eq!(info.app_id, [1; 20]);
            assert_eq!(info.compose_hash, [2; 32]);
            assert_eq!(info.instance_id, [3; 20]);
            assert_eq!(info.os_image_hash, [4; 32]);
            assert_eq!(info.mr_aggregated, cvm.mr_aggregated());
            assert_eq!(info.device_id, platform.device_id());
            assert_eq!(info.key_provider_info, provider.payload());
            assert_eq!(info.advisory_ids, TcbLevel::OutOfDate.advisories());
            let registers = cvm.td_report([0; 64]).registers;
            let mr_system = Sha256::new()
                .chain_update(registers.mr_td)
                .chain_update(registers.rt_mr0)
                .chain_update(registers.rt_mr1)
                .chain_update(registers.rt_mr2)
                .chain_update(Sha256::digest(provider.payload()))
                .finalize();
            assert_eq!(info.mr_system, mr_system.as_slice());

            let awaiting =
                Cvm::builder(&platform).app_id([1; 20]).compose_hash([2; 32]).instance_id(&[3; 20]);
            let awaiting = awaiting.os_image_hash([4; 32]).format(format).event_version(version).build();
            let boot = BootInfo::from(&verified.identity(Moment::BootTime, "").unwrap());
            assert_eq!(boot.mr_aggregated, awaiting.mr_aggregated());
            assert!(boot.key_provider_info.is_empty());
        }
    }
}

#[test]
fn guests_that_lie_are_refused() {
    let platform = Platform::from_seed(b"verifier");
    let cvm = Cvm::builder(&platform).build();
    let report_data = ReportData([5; 64]);

    let debug = Cvm::builder(&platform).debug().build();
    assert!(verified(&debug, &debug.evidence(report_data)).is_err());

    let mut other_app = cvm.evidence(report_data);
    other_app.stack.runtime_events[1].payload = vec![0xee; 20];
    assert!(verified(&cvm, &other_app).unwrap_err().contains("RTMR3"));

    let other_data = cvm.evidence_of(report_data, |report| report.report_data[0] ^= 1);
    assert!(verified(&cvm, &other_data).unwrap_err().contains("report_data"));

    let mut altered = cvm.evidence(report_data);
    if let kms_attest::evidence::Platform::Tdx(tdx) = &mut altered.platform {
        tdx.quote[300] ^= 1;
    }
    assert!(verified(&cvm, &altered).is_err());

    let stranger = Cvm::builder(&Platform::from_seed(b"stranger")).build();
    assert!(verified(&cvm, &stranger.evidence(report_data)).is_err());
}

#[tokio::test]
async fn the_real_client_fetches_once_and_outlives_an_outage() {
    for certification in [Certification::Chain, Certification::EncryptedPpid3072] {
        let platform = Platform::new(&PlatformSpec { certification, ..PlatformSpec::from_seed(b"verifier") });
        let pccs = PccsServer::start(&platform).await.unwrap();
        let anchors = TrustAnchors::with_tdx_root(platform.root_der()).unwrap();
        let options = CacheOptions { clock: Clock::fixed(NOW), ..CacheOptions::default() };
        let cache = CollateralCache::new(&[pccs.url()], &anchors, options).unwrap();
        let verifier = Verifier::new(anchors, cache);

        let cvm = Cvm::builder(&platform).build();
        verifier.verify(&cvm.evidence(ReportData([5; 64])), Binding::SelfReported).await.unwrap();
        for endpoint in [Endpoint::PckCrl, Endpoint::TcbInfo, Endpoint::QeIdentity, Endpoint::RootCaCrl] {
            pccs.set_endpoint_mode(endpoint, PccsMode::Down);
        }
        verifier.verify(&cvm.evidence(ReportData([6; 64])), Binding::SelfReported).await.unwrap();
        assert_eq!(pccs.requests_to(Endpoint::TcbInfo), 1, "{certification:?}");
    }
}
