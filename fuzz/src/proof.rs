//! Saved responses of a KMS and allowlists: what they prove, and what they never can.

use std::sync::LazyLock;

use kms_attest::trust::TrustAnchors;
use kms_client::proof::{Answers, Identity, Pins, Verdict, examine};

/// The development root of `tests/vectors/certs.json`, which signed the seeds.
const ROOT: &[u8] = include_bytes!("proof-root.pem");
/// A time at which everything in the seeds is valid.
const NOW: u64 = 1_800_000_000;

static ANCHORS: LazyLock<TrustAnchors> =
    LazyLock::new(|| TrustAnchors::with_tdx_root(ROOT).expect("a root certificate"));
/// `mr_aggregated` of the only genuine quote in the seeds.
const GENUINE: &str = "24e7587f12563cc8489ef0817ba3bba969149f24c88d8939b002d73deb7cc17a";

/// A document survives writing. Whatever it says, nothing is proven under Intel's root, and under the seeds'
/// root only what their quote says. An allowlist that parses pins a hardware measurement.
pub fn proof(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(identities) = Identity::parse_list(text)
    {
        assert!(!identities.is_empty());
        for identity in identities {
            let Identity { mr_aggregated, mr_system, os_image_hash, .. } = identity;
            assert!(mr_aggregated.is_some() || mr_system.is_some() || os_image_hash.is_some());
        }
    }
    let Ok(answers) = Answers::parse(data) else { return };
    let json = answers.to_json().expect("JSON");
    let again = Answers::parse(&json).expect("its own document");
    assert_eq!(again.to_json().expect("JSON"), json);

    let pins = Pins::default();
    let report = examine(&answers, &pins, &TrustAnchors::intel(), NOW);
    assert!(report.quoted.is_none(), "Intel vouches for nothing here");
    let report = examine(&answers, &pins, &ANCHORS, NOW);
    if let Some(quoted) = &report.quoted {
        assert_eq!(quoted.mr_aggregated.as_deref(), Some(GENUINE), "nobody else has the hardware's key");
    }
    match report.verdict() {
        Verdict::Proven => panic!("nothing is pinned"),
        Verdict::Incomplete(_) => {
            assert!(report.quoted.is_some() && report.root_spki.is_some() && report.k256_pubkey.is_some());
        }
        Verdict::Refuted(_) | Verdict::Unknown(_) => {}
    }
}
