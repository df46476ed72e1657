//! Kinds of refusal by the quote verifier.

use super::{DEBUG_BYTE, PERMITTED_ATTRIBUTES, SEPT_VE_DISABLE, TdReport};

/// The kind of a refusal by the quote verifier. The verifier checks the TD last, after signatures and TCB
/// levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A wrong signature, certificate, revocation or date, or any other reason.
    NotGenuine,
    /// Intel lists the platform's keys as compromised.
    Revoked,
    /// The TD is in debug mode.
    Debug,
    /// TDATTRIBUTES with a forbidden bit, or without a required one.
    Attributes,
    /// A service TD is bound to the TD.
    ServiceTd,
}

impl Rejection {
    /// dcap-qvl's error is a text, which shows which check failed. If that check is about the TD, `td` must
    /// confirm it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::testing::real_quote;

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
