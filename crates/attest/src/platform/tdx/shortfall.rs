//! Platforms below every level that Intel lists: which versions are too low for the nearest level, and what
//! to update.

use std::fmt;

use crate::tcb::TcbPart;

/// Maximum number of components in a message.
const MAX_NAMED: usize = 6;

/// Security versions below every level. The certificate and the report with them are signed; that they are
/// the reason for the refusal is known only from the quote verifier's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    pub(super) part: TcbPart,
    pub(super) missing: Vec<Missing>,
}

/// A version that is too low.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) have: u16,
    pub(super) needs: u16,
}

impl Shortfall {
    /// The part that is below every level.
    pub fn part(&self) -> TcbPart {
        self.part
    }
}

/// `the platform is below every level that Intel lists: SGX component 3 (BIOS) is 1, the nearest level needs
/// 4; update …`
impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, update) = match self.part {
            TcbPart::Platform => (
                "platform",
                "update BIOS and microcode of the host, and its SGX and TDX software, then register the platform again",
            ),
            TcbPart::Module => {
                ("TDX module", "update the TDX module of the host, by its BIOS or its boot loader")
            }
            TcbPart::QuotingEnclave => {
                ("quoting enclave", "update the SGX software of the host that makes TD quotes (TD QE, QGS)")
            }
        };
        write!(f, "the {part} is below every level that Intel lists")?;
        for (index, missing) in self.missing.iter().take(MAX_NAMED).enumerate() {
            let before = if index == 0 { ":" } else { "," };
            let Missing { what, have, needs } = missing;
            write!(f, "{before} {what} is {have}, the nearest level needs {needs}")?;
        }
        if self.missing.len() > MAX_NAMED {
            write!(f, ", and {} more", self.missing.len() - MAX_NAMED)?;
        }
        write!(f, "; {update}")
    }
}
