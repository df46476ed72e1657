//! A complete set of collateral, with its dates and numbers.

use dcap_qvl::QuoteCollateralV3;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{CaKind, CollateralError, PlatformKey, chain, crl};

/// A complete set of collateral for one platform model, with the time at which the first of its documents
/// expires.
///
/// Holding a value says nothing about its signatures: the quote verifier checks them for each quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collateral {
    parts: QuoteCollateralV3,
    model: PlatformKey,
    issued: u64,
    /// The later issue date of TCB info and QE identity.
    begins: u64,
    pub(super) ends: Ends,
    numbers: Numbers,
}

/// When each document expires, Unix seconds, with the chain that it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) tcb_info: u64,
    pub(super) qe_identity: u64,
    pub(super) root_crl: u64,
    pub(super) pck_crl: u64,
}

/// The version numbers that Intel gives the documents. They only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// `tcbEvaluationDataNumber` of TCB info.
    pub tcb_info: u32,
    /// `tcbEvaluationDataNumber` of QE identity.
    pub qe_identity: u32,
    /// CRL number of the root's CRL.
    pub root_crl: u64,
    /// CRL number of the PCK CA's CRL.
    pub pck_crl: u64,
}

impl Collateral {
    /// With other version numbers, for tests. The signatures no longer verify.
    #[cfg(test)]
    pub(super) fn with_numbers(self, numbers: Numbers) -> Self {
        Self { numbers, ..self }
    }

    /// Reads the dates and numbers of `parts`. Issuer chains are rewritten in one PEM form, so that every
    /// later reader sees the same certificates in them.
    pub fn new(mut parts: QuoteCollateralV3) -> Result<Self, CollateralError> {
        let tcb_info = Dated::read(&parts.tcb_info, "tcb info")?;
        let qe_identity = Dated::read(&parts.qe_identity, "qe identity")?;
        let fmspc = tcb_info.fmspc.as_deref().unwrap_or_default();
        let fmspc = hex::decode(fmspc).ok().and_then(|bytes| bytes.try_into().ok());
        // Other than the documents, a CRL has expired at its nextUpdate.
        let last_second = |crl| crl_next_update(crl)?.checked_sub(1);
        let end_of_crl = |crl, name| last_second(crl).ok_or(CollateralError::Malformed(name));
        let mut ends = Ends {
            tcb_info: tcb_info.next_update()?,
            qe_identity: qe_identity.next_update()?,
            root_crl: end_of_crl(&parts.root_ca_crl, "root crl")?,
            pck_crl: end_of_crl(&parts.pck_crl, "pck crl")?,
        };
        for (chain, end, name) in [
            (&mut parts.pck_crl_issuer_chain, &mut ends.pck_crl, "pck crl issuer chain"),
            (&mut parts.tcb_info_issuer_chain, &mut ends.tcb_info, "tcb info issuer chain"),
            (&mut parts.qe_identity_issuer_chain, &mut ends.qe_identity, "qe identity issuer chain"),
        ] {
            let malformed = CollateralError::Malformed(name);
            let certificates = chain::certificates(chain.as_bytes()).map_err(|_| malformed.clone())?;
            *end = (*end).min(earliest_not_after(&certificates).ok_or(malformed)?);
            *chain = chain::pem_of(&certificates);
        }
        let ca = crl_issuer(&parts.pck_crl).ok_or(CollateralError::Malformed("pck crl"))?;
        Ok(Self {
            model: PlatformKey { fmspc: fmspc.ok_or(CollateralError::Malformed("fmspc of tcb info"))?, ca },
            issued: tcb_info.issued()?,
            begins: tcb_info.issued()?.max(qe_identity.issued()?),
            ends,
            numbers: Numbers {
                tcb_info: tcb_info.tcb_evaluation_data_number,
                qe_identity: qe_identity.tcb_evaluation_data_number,
                root_crl: crl::number(&parts.root_ca_crl).ok_or(CollateralError::Malformed("root crl"))?,
                pck_crl: crl::number(&parts.pck_crl).ok_or(CollateralError::Malformed("pck crl"))?,
            },
            parts,
        })
    }

    /// Reads the JSON form of [`QuoteCollateralV3`]: text as it is, binary fields in hex.
    pub fn from_json(json: &[u8]) -> Result<Self, CollateralError> {
        Self::new(crate::json::from_utf8(json).map_err(|_| CollateralError::Malformed("json"))?)
    }

    /// The documents, in the type of the quote verifier.
    pub fn parts(&self) -> &QuoteCollateralV3 {
        &self.parts
    }

    /// FMSPC of the TCB info.
    pub fn fmspc(&self) -> [u8; 6] {
        self.model.fmspc
    }

    /// The FMSPC and the PCK CA of the CRL. If a quote verifies with this collateral, both are its
    /// platform's: the verifier refuses a PCK certificate of another model or CA.
    pub fn model(&self) -> PlatformKey {
        self.model
    }

    /// Issue date of the TCB info, Unix seconds.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The first second at which TCB info and QE identity are valid, Unix seconds: the later of their issue dates.
    pub fn begins(&self) -> u64 {
        self.begins
    }

    /// The last second at which all parts are valid, Unix seconds: the earliest `nextUpdate` of TCB info and QE identity, the
    /// second before that of both CRLs, or `notAfter` of the chains.
    pub fn expires(&self) -> u64 {
        let Ends { tcb_info, qe_identity, root_crl, pck_crl } = self.ends;
        tcb_info.min(qe_identity).min(root_crl).min(pck_crl)
    }

    /// PEM chain of the platform's PCK certificate, if it was fetched with the collateral.
    pub fn pck_certificate_chain(&self) -> Option<&str> {
        self.parts.pck_certificate_chain.as_deref()
    }

    /// `tcbEvaluationDataNumber` of the TCB info: Intel raises it with each TCB recovery.
    pub fn evaluation_number(&self) -> u32 {
        self.numbers.tcb_info
    }

    /// The version numbers of all documents.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    pub(crate) fn with_pck_certificate_chain(&self, chain: String) -> Self {
        Self { parts: self.parts_for(chain), ..self.clone() }
    }

    /// The parts with the given PCK certificate chain. The quote verifier prefers it to the chain in the
    /// quote.
    pub(crate) fn parts_for(&self, pck_certificate_chain: String) -> QuoteCollateralV3 {
        QuoteCollateralV3 { pck_certificate_chain: Some(pck_certificate_chain), ..self.parts.clone() }
    }
}

/// The dates that TCB info and QE identity have in common.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dated {
    pub(super) issue_date: String,
    next_update: String,
    fmspc: Option<String>,
    #[serde(default)]
    tcb_evaluation_data_number: u32,
    #[serde(skip)]
    name: &'static str,
}

impl Dated {
    pub(super) fn read(json: &str, name: &'static str) -> Result<Self, CollateralError> {
        let dated: Self = serde_json::from_str(json).map_err(|_| CollateralError::Malformed(name))?;
        Ok(Self { name, ..dated })
    }

    fn issued(&self) -> Result<u64, CollateralError> {
        unix_seconds(&self.issue_date).ok_or(CollateralError::Malformed(self.name))
    }

    fn next_update(&self) -> Result<u64, CollateralError> {
        unix_seconds(&self.next_update).ok_or(CollateralError::Malformed(self.name))
    }
}

pub(crate) fn unix_seconds(rfc3339: &str) -> Option<u64> {
    OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?.unix_timestamp().try_into().ok()
}

fn crl_next_update(der: &[u8]) -> Option<u64> {
    let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
    crl.next_update()?.timestamp().try_into().ok()
}

pub(super) fn crl_issuer(der: &[u8]) -> Option<CaKind> {
    let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
    Some(CaKind::of_issuer(&crl.issuer().to_string()))
}

fn earliest_not_after(chain: &[CertificateDer<'_>]) -> Option<u64> {
    let mut earliest = u64::MAX;
    for certificate in chain {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        earliest = earliest.min(certificate.validity().not_after.timestamp().try_into().ok()?);
    }
    Some(earliest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn every_collateral_set_reads_or_is_refused_by_the_part_that_is_missing() {
        for (name, json) in crate::collateral::testing::collateral_sets() {
            let read = Collateral::from_json(json.to_string().as_bytes());
            match name.as_str() {
                "no-root-crl" => assert_eq!(read, Err(CollateralError::Malformed("root crl"))),
                _ => assert!(read.is_ok(), "{name}: {read:?}"),
            }
        }
    }

    #[test]
    fn the_earliest_end_of_any_part_ends_the_whole() {
        // In the real set, QE identity and both CRLs expire after the TCB info.
        let real = crate::collateral::testing::real_collateral();
        let next_update = unix_seconds(&Dated::read(&real.parts.tcb_info, "").unwrap().next_update);
        assert!(real.expires() <= next_update.unwrap());
        assert!((1_752_000_000..1_753_000_000).contains(&real.expires()));
        assert_eq!(hex::encode_upper(real.fmspc()), "B0C06F000000");

        let mut parts = real.parts.clone();
        let early = real.expires() - DAY;
        let date = OffsetDateTime::from_unix_timestamp(early as i64).unwrap().format(&Rfc3339).unwrap();
        let mut identity: serde_json::Value = serde_json::from_str(&parts.qe_identity).unwrap();
        identity["nextUpdate"] = date.into();
        parts.qe_identity = identity.to_string();
        assert_eq!(Collateral::new(parts).unwrap().expires(), early);
    }

    #[test]
    fn malformed_parts_are_refused_by_name() {
        type Spoil = fn(&mut QuoteCollateralV3);
        let cases: [(&'static str, Spoil); 8] = [
            ("tcb info", |p| p.tcb_info.truncate(40)),
            ("qe identity", |p| p.qe_identity.clear()),
            ("qe identity", |p| p.qe_identity = p.qe_identity.replace("-", "/")),
            ("pck crl", |p| p.pck_crl.truncate(20)),
            ("root crl", |p| p.root_ca_crl.clear()),
            ("tcb info issuer chain", |p| p.tcb_info_issuer_chain.clear()),
            ("qe identity issuer chain", |p| {
                p.qe_identity_issuer_chain = p.qe_identity_issuer_chain.repeat(3);
            }),
            ("fmspc of tcb info", |p| p.tcb_info = p.tcb_info.replace("\"fmspc\"", "\"fmspd\"")),
        ];
        for (name, spoil) in cases {
            let mut parts = crate::collateral::testing::real_collateral().parts;
            spoil(&mut parts);
            assert_eq!(Collateral::new(parts), Err(CollateralError::Malformed(name)));
        }
    }
}
