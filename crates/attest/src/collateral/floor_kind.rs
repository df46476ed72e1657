//! What floors apply to: the numbers of collateral that may only rise.

use std::fmt;

use super::CaKind;

/// The TCB set that was requested: Intel's `update` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcbSet {
    /// The set that decisions use (`update=standard`).
    Standard,
    /// The set with the next TCB recovery (`update=early`).
    Early,
}

impl TcbSet {
    fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Early => "early",
        }
    }
}

/// What a floor applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FloorKind {
    /// `tcbEvaluationDataNumber` of the TCB info of an FMSPC.
    TcbInfo(TcbSet, [u8; 6]),
    /// `tcbEvaluationDataNumber` of QE identity.
    QeIdentity(TcbSet),
    /// CRL number of the root CA.
    RootCrl,
    /// CRL number of a PCK CA.
    PckCrl(CaKind),
}

impl FloorKind {
    /// Stable name in metrics: `tcb_info`, `qe_identity`, `root_crl`, `pck_crl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcbInfo(..) => "tcb_info",
            Self::QeIdentity(_) => "qe_identity",
            Self::RootCrl => "root_crl",
            Self::PckCrl(_) => "pck_crl",
        }
    }

    /// All names.
    pub const NAMES: [&'static str; 4] = ["tcb_info", "qe_identity", "root_crl", "pck_crl"];
}

/// The form in the file: `tcb_info/standard/b0c06f000000`, `pck_crl/platform`.
impl fmt::Display for FloorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcbInfo(set, fmspc) => {
                write!(f, "{}/{}/{}", self.name(), set.as_str(), hex::encode(fmspc))
            }
            Self::QeIdentity(set) => write!(f, "{}/{}", self.name(), set.as_str()),
            Self::RootCrl => f.write_str(self.name()),
            Self::PckCrl(ca) => write!(f, "{}/{}", self.name(), ca.as_str()),
        }
    }
}

impl FloorKind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let set = |word: &str| [TcbSet::Standard, TcbSet::Early].into_iter().find(|set| set.as_str() == word);
        let ca =
            |word: &str| [CaKind::Processor, CaKind::Platform].into_iter().find(|ca| ca.as_str() == word);
        let mut words = text.split('/');
        let kind = match (words.next()?, words.next(), words.next()) {
            ("tcb_info", Some(word), Some(fmspc)) => {
                let mut bytes = [0; 6];
                hex::decode_to_slice(fmspc, &mut bytes).ok()?;
                Self::TcbInfo(set(word)?, bytes)
            }
            ("qe_identity", Some(word), None) => Self::QeIdentity(set(word)?),
            ("root_crl", None, None) => Self::RootCrl,
            ("pck_crl", Some(word), None) => Self::PckCrl(ca(word)?),
            _ => return None,
        };
        // Only the spelling that `Display` writes is accepted.
        (words.next().is_none() && kind.to_string() == text).then_some(kind)
    }
}
