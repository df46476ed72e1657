//! Generates from `proto/`: the gRPC services, the descriptor set, and the table of methods with its dispatch. Needs no `protoc`.
//!
//! The messages are generated once, in `crates/client`: the services here refer to them.

mod methods;

use std::{env, fs, path::PathBuf};

use protox::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed=GIT_REV");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("kms.proto")?;
    fs::write(out.join("kms.descriptors"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .extern_path(".kms", "::kms_client::proto")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;

    let services = methods::read(&compiler.descriptor_pool())?;
    fs::write(out.join("methods.rs"), methods::table(&services))?;
    fs::write(out.join("method_names.rs"), methods::names(&services))?;
    fs::write(out.join("dispatch.rs"), methods::dispatch(&services))?;

    // `v<version> (git:<20 digits>)` where the builder names the revision, `v<version>` where not.
    let version = env::var("CARGO_PKG_VERSION")?;
    let revision: String = env::var("GIT_REV").unwrap_or_default().chars().take(20).collect();
    let text =
        if revision.is_empty() { format!("v{version}") } else { format!("v{version} (git:{revision})") };
    println!("cargo:rustc-env=CVM_KMS_VERSION={text}");
    Ok(())
}
