//! The peer and this program can each start with a key directory that the other wrote.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::process::run;
use crate::support::{DOMAIN, Identity, World};
use cvm_kms::keys::K256Key;
use cvm_kms::proto::{
    AppKeyResponse, BootstrapResponse, GetMetaResponse, GetTempCaCertResponse, PublicKeyResponse,
};
use kms_attest::test_vectors::{self, bytes};
use kms_attest::{certificate, ra_tls};
use kms_simulator::Cvm;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// The directory as the peer leaves it after bootstrap: the four keys with mode 0600, everything else with
/// the usual umask, including the directory.
fn written_by_the_peer(world: &World, keys: &Value) {
    let certificates = test_vectors::json("certs.json");
    let certificate = |name: &str| {
        let list = certificates["certificates"].as_array().expect("a list");
        list.iter().find(|vector| vector["name"] == name).expect("a vector").clone()
    };
    let [root, temp, rpc] = ["kms-root-ca", "temp-ca", "kms-rpc"].map(certificate);
    let info = json!({
        "ca_pubkey": keys["root_ca"]["spki_der"],
        "k256_pubkey": keys["root_k256"]["public_key_compressed"],
        "attestation": "00ff",
    });
    let k256 = bytes(&keys["root_k256"]["file_bytes"]);
    let directory = world.path("certs");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("a mode");
    for (name, content, mode) in [
        ("bootstrap-info.json", info.to_string().as_bytes(), 0o644),
        ("tmp-ca.key", text(&temp["private_key_pem"]).as_bytes(), 0o600),
        ("root-ca.key", text(&keys["root_ca"]["pkcs8_pem"]).as_bytes(), 0o600),
        ("rpc.key", text(&rpc["private_key_pem"]).as_bytes(), 0o600),
        ("root-k256.key", &k256[..], 0o600),
        ("tmp-ca.crt", text(&temp["pem"]).as_bytes(), 0o644),
        ("root-ca.crt", text(&root["pem"]).as_bytes(), 0o644),
        ("rpc.crt", text(&rpc["pem"]).as_bytes(), 0o644),
        ("rpc-domain", b"kms.example.com", 0o644),
    ] {
        fs::write(world.key_file(name), content).expect("a file");
        fs::set_permissions(world.key_file(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
}

#[tokio::test]
async fn a_directory_that_the_peer_wrote_starts_and_serves_its_keys() {
    let keys = test_vectors::json("keys.json");
    let mut world = World::stopped_with("").await;
    written_by_the_peer(&world, &keys);
    let read = |world: &World, name: &str| fs::read(world.key_file(name)).expect("a file");
    let kept =
        ["root-ca.key", "root-k256.key", "tmp-ca.key", "rpc.key", "root-ca.crt", "tmp-ca.crt", "rpc-domain"];
    let before: Vec<_> = kept.iter().map(|name| read(&world, name)).collect();
    let rpc_key = ra_tls::spki_of(
        &certificate::der(&fs::read_to_string(world.key_file("rpc.crt")).expect("PEM")).expect("DER"),
    );
    world.start().await.expect("starts");

    for (name, before) in kept.iter().zip(before) {
        assert!(read(&world, name) == before, "{name} is left as it is");
    }
    let line = world.caller().connect().await.expect("a connection");
    let leaf = line.server_certificate.expect("a certificate");
    assert_eq!(ra_tls::spki_of(&leaf).expect("a key"), rpc_key.expect("a key"), "the TLS key is kept");
    assert!(ra_tls::evidence_in(&leaf).expect("readable").is_some(), "and its certificate made anew");
    let (_, parsed) = X509Certificate::from_der(&leaf).expect("DER");
    assert_eq!(parsed.subject().to_string(), "CN=kms.example.com");

    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    assert_eq!(meta.ca_cert.as_bytes(), read(&world, "root-ca.crt"), "the text of the file");
    assert_eq!(meta.k256_pubkey, bytes(&keys["root_k256"]["public_key_compressed"]));
    let info = meta.bootstrap_info.expect("the peer's statement");
    assert_eq!(info.ca_pubkey, bytes(&keys["root_ca"]["spki_der"]));
    assert_eq!(info.attestation, [0, 0xff]);
    let temp_ca: GetTempCaCertResponse = world.caller().json("GetTempCaCert", json!({})).await.message();
    assert_eq!(temp_ca.temp_ca_cert.as_bytes(), read(&world, "tmp-ca.crt"));
    assert!(temp_ca.temp_ca_key.as_bytes() == read(&world, "tmp-ca.key"));

    let apps = keys["app_keys"].as_array().expect("a list");
    for expected in apps {
        let app_id = bytes(&expected["app_id"]).try_into().expect("20 bytes");
        let guest = Cvm::builder(&world.platform)
            .app_id(app_id)
            .instance_id(&bytes(&expected["instance_id"]))
            .build();
        world.allow_app(&guest);
        for identity in [Identity::attested(&temp_ca, &guest), Identity::self_issued(&guest)] {
            let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let released: AppKeyResponse = answer.message();
            assert!(released.disk_crypt_key == bytes(&expected["disk_crypt_key"]), "disk key");
            assert!(released.env_crypt_key == bytes(&expected["env_crypt_key"]), "env key");
            assert!(released.k256_key == bytes(&expected["k256_key"]), "secp256k1 key");
            assert_eq!(released.k256_signature, bytes(&expected["k256_signature"]));
        }
        let body = json!({ "app_id": expected["app_id"] });
        let public: PublicKeyResponse = world.caller().json("GetAppEnvEncryptPubKey", body).await.message();
        assert_eq!(public.public_key, bytes(&expected["env_public_key"]));
    }
    assert_eq!(apps.len(), 12);
    for expected in keys["env_pubkey_signatures"].as_array().expect("a list") {
        let body = json!({ "app_id": expected["app_id"] });
        let public: PublicKeyResponse = world.caller().json("GetAppEnvEncryptPubKey", body).await.message();
        assert_eq!(public.signature, bytes(&expected["signature"]));
    }
}

/// The peer's parser requires of a P-256 key file: one PEM block, lines of 64 characters that end in LF, and
/// in it exactly the 138 bytes of PKCS#8 version 0 without the curve's second name and with the public key.
fn is_key_file_of_the_peer(text: &str) -> bool {
    let Some(body) = text
        .strip_prefix("-----BEGIN PRIVATE KEY-----\n")
        .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----\n"))
    else {
        return false;
    };
    let lines: Vec<&str> = body.lines().collect();
    let (last, whole) = lines.split_last().expect("a line");
    let der = certificate::der(&text.replace("PRIVATE KEY", "CERTIFICATE")).expect("Base64");
    let start = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420";
    whole.iter().all(|line| line.len() == 64)
        && (1..=64).contains(&last.len())
        && !text.contains('\r')
        && der.len() == 138
        && hex::encode(&der[..36]) == start
        && der[68..74] == [0xa1, 0x44, 0x03, 0x42, 0x00, 0x04]
}

/// Checks every rule by which the peer reads a directory.
async fn is_read_by_the_peer(world: &World, domain: &str, statement: Option<&BootstrapResponse>) {
    let keys = ["root-ca.key", "tmp-ca.key", "rpc.key", "root-k256.key"];
    let certificates = ["root-ca.crt", "tmp-ca.crt", "rpc.crt"];
    // The keys exist for the peer if all seven files do.
    for name in keys.iter().chain(&certificates).chain(&["rpc-domain"]) {
        let metadata = fs::symlink_metadata(world.key_file(name)).expect("a file");
        assert!(metadata.is_file(), "{name}");
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, if name.ends_with(".key") { 0o600 } else { 0o644 }, "{name}");
    }
    let read = |name: &str| fs::read_to_string(world.key_file(name)).expect("text");
    for name in &keys[..3] {
        assert!(is_key_file_of_the_peer(&read(name)), "{name}");
        let path = world.key_file(name);
        run("openssl", &["pkey", "-check", "-noout", "-in", path.to_str().expect("text")], "")
            .await
            .expect_ok();
    }
    let k256 = fs::read(world.key_file("root-k256.key")).expect("a key");
    assert_eq!(k256.len(), 32, "raw, without a newline");
    K256Key::from_bytes(&k256).expect("a scalar");
    for (name, key) in [("root-ca.crt", "root-ca.key"), ("tmp-ca.crt", "tmp-ca.key"), ("rpc.crt", "rpc.key")]
    {
        let pem = read(name);
        assert!(
            pem.starts_with("-----BEGIN CERTIFICATE-----\n") && pem.ends_with("-----END CERTIFICATE-----\n")
        );
        assert_eq!(pem.matches("-----BEGIN").count(), 1, "{name}");
        let key = kms_attest::p256::P256Key::from_pem(&read(key)).expect("a key");
        let der = certificate::der(&pem).expect("PEM");
        assert_eq!(ra_tls::spki_of(&der).expect("a key"), key.spki_der(), "{name}");
    }
    let [root, rpc] = ["root-ca.crt", "rpc.crt"].map(|name| world.key_file(name));
    let [root, rpc] = [&root, &rpc].map(|path| path.to_str().expect("text"));
    run("openssl", &["verify", "-CAfile", root, rpc], "").await.expect_ok();
    assert_eq!(read("rpc-domain"), domain);
    match statement {
        Some(statement) => {
            let [ca, k256, attestation] =
                [&statement.ca_pubkey, &statement.k256_pubkey, &statement.attestation].map(hex::encode);
            let expected = format!(
                "{{\"ca_pubkey\":\"{ca}\",\"k256_pubkey\":\"{k256}\",\"attestation\":\"{attestation}\"}}"
            );
            assert_eq!(read("bootstrap-info.json"), expected);
        }
        None => assert!(!world.key_file("bootstrap-info.json").exists()),
    }
}

#[tokio::test]
async fn what_this_program_writes_follows_every_rule_of_the_peers_reader() {
    let first = World::onboarding().await;
    let statement = first.bootstrap().await;
    is_read_by_the_peer(&first, DOMAIN, Some(&statement)).await;
    first.finish().await;
    is_read_by_the_peer(&first, DOMAIN, Some(&statement)).await;

    let replica = World::onboarding().await;
    let body = json!({ "source_url": format!("https://{}", first.address()), "domain": "10.0.2.2" });
    let answer = replica.caller().plain().json("Onboard", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    is_read_by_the_peer(&replica, "10.0.2.2", None).await;
    replica.finish().await;
    is_read_by_the_peer(&replica, "10.0.2.2", None).await;
}

#[tokio::test]
async fn a_replica_of_keys_that_the_peer_made_is_one_for_the_peer() {
    let keys = test_vectors::json("keys.json");
    let mut source = World::stopped_with("").await;
    written_by_the_peer(&source, &keys);
    source.start().await.expect("starts");
    let replica = World::onboarding().await;
    let body = json!({ "source_url": format!("https://{}", source.address()), "domain": DOMAIN });
    let answer = replica.caller().plain().json("Onboard", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    is_read_by_the_peer(&replica, DOMAIN, None).await;
    for name in ["root-ca.key", "root-k256.key", "tmp-ca.key"] {
        let [own, peers] = [&replica, &source].map(|world| fs::read(world.key_file(name)).expect("a key"));
        assert!(own == peers, "{name}: byte for byte what the peer wrote");
    }
}
