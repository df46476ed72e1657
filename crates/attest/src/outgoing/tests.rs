//! Servers that a `ca_file` makes trusted, and the messages for the others.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Made by `openssl req -new` and `openssl x509 -req -signkey`, as the installer of Intel's PCCS does:
/// version 1, without names and extensions.
const VERSION_1: &str = include_str!("version-1.pem");
const VERSION_1_KEY: &str = include_str!("version-1.key.pem");

struct Server {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A server that responds "ok", with any certificate.
    async fn start(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = provider.key_provider.load_private_key(key).unwrap();
        let resolver = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        });
        Self { port, task }
    }

    async fn ask(&self, extra: &[CertificateDer<'static>]) -> Result<(), String> {
        ask(&format!("https://localhost:{}/", self.port), extra).await
    }
}

async fn ask(url: &str, extra: &[CertificateDer<'static>]) -> Result<(), String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(client_config(extra).unwrap())
        .build()
        .unwrap();
    match client.get(url).send().await {
        Ok(_) => Ok(()),
        Err(error) => Err(Cause::of(&error).to_string()),
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        // A name of its own, as CAs have.
        let name = hex::encode(&key.public_key_raw()[1..9]);
        ca.distinguished_name.push(rcgen::DnType::CommonName, name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(ca, key), root }
    }

    async fn serve(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Server {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap().der().clone();
        Server::start(leaf, PrivateKeyDer::try_from(key.serialize_der()).unwrap()).await
    }
}

const UNKNOWN: &str =
    "its certificate is not issued by a known CA; name its CA, or the certificate itself, in ca_file";

#[tokio::test]
async fn what_a_named_ca_issued_is_trusted_as_if_it_were_public() {
    let ca = Ca::new();
    let extra = [ca.root.clone()];
    let good = ca.serve("localhost", |_| ()).await;
    assert_eq!(good.ask(&extra).await, Ok(()));
    assert_eq!(good.ask(&[]).await, Err(UNKNOWN.to_owned()));
    assert_eq!(good.ask(&[Ca::new().root]).await, Err(UNKNOWN.to_owned()));
    let other = ca.serve("elsewhere.example", |_| ()).await;
    assert_eq!(other.ask(&extra).await, Err("its certificate is for another name".to_owned()));
    let old = ca.serve("localhost", |leaf| leaf.not_after = date_time_ymd(2020, 1, 1)).await;
    assert_eq!(old.ask(&extra).await, Err("its certificate has expired".to_owned()));
    let early = ca.serve("localhost", |leaf| leaf.not_before = date_time_ymd(4000, 1, 1)).await;
    assert_eq!(early.ask(&extra).await, Err("its certificate is not valid yet".to_owned()));
}

#[tokio::test]
async fn a_named_certificate_is_trusted_whatever_it_says_and_its_neighbours_are_not() {
    let self_signed = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["elsewhere.example".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let version_1 = (
        CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap(),
        PrivateKeyDer::from_pem_slice(VERSION_1_KEY.as_bytes()).unwrap(),
    );
    let cases: [(&str, (CertificateDer<'static>, PrivateKeyDer<'static>)); 4] = [
        ("another name", self_signed(|_| ())),
        ("a CA", self_signed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("expired", self_signed(|params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("version 1", version_1),
    ];
    for (case, (certificate, key)) in cases {
        let server = Server::start(certificate.clone(), key.clone_key()).await;
        assert_eq!(server.ask(std::slice::from_ref(&certificate)).await, Ok(()), "{case}");
        assert!(server.ask(&[]).await.is_err(), "{case}");
        assert!(server.ask(&[Ca::new().root]).await.is_err(), "{case}");
        // The certificate without its key is useless.
        let other_key = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
        let thief = Server::start(certificate.clone(), other_key).await;
        assert!(thief.ask(&[certificate]).await.is_err(), "{case}");
    }
}

#[tokio::test]
async fn a_pinned_certificate_that_is_not_a_ca_makes_nothing_else_trusted() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["pccs.example".to_owned()]).unwrap();
    let named = params.self_signed(&key).unwrap().der().clone();
    let other = Ca { issuer: Issuer::new(params, key), root: named.clone() };
    let server = other.serve("localhost", |_| ()).await;
    assert_eq!(server.ask(&[named]).await, Err(UNKNOWN.to_owned()));
}

#[tokio::test]
async fn other_causes_have_their_words_too() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let refused = ask(&format!("https://localhost:{port}/"), &[]).await;
    assert_eq!(refused, Err("connection refused".to_owned()));
    // The client has no type for this, only words.
    let unknown = ask("https://nothing.invalid/", &[]).await;
    assert_eq!(unknown, Err("the name does not resolve".to_owned()));
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let _ = stream.read(&mut [0; 4096]).await;
    });
    assert_eq!(
        ask(&format!("https://localhost:{port}/"), &[]).await,
        Err("it does not speak TLS".to_owned())
    );
    task.abort();
}

#[test]
fn a_ca_file_holds_certificates_and_some() {
    let root = crate::certificate::pem(&Ca::new().root);
    assert_eq!(ca_file(root.as_bytes()).unwrap().len(), 1);
    assert_eq!(ca_file(format!("{root}{VERSION_1}").as_bytes()).unwrap().len(), 2);
    for (file, expected) in [
        ("", CaFileError::Empty),
        ("localhost", CaFileError::Empty),
        (VERSION_1_KEY, CaFileError::Empty),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CaFileError::Malformed),
        (&root.repeat(MAX_CERTIFICATES + 1), CaFileError::TooMany),
    ] {
        assert_eq!(ca_file(file.as_bytes()), Err(expected), "{file}");
    }
    assert!(client_config(&[CertificateDer::from(vec![1, 2, 3])]).is_err());
}

#[tokio::test]
async fn a_document_is_fetched_within_its_limit_and_failures_name_no_host() {
    let ca = Ca::new();
    let server = ca.serve("localhost", |_| {}).await;
    let fetch = async |text: &str, limit, accepts: fn(&StatusCode) -> bool| {
        let endpoint = Endpoint::parse(text).unwrap();
        let tls = client_config(std::slice::from_ref(&ca.root)).unwrap();
        let bound = Duration::from_secs(20);
        let timeouts = Timeouts { connect: bound, response: ResponseTimeout::Total(bound) };
        let client = client(&endpoint, tls, timeouts, redirect::Policy::none()).build().unwrap();
        get(&client, endpoint.url().clone(), limit, accepts).await
    };
    let url = format!("https://localhost:{}/", server.port);
    assert_eq!(fetch(&url, 2, StatusCode::is_success).await, Ok(b"ok".to_vec()));
    assert_eq!(fetch(&url, 1, StatusCode::is_success).await, Err(GetError::TooLarge));
    assert_eq!(fetch(&url, 2, StatusCode::is_redirection).await, Err(GetError::Status(StatusCode::OK)));
    let failed = fetch("https://user:hush@127.0.0.1:1/", 2, StatusCode::is_success).await;
    let Err(GetError::Request(failed)) = failed else { panic!("{failed:?}") };
    assert_eq!(failed.to_string(), "connection refused");
}
