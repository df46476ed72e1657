//! Replicas of replicas have the same keys, byte for byte.

use std::net::Ipv4Addr;

use cvm_kms::proto::{AppKeyResponse, GetTempCaCertResponse, PublicKeyResponse, SignCertResponse};
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;
use kms_attest::{certificate, ra_tls};
use kms_client::sign::sign_cert_request;
use kms_client::{Connection, KmsUrl, Trust};
use kms_simulator::Cvm;
use serde_json::json;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Node;
use crate::support::process::run;
use crate::support::{Identity, csr};

/// The last two are names that a test can connect to.
const DOMAINS: [&str; 4] = ["kms-a.example", "10.0.2.2", "127.0.0.1", "localhost"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_replicas_is_one_kms() {
    let mut nodes = Node::chain(&DOMAINS, "").await;
    same_keys_on_disk_and_in_answers(&nodes).await;
    same_keys_for_apps(&nodes).await;
    own_names_only(&nodes).await;
    interchangeable_certificates(&nodes).await;

    for node in &mut nodes {
        node.stop().await;
    }
    for (index, node) in nodes.iter().enumerate() {
        let world = &node.setting.world;
        let handed_on = usize::from(index + 1 < nodes.len());
        assert_eq!(world.audited("kms_key_released").len(), handed_on, "{}", DOMAINS[index]);
        let received = world.audited("keys_received");
        assert_eq!(received.len(), usize::from(index > 0), "{}", DOMAINS[index]);
        for line in received {
            assert_eq!(line["source"], format!("{}/prpc", nodes[index - 1].url()));
            assert_eq!(line["domain"], DOMAINS[index]);
            assert_eq!(line["k256_pubkey"], hex::encode(node.root_keys().k256_public()));
        }
    }
}

async fn same_keys_on_disk_and_in_answers(nodes: &[Node]) {
    let first = &nodes[0];
    let meta = first.meta().await;
    assert!(meta.bootstrap_info.is_some());
    let temp_ca: GetTempCaCertResponse = first.caller().json("GetTempCaCert", json!({})).await.message();
    let spki = |pem: &str| ra_tls::spki_of(&certificate::der(pem).expect("PEM")).expect("a key");
    for node in &nodes[1..] {
        for name in ["root-ca.key", "root-k256.key", "tmp-ca.key"] {
            assert!(node.file(name) == first.file(name), "{name}");
        }
        assert!(node.file("rpc.key") != first.file("rpc.key"), "each node has a TLS key of its own");
        let other = node.meta().await;
        assert_eq!(other.k256_pubkey, meta.k256_pubkey);
        assert_eq!(spki(&other.ca_cert), spki(&meta.ca_cert));
        assert_eq!(other.bootstrap_info, None, "a replica has bootstrapped nothing");
        let other: GetTempCaCertResponse = node.caller().json("GetTempCaCert", json!({})).await.message();
        assert!(other.temp_ca_key == temp_ca.temp_ca_key, "the temporary CA's key");
        for [mine, its] in [[&temp_ca.temp_ca_cert, &other.temp_ca_cert], [&temp_ca.ca_cert, &other.ca_cert]]
        {
            let [mine, its] = [mine, its].map(|pem| certificate::der(pem).expect("PEM"));
            let [mine, its] = [&mine, &its].map(|der| X509Certificate::from_der(der).expect("DER").1);
            assert_eq!(mine.subject().as_raw(), its.subject().as_raw(), "names, byte by byte");
            assert_eq!(mine.raw_serial(), its.raw_serial());
            assert_eq!(mine.public_key().raw, its.public_key().raw);
        }
    }
}

async fn same_keys_for_apps(nodes: &[Node]) {
    let platform = &nodes[0].setting.world.platform;
    let apps = [
        Cvm::builder(platform).app_id([1; 20]).instance_id(&[2; 20]).build(),
        Cvm::builder(platform).app_id([1; 20]).instance_id(&[3; 20]).build(),
        Cvm::builder(platform).app_id([9; 20]).instance_id(&[]).build(),
    ];
    let mut disks = Vec::new();
    for app in &apps {
        let mut answers = Vec::new();
        for node in nodes {
            node.allow_app(app);
        }
        // Certificates of any node's temporary CA are accepted everywhere, and so are self-signed ones of
        // guests.
        let mut identities = vec![Identity::self_issued(app)];
        for node in nodes {
            let temp_ca: GetTempCaCertResponse =
                node.caller().json("GetTempCaCert", json!({})).await.message();
            identities.push(Identity::attested(&temp_ca, app));
        }
        for node in nodes {
            for identity in &identities {
                let answer = node.caller().shows(identity).json("GetAppKey", json!({})).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                answers.push(answer.message::<AppKeyResponse>());
            }
            let body = json!({ "app_id": hex::encode(app.app_id()) });
            let env: PublicKeyResponse =
                node.caller().json("GetAppEnvEncryptPubKey", body.clone()).await.message();
            let first: PublicKeyResponse =
                nodes[0].caller().json("GetAppEnvEncryptPubKey", body).await.message();
            assert_eq!((&env.public_key, &env.signature), (&first.public_key, &first.signature));
        }
        for other in &answers[1..] {
            assert!(other.disk_crypt_key == answers[0].disk_crypt_key, "disk key");
            assert!(other.env_crypt_key == answers[0].env_crypt_key, "env key");
            assert!(other.k256_key == answers[0].k256_key, "secp256k1 key");
            assert_eq!(other.k256_signature, answers[0].k256_signature);
        }
        disks.push(answers[0].disk_crypt_key.clone());
    }
    assert!(disks[0] != disks[1] && disks[1] != disks[2] && disks[0] != disks[2]);
}

/// Each certificate carries the name or address of its own node and no other.
async fn own_names_only(nodes: &[Node]) {
    for (node, domain) in nodes.iter().zip(DOMAINS) {
        let line = node.caller().connect().await.expect("a connection");
        let leaf = line.server_certificate.expect("a certificate");
        let (_, leaf) = X509Certificate::from_der(&leaf).expect("DER");
        let names = leaf.subject_alternative_name().expect("readable").expect("names");
        let address = domain.parse::<Ipv4Addr>().map(|address| address.octets());
        let expected = match &address {
            Ok(octets) => GeneralName::IPAddress(octets),
            Err(_) => GeneralName::DNSName(domain),
        };
        assert_eq!(names.value.general_names, [expected]);
        assert_eq!(leaf.subject().to_string(), format!("CN={domain}"));
    }
    // A client that trusts the root of the first accepts each of the others under its own name only.
    let root = nodes[0].meta().await.ca_cert;
    for (index, host) in [(2, "127.0.0.1"), (3, "localhost"), (2, "localhost"), (3, "127.0.0.1")] {
        let url: KmsUrl =
            format!("https://{host}:{}", nodes[index].setting.address.port()).parse().expect("a URL");
        let opened = Connection::open(&url, Trust::RootCa(&root), None).await;
        assert_eq!(opened.is_ok(), DOMAINS[index] == host, "{url}: {opened:?}");
    }
}

/// Certificates that one node issues to an app verify with the root certificate of any other.
async fn interchangeable_certificates(nodes: &[Node]) {
    let app = Cvm::builder(&nodes[0].setting.world.platform).app_id([1; 20]).build();
    let mut authorities = Vec::new();
    for node in nodes {
        let key = P256Key::generate();
        let csr = Csr {
            subject: "app".to_owned(),
            subject_alt_names: vec!["app.example".to_owned()],
            ..csr(&app, &key)
        };
        let request = serde_json::to_value(sign_cert_request(&csr, &key, "")).expect("JSON");
        let answer = node.caller().json("SignCert", request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let chain = answer.message::<SignCertResponse>().certificate_chain;
        authorities.push(ra_tls::spki_of(&certificate::der(&chain[1]).expect("PEM")).expect("a key"));
        let file = |name: &str, text: &str| {
            let path = node.setting.world.path(name);
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("text").to_owned()
        };
        let (leaf, app_ca) = (file("leaf.pem", &chain[0]), file("app-ca.pem", &chain[1]));
        for other in nodes {
            let root = other.setting.world.key_file("root-ca.crt");
            let root = root.to_str().expect("text");
            run("openssl", &["verify", "-CAfile", root, "-untrusted", &app_ca, &leaf], "").await.expect_ok();
        }
    }
    assert!(authorities.iter().all(|key| *key == authorities[0]), "an app has one CA on all nodes");
}
