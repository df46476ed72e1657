//! Finds the entry of an allowlist that is most similar to a caller, and the differences.

use super::{App, Devices, EXAMPLES, Hashes, Rule, Rules, examples};
use crate::decision::Subject;
use crate::examination::{Difference, Nearest};
use crate::settings::EmptyDevices;

/// Two ids that differ in at most this many hex digits may be one id with a typing error.
const MAX_TYPOS: usize = 4;

impl Rules {
    /// The entry that is most similar to `subject`, and the differences.
    pub(crate) fn nearest(&self, subject: Subject<'_>, empty_devices: EmptyDevices) -> Option<Nearest> {
        let boot = subject.boot_info();
        let (entry, reason, mut differences) = match subject {
            Subject::Kms(_) => {
                let measurement = self.kms_measurements.difference(
                    "mrAggregated",
                    &boot.mr_aggregated,
                    Rule::KmsMeasurement,
                );
                let measurement = measurement.filter(|_| self.kms_images.image_of(boot).is_none());
                let device = self.kms_devices.difference(&boot.device_id, empty_devices);
                let reason = "the entry for KMS nodes";
                ("kms".to_owned(), reason, [measurement, device].into_iter().flatten().collect::<Vec<_>>())
            }
            Subject::App(_) => {
                let (id, app, reason) = self.nearest_app(&boot.app_id, &boot.compose_hash)?;
                let key = (id != &boot.app_id[..]).then(|| Difference {
                    field: "app id",
                    listed: hex::encode(id),
                    measured: hex::encode(&boot.app_id),
                });
                let compose =
                    app.compose_hashes.difference("composeHashes", &boot.compose_hash, Rule::ComposeHash);
                let device = app.devices.difference(&boot.device_id, empty_devices);
                let differences = [key, compose, device].into_iter().flatten().collect();
                (format!("apps.\"{}\"", hex::encode(id)), reason, differences)
            }
        };
        differences.extend(self.os_images.difference("osImages", &boot.os_image_hash, Rule::OsImage));
        Some(Nearest { entry, reason, differences })
    }

    fn nearest_app(&self, id: &[u8], compose: &[u8]) -> Option<(&[u8], &App, &'static str)> {
        if let Some((id, app)) = self.apps.get_key_value(id) {
            return Some((id, app, "the entry of this app"));
        }
        let runs_the_same = self.apps.iter().filter(|(_, app)| app.compose_hashes.allowed.contains(compose));
        // The smallest id, so that the result does not depend on the order of a hash table.
        if let Some((id, app)) = runs_the_same.min_by_key(|(id, _)| *id) {
            return Some((id, app, "another app with the same compose hash"));
        }
        let (distance, known, app) = self
            .apps
            .iter()
            .map(|(known, app)| (digits_apart(known, id), known, app))
            .min_by_key(|(distance, known, _)| (*distance, *known))?;
        (distance <= MAX_TYPOS).then_some((known, app, "an app whose id differs in a few digits"))
    }
}

/// The number of hex digits in which two values differ; `usize::MAX` for different lengths.
fn digits_apart(left: &[u8], right: &[u8]) -> usize {
    if left.len() != right.len() {
        return usize::MAX;
    }
    let apart = |(left, right): (&u8, &u8)| {
        let differ = left ^ right;
        usize::from(differ & 0xf0 != 0) + usize::from(differ & 0x0f != 0)
    };
    left.iter().zip(right).map(apart).sum()
}

impl Hashes {
    fn difference(&self, field: &'static str, measured: &[u8], rule: Rule) -> Option<Difference> {
        self.denial(rule, measured)?;
        let near = self.allowed.iter().map(|known| (digits_apart(known, measured), known));
        let nearest = near.min_by_key(|(distance, known)| (*distance, *known));
        let listed = match nearest {
            Some((distance, known)) if distance <= MAX_TYPOS => {
                format!("{}, which differs in {distance} digits", hex::encode(known))
            }
            _ => {
                let mut shown: Vec<_> = self.allowed.iter().take(EXAMPLES).map(hex::encode).collect();
                shown.sort_unstable();
                examples(shown, self.allowed.len())
            }
        };
        Some(Difference { field, listed, measured: hex::encode(measured) })
    }
}

impl Devices {
    fn difference(&self, measured: &[u8], empty_devices: EmptyDevices) -> Option<Difference> {
        self.denial(Rule::AppDevice, measured, empty_devices)?;
        self.allowed.difference("devices", measured, Rule::AppDevice)
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::identity::BootInfo;
    use serde_json::json;

    use super::*;

    fn rules(value: serde_json::Value) -> Rules {
        Rules::parse(value.to_string().as_bytes()).expect("rules")
    }

    fn hashes(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    #[test]
    fn the_nearest_entry_is_the_apps_own_or_one_that_looks_like_it() {
        let identity = BootInfo::example();
        let own = hex::encode([0x11; 20]);
        let slip = own.replacen("11", "1f", 1);
        for (id, compose, reason, fields) in [
            (&own, 0x99, "the entry of this app", vec!["composeHashes"]),
            (&slip, 0x99, "an app whose id differs in a few digits", vec!["app id", "composeHashes"]),
            (&hex::encode([0x77; 20]), 0x22, "another app with the same compose hash", vec!["app id"]),
        ] {
            let file = json!({
                "osImages": [hashes(0x44)],
                "apps": { id: { "composeHashes": [hashes(compose)], "allowAnyDevice": true } },
            });
            let nearest =
                rules(file).nearest(Subject::App(&identity), EmptyDevices::NoDevice).expect("an entry");
            assert_eq!((nearest.entry, nearest.reason), (format!("apps.\"{id}\""), reason));
            let differ: Vec<_> = nearest.differences.iter().map(|difference| difference.field).collect();
            assert_eq!(differ, fields);
        }
    }

    #[test]
    fn an_app_that_resembles_nothing_has_no_nearest_entry() {
        let identity = BootInfo::example();
        let file = json!({ "apps": { hex::encode([0x77; 20]): { "composeHashes": [hashes(0x99)] } } });
        assert_eq!(rules(file).nearest(Subject::App(&identity), EmptyDevices::NoDevice), None);
    }

    #[test]
    fn a_hash_with_a_typing_error_is_pointed_out() {
        let identity = BootInfo::example();
        let slip = hashes(0x55).replacen("55", "45", 1);
        let file = json!({ "osImages": [hashes(0x44)], "kms": { "mrAggregated": [slip, hashes(0x01)] } });
        let nearest = rules(file).nearest(Subject::Kms(&identity), EmptyDevices::AnyDevice).expect("kms");
        assert_eq!(nearest.differences.len(), 1);
        assert_eq!(nearest.differences[0].listed, format!("{slip}, which differs in 1 digits"));
        assert_eq!(nearest.differences[0].measured, hashes(0x55));
    }
}
