//! The section of the policy that is read from a chain.

use std::time::Duration;

use kms_policy::settings::{self, ContractAddress};
use serde_json::Value;

use super::reader::Section;
use super::{BlockChoice, Endpoint, Ethereum, values};

/// The most endpoints that one decision uses.
const MAX_ENDPOINTS: usize = 8;
/// A decision ends within ten seconds: where one endpoint hangs, there must be time for another.
const MAX_REQUEST: Duration = Duration::from_secs(5);
/// The maximum of confirmations: no node keeps the state of an older block.
const MAX_CONFIRMATIONS: u64 = 10_000;

/// Whether the configuration chose this policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Chosen,
    Unused,
}

pub(super) fn read(section: &mut Section<'_>, need: Need) -> Ethereum {
    let is_needed = need == Need::Chosen;
    let rpc_urls = section.required("rpc_urls", Vec::new(), |value| endpoints(value, need));
    let chain_id = section.required("chain_id", 0, |value| match value.as_u64() {
        Some(0) if is_needed => Err("must name the chain, such as 1 or 8453".to_owned()),
        Some(id) => Ok(id),
        None => Err("must be a whole number".to_owned()),
    });
    let kms_contract =
        section.required("kms_contract", ContractAddress::default(), |value| match values::string(value)? {
            text if text.is_empty() && is_needed => {
                Err("must be the address of the DstackKms contract".to_owned())
            }
            text if text.is_empty() => Ok(ContractAddress::default()),
            text => settings::contract_address(&text),
        });
    let block = section.required("block", BlockChoice::Finalized, |value| match &*values::string(value)? {
        "finalized" => Ok(BlockChoice::Finalized),
        "safe" => Ok(BlockChoice::Safe),
        "latest" => Ok(BlockChoice::Latest { confirmations: 0 }),
        _ => Err("must be \"finalized\", \"safe\" or \"latest\"".to_owned()),
    });
    let block = section.required("confirmations", block, |value| match (value.as_u64(), block) {
        (Some(0), block) => Ok(block),
        (Some(confirmations @ ..=MAX_CONFIRMATIONS), BlockChoice::Latest { .. }) => {
            Ok(BlockChoice::Latest { confirmations })
        }
        (Some(..=MAX_CONFIRMATIONS), _) => Err("only with block = \"latest\"".to_owned()),
        _ => Err(format!("must be a whole number up to {MAX_CONFIRMATIONS}")),
    });
    let max_block_age =
        section.required("max_block_age", block.usual_age(), |value| match &*values::string(value)? {
            "" => Ok(block.usual_age()),
            text => finite(text),
        });
    let agreement = section.required("agreement", 1, |value| agreement(&value, rpc_urls.len()));
    if agreement > 1 && share_a_host(&rpc_urls) {
        section.notice("rpc_urls", "some endpoints share a host: what they agree on is one operator's word");
    }
    let request_timeout = section.required("request_timeout", MAX_REQUEST, |value| {
        Some(finite(&values::string(value)?)?)
            .filter(|timeout| *timeout <= MAX_REQUEST)
            .ok_or_else(|| "must be at most 5s".to_owned())
    });
    let ca_file = section.path("ca_file");
    Ethereum { rpc_urls, chain_id, kms_contract, block, max_block_age, agreement, request_timeout, ca_file }
}

fn endpoints(value: Value, need: Need) -> Result<Vec<Endpoint>, String> {
    let urls = match value {
        Value::Array(urls) if urls.is_empty() && need == Need::Unused => Vec::new(),
        value => values::endpoints(value)?,
    };
    if urls.len() > MAX_ENDPOINTS {
        return Err(format!("must name at most {MAX_ENDPOINTS} URLs"));
    }
    let is_repeated =
        |(index, url): (usize, &Endpoint)| urls[..index].iter().any(|other| other.url() == url.url());
    match urls.iter().enumerate().any(is_repeated) {
        true => Err("must not name the same URL twice".to_owned()),
        false => Ok(urls),
    }
}

/// One endpoint, or so many that two disagreeing groups of this size cannot exist.
fn agreement(value: &Value, endpoints: usize) -> Result<usize, String> {
    let error = || "must be a whole number from 1 to the number of rpc_urls".to_owned();
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).ok_or_else(error)?;
    match count {
        0 => Err(error()),
        // Problems of the URLs were reported already.
        _ if endpoints == 0 => Ok(1),
        _ if count > endpoints => Err(error()),
        1 => Ok(1),
        _ if count * 2 <= endpoints => Err(format!(
            "must be 1, or more than half of the {endpoints} rpc_urls: two halves could say different things"
        )),
        _ => Ok(count),
    }
}

fn share_a_host(urls: &[Endpoint]) -> bool {
    urls.iter().enumerate().any(|(index, url)| {
        !url.is_loopback() && urls[..index].iter().any(|other| other.url().host_str() == url.url().host_str())
    })
}

fn finite(text: &str) -> Result<Duration, String> {
    values::duration(text)?
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "must have an end and be longer than 0s".to_owned())
}

#[cfg(test)]
mod tests;
