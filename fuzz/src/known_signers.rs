//! Lists of known signers.

use kms_client::environment::KnownSigners;
use kms_client::environment::known_signers::{Standing, line};

/// Every entry is known and is the same after it is written again; nothing else is known.
pub fn known_signers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let known = match KnownSigners::parse(text) {
        Ok(known) => known,
        Err(error) => return assert!(error.to_string().len() < 200, "{error}"),
    };
    let lines = text.lines().count();
    let mut written = String::new();
    for entry in known.entries() {
        assert!((1..=lines).contains(&entry.line));
        assert_eq!(known.standing(&entry.kms, entry.signer), Standing::Known);
        written.push_str(&line(&entry.kms, entry.signer));
    }
    let again = KnownSigners::parse(&written).expect("its own lines");
    let pairs = |known: &KnownSigners| {
        known.entries().iter().map(|entry| (entry.kms.clone(), entry.signer)).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&again), pairs(&known));
    assert_eq!(KnownSigners::default().entries(), &[]);
}
