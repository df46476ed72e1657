//! Bundles that minisign has signed, with the signature in a file beside the source.

use std::path::PathBuf;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_policy::bundle::{unsigned, with_minisig};

use super::*;

/// A key of minisign, which signs without hashing first; what the program itself makes is in `tests/vectors/minisign`.
struct Minisign(Ed25519KeyPair);

const ID: &[u8; 8] = b"87654321";

impl Minisign {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("a key"))
    }

    fn public(&self) -> String {
        STANDARD.encode([b"Ed", &ID[..], self.0.public_key().as_ref()].concat())
    }

    fn sign(&self, text: &str) -> String {
        let signature = self.0.sign(text.as_bytes());
        let comment = "by a test";
        let global = self.0.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        format!(
            "untrusted comment: x\n{}\ntrusted comment: {comment}\n{}\n",
            STANDARD.encode([b"Ed", &ID[..], signature.as_ref()].concat()),
            STANDARD.encode(global.as_ref())
        )
    }
}

fn text(world: &World, serial: u64, previous: Option<BundleDigest>) -> String {
    let policy = fs::read(world.allowlist.path()).expect("allowlist");
    let times = (unix_now() - 60, unix_now() + 86400);
    let header = Header::new("prod", "default", serial, times, previous).expect("a header");
    unsigned(&header, &policy).expect("a text")
}

#[tokio::test]
async fn the_signature_of_minisign_is_read_beside_the_source() {
    let mut world = World::stopped_with("").await;
    let (minisign, source) = (Minisign::new(), world.path("policy.bundle"));
    let ann = SecretKey::generate("team/ann".parse().expect("a name")).expect("a key");
    world.configure(&format!(
        "[core.auth_api.bundle]\nkeys = ['{}']\nminisign_keys = ['{}']\nsource = '{}'\n",
        ann.verifying_key(),
        minisign.public(),
        source.display()
    ));
    let beside: PathBuf = world.path("policy.bundle.minisig");
    let first = text(&world, 1, None);
    fs::write(&source, &first).expect("source");
    fs::write(&beside, minisign.sign(&first)).expect("signature");
    world.start().await.expect("the KMS starts");
    world.bootstrap().await;
    world.finish().await;
    let mut signed = Signed {
        world,
        bob: ann,
        ann: SecretKey::generate("team/x".parse().expect("a name")).expect("a key"),
        source,
    };
    signed.in_force(1).await;
    let state = signed.state().await;
    assert_eq!(state["in_force"]["signers"], json!(["minisign/3132333435363738"]));
    assert_eq!(state["keys"], json!(["team/ann", "minisign/3132333435363738"]));

    // The next text with the signature of the one before: nothing changes until the right one is there.
    let previous = Some(digest(&with_minisig(first.as_bytes(), minisign.sign(&first).as_bytes())));
    let second = text(&signed.world, 2, previous);
    fs::write(&signed.source, &second).expect("source");
    let problem = async |part: &str| {
        eventually("the problem", async || {
            let problem = signed.state().await["source_problem"].clone();
            problem.as_str().is_some_and(|problem| problem.contains(part)).then_some(())
        })
        .await;
    };
    problem("signature of minisign/3132333435363738: it is not over this text").await;
    fs::remove_file(&beside).expect("signature");
    problem("has no signature, and none is in the .minisig beside it").await;
    assert_eq!(signed.state().await["in_force"]["serial"], 1);
    fs::write(&beside, minisign.sign(&second)).expect("signature");
    signed.in_force(2).await;

    // It is kept with its signature, and pushed with either kind.
    signed.world.start().await.expect("the KMS starts");
    signed.in_force(2).await;
    let joined = with_minisig(second.as_bytes(), minisign.sign(&second).as_bytes());
    let third = text(&signed.world, 3, Some(digest(&joined)));
    let bare = signed.push(third.clone().into_bytes()).await;
    assert_eq!(code(&bare), (400, "bundle_malformed".to_owned()));
    let pushed = signed.push(with_minisig(third.as_bytes(), minisign.sign(&third).as_bytes())).await;
    assert_eq!((pushed.status, &pushed.value()["state"]), (200, &json!("pending")), "{}", pushed.text());
}
