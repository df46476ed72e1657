//! Measures a cached image: computes the registers of a VM from its files. Everything here blocks.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use kms_attest::platform::manifest::Manifest;
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape};
use kms_attest::platform::tdx::image::legacy::{self, AcpiTables, Image, LegacyError, METADATA, Metadata};
use kms_attest::platform::tdx::image::qemu::AcpiCall;
use kms_attest::vm_config::VmConfig;
use sha2::{Digest as _, Sha256, Sha384};

use super::archive::read_manifest;
use super::cache::Measured;
use super::program::AcpiProgram;
use super::{ImageKind, OsImageError};

const MAX_METADATA: u64 = 64 << 10;
const MAX_FIRMWARE: u64 = 64 << 20;
const MAX_KERNEL: u64 = 256 << 20;
/// The largest initial file system: what fits below 4 GiB.
const MAX_INITRD: u64 = 4 << 30;

/// Whether a VM with this configuration can be measured; checked before anything is downloaded for it.
pub(super) fn is_measurable(config: &VmConfig, program: Option<&AcpiProgram>) -> Result<(), OsImageError> {
    let nowhere = Path::new("");
    match program {
        None => Shape::of(config).map(drop)?,
        Some(_) => AcpiCall::of(config, nowhere, nowhere).map(drop)?,
    }
    Ok(())
}

/// The measurement of a VM with the image in `directory`.
pub(super) fn measured(
    directory: &Path,
    hash: &[u8; 32],
    config: &VmConfig,
    program: Option<&AcpiProgram>,
) -> Result<Measured, OsImageError> {
    let files = Files { directory, list: read_manifest(directory, hash)? };
    let text = files.read(METADATA, METADATA, MAX_METADATA)?;
    let metadata = Metadata::parse(&text).map_err(|error| unusable(METADATA, io::Error::other(error)))?;
    let firmware = files.read(&metadata.bios, "firmware", MAX_FIRMWARE)?;
    let kernel = files.read(&metadata.kernel, "kernel", MAX_KERNEL)?;
    let (initrd_size, initrd_sha384) = files.digest(&metadata.initrd, "initrd", MAX_INITRD)?;
    let image = Image {
        firmware: &firmware,
        kernel,
        kernel_header: metadata.kernel_header(),
        initrd_size,
        initrd_sha384,
        command_line: &metadata.cmdline,
    };
    let Some(program) = program else {
        let registers = legacy::boot_registers(config, image, AcpiTables::OfVm)?;
        return Ok(Measured { registers, acpi_tables: AcpiDigests::of_vm(&Shape::of(config)?).tables });
    };
    let call = AcpiCall::of(config, &directory.join(&metadata.bios), &directory.join(&metadata.kernel))?;
    let tables = program.tables(&call)?;
    let registers = legacy::boot_registers(config, image, AcpiTables::Given(&tables))?;
    let digests = AcpiDigests::of_tables(&tables).map_err(LegacyError::from)?;
    Ok(Measured { registers, acpi_tables: digests.tables })
}

/// What the image in `directory` is for.
pub(super) fn kind(directory: &Path, hash: &[u8; 32]) -> Result<ImageKind, OsImageError> {
    let files = Files { directory, list: read_manifest(directory, hash)? };
    let text = files.checked(METADATA, METADATA, MAX_METADATA)?;
    let metadata = Metadata::parse(&text).map_err(|error| unusable(METADATA, io::Error::other(error)))?;
    Ok(if metadata.is_dev { ImageKind::Development } else { ImageKind::Release })
}

/// The files of an image that are in its list, and so covered by its hash.
struct Files<'a> {
    directory: &'a Path,
    list: Manifest,
}

impl Files<'_> {
    fn open(&self, name: &str, limit: u64) -> io::Result<File> {
        if self.list.sha256(name).is_none() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "not in sha256sum.txt"));
        }
        let file = File::open(self.directory.join(name))?;
        match file.metadata()? {
            found if !found.is_file() => Err(io::Error::other("not a file")),
            found if found.len() > limit => Err(io::ErrorKind::FileTooLarge.into()),
            _ => Ok(file),
        }
    }

    fn read(&self, name: &str, what: &'static str, limit: u64) -> Result<Vec<u8>, OsImageError> {
        let read = || {
            let mut bytes = Vec::new();
            self.open(name, limit)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error| unusable(what, error))
    }

    /// As [`Files::read`], compared with the list once more.
    fn checked(&self, name: &str, what: &'static str, limit: u64) -> Result<Vec<u8>, OsImageError> {
        let bytes = self.read(name, what, limit)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        match self.list.sha256(name) {
            Some(listed) if *listed == digest => Ok(bytes),
            _ => Err(unusable(what, io::Error::other("not as in sha256sum.txt"))),
        }
    }

    /// Length and SHA-384 of a file.
    fn digest(&self, name: &str, what: &'static str, limit: u64) -> Result<(u64, [u8; 48]), OsImageError> {
        let digest = || -> io::Result<_> {
            let mut file = self.open(name, limit)?.take(limit);
            let mut hash = Sha384::new();
            let mut buffer = vec![0; 256 * 1024];
            let mut length = 0;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok((length, hash.finalize().into())),
                    read => {
                        hash.update(&buffer[..read]);
                        length += read as u64;
                    }
                }
            }
        };
        digest().map_err(|error| unusable(what, error))
    }
}

fn unusable(what: &'static str, source: io::Error) -> OsImageError {
    OsImageError::File { what, source: Arc::new(source) }
}
