//! A server on loopback that impersonates a source KMS or an app, with any certificate, response or failure.
//!
//! ```ignore
//! let cluster = Cluster::new();
//! let leaf = cluster.leaf(&world.cvm);
//! let source = Source::start(&[leaf], cluster.answers()).await;
//! // … Onboard from `source.url()` …
//! assert_eq!(source.calls(), ["GetTempCaCert on 0", …]);
//! ```

#[path = "../../crates/client/src/testing/kms.rs"]
mod kms;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, Role, oid};
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use self::kms::{Authority, Clients, Reply, Shown};
use self::kms::{Server, spec};
use super::Identity;

const LIFE: Duration = Duration::from_secs(60);

/// The keys of another cluster, and the responses of its KMS.
pub struct Cluster {
    pub ca: Authority,
    pub k256: [u8; 32],
}

/// The reaction to each method.
pub type Answers = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// A running server; dropping it closes its port and its connections.
pub struct Source {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    _running: Running,
}

/// What a server ends with.
enum Running {
    Tls(Server),
    Plain(JoinSet<()>),
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// New keys.
    pub fn new() -> Self {
        Self { ca: Authority::new(), k256: [0x11; 32] }
    }

    /// The certificate of a KMS of this cluster in `cvm`, attested.
    pub fn leaf(&self, cvm: &Cvm) -> Shown {
        let key = P256Key::generate();
        let evidence = cvm.evidence(ReportData::ra_tls(&key.spki_der())).stripped().encode();
        self.leaf_over(key, Some(&evidence))
    }

    /// The certificate of a KMS of this cluster over a key, with any bytes in place of evidence.
    pub fn leaf_over(&self, key: P256Key, evidence: Option<&[u8]>) -> Shown {
        self.issue(&CertificateSpec { usage: Some("kms:rpc"), evidence, ..loopback("kms", &names()) }, key)
    }

    /// Any certificate of this cluster's root CA.
    pub fn issue(&self, spec: &CertificateSpec<'_>, key: P256Key) -> Shown {
        let issuer = Issuer::from_pem(&self.ca.root_pem, &self.ca.root).expect("own CA");
        let leaf = certificate::issue(spec, &key.spki_der(), &issuer).expect("a certificate");
        Shown::of(vec![leaf], key)
    }

    /// The certificate of an older KMS version in `cvm`.
    pub fn legacy_leaf(&self, cvm: &Cvm) -> Shown {
        let key = P256Key::generate();
        Shown::of(vec![legacy(&self.ca.root_pem, &self.ca.root, cvm, &key, Some("kms:rpc"))], key)
    }

    /// The response of `GetTempCaCert`.
    pub fn temp_ca(&self) -> Value {
        self.ca.temp_ca_answer()
    }

    /// The response of `GetMeta`.
    pub fn meta(&self) -> Value {
        json!({ "ca_cert": self.ca.root_pem, "k256_pubkey": hex::encode(self.k256_public()) })
    }

    /// The response of `GetKmsKey`.
    pub fn handover(&self) -> Value {
        json!({
            "temp_ca_key": self.ca.temp.pem().as_str(),
            "keys": [{ "ca_key": self.ca.root.pem().as_str(), "k256_key": hex::encode(self.k256) }],
        })
    }

    /// The public half of the secp256k1 key.
    pub fn k256_public(&self) -> [u8; 33] {
        *cvm_kms::keys::K256Key::from_scalar(&self.k256).expect("a scalar").public_key()
    }

    /// The responses of a KMS of this cluster to a replica.
    pub fn answers(&self) -> Answers {
        self.answering(|_| None)
    }

    /// Like [`Cluster::answers`], except where `other` has a reaction of its own.
    pub fn answering(&self, other: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Answers {
        let (temp_ca, meta, handover) = (self.temp_ca(), self.meta(), self.handover());
        Arc::new(move |method| {
            other(method).unwrap_or_else(|| match method {
                "GetTempCaCert" => Reply::Json(temp_ca.clone()),
                "GetMeta" => Reply::Json(meta.clone()),
                "GetKmsKey" => Reply::Json(handover.clone()),
                other => Reply::Page(
                    400,
                    "application/json",
                    format!("{{\"error\": \"Service not found: {other}\"}}"),
                ),
            })
        })
    }
}

/// A certificate for `key` as older versions make it: the quote and the event log are in separate extensions,
/// and the VM's configuration is missing.
pub fn legacy(ca_pem: &str, ca_key: &P256Key, cvm: &Cvm, key: &P256Key, usage: Option<&str>) -> Vec<u8> {
    let quote = cvm.quote(ReportData::ra_tls(&key.spki_der()).0);
    let log = serde_json::to_vec(&cvm.event_log()).expect("JSON");
    // The payload is wrapped again, with a length of two bytes or one.
    let extension = |oid: &[u64], payload: &[u8]| {
        let length = u16::try_from(payload.len()).expect("below 64 KiB").to_be_bytes();
        let header =
            if payload.len() < 0x80 { vec![4, length[1]] } else { vec![4, 0x82, length[0], length[1]] };
        rcgen::CustomExtension::from_oid_content(oid, [&header, payload].concat())
    };
    let mut params = rcgen::CertificateParams::new(names()).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "RA-TLS TEMP Cert");
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    params.custom_extensions = vec![extension(oid::TDX_QUOTE, &quote), extension(oid::EVENT_LOG, &log)];
    params.custom_extensions.extend(usage.map(|usage| extension(oid::SPECIAL_USAGE, usage.as_bytes())));
    let issuer = rcgen::Issuer::from_ca_cert_pem(ca_pem, ca_key).expect("a CA");
    params.signed_by(key, &issuer).expect("a certificate").der().to_vec()
}

/// The names of the servers here.
pub fn names() -> Vec<String> {
    vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
}

/// A server certificate with nothing but its names.
pub fn loopback<'a>(common_name: &'a str, names: &'a [String]) -> CertificateSpec<'a> {
    CertificateSpec { names, ..spec(common_name, Role::LEAF) }
}

impl Shown {
    /// The leaf as a client certificate.
    pub fn identity(&self) -> Identity {
        Identity::of(self.leaf().to_vec(), self.key())
    }
}

impl Source {
    /// A server whose first connection shows the first of `shown`, the second connection the second, and so
    /// on; the last one repeats.
    pub async fn start(shown: &[Shown], answers: Answers) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let server = Server::start(shown, move |call| {
            // Every replica asks whether there are challenges; these sources know none.
            if call.method == "GetChallenge" {
                let unknown = r#"{"error": "Service not found: GetChallenge"}"#.to_owned();
                return Reply::Page(400, "application/json", unknown);
            }
            log.lock().expect("no panic").push(format!("{} on {}", call.method, call.connection));
            answers(&call.method)
        });
        let server = server.await;
        Self { address: server.address, calls, _running: Running::Tls(server) }
    }

    /// A server without TLS: it sends `bytes` after accept, and waits.
    pub async fn speaking(bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                let bytes = bytes.clone();
                connections.spawn(timeout(LIFE, async move {
                    let mut hello = [0; 1024];
                    let _ = tcp.read(&mut hello).await;
                    let _ = tcp.write_all(&bytes).await;
                    while tcp.read(&mut hello).await.is_ok_and(|read| read > 0) {}
                }));
            }
        });
        Self { address, calls: Arc::default(), _running: Running::Plain(task) }
    }

    /// `https://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The calls so far, each with the number of its connection.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }
}
