//! A set that a second implementation made: `known_answer.py`.

use serde::Deserialize;

use crate::bytes::Bytes;
use crate::scalar::{Commitments, SecretScalar, combine};
use crate::seal;

#[derive(Deserialize)]
struct KnownAnswer {
    set: Bytes<16>,
    salt: Bytes<32>,
    material: String,
    secret: Bytes<32>,
    commitments: Vec<Bytes<33>>,
    shares: Vec<Bytes<32>>,
    sealed: String,
}

#[test]
fn shares_commitments_and_seal_are_those_of_a_second_implementation() {
    let known: KnownAnswer = serde_json::from_str(include_str!("known_answer.json")).expect("JSON");
    let commitments =
        Commitments::parse(known.commitments.iter().map(|commitment| &commitment.0)).expect("points");
    let shares: Vec<SecretScalar> =
        known.shares.iter().map(|share| SecretScalar::from_bytes(&share.0).expect("in range")).collect();
    for (index, share) in (1..).zip(&shares) {
        assert!(commitments.verify(index, share), "share {index}");
    }
    let secret = combine([5, 1, 3].map(|index| (index, &shares[usize::from(index) - 1])).into_iter());
    let secret = secret.expect("a scalar");
    assert_eq!(*secret.to_bytes(), known.secret.0);
    assert!(commitments.is_of(&secret));
    let (material, sealed) =
        (hex::decode(known.material).expect("hex"), hex::decode(known.sealed).expect("hex"));
    assert_eq!(seal::seal(&secret, &known.salt.0, &known.set, &material), sealed);
    let opened = seal::open(&secret, &known.salt.0, &known.set, &sealed).expect("what was sealed");
    assert_eq!(opened[..], material[..]);
    for at in 0..sealed.len() {
        let mut sealed = sealed.clone();
        sealed[at] ^= 1;
        assert!(seal::open(&secret, &known.salt.0, &known.set, &sealed).is_none(), "byte {at}");
    }
}
