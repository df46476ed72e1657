//! The TCB levels of simulated platforms, and Intel's verdict on each.

use std::fmt;
use std::str::FromStr;

/// How far a TD's platform is behind. A quote contains only security version numbers; the TCB info of
/// [`CollateralSpec::default`](crate::CollateralSpec) gives each the status of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcbLevel {
    /// Everything is patched.
    UpToDate,
    /// Software mitigations are needed.
    SwHardeningNeeded,
    /// Platform settings are needed.
    ConfigurationNeeded,
    /// Both of the above.
    ConfigurationAndSwHardeningNeeded,
    /// Updates are missing.
    OutOfDate,
    /// Updates and settings are missing.
    OutOfDateConfigurationNeeded,
    /// The platform's keys are compromised.
    Revoked,
    /// Below every level in TCB info.
    Unlisted,
}

impl TcbLevel {
    /// The levels that TCB info lists, best first.
    pub const LISTED: [TcbLevel; 7] = [
        TcbLevel::UpToDate,
        TcbLevel::SwHardeningNeeded,
        TcbLevel::ConfigurationNeeded,
        TcbLevel::ConfigurationAndSwHardeningNeeded,
        TcbLevel::OutOfDate,
        TcbLevel::OutOfDateConfigurationNeeded,
        TcbLevel::Revoked,
    ];

    /// The status text of TCB info and of `tcbStatus`.
    pub fn status(self) -> &'static str {
        match self {
            TcbLevel::UpToDate => "UpToDate",
            TcbLevel::SwHardeningNeeded => "SWHardeningNeeded",
            TcbLevel::ConfigurationNeeded => "ConfigurationNeeded",
            TcbLevel::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TcbLevel::OutOfDate => "OutOfDate",
            TcbLevel::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            TcbLevel::Revoked => "Revoked",
            TcbLevel::Unlisted => "Unlisted",
        }
    }

    /// The advisories that TCB info lists for this level.
    pub fn advisories(self) -> &'static [&'static str] {
        match self {
            TcbLevel::UpToDate | TcbLevel::ConfigurationNeeded | TcbLevel::Unlisted => &[],
            TcbLevel::SwHardeningNeeded | TcbLevel::ConfigurationAndSwHardeningNeeded => &["INTEL-SA-00615"],
            TcbLevel::OutOfDate | TcbLevel::OutOfDateConfigurationNeeded => {
                &["INTEL-SA-00837", "INTEL-SA-00960"]
            }
            TcbLevel::Revoked => &["INTEL-SA-00289"],
        }
    }

    /// TEE_TCB_SVN: module minor, module major, and the component that distinguishes the levels.
    pub(crate) fn tee_tcb_svn(self, module_major: u8) -> [u8; 16] {
        let mut svn = [0u8; 16];
        svn[0] = MODULE_ISV_SVN;
        svn[1] = module_major;
        svn[2] = self.component();
        svn
    }

    /// The TDX components that this level requires. The module's two are left to its identity.
    pub(crate) fn required_components(self) -> [u8; 16] {
        let mut required = [0u8; 16];
        required[2] = self.component();
        required
    }

    /// TDX components of a level that no simulated platform reaches.
    pub(crate) fn beyond() -> [u8; 16] {
        let mut required = TcbLevel::UpToDate.required_components();
        required[2] += 1;
        required
    }

    fn component(self) -> u8 {
        match self {
            TcbLevel::UpToDate => 7,
            TcbLevel::SwHardeningNeeded => 6,
            TcbLevel::ConfigurationNeeded => 5,
            TcbLevel::ConfigurationAndSwHardeningNeeded => 4,
            TcbLevel::OutOfDate => 3,
            TcbLevel::OutOfDateConfigurationNeeded => 2,
            TcbLevel::Revoked => 1,
            TcbLevel::Unlisted => 0,
        }
    }
}

/// ISVSVN of the simulated TDX module.
pub(crate) const MODULE_ISV_SVN: u8 = 5;

impl fmt::Display for TcbLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status())
    }
}

/// A level name that is not one of Intel's statuses or `Unlisted`.
#[derive(Debug, thiserror::Error)]
#[error("unknown TCB level `{0}`, expected one of: {list}", list = level_names())]
pub struct UnknownTcbLevel(String);

fn level_names() -> String {
    let names: Vec<_> =
        TcbLevel::LISTED.iter().chain([&TcbLevel::Unlisted]).map(|level| level.status()).collect();
    names.join(", ")
}

impl FromStr for TcbLevel {
    type Err = UnknownTcbLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TcbLevel::LISTED
            .into_iter()
            .chain([TcbLevel::Unlisted])
            .find(|level| level.status().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownTcbLevel(text.to_owned()))
    }
}

/// A status with its advisories, as TCB info and QE identity state them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The level whose status text is used.
    pub level: TcbLevel,
    /// Advisory ids, such as `INTEL-SA-00837`.
    pub advisories: Vec<String>,
}

impl Standing {
    /// `level` with its own advisories.
    pub fn of(level: TcbLevel) -> Self {
        Self { level, advisories: level.advisories().iter().map(|id| (*id).to_owned()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_names_parse_back_and_others_are_refused_with_the_list() {
        for level in TcbLevel::LISTED.into_iter().chain([TcbLevel::Unlisted]) {
            assert_eq!(level.status().to_lowercase().parse::<TcbLevel>().unwrap(), level);
        }
        let refusal = "fine".parse::<TcbLevel>().unwrap_err().to_string();
        assert!(refusal.starts_with("unknown TCB level `fine`, expected one of: UpToDate, "), "{refusal}");
    }
}
