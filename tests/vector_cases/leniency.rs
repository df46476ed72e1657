//! `msgpack_leniency.json`: unusual MessagePack is accepted exactly where the peer accepts it.

use kms_attest::evidence::Evidence;

use super::cases::Cases;
use super::json::{Check, Json, ensure};

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    cases.list(file, "cases", |case, _| {
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
