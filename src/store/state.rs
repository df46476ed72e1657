//! The state of a key directory: empty, complete, or broken, which must not be overwritten.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kms_attest::certificate::{CertificateError, Issuer};
use kms_attest::p256::P256Key;
use zeroize::Zeroizing;

use super::disk::{exists, failed};
use super::file::{File, Permissions};
use super::fingerprints::{Fingerprints, Outdated};
use super::keyring::{OLD, Record};
use super::{KeyDirectory, StoreError};
use crate::keys::K256Key;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochKeys, EpochParts, EpochTimes, Keyring};
use crate::proto::BootstrapResponse;

/// The state of a [`KeyDirectory`].
#[derive(Debug)]
pub enum State {
    /// No root key: keys may be generated or received. Files of an unfinished attempt do not matter.
    Empty,
    /// All keys that cannot be derived.
    Complete(Box<Stored>),
    /// Some keys are missing or unusable. Nothing is overwritten.
    Broken {
        /// The files that are not there.
        missing: Vec<&'static str>,
        /// What is wrong and what the operator can do.
        reason: String,
    },
}

/// The content of a complete directory. Files that can be derived may be missing or damaged: `ca` makes them again, and
/// [`KeyDirectory::write_derived`] writes them.
#[derive(Debug)]
pub struct Stored {
    /// The root keys of every epoch.
    pub keyring: Keyring,
    /// `tmp-ca.key` verbatim: what replicas and guests are given. Public by design.
    pub temp_ca_key_pem: String,
    /// `root-ca.crt` verbatim, the certificate of epoch 0; `None` also if its keys are destroyed.
    pub root_ca_pem: Option<String>,
    /// `tmp-ca.crt` verbatim.
    pub temp_ca_pem: Option<String>,
    /// `rpc.key`
    pub rpc_key: Option<P256Key>,
    /// `rpc.crt` verbatim.
    pub rpc_pem: Option<String>,
    /// `rpc-domain` without white space around it.
    pub domain: Option<String>,
    /// `bootstrap-info.json` verbatim; a replica has none.
    pub bootstrap_info: Option<Vec<u8>>,
    /// Whether `root-fingerprints.json` vouches for the root keys of all epochs; a directory of the peer has none.
    pub is_fingerprinted: bool,
}

impl KeyDirectory {
    /// What the directory holds now.
    pub fn state(&self) -> Result<State, StoreError> {
        self.check_mode()?;
        if let Err(StoreError::TwoSets(file)) = self.check_commit() {
            return Ok(broken(None, StoreError::TwoSets(file).to_string()));
        }
        let (changes, records) = match self.read_records()? {
            None => (0, None),
            Some(Ok(contents)) => (contents.changes, Some(contents.records)),
            Some(Err(wrong)) => {
                return Ok(broken(
                    None,
                    format!("{} {wrong}: restore it from a backup", File::Keyring.name()),
                ));
            }
        };
        let fingerprints = self.read(File::Fingerprints)?;
        if records.is_none()
            && let Some(known) = fingerprints.as_ref().and_then(|text| Fingerprints::parse(text))
            && (known.further() > 0 || known.changes() > 0)
        {
            let reason = format!(
                "keyring.json is missing although there were {} root epochs after 0: restore it from a backup",
                known.further()
            );
            return Ok(broken(Some(File::Keyring), reason));
        }
        if records.is_none() && exists(&self.path.join(OLD))? {
            let reason = format!(
                "{} is missing although {OLD} is there, which is left of an older one: restore it from a backup",
                File::Keyring.name()
            );
            return Ok(broken(Some(File::Keyring), reason));
        }
        let first = [self.read(File::RootCaKey)?, self.read(File::RootK256Key)?];
        if let Some([destroyed, ..]) = records.as_deref()
            && destroyed.is_destroyed()
        {
            for file in File::FIRST_KEYS {
                if self.is_of_others(file, &destroyed.public)? {
                    return Ok(broken(None, of_others(file)));
                }
            }
            return self.state_with(None, records, changes, fingerprints.as_ref().map(|text| &text[..]));
        }
        let fingerprints = fingerprints.as_ref().map(|text| &text[..]);
        match first {
            [None, None] if records.is_some() => Ok(half(File::RootCaKey, File::Keyring)),
            [None, None] => Ok(match self.trace_of_lost_keys()? {
                Some(trace) => broken(Some(File::Keyring), StoreError::LostRootKeys(trace).to_string()),
                None => State::Empty,
            }),
            [Some(_), None] => Ok(half(File::RootK256Key, File::RootCaKey)),
            [None, Some(_)] => Ok(half(File::RootCaKey, File::RootK256Key)),
            [Some(ca), Some(k256)] => {
                let Ok(ca) = p256_key(&ca) else { return Ok(unusable(File::RootCaKey)) };
                let Ok(k256) = K256Key::from_bytes(&k256) else { return Ok(unusable(File::RootK256Key)) };
                self.state_with(Some((ca, k256)), records, changes, fingerprints)
            }
        }
    }

    /// Write access to the directory allows replacing the keys, whatever the modes of the files.
    fn check_mode(&self) -> Result<(), StoreError> {
        let metadata = fs::metadata(&self.path).map_err(failed("look at", &self.path))?;
        let mode = metadata.permissions().mode() & 0o7777;
        match self.permissions {
            _ if mode & 0o022 == 0 => Ok(()),
            Permissions::OwnerOnly => Err(StoreError::LooseDirectory { mode }),
            Permissions::InsecureAllowLoose => Ok(()),
        }
    }

    /// Logs accepted oddities once, when the directory is opened, because later reads are frequent.
    pub(super) fn warn(&self) {
        let mode = |path: &Path| Some(fs::symlink_metadata(path).ok()?.permissions().mode() & 0o7777);
        let found: Vec<(File, u32)> = File::ALL
            .into_iter()
            .filter_map(|file| Some((file, mode(&self.path.join(file.name()))?)))
            .collect();
        if self.permissions == Permissions::InsecureAllowLoose {
            if let Ok(mode) = fs::metadata(&self.path).map(|metadata| metadata.permissions().mode() & 0o7777)
                && mode & 0o022 != 0
            {
                tracing::warn!(
                    "INSECURE: others may replace the key files: the key directory has mode {mode:04o}"
                );
            }
            for (file, mode) in found.iter().filter(|(file, mode)| file.is_loose(*mode)) {
                tracing::warn!(file = file.name(), "INSECURE: others may use a key file: mode {mode:04o}");
            }
        }
        if !found.is_empty() && !found.iter().any(|(file, _)| File::ROOT_KEYS.contains(file)) {
            let files: Vec<&str> = found.iter().map(|(file, _)| file.name()).collect();
            let files = files.join(", ");
            tracing::warn!(
                "no root key in the key directory, but {files}: an unfinished attempt, or lost keys"
            );
        }
    }

    fn state_with(
        &self,
        first: Option<(P256Key, K256Key)>,
        records: Option<Vec<Record>>,
        changes: u64,
        fingerprints: Option<&[u8]>,
    ) -> Result<State, StoreError> {
        // A new temporary CA would not be accepted by replicas and by guests that hold the old one.
        let Some(temp_ca) = self.read(File::TempCaKey)? else {
            let reason = "tmp-ca.key is missing; it is public and the same on all replicas: take it from a backup, or \
                          from temp_ca_key in a replica's answer to GetTempCaCert";
            return Ok(broken(Some(File::TempCaKey), reason.to_owned()));
        };
        let Ok(temp_key) = p256_key(&temp_ca) else { return Ok(unusable(File::TempCaKey)) };
        let has_first = first.is_some();
        let stated = records.as_ref().and_then(|records| records.first()).map(|first| first.public);
        let statements: Vec<_> = records.iter().flatten().filter_map(Record::stated).collect();
        let parts = match records {
            Some(records) => {
                let mut first = first;
                records.into_iter().map(|record| record.into_parts(first.take())).collect::<Option<Vec<_>>>()
            }
            None => first.map(|(ca, k256)| {
                let keys = EpochKeys::Held { ca, k256 };
                vec![EpochParts {
                    epoch: RootEpoch::FIRST,
                    times: EpochTimes::FIRST,
                    keys,
                    root_ca_pem: None,
                }]
            }),
        };
        let keyring = match parts.map(|parts| Keyring::from_parts(temp_key, parts)) {
            Some(Ok(keyring)) => statements
                .into_iter()
                .fold(keyring, |keyring, (epoch, kept)| keyring.with_statement(epoch, kept)),
            Some(Err(error)) => {
                return Ok(broken(
                    None,
                    format!("keyring.json is damaged ({error}): restore it from a backup"),
                ));
            }
            None => return Ok(half(File::RootCaKey, File::Keyring)),
        };

        let root_ca_pem = self.read_text(File::RootCaCertificate)?.filter(|_| has_first);
        let temp_ca_pem = self.read_text(File::TempCaCertificate)?;
        let mut pairs = vec![(File::TempCaCertificate, temp_ca_pem.as_deref(), keyring.temp_ca())];
        for epoch in keyring.epochs() {
            let Some(keys) = epoch.keys() else { continue };
            pairs.push(match epoch.number() {
                RootEpoch::FIRST => (File::RootCaCertificate, root_ca_pem.as_deref(), keys.ca()),
                _ => (File::Keyring, epoch.root_ca_pem(), keys.ca()),
            });
        }
        for (file, pem, key) in pairs {
            if pem.and_then(|pem| Issuer::from_pem(pem, key).err()) == Some(CertificateError::KeyMismatch) {
                let reason = match file {
                    File::Keyring => {
                        "a certificate in keyring.json is of another key: restore it from a backup".to_owned()
                    }
                    File::RootCaKey
                    | File::RootK256Key
                    | File::TempCaKey
                    | File::RpcKey
                    | File::RootCaCertificate
                    | File::TempCaCertificate
                    | File::RpcCertificate
                    | File::Domain
                    | File::BootstrapInfo
                    | File::Fingerprints
                    | File::AppEpochs
                    | File::Domains => {
                        format!("{} is of another key: restore the whole set from one backup", file.name())
                    }
                };
                return Ok(broken(None, reason));
            }
        }
        let bootstrap_info = self.read(File::BootstrapInfo)?.map(|bytes| bytes.to_vec());
        let first_public = keyring.epochs()[0].public();
        let found = Fingerprints::of(&keyring, changes);
        if let Some(reason) = contradiction(&keyring, &found, fingerprints, bootstrap_info.as_deref()) {
            return Ok(broken(None, reason));
        }
        if stated.is_some_and(|stated| stated != *first_public) {
            let reason = "root-ca.key or root-k256.key is not the key of epoch 0 in keyring.json: restore the whole \
                          set from one backup";
            return Ok(broken(None, reason.to_owned()));
        }
        let domain = self.read_text(File::Domain)?;
        Ok(State::Complete(Box::new(Stored {
            is_fingerprinted: fingerprints.and_then(Fingerprints::parse) == Some(found),
            keyring,
            temp_ca_key_pem: String::from_utf8_lossy(&temp_ca).into_owned(),
            root_ca_pem,
            temp_ca_pem,
            rpc_key: self.read(File::RpcKey)?.and_then(|pem| p256_key(&pem).ok()),
            rpc_pem: self.read_text(File::RpcCertificate)?,
            domain: domain.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            bootstrap_info,
        })))
    }

    pub(super) fn read(&self, file: File) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        file.read(&self.path.join(file.name()), self.permissions)
    }

    fn read_text(&self, file: File) -> Result<Option<String>, StoreError> {
        Ok(self.read(file)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Evidence that the root keys differ from the committed ones.
fn contradiction(
    keyring: &Keyring,
    found: &Fingerprints,
    fingerprints: Option<&[u8]>,
    statement: Option<&[u8]>,
) -> Option<String> {
    let first = &keyring.epochs()[0];
    if let Some(text) = fingerprints {
        let Some(kept) = Fingerprints::parse(text) else {
            return Some(
                "root-fingerprints.json is damaged: restore it from a backup, or, if the root keys are known \
                 to be right, remove it, and it is made again"
                    .to_owned(),
            );
        };
        let pairs = [
            (File::RootCaKey, kept.root_ca, found.root_ca),
            (File::RootK256Key, kept.root_k256, found.root_k256),
        ];
        for (file, kept, found) in pairs {
            if kept != found {
                let file = if first.keys().is_some() { file } else { File::Keyring };
                return Some(format!(
                    "{} is not the key that was saved: its fingerprint in root-fingerprints.json is another; \
                     restore it from a backup",
                    file.name()
                ));
            }
        }
        if let Some(epoch) = kept.other_epoch(found) {
            return Some(format!(
                "keyring.json does not have the keys of root epoch {epoch} that were saved: their fingerprints in \
                 root-fingerprints.json are others; restore it from a backup"
            ));
        }
        if let Some(outdated) = kept.outdated(found) {
            return Some(not_the_last(outdated));
        }
    }
    // An unreadable statement is ignored, as in the peer.
    let statement: BootstrapResponse = kms_attest::json::from_utf8(statement?).ok()?;
    let pairs = [
        (File::RootCaKey, &statement.ca_pubkey[..], &first.public().ca_spki[..]),
        (File::RootK256Key, &statement.k256_pubkey[..], &first.public().k256[..]),
    ];
    let (file, ..) = pairs.into_iter().find(|(_, stated, held)| !stated.is_empty() && stated != held)?;
    Some(match fingerprints {
        Some(_) => format!(
            "bootstrap-info.json names another public key than that of {}, which has the right fingerprint: restore \
             bootstrap-info.json from a backup",
            file.name()
        ),
        None => format!(
            "{} is not the key that bootstrap-info.json names: one of the two is damaged; restore both from a backup",
            file.name()
        ),
    })
}

/// An older keyring would bring epochs back that were retired or destroyed.
fn not_the_last(outdated: Outdated) -> String {
    let wrong = match outdated {
        Outdated::Older { found, known } => {
            format!("is older than the last one: it is that of change {found}, and there were {known}")
        }
        Outdated::OtherStates => {
            "has other states of root epochs than the last one, although it was changed as often".to_owned()
        }
    };
    format!(
        "keyring.json {wrong}. Epochs that were retired may be in force in it. Restore the newest one from a backup; if \
         there is none, give this node its keys again from a replica, or remove root-fingerprints.json, start this KMS \
         where no guest reaches it, and run kmsctl epoch fetch with a replica as the source"
    )
}

fn of_others(file: File) -> String {
    format!(
        "{} is another key than that of epoch 0, which keyring.json says is destroyed: there are two sets of root keys, \
         move the wrong one away",
        file.name()
    )
}

fn p256_key(pem: &[u8]) -> Result<P256Key, ()> {
    P256Key::from_pem(std::str::from_utf8(pem).map_err(drop)?).map_err(drop)
}

fn broken(missing: Option<File>, reason: String) -> State {
    State::Broken { missing: missing.map(File::name).into_iter().collect(), reason }
}

fn half(missing: File, present: File) -> State {
    let (missing_name, present) = (missing.name(), present.name());
    broken(
        Some(missing),
        format!(
            "{missing_name} is missing although {present} is there: restore it from a backup; if no app has ever used \
             these keys, move {present} away to start with new keys"
        ),
    )
}

fn unusable(file: File) -> State {
    broken(None, format!("{} is not a usable private key: restore it from a backup", file.name()))
}
