//! Collateral in its JSON form, from collateral services and guests.

use kms_attest::certificate::pem;
use kms_attest::collateral::{Collateral, CollateralBundle, read_chain, read_crl};

/// Collateral survives JSON and expires after 1970. A chain and a CRL are the same after they are written
/// again.
pub fn collateral(data: &[u8]) {
    if let Ok(chain) = read_chain(data) {
        let again: String = chain.iter().map(|der| pem(der)).collect();
        assert_eq!(read_chain(again.as_bytes()), Ok(chain));
    }
    if let Some(crl) = read_crl(data.to_vec()) {
        assert_eq!(read_crl(hex::encode(&crl).into_bytes()).as_ref(), Some(&crl));
        assert_eq!(read_crl(crl.clone()), Some(crl));
    }
    // A file that an operator uploads.
    let bundle = CollateralBundle::parse(data);
    let Ok(collateral) = Collateral::from_json(data) else { return };
    assert!(bundle.is_ok(), "one set is a file too");
    let json = serde_json::to_vec(collateral.parts()).expect("collateral has a JSON form");
    assert_eq!(Collateral::from_json(&json).as_ref(), Ok(&collateral));
}
