//! Authentication of both sides: tokens, certificates, signatures.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::settings::{ClientFiles, Secret};
use crate::signed::{DecisionSigner, Signature};

fn configured(base: &str, change: impl FnOnce(&mut settings::Webhook)) -> Webhook {
    let mut webhook = settings::Webhook::at(Endpoint::parse(base).unwrap());
    change(&mut webhook);
    Webhook::with_bounds(&webhook, QUICK).unwrap()
}

#[tokio::test]
async fn every_request_has_the_token_and_nothing_else_shows_it() {
    let server = Server::json(allowing()).await;
    let webhook = configured(&server.base, |webhook| {
        webhook.bearer_token = Secret::trimmed("hush-token".to_owned());
    });
    decide(&webhook).await.unwrap();
    assert!(webhook.info().await.is_err(), "it answers decisions only");
    let requests = server.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert!(
            request.to_ascii_lowercase().contains("\r\nauthorization: bearer hush-token\r\n"),
            "{request}"
        );
    }
    assert!(!webhook.last_error().unwrap().contains("hush"));
    // Only signed decisions have a nonce.
    assert!(!requests.iter().any(|request| request.to_ascii_lowercase().contains(NONCE_HEADER)));
}

/// A certificate authority, and files with its certificates.
struct Pki {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, name: &str) -> ClientFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ClientFiles {
            certificate: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A TLS service that requires a client certificate of this authority.
    async fn serve(&self, body: Value) -> String {
        let files = self.issue("server");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&files.key).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, body) = (acceptor.clone(), body.to_string());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut chunk = [0; 8192];
                    while let Ok(1..) = stream.read(&mut chunk).await {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        base
    }
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let (pki, other) = (Pki::new(), Pki::new());
    let base = pki.serve(allowing()).await;
    let ask = async |ca: Option<PathBuf>, client: Option<ClientFiles>| {
        let webhook = configured(&base, |webhook| {
            webhook.ca_file = ca;
            webhook.client = client;
        });
        decide(&webhook).await.map_err(|error| error.detail().to_owned())
    };
    let good = ask(Some(pki.path("ca.pem")), Some(pki.issue("client"))).await;
    assert_eq!(
        good.unwrap(),
        Decision::Allowed { gateway_app_id: "0xgate".to_owned(), release_stage: None, epochs: None }
    );
    let error = ask(None, Some(pki.issue("client"))).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "the public roots do not know it: {error}");
    let error = ask(Some(other.path("ca.pem")), Some(pki.issue("client"))).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert!(ask(Some(pki.path("ca.pem")), None).await.is_err(), "we show nothing");
    assert!(
        ask(Some(pki.path("ca.pem")), Some(other.issue("client"))).await.is_err(),
        "we show a stranger's"
    );
}

/// Responds with `signature`, which gets the request, the nonce and a signer.
struct Signing {
    base: String,
    signer: Arc<DecisionSigner>,
}

type Forge = dyn Fn(&DecisionSigner, SignedRequest<'_>, Claims<'_>) -> Option<Signature> + Send + Sync;

const ALLOW: Claims<'_> =
    Claims { is_allowed: true, gateway_app_id: "0xgate", reason: "", release_stage: None, epochs: None };

fn signer() -> DecisionSigner {
    let key = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new())
        .unwrap();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.as_ref())
    );
    DecisionSigner::from_pem(pem.as_bytes()).unwrap()
}

impl Signing {
    async fn new(forge: Box<Forge>) -> Self {
        Self::answering(ALLOW, forge).await
    }

    async fn answering(answer: Claims<'static>, forge: Box<Forge>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let signer = Arc::new(signer());
        let (signing, forge) = (signer.clone(), Arc::new(forge));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (signer, forge) = (signing.clone(), forge.clone());
                tokio::spawn(async move {
                    let mut chunk = vec![0; 65536];
                    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
                        let text = String::from_utf8_lossy(&chunk[..length]).into_owned();
                        let (head, body) = text.split_once("\r\n\r\n").unwrap();
                        let nonce = head.lines().find_map(|line| {
                            let (name, value) = line.split_once(": ")?;
                            name.eq_ignore_ascii_case(NONCE_HEADER).then(|| Nonce::parse(value))?
                        });
                        let nonce = nonce.expect("a nonce");
                        let question =
                            SignedRequest { kind: SubjectKind::App, body: body.as_bytes(), nonce: &nonce };
                        let mut said = said(answer);
                        if let Some(signature) = forge(&signer, question, answer) {
                            said["signature"] = serde_json::to_value(signature).unwrap();
                        }
                        let body = said.to_string();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Self { base, signer }
    }

    fn webhook(&self) -> Webhook {
        configured(&self.base, |webhook| webhook.decision_key = Some(self.signer.public_key()))
    }
}

fn soon() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 60
}

#[tokio::test]
async fn a_signed_decision_counts_each_time() {
    let server =
        Signing::new(Box::new(|signer, question, answer| Some(signer.sign(question, answer, soon())))).await;
    let webhook = server.webhook();
    for _ in 0..3 {
        assert!(matches!(decide(&webhook).await.unwrap(), Decision::Allowed { .. }));
    }
    assert_eq!(webhook.digest(), Some(Sha256::digest(server.signer.public_key().as_bytes()).into()));
    assert_eq!(configured(&server.base, |_| {}).digest(), None);
    let other = configured(&server.base, |webhook| webhook.decision_key = Some(signer().public_key()));
    let detail = detail(decide(&other).await);
    assert!(detail.contains("is not signed by core.auth_api.webhook.decision_key"), "{detail}");
}

#[tokio::test]
async fn a_man_in_the_middle_cannot_add_change_or_remove_a_signed_stage() {
    use crate::ReleaseStage::{Any, Boot};
    for said in [None, Some(Boot), Some(Any)] {
        for meant in [None, Some(Boot), Some(Any)] {
            let answer = Claims { release_stage: said, ..ALLOW };
            let sign: Box<Forge> = Box::new(move |signer, question, answer| {
                Some(signer.sign(question, Claims { release_stage: meant, ..answer }, soon()))
            });
            let server = Signing::answering(answer, sign).await;
            let decision = decide(&server.webhook()).await;
            if said == meant {
                let gateway_app_id = "0xgate".to_owned();
                assert_eq!(
                    decision.unwrap(),
                    Decision::Allowed { gateway_app_id, release_stage: said, epochs: None },
                    "{said:?}"
                );
            } else {
                let detail = detail(decision);
                assert!(detail.contains("is not signed by"), "{said:?} {meant:?}: {detail}");
            }
        }
    }
}

#[tokio::test]
async fn a_man_in_the_middle_cannot_add_change_or_remove_signed_epochs() {
    use crate::epochs::{AppEpochs, RootChoice};
    let current = AppEpochs { root: Some(RootChoice::Current), ..AppEpochs::default() };
    let first = AppEpochs { root: Some(RootChoice::Fixed(0)), ..AppEpochs::default() };
    let (current, first): (&AppEpochs, &AppEpochs) =
        (Box::leak(Box::new(current)), Box::leak(Box::new(first)));
    for said in [None, Some(current), Some(first)] {
        for meant in [None, Some(current), Some(first)] {
            let answer = Claims { epochs: said, ..ALLOW };
            let sign: Box<Forge> = Box::new(move |signer, question, answer| {
                Some(signer.sign(question, Claims { epochs: meant, ..answer }, soon()))
            });
            let server = Signing::answering(answer, sign).await;
            let decision = decide(&server.webhook()).await;
            if said == meant {
                let Decision::Allowed { epochs, .. } = decision.unwrap() else { panic!("{said:?}") };
                assert_eq!(epochs.as_deref(), said);
            } else {
                let detail = detail(decision);
                assert!(detail.contains("is not signed by"), "{said:?} {meant:?}: {detail}");
            }
        }
    }
}

#[tokio::test]
async fn a_signed_denial_because_of_an_outage_is_unavailable_too() {
    let sign: Box<Forge> = Box::new(|signer, question, answer| Some(signer.sign(question, answer, soon())));
    let server = Signing::answering(OUTAGE, sign).await;
    let detail = detail(decide(&server.webhook()).await);
    assert_eq!(detail, "the webhook answered that its own backend is unavailable");
    // A man in the middle gains nothing.
    let server = Signing::answering(OUTAGE, Box::new(|_, _, _| None)).await;
    let detail = self::detail(decide(&server.webhook()).await);
    assert!(detail.contains("is not signed"), "{detail}");
}

#[tokio::test]
async fn a_response_not_signed_for_this_request_is_unusable() {
    let first = Arc::new(StdMutex::new(None));
    let replay = {
        let first = first.clone();
        move |signer: &DecisionSigner, question: SignedRequest<'_>, answer: Claims<'_>| {
            let mut first = first.lock().unwrap();
            Some(first.get_or_insert_with(|| signer.sign(question, answer, soon())).clone())
        }
    };
    let cases: Vec<(&str, Box<Forge>)> = vec![
        ("is not signed", Box::new(|_, _, _| None)),
        (
            "has expired",
            Box::new(|signer, question, answer| Some(signer.sign(question, answer, soon() - 120))),
        ),
        (
            "another request",
            Box::new(|signer, question, answer| {
                Some(signer.sign(SignedRequest { body: b"{}", ..question }, answer, soon()))
            }),
        ),
        (
            "is not signed by",
            Box::new(|signer, question, answer| {
                Some(signer.sign(SignedRequest { kind: SubjectKind::Kms, ..question }, answer, soon()))
            }),
        ),
        (
            "is not signed by",
            Box::new(|signer, question, answer| {
                Some(signer.sign(question, Claims { is_allowed: false, ..answer }, soon()))
            }),
        ),
        (
            "is not signed by",
            Box::new(|signer, question, answer| {
                Some(signer.sign(question, Claims { gateway_app_id: "any", ..answer }, soon()))
            }),
        ),
        (
            "is not signed by",
            Box::new(|_, question, answer| Some(self::signer().sign(question, answer, soon()))),
        ),
    ];
    for (expected, forge) in cases {
        let server = Signing::new(forge).await;
        let webhook = server.webhook();
        let detail = detail(decide(&webhook).await);
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(webhook.last_error(), Some(detail));
    }
    let server = Signing::new(Box::new(replay)).await;
    let webhook = server.webhook();
    assert!(decide(&webhook).await.is_ok());
    let detail = detail(decide(&webhook).await);
    assert!(detail.contains("replayed"), "{detail}");
}

#[tokio::test]
async fn a_signature_in_another_format_counts_as_missing() {
    let mut answer = allowing();
    answer["signature"] = json!({"ed25519": 7});
    let server = Server::json(answer).await;
    assert!(decide(&server.webhook()).await.is_ok(), "a signature that is not required is not checked");
    let signed = configured(&server.base, |webhook| webhook.decision_key = Some(signer().public_key()));
    let detail = detail(decide(&signed).await);
    assert!(detail.contains("is not signed"), "{detail}");
}
