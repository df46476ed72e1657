//! The registers that measure firmware, virtual hardware, kernel and initrd.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::acpi::AcpiDigests;
use super::bytes::guid;
use super::digest::{Digest, sha384};
use crate::platform::tdx::Quoted;

/// MRTD and RTMR0 to RTMR2. The JSON form is `measurements` in the peer's measurement cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRegisters {
    /// The TD's initial contents: the firmware.
    #[serde(with = "hex::serde")]
    pub mrtd: [u8; 48],
    /// The virtual hardware: memory, firmware configuration, ACPI tables.
    #[serde(with = "hex::serde")]
    pub rtmr0: [u8; 48],
    /// The kernel.
    #[serde(with = "hex::serde")]
    pub rtmr1: [u8; 48],
    /// The kernel command line and the initrd.
    #[serde(with = "hex::serde")]
    pub rtmr2: [u8; 48],
}

#[cfg(any(test, feature = "testing"))]
impl Quoted {
    /// Of a guest with these registers, and zeros otherwise.
    pub fn of(registers: &BootRegisters) -> Self {
        let BootRegisters { mrtd, rtmr0, rtmr1, rtmr2 } = *registers;
        let zero = [0; 48];
        Self {
            mr_td: mrtd,
            rt_mr0: rtmr0,
            rt_mr1: rtmr1,
            rt_mr2: rtmr2,
            rt_mr3: zero,
            mr_config_id: zero,
            mr_owner: zero,
            mr_owner_config: zero,
            report_data: [0; 64],
        }
    }
}

/// A register of [`BootRegisters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The TD's initial contents.
    Mrtd,
    /// The virtual hardware.
    Rtmr0,
    /// The kernel.
    Rtmr1,
    /// The kernel command line and the initrd.
    Rtmr2,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mrtd => "MRTD",
            Self::Rtmr0 => "RTMR0",
            Self::Rtmr1 => "RTMR1",
            Self::Rtmr2 => "RTMR2",
        })
    }
}

/// The first register that differs. The message is the peer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MRs do not match: {register} mismatch: expected={expected}, actual={actual}")]
pub struct Mismatch {
    /// The register.
    pub register: Register,
    /// The computed value, hex.
    pub expected: String,
    /// The value in the quote, hex.
    pub actual: String,
}

impl BootRegisters {
    /// Compares with the registers of a quote, in the order MRTD, RTMR0, RTMR1, RTMR2.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, quoted: &Quoted) -> Result<(), Mismatch> {
        let pairs = [
            (Register::Mrtd, &self.mrtd, &quoted.mr_td),
            (Register::Rtmr0, &self.rtmr0, &quoted.rt_mr0),
            (Register::Rtmr1, &self.rtmr1, &quoted.rt_mr1),
            (Register::Rtmr2, &self.rtmr2, &quoted.rt_mr2),
        ];
        match pairs.into_iter().find(|(_, expected, actual)| expected != actual) {
            None => Ok(()),
            Some((register, expected, actual)) => {
                Err(Mismatch { register, expected: hex::encode(expected), actual: hex::encode(actual) })
            }
        }
    }
}

/// A register after these extensions: from 48 zero bytes, each time register := SHA-384(register ‖ digest).
fn extended(digests: &[Digest]) -> Digest {
    digests.iter().fold([0; 48], |register, digest| sha384(&[&register, digest]))
}

/// Digest of the configuration firmware volume (CFV) of the peer's firmware.
const CONFIGURATION_VOLUME: &str =
    "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790";
/// Digest of the boot option `Boot0000`.
const BOOT_0000: &str =
    "23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298";

const GLOBAL_VARIABLES: [u8; 16] =
    guid(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
const IMAGE_SECURITY: [u8; 16] =
    guid(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);

fn constant(hex: &str) -> Digest {
    let mut digest = [0; 48];
    hex::decode_to_slice(hex, &mut digest).expect("the constants above have 96 hexadecimal digits");
    digest
}

/// The measurement of an unset EFI variable.
fn efi_variable(vendor: &[u8; 16], name: &str) -> Digest {
    let length = (name.len() as u64).to_le_bytes();
    sha384(&[vendor, &length, &[0; 8], &utf16(name)])
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// RTMR0 from the digests that differ between VMs.
pub(super) fn rtmr0(td_hob: Digest, acpi: &AcpiDigests) -> Digest {
    extended(&[
        td_hob,
        constant(CONFIGURATION_VOLUME),
        efi_variable(&GLOBAL_VARIABLES, "SecureBoot"),
        efi_variable(&GLOBAL_VARIABLES, "PK"),
        efi_variable(&GLOBAL_VARIABLES, "KEK"),
        efi_variable(&IMAGE_SECURITY, "db"),
        efi_variable(&IMAGE_SECURITY, "dbx"),
        sha384(&[&[0; 4]]),
        acpi.loader,
        acpi.rsdp,
        acpi.tables,
        sha384(&[&[0; 2]]),
        constant(BOOT_0000),
    ])
}

/// RTMR1 from the kernel's Authenticode digest.
pub(super) fn rtmr1(kernel: Digest) -> Digest {
    extended(&[
        kernel,
        sha384(&[b"Calling EFI Application from Boot Option"]),
        sha384(&[&[0; 4]]),
        sha384(&[b"Exit Boot Services Invocation"]),
        sha384(&[b"Exit Boot Services Returned with Success"]),
    ])
}

/// RTMR2 from the digests of the command line and of the initial file system.
pub(super) fn rtmr2(command_line: Digest, initrd: Digest) -> Digest {
    extended(&[command_line, initrd])
}

/// The measurement of the command line as the boot loader passes it on.
pub(super) fn command_line(text: &str) -> Digest {
    sha384(&[&utf16(text), &utf16(" initrd=initrd"), &[0; 2]])
}
