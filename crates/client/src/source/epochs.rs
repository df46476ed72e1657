//! The epochs in a handover: parsed once, each key compared with its public key.

use kms_attest::p256::{P256Key, SPKI_LENGTH};
use zeroize::Zeroizing;

use super::SourceError;
use crate::proto::{EpochKeys, KmsKeyResponse};

/// The most epochs that a source may have.
const MAX_EPOCHS: usize = 256;

/// An epoch of the root keys, from a source.
pub struct EpochPart {
    /// Its number.
    pub number: u32,
    /// Its keys; `None` if they are destroyed.
    pub keys: Option<EpochKeyParts>,
    /// The public key of its root CA, SubjectPublicKeyInfo DER.
    pub ca_spki: [u8; SPKI_LENGTH],
    /// Its public root secp256k1 key, SEC1 compressed, as the source states it: not yet compared with the secret one.
    pub k256_public: [u8; 33],
    /// When the keys were made, Unix seconds.
    pub prepared_at: Option<u64>,
    /// From when on apps get keys of it, Unix seconds.
    pub active_from: Option<u64>,
    /// Since when nobody gets keys of it, Unix seconds.
    pub retired_at: Option<u64>,
    /// When the keys were destroyed, Unix seconds.
    pub destroyed_at: Option<u64>,
    /// The older epoch whose root states these public keys, and its signature, which is not verified yet.
    pub statement: Option<(u32, [u8; 65])>,
}

/// The keys of an epoch.
pub struct EpochKeyParts {
    /// The root CA's key.
    pub ca: P256Key,
    /// The secp256k1 root key: a big-endian scalar whose range is not checked yet.
    pub k256: Zeroizing<[u8; 32]>,
}

/// All epochs of a response, in order from 0; none if it names none. `ca` and `k256` are the keys beside them.
pub(super) fn parse<E>(
    response: &KmsKeyResponse,
    ca: &P256Key,
    k256: &[u8; 32],
) -> Result<Vec<EpochPart>, SourceError<E>> {
    let beside = response.identity_epoch.unwrap_or(0);
    let invalid = |number, problem| SourceError::Epoch { number, problem };
    if response.epochs.len() > MAX_EPOCHS {
        return Err(invalid(MAX_EPOCHS as u32, "is more than a KMS can have"));
    }
    if response.epochs.is_empty() {
        return match beside {
            0 => Ok(Vec::new()),
            number => Err(invalid(number, "is named without its state")),
        };
    }
    let mut epochs = Vec::with_capacity(response.epochs.len());
    for (number, sent) in (0..).zip(&response.epochs) {
        if sent.number != number {
            return Err(invalid(sent.number, "is not the next one: epochs come in order from 0"));
        }
        let beside = (number == beside).then_some((ca, k256));
        epochs.push(part(sent, beside).map_err(|problem| invalid(number, problem))?);
    }
    match epochs.get(beside as usize) {
        Some(EpochPart { keys: Some(_), .. }) => Ok(epochs),
        Some(_) => Err(invalid(beside, "is destroyed, but its keys were sent")),
        None => Err(invalid(beside, "is named without its state")),
    }
}

fn part(sent: &EpochKeys, beside: Option<(&P256Key, &[u8; 32])>) -> Result<EpochPart, &'static str> {
    let state = match (sent.retired_at, sent.destroyed_at) {
        (_, Some(_)) => &["destroyed"][..],
        (Some(_), None) => &["retired"],
        (None, None) if sent.active_from.is_some() => &["active", "prepared"],
        (None, None) => &["prepared"],
    };
    if !state.contains(&sent.state.as_str()) {
        return Err("has a state that is not that of its times");
    }
    let ca_spki = <[u8; SPKI_LENGTH]>::try_from(&sent.ca_pubkey[..]);
    let k256_public = <[u8; 33]>::try_from(&sent.k256_pubkey[..]);
    let (Ok(ca_spki), Ok(k256_public)) = (ca_spki, k256_public) else {
        return Err("has a public key of another length");
    };
    let has_own = !sent.ca_key.is_empty() || !sent.k256_key.is_empty();
    let keys = match (sent.destroyed_at, beside) {
        (Some(_), _) if has_own => return Err("is destroyed, but has keys"),
        (Some(_), _) => None,
        (None, Some((ca, k256))) => {
            // They may be sent twice, but must be the same.
            if has_own && own_keys(sent)?.is_other_than(ca, k256) {
                return Err("has other keys than those that were sent beside it");
            }
            let ca = P256Key::from_scalar(ca.scalar()).map_err(|_| "has a CA key that is not usable")?;
            Some(EpochKeyParts { ca, k256: Zeroizing::new(*k256) })
        }
        (None, None) => Some(own_keys(sent)?),
    };
    if keys.as_ref().is_some_and(|keys| keys.ca.spki_der() != ca_spki) {
        return Err("has a CA key that does not belong to its public key");
    }
    let statement = match (sent.stated_by, &sent.statement[..]) {
        (None, []) => None,
        (Some(by), signature) => {
            let signature = signature.try_into().map_err(|_| "has a statement of another length")?;
            Some((by, signature))
        }
        (None, _) => return Err("has a statement of nobody"),
    };
    Ok(EpochPart {
        number: sent.number,
        keys,
        ca_spki,
        k256_public,
        prepared_at: sent.prepared_at,
        active_from: sent.active_from,
        retired_at: sent.retired_at,
        destroyed_at: sent.destroyed_at,
        statement,
    })
}

fn own_keys(sent: &EpochKeys) -> Result<EpochKeyParts, &'static str> {
    let ca = P256Key::from_pem(&sent.ca_key).map_err(|_| "has a CA key that is not usable")?;
    if sent.k256_key.len() != 32 {
        return Err("has an ECDSA key that is not usable");
    }
    let mut k256 = Zeroizing::new([0; 32]);
    k256.copy_from_slice(&sent.k256_key);
    Ok(EpochKeyParts { ca, k256 })
}

impl EpochKeyParts {
    fn is_other_than(&self, ca: &P256Key, k256: &[u8; 32]) -> bool {
        self.ca.scalar() != ca.scalar() || *self.k256 != *k256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An epoch as an honest source sends it. Epoch 0 is beside the list.
    fn sent(number: u32, state: &str, ca: &P256Key) -> EpochKeys {
        EpochKeys {
            number,
            state: state.to_owned(),
            ca_key: if number == 0 { String::new() } else { ca.pem().to_string() },
            k256_key: if number == 0 { Vec::new() } else { vec![7; 32] },
            ca_pubkey: ca.spki_der().to_vec(),
            k256_pubkey: vec![2; 33],
            prepared_at: None,
            active_from: (state != "prepared").then_some(5),
            retired_at: matches!(state, "retired" | "destroyed").then_some(6),
            destroyed_at: (state == "destroyed").then_some(7),
            stated_by: (number > 0).then_some(0),
            statement: if number > 0 { vec![5; 65] } else { Vec::new() },
        }
    }

    fn parsed(
        first: &P256Key,
        epochs: Vec<EpochKeys>,
        identity_epoch: Option<u32>,
    ) -> Result<Vec<EpochPart>, String> {
        let (temp_ca_key, keys, receipt) = (String::new(), Vec::new(), None);
        let choices = None;
        let response = KmsKeyResponse { temp_ca_key, keys, receipt, epochs, identity_epoch, choices };
        parse::<String>(&response, first, &[9; 32]).map_err(|error| error.to_string())
    }

    #[test]
    fn each_epoch_has_its_own_keys_and_the_first_those_beside_the_list() {
        let [first, second, third] = std::array::from_fn(|_| P256Key::generate());
        let epochs =
            || vec![sent(0, "retired", &first), sent(1, "active", &second), sent(2, "prepared", &third)];
        let parts = parsed(&first, epochs(), None).expect("epochs");
        let keys = |part: &EpochPart| part.keys.as_ref().map(|keys| (keys.ca.spki_der(), *keys.k256));
        assert_eq!(keys(&parts[0]), Some((first.spki_der(), [9; 32])));
        assert_eq!(keys(&parts[1]), Some((second.spki_der(), [7; 32])));
        assert_eq!((parts[2].number, parts[2].active_from), (2, None));
        assert_eq!((parts[0].statement, parts[2].statement), (None, Some((0, [5; 65]))));
        assert!(parsed(&first, Vec::new(), None).expect("a KMS with epoch 0 only").is_empty());
        // Epoch 0 is destroyed, and the keys beside the list are those of epoch 1.
        let mut epochs = epochs();
        epochs[0] = sent(0, "destroyed", &first);
        epochs[1].k256_key = vec![9; 32];
        let parts = parsed(&second, epochs, Some(1)).expect("epochs");
        assert!(parts[0].keys.is_none() && parts[0].ca_spki == first.spki_der());
    }

    #[test]
    fn a_source_that_lies_about_its_epochs_is_refused() {
        let [first, second] = std::array::from_fn(|_| P256Key::generate());
        let honest = || vec![sent(0, "active", &first), sent(1, "active", &second)];
        let refused = |alter: &dyn Fn(&mut Vec<EpochKeys>), problem: &str| {
            let mut epochs = honest();
            alter(&mut epochs);
            let error = parsed(&first, epochs, None).map(|parts| parts.len()).expect_err(problem);
            assert!(error.contains(problem), "{error}: {problem}");
        };
        refused(&|epochs| epochs[1].number = 2, "is not the next one");
        refused(&|epochs| epochs.swap(0, 1), "is not the next one");
        refused(&|epochs| epochs[1].number = 0, "is not the next one");
        refused(
            &|epochs| epochs[1].state = "prepared ".to_owned(),
            "has a state that is not that of its times",
        );
        refused(
            &|epochs| epochs[1].state = "retired".to_owned(),
            "has a state that is not that of its times",
        );
        refused(&|epochs| epochs[1].destroyed_at = Some(1), "has a state that is not that of its times");
        refused(
            &|epochs| epochs[1].ca_pubkey = first.spki_der().to_vec(),
            "does not belong to its public key",
        );
        refused(
            &|epochs| epochs[0].ca_pubkey = second.spki_der().to_vec(),
            "does not belong to its public key",
        );
        refused(&|epochs| epochs[1].ca_key = first.pem().to_string(), "does not belong to its public key");
        refused(&|epochs| epochs[1].ca_key = "x".to_owned(), "has a CA key that is not usable");
        refused(&|epochs| epochs[1].k256_key = vec![7; 31], "has an ECDSA key that is not usable");
        refused(&|epochs| epochs[1].k256_pubkey = vec![2; 32], "has a public key of another length");
        refused(&|epochs| epochs[1].statement = vec![5; 64], "has a statement of another length");
        refused(&|epochs| epochs[1].stated_by = None, "has a statement of nobody");
        refused(
            &|epochs| {
                epochs[0].ca_key = first.pem().to_string();
                epochs[0].k256_key = vec![8; 32];
            },
            "has other keys than those that were sent beside it",
        );
        refused(
            &|epochs| {
                epochs[1].state = "destroyed".to_owned();
                epochs[1].destroyed_at = Some(9);
            },
            "is destroyed, but has keys",
        );
        refused(&|epochs| epochs[0] = sent(0, "destroyed", &first), "is destroyed, but its keys were sent");
        let many = || (0..257).map(|number| sent(number, "prepared", &second)).collect();
        assert!(parsed(&first, many(), None).map(|_| ()).is_err());
        assert!(parsed(&first, honest(), Some(2)).map(|_| ()).is_err(), "named without its state");
        assert!(parsed(&first, Vec::new(), Some(1)).map(|_| ()).is_err(), "named without its state");
    }
}
