//! Known answers, and what is refused. `tests/programs/clients.rs` has another implementation seal and open.

use serde_json::{Value, json};

use super::*;
use crate::environment::{Environment, envelope};

/// Suite 0x0020, 0x0001, 0x0002 in base mode of the test vectors to which RFC 9180, appendix A, refers
/// (`cfrg/draft-irtf-cfrg-hpke`, commit 5f503c56), with its first two encryptions.
const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
const SECRET: &str = "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d";
const PUBLIC: &str = "430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c";
const ENC: &str = "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256";
const PLAINTEXT: &str = "4265617574792069732074727574682c20747275746820626561757479";
const ENCRYPTIONS: [(&str, &str); 2] = [
    (
        "436f756e742d30",
        "e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a",
    ),
    (
        "436f756e742d31",
        "2c43aff25343fdbff864506f0818b9d87df84ea01b1a2144d23b4d40c26bf655fdf197fe40297a8aebeed5cc2d",
    ),
];

/// Made by PyHPKE 0.6.5 with the recipient's secret 07…07 and the ephemeral secret 09…09.
const SEALED: [(Epochs, &str); 3] = [
    (
        Epochs { root: 0, app: 0 },
        "Noq1K55nGAQtC1KUJuuIKLNIlgFPZC6ExWxFQmZMy/MeGX/sqKTu3ol4Vj/URXKUl0lUa8KUikUc",
    ),
    (
        Epochs { root: 3, app: 1 },
        "WrrzpIHF7wX00U7XgNkIs5vkwJu1ua/Ho5s1PdpwZVKa1ezwdjvL6WXdaQ97Ro9Arau/QOcU6nkI",
    ),
    (
        Epochs { root: u32::MAX, app: u32::MAX },
        "tBLPpnQzUJegPkrYrPeZUTY52mfj20/WCsPkA0ux3nx8QGA56F0eZm9LAOQLaWZ5X5IVOv8EJ84h",
    ),
];
const SEALED_ENC: &str = "V9tLNZ8jrl4Ubk4lEgVnBHIlBjSMFQwUdT0Mkz0E1CE=";
const SEALED_PLAINTEXT: &str = r#"{"env":[{"key":"TOKEN","value":"café"}]}"#;

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex")
}

fn file(epochs: Epochs, ciphertext: &str) -> Value {
    json!({
        "version": 1, "root_epoch": epochs.root, "app_epoch": epochs.app, "enc": SEALED_ENC, "ciphertext": ciphertext,
    })
}

fn good() -> Value {
    file(SEALED[1].0, SEALED[1].1)
}

#[test]
fn the_suite_is_the_one_of_the_rfc() {
    let secret = bytes(SECRET).try_into().expect("32 bytes");
    assert_eq!(envelope::public_key(&secret).expect("key").to_vec(), bytes(PUBLIC));
    let key = HpkePrivateKey::from(bytes(SECRET));
    let mut opener = SUITE.setup_opener(&EncapsulatedSecret(bytes(ENC)), &bytes(INFO), &key).expect("opener");
    for (data, ciphertext) in ENCRYPTIONS {
        let plaintext = opener.open(&bytes(data), &bytes(ciphertext)).expect("opens");
        assert_eq!(plaintext, bytes(PLAINTEXT));
    }
}

#[test]
fn what_another_implementation_sealed_opens() {
    for (epochs, ciphertext) in SEALED {
        let sealed = SealedEnv::parse(file(epochs, ciphertext).to_string().as_bytes()).expect("a file");
        assert_eq!(sealed.epochs(), epochs);
        assert_eq!(sealed.open(&[7; 32]).expect("opens").as_slice(), SEALED_PLAINTEXT.as_bytes());
        assert_eq!(sealed.to_json(), file(epochs, ciphertext).to_string(), "written as it was read");
    }
}

#[test]
fn what_is_sealed_opens_with_that_key_for_those_epochs_only() {
    let (secret, epochs) = ([7; 32], Epochs { root: 2, app: 5 });
    let public = envelope::public_key(&secret).expect("key");
    let environment = Environment::parse("A=1\n").expect("environment").environment;
    let sealed = SealedEnv::seal(&public, epochs, environment.to_json().as_bytes()).expect("sealed");
    assert_ne!(sealed, SealedEnv::seal(&public, epochs, environment.to_json().as_bytes()).expect("fresh"));
    let read = SealedEnv::parse(sealed.to_json().as_bytes()).expect("its own file");
    assert_eq!(read, sealed);
    let plaintext = read.open(&secret).expect("opens");
    assert_eq!(Environment::from_json(&plaintext).expect("environment").to_json(), environment.to_json());

    assert_eq!(sealed.open(&[8; 32]), Err(SealedEnvError::Open(epochs)));
    for other in [Epochs { root: 3, app: 5 }, Epochs { root: 2, app: 6 }, Epochs { root: 25, app: 0 }] {
        let relabelled = SealedEnv { epochs: other, ..sealed.clone() };
        assert_eq!(relabelled.open(&secret), Err(SealedEnvError::Open(other)));
    }
    for index in 0..sealed.ciphertext.len() {
        let mut changed = sealed.clone();
        changed.ciphertext[index] ^= 1;
        assert_eq!(changed.open(&secret), Err(SealedEnvError::Open(epochs)), "{index}");
    }
    for index in 0..KEY_BYTES {
        let mut changed = sealed.clone();
        changed.encapsulated[index] ^= 1;
        assert_eq!(changed.open(&secret), Err(SealedEnvError::Open(epochs)), "{index}");
    }
    assert_eq!(
        SealedEnvError::Open(epochs).to_string(),
        "it is for root epoch 2, app epoch 5, and was not sealed to this key, or it was changed since"
    );
}

#[test]
fn every_defect_of_a_file_is_named() {
    let with = |name: &str, value: Value| {
        let mut file = good();
        file[name] = value;
        file.to_string()
    };
    let without = |name: &str| {
        let mut file = good();
        file.as_object_mut().expect("object").remove(name);
        file.to_string()
    };
    let good = good().to_string();
    let fields = [
        without("version"),
        without("root_epoch"),
        without("app_epoch"),
        without("enc"),
        without("ciphertext"),
        with("more", json!(1)),
        with("version", json!("1")),
        with("root_epoch", json!(-1)),
        with("root_epoch", json!(1_u64 << 32)),
        with("app_epoch", json!(1.5)),
        with("app_epoch", json!("1")),
        with("enc", json!([1])),
        good.replacen('{', r#"{"root_epoch":9,"#, 1),
        good.replacen('{', r#"{"version":1,"#, 1),
        "[]".to_owned(),
        "7".to_owned(),
    ];
    for text in fields {
        let error = SealedEnv::parse(text.as_bytes()).expect_err(&text);
        assert!(matches!(error, SealedEnvError::Fields { line: 1, .. }), "{text}: {error}");
    }
    for text in ["", "{", "TOKEN=secret", &format!("{good} x"), &good[..good.len() - 1]] {
        let error = SealedEnv::parse(text.as_bytes()).expect_err(text);
        assert!(matches!(error, SealedEnvError::Json { .. }), "{text}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    for (text, expected) in [
        (with("version", json!(2)), SealedEnvError::Version(2)),
        (r#"{"version": 3, "sealed": "otherwise"}"#.to_owned(), SealedEnvError::Version(3)),
        (with("enc", json!("!")), SealedEnvError::Base64("enc")),
        (with("enc", json!(SEALED_ENC.trim_end_matches('='))), SealedEnvError::Base64("enc")),
        // The same bytes, written with other unused bits.
        (with("enc", json!(SEALED_ENC.replace("CE=", "CF="))), SealedEnvError::Base64("enc")),
        (with("enc", json!(format!("{SEALED_ENC}\n"))), SealedEnvError::Base64("enc")),
        (with("enc", json!(STANDARD.encode([1; 31]))), SealedEnvError::Encapsulated(31)),
        (with("enc", json!(STANDARD.encode([1; 33]))), SealedEnvError::Encapsulated(33)),
        (with("ciphertext", json!("_-")), SealedEnvError::Base64("ciphertext")),
        (with("ciphertext", json!(STANDARD.encode([1; 15]))), SealedEnvError::Ciphertext(15)),
    ] {
        assert_eq!(SealedEnv::parse(text.as_bytes()), Err(expected), "{text}");
    }
    let mut not_text = good.clone().into_bytes();
    not_text[2] = 0xff;
    assert!(SealedEnv::parse(&not_text).is_err());
    assert!(SealedEnv::parse(format!(" \n{good}\n").as_bytes()).is_ok(), "white space around it");
}

#[test]
fn the_bounds_are_reached_and_not_exceeded() {
    let public = envelope::public_key(&[7; 32]).expect("key");
    let epochs = Epochs { root: u32::MAX, app: u32::MAX };
    let largest = vec![0; MAX_PLAINTEXT_BYTES];
    let file = SealedEnv::seal(&public, epochs, &largest).expect("sealed").to_json();
    assert!(file.len() <= MAX_BYTES);
    let opened = SealedEnv::parse(file.as_bytes()).expect("read").open(&[7; 32]).expect("opens");
    assert_eq!(opened.len(), MAX_PLAINTEXT_BYTES);
    let longer = vec![0; MAX_PLAINTEXT_BYTES + 1];
    let length = longer.len();
    assert_eq!(SealedEnv::seal(&public, epochs, &longer), Err(SealedEnvError::Plaintext(length)));
    let padded = vec![b' '; MAX_BYTES + 1];
    assert_eq!(SealedEnv::parse(&padded), Err(SealedEnvError::TooLong(MAX_BYTES + 1)));
}

#[test]
fn a_key_without_a_secret_is_refused() {
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one] {
        assert_eq!(SealedEnv::seal(&point, Epochs::default(), b""), Err(SealedEnvError::PublicKey));
        let sealed =
            SealedEnv { epochs: Epochs::default(), encapsulated: point, ciphertext: vec![0; TAG_BYTES] };
        assert_eq!(sealed.open(&[7; 32]), Err(SealedEnvError::Open(Epochs::default())));
    }
}
