//! The decoded form of an attestation, for every file with one.

use std::fmt::Display;

use kms_attest::evidence::{Evidence, Platform, TpmPlatform, TpmQuote, Wire};
use kms_attest::identity::{AppInfo, BootInfo, Registers};
use kms_attest::measurement::{EventVersion, RuntimeEvent, TdxEvent};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::json::{Check, Failure, Json, ensure};

/// Decodes an attestation and compares everything that the peer finds in it.
pub(super) fn check_decoded(encoded: &[u8], expected: &Json) -> Check<Evidence> {
    let evidence = Evidence::decode(encoded)?;
    expected.at("wire")?.is_text(match evidence.wire {
        Wire::V0 => "v0-scale",
        Wire::V1 => "v1-msgpack",
    })?;
    expected.at("reencodes_identically")?.is_bool(evidence.encode() == encoded)?;
    let stripped = evidence.stripped();
    expected.at("stripped")?.is_bytes(stripped.encode())?;
    ensure!(stripped.stripped() == stripped, "stripping again changes it");
    expected.at("v1_msgpack")?.is_bytes(evidence.to_v1_bytes())?;
    is_v0_form(expected.at("v0_scale")?, &evidence)?;
    expected.at("report_data")?.is_bytes(evidence.report_data()?.0)?;
    let events =
        expected.at("runtime_events")?.list()?.iter().map(runtime_event).collect::<Check<Vec<_>>>()?;
    ensure!(events == evidence.stack.runtime_events, "{}: other runtime events", expected.path());
    expected.at("config")?.is_text(&evidence.stack.config)?;
    is_optional_text(expected.at("report_data_payload")?, evidence.stack.report_data_payload.as_deref())?;
    is_platform(expected.at("platform")?, &evidence.platform)?;
    for (name, registers) in [
        ("app_info_unverified_runtime", Registers::RunTime),
        ("app_info_unverified_boottime", Registers::BootTime),
    ] {
        is_app_info(expected.at(name)?, evidence.unverified_app_info(registers))?;
    }
    Ok(evidence)
}

/// A form, or an error where SCALE cannot say what the evidence says: then nothing writes it.
fn is_v0_form(expected: &Json, evidence: &Evidence) -> Check {
    let Some(error) = expected.maybe("error") else {
        return expected.is_bytes(evidence.to_v0_bytes()?);
    };
    error.text()?;
    let lossy = Evidence::decode(&evidence.to_v0_bytes()?)?;
    ensure!(lossy.stack != evidence.stack, "{}: ours can say it in SCALE", expected.path());
    let relabelled = Evidence { wire: Wire::V0, ..evidence.clone() };
    ensure!(relabelled.encode() == evidence.to_v1_bytes(), "{}: ours writes SCALE", expected.path());
    Ok(())
}

/// A runtime event: name, payload and version.
pub(super) fn runtime_event(expected: &Json) -> Check<RuntimeEvent> {
    Ok(RuntimeEvent {
        event: expected.at("event")?.text()?.to_owned(),
        payload: expected.at("payload")?.bytes()?,
        version: version(expected.at("version")?)?,
    })
}

/// An entry of an event log, with `null` for no preimage.
pub(super) fn tdx_event(expected: &Json) -> Check<TdxEvent> {
    Ok(TdxEvent {
        imr: u32::try_from(expected.at("imr")?.number()?)?,
        event_type: u32::try_from(expected.at("event_type")?.number()?)?,
        digest: expected.at("digest")?.bytes()?,
        event: expected.at("event")?.text()?.to_owned(),
        event_payload: expected.at("event_payload")?.bytes()?,
        version: version(expected.at("version")?)?,
        preimage: match expected.at("preimage")? {
            preimage if preimage.is_null() => None,
            preimage => Some(preimage.text()?.to_owned()),
        },
    })
}

fn version(expected: &Json) -> Check<EventVersion> {
    let number = expected.number()?;
    EventVersion::from_number(number).ok_or_else(|| Failure(format!("{}: no such version", expected.path())))
}

/// Compares an event log entry by entry.
pub(super) fn is_event_log(expected: &Json, ours: &[TdxEvent]) -> Check {
    let expected = expected.list()?;
    ensure!(expected.len() == ours.len(), "{} events are expected, ours are {}", expected.len(), ours.len());
    for (expected, ours) in expected.iter().zip(ours) {
        ensure!(tdx_event(expected)? == *ours, "{}: ours is {ours:?}", expected.path());
    }
    Ok(())
}

fn is_optional_text(expected: &Json, ours: Option<&str>) -> Check {
    match ours {
        Some(ours) => expected.is_text(ours),
        None => {
            ensure!(expected.is_null(), "{}: ours has none", expected.path());
            Ok(())
        }
    }
}

fn is_platform(expected: &Json, platform: &Platform) -> Check {
    expected.at("kind")?.is_text(platform.kind())?;
    let document = |name: &str, bytes: &[u8]| {
        expected.at(&format!("{name}_len"))?.is_number(bytes.len())?;
        expected.at(&format!("{name}_sha256"))?.is_bytes(Sha256::digest(bytes))
    };
    match platform {
        Platform::Tdx(tdx) => {
            document("quote", &tdx.quote)?;
            is_event_log(expected.at("event_log")?, &tdx.event_log)
        }
        Platform::GcpTdx { tdx, tpm } => {
            document("quote", &tdx.quote)?;
            is_event_log(expected.at("event_log")?, &tdx.event_log)?;
            expected.at("tpm_quote_json")?.is_json(&tpm_quote(tpm))
        }
        Platform::NitroEnclave { nsm_quote } => document("nsm_quote", nsm_quote),
        Platform::AwsNitroTpm { attestation_doc } => document("attestation_doc", attestation_doc),
        Platform::SevSnp { report, cert_chain, mr_config } => {
            document("report", report)?;
            let lengths: Vec<_> = cert_chain.iter().map(Vec::len).collect();
            expected.at("cert_chain_lens")?.is_json(&json!(lengths))?;
            expected.at("mr_config")?.is_text(mr_config)
        }
    }
}

fn tpm_quote(tpm: &TpmQuote) -> serde_json::Value {
    let platform = match tpm.platform {
        TpmPlatform::Dstack => "dstack",
        TpmPlatform::Gcp => "gcp",
        TpmPlatform::NitroEnclave => "nitroenclave",
        TpmPlatform::AwsEc2 => "aws-ec2",
    };
    let values = tpm
        .pcr_values
        .iter()
        .map(|pcr| json!({"index": pcr.index, "algorithm": pcr.algorithm, "value": hex::encode(&pcr.value)}));
    let events = tpm
        .event_log
        .iter()
        .map(|event| json!({"pcr_index": event.pcr_index, "digest": hex::encode(&event.digest)}));
    json!({
        "message": hex::encode(&tpm.message),
        "signature": hex::encode(&tpm.signature),
        "pcr_values": values.collect::<Vec<_>>(),
        "ak_cert": hex::encode(&tpm.ak_cert),
        "platform": platform,
        "event_log": events.collect::<Vec<_>>(),
    })
}

/// Compares app info, or that there is none on both sides.
pub(super) fn is_app_info<E: Display>(expected: &Json, ours: Result<AppInfo, E>) -> Check {
    match (expected.maybe("error"), ours) {
        (None, Ok(ours)) => expected.is_json(&serde_json::to_value(ours)?),
        (None, Err(error)) => Err(Failure(format!("{}: ours is the error {error}", expected.path()))),
        (Some(error), Err(_)) => error.text().map(drop),
        (Some(_), Ok(_)) => Err(Failure(format!("{}: ours is no error", expected.path()))),
    }
}

/// The peer's request to a backend about evidence that ours decodes but does not verify, with fields of any width.
pub(super) fn boot_info(
    app_info: AppInfo,
    tee_variant: &str,
    tcb_status: &str,
    advisory_ids: Vec<String>,
) -> BootInfo {
    BootInfo {
        tee_variant: tee_variant.to_owned(),
        mr_aggregated: app_info.mr_aggregated.to_vec(),
        os_image_hash: app_info.os_image_hash,
        mr_system: app_info.mr_system.to_vec(),
        app_id: app_info.app_id,
        compose_hash: app_info.compose_hash,
        instance_id: app_info.instance_id,
        device_id: app_info.device_id,
        key_provider_info: app_info.key_provider_info,
        tcb_status: tcb_status.to_owned(),
        advisory_ids,
    }
}

/// Compares boot info as an object, and as the text that a backend gets.
pub(super) fn is_boot_info(expected: &Json, ours: &BootInfo) -> Check {
    expected.at("boot_info")?.is_json(&serde_json::to_value(ours)?)?;
    expected.at("boot_info_json_text")?.is_text(&serde_json::to_string(ours)?)
}
