//! Evidence V0: SCALE after a zero byte, without the version and preimage of events.

use super::{Evidence, MAX_ELEMENTS, PcrValue, Platform, Stack, Tdx, TpmEvent, TpmPlatform, TpmQuote, Wire};
use crate::binding::ReportData;
use crate::codec::scale::{Reader, Writer};
use crate::codec::{FieldError, Problem};
use crate::measurement::{EventVersion, RuntimeEvent, TdxEvent};

const TPM_PLATFORMS: [TpmPlatform; 4] =
    [TpmPlatform::Dstack, TpmPlatform::Gcp, TpmPlatform::NitroEnclave, TpmPlatform::AwsEc2];

/// Reads evidence after the first byte; returns it with the bytes after it.
pub(super) fn read(body: &[u8]) -> Result<(Evidence, &[u8]), FieldError> {
    let mut reader = Reader::new(body);
    let platform = read_platform(&mut reader)?;
    let runtime_events = reader.sequence(MAX_ELEMENTS, "runtime_events", read_runtime_event)?;
    let report_data = reader.array::<64>("report_data")?.to_vec();
    let config = reader.text("config")?.to_owned();
    let stack = Stack { report_data, runtime_events, config, report_data_payload: None };
    Ok((Evidence { wire: Wire::V0, platform, stack }, reader.rest()))
}

fn read_platform(reader: &mut Reader<'_>) -> Result<Platform, FieldError> {
    Ok(match reader.u8("quote")? {
        0 => Platform::Tdx(read_tdx(reader)?),
        1 => Platform::GcpTdx { tdx: read_tdx(reader)?, tpm: read_tpm_quote(reader)? },
        2 => Platform::NitroEnclave { nsm_quote: reader.bytes("quote.nsm_quote")?.to_vec() },
        3 => Platform::SevSnp {
            report: reader.bytes("quote.report")?.to_vec(),
            cert_chain: reader.sequence(MAX_ELEMENTS, "quote.cert_chain", |reader| {
                reader.bytes("quote.cert_chain").map(<[u8]>::to_vec)
            })?,
            mr_config: reader.text("quote.mr_config")?.to_owned(),
        },
        4 => Platform::AwsNitroTpm { attestation_doc: reader.bytes("quote.attestation_doc")?.to_vec() },
        unknown => return Err(Problem::UnknownIndex(unknown).in_field("quote")),
    })
}

fn read_tdx(reader: &mut Reader<'_>) -> Result<Tdx, FieldError> {
    Ok(Tdx {
        quote: reader.bytes("quote.quote")?.to_vec(),
        event_log: reader.sequence(MAX_ELEMENTS, "quote.event_log", read_tdx_event)?,
    })
}

fn read_tdx_event(reader: &mut Reader<'_>) -> Result<TdxEvent, FieldError> {
    Ok(TdxEvent {
        imr: reader.u32("quote.event_log.imr")?,
        event_type: reader.u32("quote.event_log.event_type")?,
        digest: reader.bytes("quote.event_log.digest")?.to_vec(),
        event: reader.text("quote.event_log.event")?.to_owned(),
        event_payload: reader.bytes("quote.event_log.event_payload")?.to_vec(),
        version: EventVersion::V1,
        preimage: None,
    })
}

fn read_runtime_event(reader: &mut Reader<'_>) -> Result<RuntimeEvent, FieldError> {
    Ok(RuntimeEvent {
        event: reader.text("runtime_events.event")?.to_owned(),
        payload: reader.bytes("runtime_events.payload")?.to_vec(),
        version: EventVersion::V1,
    })
}

fn read_tpm_quote(reader: &mut Reader<'_>) -> Result<TpmQuote, FieldError> {
    let message = reader.bytes("quote.tpm_quote.message")?.to_vec();
    let signature = reader.bytes("quote.tpm_quote.signature")?.to_vec();
    let pcr_values = reader.sequence(MAX_ELEMENTS, "quote.tpm_quote.pcr_values", |reader| {
        Ok(PcrValue {
            index: reader.u32("quote.tpm_quote.pcr_values.index")?,
            algorithm: reader.text("quote.tpm_quote.pcr_values.algorithm")?.to_owned(),
            value: reader.bytes("quote.tpm_quote.pcr_values.value")?.to_vec(),
        })
    })?;
    let ak_cert = reader.bytes("quote.tpm_quote.ak_cert")?.to_vec();
    let index = reader.u8("quote.tpm_quote.platform")?;
    let platform = *TPM_PLATFORMS
        .get(usize::from(index))
        .ok_or_else(|| Problem::UnknownIndex(index).in_field("quote.tpm_quote.platform"))?;
    let event_log = reader.sequence(MAX_ELEMENTS, "quote.tpm_quote.event_log", |reader| {
        Ok(TpmEvent {
            pcr_index: reader.u32("quote.tpm_quote.event_log.pcr_index")?,
            digest: reader.bytes("quote.tpm_quote.event_log.digest")?.to_vec(),
        })
    })?;
    Ok(TpmQuote { message, signature, pcr_values, ak_cert, platform, event_log })
}

/// Writes the evidence, including the first byte.
pub(super) fn write(evidence: &Evidence, report_data: &ReportData) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(0);
    write_platform(&mut writer, &evidence.platform);
    writer
        .sequence(&evidence.stack.runtime_events, |writer, event| {
            writer.text(&event.event).bytes(&event.payload);
        })
        .raw(&report_data.0)
        .text(&evidence.stack.config);
    writer.into_bytes()
}

fn write_platform(writer: &mut Writer, platform: &Platform) {
    match platform {
        Platform::Tdx(tdx) => write_tdx(writer.u8(0), tdx),
        Platform::GcpTdx { tdx, tpm } => {
            write_tdx(writer.u8(1), tdx);
            write_tpm_quote(writer, tpm);
        }
        Platform::NitroEnclave { nsm_quote } => {
            writer.u8(2).bytes(nsm_quote);
        }
        Platform::SevSnp { report, cert_chain, mr_config } => {
            writer
                .u8(3)
                .bytes(report)
                .sequence(cert_chain, |writer, certificate| {
                    writer.bytes(certificate);
                })
                .text(mr_config);
        }
        Platform::AwsNitroTpm { attestation_doc } => {
            writer.u8(4).bytes(attestation_doc);
        }
    }
}

fn write_tdx(writer: &mut Writer, tdx: &Tdx) {
    writer.bytes(&tdx.quote).sequence(&tdx.event_log, |writer, entry| {
        writer
            .u32(entry.imr)
            .u32(entry.event_type)
            .bytes(&entry.digest)
            .text(&entry.event)
            .bytes(&entry.event_payload);
    });
}

fn write_tpm_quote(writer: &mut Writer, tpm: &TpmQuote) {
    writer
        .bytes(&tpm.message)
        .bytes(&tpm.signature)
        .sequence(&tpm.pcr_values, |writer, pcr| {
            writer.u32(pcr.index).text(&pcr.algorithm).bytes(&pcr.value);
        })
        .bytes(&tpm.ak_cert)
        .u8(match tpm.platform {
            TpmPlatform::Dstack => 0,
            TpmPlatform::Gcp => 1,
            TpmPlatform::NitroEnclave => 2,
            TpmPlatform::AwsEc2 => 3,
        })
        .sequence(&tpm.event_log, |writer, event| {
            writer.u32(event.pcr_index).bytes(&event.digest);
        });
}
