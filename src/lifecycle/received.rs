//! Epochs as another KMS hands them over, as parts of a keyring.

use kms_client::source::{EpochKeyParts, EpochPart, RootKeyParts};

use crate::keys::K256Key;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochError, EpochKeys, EpochParts, EpochStatement, EpochTimes, PublicRoot};

/// The epochs in a handover, in order from 0. Each key belongs to its public key.
///
/// # Errors
/// [`EpochError`]
pub fn epoch_parts(handover: RootKeyParts) -> Result<Vec<EpochParts>, EpochError> {
    let RootKeyParts { ca, k256, epochs, .. } = handover;
    if !epochs.is_empty() {
        return epochs.into_iter().map(part).collect();
    }
    let first = RootEpoch::FIRST;
    let k256 = K256Key::from_scalar(&k256).map_err(|_| EpochError::KeyMismatch(first))?;
    let keys = EpochKeys::Held { ca, k256 };
    Ok(vec![EpochParts { epoch: first, times: EpochTimes::FIRST, keys, root_ca_pem: None }])
}

/// What older roots state of the epochs in a handover. Each has still to be verified.
pub(super) fn epoch_statements(handover: &RootKeyParts) -> Vec<(RootEpoch, EpochStatement)> {
    let stated = handover.epochs.iter().filter_map(|epoch| {
        let (by, signature) = epoch.statement?;
        Some((RootEpoch(epoch.number), EpochStatement { by: RootEpoch(by), signature }))
    });
    stated.collect()
}

fn part(sent: EpochPart) -> Result<EpochParts, EpochError> {
    let EpochPart {
        number,
        keys,
        ca_spki,
        k256_public,
        prepared_at,
        active_from: activate_at,
        retired_at,
        destroyed_at,
        statement: _,
    } = sent;
    let epoch = RootEpoch(number);
    let keys = match keys {
        None => EpochKeys::Destroyed(PublicRoot { ca_spki, k256: k256_public }),
        Some(EpochKeyParts { ca, k256 }) => {
            let k256 = K256Key::from_scalar(&k256).map_err(|_| EpochError::KeyMismatch(epoch))?;
            if ca.spki_der() != ca_spki || *k256.public_key() != k256_public {
                return Err(EpochError::KeyMismatch(epoch));
            }
            EpochKeys::Held { ca, k256 }
        }
    };
    let times = EpochTimes { prepared_at, activate_at, retired_at, destroyed_at };
    Ok(EpochParts { epoch, times, keys, root_ca_pem: None })
}
