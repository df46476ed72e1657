//! `os_image.json`: the measurements of OS images, and invalid archives.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvm_kms::os_image::{AcpiPins, ImageCache, LiteAttestation, OsImages, Settings};
use kms_attest::measurement::TdxEvent;
use kms_attest::platform::manifest::{Manifest, image_hash};
use kms_attest::platform::sev_snp::image::{self as snp, Claim, CpuModel, Launch, LaunchError, Section};
use kms_attest::platform::tdx::Quoted;
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape};
use kms_attest::platform::tdx::image::legacy::{self, AcpiTables, Image, Metadata};
use kms_attest::platform::tdx::image::lite::LiteError;
use kms_attest::platform::tdx::image::qemu::AcpiCall;
use kms_attest::platform::tdx::image::{BootRegisters, lite};
use kms_attest::vm_config::VmConfig;
use serde_json::json;
use sha2::{Digest as _, Sha384};

use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::server::{Route, Server};

/// An image as the peer packed it.
pub(super) struct Packed {
    pub(super) hash: String,
    files: HashMap<String, Vec<u8>>,
}

impl Packed {
    pub(super) fn read(case: &Json) -> Check<Self> {
        let mut files = HashMap::new();
        for (name, content) in case.at("files_base64")?.entries()? {
            files.insert(name.clone(), base64(content)?);
        }
        Ok(Self { hash: case.at("os_image_hash")?.text()?.to_owned(), files })
    }

    pub(super) fn file(&self, name: &str) -> Check<&Vec<u8>> {
        self.files.get(name).ok_or_else(|| Failure(format!("the image {} has no {name}", self.hash)))
    }

    fn metadata(&self) -> Check<Metadata> {
        Ok(Metadata::parse(self.file(legacy::METADATA)?)?)
    }

    pub(super) fn registers(&self, config: &VmConfig, tables: AcpiTables<'_>) -> Check<BootRegisters> {
        let metadata = self.metadata()?;
        let initrd = self.file(&metadata.initrd)?;
        let image = Image {
            firmware: self.file(&metadata.bios)?,
            kernel: self.file(&metadata.kernel)?.clone(),
            kernel_header: metadata.kernel_header(),
            initrd_size: initrd.len() as u64,
            initrd_sha384: Sha384::digest(initrd).into(),
            command_line: &metadata.cmdline,
        };
        Ok(legacy::boot_registers(config, image, tables)?)
    }
}

fn base64(value: &Json) -> Check<Vec<u8>> {
    let text = value.text()?;
    match STANDARD.decode(text) {
        Ok(bytes) if STANDARD.encode(&bytes) == text => Ok(bytes),
        _ => Err(Failure(format!("{}: is not base64", value.path()))),
    }
}

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    let images = file.at("images")?.list()?.iter().map(Packed::read).collect::<Check<Vec<_>>>()?;
    cases.list(file, "images", |case, _| image(case))?;
    let tables = file.at("acpi_tables")?.bytes()?;
    let images = Arc::new(images);
    let of = Arc::clone(&images);
    cases.single(file, "tdx_measurement_cbor_as_json", move |case, _| document(case, &of))?;
    let of = Arc::clone(&images);
    cases.list(file, "legacy", move |case, _| legacy(case, &of, &tables))?;
    cases.list(file, "lite", lite)?;
    file.at("lite_without_document_error")?.is_text(
        &lite::boot_registers(&VmConfig::default(), &[])
            .err()
            .map_or(String::new(), |error| error.to_string()),
    )?;
    cases.list(file, "download_failures", |case, _| download_failure(case))?;
    let of = Arc::clone(&images);
    cases.single(file, "http_requests_seen", move |case, _| {
        let requests = of.iter().map(|image| format!("GET /{}.tar.gz HTTP/1.1", image.hash));
        case.is_json(&requests.collect())
    })?;
    cases.single(file, "cache_listing", move |case, _| {
        case.is_json(&listing(&images, file.at("legacy")?.list()?)?)
    })?;
    cases.single(file, "measurement_cache_file_example", |case, _| {
        let first = file.at("legacy")?.list()?.first();
        let first = first.ok_or_else(|| Failure("there is no legacy case".into()))?;
        case.at("name")?.is_text(&format!("{}.json", first.at("measurement_cache_key")?.text()?))?;
        let registers: BootRegisters = first.at("expected")?.read()?;
        let ours = json!({"version": 3, "measurements": registers});
        case.at("content")?.is_text(&ours.to_string())
    })?;
    cases.list(file, "sev_snp", sev_snp)
}

fn image(case: &Json) -> Check {
    let image = Packed::read(case)?;
    let list = case.at("sha256sum_txt")?.text()?;
    case.at("os_image_hash")?.is_bytes(image_hash(list.as_bytes()))?;
    let manifest = Manifest::parse(list.as_bytes())?;
    ensure!(manifest.entries().len() == image.files.len(), "{}: lists other files", case.path());
    for (name, content) in &image.files {
        let is_listed = manifest.sha256(name) == Some(&image_hash(content));
        ensure!(is_listed, "{}: {name} is not as listed", case.path());
    }
    case.at("measurement_tdx_cbor")?.is_bytes(image.file("measurement.tdx.cbor")?)
}

/// The first image's measurement, written as CBOR.
fn document(case: &Json, images: &[Packed]) -> Check {
    let image = images.first().ok_or_else(|| Failure("there is no image".into()))?;
    let mut written = Vec::new();
    write(case, "", &mut written)?;
    ensure!(written == *image.file("measurement.tdx.cbor")?, "{}: is another document", case.path());
    Ok(())
}

/// Maps and small numbers; values are bytes unless they are text.
fn write(value: &Json, key: &str, output: &mut Vec<u8>) -> Check {
    let head = |major: u8, length: usize, output: &mut Vec<u8>| match u8::try_from(length) {
        Ok(short @ 0..24) => output.push(major << 5 | short),
        Ok(long) => output.extend([major << 5 | 24, long]),
        Err(_) => output.push(0xff),
    };
    if let Ok(entries) = value.entries() {
        head(5, entries.len(), output);
        for (key, value) in entries {
            head(3, key.len(), output);
            output.extend(key.as_bytes());
            write(value, key, output).map_err(|Failure(why)| Failure(format!("{key}: {why}")))?;
        }
    } else if let Ok(number) = value.number() {
        head(0, usize::try_from(number)?, output);
    } else if key == "ovmf" {
        head(3, value.text()?.len(), output);
        output.extend(value.text()?.as_bytes());
    } else {
        let bytes = value.bytes()?;
        head(2, bytes.len(), output);
        output.extend(bytes);
    }
    Ok(())
}

fn legacy(case: &Json, images: &[Packed], tables: &[u8]) -> Check {
    let config = VmConfig::parse(case.at("vm_config")?.text()?)?;
    let written = serde_json::to_string(&config)?;
    case.at("vm_config_reserialized")?.is_text(&written)?;
    let key = hex::encode(image_hash(written.as_bytes()));
    case.at("measurement_cache_key")?.is_text(&key)?;
    let hash = hex::encode(&config.os_image_hash);
    let image = images.iter().find(|image| image.hash == hash);
    let image = image.ok_or_else(|| Failure(format!("{}: of an unknown image", case.path())))?;
    let metadata = image.metadata()?;
    let directory = format!("{{CACHE}}/images/{hash}");
    let path = |name: &str| Path::new(&directory).join(name);
    let call = AcpiCall::of(&config, &path(&metadata.bios), &path(&metadata.kernel));
    let expected = case.at("expected")?;
    if let Some(error) = expected.maybe("error") {
        let Err(refusal) = call else { return Err(Failure(format!("{}: is not refused", case.path()))) };
        // Versions and modes are spelled differently.
        let (peer, ours) = (error.text()?, refusal.to_string());
        let is_alike = peer.rsplit(": ").next() == Some(&ours)
            || peer.contains(ours.split(": ").next().unwrap_or(&ours));
        ensure!(is_alike, "{}: ours is {ours:?}", case.path());
        ensure!(case.at("acpi_tool_env_and_args")?.is_null(), "{}: the program is called", case.path());
        return Ok(());
    }
    let call = call?;
    let mut words = vec![format!("{}={}", AcpiCall::VARIABLE, call.version)];
    words.extend(call.arguments.iter().map(|word| word.to_string_lossy().into_owned()));
    case.at("acpi_tool_env_and_args")?.is_json(&json!(words))?;
    let registers = image.registers(&config, AcpiTables::Given(tables))?;
    expected.is_json(&json!(registers))?;
    let matching = case.at("verify_matching")?;
    let refusal = registers.compare(&Quoted::of(&registers)).err();
    matching.at("error")?.is_json(&json!(refusal.map(|error| error.to_string())))?;
    matching.at("is_dev")?.is_bool(metadata.is_dev)?;
    matching.at("version")?.is_text(&metadata.version)?;
    let mut other = Quoted::of(&registers);
    other.rt_mr1[0] ^= 1;
    let refusal = registers.compare(&other).err();
    case.at("verify_rtmr1_differs")?.at("error")?.is_json(&json!(refusal.map(|error| error.to_string())))
}

const INVENTED_TABLES: &str =
    "the log has invented digests of ACPI tables, which are refused; with the right ones all but RTMR0 agree";

/// Cases from before the digests of ACPI tables were recomputed: their logs have invented ones.
fn lite(case: &Json, notes: &mut Notes) -> Check {
    let config = VmConfig::parse(case.at("vm_config")?.text()?)?;
    let mut log: Vec<TdxEvent> = case.at("event_log")?.read()?;
    let outcome = lite::boot_registers(&config, &log);
    if let Some(error) = case.some("verify_error_with_matching_report") {
        case.at("expected")?.informative();
        ensure!(outcome.is_err(), "{}: is not refused", case.path());
        log_acpi(&config, &mut log)?;
        let Err(refusal) = lite::boot_registers(&config, &log) else {
            return Err(Failure(format!("{}: is not refused with the right digests", case.path())));
        };
        let ours = refusal.to_string();
        let is_alike = error.text()?.contains(ours.split("; found").next().unwrap_or(&ours));
        ensure!(is_alike, "{}: ours is {ours:?}", case.path());
        return Ok(());
    }
    let is_named = matches!(&outcome, Err(LiteError::AcpiMismatch { name: "acpi-loader", .. }));
    ensure!(is_named, "{}: the log is believed: {outcome:?}", case.path());
    log_acpi(&config, &mut log)?;
    let ours = lite::boot_registers(&config, &log)?;
    let expected = case.at("expected")?;
    for (name, register) in [("mrtd", ours.mrtd), ("rtmr1", ours.rtmr1), ("rtmr2", ours.rtmr2)] {
        expected.at(name)?.is_bytes(register)?;
    }
    expected.at("rtmr0")?.informative();
    notes.differs(INVENTED_TABLES);
    Ok(())
}

/// Puts the right digests of ACPI tables into their events.
fn log_acpi(config: &VmConfig, log: &mut [TdxEvent]) -> Check {
    let AcpiDigests { loader, rsdp, tables } = AcpiDigests::of_vm(&Shape::of(config)?);
    for (name, digest) in [("acpi-loader", loader), ("acpi-rsdp", rsdp), ("acpi-tables", tables)] {
        for event in log.iter_mut().filter(|event| event.event == name) {
            event.digest = digest.to_vec();
        }
    }
    Ok(())
}

fn download_failure(case: &Json) -> Check {
    let hash = case.at("requested_hash")?.array::<32>()?;
    let status = u16::try_from(case.at("http_status")?.number()?)?;
    let route = Route { status, headers: Vec::new(), body: base64(case.at("body_base64")?)? };
    let server = Server::start(HashMap::from([(format!("/{}.tar.gz", hex::encode(hash)), route)]))?;
    let directory = tempfile::tempdir()?;
    let settings = Settings {
        download_url: format!("{}/{{OS_IMAGE_HASH}}.tar.gz", server.base()),
        download_timeout: None,
        lite: LiteAttestation::Allow,
        acpi_tables: None,
        acpi_digests: AcpiPins::new(),
        extra_roots: Vec::new(),
    };
    let images = OsImages::new(settings, ImageCache::new(directory.path().to_owned()))?;
    let (outcome, requests) = server.talk(images.fetch(hash));
    ensure!(requests.len() == 1, "{}: {} requests", case.path(), requests.len());
    let Err(error) = outcome else { return Err(Failure(format!("{}: is not refused", case.path()))) };
    // The peer's text also has the position and file.
    let (peer, ours) = (case.at("error")?.text()?, error.to_string());
    ensure!(peer.starts_with(&ours), "{}: ours is {ours:?}", case.path());
    Ok(())
}

/// The peer's caches after all cases: images, and successful measurements.
fn listing(images: &[Packed], legacy: &[Json]) -> Check<serde_json::Value> {
    let mut names = BTreeSet::from(["images/", "images/tmp/", "measurements/"].map(str::to_owned));
    for Packed { hash, files } in images {
        names.extend([format!("images/{hash}/"), format!("images/{hash}/sha256sum.txt")]);
        names.extend(files.keys().map(|name| format!("images/{hash}/{name}")));
    }
    for case in legacy {
        if case.at("expected")?.maybe("error").is_none() {
            names.insert(format!("measurements/{}.json", case.at("measurement_cache_key")?.text()?));
        }
    }
    Ok(json!(names))
}

/// A launch measurement, from its parts and from a guest's claimed configuration.
fn sev_snp(case: &Json, _: &mut Notes) -> Check {
    let launch = launch(case.at("input")?)?;
    let measured = launch
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|launch| launch.measurement().map_err(|error| error.to_string()));
    let Some(expected) = case.maybe("measurement") else {
        let error = measured.err().ok_or_else(|| Failure(format!("{}: is measured", case.path())))?;
        return case.at("error")?.is_text(&error);
    };
    let measurement = measured.map_err(Failure)?;
    expected.is_bytes(measurement)?;
    let claim = Claim::parse(case.at("vm_config")?.text()?).map_err(|error| Failure(error.to_string()))?;
    ensure!(Ok(&claim.launch) == launch.as_ref(), "{}: claims another launch", case.path());
    let list = case.at("sha256sum_txt")?.text()?;
    ensure!(image_hash(list.as_bytes()) == claim.os_image_hash, "{}: is another list", case.path());
    let document = Manifest::parse(list.as_bytes()).map_err(|error| Failure(error.to_string()))?;
    let document = document.sha256("measurement.snp.cbor").copied();
    let bytes = case.at("measurement_snp_cbor")?.bytes()?;
    ensure!(document == Some(image_hash(&bytes)), "{}: is another document", case.path());

    let host_data: [u8; 32] = case.at("host_data")?.array()?;
    let both = [&measurement[..], &host_data].concat();
    case.at("mr_system")?.is_bytes(image_hash(&measurement))?;
    case.at("mr_aggregated")?.is_bytes(image_hash(&both))?;
    for (key, host_data) in
        [("verify_sev_launch_error", host_data), ("verify_sev_launch_error_wrong_host_data", [0; 32])]
    {
        let expected = case.at(key)?;
        match claim.compare(&measurement, &host_data) {
            Ok(()) => ensure!(expected.is_null(), "{}: is accepted", expected.path()),
            Err(error) => expected.is_text(&error.to_string())?,
        }
    }
    Ok(())
}

fn launch(input: &Json) -> Check<Result<Launch, LaunchError>> {
    let number = |value: &Json| -> Check<u32> {
        u32::try_from(value.number()?).map_err(|_| Failure(format!("{}: is too large", value.path())))
    };
    let section = |section: &Json| -> Check<Section> {
        Ok(Section {
            gpa: section.at("gpa")?.number()?,
            size: section.at("size")?.number()?,
            kind: section.at("section_type")?.number()?,
        })
    };
    let initrd = input.at("initrd_hash")?;
    let image = snp::Image {
        command_line: input.at("base_cmdline")?.text()?.to_owned(),
        ovmf_hash: input.at("ovmf_hash")?.array()?,
        kernel_hash: input.at("kernel_hash")?.array()?,
        // The peer writes the hash of an empty file for a missing one.
        initrd_hash: match initrd.text()? {
            "" => Some(image_hash(b"")),
            _ => Some(initrd.array()?),
        },
        hashes_table_gpa: input.at("sev_hashes_table_gpa")?.number()?,
        reset_eip: number(input.at("sev_es_reset_eip")?)?,
        sections: input.at("ovmf_sections")?.list()?.iter().map(section).collect::<Check<_>>()?,
    };
    let vcpus = number(input.at("vcpus")?)?;
    let guest_features = input.at("guest_features")?.number()?;
    let cpu = CpuModel::parse(input.at("vcpu_type")?.text()?);
    Ok(cpu.map(|cpu| Launch { image, vcpus, cpu, guest_features }))
}
