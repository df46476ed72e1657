//! A decision with its reasons: the outcome of every rule, and the nearest entry of an allowlist.

use std::sync::Arc;

use crate::decision::{Decision, PolicyError, ReleaseStage, Ruling};
use crate::epochs::AppEpochs;
use crate::rule::RuleOutcome;

/// The entry of an allowlist that is most similar to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// Its key: `apps."00…"`, or `kms`.
    pub entry: String,
    /// Why this entry was chosen.
    pub reason: &'static str,
    /// The fields that differ.
    pub differences: Vec<Difference>,
}

/// A field in which an entry differs from a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key in the entry.
    pub field: &'static str,
    /// The values in the entry, bounded.
    pub listed: String,
    /// The measured value.
    pub measured: String,
}

/// A decision about a caller, with its reasons.
#[derive(Debug)]
pub struct Examination {
    /// The decision, made in the same way as for a live request.
    pub decision: Result<Decision, PolicyError>,
    /// The outcome of every rule, in order; empty if only the backend knows the rules.
    pub rules: Vec<RuleOutcome>,
    /// `None` if the policy is not an allowlist, or if no entry is similar.
    pub nearest: Option<Nearest>,
    /// The stages at which the policy releases the keys of the app, if known. An allowlist gives them for a
    /// denied app too.
    pub release_stage: Option<ReleaseStage>,
    /// The epochs of the keys of the app, like `release_stage`.
    pub epochs: Option<Arc<AppEpochs>>,
    /// The digest of a [`Ruling`]; `None` if there is no decision.
    pub digest: Option<[u8; 32]>,
}

impl Examination {
    /// A decision without known reasons.
    pub fn of(ruling: Result<Ruling, PolicyError>) -> Self {
        let (decision, digest) = match ruling {
            Ok(Ruling { decision, digest }) => (Ok(decision), digest),
            Err(error) => (Err(error), None),
        };
        let (release_stage, epochs) = match &decision {
            Ok(Decision::Allowed { release_stage, epochs, .. }) => (*release_stage, epochs.clone()),
            Ok(Decision::IfImage(_) | Decision::Denied(_)) | Err(_) => (None, None),
        };
        Self { decision, rules: Vec::new(), nearest: None, release_stage, epochs, digest }
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::identity::BootInfo;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::decision::{DenialCode, Subject};
    use crate::policy::Policy;
    use crate::rule::Outcome;
    use crate::settings::{AuthApi, EmptyDevices};

    /// Few values, so that rules and identities meet.
    fn hash() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![1; 32]), Just(vec![2; 32]), Just(vec![0xab; 32]), Just(vec![])]
    }

    fn status() -> impl Strategy<Value = String> {
        prop_oneof![Just("UpToDate".to_owned()), Just("OutOfDate".to_owned()), Just(String::new())]
    }

    fn app_id() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![1; 20]), Just(vec![0xcd; 20])]
    }

    fn advisories() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop_oneof![Just("A-1".to_owned()), Just("A-2".to_owned())], 0..3)
    }

    /// Hex in one of its notations, or another value.
    fn written(of: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Value> {
        (of, 0..12_u8).prop_map(|(bytes, style)| match style {
            0 => json!(null),
            1 => json!("no hex"),
            2 | 3 => json!(format!("0x{}", hex::encode(bytes))),
            4 | 5 => json!(format!("0X{}", hex::encode_upper(bytes))),
            _ => json!(hex::encode(bytes)),
        })
    }

    fn list(of: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Value>> {
        prop::collection::vec(of, 0..3)
    }

    fn entry() -> impl Strategy<Value = Value> {
        let stage = prop_oneof![
            Just(json!(null)),
            Just(json!("boot")),
            Just(json!("any")),
            Just(json!("boot")),
            Just(json!("late"))
        ];
        (list(written(hash())), list(written(hash())), any::<bool>(), stage).prop_map(
            |(hashes, devices, any, stage)| {
                json!({ "composeHashes": hashes, "devices": devices, "allowAnyDevice": any, "releaseStage": stage })
            },
        )
    }

    /// The content of the event of the key provider, as an entry may name it.
    fn provider() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!({ "name": "none", "id": "" })),
            Just(json!({ "name": "none" })),
            Just(json!({ "name": "local-sgx", "id": "ab" })),
            Just(json!({ "name": "local-sgx", "id": "cd" })),
            Just(json!({})),
        ]
    }

    /// An entry of `kms.images`, seldom an invalid one.
    fn image() -> impl Strategy<Value = Value> {
        let whole = || prop_oneof![Just(vec![1; 32]), Just(vec![2; 32]), Just(vec![0xab; 32])];
        let provider = prop_oneof![3 => Just(None), 1 => provider().prop_map(Some)];
        let app = prop_oneof![3 => Just(None), 1 => app_id().prop_map(Some)];
        (whole(), whole(), provider, app).prop_map(|(image, compose, provider, app)| {
            let mut entry =
                json!({ "osImageHash": hex::encode(image), "composeHash": hex::encode_upper(compose) });
            if let Some(provider) = provider {
                entry["keyProvider"] = provider;
            }
            if let Some(app) = app {
                entry["appId"] = json!(hex::encode(app));
            }
            entry
        })
    }

    fn file() -> impl Strategy<Value = Value> {
        let kms = (list(written(hash())), list(image()), list(written(hash())), any::<bool>());
        let apps = prop::collection::vec((app_id(), any::<bool>(), entry()), 0..3);
        let statuses = prop::collection::vec(status(), 0..3);
        (statuses, advisories(), list(written(hash())), kms, apps).prop_map(
            |(statuses, advisories, images, (measurements, by_image, devices, any), apps)| {
                let apps = apps.into_iter().map(|(id, upper, entry)| {
                    let id = if upper { format!("0x{}", hex::encode_upper(id)) } else { hex::encode(id) };
                    (id, entry)
                });
                json!({
                    "allowedTcbStatuses": statuses,
                    "allowedAdvisoryIds": advisories,
                    "osImages": images,
                    "kms": {
                        "mrAggregated": measurements,
                        "images": by_image,
                        "devices": devices,
                        "allowAnyDevice": any,
                    },
                    "apps": apps.collect::<serde_json::Map<_, _>>(),
                })
            },
        )
    }

    fn identity() -> impl Strategy<Value = BootInfo> {
        let key_provider =
            prop_oneof![2 => Just(Vec::new()), 1 => provider().prop_map(|it| it.to_string().into_bytes())];
        (status(), advisories(), hash(), hash(), hash(), hash(), app_id(), key_provider).prop_map(
            |(
                tcb_status,
                advisory_ids,
                os_image_hash,
                mr_aggregated,
                compose_hash,
                device_id,
                app_id,
                key_provider_info,
            )| {
                BootInfo {
                    key_provider_info,
                    tcb_status,
                    advisory_ids,
                    os_image_hash,
                    mr_aggregated,
                    compose_hash,
                    device_id,
                    app_id,
                    ..BootInfo::example()
                }
            },
        )
    }

    proptest! {
        /// A live request and an explanation have the same decision, with every valid or invalid file.
        #[test]
        fn what_is_explained_is_what_is_decided(
            file in file(),
            identities in prop::collection::vec(identity(), 1..8),
            strict in any::<bool>(),
        ) {
            let directory = tempfile::tempdir().expect("temporary directory");
            let path = directory.path().join("auth-config.json");
            std::fs::write(&path, file.to_string()).expect("file");
            let empty_devices = if strict { EmptyDevices::NoDevice } else { EmptyDevices::AnyDevice };
            let policy =
                Policy::from_config(&AuthApi::Allowlist { path, empty_devices }).expect("an allowlist");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            for identity in &identities {
                for subject in [Subject::App(identity), Subject::Kms(identity)] {
                    let live = runtime.block_on(policy.decide(subject)).expect("a decision");
                    let examined = runtime.block_on(policy.examine(subject));
                    let decision = examined.decision.expect("a decision");
                    prop_assert_eq!(&decision, &live);
                    let first = examined.rules.iter().find_map(RuleOutcome::failure);
                    match live {
                        Decision::Allowed { release_stage, .. } => {
                            prop_assert_eq!(first, None);
                            prop_assert_eq!(examined.release_stage, release_stage);
                        }
                        Decision::IfImage(condition) => {
                            prop_assert_eq!(first, None);
                            prop_assert!(matches!(subject, Subject::Kms(_)), "{:?}", condition);
                            prop_assert_eq!(&condition.image().0[..], &identity.os_image_hash[..]);
                            let holds = |it: &&RuleOutcome| matches!(it.outcome, Outcome::HoldsIfImage(..));
                            prop_assert_eq!(examined.rules.iter().filter(holds).count(), 1);
                        }
                        // An invalid file fails more than one rule.
                        Decision::Denied(denial) if denial.code == DenialCode::AllowlistUnusable => {
                            prop_assert!(first.is_some());
                        }
                        Decision::Denied(denial) => {
                            let first = first.expect("a rule that fails");
                            prop_assert_eq!((first.code, &first.reason), (denial.code, &denial.reason));
                        }
                    }
                }
            }
        }
    }
}
