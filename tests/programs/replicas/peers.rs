//! Replicas that run the peer's program: what they send, step by step, and how they react to the responses.

use cvm_kms::keys::K256Key;
use cvm_kms::proto::{GetTempCaCertResponse, KmsKeyResponse};
use kms_attest::binding::ReportData;
use kms_attest::evidence::Wire;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use serde_json::json;

use crate::support::source::legacy;
use crate::support::{Caller, Identity, World};

/// `GetKmsKey` as the peer calls it, on a connection with `identity`.
async fn handed_over(
    caller: &Caller,
    identity: &Identity,
    vm_config: &str,
) -> Result<KmsKeyResponse, String> {
    let answer = caller.shows(identity).json("GetKmsKey?json", json!({ "vm_config": vm_config })).await;
    match answer.status {
        200 => Ok(answer.message()),
        _ => Err(answer.refusal().1),
    }
}

#[tokio::test]
async fn replicas_of_every_age_receive_the_keys() {
    let source = World::ready().await;
    let cvm = source.replica();
    let root = source.root_keys();
    for caller in [source.caller().http1(), source.caller().http2()] {
        // 1. Without a certificate: verifies the source's certificate, and gets its temporary CA.
        let line = caller.connect().await.expect("a connection");
        let shown = line.server_certificate.expect("a certificate");
        let evidence = ra_tls::evidence_in(&shown).expect("readable").expect("an attestation");
        let spki = ra_tls::spki_of(&shown).expect("a key");
        assert_eq!(evidence.report_data().expect("64 bytes"), ReportData::ra_tls(&spki));
        assert_eq!(ra_tls::special_usage(&shown).expect("readable").as_deref(), Some("kms:rpc"));
        let temp_ca: GetTempCaCertResponse = caller.json("GetTempCaCert?json", json!({})).await.message();
        let ca_key = P256Key::from_pem(&temp_ca.temp_ca_key).expect("the public key of all");

        // 2. With a certificate: in each form of evidence that a replica may have.
        let key = P256Key::generate();
        let mut today = cvm.evidence(ReportData::ra_tls(&key.spki_der()));
        today.wire = Wire::V1;
        let mut before = today.clone();
        before.wire = Wire::V0;
        let old = legacy(&temp_ca.temp_ca_cert, &ca_key, &cvm, &key, None);
        for (what, identity) in [
            ("MessagePack", Identity::with_evidence(&temp_ca, &key, &today)),
            ("SCALE", Identity::with_evidence(&temp_ca, &key, &before)),
            ("quote and log apart", Identity::of(old.clone(), &key)),
        ] {
            let handover = handed_over(&caller, &identity, cvm.vm_config()).await.expect(what);
            let [keys] = handover.keys.as_slice() else { panic!("{what}: exactly one set") };
            let ca = P256Key::from_pem(&keys.ca_key).expect("PKCS#8");
            assert!(*ca.pem() == keys.ca_key, "{what}: in the one form that the peer reads");
            assert!(ca.scalar() == root.ca().scalar(), "{what}");
            let k256 = K256Key::from_bytes(&keys.k256_key).expect("32 bytes");
            assert!(k256.scalar() == root.k256().scalar(), "{what}");
            assert!(handover.temp_ca_key == temp_ca.temp_ca_key, "{what}");
        }
        // Evidence without a VM configuration names no OS image, so no policy allows it.
        let silent = handed_over(&caller, &Identity::of(old, &key), "").await;
        assert_eq!(silent.err().as_deref(), Some("Boot denied: OS image is not allowed"));
    }
    assert_eq!(source.audited("kms_key_released").len(), 6);
}
