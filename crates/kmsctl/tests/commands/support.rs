//! A simulated machine, a test server with given responses, and the real `kmsctl`.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../client/src/testing.rs"]
pub mod testing;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use kms_attest::binding::ReportData;
use kms_attest::identity::AppId;
use kms_client::environment::envelope;
use kms_client::statement;
use secp256k1::ecdsa::RecoverableSignature;
use secp256k1::{Message, SecretKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sha3::Keccak256;
use tempfile::TempDir;

pub(crate) use self::testing::{Authority, Leaf, Reply, TestServer, World};

/// The program built by cargo.
pub const KMSCTL: &str = env!("CARGO_BIN_EXE_kmsctl");

/// A secp256k1 key that signs as the root of a KMS.
pub struct RootKey(SecretKey);

impl RootKey {
    pub fn new(seed: u8) -> Self {
        Self(SecretKey::from_secret_bytes([seed; 32]).expect("a scalar"))
    }

    pub fn public(&self) -> statement::Signer {
        statement::Signer::try_from(&self.0.public_key().serialize()[..]).expect("a key")
    }

    fn sign(&self, parts: &[&[u8]]) -> Vec<u8> {
        let digest: [u8; 32] =
            parts.iter().fold(Keccak256::new(), |hash, part| hash.chain_update(part)).finalize().into();
        let signature = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest), &self.0);
        let (recovery, compact) = signature.serialize_compact();
        [&compact[..], &[u8::from(recovery)]].concat()
    }

    /// The response of `GetAppEnvEncryptPubKey`, signed at `timestamp`.
    pub fn env_key(&self, app_id: AppId, timestamp: u64) -> Value {
        self.signed_env_key(app_id, &env_secret(app_id), timestamp)
    }

    fn signed_env_key(&self, app_id: AppId, secret: &[u8; 32], timestamp: u64) -> Value {
        let public = envelope::public_key(secret).expect("a key");
        let prefix = &b"dstack-env-encrypt-pubkey:"[..];
        json!({
            "public_key": hex::encode(public),
            "signature": hex::encode(self.sign(&[prefix, app_id.as_ref(), &public])),
            "timestamp": timestamp,
            "signature_v1": hex::encode(self.sign(&[prefix, app_id.as_ref(), &timestamp.to_be_bytes(), &public])),
        })
    }

    /// The response of `GetAppEnvEncryptPubKey` for named epochs, signed now.
    pub fn epoch_env_key(&self, app_id: AppId, root: u64, app: u64) -> Value {
        let mut answer = self.signed_env_key(app_id, &epoch_secret(app_id, root, app), now());
        answer["root_epoch"] = root.into();
        answer["app_epoch"] = app.into();
        answer
    }

    /// The statement over the public keys of a root epoch.
    pub fn root_epoch_signature(&self, number: u32, ca: &[u8; 91], key: &statement::Signer) -> Vec<u8> {
        self.sign(&[b"cvm-kms-root-epoch-v1:", &number.to_be_bytes(), ca, key.as_bytes()])
    }

    /// The signature over the key of a log.
    pub fn log_key_signature(&self, log_key: &str) -> Vec<u8> {
        self.sign(&[b"cvm-kms-log-key-v1:", log_key.as_bytes()])
    }

    /// The signature over an app's own key.
    pub fn app_key_signature(&self, app_id: AppId, key: &statement::Signer) -> Vec<u8> {
        self.sign(&[b"dstack-kms-issued:", app_id.as_ref(), key.as_bytes()])
    }
}

/// The secret that decrypts the environment of an app.
pub fn env_secret(app_id: AppId) -> [u8; 32] {
    Sha256::new().chain_update("env secret of ").chain_update(app_id).finalize().into()
}

/// The same in named epochs.
pub fn epoch_secret(app_id: AppId, root: u64, app: u64) -> [u8; 32] {
    let numbers = [root.to_be_bytes(), app.to_be_bytes()].concat();
    Sha256::new().chain_update("env secret of ").chain_update(app_id).chain_update(numbers).finalize().into()
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Alters the responses of a KMS: by method and response; a returned reply replaces it.
pub type Alter = Box<dyn Fn(&str, &mut Value) -> Option<Reply> + Send + Sync>;

/// A KMS in the simulated CVM of a world.
pub struct Kms {
    pub server: TestServer,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Kms {
    /// An honest one.
    pub async fn honest(world: &World) -> Self {
        Self::start(world, world.attested_leaf(), Box::new(|_, _| None)).await
    }

    /// Honest, except for its certificate.
    pub async fn showing(world: &World, leaf: Leaf) -> Self {
        Self::start(world, leaf, Box::new(|_, _| None)).await
    }

    /// Honest, except for the altered responses.
    pub async fn altered(
        world: &World,
        alter: impl Fn(&str, &mut Value) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start(world, world.attested_leaf(), Box::new(alter)).await
    }

    pub async fn start(world: &World, leaf: Leaf, alter: Alter) -> Self {
        let authority = Arc::new(Authority::new());
        let root = RootKey::new(7);
        let statement = statement::bootstrap_report_data(&authority.root.spki_der(), &root.public());
        let attestation = world.cvm.evidence(ReportData(statement.0)).encode();
        let app_id = AppId(*world.cvm.app_id());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let protocols = ["h2", "http/1.1"];
        let server = TestServer::start(authority, &[leaf], &protocols, move |authority, call| {
            log.lock().expect("log").push(call.method.clone());
            let request: Value = serde_json::from_slice(&call.body).unwrap_or(Value::Null);
            let mut answer = match call.method.as_str() {
                "GetTempCaCert" => authority.temp_ca_answer(),
                "GetMeta" => json!({
                    "ca_cert": authority.root_pem,
                    "k256_pubkey": root.public().to_string(),
                    "version": "test",
                    "bootstrap_info": {
                        "ca_pubkey": hex::encode(authority.root.spki_der()),
                        "k256_pubkey": root.public().to_string(),
                        "attestation": hex::encode(&attestation),
                    },
                }),
                "GetAppEnvEncryptPubKey" => {
                    let id = hex::decode(request["app_id"].as_str().expect("app id")).expect("hex");
                    let app_id = AppId::try_from(&id[..]).expect("20 bytes");
                    match request["root_epoch"].as_u64() {
                        None => root.env_key(app_id, now()),
                        Some(number) => {
                            let app_epoch = request["app_epoch"].as_u64().unwrap_or(0);
                            let mut answer =
                                root.signed_env_key(app_id, &epoch_secret(app_id, number, app_epoch), now());
                            answer["root_epoch"] = number.into();
                            answer["app_epoch"] = app_epoch.into();
                            answer
                        }
                    }
                }
                "GetAppKey" => {
                    assert!(call.client.is_some(), "keys are asked for with a certificate");
                    let key = statement::Signer::of_secret(&[9; 32]).expect("key");
                    json!({
                        "ca_cert": authority.root_pem,
                        "disk_crypt_key": "d1".repeat(32),
                        "env_crypt_key": hex::encode(env_secret(app_id)),
                        "k256_key": "09".repeat(32),
                        "k256_signature": hex::encode(root.app_key_signature(app_id, &key)),
                        "gateway_app_id": "any",
                        "os_image_hash": "05".repeat(32),
                    })
                }
                other => {
                    let body = json!({ "error": format!("Service not found: {other}") }).to_string();
                    let unknown = Reply::Status(404, body.into_bytes());
                    return alter(other, &mut Value::Null).unwrap_or(unknown);
                }
            };
            alter(&call.method, &mut answer).unwrap_or(Reply::Json(answer))
        })
        .await;
        Self { server, calls }
    }

    pub fn url(&self) -> String {
        self.server.url.to_string()
    }

    /// Every method called so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("log").clone()
    }

    /// Public key of its root CA, hex.
    pub fn root_spki(&self) -> String {
        hex::encode(self.server.authority.root.spki_der())
    }
}

/// A refusal in the form of a KMS.
pub fn refusal(status: u16, error: &str) -> Option<Reply> {
    Some(Reply::Status(status, json!({ "error": error }).to_string().into_bytes()))
}

/// A directory, and `kmsctl` run in it.
pub struct Desk {
    home: TempDir,
    environment: BTreeMap<String, String>,
}

/// The result of a run.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Default for Desk {
    fn default() -> Self {
        Self { home: tempfile::tempdir().expect("directory"), environment: BTreeMap::new() }
    }
}

impl Desk {
    /// With the files needed to verify the quotes of a world.
    pub fn in_world(world: &World) -> Self {
        let desk = Self::default();
        desk.write("root.der", world.platform.root_der());
        desk.with("KMS_PCCS_URL", &world.pccs.url()).with("DSTACK_AGENT_ADDRESS", world.agent.address())
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("file");
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect(name)
    }

    pub fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).expect(name).permissions().mode() & 0o777
    }

    /// `kmsctl` in the directory, with only the given environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(KMSCTL);
        command.args(arguments).current_dir(self.home.path()).env_clear();
        command.env("HOME", self.home.path()).envs(&self.environment);
        command
    }

    /// Runs it to its end on a blocking thread, because servers run on the runtime.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, "").await
    }

    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("kmsctl starts");
            // A program need not read its input.
            let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
            child.wait_with_output().expect("kmsctl ends")
        })
        .await
        .expect("no panic");
        Ran {
            code: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    /// The JSON on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not in: {}", self.err);
        self
    }
}

/// Whether a file is there.
pub fn exists(path: &Path) -> bool {
    path.exists()
}
