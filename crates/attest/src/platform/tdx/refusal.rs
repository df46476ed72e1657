//! What a refusal by the quote verifier is about. Its error is a text, which shows which check failed.

use dcap_qvl::intel::parse_pck_extension_with;
use dcap_qvl::{QeIdentity, SvnComponent, SvnShortfall, TcbInfo, TcbLevel};

use super::report::{DEBUG_BYTE, PERMITTED_ATTRIBUTES, SEPT_VE_DISABLE};
use super::shortfall::Missing;
use super::{Rejection, Shortfall, TdQuote, TdReport};
use crate::collateral::{Collateral, Dcap, PckChain};
use crate::tcb::TcbPart;

/// Offset of ISVSVN in the quoting enclave's report.
const QE_ISV_SVN: usize = 258;

impl Rejection {
    /// If the check that failed is about the TD, `td` must confirm it.
    pub(super) fn of(reason: &str, td: &TdReport) -> Self {
        let attributes = td.td_attributes;
        let checks = [
            ("TCB status is invalid: Revoked", true, Self::Revoked),
            ("Debug mode is enabled", attributes & DEBUG_BYTE != 0, Self::Debug),
            (
                "Reserved bits in TD attributes are set",
                attributes & !PERMITTED_ATTRIBUTES != 0,
                Self::Attributes,
            ),
            ("SEPT_VE_DISABLE is not enabled", attributes & SEPT_VE_DISABLE == 0, Self::Attributes),
            (
                "Invalid MR service TD",
                td.mr_service_td.is_some_and(|register| register != [0; 48]),
                Self::ServiceTd,
            ),
        ];
        let found = checks.into_iter().find(|(words, is_so, _)| *is_so && reason.contains(words));
        found.map_or(Self::NotGenuine, |(.., rejection)| rejection)
    }
}

impl Shortfall {
    /// The shortfall that the refusal `reason` is about; `None` if it is about something else, or if no
    /// version is too low.
    pub(super) fn of(
        reason: &str,
        quote: &TdQuote<'_>,
        chain: &PckChain,
        collateral: &Collateral,
    ) -> Option<Self> {
        let (part, missing) = if reason.contains("No matching TCB level found") {
            (TcbPart::Platform, platform(quote, chain, &tcb_info(collateral)?)?)
        } else if reason.contains("is below minimum required from TDX module TCB levels") {
            (TcbPart::Module, module(quote, &tcb_info(collateral)?)?)
        } else if reason.contains("QE ISVSVN") {
            (TcbPart::QuotingEnclave, quoting_enclave(quote, collateral)?)
        } else {
            return None;
        };
        (!missing.is_empty()).then_some(Self { part, missing })
    }
}

fn tcb_info(collateral: &Collateral) -> Option<TcbInfo> {
    serde_json::from_str(&collateral.parts().tcb_info).ok()
}

/// For the versions at launch of the TD, otherwise for the current ones.
fn platform(quote: &TdQuote<'_>, chain: &PckChain, tcb_info: &TcbInfo) -> Option<Vec<Missing>> {
    let pck = parse_pck_extension_with::<Dcap>(chain.leaf()).ok()?;
    let td = quote.report();
    let nearest = |tee_tcb_svn: &[u8; 16]| {
        let of = |level: &TcbLevel| {
            let missing = level.shortfalls(&pck.cpu_svn, pck.pce_svn, Some(tee_tcb_svn)).ok()?;
            Some(missing.into_iter().map(named).collect::<Vec<_>>())
        };
        tcb_info.tcb_levels.iter().filter_map(of).min_by_key(|missing| {
            let distance: u64 = missing.iter().map(|short| u64::from(short.needs - short.have)).sum();
            (missing.len(), distance)
        })
    };
    let at_launch = nearest(&td.tee_tcb_svn)?;
    if !at_launch.is_empty() {
        return Some(at_launch);
    }
    nearest(&td.tee_tcb_svn2?)
}

/// The module's level depends on its own version only.
fn module(quote: &TdQuote<'_>, tcb_info: &TcbInfo) -> Option<Vec<Missing>> {
    let td = quote.report();
    let below = |tee_tcb_svn: &[u8; 16]| {
        let identity = tcb_info.tdx_module_identity(tee_tcb_svn).ok()??;
        let short = identity.tcb_levels.iter().map(|level| level.shortfall(tee_tcb_svn));
        short.collect::<Option<Vec<_>>>()?.into_iter().min_by_key(|short| short.needs)
    };
    let short = below(&td.tee_tcb_svn).or_else(|| below(&td.tee_tcb_svn2?))?;
    Some(vec![named(short)])
}

fn quoting_enclave(quote: &TdQuote<'_>, collateral: &Collateral) -> Option<Vec<Missing>> {
    let identity: QeIdentity = serde_json::from_str(&collateral.parts().qe_identity).ok()?;
    let report = quote.parsed().qe_report();
    let have = u16::from_le_bytes([report[QE_ISV_SVN], report[QE_ISV_SVN + 1]]);
    let needs = identity.tcb_levels.iter().map(|level| level.tcb.isvsvn).min()?;
    Some(vec![Missing { what: "QE SVN".to_owned(), have, needs }]).filter(|_| have < needs)
}

fn named(SvnShortfall { component, have, needs }: SvnShortfall) -> Missing {
    let what = match component {
        SvnComponent::Sgx(index) => format!("SGX component {index}"),
        SvnComponent::Tdx(index) => format!("TDX component {index}"),
        SvnComponent::PceSvn => "PCE SVN".to_owned(),
        SvnComponent::TdxModuleIsvSvn => "TDX module SVN".to_owned(),
    };
    Missing { what, have, needs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::testing::{real_quote, vector};
    use crate::platform::tdx::{TdxError, verify_quote};
    use crate::trust::TrustAnchors;

    fn outdated() -> (Vec<u8>, Collateral) {
        let set = vector("fixtures/dcap-qvl/tdx_quote_outdated_collateral.json");
        (vector("fixtures/dcap-qvl/tdx_quote_outdated.bin"), Collateral::from_json(&set).unwrap())
    }

    #[test]
    fn a_real_platform_below_every_level_is_told_what_it_lacks() {
        let (quote, collateral) = outdated();
        let now = collateral.issued().max(collateral.expires() - 86_400);
        let error = verify_quote(&quote, &collateral, &TrustAnchors::intel(), now).unwrap_err();
        let TdxError::Unlisted { shortfall, .. } = &error else { panic!("{error}") };
        assert_eq!(shortfall.part(), TcbPart::Platform);
        let text = error.to_string();
        let start = "failed to verify TDX quote: No matching TCB level found: the platform is below every level that \
                     Intel lists: ";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(", the nearest level needs "), "{text}");
        assert!(text.ends_with("then register the platform again"), "{text}");
    }

    #[test]
    fn a_module_and_a_quoting_enclave_are_named_with_their_versions() {
        let (quote, collateral) = outdated();
        let (quote, chain) = (TdQuote::parse(&quote).unwrap(), chain(&quote));
        let raised = |text: &str, from: &str, to: &str| text.replace(from, to);
        let mut parts = collateral.parts().clone();
        let identity: QeIdentity = serde_json::from_str(&parts.qe_identity).unwrap();
        for level in &identity.tcb_levels {
            let svn = format!("\"isvsvn\":{}}}", level.tcb.isvsvn);
            parts.qe_identity = raised(&parts.qe_identity, &svn, "\"isvsvn\":999}");
        }
        let tcb_info: TcbInfo = serde_json::from_str(&parts.tcb_info).unwrap();
        for level in tcb_info.tdx_module_identities.iter().flat_map(|identity| &identity.tcb_levels) {
            let svn = format!("\"isvsvn\":{}}}", level.tcb.isvsvn);
            parts.tcb_info = raised(&parts.tcb_info, &svn, "\"isvsvn\":250}");
        }
        let collateral = Collateral::new(parts).unwrap();
        let of = |reason| Shortfall::of(reason, &quote, &chain, &collateral);
        let module = of("TDX module ISVSVN 3 is below minimum required from TDX module TCB levels").unwrap();
        assert_eq!(module.part(), TcbPart::Module);
        assert!(
            module.to_string().contains("the nearest level needs 250; update the TDX module"),
            "{module}"
        );
        let qe = of("QE ISVSVN 3 is below minimum required 999 from QE Identity").unwrap();
        assert_eq!(qe.part(), TcbPart::QuotingEnclave);
        assert!(qe.to_string().contains("the nearest level needs 999; update the SGX software"), "{qe}");
        assert_eq!(of("Signature is invalid for qe_report in quote"), None);
    }

    #[test]
    fn a_platform_that_has_a_level_lacks_nothing() {
        let (_, collateral) = outdated();
        let real = crate::collateral::testing::real_collateral();
        let bytes = real_quote();
        let (quote, chain) = (TdQuote::parse(&bytes).unwrap(), chain(&bytes));
        assert_eq!(Shortfall::of("No matching TCB level found", &quote, &chain, &real), None);
        assert_eq!(Shortfall::of("Fmspc mismatch", &quote, &chain, &collateral), None);
    }

    fn chain(quote: &[u8]) -> PckChain {
        let parsed = dcap_qvl::quote::Quote::parse(quote).unwrap();
        PckChain::read(parsed.inner_cert_data()).unwrap()
    }
    #[test]
    fn words_about_the_td_count_only_if_the_td_is_so() {
        let good = TdReport::parse(&real_quote()).unwrap();
        let with = |alter: fn(&mut TdReport)| {
            let mut td = good.clone();
            alter(&mut td);
            td
        };
        for (words, td, expected) in [
            ("Debug mode is enabled", with(|td| td.td_attributes |= 1), Rejection::Debug),
            (
                "Reserved bits in TD attributes are set",
                with(|td| td.td_attributes |= 2),
                Rejection::Attributes,
            ),
            (
                "SEPT_VE_DISABLE is not enabled",
                with(|td| td.td_attributes &= !SEPT_VE_DISABLE),
                Rejection::Attributes,
            ),
            ("Invalid MR service TD", with(|td| td.mr_service_td = Some([1; 48])), Rejection::ServiceTd),
        ] {
            assert_eq!(Rejection::of(words, &td), expected);
            assert_eq!(Rejection::of(words, &good), Rejection::NotGenuine, "{words}");
        }
        assert_eq!(Rejection::of("TCB status is invalid: Revoked", &good), Rejection::Revoked);
        assert_eq!(Rejection::of("revoked", &good), Rejection::NotGenuine);
    }
}
