//! Every label of the key scheme. They are part of the protocol: a changed byte is another key.

/// Salt of the key derivation function.
pub const KDF_SALT: &[u8] = b"RATLS";
/// Salt of the same for keys of an app that are not of domain `default` and epochs 0 and 0. Not of the peer.
pub const KDF_SALT_V2: &[u8] = b"cvm-kms-keys-v2";

/// Disk key of an app instance.
pub const APP_DISK_CRYPT_KEY: &[u8] = b"app-disk-crypt-key";
/// X25519 secret that decrypts an app's environment.
pub const ENV_ENCRYPT_KEY: &[u8] = b"env-encrypt-key";
/// Key of an app's certificate authority.
pub const APP_CA: &[u8] = b"app-ca";
/// secp256k1 key of an app.
pub const APP_KEY: &[u8] = b"app-key";
/// Ed25519 key that signs a node's log of releases. Not of the peer.
pub const LOG_KEY: &[u8] = b"cvm-kms-log-key";
/// Key of the salts of records that have none of their own. Not of the peer.
pub const LOG_LEGACY_SALTS: &[u8] = b"cvm-kms-log-legacy-salts";
/// Key that authenticates the state that the nodes of a fleet share. Not of the peer.
pub const STATE_KEY: &[u8] = b"cvm-kms-state-key";
/// Keys that are only there to compare root keys. Not of the peer.
pub const CANARY_KEY: &[u8] = b"cvm-kms-canary-key";

/// Prefix of the statement "this secp256k1 key belongs to this app".
pub const KMS_ISSUED: &[u8] = b"dstack-kms-issued";
/// Prefix of the statement "this X25519 key encrypts the environment of this app".
pub const ENV_ENCRYPT_PUBKEY: &[u8] = b"dstack-env-encrypt-pubkey";
/// Prefix of the statement "this key signs the log of one of our nodes". Not of the peer.
pub const LOG_KEY_STATEMENT: &[u8] = b"cvm-kms-log-key-v1";
/// Prefix of the statement "this is a recovery set of our root keys", of the crate that verifies it. Not of the peer.
pub const RECOVERY_SET: &[u8] = kms_recovery::LABEL;
/// Prefix of the statement "these are the public keys of this root epoch". Not of the peer.
pub const ROOT_EPOCH_STATEMENT: &[u8] = b"cvm-kms-root-epoch-v1";
/// Prefix of what the bootstrap quote vouches for. The peer's spelling mistake is part of the protocol:
/// `docs/compatibility.md`.
pub const BOOTSTRAP_KEYS: &str = "dstack-kms-genereted-keys-v1:";
