//! `attestation.json`: evidence decoded, written again, stripped and verified; MRCONFIGID.

use kms_attest::evidence::{Evidence, Platform};
use kms_attest::identity::mr_config::{
    KeyProvider, MrConfigDocument, host_data, version_1, version_2, version_3,
};
use kms_attest::identity::{AppId, BootInfo, Registers};
use kms_attest::measurement::{EventVersion, TdxEvent, validate_v2_preimages};
use kms_attest::verify::{Binding, Verified, VerifyError};
use kms_attest::vm_config::VmConfig;

use super::Directory;
use super::cases::{Cases, Notes};
use super::decoded::{check_decoded, is_boot_info};
use super::json::{Check, Failure, Json, ensure};
use super::pki::DevelopmentPki;
use super::server::BackEnd;

/// Why evidence of another platform is only decoded.
pub(super) const OTHER_PLATFORM: &str =
    "evidence of this platform is decoded, and refused by name when it is to be verified";
/// Why evidence without collateral of its time is not verified.
pub(super) const NO_COLLATERAL: &str = "there is no collateral of its time: its quote is refused";
/// Ours accepts what the peer refuses.
pub(super) const STRIPPED_V2_EVENTS: &str =
    "V2 events whose digests were stripped pass: the replay of RTMR3 has bound them";
const NESTED_CONFIG: &str =
    "a nested vm_config is unwrapped in verified evidence too, which fills an empty image hash";

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>, directory: &'a Directory) -> Check {
    let pki = DevelopmentPki::of(file, directory)?;
    let request_config = file.at("request_vm_config")?.text()?;
    VmConfig::parse(request_config)?;
    cases.list(file, "blobs", move |case, notes| {
        let evidence = check_decoded(&case.at("bytes")?.bytes()?, case.at("decoded")?)?;
        let ours = pki.verify(&evidence, Binding::SelfReported);
        match case.maybe("peer_verify") {
            None => is_refused(&evidence, ours, notes),
            Some(peer) => peer_verify(peer, &evidence, ours, request_config, notes),
        }
    })?;
    cases.list(file, "decode_failures", |case, _| {
        let decoded = Evidence::decode(&case.at("bytes")?.bytes()?);
        let error = case.at("error")?;
        if !error.is_null() {
            error.text()?;
            ensure!(decoded.is_err(), "ours decodes it");
            return Ok(());
        }
        let report_data = decoded?.report_data();
        match case.some("report_data_error") {
            Some(error) => {
                error.text()?;
                ensure!(report_data.is_err(), "ours has report data");
            }
            None => drop(report_data?),
        }
        Ok(())
    })?;
    cases.list(file, "mr_config_ids", |case, _| mr_config_id(case))
}

/// Evidence without the peer's verdict: real, or of another platform.
pub(super) fn is_refused(
    evidence: &Evidence,
    ours: Result<Verified, VerifyError>,
    notes: &mut Notes,
) -> Check {
    match (&evidence.platform, ours) {
        (Platform::Tdx(_), Ok(_)) => return Err(Failure("it verifies under the development root".into())),
        (Platform::Tdx(_), Err(_)) => notes.aside(NO_COLLATERAL),
        (other, Err(VerifyError::UnsupportedPlatform(kind))) => {
            ensure!(kind == other.kind(), "refused as {kind}");
            let text = VerifyError::UnsupportedPlatform(kind).to_string();
            ensure!(text.contains(kind), "the refusal does not name {kind}: {text}");
            notes.aside(OTHER_PLATFORM);
        }
        (other, ours) => return Err(Failure(format!("{} is not refused by name: {ours:?}", other.kind()))),
    }
    Ok(())
}

/// Compares the boot infos, and sends them to an authorization backend.
fn peer_verify(
    peer: &Json,
    evidence: &Evidence,
    ours: Result<Verified, VerifyError>,
    request_config: &str,
    notes: &mut Notes,
) -> Check {
    let verifies = peer.at("ok")?.boolean()?;
    if let Some(tdx) = evidence.tdx() {
        let refusal = if verifies { "" } else { peer.at("error")?.text()? };
        let expected = refusal.strip_prefix("Failed to validate TDX V2 event digest preimages: ");
        let preimages = validate_v2_preimages(&tdx.event_log).map_err(|error| error.to_string());
        ensure!(preimages.as_ref().err().map(String::as_str) == expected, "preimages: {preimages:?}");
    } else if !verifies {
        peer.at("error")?.text()?;
    }
    let verified = match ours {
        Ok(verified) if verifies => verified,
        Err(_) if !verifies => return Ok(()),
        Ok(_) if has_stripped_v2_events(evidence) => {
            notes.differs(STRIPPED_V2_EVENTS);
            return Ok(());
        }
        Ok(_) => return Err(Failure("the peer refuses it, ours does not".into())),
        refused @ Err(VerifyError::UnsupportedPlatform(_)) => {
            peer.informative();
            return is_refused(evidence, refused, notes);
        }
        Err(error) => return Err(Failure(format!("ours refuses it: {error}"))),
    };
    let questions = [
        ("boot_info_getappkey_embedded_config", Registers::RunTime, ""),
        ("boot_info_getappkey_request_config", Registers::RunTime, request_config),
        ("boot_info_signcert_embedded_config", Registers::BootTime, ""),
        ("boot_info_signcert_request_config", Registers::BootTime, request_config),
    ];
    let back_end = BackEnd::start()?;
    let mut agreed = 0;
    for (name, registers, config) in questions {
        let Some(expected) = peer.maybe(name) else { continue };
        let ours = verified.identity(registers, config).map(|identity| BootInfo::from(&identity));
        if let Some(error) = expected.maybe("error") {
            error.text()?;
            ensure!(ours.is_err(), "{}: ours is no error", expected.path());
            continue;
        }
        let mut ours = ours?;
        if config.is_empty() && unwraps_what_the_peer_does_not(expected, evidence, &ours)? {
            notes.differs(NESTED_CONFIG);
            ours.os_image_hash.clear();
        }
        is_boot_info(expected, &ours)?;
        back_end.is_asked(&ours)?;
        agreed += 1;
    }
    ensure!(agreed > 0, "{}: there is no boot info", peer.path());
    notes.differs("the backend also gets attestationMode, the name of teeVariant up to 0.5.11");
    Ok(())
}

/// Whether evidence has V2 events without digests, as in certificates.
pub(super) fn has_stripped_v2_events(evidence: &Evidence) -> bool {
    let is_stripped = |entry: &TdxEvent| {
        let is_v2 = entry.is_runtime() && entry.version == EventVersion::V2;
        is_v2 && entry.digest.is_empty()
    };
    evidence.tdx().is_some_and(|tdx| tdx.event_log.iter().any(is_stripped))
}

/// Whether the only difference is the image hash of a nested configuration, which the peer leaves empty.
fn unwraps_what_the_peer_does_not(expected: &Json, evidence: &Evidence, ours: &BootInfo) -> Check<bool> {
    let outer: serde_json::Value = serde_json::from_str(&evidence.stack.config).unwrap_or_default();
    let Some(nested) = outer["vm_config"].as_str() else { return Ok(false) };
    let is_nested = VmConfig::parse(nested)?.os_image_hash == ours.os_image_hash;
    let peers = expected.at("boot_info")?.at("osImageHash")?.text()?;
    Ok(is_nested && peers.is_empty() && !ours.os_image_hash.is_empty())
}

fn mr_config_id(case: &Json) -> Check {
    let id = match case.at("version")?.number()? {
        1 => version_1(&case.at("compose_hash")?.array()?),
        2 => {
            let app_id = AppId::try_from(case.at("app_id")?.bytes()?.as_slice())?;
            let provider = case.at("key_provider")?;
            let key_provider: KeyProvider = serde_json::from_value(provider.plain())?;
            provider.is_text(key_provider.name())?;
            let provider_id = case.at("key_provider_id")?.bytes()?;
            version_2(&case.at("compose_hash")?.array()?, &app_id, key_provider, &provider_id)
        }
        3 => {
            let text = case.at("document")?.text()?;
            let document = MrConfigDocument::parse(text)?;
            case.at("document")?.is_text(&document.to_text())?;
            case.at("snp_host_data")?.is_bytes(host_data(text))?;
            version_3(text)
        }
        other => return Err(Failure(format!("unknown version {other}"))),
    };
    case.at("mr_config_id")?.is_bytes(id)
}
