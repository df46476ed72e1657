//! `os_image_v4.json`: measurement documents of version 4, each refusal with its step, and legacy register sets.

use kms_attest::measurement::TdxEvent;
use kms_attest::platform::manifest::{Manifest, UnvouchedError, image_hash};
use kms_attest::platform::tdx::Quoted;
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape, ShapeError};
use kms_attest::platform::tdx::image::legacy::AcpiTables;
use kms_attest::platform::tdx::image::lite::{self, LiteError};
use kms_attest::platform::tdx::image::{BootRegisters, Mismatch};
use kms_attest::vm_config::VmConfig;
use serde_json::json;
use sha2::{Digest as _, Sha384};

use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::os_image::Packed;

const VERSION_3: &str = "a document of version 3 is read too: older images carry one";
const ROOT_PORTS: &str =
    "root ports with hot-plugging are described as QEMU does: refused by their digests instead";
const STRICTER: &str = "ours is stricter, as a verifier may be here";

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    file.at("either")?.informative();
    let images = file.at("images")?.list()?.iter().map(Packed::read).collect::<Check<Vec<_>>>()?;
    cases.list(file, "images", |case, _| image(case))?;
    cases.list(file, "lite", lite)?;
    cases.list(file, "legacy", move |case, _| legacy(case, &images, file))
}

fn image(case: &Json) -> Check {
    let image = Packed::read(case)?;
    let list = case.at("sha256sum_txt")?.text()?;
    case.at("os_image_hash")?.is_bytes(image_hash(list.as_bytes()))?;
    let manifest = Manifest::parse_strict(list.as_bytes())?;
    for entry in manifest.entries() {
        let is_listed = image.file(&entry.name).is_ok_and(|content| image_hash(content) == entry.sha256);
        ensure!(is_listed, "{}: {} is not as listed", case.path(), entry.name);
    }
    let files = case.at("files_base64")?.entries()?;
    ensure!(manifest.entries().len() == files.len(), "{}: lists other files", case.path());
    Ok(())
}

fn lite(case: &Json, notes: &mut Notes) -> Check {
    if let Some(fixture) = case.maybe("fixture") {
        fixture.informative();
    }
    let may_refuse = match case.maybe("either") {
        Some(either) => either.boolean()?,
        None => false,
    };
    let config = VmConfig::parse(case.at("vm_config")?.text()?)?;
    let log: Vec<TdxEvent> = case.at("event_log")?.read()?;
    let computed = lite::boot_registers(&config, &log);
    let actual: Option<BootRegisters> = match case.maybe("actual").or(case.maybe("expected")) {
        Some(registers) => Some(registers.read()?),
        None => None,
    };
    match case.at("verify")?.text()? {
        "accepted" => {
            let Ok(registers) = computed else {
                ensure!(may_refuse, "{}: is refused: {:?}", case.path(), computed.err());
                case.at("expected")?.informative();
                notes.differs(STRICTER);
                return Ok(());
            };
            case.at("expected")?.is_json(&json!(registers))?;
            let actual = actual.ok_or_else(|| Failure(format!("{}: has no registers", case.path())))?;
            registers.compare(&Quoted::of(&actual)).map_err(Failure::from)
        }
        "refused" => refused(case, &config, computed, actual, notes),
        other => Err(Failure(format!("{}: unknown verdict {other:?}", case.path()))),
    }
}

fn refused(
    case: &Json,
    config: &VmConfig,
    computed: Result<BootRegisters, LiteError>,
    actual: Option<BootRegisters>,
    notes: &mut Notes,
) -> Check {
    let (expected, reason) = (case.at("step")?.number()?, case.at("reason")?.text()?);
    match (computed, actual) {
        (Ok(registers), Some(actual)) => {
            case.at("expected")?.is_json(&json!(registers))?;
            let Err(Mismatch { register, .. }) = registers.compare(&Quoted::of(&actual)) else {
                return Err(Failure(format!("{}: is accepted", case.path())));
            };
            ensure!(expected == 16, "{}: gets to step 16", case.path());
            ensure!(reason == format!("{register} mismatch"), "{}: {register} differs", case.path());
            Ok(())
        }
        (Ok(_), None) => {
            // Without a statement of what the guest booted, the case is about the document.
            let is_version_3 = expected == 5 && reason == "missing field 'cmdline'" && has_digest(config);
            ensure!(is_version_3, "{}: is not refused", case.path());
            notes.differs(VERSION_3);
            Ok(())
        }
        (Err(error), _) => {
            if let Some(registers) = case.maybe("expected") {
                registers.informative();
            }
            let step = step_of(&error);
            let root_ports = expected == 10 && step == 11 && reason == "hotplug with root ports";
            if root_ports {
                notes.differs(ROOT_PORTS);
            }
            // Decoding depends on the version: version 3 has other fields.
            let document = [5, 6].contains(&expected) && [5, 6].contains(&step);
            ensure!(step == expected || document || root_ports, "{}: step {step}: {error}", case.path());
            Ok(())
        }
    }
}

/// Whether the document has the command line's digest, as version 3 has.
fn has_digest(config: &VmConfig) -> bool {
    let document = config.tdx_measurement.as_ref().map(|material| material.measurement.as_slice());
    let name = b"ncmdline_sha384";
    document.is_some_and(|document| document.windows(name.len()).any(|window| window == name))
}

/// The verification step that refuses.
fn step_of(error: &LiteError) -> u64 {
    match error {
        LiteError::NoDocument => 1,
        LiteError::Unvouched(UnvouchedError::ImageHash { .. }) => 2,
        LiteError::Unvouched(UnvouchedError::Manifest(_) | UnvouchedError::NotListed(_)) => 3,
        LiteError::Unvouched(UnvouchedError::DocumentHash { .. }) => 4,
        LiteError::Cbor(_) | LiteError::Field(_) | LiteError::Ovmf(_) => 5,
        LiteError::Version(_) => 6,
        LiteError::CommandLine(_) => 7,
        LiteError::OvmfVariant => 8,
        LiteError::AcpiEvents(_) | LiteError::AcpiEventName(_) | LiteError::AcpiDigest(_) => 9,
        LiteError::Shape(_) => 10,
        LiteError::AcpiMismatch { .. } => 11,
        LiteError::Memory(_) => 12,
        LiteError::Digest { .. } => 13,
        LiteError::Witness(_) => 14,
        LiteError::RootfsHash(_) => 15,
        LiteError::Machine(_) | LiteError::TdHob(_) => 0,
    }
}

fn legacy(case: &Json, images: &[Packed], file: &Json) -> Check {
    let config = VmConfig::parse(case.at("vm_config")?.text()?)?;
    let hash = hex::encode(&config.os_image_hash);
    let image = images.iter().find(|image| image.hash == hash);
    let image = image.ok_or_else(|| Failure(format!("{}: of an unknown image", case.path())))?;
    let named = file
        .at("images")?
        .list()?
        .iter()
        .find(|image| image.maybe("os_image_hash").is_some_and(|of| of.is_text(&hash).is_ok()));
    case.at("image")?.is_text(named.map_or(Ok(""), |image| image.at("name")?.text())?)?;
    let AcpiDigests { loader, rsdp, tables } = AcpiDigests::of_vm(&Shape::of(&config)?);
    let acpi = case.at("acpi")?;
    for (name, digest) in [("loader", loader), ("rsdp", rsdp), ("tables", tables)] {
        acpi.at(name)?.is_bytes(digest)?;
    }
    let registers = image.registers(&config, AcpiTables::OfVm)?;
    case.at("expected")?.is_json(&json!(registers))?;
    let kernel: [u8; 48] = case.at("kernel_digest")?.array()?;
    ensure!(rtmr1(kernel) == registers.rtmr1, "{}: RTMR1 has another kernel", case.path());
    Ok(())
}

/// RTMR1 of a kernel: its digest, then four events of the boot loader.
fn rtmr1(kernel: [u8; 48]) -> [u8; 48] {
    let events: [&[u8]; 4] = [
        b"Calling EFI Application from Boot Option",
        &[0; 4],
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    ];
    let digests = std::iter::once(kernel).chain(events.map(|event| Sha384::digest(event).into()));
    digests.fold([0; 48], |register, digest| {
        Sha384::new().chain_update(register).chain_update(digest).finalize().into()
    })
}

/// A real recording: it verifies, and each alteration is refused by name.
pub(super) fn recording(
    config: &VmConfig,
    log: &[TdxEvent],
    registers: &kms_attest::platform::tdx::Quoted,
) -> Check {
    lite::boot_registers(config, log)?.compare(registers)?;
    let refusal = |change: &dyn Fn(&mut VmConfig, &mut Vec<TdxEvent>)| {
        let (mut config, mut log) = (config.clone(), log.to_vec());
        change(&mut config, &mut log);
        lite::boot_registers(&config, &log)
    };
    type Change = (&'static str, fn(&mut VmConfig));
    let shapes: [Change; 9] = [
        ("cpu_count", |config| config.cpu_count += 1),
        ("memory_size", |config| config.memory_size = 1 << 30),
        ("qemu_version", |config| config.qemu_version = Some("11.1.0".to_owned())),
        ("pic", |config| config.pic = Some(!config.pic.unwrap_or_else(|| is_8(config)))),
        ("num_nics", |config| config.num_nics += 1),
        ("num_verity_volumes", |config| config.num_verity_volumes += 1),
        ("hugepages", |config| config.hugepages = !config.hugepages),
        ("hotplug_off", |config| config.hotplug_off = !config.hotplug_off),
        ("pci_hole64_size", |config| config.pci_hole64_size = 1 << 40),
    ];
    for (name, change) in shapes {
        let refused = refusal(&|config, _| change(config));
        let is_named = matches!(refused, Err(LiteError::AcpiMismatch { .. }));
        ensure!(is_named, "another {name}: {refused:?}");
    }
    let refused = refusal(&|config, _| config.swtpm = true);
    ensure!(matches!(refused, Err(LiteError::Shape(ShapeError::Machine(_)))), "a TPM: {refused:?}");
    let refused = refusal(&|config, _| config.os_image_hash[0] ^= 1);
    ensure!(refused.is_err_and(|error| step_of(&error) == 2), "another image hash");
    let refused = refusal(&|config, _| material(config).checksum_file[0] ^= 1);
    ensure!(refused.is_err_and(|error| step_of(&error) == 2), "another list");
    let refused = refusal(&|config, _| material(config).measurement[9] ^= 1);
    ensure!(refused.is_err_and(|error| step_of(&error) == 4), "another document");
    let named = |name: &str| log.iter().position(|event| event.event == name);
    for name in ["acpi-loader", "acpi-rsdp", "acpi-tables"] {
        let at = named(name).ok_or_else(|| Failure(format!("there is no event {name}")))?;
        let refused = refusal(&|_, log| log[at].digest[47] ^= 1);
        let is_named = matches!(&refused, Err(LiteError::AcpiMismatch { name: named, .. }) if *named == name);
        ensure!(is_named, "another digest of {name}: {refused:?}");
        let refused = refusal(&|_, log| log[at].event.push('x'));
        ensure!(refused.is_err_and(|error| step_of(&error) == 9), "another name of {name}");
        let refused = refusal(&|_, log| drop(log.remove(at)));
        ensure!(refused.is_err_and(|error| step_of(&error) == 9), "no {name}");
    }
    let computed = lite::boot_registers(config, log)?;
    type Register = fn(&mut kms_attest::platform::tdx::Quoted) -> &mut [u8; 48];
    let quoted: [(&str, Register); 4] = [
        ("MRTD", |quoted| &mut quoted.mr_td),
        ("RTMR0", |quoted| &mut quoted.rt_mr0),
        ("RTMR1", |quoted| &mut quoted.rt_mr1),
        ("RTMR2", |quoted| &mut quoted.rt_mr2),
    ];
    for (name, register) in quoted {
        let mut altered = registers.clone();
        register(&mut altered)[0] ^= 1;
        let refused = computed.compare(&altered).err().map(|mismatch| mismatch.register.to_string());
        ensure!(refused.as_deref() == Some(name), "another {name}: {refused:?}");
    }
    Ok(())
}

fn is_8(config: &VmConfig) -> bool {
    config.qemu_version.as_ref().is_some_and(|version| version.starts_with("8."))
}

fn material(config: &mut VmConfig) -> &mut kms_attest::vm_config::ImageMeasurement {
    config.tdx_measurement.as_mut().expect("it was read above")
}
