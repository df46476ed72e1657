//! Generates the gRPC services and the descriptor set from `proto/kms.proto`. Needs no `protoc`.
//!
//! The messages are generated once, in `crates/client`: the services here refer to them.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/kms.proto");
    println!("cargo:rerun-if-env-changed=GIT_REV");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let descriptors = protox::compile(["kms.proto"], ["proto"])?;
    fs::write(out.join("kms.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".kms", "::kms_client::proto")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;

    // `v<version> (git:<20 digits>)` where the builder names the revision, `v<version>` where not.
    let version = env::var("CARGO_PKG_VERSION")?;
    let revision: String = env::var("GIT_REV").unwrap_or_default().chars().take(20).collect();
    let text =
        if revision.is_empty() { format!("v{version}") } else { format!("v{version} (git:{revision})") };
    println!("cargo:rustc-env=CVM_KMS_VERSION={text}");
    Ok(())
}
