//! Documents by which a KMS proves itself (`/attestation.json`), and pins: what they prove, and what they never can.

use std::sync::LazyLock;

use kms_attest::trust::TrustAnchors;
use kms_client::proof::attestation::{Answer, Pin, Pins, Rules};

/// The root of the simulated platform that signed the seed.
const ROOT: &[u8] = include_bytes!("../../tests/vectors/attestation/root.der");
/// A time at which everything in the seed is valid.
const NOW: u64 = 1_790_000_000;
/// `mr_aggregated` of the only genuine quote in the seeds.
const MEASURED: &str = "62ffb1c2f52c19ddf8eaa1e4f956e03f3c2bf804ca4fac7a84b56b1cffd9bce6";
/// The root CA that signed it.
const ROOT_CA: &str = "ef2735a63a1c18de5a3592110184f35a555544cb45f479b56137cdfe4be4e0c8";

static ANCHORS: LazyLock<TrustAnchors> =
    LazyLock::new(|| TrustAnchors::with_tdx_root(ROOT).expect("a root certificate"));

/// Whatever a document says, nothing is proved under Intel's root, and under the seeds' root only what their quote covers
/// and their KMS has signed. Pins that parse name at least one value for each of their keys.
pub fn attestation(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(pins) = Pins::parse(text)
    {
        let sufficient = pins.has(Pin::MrAggregated) || pins.has(Pin::RootCaSpkiSha256);
        assert_eq!(pins.is_sufficient(), sufficient);
    }
    let Ok(document) = Answer::parse(data) else { return };
    let rules = Rules { max_age: None, ..Rules::default() };
    let pins = |pin, value: &str| {
        let mut pins = Pins::default();
        pins.add(pin, value.to_owned()).expect("a value");
        pins
    };
    let (measured, signed) = (pins(Pin::MrAggregated, MEASURED), pins(Pin::RootCaSpkiSha256, ROOT_CA));
    for pins in [&measured, &signed] {
        assert!(
            document.verify(pins, &rules, &TrustAnchors::intel(), NOW).is_err(),
            "Intel vouches for nothing here"
        );
        if let Ok(proved) = document.verify(pins, &rules, &ANCHORS, NOW) {
            assert_eq!(
                hex::encode(proved.app_info().mr_aggregated),
                MEASURED,
                "nobody else has the hardware's key"
            );
            assert_eq!(proved.statement().root.ca_spki_sha256.to_string(), ROOT_CA);
            assert_eq!(proved.statement().name, "kms.example.com");
        }
    }
    // Without a pin nothing is proved.
    assert!(document.verify(&Pins::default(), &rules, &ANCHORS, NOW).is_err());
}
