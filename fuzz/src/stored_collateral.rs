//! Files of collateral that a KMS keeps.

use kms_attest::collateral::{Collateral, read_stored, seal_stored};

/// What is read has the digest of its content, and the documents alone, with a right first line, read as the same.
pub fn stored_collateral(data: &[u8]) {
    if let Ok((fetched, parts)) = read_stored(data) {
        let json = serde_json::to_vec(&parts).expect("collateral has a JSON form");
        assert_eq!(read_stored(&seal_stored(fetched, &json)), Ok((fetched, parts)));
    }
    // Mutations seldom keep the digest, so the rest is read with a right one too.
    if let Ok((fetched, parts)) = read_stored(&seal_stored(1_750_000_000, data)) {
        assert_eq!(fetched, 1_750_000_000);
        assert!(parts.pck_certificate_chain.is_none());
        let _ = Collateral::new(parts);
    }
}
