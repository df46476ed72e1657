//! The certificates of a simulated Intel: root, two PCK CAs, the signers of TCB info and QE identity, CRLs.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::collateral::Validity;
use crate::key::SimulatedKey;
use crate::platform::PckCa;
use crate::sgx_extension::{self, PlatformFacts, SGX_EXTENSION};

const NOT_BEFORE: OffsetDateTime = datetime!(2020-01-01 0:00 UTC);
const NOT_AFTER: OffsetDateTime = datetime!(2100-01-01 0:00 UTC);

/// A certificate with the key it certifies.
pub(crate) struct Certified {
    pub(crate) key: SimulatedKey,
    pub(crate) der: Vec<u8>,
    /// 64 columns, LF.
    pub(crate) pem: String,
    params: CertificateParams,
    serial: SerialNumber,
}

/// The whole hierarchy. Each certificate has its own serial number.
pub(crate) struct Pki {
    pub(crate) root: Certified,
    pub(crate) platform_ca: Certified,
    pub(crate) processor_ca: Certified,
    pub(crate) pck: Certified,
    pub(crate) tcb_signer: Certified,
    pub(crate) qe_signer: Certified,
}

/// The permitted use of a certificate.
enum Use {
    Ca { path_length: u8 },
    Sign,
    Pck(Box<PlatformFacts>),
}

impl Pki {
    pub(crate) fn new(seed: &[u8], pck_ca: PckCa, facts: PlatformFacts, root_crl_url: Option<&str>) -> Self {
        let draft = |label, name, r#use| Draft::new(seed, label, name, r#use, root_crl_url);

        let root = draft("tdx-root", "Simulated SGX Root CA", Use::Ca { path_length: 1 }).self_signed();
        let ca = |kind: PckCa| {
            let (label, name) = match kind {
                PckCa::Platform => ("tdx-pck-ca", "Simulated SGX PCK Platform CA"),
                PckCa::Processor => ("tdx-pck-processor-ca", "Simulated SGX PCK Processor CA"),
            };
            draft(label, name, Use::Ca { path_length: 0 }).signed_by(&root)
        };
        let (platform_ca, processor_ca) = (ca(PckCa::Platform), ca(PckCa::Processor));
        let pck_issuer = match pck_ca {
            PckCa::Platform => &platform_ca,
            PckCa::Processor => &processor_ca,
        };
        let pck = draft("tdx-pck", "Simulated SGX PCK Certificate", Use::Pck(Box::new(facts)))
            .signed_by(pck_issuer);
        let tcb_signer = draft("tdx-tcb", "Simulated SGX TCB Signing", Use::Sign).signed_by(&root);
        let qe_signer = draft("tdx-qe", "Simulated SGX QE Identity Signing", Use::Sign).signed_by(&root);
        Self { root, platform_ca, processor_ca, pck, tcb_signer, qe_signer }
    }

    pub(crate) fn ca(&self, kind: PckCa) -> &Certified {
        match kind {
            PckCa::Platform => &self.platform_ca,
            PckCa::Processor => &self.processor_ca,
        }
    }
}

struct Draft {
    key: SimulatedKey,
    params: CertificateParams,
    serial: SerialNumber,
}

impl Draft {
    fn new(seed: &[u8], label: &str, name: &str, r#use: Use, root_crl_url: Option<&str>) -> Self {
        let key = SimulatedKey::derive(seed, label);
        let mut params = CertificateParams::default();
        params.not_before = NOT_BEFORE;
        params.not_after = NOT_AFTER;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_identifier_method = KeyIdMethod::Sha256;
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points =
            root_crl_url.iter().map(|url| CrlDistributionPoint { uris: vec![(*url).to_owned()] }).collect();

        let mut unique = Sha256::new().chain_update(label).chain_update(key.public_point());
        match r#use {
            Use::Ca { path_length } => {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }
            Use::Sign => {
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages =
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
            }
            Use::Pck(facts) => {
                let extension = sgx_extension::encode(&facts);
                unique.update(&extension);
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages =
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
                params.custom_extensions = vec![CustomExtension::from_oid_content(SGX_EXTENSION, extension)];
            }
        }
        let mut serial = unique.finalize()[..16].to_vec();
        serial[0] = serial[0] & 0x7f | 0x40;
        let serial = SerialNumber::from_slice(&serial);
        params.serial_number = Some(serial.clone());
        Self { key, params, serial }
    }

    fn self_signed(self) -> Certified {
        let certificate = self.params.self_signed(&self.key).expect("these parameters always encode");
        self.certified(&certificate)
    }

    fn signed_by(self, issuer: &Certified) -> Certified {
        let issuer = Issuer::from_params(&issuer.params, &issuer.key);
        let certificate = self.params.signed_by(&self.key, &issuer).expect("these parameters always encode");
        self.certified(&certificate)
    }

    fn certified(self, certificate: &rcgen::Certificate) -> Certified {
        let (der, pem) = (certificate.der().to_vec(), certificate.pem());
        Certified { key: self.key, der, pem, params: self.params, serial: self.serial }
    }
}

impl Certified {
    /// The CRL this CA issues over `revoked` (DER).
    pub(crate) fn revocation_list(&self, revoked: &[&Certified], validity: Validity, number: u32) -> Vec<u8> {
        let this_update = date(validity.issued);
        let params = CertificateRevocationListParams {
            this_update,
            next_update: date(validity.next_update),
            crl_number: SerialNumber::from(u64::from(number)),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|certified| RevokedCertParams {
                    serial_number: certified.serial.clone(),
                    revocation_time: this_update,
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).expect("validity is ordered by construction").der().to_vec()
    }
}

/// Leaf first.
pub(crate) fn pem_chain(chain: &[&Certified]) -> String {
    chain.iter().map(|certified| certified.pem.as_str()).collect()
}

/// Unix seconds as a date; a time that a certificate cannot express becomes the last one that it can.
pub(crate) fn date(unix: u64) -> OffsetDateTime {
    const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);
    i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok()).unwrap_or(LAST)
}
