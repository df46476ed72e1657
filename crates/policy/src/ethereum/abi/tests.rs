//! Selectors, call data and results, compared with values computed another way.

use alloy_primitives::keccak256;
use alloy_sol_types::SolValue as _;
use kms_attest::identity::BootInfo;

use super::*;

fn selector(signature: &str) -> [u8; 4] {
    keccak256(signature)[..4].try_into().expect("four bytes")
}

const TUPLE: &str = "(address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[])";

#[test]
fn selectors_are_those_of_the_canonical_signatures() {
    for (known, signature) in [
        ("1e079198", format!("isAppAllowed({TUPLE})")),
        ("e067ec9d", format!("isKmsAllowed({TUPLE})")),
        ("95f51931", "gatewayAppId()".to_owned()),
        ("25a992da", "appImplementation()".to_owned()),
        ("a6c4cce9", "registeredApps(address)".to_owned()),
        ("f6fe4f40", "kmsAllowedAggregatedMrs(bytes32)".to_owned()),
        ("13eb9770", "kmsAllowedDeviceIds(bytes32)".to_owned()),
        ("9a4e1d18", "allowedOsImages(bytes32)".to_owned()),
        ("09177063", "kmsInfo()".to_owned()),
        ("8da5cb5b", "owner()".to_owned()),
        ("01ffc9a7", "supportsInterface(bytes4)".to_owned()),
    ] {
        assert_eq!(hex::encode(selector(&signature)), known, "{signature}");
    }
    let boot_info = BootInfo::example();
    for (call, signature) in [
        (CallData::decision(Subject::App(&boot_info)).expect("words"), format!("isAppAllowed({TUPLE})")),
        (CallData::decision(Subject::Kms(&boot_info)).expect("words"), format!("isKmsAllowed({TUPLE})")),
        (CallData::gateway_app_id(), "gatewayAppId()".to_owned()),
        (CallData::app_implementation(), "appImplementation()".to_owned()),
    ] {
        assert_eq!(call.0[..4], selector(&signature), "{signature}");
    }
}

/// The layout of a dynamic tuple in the ABI specification, word by word.
#[test]
fn call_data_has_the_layout_of_the_abi() {
    let mut boot_info = BootInfo::example();
    boot_info.instance_id = Vec::new();
    boot_info.os_image_hash = Vec::new();
    boot_info.advisory_ids = vec!["INTEL-SA-1".to_owned(), String::new()];
    let question = CallData::decision(Subject::App(&boot_info)).expect("words").to_hex();
    let number = |number: u64| format!("{number:064x}");
    let text = |text: &str| format!("{}{:0<64}", number(text.len() as u64), hex::encode(text));
    let expected = [
        "0x1e079198".to_owned(),
        number(0x20),
        format!("{:0>64}", "11".repeat(20)),
        "22".repeat(32),
        number(0),
        "33".repeat(32),
        "55".repeat(32),
        "66".repeat(32),
        number(0),
        // The tails: after the nine words, then after the two words of the string.
        number(9 * 32),
        number(11 * 32),
        text("UpToDate"),
        number(2),
        number(2 * 32),
        number(4 * 32),
        text("INTEL-SA-1"),
        number(0),
    ];
    assert_eq!(question, expected.concat());
}

#[test]
fn a_verdict_has_one_encoding() {
    for (is_allowed, reason) in
        [(true, ""), (false, "Compose hash not allowed"), (true, "é and more than one word of it")]
    {
        let encoded = (is_allowed, reason).abi_encode_params();
        assert_eq!(verdict(&encoded), Ok(Verdict { is_allowed, reason: reason.to_owned() }));
        for at in 0..encoded.len() {
            let mut altered = encoded.clone();
            altered[at] ^= 1;
            // Only the flag, the length and the letters of the string may differ.
            if let Ok(other) = verdict(&altered) {
                assert!(at == 31 || at >= 95, "byte {at}");
                assert_ne!(other, Verdict { is_allowed, reason: reason.to_owned() });
            }
            assert_eq!(
                verdict(&encoded[..at]).err(),
                Some(if at == 0 { NotAbi::Empty } else { NotAbi::Malformed })
            );
        }
    }
    assert_eq!(verdict(&(true, "x".repeat(MAX_TEXT + 1)).abi_encode_params()), Err(NotAbi::TooLong));
}

#[test]
fn an_address_is_twenty_bytes_and_a_text_is_bounded() {
    let address = Address::repeat_byte(7);
    assert_eq!(app_implementation(&address.abi_encode()), Ok(address));
    assert_eq!(app_implementation(&[7; 32]), Err(NotAbi::Malformed));
    assert_eq!(app_implementation(&[0; 64]), Err(NotAbi::Malformed));
    assert_eq!(gateway_app_id(&"gateway".abi_encode()), Ok("gateway".to_owned()));
    assert_eq!(gateway_app_id(&"x".repeat(MAX_TEXT + 1).abi_encode()), Err(NotAbi::TooLong));
    assert_eq!(gateway_app_id(&[]), Err(NotAbi::Empty));
}
