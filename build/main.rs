//! Generates the gRPC services from `proto/` over the messages of `crates/wire`, and sets the version. Needs
//! no `protoc`.

use std::env;

use protox::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed=GIT_REV");
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("kms.proto")?;
    tonic_prost_build::configure()
        .extern_path(".kms", "::kms_wire::message")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;

    // The dispatch of methods, which `crates/wire` generates with its table.
    println!("cargo:rustc-env=KMS_DISPATCH={}", env::var("DEP_KMS_WIRE_DISPATCH")?);

    // `v<version> (git:<20 digits>)` if the builder sets a revision, otherwise `v<version>`.
    let version = env::var("CARGO_PKG_VERSION")?;
    let revision: String = env::var("GIT_REV").unwrap_or_default().chars().take(20).collect();
    let text =
        if revision.is_empty() { format!("v{version}") } else { format!("v{version} (git:{revision})") };
    println!("cargo:rustc-env=CVM_KMS_VERSION={text}");
    Ok(())
}
