//! `acpi/`: the ACPI files that QEMU gives to a guest, by machine shape and version.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use kms_attest::platform::tdx::image::acpi::{AcpiFiles, Shape};
use kms_attest::vm_config::VmConfig;
use sha2::{Digest as _, Sha256, Sha384};

use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};

const AS_AMD: &str =
    "memory above 4 GiB stays where QEMU has it on an Intel CPU; the peer moves it as on AMD's";

pub(super) fn tables<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    for key in ["what", "fields", "defaults"] {
        file.at("note")?.at(key)?.informative();
    }
    cases.list(file, "vectors", |case, _| files(case))
}

/// The shape that a configuration describes. Both were written by the same program, the shape for QEMU.
fn shape(case: &Json) -> Check<Shape> {
    for key in ["origin", "shape", "qemu_args", "peer_refuses"] {
        case.at(key)?.informative();
    }
    let text = case.at("vm_config")?.plain().to_string();
    let config = VmConfig::parse(&text)?;
    case.at("qemu_version")?.is_text(config.qemu_version.as_deref().unwrap_or_default())?;
    Ok(Shape::of(&config)?)
}

fn files(case: &Json) -> Check {
    let AcpiFiles { loader, rsdp, tables } = AcpiFiles::of_vm(&shape(case)?);
    let (mut at, layout) = (0, case.at("tables_layout")?.list()?);
    for entry in layout {
        let [signature, offset, length] = entry.list()? else {
            return Err(Failure(format!("{}: is not a table", entry.path())));
        };
        offset.is_number(at)?;
        signature.is_text(&String::from_utf8_lossy(&tables[at..at + 4]))?;
        let ours = u32::from_le_bytes(tables[at + 4..at + 8].try_into()?);
        length.is_number(ours)?;
        at += ours as usize;
    }
    ensure!(tables[at..].iter().all(|byte| *byte == 0), "{}: ours has more tables", case.path());
    for (name, ours) in [("tables", &tables), ("rsdp", &rsdp), ("loader", &loader)] {
        case.at("sizes")?.at(name)?.is_number(ours.len())?;
        let packed = case.at("gz_base64_without_trailing_zeros")?.at(name)?.text()?;
        let packed = STANDARD.decode(packed)?;
        let mut theirs = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut theirs)?;
        theirs.resize(ours.len(), 0);
        let differs = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        ensure!(differs.is_none(), "{}: {name} differs from byte {differs:?} on", case.path());
        case.at("sha384")?.at(name)?.is_bytes(Sha384::digest(ours))?;
    }
    case.at("sha256_tables")?.is_bytes(Sha256::digest(&tables))
}

/// What the peer's tests state.
pub(super) fn peers<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    cases.list(file, "vectors", peer)
}

fn peer(case: &Json, notes: &mut Notes) -> Check {
    let config = VmConfig::parse(&case.at("vm_config")?.plain().to_string())?;
    let ours = Sha256::digest(AcpiFiles::of_vm(&Shape::of(&config)?).tables);
    let theirs = case.at("sha256_tables")?;
    if case.at("note")?.text()?.contains("AMD 1 TiB rule") {
        ensure!(theirs.array::<32>()? != *ours, "{}: ours has AMD's layout", case.path());
        notes.differs(AS_AMD);
        return Ok(());
    }
    theirs.is_bytes(ours)
}
