//! Collateral in its JSON form, as services of collateral and guests hand it out.

use kms_attest::collateral::Collateral;

/// Collateral survives JSON, and ends after 1970.
pub fn collateral(data: &[u8]) {
    let Ok(collateral) = Collateral::from_json(data) else { return };
    let json = serde_json::to_vec(collateral.parts()).expect("collateral has a JSON form");
    assert_eq!(Collateral::from_json(&json).as_ref(), Ok(&collateral));
}
