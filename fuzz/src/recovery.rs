//! Recovery: manifests, shares, files of officers, officers' files, and the sealed root keys.

use cvm_kms::keys::material;
use kms_recovery::{Identities, NoCallbacks, Share, SignedManifest, decrypt, parse_officers};

/// Reads a manifest or a share. What reads is the same after it is written again; errors repeat nothing of a share.
pub fn recovery(data: &[u8]) {
    match SignedManifest::parse(data) {
        Ok(manifest) => {
            let again = SignedManifest::parse(manifest.to_text().as_bytes()).expect("its own text");
            assert_eq!(again.manifest(), manifest.manifest());
            assert_eq!(again.manifest().sha256(), manifest.manifest().sha256());
            assert!((2..=manifest.manifest().officers.len()).contains(&manifest.manifest().threshold.into()));
        }
        Err(error) => drop(error.to_string()),
    }
    match Share::parse(data) {
        Ok(share) => {
            let again = Share::parse(share.to_json().as_bytes()).expect("its own text");
            assert_eq!((again.set, again.index, &again.officer), (share.set, share.index, &share.officer));
            assert_eq!(again.to_json(), share.to_json());
        }
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
    if let Ok(officers) = parse_officers(data) {
        let text: String =
            officers.iter().map(|officer| format!("{} {}\n", officer.name, officer.recipient)).collect();
        assert_eq!(parse_officers(text.as_bytes()).as_ref(), Ok(&officers));
    }
    // Whoever opens a restore with a set of their own decides about what is sealed.
    match material::import(data) {
        Ok(read) => assert!(*material::export(&read.keyring, read.choices.as_deref()) == *data, "one form"),
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
    // The key of age's own tests: no private key that is not public.
    let key = b"AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    let identities = Identities::parse(key, NoCallbacks).expect("a key");
    if let Ok(share) = decrypt(data, &identities) {
        assert!(share.index > 0 || !share.officer.as_str().is_empty());
    }
}
