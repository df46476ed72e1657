//! The development PKI of the mock attestations, and a time at which its collateral is valid.

use kms_attest::collateral::Collateral;
use kms_attest::evidence::Evidence;
use kms_attest::p256::P256Key;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Binding, Verified, VerifyError, verify};
use sha2::{Digest, Sha256};

use super::Directory;
use super::json::{Check, Failure, Json, ensure};

/// The collateral set for all mock attestations.
const GOOD: &str = "good";

/// A root, the collateral under it, and a time.
pub(super) struct DevelopmentPki {
    pub(super) anchors: TrustAnchors,
    pub(super) collateral: Collateral,
    pub(super) now: u64,
}

impl DevelopmentPki {
    /// The root named in `file`, with the collateral of `tdx_quotes.json` in the same directory.
    pub(super) fn of(file: &Json, directory: &Directory) -> Check<Self> {
        let root = file.at("mock_root_ca_pem")?;
        let anchors = TrustAnchors::with_tdx_root(root.text()?.as_bytes())?;
        ensure!(
            is_of_seed(&anchors, file.at("mock_seed")?)?,
            "{}: is not the root of mock_seed",
            root.path()
        );
        Self::with_anchors(anchors, directory)
    }

    /// The root of `tdx_quotes.json`, derived from its seed.
    pub(super) fn of_quotes(directory: &Directory) -> Check<Self> {
        let quotes = directory.json("tdx_quotes.json")?;
        for (_, root) in quotes.at("root_ca")?.entries()? {
            let anchors = TrustAnchors::with_tdx_root(root.at("pem")?.text()?.as_bytes())?;
            if is_of_seed(&anchors, quotes.at("mock_seed")?)? {
                return Self::with_anchors(anchors, directory);
            }
        }
        Err(Failure("tdx_quotes.json: no root is of mock_seed".into()))
    }

    fn with_anchors(anchors: TrustAnchors, directory: &Directory) -> Check<Self> {
        let quotes = directory.json("tdx_quotes.json")?;
        let parts = quotes.at("collateral")?.at(GOOD)?.plain();
        let collateral = Collateral::from_json(parts.to_string().as_bytes())?;
        let now = middle(&collateral);
        Ok(Self { anchors, collateral, now })
    }

    /// Verifies evidence as the service does.
    pub(super) fn verify(&self, evidence: &Evidence, binding: Binding<'_>) -> Result<Verified, VerifyError> {
        verify(evidence, binding, &self.collateral, &self.anchors, self.now)
    }
}

/// A time well inside the validity of the collateral.
pub(super) fn middle(collateral: &Collateral) -> u64 {
    collateral.issued().midpoint(collateral.expires())
}

/// Whether the root has the key derived from the seed with label `tdx-root`:
/// `SHA-256("dstack-mock-p256-v1" ‖ seed ‖ label ‖ u32be counter)`, with the first counter that gives a
/// scalar.
pub(super) fn is_of_seed(anchors: &TrustAnchors, seed: &Json) -> Check<bool> {
    let seed = seed.bytes()?;
    let scalar = |counter: u32| -> [u8; 32] {
        let hash = Sha256::new().chain_update("dstack-mock-p256-v1").chain_update(&seed);
        hash.chain_update("tdx-root").chain_update(counter.to_be_bytes()).finalize().into()
    };
    let mut keys = (0..8).filter_map(|counter| P256Key::from_scalar(&scalar(counter)).ok());
    let key = keys.next().ok_or_else(|| Failure("mock_seed makes no key".into()))?;
    Ok(kms_attest::ra_tls::spki_of(anchors.tdx_root())? == key.spki_der())
}
