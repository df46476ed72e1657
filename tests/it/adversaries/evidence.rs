//! Evidence that does not verify, or belongs to another caller.

use kms_attest::binding::ReportData;
use kms_attest::p256::P256Key;
use kms_simulator::{CollateralSpec, Cvm, Stage, Validity};
use serde_json::json;

use super::{PREFIX, nothing_is_kept, onboard};
use crate::support::source::{Cluster, Source};
use crate::support::{Identity, World, eventually};

const UNAVAILABLE: &str = "Failed to verify the attestation of the source KMS: collateral for the platform of this \
                           quote is not available at the moment";

fn expired() -> CollateralSpec {
    let now = kms_attest::clock::unix_now();
    CollateralSpec::valid(Validity::new(now - 40 * 86_400, now - 86_400))
}

#[tokio::test]
async fn a_source_is_not_judged_by_expired_collateral() {
    let mut replica = World::stopped_with("").await;
    replica.pccs.publish(&expired());
    replica.start().await.expect("starts");
    let cluster = Cluster::new();
    let source = Source::start(&[cluster.leaf(&replica.cvm)], cluster.answers()).await;
    let refusal = onboard(&replica, &source.url()).await.refusal();
    assert_eq!(refusal, (503, format!("{PREFIX}{UNAVAILABLE}")));
    assert!(source.calls().is_empty());
    nothing_is_kept(&replica, "expired collateral");

    replica.pccs.publish(&CollateralSpec::default());
    eventually("the collateral is fetched again", async || {
        let answer = onboard(&replica, &source.url()).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replica_is_not_judged_by_expired_collateral() {
    let mut source = World::stopped_with("core.enforce_self_authorization = false").await;
    source.pccs.publish(&expired());
    source.start().await.expect("starts");
    source.bootstrap().await;
    source.finish().await;
    let replica = World::onboarding().await;
    let url = format!("https://{}", source.address());
    let text = "GetKmsKey: the server answered 503: the collateral service does not answer, evidence cannot be \
                verified now";
    assert_eq!(onboard(&replica, &url).await.refusal(), (503, format!("{PREFIX}{text}")));
    nothing_is_kept(&replica, "expired collateral at the source");
    assert!(source.audited("kms_key_released").is_empty());

    source.pccs.publish(&CollateralSpec::default());
    eventually("the collateral is fetched again", async || {
        let answer = onboard(&replica, &url).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(source.audited("kms_key_released").len(), 1);
}

#[tokio::test]
async fn root_keys_go_to_nobody_but_an_allowed_kms_that_holds_the_attested_key() {
    let source = World::ready().await;
    let temp_ca = source.temp_ca().await;
    let replica = source.replica();
    let recorded = replica.evidence(ReportData::ra_tls(&P256Key::generate().spki_der()));
    let builder = || Cvm::builder(&source.platform).app_id([0xca; 20]).stage(Stage::Ready);
    let app = source.app(1);
    source.allow_app(&app);
    let cases = [
        (
            "replayed evidence under another key",
            Identity::with_evidence(&temp_ca, &P256Key::generate(), &recorded),
            401,
            "invalid quote: report data mismatch",
        ),
        (
            "a debug TD",
            Identity::attested(&temp_ca, &builder().debug().build()),
            401,
            "invalid quote: failed to verify TDX quote: Debug mode is enabled",
        ),
        (
            "another program",
            Identity::attested(&temp_ca, &builder().compose_hash([5; 32]).build()),
            403,
            "Boot denied: aggregated MR not allowed",
        ),
        (
            "another image",
            Identity::attested(&temp_ca, &builder().os_image_hash([5; 32]).build()),
            403,
            "Boot denied: OS image is not allowed",
        ),
        ("an app", Identity::attested(&temp_ca, &app), 403, "Boot denied: aggregated MR not allowed"),
        ("nobody", Identity::unattested(&temp_ca), 401, "No attestation provided"),
    ];
    for (what, identity, status, text) in cases {
        let refusal = source.caller().shows(&identity).json("GetKmsKey", json!({})).await.refusal();
        assert_eq!(refusal, (status, text.to_owned()), "{what}");
    }
    assert!(source.audited("kms_key_released").is_empty());
    let identity = Identity::attested(&temp_ca, &replica);
    assert_eq!(source.caller().shows(&identity).json("GetKmsKey", json!({})).await.status, 200);
}
