//! What a recovery set seals: the root keys of all epochs with their states, as bytes, and back.

use kms_attest::p256::{P256Key, SPKI_LENGTH};
use kms_recovery::{Bytes, EpochFingerprint};
use zeroize::Zeroizing;

use super::K256Key;
use super::epoch::RootEpoch;
use super::keyring::{
    Epoch, EpochError, EpochKeys, EpochParts, EpochStatement, EpochTimes, Keyring, MAX_EPOCHS, PublicRoot,
};

/// Root keys only.
const FORM: &[u8; 8] = b"cvmkms-1";
/// With statements of older roots, and with what operators chose.
const FULL_FORM: &[u8; 8] = b"cvmkms-2";
/// The bytes of a statement: epoch, epoch that signed, signature.
const STATEMENT: usize = 4 + 4 + 65;
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
    /// A statement of an older root that it did not make.
    #[error("the material has a statement over epoch {0} that no older root made")]
    Statement(RootEpoch),
}

/// What [`import`] gives.
#[derive(Debug)]
pub struct Material {
    /// The root keys of all epochs, with the statements of older roots that were kept.
    pub keyring: Keyring,
    /// What operators chose, as it was given to [`export`]. `None` of a set of an older version, which does not know.
    pub choices: Option<Vec<u8>>,
}

/// `form (8) ‖ temporary CA scalar (32) ‖ number of epochs (u32 BE) ‖ epochs`, an epoch being
/// `number (u32 BE) ‖ 4 times (0, or 1 ‖ Unix seconds u64 BE): prepared, activate, retired, destroyed ‖
/// 1 ‖ root CA scalar (32) ‖ secp256k1 scalar (32)`, or `… ‖ 2 ‖ root CA SPKI (91) ‖ secp256k1 public key (33)`.
///
/// With `choices`, form 2: then follow `number of statements (u32 BE) ‖ statements ‖ length of the choices (u32 BE) ‖ choices`, a
/// statement being `epoch (u32 BE) ‖ epoch that signed (u32 BE) ‖ signature (65)`, in increasing order.
pub fn export(keyring: &Keyring, choices: Option<&[u8]>) -> Zeroizing<Vec<u8>> {
    let epochs = keyring.epochs();
    let statements = || epochs.iter().filter_map(|epoch| Some((epoch.number(), epoch.statement()?)));
    let beside = choices.map_or(0, |choices| 8 + statements().count() * STATEMENT + choices.len());
    // With its full capacity, so that no copy is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FORM.len() + 36 + epochs.len() * EPOCH + beside));
    bytes.extend_from_slice(if choices.is_some() { FULL_FORM } else { FORM });
    bytes.extend_from_slice(&keyring.temp_ca().scalar()[..]);
    bytes.extend_from_slice(&length(epochs.len()));
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
    if let Some(choices) = choices {
        bytes.extend_from_slice(&length(statements().count()));
        for (epoch, EpochStatement { by, signature }) in statements() {
            bytes.extend_from_slice(&epoch.0.to_be_bytes());
            bytes.extend_from_slice(&by.0.to_be_bytes());
            bytes.extend_from_slice(&signature);
        }
        bytes.extend_from_slice(&length(choices.len()));
        bytes.extend_from_slice(choices);
    }
    bytes
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
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
pub fn import(bytes: &[u8]) -> Result<Material, MaterialError> {
    let (form, rest) = bytes.split_first_chunk::<8>().ok_or(MaterialError::Form)?;
    let is_full = match form {
        FORM => false,
        FULL_FORM => true,
        _ => return Err(MaterialError::Form),
    };
    let mut rest = Rest(rest);
    let temp_ca = rest.p256("temporary CA")?;
    let count = rest.number()? as usize;
    if count > MAX_EPOCHS {
        return Err(MaterialError::Form);
    }
    let epochs = (0..count).map(|_| rest.epoch()).collect::<Result<Vec<_>, _>>()?;
    if !is_full {
        return match rest.0 {
            [] => Ok(Material { keyring: Keyring::from_parts(temp_ca, epochs)?, choices: None }),
            _ => Err(MaterialError::Form),
        };
    }
    let count = rest.number()? as usize;
    if count > MAX_EPOCHS {
        return Err(MaterialError::Form);
    }
    let statements = (0..count).map(|_| rest.statement()).collect::<Result<Vec<_>, _>>()?;
    if !statements.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(MaterialError::Form);
    }
    if rest.number()? as usize != rest.0.len() {
        return Err(MaterialError::Form);
    }
    let mut keyring = Keyring::from_parts(temp_ca, epochs)?;
    for (epoch, statement) in statements {
        keyring = keyring.with_statement(epoch, statement);
        // One that the older root did not make is left out.
        if keyring.epoch(epoch).and_then(Epoch::statement) != Some(statement) {
            return Err(MaterialError::Statement(epoch));
        }
    }
    Ok(Material { keyring, choices: Some(rest.0.to_vec()) })
}

/// The bytes that are not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MaterialError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(MaterialError::Form)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u32, MaterialError> {
        self.array().map(u32::from_be_bytes)
    }

    fn statement(&mut self) -> Result<(RootEpoch, EpochStatement), MaterialError> {
        let (epoch, by) = (RootEpoch(self.number()?), RootEpoch(self.number()?));
        Ok((epoch, EpochStatement { by, signature: self.array()? }))
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
        let epoch = RootEpoch(self.number()?);
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

    /// The same, with the statements of the roots that were there when each epoch was made.
    fn stated() -> Keyring {
        let first = Keyring::first(RootKeys::generate());
        let second = first.new_epoch(10).unwrap();
        let identity = std::sync::Arc::clone(first.epochs()[0].keys().unwrap());
        let keyring = first.after(EpochChange::Prepare(&second), 10).unwrap().stated(&identity);
        let keyring = keyring.after(EpochChange::Activate { epoch: RootEpoch(1), at: 20 }, 15).unwrap();
        let keyring = keyring.after(EpochChange::Retire(RootEpoch(0)), 30).unwrap();
        keyring.after(EpochChange::Destroy(RootEpoch(0)), 40).unwrap()
    }

    #[test]
    fn what_is_exported_is_imported_and_nothing_else_is() {
        let first = || Keyring::first(RootKeys::generate());
        for (keyring, choices) in [
            (first(), None),
            (keyring(), None),
            (first(), Some(&b"{}"[..])),
            (keyring(), Some(b"")),
            (stated(), Some(b"{\"a\":1}")),
        ] {
            let bytes = export(&keyring, choices);
            let back = import(&bytes).unwrap();
            assert_eq!(back.choices.as_deref(), choices);
            assert_eq!(export(&back.keyring, choices), bytes);
            assert_eq!(back.keyring.infos(60), keyring.infos(60));
            for length in 0..bytes.len() {
                assert!(import(&bytes[..length]).is_err(), "{length} bytes");
            }
            assert!(import(&[&bytes[..], &[0]].concat()).is_err(), "one byte more");
            // Whatever is read has one form: each altered byte is an error, or other keys, times or choices.
            for at in 0..bytes.len() {
                let mut altered = bytes.clone();
                altered[at] ^= 1;
                if let Ok(other) = import(&altered) {
                    assert_eq!(export(&other.keyring, other.choices.as_deref()), altered, "byte {at}");
                }
            }
        }
        assert!(import(&[&FORM[..], &[0; 200]].concat()).is_err(), "keys of zeros");
        assert!(import(&[&FORM[..], &[1; 32], &[0xff; 200]].concat()).is_err(), "four billion epochs");
    }

    #[test]
    fn the_statement_of_a_root_that_is_gone_comes_along_and_a_false_one_does_not() {
        let keyring = stated();
        assert!(keyring.epochs()[0].keys().is_none() && keyring.epochs()[1].statement().is_some());
        let bytes = export(&keyring, Some(b"x"));
        let back = import(&bytes).unwrap();
        assert_eq!(back.keyring.epochs()[1].statement(), keyring.epochs()[1].statement());
        let mut false_one = bytes.clone();
        let at = bytes.len() - 5 - 65;
        false_one[at] ^= 1;
        assert!(matches!(import(&false_one), Err(MaterialError::Statement(RootEpoch(1)))));
    }
}
