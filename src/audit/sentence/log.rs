//! Sentences about the process, its log and OS images.

use std::fmt::Write as _;

use super::short;
use crate::audit::printable;
use crate::audit::record::Record;

pub(super) fn started(record: &Record) -> String {
    format!(
        "KMS version {} started, phase {}; relaxed: {}",
        record.value("version"),
        record.value("phase"),
        record.value("posture")
    )
}

pub(super) fn stopped() -> String {
    "KMS stopped".to_owned()
}

pub(super) fn log_began() -> String {
    "the log begins here, but the root keys are older than it".to_owned()
}

pub(super) fn log_renamed(record: &Record) -> String {
    format!(
        "the log is signed under a new name; as {} it had signed {} records",
        record.value("previous"),
        record.value("size")
    )
}

pub(super) fn log_key_changed(record: &Record) -> String {
    format!(
        "the log is signed with a new key, {}, and was with {}",
        record.value("key"),
        record.value("previous")
    )
}

pub(super) fn imported(record: &Record) -> String {
    format!(
        "{} records of an older version, up to {} bytes, were verified and sealed",
        record.value("lines"),
        record.value("bytes")
    )
}

pub(super) fn segment_archived(record: &Record) -> String {
    format!(
        "a closed file was moved away, up to record {}: {} bytes, SHA-256 {}",
        record.value("last"),
        record.value("bytes"),
        record.value("sha256")
    )
}

pub(super) fn image_download_started(record: &Record) -> String {
    format!("download of OS image {} started", record.value("image"))
}

pub(super) fn image_download_progress(record: &Record) -> String {
    match record.fields.get("percent") {
        Some(percent) => format!("download of OS image {}: {percent} %", record.value("image")),
        None => format!("download of OS image {}: {} bytes", record.value("image"), record.value("bytes")),
    }
}

pub(super) fn image_downloaded(record: &Record) -> String {
    format!("OS image {} downloaded in {} s", record.value("image"), record.value("seconds"))
}

pub(super) fn image_download_failed(record: &Record) -> String {
    format!("download of OS image {} failed{}", record.value("image"), record.because())
}

pub(super) fn recovered(record: &Record) -> String {
    format!(
        "a crash had left an unfinished record of {} bytes, which was cut off; it was never acknowledged",
        record.value("dropped_bytes")
    )
}

pub(super) fn resumed(record: &Record) -> String {
    format!("records are written again after {} s ({})", record.value("seconds"), record.value("reason"))
}

pub(super) fn segment_began(record: &Record) -> String {
    let mut text = format!(
        "the log goes on in a new file after record {} ({})",
        record.value("after"),
        record.value("reason")
    );
    if let Some(bytes) = record.fields.get("damaged_bytes") {
        let _ = write!(text, "; {bytes} bytes at the end of the old one are damaged");
    }
    text
}

pub(super) fn clock_floor_lowered(record: &Record) -> String {
    format!(
        "the clock floor was lowered from {} to {} (Unix seconds) by {}{}",
        record.value("from"),
        record.value("to"),
        record.by(),
        record.because()
    )
}

pub(super) fn suppressed(record: &Record) -> String {
    let from = match record.source() {
        "kms" => String::new(),
        outside => format!("[{outside}] "),
    };
    format!("{from}{} events came too fast to be recorded", record.value("events"))
}

pub(super) fn reported(record: &Record) -> String {
    match record.text("by") {
        "" => format!("[{}] {}", record.source(), record.message()),
        by => format!("[{}, {}] {}", record.source(), short(&printable(by)), record.message()),
    }
}

pub(super) fn caches_cleared(record: &Record) -> String {
    format!("caches of OS images were cleared by {}", record.by())
}
