//! The file of officers, and the recipients that they may have.

use super::*;

const X25519: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

fn officers(text: &str) -> Result<Vec<(String, String)>, String> {
    let officers = parse_officers(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(officers.iter().map(|officer| (officer.name.to_string(), officer.recipient.to_string())).collect())
}

#[test]
fn a_file_of_officers_has_names_or_numbers() {
    let text = format!("# officers\n\nalice {X25519}\r\n  {ED25519} bob@laptop\n");
    let expected = [("alice".to_owned(), X25519.to_owned()), ("2".to_owned(), ED25519.to_owned())];
    assert_eq!(officers(&text), Ok(expected.to_vec()));
    assert_eq!(officers(""), Ok(vec![]));
}

#[test]
fn what_is_wrong_with_a_file_of_officers_is_said_with_its_line() {
    for (text, expected) in [
        (format!("alice {X25519}\n../x {ED25519}"), "line 2: an officer's name has 1 to 64"),
        (format!("-x {X25519}"), "line 1: an officer's name"),
        ("alice".to_owned(), "line 1: not a recipient"),
        ("alice age1qqqq".to_owned(), "line 1: not a recipient"),
        (format!("a {X25519}\nb {X25519}"), "a and b have the same recipient"),
        (format!("a {ED25519} one\nb {ED25519} two"), "a and b have the same recipient"),
        (format!("a {X25519}\nA {ED25519}"), "the name A is there twice"),
        (
            "a AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33".to_owned(),
            "line 1: this is a private key",
        ),
        ("a ecdsa-sha2-nistp256 AAAA".to_owned(), "line 1: age does not encrypt to SSH keys of this type"),
    ] {
        let said = officers(&text).expect_err("a wrong file");
        assert!(said.contains(expected), "{text}: {said}");
        assert!(!said.contains("1GQ9778"), "{said}");
    }
    let many: String =
        (0..33).map(|at| format!("o{at} {}\n", age::x25519::Identity::generate().to_public())).collect();
    assert_eq!(officers(&many), Err("a recovery set has at most 32 officers".to_owned()));
}

/// `age` would end the process at these, or encrypt to everybody.
#[test]
fn public_keys_of_small_order_are_refused() {
    use bech32::{Bech32, Hrp};
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let hrp = Hrp::parse("age").expect("text");
        let text = bech32::encode::<Bech32>(hrp, &hex::decode(point).expect("hex")).expect("short");
        assert_eq!(text.parse::<Recipient>(), Err(RecipientError::SmallOrder), "{point}");
    }
    use base64::Engine as _;
    let mut wire = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".to_vec();
    wire.extend_from_slice(&[1]);
    wire.extend_from_slice(&[0; 31]);
    let text = format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(wire));
    assert_eq!(text.parse::<Recipient>(), Err(RecipientError::SmallOrder));
}

#[test]
fn recipients_of_plugins_name_their_program_and_tags_need_none() {
    use bech32::{Bech32, Hrp};
    let recipient = |name: &str, bytes: &[u8]| {
        bech32::encode::<Bech32>(Hrp::parse(name).expect("text"), bytes).expect("short").parse::<Recipient>()
    };
    let plugin = recipient("age1nosuchplugin", &[1; 32]).expect("a recipient");
    assert_eq!(plugin.plugin().as_deref(), Some("age-plugin-nosuchplugin"));
    let point = p256::ProjectivePoint::GENERATOR;
    let point: [u8; 33] = p256::elliptic_curve::group::GroupEncoding::to_bytes(&point).into();
    assert_eq!(recipient("age1tag", &point).expect("a recipient").plugin(), None);
    assert_eq!(recipient("age1tag", &[1; 33]), Err(RecipientError::Unknown));

    let key = root(7);
    let named = [
        named("a", &age::x25519::Identity::generate()),
        Named { name: "b".parse().expect("a name"), recipient: plugin },
    ];
    let error = split(MATERIAL, 2, &named, description(&key), |digest| sign(&key, digest));
    assert_eq!(
        error.expect_err("no plugin").to_string(),
        "the share of b: the program age-plugin-nosuchplugin is not beside the KMS: it is needed to encrypt to this recipient"
    );
}

#[test]
fn an_ssh_key_opens_its_file() {
    // Made for this test by ssh-keygen.
    let key = root(7);
    let other = named("other", &age::x25519::Identity::generate());
    let ssh = Named { name: "ssh".parse().expect("a name"), recipient: PUBLIC.parse().expect("a key") };
    let set =
        split(MATERIAL, 2, &[ssh, other], description(&key), |digest| sign(&key, digest)).expect("a set");
    let identities = Identities::parse(PRIVATE.as_bytes(), NoCallbacks).expect("a key");
    let share = decrypt(set.files[0].content.as_bytes(), &identities).expect("its own file");
    assert_eq!(set.manifest.check_share(&share), Ok(()));
    assert_eq!(decrypt(set.files[1].content.as_bytes(), &identities).err(), Some(DecryptError::OtherKey));
}

const PUBLIC: &str = include_str!("officers/ssh.pub");
const PRIVATE: &str = include_str!("officers/ssh");
