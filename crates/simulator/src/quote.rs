//! TDX quotes, version 4 and 5 (attestation.md section 5), little-endian throughout.

/// The format of a CVM's quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuoteFormat {
    /// Version 4 with a TD 1.0 body.
    V4,
    /// Version 5 with a TD 1.0 body.
    V5Td10,
    /// Version 5 with a TD 1.5 body.
    V5Td15,
}

impl QuoteFormat {
    /// All formats.
    pub const ALL: [QuoteFormat; 3] = [QuoteFormat::V4, QuoteFormat::V5Td10, QuoteFormat::V5Td15];

    pub(crate) fn module_major(self) -> u8 {
        match self {
            QuoteFormat::V4 | QuoteFormat::V5Td10 => 0,
            QuoteFormat::V5Td15 => 1,
        }
    }
}

/// The registers that identify what a CVM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// MRTD: the firmware.
    pub mr_td: [u8; 48],
    /// RTMR0: the virtual hardware.
    pub rt_mr0: [u8; 48],
    /// RTMR1: the kernel.
    pub rt_mr1: [u8; 48],
    /// RTMR2: the command line and initrd.
    pub rt_mr2: [u8; 48],
}

/// A TD report: everything a quote says about a TD. TEE_TCB_SVN2 and MRSERVICETD are quoted for TD 1.5 only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// TEE_TCB_SVN.
    pub tee_tcb_svn: [u8; 16],
    /// MRSEAM.
    pub mr_seam: [u8; 48],
    /// MRSIGNERSEAM; zero for Intel's module.
    pub mr_signer_seam: [u8; 48],
    /// SEAMATTRIBUTES.
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES; bit 0 is debug, bit 28 SEPT_VE_DISABLE.
    pub td_attributes: u64,
    /// XFAM.
    pub xfam: [u8; 8],
    /// MRTD and RTMR0 to 2.
    pub registers: Registers,
    /// MRCONFIGID.
    pub mr_config_id: [u8; 48],
    /// MROWNER.
    pub mr_owner: [u8; 48],
    /// MROWNERCONFIG.
    pub mr_owner_config: [u8; 48],
    /// RTMR3: the runtime events.
    pub rt_mr3: [u8; 48],
    /// REPORTDATA.
    pub report_data: [u8; 64],
    /// TEE_TCB_SVN2: the current TCB, after a module update without restart.
    pub tee_tcb_svn2: [u8; 16],
    /// MRSERVICETD.
    pub mr_service_td: [u8; 48],
}

impl TdReport {
    /// SEPT_VE_DISABLE, without which no verifier accepts a TD.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// The debug bit.
    pub const DEBUG: u64 = 1;

    fn encode_td10(&self) -> Vec<u8> {
        [
            &self.tee_tcb_svn[..],
            &self.mr_seam,
            &self.mr_signer_seam,
            &self.seam_attributes,
            &self.td_attributes.to_le_bytes(),
            &self.xfam,
            &self.registers.mr_td,
            &self.mr_config_id,
            &self.mr_owner,
            &self.mr_owner_config,
            &self.registers.rt_mr0,
            &self.registers.rt_mr1,
            &self.registers.rt_mr2,
            &self.rt_mr3,
            &self.report_data,
        ]
        .concat()
    }

    fn encode_td15(&self) -> Vec<u8> {
        [&self.encode_td10()[..], &self.tee_tcb_svn2, &self.mr_service_td].concat()
    }

    /// Header and body: the bytes that the attestation key signs.
    pub(crate) fn signed_range(&self, format: QuoteFormat, qe_id: &[u8; 16]) -> Vec<u8> {
        let (version, body) = match format {
            QuoteFormat::V4 => (4u16, self.encode_td10()),
            QuoteFormat::V5Td10 => (5, described(2, self.encode_td10())),
            QuoteFormat::V5Td15 => (5, described(3, self.encode_td15())),
        };
        let mut out = Vec::with_capacity(48 + body.len());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&ECDSA_P256.to_le_bytes());
        out.extend_from_slice(&TEE_TYPE_TDX.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&INTEL_QE_VENDOR);
        out.extend_from_slice(qe_id);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&body);
        out
    }
}

const ECDSA_P256: u16 = 2;
const TEE_TYPE_TDX: u32 = 0x81;
const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
const QE_REPORT_CERTIFICATION: u16 = 6;

pub(crate) const QE_MR_SIGNER: [u8; 32] = [0x51; 32];
pub(crate) const QE_ISV_PROD_ID: u16 = 2;
pub(crate) const QE_ISV_SVN: u16 = 4;

/// Version 5: body type, size, body.
fn described(kind: u16, body: Vec<u8>) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length(&body), &body].concat()
}

/// The quoting enclave's own report, which contains the hash of the attestation key and is signed by the PCK
/// key.
pub(crate) fn qe_report(cpu_svn: &[u8; 16], attestation_key_hash: &[u8; 32]) -> [u8; 384] {
    let mut report = [0u8; 384];
    report[..16].copy_from_slice(cpu_svn);
    report[48] = 0x11; // ATTRIBUTES: INIT, PROVISION_KEY
    report[56] = 0xe7; // XFRM
    report[64..96].copy_from_slice(&[0x4d; 32]); // MRENCLAVE
    report[128..160].copy_from_slice(&QE_MR_SIGNER);
    report[256..258].copy_from_slice(&QE_ISV_PROD_ID.to_le_bytes());
    report[258..260].copy_from_slice(&QE_ISV_SVN.to_le_bytes());
    report[320..352].copy_from_slice(attestation_key_hash);
    report
}

/// The part after the quote's signature that is the same in all quotes of a platform: attestation key and
/// certification.
pub(crate) fn certification(
    attestation_key: &[u8],
    qe_report: &[u8; 384],
    qe_report_signature: &[u8; 64],
    qe_auth_data: &[u8; 32],
    inner_type: u16,
    inner_data: &[u8],
) -> Vec<u8> {
    let inner = [
        &qe_report[..],
        qe_report_signature,
        &(qe_auth_data.len() as u16).to_le_bytes(),
        qe_auth_data,
        &inner_type.to_le_bytes(),
        &length(inner_data),
        inner_data,
    ]
    .concat();
    [attestation_key, &QE_REPORT_CERTIFICATION.to_le_bytes(), &length(&inner), &inner].concat()
}

/// signed range ‖ u32 length of the rest ‖ signature ‖ certification
pub(crate) fn assemble(signed_range: Vec<u8>, signature: &[u8; 64], certification: &[u8]) -> Vec<u8> {
    let signature_data = [signature, certification].concat();
    [&signed_range[..], &length(&signature_data), &signature_data].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    (bytes.len() as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_lengths_of_the_format() {
        let registers = Registers { mr_td: [1; 48], rt_mr0: [2; 48], rt_mr1: [3; 48], rt_mr2: [4; 48] };
        let report = TdReport {
            tee_tcb_svn: [5; 16],
            mr_seam: [6; 48],
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: TdReport::SEPT_VE_DISABLE,
            xfam: [7; 8],
            registers,
            mr_config_id: [8; 48],
            mr_owner: [9; 48],
            mr_owner_config: [10; 48],
            rt_mr3: [11; 48],
            report_data: [12; 64],
            tee_tcb_svn2: [13; 16],
            mr_service_td: [14; 48],
        };
        for (format, header, body) in
            [(QuoteFormat::V4, 48, 584), (QuoteFormat::V5Td10, 54, 584), (QuoteFormat::V5Td15, 54, 648)]
        {
            let signed = report.signed_range(format, &[0; 16]);
            assert_eq!(signed.len(), header + body, "{format:?}");
            assert_eq!(&signed[header + 520..header + 584], &report.report_data, "{format:?}");
            assert_eq!(&signed[header + 136..header + 184], &registers.mr_td, "{format:?}");
        }
    }
}
