//! The cost of the parts of a cold `GetAppKey` on their own: CPU time of one thread, in the same run as the
//! complete call.

use std::sync::Arc;
use std::time::Duration;

use cvm_kms::keys::{RootKeys, derive};
use dcap_qvl::verify::QuoteVerifier;
use kms_attest::collateral::Collateral;
use kms_attest::identity::AppId;
use kms_attest::platform::tdx::verify_quote;
use kms_attest::trust::TrustAnchors;
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Repetitions of each part.
pub(super) const TIMES: u16 = 400;

/// CPU time of each part.
pub(super) struct Parts {
    /// The server's side of a TLS 1.3 handshake with a client certificate of the temporary CA.
    pub(super) handshake: Duration,
    /// Verification of a quote as in the service: by `dcap-qvl`, with cached signatures for what all quotes
    /// of a platform share.
    pub(super) quote: Duration,
    /// `dcap-qvl` with its own cryptography, without a cache, on the same quote. Not in the sum.
    pub(super) library: Duration,
    /// All keys of an app, with its cached signature.
    pub(super) derivation: Duration,
}

impl Parts {
    /// The sum of the parts.
    pub(super) fn sum(&self) -> Duration {
        self.handshake + self.quote + self.derivation
    }
}

/// The server's side of a handshake, by rustls with its own client certificate verifier.
pub(super) fn handshake(server: &Arc<ServerConfig>, clients: &[Arc<ClientConfig>]) -> Duration {
    let mut spent = Duration::ZERO;
    for number in 0..usize::from(TIMES) {
        let name = ServerName::try_from(crate::support::DOMAIN).expect("a name");
        let config = Arc::clone(&clients[number % clients.len()]);
        let mut client = ClientConnection::new(config, name).expect("a client");
        let begin = now();
        let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
        spent += now() - begin;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let begin = now();
            let mut unread = &wire[..];
            while !unread.is_empty() {
                server.read_tls(&mut unread).expect("memory");
                server.process_new_packets().expect("a good client");
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("memory");
            }
            spent += now() - begin;
            let mut unread = &wire[..];
            while !unread.is_empty() {
                client.read_tls(&mut unread).expect("memory");
                client.process_new_packets().expect("a good server");
            }
        }
    }
    spent / u32::from(TIMES)
}

/// A plain rustls server that requests certificates of the temporary CA.
pub(super) fn asking_server(
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    temp_ca: CertificateDer<'static>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(temp_ca).expect("the temporary CA");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf], key)
        .expect("certificate and key belong together");
    Arc::new(config)
}

/// Verification of each of these quotes, which are new to this process.
pub(super) fn quote(
    quotes: &[Vec<u8>],
    collateral: &Collateral,
    anchors: &TrustAnchors,
    unix_now: u64,
) -> Duration {
    let begin = now();
    for quote in quotes {
        verify_quote(quote, collateral, anchors, unix_now).expect("a good quote");
    }
    (now() - begin).div_f64(quotes.len() as f64)
}

/// The same by the unmodified library.
pub(super) fn library(
    quotes: &[Vec<u8>],
    collateral: &Collateral,
    anchors: &TrustAnchors,
    unix_now: u64,
) -> Duration {
    let verifier = QuoteVerifier::new(anchors.tdx_root().to_vec());
    let begin = now();
    for quote in quotes {
        verifier.verify(quote, collateral.parts(), unix_now).expect("a good quote");
    }
    (now() - begin).div_f64(quotes.len() as f64)
}

/// The derivations of one response. The service caches the signature.
pub(super) fn derivation(root: &RootKeys) -> Duration {
    let begin = now();
    for number in 0..TIMES {
        let mut app_id = [0; 20];
        app_id[..2].copy_from_slice(&number.to_be_bytes());
        derive::signed_app_keys(root, &AppId(app_id), b"instance", || Ok([0; 65])).expect("keys");
    }
    (now() - begin) / u32::from(TIMES)
}

/// CPU time of this process.
pub(super) fn process_time() -> Duration {
    time(ClockId::ProcessCPUTime)
}

/// CPU time of this thread.
fn now() -> Duration {
    time(ClockId::ThreadCPUTime)
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("time runs forward");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}
