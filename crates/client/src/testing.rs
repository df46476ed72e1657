//! A small TLS server for tests, with chosen certificates and responses. The tests of `kmsctl` use it too.
#![allow(dead_code)]

#[path = "testing/kms.rs"]
mod kms;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, Role};
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::p256::P256Key;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_simulator::{Cvm, CvmBuilder, GuestAgent, PccsServer, Platform};

pub(crate) use self::kms::{Authority, Call, Reply};
use self::kms::{Clients, Server, Shown, spec};
use crate::{Connection, KmsUrl, Trust};

/// The certificate of a test server.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) key: Arc<P256Key>,
    pub(crate) names: Vec<String>,
    pub(crate) usage: Option<&'static str>,
    pub(crate) evidence: Option<Vec<u8>>,
    /// Signs the handshake instead of the certificate's key: an impostor with a copied certificate.
    pub(crate) impostor: Option<Arc<P256Key>>,
    /// Certificates sent after the leaf, DER.
    pub(crate) intermediates: Vec<Vec<u8>>,
    /// Issues the certificate instead of the root.
    pub(crate) issuer: Option<Arc<(P256Key, Vec<u8>)>>,
}

impl Leaf {
    /// The leaf of a KMS on loopback, without attestation.
    pub(crate) fn kms() -> Self {
        Self {
            key: Arc::new(P256Key::generate()),
            names: vec!["127.0.0.1".into(), "localhost".into()],
            usage: Some("kms:rpc"),
            evidence: None,
            impostor: None,
            intermediates: Vec::new(),
            issuer: None,
        }
    }
}

impl Authority {
    fn shown(&self, leaf: &Leaf) -> Shown {
        let spec = CertificateSpec {
            names: &leaf.names,
            usage: leaf.usage,
            evidence: leaf.evidence.as_deref(),
            ..spec("kms", Role::LEAF)
        };
        let issuer = match leaf.issuer.as_deref() {
            None => Issuer::from_pem(&self.root_pem, &self.root),
            Some((key, certificate)) => Issuer::new(certificate, key),
        };
        let issuer = issuer.expect("a CA");
        let der = certificate::issue(&spec, &leaf.key.spki_der(), &issuer).expect("leaf");
        let signs = leaf.impostor.as_ref().unwrap_or(&leaf.key);
        let chain = [der].into_iter().chain(leaf.intermediates.iter().cloned());
        Shown::of(chain.collect(), Arc::clone(signs)).admitting(Clients::OfOrAttested(self.temp_pem.clone()))
    }
}

/// A self-signed CA certificate, DER. All have the same name, so path search cannot tell them apart.
pub(crate) fn look_alike(key: &P256Key) -> Vec<u8> {
    certificate::self_signed(&spec("look alike", Role::Ca { path_len: 255 }), key).expect("CA")
}

/// A simulated TDX machine with a CVM, and what its software needs.
pub(crate) struct World {
    pub(crate) attester: Attester,
    pub(crate) verifier: Verifier,
    pub(crate) platform: Arc<Platform>,
    pub(crate) cvm: Arc<Cvm>,
    pub(crate) agent: GuestAgent,
    pub(crate) pccs: PccsServer,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|cvm| cvm).await
    }

    /// Like [`World::start`], with another CVM.
    pub(crate) async fn with(describe: impl FnOnce(CvmBuilder) -> CvmBuilder) -> Self {
        let platform = Platform::from_seed(b"kms-client tests");
        let pccs = PccsServer::start(&platform).await.expect("collateral server");
        let cvm = describe(Cvm::builder(&platform)).build();
        let agent = GuestAgent::serve_tcp(&cvm).await.expect("guest agent");
        let attester = Attester::at(agent.address()).expect("address");
        let anchors = TrustAnchors::with_tdx_root(platform.root_der()).expect("root");
        let cache =
            CollateralCache::new(&[pccs.url()], &anchors, CacheOptions::default()).expect("collateral");
        Self { attester, verifier: Verifier::new(anchors, cache), platform, cvm, agent, pccs }
    }

    /// The leaf of a KMS, with an attestation of its key.
    pub(crate) fn attested_leaf(&self) -> Leaf {
        let leaf = Leaf::kms();
        let evidence = self.cvm.evidence(ReportData::ra_tls(&leaf.key.spki_der()));
        Leaf { evidence: Some(evidence.stripped().encode()), ..leaf }
    }
}

/// A running server. Ends when dropped.
pub(crate) struct TestServer {
    pub(crate) url: KmsUrl,
    pub(crate) authority: Arc<Authority>,
    pub(crate) connections: Arc<AtomicUsize>,
    _server: Server,
}

impl TestServer {
    /// A server whose first connection shows the first leaf, the second connection the second, and so on; the
    /// last one repeats.
    pub(crate) async fn start(
        authority: Arc<Authority>,
        leaves: &[Leaf],
        protocols: &[&str],
        reply: impl Fn(&Authority, Call) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let shown: Vec<_> = leaves.iter().map(|leaf| authority.shown(leaf).speaking(protocols)).collect();
        let ca = Arc::clone(&authority);
        let server = Server::start(&shown, move |call| reply(&ca, call)).await;
        let url = format!("https://{}", server.address).parse().expect("url");
        Self { url, authority, connections: Arc::clone(&server.connections), _server: server }
    }

    /// A KMS with both protocols that gives every call the same reply.
    pub(crate) async fn answering(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2", "http/1.1"], move |_, _| reply())
            .await
    }

    /// A verified connection to it.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(&self.url, Trust::RootCa(&self.authority.root_pem), None).await.expect("connection")
    }
}
