//! Writes evidence V1 exactly as the peer does: keys in a fixed order, some byte fields as bin and some as
//! arrays of numbers.

use crate::codec::pack::Writer;
use crate::evidence::{Evidence, Platform, Stack, Tdx, TpmPlatform, TpmQuote};
use crate::measurement::{EventVersion, RuntimeEvent, TdxEvent};

/// The evidence as a map.
pub(crate) fn write(evidence: &Evidence) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(3).text("version").number(1);
    writer.text("platform").map(2).text("kind").text(evidence.platform.kind()).text("data");
    write_platform(&mut writer, &evidence.platform);
    writer.text("stack").map(2).text("kind").text(evidence.stack.kind()).text("data");
    write_stack(&mut writer, &evidence.stack);
    writer.into_bytes()
}

fn write_platform(writer: &mut Writer, platform: &Platform) {
    match platform {
        Platform::Tdx(tdx) => write_tdx(writer.map(2), tdx),
        Platform::GcpTdx { tdx, tpm } => {
            write_tdx(writer.map(3), tdx);
            write_tpm_quote(writer.text("tpm_quote"), tpm);
        }
        Platform::NitroEnclave { nsm_quote } => {
            writer.map(1).text("nsm_quote").numbers(nsm_quote);
        }
        Platform::SevSnp { report, cert_chain, mr_config } => {
            writer
                .map(3)
                .text("report")
                .numbers(report)
                .text("cert_chain")
                .sequence(cert_chain, |writer, certificate| {
                    writer.numbers(certificate);
                })
                .text("mr_config")
                .text(mr_config);
        }
        Platform::AwsNitroTpm { attestation_doc } => {
            writer.map(1).text("attestation_doc").numbers(attestation_doc);
        }
    }
}

fn write_tdx(writer: &mut Writer, tdx: &Tdx) {
    writer.text("quote").numbers(&tdx.quote).text("event_log").sequence(&tdx.event_log, write_tdx_event);
}

fn write_tdx_event(writer: &mut Writer, entry: &TdxEvent) {
    let optional = usize::from(entry.version != EventVersion::V1) + usize::from(entry.preimage.is_some());
    writer
        .map(5 + optional)
        .text("imr")
        .number(entry.imr.into())
        .text("event_type")
        .number(entry.event_type.into())
        .text("digest")
        .bin(&entry.digest)
        .text("event")
        .text(&entry.event)
        .text("event_payload")
        .bin(&entry.event_payload);
    write_version(writer, entry.version);
    if let Some(preimage) = &entry.preimage {
        writer.text("preimage").text(preimage);
    }
}

fn write_runtime_event(writer: &mut Writer, event: &RuntimeEvent) {
    writer
        .map(2 + usize::from(event.version != EventVersion::V1))
        .text("event")
        .text(&event.event)
        .text("payload")
        .bin(&event.payload);
    write_version(writer, event.version);
}

/// The version is omitted if it is 1.
fn write_version(writer: &mut Writer, version: EventVersion) {
    if version != EventVersion::V1 {
        writer.text("version").number(version.number());
    }
}

fn write_tpm_quote(writer: &mut Writer, tpm: &TpmQuote) {
    writer
        .map(6)
        .text("message")
        .bin(&tpm.message)
        .text("signature")
        .bin(&tpm.signature)
        .text("pcr_values")
        .sequence(&tpm.pcr_values, |writer, pcr| {
            writer.map(3).text("index").number(pcr.index.into());
            writer.text("algorithm").text(&pcr.algorithm).text("value").bin(&pcr.value);
        })
        .text("ak_cert")
        .bin(&tpm.ak_cert)
        .text("platform")
        .text(match tpm.platform {
            TpmPlatform::Dstack => "dstack",
            TpmPlatform::Gcp => "gcp",
            TpmPlatform::NitroEnclave => "nitroenclave",
            TpmPlatform::AwsEc2 => "aws-ec2",
        })
        .text("event_log")
        .sequence(&tpm.event_log, |writer, event| {
            writer.map(2).text("pcr_index").number(event.pcr_index.into());
            writer.text("digest").bin(&event.digest);
        });
}

fn write_stack(writer: &mut Writer, stack: &Stack) {
    writer
        .map(3 + usize::from(stack.report_data_payload.is_some()))
        .text("report_data")
        .numbers(&stack.report_data)
        .text("runtime_events")
        .sequence(&stack.runtime_events, write_runtime_event)
        .text("config")
        .text(&stack.config);
    if let Some(payload) = &stack.report_data_payload {
        writer.text("report_data_payload").text(payload);
    }
}
