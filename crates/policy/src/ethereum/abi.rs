//! The interface of the DstackKms contract: requests as call data, and responses, decoded strictly.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use alloy_sol_types::abi::AbiDecoderConfig;
use kms_attest::identity::BootInfo;

use crate::decision::{Denial, DenialCode, Subject};
use contract::{AppBootInfo, DstackKms};

/// Maximum length of a string from the contract in bytes.
const MAX_TEXT: usize = 4096;
/// Limits of auth-eth for values of the platform.
const MAX_TCB_STATUS: usize = 128;
const MAX_ADVISORIES: usize = 128;
const MAX_ADVISORY: usize = 256;

/// The part of the contract's interface that decides.
#[allow(missing_docs, unreachable_pub)]
mod contract {
    alloy_sol_types::sol! {
        struct AppBootInfo {
            address appId;
            bytes32 composeHash;
            address instanceId;
            bytes32 deviceId;
            bytes32 mrAggregated;
            bytes32 mrSystem;
            bytes32 osImageHash;
            string tcbStatus;
            string[] advisoryIds;
        }

        interface DstackKms {
            function isAppAllowed(AppBootInfo bootInfo) external view returns (bool isAllowed, string reason);
            function isKmsAllowed(AppBootInfo bootInfo) external view returns (bool isAllowed, string reason);
            function gatewayAppId() external view returns (string);
            function appImplementation() external view returns (address);
        }
    }
}

/// Selector and arguments of a call.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct CallData(Vec<u8>);

impl CallData {
    /// `isAppAllowed` or `isKmsAllowed` about a verified identity. Values are not padded or cut: a padded
    /// hash of 31 bytes would be another valid word.
    ///
    /// # Errors
    /// A denial: the types of the contract cannot express such an identity.
    pub(super) fn decision(subject: Subject<'_>) -> Result<Self, Denial> {
        let info = words(subject.boot_info())?;
        Ok(Self(match subject {
            Subject::App(_) => DstackKms::isAppAllowedCall::new((info,)).abi_encode(),
            Subject::Kms(_) => DstackKms::isKmsAllowedCall::new((info,)).abi_encode(),
        }))
    }

    /// `gatewayAppId()`
    pub(super) fn gateway_app_id() -> Self {
        Self(DstackKms::gatewayAppIdCall {}.abi_encode())
    }

    /// `appImplementation()`
    pub(super) fn app_implementation() -> Self {
        Self(DstackKms::appImplementationCall {}.abi_encode())
    }

    /// The form for JSON-RPC: `0x1e079198…`.
    pub(super) fn to_hex(&self) -> String {
        format!("0x{}", hex::encode(&self.0))
    }
}

fn words(boot_info: &BootInfo) -> Result<AppBootInfo, Denial> {
    if boot_info.tcb_status.len() > MAX_TCB_STATUS {
        return Err(malformed("tcb_status", format!("at most {MAX_TCB_STATUS}"), boot_info.tcb_status.len()));
    }
    if boot_info.advisory_ids.len() > MAX_ADVISORIES {
        let found = boot_info.advisory_ids.len();
        return Err(malformed("advisory_ids", format!("at most {MAX_ADVISORIES}"), found));
    }
    if let Some(long) = boot_info.advisory_ids.iter().find(|advisory| advisory.len() > MAX_ADVISORY) {
        return Err(malformed("an advisory id", format!("at most {MAX_ADVISORY}"), long.len()));
    }
    Ok(AppBootInfo {
        appId: address("app_id", &boot_info.app_id)?,
        composeHash: word("compose_hash", &boot_info.compose_hash)?,
        // An app can have no instance id, which is zero in the contract.
        instanceId: match &*boot_info.instance_id {
            [] => Address::ZERO,
            bytes => address("instance_id", bytes)?,
        },
        deviceId: word("device_id", &boot_info.device_id)?,
        mrAggregated: word("mr_aggregated", &boot_info.mr_aggregated)?,
        mrSystem: word("mr_system", &boot_info.mr_system)?,
        // Evidence of older guests has no image hash. Zero is never an allowed image.
        osImageHash: match &*boot_info.os_image_hash {
            [] => B256::ZERO,
            bytes => word("os_image_hash", bytes)?,
        },
        tcbStatus: boot_info.tcb_status.clone(),
        advisoryIds: boot_info.advisory_ids.clone(),
    })
}

fn address(name: &str, bytes: &[u8]) -> Result<Address, Denial> {
    Address::try_from(bytes).map_err(|_| malformed(name, "20".to_owned(), bytes.len()))
}

fn word(name: &str, bytes: &[u8]) -> Result<B256, Denial> {
    B256::try_from(bytes).map_err(|_| malformed(name, "32".to_owned(), bytes.len()))
}

/// Uses the reason of auth-eth.
fn malformed(name: &str, expected: String, found: usize) -> Denial {
    Denial {
        code: DenialCode::InvalidRequest,
        reason: "invalid authorization request".to_owned(),
        expected: Some(format!("{name} of length {expected}")),
        actual: Some(format!("{name} of length {found}")),
    }
}

/// The contract's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_allowed: bool,
    pub(super) reason: String,
}

/// A result that is not the exact encoding of the contract's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAbi {
    #[error("nothing: there is no such contract at this address and block")]
    Empty,
    #[error("not a result of a DstackKms contract")]
    Malformed,
    #[error("a text of more than {MAX_TEXT} bytes")]
    TooLong,
}

/// `(bool, string)` of `isAppAllowed` and `isKmsAllowed`, which return the same.
pub(super) fn verdict(data: &[u8]) -> Result<Verdict, NotAbi> {
    let answer = decode::<DstackKms::isAppAllowedCall>(data)?;
    Ok(Verdict { is_allowed: answer.isAllowed, reason: bounded(answer.reason)? })
}

/// `string` of `gatewayAppId`.
pub(super) fn gateway_app_id(data: &[u8]) -> Result<String, NotAbi> {
    bounded(decode::<DstackKms::gatewayAppIdCall>(data)?)
}

/// `address` of `appImplementation`.
pub(super) fn app_implementation(data: &[u8]) -> Result<Address, NotAbi> {
    decode::<DstackKms::appImplementationCall>(data)
}

/// Accepts only the encoding that Solidity produces: booleans are 0 or 1, offsets are canonical, padding is
/// zero, no byte is left.
fn decode<C: SolCall>(data: &[u8]) -> Result<C::Return, NotAbi> {
    if data.is_empty() {
        return Err(NotAbi::Empty);
    }
    let config = AbiDecoderConfig::new().strict(true).memory_limit(2 * data.len());
    let answer = C::abi_decode_returns_with_config(data, config).map_err(|_| NotAbi::Malformed)?;
    match C::abi_encode_returns(&answer) == data {
        true => Ok(answer),
        false => Err(NotAbi::Malformed),
    }
}

fn bounded(text: String) -> Result<String, NotAbi> {
    if text.len() > MAX_TEXT { Err(NotAbi::TooLong) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
