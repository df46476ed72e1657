//! Generates from `proto/`: the messages with their JSON form, the table of methods, the descriptors, and the
//! dispatch for the server. Needs no `protoc`.

mod messages;
mod methods;
#[expect(unreachable_pub, reason = "the library, which has the same file, exports it")]
#[path = "../src/message/omitted.rs"]
mod omitted;

use std::path::PathBuf;
use std::{env, fs};

use protox::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo runs build scripts in the folder of their package.
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=src/message/omitted.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = Compiler::new([root])?;
    compiler.include_imports(true).open_file("kms.proto")?;
    fs::write(out.join("kms.descriptors"), compiler.encode_file_descriptor_set())?;
    messages::generate(compiler.file_descriptor_set())?;
    let services = methods::read(&compiler.descriptor_pool())?;
    fs::write(out.join("methods.rs"), methods::table(&services))?;
    fs::write(out.join("method_names.rs"), methods::names(&services))?;
    fs::write(out.join("method_requests.rs"), methods::requests(&services))?;
    let dispatch = out.join("dispatch.rs");
    fs::write(&dispatch, methods::dispatch(&services))?;
    // The build script of the server reads this as `DEP_KMS_WIRE_DISPATCH`.
    println!("cargo:dispatch={}", dispatch.display());
    Ok(())
}
