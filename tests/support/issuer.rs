//! An issuer of access tokens (OpenID Connect) on this machine, whose keys and answers tests choose.

use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// A key that signs tokens.
pub enum Signer {
    /// `EdDSA`
    Ed(Ed25519KeyPair),
    /// `ES256`
    Ec(EcdsaKeyPair),
    /// `RS256`
    Rsa(RsaKeyPair),
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// A new key of each kind.
    pub fn each() -> [Self; 3] {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref()).expect("a key");
        let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
        [Self::ed(), Self::Ec(ec), Self::Rsa(rsa)]
    }

    /// A new key that is made at once.
    pub fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().expect("a key"))
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    /// The public key, as issuers show it.
    pub fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "x": encoded(key.public_key()) })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": encoded(&point[1..33]), "y": encoded(&point[33..]) })
            }
            Self::Rsa(key) => {
                let modulus = key.public_key().modulus().big_endian_without_leading_zero();
                let exponent = key.public_key().exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "kid": id, "alg": "RS256", "n": encoded(modulus), "e": encoded(exponent) })
            }
        }
    }

    /// A token with these parts.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token with these parts, which need not be JSON.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
            Self::Ec(key) => key.sign(&random, message.as_bytes()).expect("signed").as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).expect("signed");
                signature
            }
        };
        format!("{message}.{}", encoded(signature))
    }
}

/// What the issuer serves now.
struct Served {
    keys: Value,
    discovery: Option<Value>,
    requests: usize,
}

/// The server; it stops when it is dropped.
pub struct Issuer {
    /// Its URL, which is `iss`.
    pub url: String,
    served: Arc<Mutex<Served>>,
    server: AbortHandle,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Issuer {
    /// An issuer with these keys.
    pub async fn with(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let served = Served { keys: json!({ "keys": keys }), discovery: None, requests: 0 };
        let served = Arc::new(Mutex::new(served));
        let (shared, own) = (Arc::clone(&served), url.clone());
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (shared, own) = (Arc::clone(&shared), own.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let body = answer(&shared, &own, &String::from_utf8_lossy(&head));
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        Self { url, served, server: server.abort_handle() }
    }

    /// Shows other keys from now on.
    pub fn show(&self, keys: &[Value]) {
        self.served.lock().expect("no panic").keys = json!({ "keys": keys });
    }

    /// Describes itself like this from now on.
    pub fn describe(&self, discovery: Value) {
        self.served.lock().expect("no panic").discovery = Some(discovery);
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.served.lock().expect("no panic").requests
    }
}

fn answer(served: &Mutex<Served>, url: &str, head: &str) -> String {
    let mut served = served.lock().expect("no panic");
    served.requests += 1;
    let usual = || json!({ "issuer": url, "jwks_uri": format!("{url}/keys") });
    match head.starts_with("GET /.well-known/openid-configuration ") {
        true => served.discovery.clone().unwrap_or_else(usual).to_string(),
        false => served.keys.to_string(),
    }
}
