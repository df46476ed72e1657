//! Responses of Ethereum nodes: blocks, and return values of contracts.

use std::sync::{LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use cvm_kms::config::Config;
use kms_attest::identity::BootInfo;
use kms_policy::{Decision, Policy, Subject};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::loopback;

/// Maximum length of a reason in a response, characters.
const MAX_REASON: usize = 512;
/// `gatewayAppId()`
const GATEWAY_APP_ID: &str = "0x95f51931";
/// `appImplementation()`
const APP_IMPLEMENTATION: &str = "0x25a992da";

/// How the node uses the input.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// As the return value of a contract.
    Verdict,
    Gateway,
    Implementation,
    /// As the result in place of the block or the chain id.
    Block,
    Chain,
    /// As the complete body of the response to a call.
    Body,
}

static PLACED: Mutex<(Place, Vec<u8>)> = Mutex::new((Place::Verdict, Vec::new()));

/// A node that returns what the target sets, and a configuration for it.
static NODE: LazyLock<Mutex<(Runtime, Config)>> = LazyLock::new(|| {
    let address = loopback::serve(|request| Some((200, answer(&serde_json::from_slice(request).ok()?))));
    let text = format!(
        "[core.auth_api]\ntype = 'ethereum'\n[core.auth_api.ethereum]\nrpc_urls = ['http://{address}']\n\
         chain_id = 1\nkms_contract = '0x{}'",
        "01".repeat(20)
    );
    let (config, _) = Config::from_toml(&text).expect("a valid configuration");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    Mutex::new((runtime, config))
});

/// The first byte chooses how the others are used.
///
/// Only a response that says so to the bit allows; a reason is short and printable; the caller learns nothing
/// else.
pub fn ethereum(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    use Place::*;
    let place =
        [Verdict, Verdict, Verdict, Gateway, Implementation, Block, Chain, Body][usize::from(*choice) % 8];

    let node = NODE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *PLACED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = (place, bytes.to_vec());
    let (runtime, config) = &*node;
    let boot_info = boot_info();
    let decision = runtime.block_on(async {
        // Each input uses a new chain, so that nothing is cached from the last one.
        let policy = Policy::from_config(&config.core.auth_api).expect("the client can be built");
        policy.decide(Subject::App(&boot_info)).await
    });
    match decision {
        Ok(Decision::Allowed { gateway_app_id, .. }) => match place {
            Verdict => assert_eq!(encoded(1, reason(bytes)), bytes, "another encoding"),
            Gateway => assert_eq!(text(&gateway_app_id), bytes, "another encoding"),
            Implementation => assert!(bytes.len() == 32 && bytes[..12] == [0; 12], "no address"),
            Block | Chain | Body => {}
        },
        Ok(Decision::IfImage(condition)) => panic!("a contract names no image: {condition:?}"),
        Ok(Decision::Denied(denial)) => {
            if matches!(place, Verdict) {
                assert_eq!(encoded(0, reason(bytes)), bytes, "another encoding");
            }
            assert!(matches!(place, Verdict | Body), "{place:?} denied");
            let is_printable = !denial.reason.contains(char::is_control);
            assert!(denial.reason.chars().count() <= MAX_REASON && is_printable);
        }
        Err(error) => assert_eq!(error.to_string(), "authorization backend unavailable"),
    }
}

/// Every value has the width of the contract's type.
fn boot_info() -> BootInfo {
    BootInfo {
        tee_variant: "dstack-tdx".to_owned(),
        mr_aggregated: vec![0xa1; 32],
        os_image_hash: vec![0xb2; 32],
        mr_system: vec![0xc3; 32],
        app_id: vec![0xd4; 20],
        compose_hash: vec![0xe5; 32],
        instance_id: Vec::new(),
        device_id: vec![0xf6; 32],
        key_provider_info: Vec::new(),
        tcb_status: "UpToDate".to_owned(),
        advisory_ids: Vec::new(),
    }
}

/// The text after two words and a length.
fn reason(data: &[u8]) -> &str {
    let length =
        usize::try_from(u64::from_be_bytes(data[88..96].try_into().expect("eight bytes"))).expect("short");
    std::str::from_utf8(&data[96..96 + length]).expect("UTF-8")
}

fn encoded(is_allowed: u8, reason: &str) -> Vec<u8> {
    let mut data = vec![0; 64];
    (data[31], data[63]) = (is_allowed, 64);
    data.extend(&text(reason)[32..]);
    data
}

/// A single text: its offset, its length, its bytes padded to a multiple of a word.
fn text(text: &str) -> Vec<u8> {
    let mut data = vec![0; 64];
    data[31] = 32;
    data[56..64].copy_from_slice(&(text.len() as u64).to_be_bytes());
    data.extend(text.as_bytes());
    data.resize(data.len().next_multiple_of(32), 0);
    data
}

fn answer(request: &Value) -> Vec<u8> {
    let (place, bytes) = PLACED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    let data = request["params"][0]["data"].as_str().unwrap_or_default();
    let asked = match (request["method"].as_str().unwrap_or_default(), data) {
        ("eth_chainId", _) => Place::Chain,
        ("eth_getBlockByNumber", _) => Place::Block,
        (_, GATEWAY_APP_ID) => Place::Gateway,
        (_, APP_IMPLEMENTATION) => Place::Implementation,
        _ => Place::Verdict,
    };
    let returned = |data: &[u8]| json!(format!("0x{}", hex::encode(data))).to_string().into_bytes();
    let result = match (asked, place) {
        (Place::Chain, Place::Chain) | (Place::Block, Place::Block) => bytes,
        (Place::Verdict, Place::Body) => return bytes,
        (Place::Verdict, Place::Verdict)
        | (Place::Gateway, Place::Gateway)
        | (Place::Implementation, Place::Implementation) => returned(&bytes),
        (Place::Chain, _) => b"\"0x1\"".to_vec(),
        (Place::Block, _) => block(),
        (Place::Gateway, _) => returned(&text("gateway")),
        (Place::Implementation, _) => returned(&[0; 32]),
        (Place::Verdict | Place::Body, _) => returned(&encoded(1, "")),
    };
    let id = request["id"].to_string();
    [b"{\"jsonrpc\":\"2.0\",\"id\":", id.as_bytes(), b",\"result\":", &result, b"}"].concat()
}

fn block() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let hash = format!("0x{}", "ab".repeat(32));
    json!({ "number": "0x10", "hash": hash, "timestamp": format!("0x{now:x}") }).to_string().into_bytes()
}
