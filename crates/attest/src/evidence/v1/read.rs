//! Reads evidence V1: keys in any order, unknown keys are skipped, and bytes are accepted in every form that
//! the peer accepts.

use crate::codec::pack::{Known, Reader, TextForm, required, set};
use crate::codec::{FieldError, Problem};
use crate::evidence::{
    Evidence, EvidenceError, MAX_ELEMENTS, PcrValue, Platform, Stack, Tdx, TpmEvent, TpmPlatform, TpmQuote,
    Wire,
};
use crate::measurement::{EventVersion, RuntimeEvent, TdxEvent};

type Read<T> = Result<T, FieldError>;

/// Reads evidence; returns it with the bytes after it.
pub(crate) fn read(bytes: &[u8]) -> Result<(Evidence, &[u8]), EvidenceError> {
    let mut reader = Reader::new(bytes);
    let (mut version, mut platform, mut stack) = (None, None, None);
    reader
        .map("attestation", |reader, key| match key {
            "version" => set(&mut version, "version", reader.unsigned("version")?),
            "platform" => set(&mut platform, "platform", read_platform(reader)?),
            "stack" => set(&mut stack, "stack", read_stack(reader)?),
            _ => Ok(Known::No),
        })
        .map_err(EvidenceError::V1)?;
    match required(version, "version").map_err(EvidenceError::V1)? {
        1 => {}
        other => return Err(EvidenceError::UnsupportedVersion(other)),
    }
    let platform = required(platform, "platform").map_err(EvidenceError::V1)?;
    let stack = required(stack, "stack").map_err(EvidenceError::V1)?;
    Ok((Evidence { wire: Wire::V1, platform, stack }, reader.rest()))
}

/// Reads `{"kind": …, "data": {…}}`. `kind` must be first, because it determines how to read `data`.
fn read_tagged<'a, T>(
    reader: &mut Reader<'a>,
    [field, kind_field, data_field]: [&'static str; 3],
    mut read_data: impl FnMut(&mut Reader<'a>, &str) -> Read<T>,
) -> Read<T> {
    let (mut kind, mut data) = (None, None);
    reader.map(field, |reader, key| match key {
        "kind" => set(&mut kind, kind_field, reader.text(kind_field)?),
        "data" => {
            let kind = kind.ok_or_else(|| Problem::DataBeforeKind.in_field(field))?;
            set(&mut data, data_field, read_data(reader, kind)?)
        }
        _ => Ok(Known::No),
    })?;
    required(kind, kind_field)?;
    required(data, data_field)
}

fn read_platform(reader: &mut Reader<'_>) -> Read<Platform> {
    let fields = ["platform", "platform.kind", "platform.data"];
    read_tagged(reader, fields, |reader, kind| match kind {
        "tdx" => {
            let (tdx, _) = read_tdx(reader, kind)?;
            Ok(Platform::Tdx(tdx))
        }
        "gcp-tdx" => {
            let (tdx, tpm) = read_tdx(reader, kind)?;
            Ok(Platform::GcpTdx { tdx, tpm: required(tpm, "platform.data.tpm_quote")? })
        }
        "nitro-enclave" => {
            let nsm_quote = read_only(reader, "nsm_quote", "platform.data.nsm_quote")?;
            Ok(Platform::NitroEnclave { nsm_quote })
        }
        "aws-nitro-tpm" => {
            let attestation_doc = read_only(reader, "attestation_doc", "platform.data.attestation_doc")?;
            Ok(Platform::AwsNitroTpm { attestation_doc })
        }
        "sev-snp" => read_sev_snp(reader),
        unknown => Err(Problem::UnknownName(shortened(unknown)).in_field("platform.kind")),
    })
}

/// A map of which one byte field is used.
fn read_only(reader: &mut Reader<'_>, name: &str, field: &'static str) -> Read<Vec<u8>> {
    let mut bytes = None;
    reader.map("platform.data", |reader, key| {
        if key == name { set(&mut bytes, field, reader.bytes(TextForm::None, field)?) } else { Ok(Known::No) }
    })?;
    required(bytes, field)
}

/// The data of `tdx`, or with a TPM quote of `gcp-tdx`.
fn read_tdx(reader: &mut Reader<'_>, kind: &str) -> Read<(Tdx, Option<TpmQuote>)> {
    const QUOTE: &str = "platform.data.quote";
    const EVENT_LOG: &str = "platform.data.event_log";
    const TPM_QUOTE: &str = "platform.data.tpm_quote";
    let (mut quote, mut event_log, mut tpm) = (None, None, None);
    reader.map("platform.data", |reader, key| match key {
        "quote" => set(&mut quote, QUOTE, reader.bytes(TextForm::None, QUOTE)?),
        "event_log" => {
            set(&mut event_log, EVENT_LOG, reader.sequence(MAX_ELEMENTS, EVENT_LOG, read_tdx_event)?)
        }
        "tpm_quote" if kind == "gcp-tdx" => set(&mut tpm, TPM_QUOTE, read_tpm_quote(reader)?),
        _ => Ok(Known::No),
    })?;
    Ok((Tdx { quote: required(quote, QUOTE)?, event_log: required(event_log, EVENT_LOG)? }, tpm))
}

fn read_sev_snp(reader: &mut Reader<'_>) -> Read<Platform> {
    const REPORT: &str = "platform.data.report";
    const CHAIN: &str = "platform.data.cert_chain";
    const MR_CONFIG: &str = "platform.data.mr_config";
    let (mut report, mut cert_chain, mut mr_config) = (None, None, None);
    reader.map("platform.data", |reader, key| match key {
        "report" => set(&mut report, REPORT, reader.bytes(TextForm::None, REPORT)?),
        "cert_chain" => {
            let chain = reader.sequence(MAX_ELEMENTS, CHAIN, |reader| reader.bytes(TextForm::None, CHAIN))?;
            set(&mut cert_chain, CHAIN, chain)
        }
        "mr_config" => set(&mut mr_config, MR_CONFIG, reader.text(MR_CONFIG)?.to_owned()),
        _ => Ok(Known::No),
    })?;
    Ok(Platform::SevSnp {
        report: required(report, REPORT)?,
        cert_chain: required(cert_chain, CHAIN)?,
        mr_config: required(mr_config, MR_CONFIG)?,
    })
}

fn read_event_version(reader: &mut Reader<'_>, field: &'static str) -> Read<EventVersion> {
    let number = reader.unsigned(field)?;
    EventVersion::from_number(number).ok_or_else(|| Problem::UnknownEventVersion(number).in_field(field))
}

fn read_tdx_event(reader: &mut Reader<'_>) -> Read<TdxEvent> {
    const IMR: &str = "platform.data.event_log.imr";
    const EVENT_TYPE: &str = "platform.data.event_log.event_type";
    const DIGEST: &str = "platform.data.event_log.digest";
    const EVENT: &str = "platform.data.event_log.event";
    const PAYLOAD: &str = "platform.data.event_log.event_payload";
    const VERSION: &str = "platform.data.event_log.version";
    const PREIMAGE: &str = "platform.data.event_log.preimage";
    let (mut imr, mut event_type, mut digest, mut event) = (None, None, None, None);
    let (mut payload, mut version, mut preimage) = (None, None, None);
    reader.map("platform.data.event_log", |reader, key| match key {
        "imr" => set(&mut imr, IMR, reader.u32(IMR)?),
        "event_type" => set(&mut event_type, EVENT_TYPE, reader.u32(EVENT_TYPE)?),
        "digest" => set(&mut digest, DIGEST, reader.bytes(TextForm::Hex, DIGEST)?),
        "event" => set(&mut event, EVENT, reader.text(EVENT)?.to_owned()),
        "event_payload" => set(&mut payload, PAYLOAD, reader.bytes(TextForm::Hex, PAYLOAD)?),
        "version" => set(&mut version, VERSION, read_event_version(reader, VERSION)?),
        "preimage" => {
            let text = if reader.nil() { None } else { Some(reader.text(PREIMAGE)?.to_owned()) };
            set(&mut preimage, PREIMAGE, text)
        }
        _ => Ok(Known::No),
    })?;
    Ok(TdxEvent {
        imr: required(imr, IMR)?,
        event_type: required(event_type, EVENT_TYPE)?,
        digest: digest.unwrap_or_default(),
        event: required(event, EVENT)?,
        event_payload: required(payload, PAYLOAD)?,
        version: version.unwrap_or_default(),
        preimage: preimage.flatten(),
    })
}

fn read_runtime_event(reader: &mut Reader<'_>) -> Read<RuntimeEvent> {
    const EVENT: &str = "stack.data.runtime_events.event";
    const PAYLOAD: &str = "stack.data.runtime_events.payload";
    const VERSION: &str = "stack.data.runtime_events.version";
    let (mut event, mut payload, mut version) = (None, None, None);
    reader.map("stack.data.runtime_events", |reader, key| match key {
        "event" => set(&mut event, EVENT, reader.text(EVENT)?.to_owned()),
        "payload" => set(&mut payload, PAYLOAD, reader.bytes(TextForm::Base64, PAYLOAD)?),
        "version" => set(&mut version, VERSION, read_event_version(reader, VERSION)?),
        _ => Ok(Known::No),
    })?;
    Ok(RuntimeEvent {
        event: required(event, EVENT)?,
        payload: required(payload, PAYLOAD)?,
        version: version.unwrap_or_default(),
    })
}

fn read_tpm_quote(reader: &mut Reader<'_>) -> Read<TpmQuote> {
    const MESSAGE: &str = "platform.data.tpm_quote.message";
    const SIGNATURE: &str = "platform.data.tpm_quote.signature";
    const PCR_VALUES: &str = "platform.data.tpm_quote.pcr_values";
    const AK_CERT: &str = "platform.data.tpm_quote.ak_cert";
    const PLATFORM: &str = "platform.data.tpm_quote.platform";
    const EVENT_LOG: &str = "platform.data.tpm_quote.event_log";
    let (mut message, mut signature, mut pcr_values) = (None, None, None);
    let (mut ak_cert, mut platform, mut event_log) = (None, None, None);
    reader.map("platform.data.tpm_quote", |reader, key| match key {
        "message" => set(&mut message, MESSAGE, reader.bytes(TextForm::Hex, MESSAGE)?),
        "signature" => set(&mut signature, SIGNATURE, reader.bytes(TextForm::Hex, SIGNATURE)?),
        "pcr_values" => {
            set(&mut pcr_values, PCR_VALUES, reader.sequence(MAX_ELEMENTS, PCR_VALUES, read_pcr_value)?)
        }
        "ak_cert" => set(&mut ak_cert, AK_CERT, reader.bytes(TextForm::Hex, AK_CERT)?),
        "platform" => set(
            &mut platform,
            PLATFORM,
            match reader.text(PLATFORM)? {
                "dstack" => TpmPlatform::Dstack,
                "gcp" => TpmPlatform::Gcp,
                "nitroenclave" => TpmPlatform::NitroEnclave,
                "aws-ec2" => TpmPlatform::AwsEc2,
                unknown => return Err(Problem::UnknownName(shortened(unknown)).in_field(PLATFORM)),
            },
        ),
        "event_log" => {
            set(&mut event_log, EVENT_LOG, reader.sequence(MAX_ELEMENTS, EVENT_LOG, read_tpm_event)?)
        }
        _ => Ok(Known::No),
    })?;
    Ok(TpmQuote {
        message: required(message, MESSAGE)?,
        signature: required(signature, SIGNATURE)?,
        pcr_values: required(pcr_values, PCR_VALUES)?,
        ak_cert: required(ak_cert, AK_CERT)?,
        platform: required(platform, PLATFORM)?,
        event_log: required(event_log, EVENT_LOG)?,
    })
}

fn read_pcr_value(reader: &mut Reader<'_>) -> Read<PcrValue> {
    const INDEX: &str = "platform.data.tpm_quote.pcr_values.index";
    const ALGORITHM: &str = "platform.data.tpm_quote.pcr_values.algorithm";
    const VALUE: &str = "platform.data.tpm_quote.pcr_values.value";
    let (mut index, mut algorithm, mut value) = (None, None, None);
    reader.map("platform.data.tpm_quote.pcr_values", |reader, key| match key {
        "index" => set(&mut index, INDEX, reader.u32(INDEX)?),
        "algorithm" => set(&mut algorithm, ALGORITHM, reader.text(ALGORITHM)?.to_owned()),
        "value" => set(&mut value, VALUE, reader.bytes(TextForm::Hex, VALUE)?),
        _ => Ok(Known::No),
    })?;
    Ok(PcrValue {
        index: required(index, INDEX)?,
        algorithm: required(algorithm, ALGORITHM)?,
        value: required(value, VALUE)?,
    })
}

fn read_tpm_event(reader: &mut Reader<'_>) -> Read<TpmEvent> {
    const PCR_INDEX: &str = "platform.data.tpm_quote.event_log.pcr_index";
    const DIGEST: &str = "platform.data.tpm_quote.event_log.digest";
    let (mut pcr_index, mut digest) = (None, None);
    reader.map("platform.data.tpm_quote.event_log", |reader, key| match key {
        "pcr_index" => set(&mut pcr_index, PCR_INDEX, reader.u32(PCR_INDEX)?),
        "digest" => set(&mut digest, DIGEST, reader.bytes(TextForm::Hex, DIGEST)?),
        _ => Ok(Known::No),
    })?;
    Ok(TpmEvent { pcr_index: required(pcr_index, PCR_INDEX)?, digest: required(digest, DIGEST)? })
}

fn read_stack(reader: &mut Reader<'_>) -> Read<Stack> {
    let fields = ["stack", "stack.kind", "stack.data"];
    read_tagged(reader, fields, |reader, kind| match kind {
        "dstack" | "dstack-pod" => read_stack_data(reader, kind),
        unknown => Err(Problem::UnknownName(shortened(unknown)).in_field("stack.kind")),
    })
}

fn read_stack_data(reader: &mut Reader<'_>, kind: &str) -> Read<Stack> {
    const REPORT_DATA: &str = "stack.data.report_data";
    const EVENTS: &str = "stack.data.runtime_events";
    const CONFIG: &str = "stack.data.config";
    const PAYLOAD: &str = "stack.data.report_data_payload";
    let (mut report_data, mut events, mut config, mut payload) = (None, None, None, None);
    reader.map("stack.data", |reader, key| match key {
        "report_data" => set(&mut report_data, REPORT_DATA, reader.bytes(TextForm::None, REPORT_DATA)?),
        "runtime_events" => {
            set(&mut events, EVENTS, reader.sequence(MAX_ELEMENTS, EVENTS, read_runtime_event)?)
        }
        "config" => set(&mut config, CONFIG, reader.text(CONFIG)?.to_owned()),
        "report_data_payload" if kind == "dstack-pod" => {
            set(&mut payload, PAYLOAD, reader.text(PAYLOAD)?.to_owned())
        }
        _ => Ok(Known::No),
    })?;
    if kind == "dstack-pod" && payload.is_none() {
        return Err(Problem::Missing.in_field(PAYLOAD));
    }
    Ok(Stack {
        report_data: required(report_data, REPORT_DATA)?,
        runtime_events: required(events, EVENTS)?,
        config: required(config, CONFIG)?,
        report_data_payload: payload,
    })
}

/// A name from outside, shortened for an error message.
fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}
