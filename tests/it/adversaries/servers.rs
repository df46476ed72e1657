//! Servers whose certificate or evidence is not that of an allowed KMS.

use std::sync::Arc;

use kms_attest::binding::ReportData;
use kms_attest::certificate::CertificateSpec;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_simulator::{Cvm, Platform, Stage, TcbLevel};

use super::{Case, each_is_refused, kms};
use crate::support::World;
use crate::support::source::{Cluster, Shown, Source, loopback, names};

#[tokio::test]
async fn servers_that_are_no_source_are_told_apart_and_asked_for_nothing() {
    let replica = World::onboarding().await;
    let cluster = Cluster::new();
    let key = P256Key::generate;
    let genuine = cluster.leaf(&replica.cvm);
    let evidence =
        |cvm: &Cvm, key: &P256Key| cvm.evidence(ReportData::ra_tls(&key.spki_der())).stripped().encode();
    let attested = |cvm: Arc<Cvm>| cluster.leaf(&cvm);
    let marked = |usage: Option<&'static str>, app_id: Option<&'static [u8]>| {
        let (names, key) = (names(), key());
        let evidence = evidence(&replica.cvm, &key);
        let spec = CertificateSpec { usage, app_id, evidence: Some(&evidence), ..loopback("kms", &names) };
        cluster.issue(&spec, key)
    };
    let replayed = {
        let recorded = ra_tls::evidence_in(genuine.leaf()).expect("readable").expect("evidence");
        cluster.leaf_over(key(), Some(&recorded.encode()))
    };
    let builder = || Cvm::builder(&replica.platform).app_id([0xca; 20]).stage(Stage::Ready);
    let verification = "Failed to verify the attestation of the source KMS: ";
    let rows: Vec<(&'static str, Shown, u16, String)> = vec![
        (
            "no attestation",
            cluster.leaf_over(key(), None),
            400,
            "Source KMS certificate does not contain attestation".into(),
        ),
        (
            "bytes that are no attestation",
            cluster.leaf_over(key(), Some(&[0xff; 40])),
            400,
            "Failed to decode attestation from cert extension: the attestation extension: ".into(),
        ),
        (
            "a copied certificate",
            genuine.stolen(),
            400,
            "GetTempCaCert: the server does not hold the private key of the certificate that it shows".into(),
        ),
        ("replayed evidence under another key", replayed, 400, format!("{verification}report data mismatch")),
        (
            "a debug TD",
            attested(builder().debug().build()),
            400,
            format!("{verification}failed to verify TDX quote: Debug mode is enabled"),
        ),
        (
            "a quote of another platform root",
            attested(kms(&Platform::from_seed(b"elsewhere"))),
            400,
            format!("{verification}failed to verify TDX quote: Failed to verify certificate chain: "),
        ),
        ("a revoked platform", attested(builder().tcb(TcbLevel::Revoked).build()), 400, verification.into()),
        (
            "another OS image",
            attested(builder().os_image_hash([5; 32]).build()),
            403,
            "Source KMS is not allowed for onboarding: boot denied: OS image is not allowed".into(),
        ),
        (
            "another program",
            attested(builder().compose_hash([5; 32]).build()),
            403,
            "Source KMS is not allowed for onboarding: boot denied: aggregated MR not allowed".into(),
        ),
        (
            "a certificate without a usage",
            marked(None, None),
            400,
            "the source is not a KMS: missing server cert usage".into(),
        ),
        (
            "an app's certificate",
            marked(Some("app:custom"), Some(&[1; 20])),
            400,
            "the source is not a KMS: Invalid server cert usage: app:custom".into(),
        ),
        (
            "an app CA's certificate",
            marked(Some("app:ca"), None),
            400,
            "the source is not a KMS: Invalid server cert usage: app:ca".into(),
        ),
        (
            "a usage in other letters",
            marked(Some("KMS:RPC"), None),
            400,
            "the source is not a KMS: Invalid server cert usage: KMS:RPC".into(),
        ),
        (
            "a KMS's usage with an app id",
            marked(Some("kms:rpc"), Some(&[1; 20])),
            400,
            "the source is not a KMS: the server certificate is that of an app".into(),
        ),
    ];
    let mut cases = Vec::new();
    for (what, shown, status, text) in rows {
        let source = Source::start(&[shown], Arc::new(|method| panic!("{method} was called"))).await;
        cases.push(Case { what, source, status, text });
    }
    let failed = "Failed to send request: error sending request for url (https://127.0.0.1:";
    for (what, bytes, status, text) in [
        ("plain HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), 503, failed),
        ("nothing at all", Vec::new(), 503, failed),
        (
            "TLS without a certificate",
            tls_without_a_certificate(),
            400,
            "Source KMS did not present a TLS certificate",
        ),
    ] {
        cases.push(Case { what, source: Source::speaking(bytes).await, status, text: text.to_owned() });
    }
    each_is_refused(&replica, cases).await;
}

/// The handshake of a TLS 1.2 server with an empty list of certificates.
fn tls_without_a_certificate() -> Vec<u8> {
    let message = |kind: u8, body: Vec<u8>| {
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[kind][..], &length[1..], &body].concat()
    };
    let server_hello = [&[3, 3][..], &[7; 32], &[0], &[0xc0, 0x2b], &[0]].concat();
    let key = P256Key::generate().spki_der();
    let point = &key[key.len() - 65..];
    let signature = [0x30, 6, 2, 1, 1, 2, 1, 1];
    let key_exchange = [&[3, 0, 23, 65][..], point, &[4, 3, 0, 8], &signature].concat();
    let messages = [
        message(2, server_hello),
        message(11, vec![0, 0, 0]),
        message(12, key_exchange),
        message(14, Vec::new()),
    ];
    let records = messages.map(|message| {
        let length = u16::try_from(message.len()).expect("short").to_be_bytes();
        [&[22, 3, 3][..], &length, &message].concat()
    });
    records.concat()
}
