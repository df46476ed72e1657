//! The rule of serials: what a new bundle may be after those that were seen.

use kms_policy::bundle::{BundleDigest, Header};

use super::OfferError;
use crate::state::BundleRecord;

/// How much higher a serial may be than all that are known, so that one slip of a signer does not use up all numbers. Enough for
/// numbers made of a date and a time of day.
const MAX_STEP: u64 = 1 << 48;

/// What a bundle is to those that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is in force.
    InForce,
    /// It waits.
    Pending,
    /// Its serial is as high as any that is known.
    New,
}

/// Compares a bundle with what was seen. A known serial with another digest is a fork, and so is the next serial after a known
/// bundle if it names another one before it. Where serials between were not seen, nothing can be compared.
///
/// # Errors
/// [`OfferError::BelowMinimum`], [`OfferError::Rollback`], [`OfferError::Fork`], [`OfferError::TooFarAhead`]
pub(super) fn compare(
    record: &BundleRecord,
    minimum: u64,
    header: &Header,
    digest: BundleDigest,
) -> Result<Standing, OfferError> {
    let serial = header.serial();
    let digest = digest.to_string();
    let of_serial = |serial: u64| record.seen.iter().find(|seen| seen.serial == serial);
    if let Some(known) = of_serial(serial).filter(|known| known.digest != digest) {
        return Err(OfferError::Fork { serial, known: known.digest.clone() });
    }
    if let Some(before) = serial.checked_sub(1).and_then(of_serial)
        && header.previous().is_none_or(|previous| previous.to_string() != before.digest)
    {
        return Err(OfferError::Fork { serial, known: before.digest.clone() });
    }
    if serial < minimum {
        return Err(OfferError::BelowMinimum { serial, minimum });
    }
    let highest = highest(record);
    if serial < highest {
        return Err(OfferError::Rollback { serial, highest });
    }
    if serial - highest.max(minimum) > MAX_STEP {
        return Err(OfferError::TooFarAhead { serial, highest });
    }
    if record.in_force.as_ref() == Some(&digest) {
        return Ok(Standing::InForce);
    }
    if record.pending.as_ref() == Some(&digest) {
        return Ok(Standing::Pending);
    }
    Ok(Standing::New)
}

/// The highest serial that is known.
pub(super) fn highest(record: &BundleRecord) -> u64 {
    record.seen.iter().map(|seen| seen.serial).max().unwrap_or(0).max(record.floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kms_policy::bundle::MAX_SERIAL;

    use crate::state::SeenBundle;

    fn digest(byte: u8) -> BundleDigest {
        BundleDigest::parse(&hex::encode([byte; 32])).expect("hex")
    }

    fn header(serial: u64, previous: Option<u8>) -> Header {
        Header::new("prod", "default", serial, (1, 2), previous.map(digest)).expect("a header")
    }

    fn seen(serial: u64, byte: u8) -> SeenBundle {
        SeenBundle {
            serial,
            digest: digest(byte).to_string(),
            name: "prod".into(),
            signers: Vec::new(),
            expires: 2,
            received_at: 1,
            origin: "file".into(),
            activated_at: None,
            activated_by: None,
        }
    }

    #[test]
    fn serials_only_grow_and_contradictions_are_forks() {
        let record = BundleRecord {
            floor: 0,
            seen_by_fleet: 0,
            in_force: Some(digest(5).to_string()),
            pending: Some(digest(6).to_string()),
            fork: None,
            shadow: None,
            seen: vec![seen(6, 6), seen(5, 5), seen(3, 3)],
        };
        let of = |record: &BundleRecord, minimum, serial, byte, previous| match compare(
            record,
            minimum,
            &header(serial, previous),
            digest(byte),
        ) {
            Ok(Standing::InForce) => "in force".to_owned(),
            Ok(Standing::Pending) => "pending".to_owned(),
            Ok(Standing::New) => "new".to_owned(),
            Err(error) => error.code().to_owned(),
        };
        for (serial, byte, previous, expected) in [
            (7, 7, Some(6), "new"),
            (7, 7, Some(5), "bundle_forked"),
            // What comes in between was not seen.
            (9, 9, Some(8), "new"),
            (6, 6, Some(5), "pending"),
            (6, 16, Some(5), "bundle_forked"),
            (5, 5, Some(4), "bundle_serial_too_low"),
            (5, 15, Some(4), "bundle_forked"),
            (4, 4, Some(3), "bundle_serial_too_low"),
            (4, 4, Some(2), "bundle_forked"),
            (1, 1, None, "bundle_serial_too_low"),
        ] {
            assert_eq!(of(&record, 0, serial, byte, previous), expected, "{serial} {byte} {previous:?}");
        }
        let far = 6 + MAX_STEP;
        assert_eq!(of(&record, 0, far, 9, Some(8)), "new");
        assert_eq!(of(&record, 0, far + 1, 9, Some(8)), "bundle_serial_too_high");
        assert!(
            of(&record, 0, far + 1, 9, Some(8)) != "new" && MAX_STEP < MAX_SERIAL / 16,
            "a slip leaves room"
        );
        let alone = BundleRecord { pending: None, seen: vec![seen(5, 5)], ..record.clone() };
        assert_eq!(of(&alone, 0, 5, 5, Some(4)), "in force");
        assert_eq!(of(&alone, 6, 5, 5, Some(4)), "bundle_serial_too_low");
        let nothing = BundleRecord::default();
        assert_eq!(of(&nothing, 0, 1, 1, None), "new");
        assert_eq!(of(&nothing, 2, 1, 1, None), "bundle_serial_too_low");
        let floor = BundleRecord { floor: 7, ..nothing };
        assert_eq!(of(&floor, 0, 6, 6, Some(5)), "bundle_serial_too_low");
        assert_eq!(of(&floor, 0, 7, 7, Some(6)), "new");
    }
}
