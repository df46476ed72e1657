//! What a recovery set seals: the root keys of all epochs with their states, as bytes, and back.

use kms_attest::p256::{P256Key, SPKI_LENGTH};
use kms_recovery::{Bytes, EpochFingerprint};
use zeroize::Zeroizing;

use super::K256Key;
use super::epoch::RootEpoch;
use super::keyring::{Epoch, EpochError, EpochKeys, EpochParts, EpochTimes, Keyring, MAX_EPOCHS, PublicRoot};

/// The only form.
const FORM: &[u8; 8] = b"cvmkms-1";
/// The keys of the epoch follow.
const HELD: u8 = 1;
/// The public keys of the epoch follow: its keys are destroyed.
const DESTROYED: u8 = 2;
/// The most bytes of an epoch: number, four times, kind, keys.
const EPOCH: usize = 4 + 4 * 9 + 1 + SPKI_LENGTH + 33;

/// Why bytes are no root keys.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Another length, or another form.
    #[error("the material is not that of root keys that this version knows")]
    Form,
    /// A key is invalid.
    #[error("the material has an invalid {0} key")]
    Key(&'static str),
    /// The epochs contradict each other.
    #[error("the material has epochs that do not fit: {0}")]
    Epochs(#[from] EpochError),
}

/// `form (8) ‖ temporary CA scalar (32) ‖ number of epochs (u32 BE) ‖ epochs`, an epoch being
/// `number (u32 BE) ‖ 4 times (0, or 1 ‖ Unix seconds u64 BE): prepared, activate, retired, destroyed ‖
/// 1 ‖ root CA scalar (32) ‖ secp256k1 scalar (32)`, or `… ‖ 2 ‖ root CA SPKI (91) ‖ secp256k1 public key (33)`.
pub fn export(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    let epochs = keyring.epochs();
    // With its full capacity, so that no copy is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FORM.len() + 36 + epochs.len() * EPOCH));
    bytes.extend_from_slice(FORM);
    bytes.extend_from_slice(&keyring.temp_ca().scalar()[..]);
    bytes.extend_from_slice(&u32::try_from(epochs.len()).unwrap_or(u32::MAX).to_be_bytes());
    for epoch in epochs {
        bytes.extend_from_slice(&epoch.number().0.to_be_bytes());
        let EpochTimes { prepared_at, activate_at, retired_at, destroyed_at } = epoch.times();
        for time in [prepared_at, activate_at, retired_at, destroyed_at] {
            match time {
                None => bytes.push(0),
                Some(time) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&time.to_be_bytes());
                }
            }
        }
        match epoch.keys() {
            Some(root) => {
                bytes.push(HELD);
                bytes.extend_from_slice(&root.ca().scalar()[..]);
                bytes.extend_from_slice(&root.k256().scalar()[..]);
            }
            None => {
                bytes.push(DESTROYED);
                bytes.extend_from_slice(&epoch.public().ca_spki);
                bytes.extend_from_slice(&epoch.public().k256);
            }
        }
    }
    bytes
}

/// How a manifest names what [`export`] seals of an epoch.
pub fn fingerprint(epoch: &Epoch) -> EpochFingerprint {
    let EpochTimes { prepared_at: _, activate_at, retired_at, destroyed_at } = epoch.times();
    EpochFingerprint {
        epoch: epoch.number().0,
        ca_spki_sha256: Bytes(epoch.public().ca_fingerprint()),
        k256_public: Bytes(epoch.public().k256),
        activate_at,
        retired_at,
        destroyed_at,
    }
}

/// The inverse of [`export`].
///
/// # Errors
/// [`MaterialError`]
pub fn import(bytes: &[u8]) -> Result<Keyring, MaterialError> {
    let mut rest = Rest(bytes.strip_prefix(FORM).ok_or(MaterialError::Form)?);
    let temp_ca = rest.p256("temporary CA")?;
    let count = u32::from_be_bytes(rest.array()?) as usize;
    if count > MAX_EPOCHS {
        return Err(MaterialError::Form);
    }
    let epochs = (0..count).map(|_| rest.epoch()).collect::<Result<Vec<_>, _>>()?;
    match rest.0 {
        [] => Ok(Keyring::from_parts(temp_ca, epochs)?),
        _ => Err(MaterialError::Form),
    }
}

/// The bytes that are not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MaterialError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(MaterialError::Form)?;
        self.0 = rest;
        Ok(*first)
    }

    fn scalar(&mut self) -> Result<Zeroizing<[u8; 32]>, MaterialError> {
        self.array().map(Zeroizing::new)
    }

    fn p256(&mut self, name: &'static str) -> Result<P256Key, MaterialError> {
        P256Key::from_scalar(&*self.scalar()?).map_err(|_| MaterialError::Key(name))
    }

    fn time(&mut self) -> Result<Option<u64>, MaterialError> {
        match self.array()? {
            [0] => Ok(None),
            [1] => Ok(Some(u64::from_be_bytes(self.array()?))),
            [_] => Err(MaterialError::Form),
        }
    }

    fn epoch(&mut self) -> Result<EpochParts, MaterialError> {
        let epoch = RootEpoch(u32::from_be_bytes(self.array()?));
        let times = EpochTimes {
            prepared_at: self.time()?,
            activate_at: self.time()?,
            retired_at: self.time()?,
            destroyed_at: self.time()?,
        };
        let keys = match self.array()? {
            [HELD] => EpochKeys::Held {
                ca: self.p256("root CA")?,
                k256: K256Key::from_scalar(&*self.scalar()?).map_err(|_| MaterialError::Key("secp256k1"))?,
            },
            [DESTROYED] => EpochKeys::Destroyed(PublicRoot { ca_spki: self.array()?, k256: self.array()? }),
            [_] => return Err(MaterialError::Form),
        };
        Ok(EpochParts { epoch, times, keys, root_ca_pem: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RootKeys;
    use crate::keys::keyring::EpochChange;

    /// Three epochs: one whose keys are destroyed, one that apps get keys of, one that is prepared.
    fn keyring() -> Keyring {
        let first = Keyring::first(RootKeys::generate());
        let second = first.new_epoch(10).unwrap();
        let keyring = first.after(EpochChange::Prepare(&second), 10).unwrap();
        let keyring = keyring.after(EpochChange::Activate { epoch: RootEpoch(1), at: 20 }, 15).unwrap();
        let keyring = keyring.after(EpochChange::Retire(RootEpoch(0)), 30).unwrap();
        let keyring = keyring.after(EpochChange::Destroy(RootEpoch(0)), 40).unwrap();
        let third = keyring.new_epoch(50).unwrap();
        keyring.after(EpochChange::Prepare(&third), 50).unwrap()
    }

    #[test]
    fn what_is_exported_is_imported_and_nothing_else_is() {
        for keyring in [Keyring::first(RootKeys::generate()), keyring()] {
            let bytes = export(&keyring);
            let back = import(&bytes).unwrap();
            assert_eq!(export(&back), bytes);
            assert_eq!(back.infos(60), keyring.infos(60));
            for length in 0..bytes.len() {
                assert!(import(&bytes[..length]).is_err(), "{length} bytes");
            }
            assert!(import(&[&bytes[..], &[0]].concat()).is_err(), "one byte more");
        }
        // Whatever is read has one form: each altered byte is an error, or other keys or times.
        let bytes = export(&keyring());
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            if let Ok(other) = import(&altered) {
                assert_eq!(export(&other), altered, "byte {at}");
            }
        }
        assert!(import(&[&FORM[..], &[0; 200]].concat()).is_err(), "keys of zeros");
        assert!(import(&[&FORM[..], &[1; 32], &[0xff; 200]].concat()).is_err(), "four billion epochs");
    }
}
