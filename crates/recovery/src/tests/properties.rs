//! Properties that hold for any numbers.

use proptest::prelude::*;

use super::*;
use crate::scalar::{Commitments, SecretScalar, combine, share};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any `threshold` shares, in any order, give the scalar; each is right at its own index only.
    #[test]
    fn any_threshold_shares_give_the_scalar(threshold in 2_usize..=8, more in 0_usize..=8, order in any::<prop::sample::Index>()) {
        let officers = threshold + more;
        let secret = SecretScalar::generate();
        let (shares, points) = share(&secret, threshold, officers);
        let commitments = Commitments::parse(points.iter()).expect("points");
        prop_assert!(commitments.is_of(&secret));
        let mut indexed: Vec<(u8, &SecretScalar)> = (1..).zip(&shares).collect();
        for (index, value) in &indexed {
            prop_assert!(commitments.verify(*index, value));
            prop_assert!(!commitments.verify(*index % u8::try_from(officers).expect("small") + 1, value));
        }
        indexed.rotate_left(order.index(officers));
        let found = combine(indexed[..threshold].iter().copied()).expect("a scalar");
        prop_assert_eq!(found.to_bytes(), secret.to_bytes());
    }

    /// Readers of outside bytes end, and do not panic.
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), text in ".{0,200}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = SignedManifest::parse(bytes);
            let _ = Share::parse(bytes);
            let _ = parse_officers(bytes);
            let _ = decrypt(bytes, &Identities::parse(b"", NoCallbacks).unwrap_or_else(|_| {
                Identities::parse(KEY.as_bytes(), NoCallbacks).expect("a key")
            }));
            let _ = Identities::parse(bytes, NoCallbacks);
        }
    }
}

/// The example of age's own tests.
const KEY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
