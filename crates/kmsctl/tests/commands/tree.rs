//! The client links no server, no policy and no CA; the library links nothing of the program.

use std::process::Command;

/// Names of all packages that a package of ours links.
fn tree(package: &str, features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn no_server_no_policy_no_ca_is_linked() {
    for (package, features) in [("kms-client", &[][..]), ("kms-client", &["--all-features"]), ("kmsctl", &[])]
    {
        let tree = tree(package, features);
        for needed in ["kms-client", "kms-attest", "rustls"] {
            assert!(tree.iter().any(|name| name == needed), "{needed} is in the tree");
        }
        for forbidden in [
            "cvm-kms",
            "kms-simulator",
            "kms-sandbox",
            "axum",
            "axum-core",
            "tonic",
            "tonic-prost",
            "prometheus",
            "openssl",
            "openssl-sys",
            "native-tls",
        ] {
            assert!(
                !tree.iter().any(|name| name == forbidden),
                "{forbidden} is linked into {package} {features:?}"
            );
        }
    }
}

#[test]
fn the_library_links_nothing_of_the_program() {
    let tree = tree("kms-client", &[]);
    for program in ["clap", "clap_complete", "clap_mangen", "indicatif", "secp256k1", "tempfile"] {
        assert!(!tree.iter().any(|name| name == program), "{program} is linked into the library");
    }
    let all: Vec<String> = self::tree("kmsctl", &[]);
    assert!(all.iter().any(|name| name == "clap"), "the program's tree is another");
}
