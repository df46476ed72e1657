//! A quote's PCK chain text is not signed: whatever is changed in it, each fact about the platform is the one
//! that the signatures prove, or the quote is refused.

use super::*;
use crate::certificate::pem;
use crate::collateral::testing::{
    NOW, Routes, Server, mock_anchors, mock_quote, normal_routes, real_collateral, real_quote,
    routes_serving, with_certification,
};
use crate::collateral::{CacheOptions, Clock, PlatformKey};
use crate::tcb::PlatformTcb;

const REAL_NOW: u64 = 1_751_000_000;
const PCK_CHAIN: u16 = 5;

/// A quote with its collateral and root.
struct World {
    name: &'static str,
    quote: Vec<u8>,
    anchors: TrustAnchors,
    now: u64,
    routes: fn() -> Routes,
}

fn worlds() -> [World; 2] {
    [
        World {
            name: "real",
            quote: real_quote(),
            anchors: TrustAnchors::intel(),
            now: REAL_NOW,
            routes: || routes_serving(&real_collateral(), "B0C06F000000"),
        },
        World {
            name: "simulated",
            quote: mock_quote(),
            anchors: mock_anchors(),
            now: NOW,
            routes: normal_routes,
        },
    ]
}

impl World {
    async fn verifier(&self) -> (Server, Verifier) {
        let server = Server::start((self.routes)()).await;
        let options = CacheOptions { clock: Clock::fixed(self.now), ..CacheOptions::default() };
        let cache = CollateralCache::new(&[&server.base], &self.anchors, options).unwrap();
        (server, Verifier::new(self.anchors.clone(), cache))
    }
}

/// The blocks of a genuine chain, and forged leaves.
struct Blocks {
    leaf: String,
    ca: String,
    root: String,
    /// The leaf with other security versions; its signature is broken.
    forged: String,
    /// The leaf with another model; its signature is broken.
    other_model: String,
}

/// The object identifiers below `1.2.840.113741.1.13.1`, with the header of the value.
const CPU_SVN: &[u8] = b"\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x02\x12\x04\x10";
const FMSPC: &[u8] = b"\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x04\x04\x06";

fn with_value(der: &[u8], field: &[u8], value: u8, length: usize) -> Vec<u8> {
    let at = der.windows(field.len()).position(|window| window == field).expect("the field") + field.len();
    let mut forged = der.to_vec();
    forged[at..at + length].fill(value);
    forged
}

impl Blocks {
    fn of(quote: &[u8]) -> Self {
        let parsed = dcap_qvl::quote::Quote::parse(quote).unwrap();
        let chain = String::from_utf8(parsed.inner_cert_data().to_vec()).unwrap();
        let ends = "-----END CERTIFICATE-----\n";
        let blocks: Vec<&str> = chain.split_inclusive(ends).collect();
        let der = crate::certificate::der(blocks[0]).unwrap();
        Self {
            leaf: blocks[0].to_owned(),
            ca: blocks[1].to_owned(),
            root: blocks[2].to_owned(),
            forged: pem(&with_value(&der, CPU_SVN, 0xff, 16)),
            other_model: pem(&with_value(&der, FMSPC, 0x77, 6)),
        }
    }

    fn labelled(block: &str, label: &str) -> String {
        block.replace("CERTIFICATE", label)
    }
}

/// A change to a chain, and whether the quote may still verify, by the genuine leaf.
type Case = (&'static str, fn(&Blocks) -> Vec<u8>, bool);

fn text(parts: &[&str]) -> Vec<u8> {
    parts.concat().into_bytes()
}

const CASES: [Case; 33] = [
    ("as it is", |b| text(&[&b.leaf, &b.ca, &b.root]), true),
    ("ended as a C string", |b| text(&[&b.leaf, &b.ca, &b.root, "\0"]), true),
    ("no last line break", |b| text(&[&b.leaf, &b.ca, b.root.trim_end()]), true),
    ("CRLF", |b| text(&[&b.leaf, &b.ca, &b.root]).escape_lines(), true),
    ("without the root", |b| text(&[&b.leaf, &b.ca]), true),
    (
        "genuine leaf under another label, forged leaf",
        |b| text(&[&Blocks::labelled(&b.leaf, "PCK CERTIFICATE"), &b.forged, &b.ca, &b.root]),
        false,
    ),
    (
        "genuine leaf under another label, leaf of another model",
        |b| text(&[&Blocks::labelled(&b.leaf, "PCK CERTIFICATE"), &b.other_model, &b.ca, &b.root]),
        false,
    ),
    (
        "forged leaf under another label, genuine leaf",
        |b| text(&[&Blocks::labelled(&b.forged, "PCK CERTIFICATE"), &b.leaf, &b.ca, &b.root]),
        false,
    ),
    (
        "trusted certificate",
        |b| text(&[&Blocks::labelled(&b.leaf, "TRUSTED CERTIFICATE"), &b.forged, &b.ca, &b.root]),
        false,
    ),
    ("all under another label", |b| text(&[&b.leaf, &b.ca, &b.root]).relabelled(), false),
    (
        "a label in lower case",
        |b| text(&[&Blocks::labelled(&b.leaf, "certificate"), &b.forged, &b.ca, &b.root]),
        false,
    ),
    ("forged leaf first", |b| text(&[&b.forged, &b.leaf, &b.ca, &b.root]), false),
    ("forged leaf second", |b| text(&[&b.leaf, &b.forged, &b.ca, &b.root]), false),
    ("forged leaf last", |b| text(&[&b.leaf, &b.ca, &b.root, &b.forged]), false),
    ("forged leaf alone", |b| text(&[&b.forged, &b.ca, &b.root]), false),
    ("another model's leaf alone", |b| text(&[&b.other_model, &b.ca, &b.root]), false),
    ("leaf twice", |b| text(&[&b.leaf, &b.leaf, &b.ca, &b.root]), false),
    ("CA twice", |b| text(&[&b.leaf, &b.ca, &b.ca, &b.root]), false),
    ("root twice", |b| text(&[&b.leaf, &b.ca, &b.root, &b.root]), false),
    ("CA before the leaf", |b| text(&[&b.ca, &b.leaf, &b.root]), false),
    ("root before the CA", |b| text(&[&b.leaf, &b.root, &b.ca]), false),
    ("reversed", |b| text(&[&b.root, &b.ca, &b.leaf]), false),
    ("leaf alone", |b| text(&[&b.leaf]), false),
    ("leaf and root", |b| text(&[&b.leaf, &b.root]), false),
    ("nothing", |_| Vec::new(), false),
    ("text before", |b| text(&["leaf:\n", &b.leaf, &b.ca, &b.root]), false),
    ("text between", |b| text(&[&b.leaf, "and its CA:\n", &b.ca, &b.root]), false),
    ("text after", |b| text(&[&b.leaf, &b.ca, &b.root, "the end\n"]), false),
    ("a CRL between", |b| text(&[&b.leaf, &Blocks::labelled(&b.forged, "X509 CRL"), &b.ca, &b.root]), false),
    (
        "a block inside of a block",
        |b| {
            let (head, tail) = b.leaf.split_at(b.leaf.len() / 2);
            text(&[head, &b.forged, tail, &b.ca, &b.root])
        },
        false,
    ),
    (
        "headers in a block",
        |b| text(&[&b.leaf.replacen('\n', "\nProc-Type: 4,CLEAR\n\n", 1), &b.ca, &b.root]),
        false,
    ),
    ("NUL between", |b| text(&[&b.leaf, "\0", &b.ca, &b.root]), false),
    (
        "bytes after the certificate in its block",
        |b| {
            let der = [&crate::certificate::der(&b.leaf).unwrap()[..], &[0, 0]].concat();
            text(&[&pem(&der), &b.ca, &b.root])
        },
        false,
    ),
];

trait Spelling {
    fn escape_lines(self) -> Vec<u8>;
    fn relabelled(self) -> Vec<u8>;
}

impl Spelling for Vec<u8> {
    fn escape_lines(self) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace('\n', "\r\n").into_bytes()
    }

    fn relabelled(self) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace("CERTIFICATE", "X509 CERTIFICATE").into_bytes()
    }
}

async fn platform(verifier: &Verifier, quote: &[u8]) -> Result<PlatformTcb, VerifyError> {
    let (verified, _) = verifier.quote(&TdQuote::parse(quote)?).await?;
    assert_eq!(verified.verdict().fmspc, verified.platform().model.fmspc);
    Ok(*verified.platform())
}

#[tokio::test]
async fn every_fact_about_a_platform_is_the_verified_one_whatever_is_done_to_the_chain() {
    for world in worlds() {
        let blocks = Blocks::of(&world.quote);
        let genuine = platform(&world.verifier().await.1, &world.quote).await.unwrap();
        let (_server, warm) = world.verifier().await;
        platform(&warm, &world.quote).await.unwrap();
        for (case, chain, may_verify) in CASES {
            let quote = with_certification(&world.quote, PCK_CHAIN, &chain(&blocks));
            let (server, cold) = world.verifier().await;
            for (cache, verifier) in [("cold", &cold), ("warm", &warm)] {
                let case = format!("{}, {case}, {cache}", world.name);
                match platform(verifier, &quote).await {
                    Ok(platform) => {
                        assert!(may_verify, "{case}: accepted");
                        assert_eq!(platform, genuine, "{case}");
                    }
                    Err(error) => {
                        assert!(!may_verify, "{case}: {error}");
                        assert!(!error.is_unavailable(), "{case}: the sender's fault: {error}");
                    }
                }
            }
            assert_eq!(server.requests().is_empty(), !may_verify, "{}, {case}: requests", world.name);
        }
    }
}

#[tokio::test]
async fn the_cache_gives_nothing_for_a_quote_of_a_model_that_its_leaf_is_not_of() {
    for world in worlds() {
        let blocks = Blocks::of(&world.quote);
        let (server, verifier) = world.verifier().await;
        let model: PlatformKey = platform(&verifier, &world.quote).await.unwrap().model;
        let before = server.requests().len();
        for (_, chain, may_verify) in CASES {
            let quote = with_certification(&world.quote, PCK_CHAIN, &chain(&blocks));
            let collateral = verifier.cache().get(&quote).await;
            if may_verify {
                assert_eq!(collateral.unwrap().fmspc(), model.fmspc);
            }
        }
        assert_eq!(server.requests().len(), before, "{}", world.name);
    }
}
