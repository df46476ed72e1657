//! What a key is for, and its one encoding in the derivation.

use kms_attest::identity::{AppId, DomainName};

use super::epoch::KeyEpochs;
use super::label;

/// What a key of an app is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Encrypts the disk of an instance.
    DiskKey,
    /// The X25519 secret that decrypts the environment.
    EnvKey,
    /// The key of the app's certificate authority.
    AppCa,
    /// The secp256k1 key of the app.
    AppKey,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 4] = [Self::DiskKey, Self::EnvKey, Self::AppCa, Self::AppKey];

    /// Its label.
    pub fn label(self) -> &'static [u8] {
        match self {
            Self::DiskKey => label::APP_DISK_CRYPT_KEY,
            Self::EnvKey => label::ENV_ENCRYPT_KEY,
            Self::AppCa => label::APP_CA,
            Self::AppKey => label::APP_KEY,
        }
    }
}

/// Everything that makes one key of an app another than all other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyScope<'a> {
    /// The name of the domain.
    pub domain: &'a str,
    /// The epochs.
    pub epochs: KeyEpochs,
    /// The app.
    pub app_id: &'a AppId,
    /// The instance; empty where all instances share the key. Only a disk key of the peer has one.
    pub instance_id: &'a [u8],
    /// What the key is for.
    pub purpose: Purpose,
}

impl<'a> KeyScope<'a> {
    /// Whether the key is one that the peer derives too.
    pub fn is_first(&self) -> bool {
        let is_of_peer = self.purpose == Purpose::DiskKey || self.instance_id.is_empty();
        self.domain == DomainName::DEFAULT.as_str() && self.epochs.is_first() && is_of_peer
    }

    /// The context items of the peer's derivation: `app_id ‖ instance_id ‖ label`.
    pub(super) fn first_context(&self) -> [&'a [u8]; 3] {
        [&self.app_id.0, self.instance_id, self.purpose.label()]
    }

    /// The info of the derivation of all other keys:
    /// `LP(domain) ‖ u32be(root epoch) ‖ u32be(app epoch) ‖ app_id ‖ LP(instance_id) ‖ LP(label)`, where
    /// `LP(x) = u32be(length of x) ‖ x`. No two scopes have the same, because each part has a fixed length or states it.
    pub fn info(&self) -> Vec<u8> {
        let label = self.purpose.label();
        let mut info = Vec::with_capacity(40 + self.domain.len() + self.instance_id.len() + label.len());
        prefixed(&mut info, self.domain.as_bytes());
        info.extend(self.epochs.root.0.to_be_bytes());
        info.extend(self.epochs.app.0.to_be_bytes());
        info.extend(self.app_id.0);
        prefixed(&mut info, self.instance_id);
        prefixed(&mut info, label);
        info
    }
}

fn prefixed(info: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("no domain, instance id or label has 4 GiB");
    info.extend(length.to_be_bytes());
    info.extend(part);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::epoch::{AppEpoch, RootEpoch};

    /// Every text of up to `length` letters of `letters`.
    fn texts(letters: &[char], length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}")))
                .collect();
            all.extend(last.clone());
        }
        all
    }

    fn epochs(root: u32, app: u32) -> KeyEpochs {
        KeyEpochs { root: RootEpoch(root), app: AppEpoch(app) }
    }

    #[test]
    fn no_two_scopes_of_small_alphabets_share_an_encoding() {
        // Letters that are also lengths, parts of numbers and parts of labels.
        let parts = texts(&['\0', '\u{1}', 'a'], 3);
        let apps = [[0; 20], [1; 20], std::array::from_fn(|index| (index == 19).into())].map(AppId);
        let numbers = [0, 1, 256, 0x0100_0000];
        let mut seen: HashMap<Vec<u8>, String> = HashMap::new();
        for domain in &parts {
            for instance_id in &parts {
                for (root, app) in numbers.iter().flat_map(|root| numbers.map(|app| (*root, app))) {
                    for app_id in &apps {
                        for purpose in Purpose::ALL {
                            let epochs = epochs(root, app);
                            let instance_id = instance_id.as_bytes();
                            let scope = KeyScope { domain, epochs, app_id, instance_id, purpose };
                            let shown = format!("{scope:?}");
                            if let Some(other) = seen.insert(scope.info(), shown.clone()) {
                                panic!("{shown} is encoded as {other}");
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), 40 * 40 * 16 * 3 * 4);
    }

    /// Domain, epochs, app id, instance id and label.
    type Decoded = (String, KeyEpochs, [u8; 20], Vec<u8>, Vec<u8>);

    /// Reads an encoding back, with nothing left over.
    fn decoded(info: &[u8]) -> Option<Decoded> {
        fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
            let (length, after) = rest.split_first_chunk()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            *rest = after;
            Some(part)
        }
        fn number(rest: &mut &[u8]) -> Option<u32> {
            let (number, after) = rest.split_first_chunk()?;
            *rest = after;
            Some(u32::from_be_bytes(*number))
        }
        let mut rest = info;
        let domain = String::from_utf8(part(&mut rest)?.to_vec()).ok()?;
        let epochs = epochs(number(&mut rest)?, number(&mut rest)?);
        let (app_id, mut rest) = rest.split_first_chunk()?;
        let (instance_id, label) = (part(&mut rest)?.to_vec(), part(&mut rest)?.to_vec());
        rest.is_empty().then_some((domain, epochs, *app_id, instance_id, label))
    }

    #[test]
    fn the_peer_derives_only_keys_of_the_default_domain_at_the_first_epochs() {
        let app_id = &AppId([7; 20]);
        for (domain, root, app) in [
            ("default", 0, 0),
            ("sandbox", 0, 0),
            ("Default", 0, 0),
            ("", 0, 0),
            ("default", 1, 0),
            ("default", 0, 1),
        ] {
            for purpose in Purpose::ALL {
                for instance_id in [&[][..], &[7; 20]] {
                    let epochs = epochs(root, app);
                    let scope = KeyScope { domain, epochs, app_id, instance_id, purpose };
                    let has_instance = !instance_id.is_empty() && purpose != Purpose::DiskKey;
                    assert_eq!(
                        scope.is_first(),
                        domain == "default" && root + app == 0 && !has_instance,
                        "{scope:?}"
                    );
                }
            }
        }
    }

    proptest! {
        /// What can be read back is shared by no other scope.
        #[test]
        fn every_encoding_says_all_of_its_scope(
            domain in ".{0,40}",
            root in any::<u32>(),
            app in any::<u32>(),
            app_id in any::<[u8; 20]>(),
            instance_id in proptest::collection::vec(any::<u8>(), 0..64),
            purpose in proptest::sample::select(&Purpose::ALL[..]),
        ) {
            let epochs = epochs(root, app);
            let scope = KeyScope {
                domain: &domain, epochs, app_id: &AppId(app_id), instance_id: &instance_id, purpose,
            };
            let read = decoded(&scope.info());
            prop_assert_eq!(read, Some((domain, epochs, app_id, instance_id, purpose.label().to_vec())));
        }
    }
}
