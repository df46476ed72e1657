//! The launch digest: the firmware, the pages that the host adds, and the initial state of each vCPU.

use sha2::{Digest as _, Sha256, Sha384};

use super::error::{LaunchError, MAX_PAGES, MAX_SECTIONS, MAX_VCPUS};
use super::vmsa::{self, CpuModel};
use crate::platform::command_line;

const PAGE: u64 = 4096;
/// The address under which a vCPU's state is measured.
const VMSA_GPA: u64 = 0xffff_ffff_f000;
/// Reset vector: where the first vCPU starts.
const RESET_VECTOR: u32 = 0xffff_fff0;

/// Page types in the digest (PAGE_INFO).
const NORMAL: u8 = 1;
const VMSA: u8 = 2;
const ZERO: u8 = 3;
const SECRETS: u8 = 5;
const CPUID: u8 = 6;

/// Section types of the firmware.
const SECTION_MEMORY: u64 = 1;
const SECTION_SECRETS: u64 = 2;
const SECTION_CPUID: u64 = 3;
const SECTION_SVSM_CALLING_AREA: u64 = 4;
const SECTION_HASHES: u64 = 0x10;

/// 9438d606-4f22-4cc9-b479-a793d411fd21
const HASH_TABLE: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a
const COMMAND_LINE_ENTRY: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
/// 44baf731-3a2f-4bd7-9af1-41e29169781d
const INITRD_ENTRY: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
/// 4de79437-abd2-427f-b835-d5b172d2045b
const KERNEL_ENTRY: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);
const HASH_TABLE_LENGTH: u16 = 168;
const HASH_ENTRY_LENGTH: u16 = 50;

/// The measured parts of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Kernel command line.
    pub command_line: String,
    /// The launch digest after the firmware.
    pub ovmf_hash: [u8; 48],
    /// SHA-256 of the kernel.
    pub kernel_hash: [u8; 32],
    /// SHA-256 of the initrd; `None` without one.
    pub initrd_hash: Option<[u8; 32]>,
    /// Guest address of the table of kernel hashes.
    pub hashes_table_gpa: u64,
    /// Where the other vCPUs start.
    pub reset_eip: u32,
    /// The sections that the host adds, in order.
    pub sections: Vec<Section>,
}

/// A part of guest memory that the firmware requests from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Guest address.
    pub gpa: u64,
    /// Length, bytes.
    pub size: u64,
    /// Section type.
    pub kind: u64,
}

/// The parameters of a guest's launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The image.
    pub image: Image,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The CPU model of the vCPUs.
    pub cpu: CpuModel,
    /// SEV_FEATURES of the vCPUs.
    pub guest_features: u64,
}

impl Launch {
    /// The MEASUREMENT in a report of this guest.
    ///
    /// LD₀ = `ovmf_hash`; LD := SHA-384(LD ‖ contents ‖ u16 0x70 ‖ u8 type ‖ 5 zero bytes ‖ u64 gpa) for each page and
    /// then each vCPU.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn measurement(&self) -> Result<[u8; 48], LaunchError> {
        self.check()?;
        let mut digest = LaunchDigest(self.image.ovmf_hash);
        for section in &self.image.sections {
            match section.kind {
                SECTION_MEMORY | SECTION_SVSM_CALLING_AREA => {
                    for page in 0..section.pages() {
                        let gpa = page.checked_mul(PAGE).and_then(|offset| section.gpa.checked_add(offset));
                        digest.update(ZERO, gpa.ok_or(LaunchError::SectionEnd)?, &[0; 48]);
                    }
                }
                SECTION_SECRETS => digest.update(SECRETS, section.gpa, &[0; 48]),
                SECTION_CPUID => digest.update(CPUID, section.gpa, &[0; 48]),
                SECTION_HASHES => digest.update(NORMAL, section.gpa, &sha384(&self.image.hashes_page()?)),
                other => return Err(LaunchError::SectionType(other)),
            }
        }
        // All vCPUs except the first start with the same state.
        let state = |eip| sha384(&vmsa::page(eip, self.cpu, self.guest_features));
        digest.update(VMSA, VMSA_GPA, &state(RESET_VECTOR));
        let others = state(self.image.reset_eip);
        for _ in 1..self.vcpus {
            digest.update(VMSA, VMSA_GPA, &others);
        }
        Ok(digest.0)
    }

    fn check(&self) -> Result<(), LaunchError> {
        let image = &self.image;
        match self.vcpus {
            0 => return Err(LaunchError::NoVcpus),
            1..=MAX_VCPUS => {}
            _ => return Err(LaunchError::TooManyVcpus),
        }
        for (name, value) in [
            ("guest_features", self.guest_features),
            ("hashes_table_gpa", image.hashes_table_gpa),
            ("reset_eip", image.reset_eip.into()),
        ] {
            if value == 0 {
                return Err(LaunchError::Zero(name));
            }
        }
        if !(1..=MAX_SECTIONS).contains(&image.sections.len()) {
            return Err(LaunchError::Sections(image.sections.len()));
        }
        let mut pages = 0u64;
        for section in &image.sections {
            if section.size == 0 {
                return Err(LaunchError::Zero("the size of an ovmf section"));
            }
            pages = pages.saturating_add(section.pages());
        }
        if pages > MAX_PAGES {
            return Err(LaunchError::TooManyPages);
        }
        if !image.sections.iter().any(|section| section.kind == SECTION_HASHES) {
            return Err(LaunchError::NoHashes);
        }
        command_line::rootfs_hash(&image.command_line)?;
        Ok(())
    }
}

impl Section {
    fn pages(&self) -> u64 {
        self.size.div_ceil(PAGE)
    }
}

impl Image {
    /// The page with the table of kernel hashes: GUID ‖ u16 length ‖ entries for command line, initrd and
    /// kernel, each GUID ‖ u16 length ‖ SHA-256.
    fn hashes_page(&self) -> Result<[u8; PAGE as usize], LaunchError> {
        let command_line = [self.command_line.trim().as_bytes(), b"\0"].concat();
        let initrd = self.initrd_hash.unwrap_or_else(|| Sha256::digest(b"").into());
        let mut table = Vec::with_capacity(HASH_TABLE_LENGTH.into());
        table.extend_from_slice(&HASH_TABLE);
        table.extend_from_slice(&HASH_TABLE_LENGTH.to_le_bytes());
        for (entry, hash) in [
            (COMMAND_LINE_ENTRY, Sha256::digest(command_line).into()),
            (INITRD_ENTRY, initrd),
            (KERNEL_ENTRY, self.kernel_hash),
        ] {
            table.extend_from_slice(&entry);
            table.extend_from_slice(&HASH_ENTRY_LENGTH.to_le_bytes());
            table.extend_from_slice(&hash);
        }
        let mut page = [0; PAGE as usize];
        let offset = (self.hashes_table_gpa % PAGE) as usize;
        let place = page[offset..].get_mut(..table.len()).ok_or(LaunchError::HashesAcrossPages)?;
        place.copy_from_slice(&table);
        Ok(page)
    }
}

struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    fn update(&mut self, kind: u8, gpa: u64, contents: &[u8; 48]) {
        self.0 = Sha384::new()
            .chain_update(self.0)
            .chain_update(contents)
            .chain_update([0x70, 0])
            .chain_update([kind, 0, 0, 0, 0, 0])
            .chain_update(gpa.to_le_bytes())
            .finalize()
            .into();
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

/// A GUID in its mixed-endian form.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}
