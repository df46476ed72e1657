//! A KMS in this process with everything it depends on simulated: the base of the integration tests.
//!
//! ```ignore
//! let world = World::ready().await;
//! let app = world.app(1);
//! world.allow_app(&app);
//! let answer = world.caller().shows(&world.attested(&app).await).json("GetAppKey", json!({})).await;
//! ```
//!
//! Every test binary compiles this module and uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod allowlist;
pub mod balancer;
pub mod config;
pub mod faults;
pub mod grpc;
pub mod guests;
pub mod http;
pub mod identity;
pub mod images;
pub mod issuer;
pub mod kmsctl;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod recovery;
pub mod source;
pub mod tools;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvm_kms::app::{self, AppError, Running};
use cvm_kms::config::Config;
use cvm_kms::proto::{BootstrapResponse, GetMetaResponse, GetTempCaCertResponse};
use kms_attest::binding::ReportData;
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;
use kms_client::sign::sign_cert_request;
use kms_simulator::{Cvm, GuestAgent, PccsServer, Platform, Stage};
use serde_json::{Value, json};

pub use self::allowlist::AllowlistFile;
pub use self::grpc::Channel;
pub use self::http::{Answer, Caller, Line};
pub use self::identity::Identity;

/// The domain of every KMS here.
pub const DOMAIN: &str = "localhost";
/// How long a test waits for what must happen, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What every error says of a file that another process has locked.
const LOCKED: &str = "is in use by another process";
/// More than a program takes from its start until it closes the files of the process that starts it.
const UNTIL_PROGRAMS_RUN: Duration = Duration::from_secs(2);
/// The token of the admin listener.
pub const ADMIN_TOKEN: &str = "the token of operators";

/// One machine for all tests, because creating one costs ten signatures.
static PLATFORM: LazyLock<Arc<Platform>> = LazyLock::new(|| Platform::from_seed(b"integration tests"));

/// A KMS with its machine, collateral service, guest agent, allowlist and directory.
pub struct World {
    /// The machine; its root is the one that the KMS trusts.
    pub platform: Arc<Platform>,
    /// The collateral service of the KMS.
    pub pccs: PccsServer,
    /// The guest agent of the KMS's CVM.
    pub agent: GuestAgent,
    /// The CVM of the KMS.
    pub cvm: Arc<Cvm>,
    /// The allowlist.
    pub allowlist: AllowlistFile,
    /// The complete configuration.
    pub config: toml::Table,
    directory: tempfile::TempDir,
    /// The running KMS.
    pub kms: Option<Running>,
}

/// Appends a record with this time to an audit log that is not in use.
pub fn append_record(file: &std::path::Path, time: &str) {
    use sha2::{Digest as _, Sha256};
    let text = std::fs::read_to_string(file).expect("an audit log");
    let last: Value = serde_json::from_str(text.lines().last().expect("a record")).expect("JSON");
    let (seq, prev) = (last["seq"].as_u64().expect("a number") + 1, last["hash"].as_str().expect("a hash"));
    let content = format!(r#"{{"seq":{seq},"time":"{time}","prev":"{prev}","event":"stopped""#);
    let hash = hex::encode(Sha256::digest(format!("{content}}}")));
    std::fs::write(file, format!("{text}{content},\"hash\":\"{hash}\"}}\n")).expect("an audit log");
}

impl World {
    /// A KMS that serves keys: bootstrapped and finished through its API. It is allowed itself; no app is
    /// allowed yet.
    pub async fn ready() -> Self {
        Self::ready_with("").await
    }

    /// Like [`World::ready`], with TOML added to its configuration.
    pub async fn ready_with(toml: &str) -> Self {
        let world = Self::onboarding_with(toml).await;
        world.bootstrap().await;
        world.finish().await;
        world
    }

    /// A KMS without keys, which is allowed itself.
    pub async fn onboarding() -> Self {
        Self::onboarding_with("").await
    }

    /// Like [`World::onboarding`], with TOML added to its configuration.
    pub async fn onboarding_with(toml: &str) -> Self {
        let mut world = Self::stopped_with(toml).await;
        world.start().await.expect("the KMS starts");
        world
    }

    /// Everything but the KMS, which is configured and allowed but not started.
    pub async fn stopped_with(toml: &str) -> Self {
        let cvm = Cvm::builder(&PLATFORM).app_id([0xca; 20]).stage(Stage::Ready).build();
        Self::stopped_in(cvm, toml).await
    }

    /// Like [`World::stopped_with`], with the KMS in the given CVM.
    pub async fn stopped_in(cvm: Arc<Cvm>, toml: &str) -> Self {
        let platform = Arc::clone(cvm.platform());
        let directory = tempfile::tempdir().expect("temporary directory");
        let pccs = PccsServer::start(&platform).await.expect("PCCS");
        let agent = GuestAgent::serve(&cvm, directory.path().join("agent.sock")).await.expect("guest agent");
        let root = directory.path().join("root.der");
        std::fs::write(&root, platform.root_der()).expect("root certificate");
        let allowlist = AllowlistFile::new(directory.path().join("auth-config.json"));
        allowlist.allow_kms(&cvm);
        let config = config::text(&config::Surroundings {
            directory: directory.path(),
            pccs: &pccs.url(),
            root: &root,
            agent: agent.address(),
            allowlist: allowlist.path(),
        });
        let config = config::laid_over(config, toml);
        Self { platform, pccs, agent, cvm, allowlist, config, directory, kms: None }
    }

    /// Like [`World::stopped_with`], on the same machine with another OS image.
    pub async fn of_another_image(toml: &str) -> Self {
        let cvm =
            Cvm::builder(&PLATFORM).app_id([0xca; 20]).os_image_hash([5; 32]).stage(Stage::Ready).build();
        Self::stopped_in(cvm, toml).await
    }

    /// Another node with the same root keys, which serves: the key files are copied, as a replica would have received them.
    pub async fn sibling_with(&self, toml: &str) -> Self {
        let mut sibling = Self::stopped_in(self.replica(), toml).await;
        copy_keys(&self.path("certs"), &sibling.path("certs"));
        sibling.start().await.expect("a node starts");
        sibling
    }

    /// Starts or restarts the KMS, with its keys if it has any.
    pub async fn start(&mut self) -> Result<(), AppError> {
        self.stop().await;
        let text = toml::to_string(&self.config).expect("TOML");
        let began = Instant::now();
        loop {
            let (config, _) = Config::from_toml(&text).expect("a valid configuration");
            match app::start(config).await {
                // A program that another test starts has the files of this process, and so their locks, until it runs.
                Err(error) if error.to_string().contains(LOCKED) && began.elapsed() < UNTIL_PROGRAMS_RUN => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                started => {
                    self.kms = Some(started?);
                    return Ok(());
                }
            }
        }
    }

    /// Restarts the KMS with an audit log on a device that is always full.
    pub async fn start_without_room_for_audit(&mut self) {
        self.configure(r#"core.audit.file = "/dev/full""#);
        // Another test may hold the lock of that file for a moment.
        while let Err(error) = self.start().await {
            assert!(error.to_string().contains(LOCKED), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the KMS after its running requests.
    pub async fn stop(&mut self) {
        if let Some(kms) = self.kms.take() {
            kms.stop().await.expect("the KMS ends in order");
        }
    }

    /// Adds TOML to the configuration, for the next start.
    pub fn configure(&mut self, toml: &str) {
        self.config = config::laid_over(std::mem::take(&mut self.config), toml);
    }

    /// The address of the KMS, in both phases.
    pub fn address(&self) -> SocketAddr {
        self.kms.as_ref().expect("the KMS runs").address()
    }

    /// The address of the admin service, which exists once keys are served.
    pub async fn admin_address(&self) -> SocketAddr {
        let kms = self.kms.as_ref().expect("the KMS runs");
        eventually("the admin listener", async || kms.admin_address()).await
    }

    /// A file in the world's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Removes what is kept of collateral: the next start needs a service.
    pub fn forget_collateral(&self) {
        std::fs::remove_dir_all(self.key_file("collateral")).expect("kept collateral");
    }

    /// A file of the key directory.
    pub fn key_file(&self, name: &str) -> PathBuf {
        self.path("certs").join(name)
    }

    /// The complete lines of the audit log; the last may be incomplete.
    pub fn audit(&self) -> Vec<Value> {
        self.audit_text().lines().map(parsed).collect()
    }

    fn audit_text(&self) -> String {
        let mut text = std::fs::read_to_string(self.key_file("audit.jsonl")).expect("audit log");
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// Appends a record with this time to the audit log of a stopped KMS.
    pub fn record_at(&self, time: &str) {
        append_record(&self.key_file("audit.jsonl"), time);
    }

    /// The lines of the audit log about `event`.
    pub fn audited(&self, event: &str) -> Vec<Value> {
        // Only lines that can be about it are parsed: tests wait for events in long logs.
        let lines =
            self.audit_text().lines().filter(|line| line.contains(event)).map(parsed).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line["event"] == event).collect()
    }

    /// A client of the KMS over HTTPS without a certificate, over HTTP/2.
    pub fn caller(&self) -> Caller {
        Caller::new(self.address())
    }

    /// A guest of this machine that waits for its keys: app number `number`.
    pub fn app(&self, number: u8) -> Arc<Cvm> {
        Cvm::builder(&self.platform).app_id([number; 20]).compose_hash([number; 32]).build()
    }

    /// A guest of this machine with a KMS like this one.
    pub fn replica(&self) -> Arc<Cvm> {
        Cvm::builder(&self.platform).app_id([0xca; 20]).stage(Stage::Ready).build()
    }

    /// Allows an app on any device.
    pub fn allow_app(&self, cvm: &Cvm) {
        self.allowlist.allow_app(cvm);
    }

    /// Allows a KMS on any device.
    pub fn allow_kms(&self, cvm: &Cvm) {
        self.allowlist.allow_kms(cvm);
    }

    /// Makes keys, over plain HTTP like operators.
    pub async fn bootstrap(&self) -> BootstrapResponse {
        let answer = self.caller().plain().json("Bootstrap", json!({ "domain": DOMAIN })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.message()
    }

    /// Ends onboarding and waits until keys are served.
    pub async fn finish(&self) {
        let answer = self.caller().plain().json("Finish", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serves(&self.caller()).await;
    }

    /// The temporary CA, as guests fetch it.
    pub async fn temp_ca(&self) -> GetTempCaCertResponse {
        let answer = self.caller().json("GetTempCaCert", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.message()
    }

    /// What the KMS says about itself.
    pub async fn meta(&self) -> GetMetaResponse {
        let answer = self.caller().json("GetMeta", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.message()
    }

    /// The value of a metric, by its name and labels.
    pub async fn metric<T: FromStr>(&self, sample: &str) -> Option<T> {
        let answer = self.caller().get("/metrics").await;
        let value = answer.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(value.parse().ok().expect("a number"))
    }

    /// A certificate of the temporary CA with evidence of `cvm`.
    pub async fn attested(&self, cvm: &Cvm) -> Identity {
        Identity::attested(&self.temp_ca().await, cvm)
    }

    /// A certificate of the temporary CA without evidence.
    pub async fn unattested(&self) -> Identity {
        Identity::unattested(&self.temp_ca().await)
    }

    /// The root keys in the key directory.
    pub fn root_keys(&self) -> cvm_kms::keys::RootKeys {
        let pem = |name| {
            let text = std::fs::read_to_string(self.key_file(name)).expect("key file");
            P256Key::from_pem(&text).expect("P-256 key")
        };
        let k256 = std::fs::read(self.key_file("root-k256.key")).expect("key file");
        let k256 = cvm_kms::keys::K256Key::from_bytes(&k256).expect("secp256k1 key");
        cvm_kms::keys::RootKeys::from_parts(pem("root-ca.key"), pem("tmp-ca.key"), k256)
    }
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).expect("JSON")
}

/// Waits until the KMS of this caller serves keys.
pub async fn serves(caller: &Caller) {
    eventually("keys are served", async || {
        let answer = caller.try_json("GetMeta", json!({})).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Makes a key directory with the root keys of another, as a replica would have received them.
pub fn copy_keys(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).expect("a key directory");
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a mode");
    for entry in std::fs::read_dir(from).expect("a key directory") {
        let name = entry.expect("an entry").file_name();
        let is_key =
            ["key", "crt"].iter().any(|end| std::path::Path::new(&name).extension() == Some(end.as_ref()));
        if is_key
            || ["rpc-domain", "keyring.json", "root-fingerprints.json"].iter().any(|known| name == *known)
        {
            std::fs::copy(from.join(&name), to.join(&name)).expect("a key file");
        }
    }
}

/// The `SignCert` request of an app for `key`, as JSON.
pub fn certificate_request(app: &Cvm, key: &P256Key) -> Value {
    serde_json::to_value(sign_cert_request(&csr(app, key), key, "")).expect("JSON")
}

/// The smallest certificate request of `app` for its own `key`.
pub fn csr(app: &Cvm, key: &P256Key) -> Csr {
    let spki = key.spki_der();
    Csr::plain(&spki, "app.example", app.evidence(ReportData::ra_tls(&spki)))
}

/// The first result of `attempt`, within [`PATIENCE`].
pub async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let (began, mut pause) = (Instant::now(), Duration::from_millis(5));
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(pause).await;
        // An attempt is often a connection with TLS, whose CPU time others need.
        pause = (2 * pause).min(Duration::from_millis(40));
    }
}

/// An address of this machine at which nothing listens, and nothing else can as long as this lasts.
pub struct Closed {
    _socket: tokio::net::TcpSocket,
    address: SocketAddr,
}

impl Closed {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let address = socket.local_addr().expect("an address");
        Self { _socket: socket, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The value of `Authorization` for a name and a password.
pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// The ports that this process has given away.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port for a listener that starts later, and may end and restart. It is below the ports of outgoing
/// connections and of listeners that let the system choose, which could take it meanwhile.
pub fn free_port() -> u16 {
    let random = || RandomState::new().build_hasher().finish();
    let ports = std::iter::repeat_with(|| 10_000 + (random() % 20_000) as u16);
    // Another caller has got it, and does not listen yet.
    let is_news = |port: u16| GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && is_news(*port);
    ports.take(1_000).find(is_free).expect("a free port")
}
