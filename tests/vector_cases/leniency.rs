//! `msgpack_leniency.json`: unusual MessagePack is read where the peer reads it, and nowhere else.

use kms_attest::evidence::Evidence;

use super::json::{Check, Json, ensure};
use super::ledger::Ledger;

pub(super) fn check(file: &Json, ledger: &mut Ledger) -> Check {
    file.at("about")?.informative();
    ledger.list(file, "cases", |case, _| {
        let decoded = Evidence::decode(&case.at("bytes")?.bytes()?);
        let (accepts, error) = (case.at("peer_accepts")?, case.at("peer_error")?);
        match decoded {
            Ok(evidence) => {
                accepts.is_bool(true)?;
                ensure!(error.is_null(), "{}: accepted with an error", error.path());
                let written = Evidence::decode(&evidence.encode())?;
                ensure!(written == evidence, "written in the usual form it reads as another");
            }
            Err(_) => {
                accepts.is_bool(false)?;
                error.text()?;
            }
        }
        Ok(())
    })
}
