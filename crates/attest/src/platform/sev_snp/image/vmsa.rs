//! The initial state of a vCPU (VMSA) as KVM sets it up: one page, little-endian.

use super::error::LaunchError;

const PAGE: usize = 4096;

/// Attributes of ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
const SEGMENT_ATTRIBUTES: [u16; 10] = [0x93, 0x9b, 0x93, 0x93, 0x93, 0x93, 0, 0x82, 0, 0x8b];
const CS: usize = 1;

/// The CPU model that a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuModel {
    family: u32,
    model: u32,
    stepping: u32,
}

impl CpuModel {
    /// Parses QEMU's name of a model, in any case.
    ///
    /// # Errors
    /// [`LaunchError::Cpu`].
    pub fn parse(name: &str) -> Result<Self, LaunchError> {
        let (family, model, stepping) = match name.to_ascii_lowercase().as_str() {
            "epyc" | "epyc-v1" | "epyc-v2" | "epyc-v3" | "epyc-v4" | "epyc-ibpb" => (23, 1, 2),
            "epyc-rome" | "epyc-rome-v1" | "epyc-rome-v2" | "epyc-rome-v3" => (23, 49, 0),
            "epyc-milan" | "epyc-milan-v1" | "epyc-milan-v2" => (25, 1, 1),
            "epyc-genoa" | "epyc-genoa-v1" => (25, 17, 0),
            _ => return Err(LaunchError::Cpu(name.chars().take(64).collect())),
        };
        Ok(Self { family, model, stepping })
    }

    /// CPUID signature: `(family − 15) << 20 | (model >> 4) << 16 | 15 << 8 | (model & 15) << 4 | stepping`.
    fn signature(self) -> u32 {
        (self.family - 15) << 20 | (self.model >> 4) << 16 | 15 << 8 | (self.model & 15) << 4 | self.stepping
    }
}

/// The page of a vCPU that starts at `eip`.
pub(super) fn page(eip: u32, cpu: CpuModel, guest_features: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut put = |offset: usize, bytes: &[u8]| page[offset..offset + bytes.len()].copy_from_slice(bytes);
    for (index, attributes) in SEGMENT_ATTRIBUTES.into_iter().enumerate() {
        let (selector, base) = if index == CS { (0xf000u16, eip & 0xffff_0000) } else { (0, 0) };
        put(16 * index, &selector.to_le_bytes());
        put(16 * index + 2, &attributes.to_le_bytes());
        put(16 * index + 4, &0xffff_u32.to_le_bytes());
        put(16 * index + 8, &u64::from(base).to_le_bytes());
    }
    for (offset, value) in [
        (0x0d0, 0x1000),                     // EFER
        (0x148, 0x40),                       // CR4
        (0x158, 0x10),                       // CR0
        (0x160, 0x400),                      // DR7
        (0x168, 0xffff_0ff0),                // DR6
        (0x170, 2),                          // RFLAGS
        (0x178, u64::from(eip & 0xffff)),    // RIP
        (0x268, 0x0007_0406_0007_0406),      // PAT
        (0x310, u64::from(cpu.signature())), // RDX
        (0x3b0, guest_features),             // SEV_FEATURES
        (0x3e8, 1),                          // XCR0
    ] {
        put(offset, &u64::to_le_bytes(value));
    }
    put(0x408, &0x1f80_u32.to_le_bytes()); // MXCSR
    put(0x410, &0x037f_u16.to_le_bytes()); // x87 control word
    page
}
