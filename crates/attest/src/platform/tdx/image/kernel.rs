//! The measurement of the kernel, with the setup header as in the file or as QEMU fills it in.

use super::authenticode::{self, AuthenticodeError};
use super::bytes::{OutOfBounds, put, u16_at, u32_at};
use super::digest::Digest;
use super::td_hob::{LOW_MEMORY, SPLIT_FROM};

/// Which form of the kernel's setup header the firmware measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// As QEMU fills it in, which depends on the memory size.
    FilledInByQemu,
    /// As in the file, because the firmware restores it (`kernel_header_normalized`).
    AsShipped,
}

/// Why a kernel cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel is shorter than a setup header.
    #[error("the kernel {0}")]
    Truncated(#[from] OutOfBounds),
    /// The boot protocol is too old for an initrd.
    #[error("the kernel's boot protocol is too old for an initrd")]
    Protocol,
    /// The initrd does not fit into memory.
    #[error("the initrd of {initrd} bytes does not fit into {memory} bytes of memory")]
    InitrdTooLarge {
        /// Length of the initrd, bytes.
        initrd: u64,
        /// Memory of the VM, bytes.
        memory: u64,
    },
    /// Not an EFI program.
    #[error(transparent)]
    Authenticode(#[from] AuthenticodeError),
}

/// Space that QEMU reserves for ACPI data at the end of low memory, bytes.
const ACPI_DATA: u64 = 0x28000;
/// Highest address of an initrd, for kernels that do not state one.
const USUAL_INITRD_MAX: u64 = 0x37ff_ffff;

/// Offsets in the setup header.
mod at {
    pub(super) const OLD_COMMAND_LINE: usize = 0x20;
    pub(super) const PROTOCOL: usize = 0x206;
    pub(super) const LOADER_TYPE: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const INITRD_ADDRESS: usize = 0x218;
    pub(super) const INITRD_SIZE: usize = 0x21c;
    pub(super) const HEAP_END: usize = 0x224;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const INITRD_MAX: usize = 0x22c;
    pub(super) const EXTENDED_FLAGS: usize = 0x236;
}

/// The measurement of `kernel` as in the file.
pub(super) fn digest_as_shipped(kernel: &[u8]) -> Result<Digest, KernelError> {
    Ok(authenticode::sha384(kernel)?)
}

/// The measurement of `kernel` in a VM with `memory` bytes and an initrd of `initrd` bytes.
pub(super) fn digest_filled_in(mut kernel: Vec<u8>, initrd: u64, memory: u64) -> Result<Digest, KernelError> {
    patch(&mut kernel, initrd, memory)?;
    digest_as_shipped(&kernel)
}

fn patch(kernel: &mut [u8], initrd: u64, memory: u64) -> Result<(), KernelError> {
    let protocol = u16_at(kernel, at::PROTOCOL)?;
    let load_flags = *kernel.get(at::LOAD_FLAGS).ok_or(OutOfBounds(at::LOAD_FLAGS))?;
    let (real_mode, command_line): (u32, u32) = match protocol < 0x200 || load_flags & 1 == 0 {
        true => (0x90000, 0x9a000),
        false => (0x10000, 0x20000),
    };
    if protocol >= 0x200 {
        put(kernel, at::LOADER_TYPE, &[0xb0])?;
    }
    if protocol >= 0x201 {
        put(kernel, at::LOAD_FLAGS, &[load_flags | 0x80])?;
        put(kernel, at::HEAP_END, &(command_line - real_mode - 0x200).to_le_bytes())?;
    }
    if protocol >= 0x202 {
        put(kernel, at::COMMAND_LINE, &command_line.to_le_bytes())?;
    } else {
        let offset = (command_line - real_mode) as u16;
        put(kernel, at::OLD_COMMAND_LINE, &0xa33f_u16.to_le_bytes())?;
        put(kernel, at::OLD_COMMAND_LINE + 2, &offset.to_le_bytes())?;
    }
    if initrd > 0 {
        place_initrd(kernel, protocol, initrd, memory)?;
    }
    Ok(())
}

fn place_initrd(kernel: &mut [u8], protocol: u16, initrd: u64, memory: u64) -> Result<(), KernelError> {
    if protocol < 0x200 {
        return Err(KernelError::Protocol);
    }
    let too_large = KernelError::InitrdTooLarge { initrd, memory };
    let mut max = initrd_max(kernel, protocol)?;
    let low = if memory < SPLIT_FROM { SPLIT_FROM } else { LOW_MEMORY };
    let below = memory.min(low).checked_sub(ACPI_DATA).ok_or(too_large)?;
    if max >= below {
        max = below.checked_sub(1).ok_or(too_large)?;
    }
    // Both fit into 32 bits: the address is below `max`, and so is the length.
    let address = max.checked_sub(initrd).filter(|rest| *rest > 0).ok_or(too_large)? as u32 & !0xfff;
    put(kernel, at::INITRD_ADDRESS, &address.to_le_bytes())?;
    put(kernel, at::INITRD_SIZE, &(initrd as u32).to_le_bytes())?;
    Ok(())
}

fn initrd_max(kernel: &[u8], protocol: u16) -> Result<u64, OutOfBounds> {
    Ok(match protocol {
        0x20c.. if u16_at(kernel, at::EXTENDED_FLAGS)? & 0x40 != 0 => 0xffff_ffff,
        0x203..0x20c => match u32_at(kernel, at::INITRD_MAX)? {
            0 => USUAL_INITRD_MAX,
            max => u64::from(max),
        },
        _ => USUAL_INITRD_MAX,
    })
}
