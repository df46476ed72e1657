//! What makes a guest sealed: its event log shows a machine that nobody can log in to (docs/decisions/0040).

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_attest::measurement::{RuntimeEvent, SYSTEM_READY};
use kms_attest::verify::Verified;

use super::ImageCheck;
use crate::os_image::{ImageKind, OsImageError};

/// The longest wait for the OS image of this KMS, whose download goes on afterwards.
const IMAGE_WAIT: Duration = Duration::from_secs(5);
/// The pause after a failure.
const IMAGE_RETRY: Duration = Duration::from_secs(30);

/// The events of dstack's OS, all of which it adds while it boots.
const OF_THE_OS: [&str; 12] = [
    "system-preparing",
    "app-id",
    "compose-hash",
    "init-script-hash",
    "gpu-policy-hash",
    "gpu-attestation",
    "instance-id",
    "boot-mr-done",
    "os-image-hash",
    "key-provider",
    "storage-fs",
    SYSTEM_READY,
];

/// The events that a boot adds once. A second one was added by another author.
const ONCE: [&str; 8] = [
    "system-preparing",
    "app-id",
    "compose-hash",
    "instance-id",
    "boot-mr-done",
    "os-image-hash",
    "key-provider",
    "storage-fs",
];

/// The name of the first event that is not the OS's own, or comes after its last one. What it stands for is not known, so it may
/// have opened the guest.
pub(super) fn opened_by(events: &[RuntimeEvent]) -> Option<&str> {
    let booted = events.iter().position(|event| event.event == SYSTEM_READY);
    let later = booted.and_then(|last| events.get(last + 1));
    let foreign = events.iter().find(|event| !OF_THE_OS.contains(&&*event.event));
    let is_repeated = |(index, event): &(usize, &RuntimeEvent)| {
        ONCE.contains(&&*event.event) && events[..*index].iter().any(|before| before.event == event.event)
    };
    let repeated = || events.iter().enumerate().find(is_repeated).map(|(_, event)| event);
    foreign.or(later).or_else(repeated).map(|event| &*event.event)
}

/// Tells whether this KMS itself runs on a machine that nobody can log in to.
#[derive(Debug)]
pub struct OwnSeal {
    image: ImageCheck,
    /// When its image could not be verified.
    failed: ArcSwapOption<Instant>,
}

impl OwnSeal {
    pub(super) fn new(image: ImageCheck) -> Self {
        Self { image, failed: ArcSwapOption::empty() }
    }

    /// Whether the machine of our own evidence is sealed, of which the verification has shown that it is no debug TD. `Some(false)` is
    /// certain: an event may have opened it, or its image is for development. `None` is not known, as without the verification of
    /// OS images.
    pub async fn of(&self, own: &Verified) -> Option<bool> {
        if opened_by(&own.evidence().stack.runtime_events).is_some() {
            return Some(false);
        }
        match self.kind(own).await {
            ImageKind::Release => Some(true),
            ImageKind::Development => Some(false),
            ImageKind::Unknown => None,
        }
    }

    async fn kind(&self, own: &Verified) -> ImageKind {
        let ImageCheck::Required(images) = &self.image else { return ImageKind::Unknown };
        if self.failed.load().as_ref().is_some_and(|failed| failed.elapsed() < IMAGE_RETRY) {
            return ImageKind::Unknown;
        }
        // Its configuration is the one in its evidence.
        let looked_at = async {
            images.verify(own, "").await?;
            images.kind(own, "").await
        };
        let found: Option<Result<ImageKind, OsImageError>> =
            tokio::time::timeout(IMAGE_WAIT, looked_at).await.ok();
        match found {
            Some(Ok(kind)) => kind,
            Some(Err(error)) => {
                tracing::warn!(%error, "it is not known whether this KMS is sealed: its OS image cannot be verified");
                self.failed.store(Some(Arc::new(Instant::now())));
                ImageKind::Unknown
            }
            None => ImageKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(names: &[&str]) -> Option<String> {
        let event = |name: &&str| -> RuntimeEvent {
            serde_json::from_value(serde_json::json!({ "event": name, "payload": "" })).expect("an event")
        };
        let events: Vec<_> = names.iter().map(event).collect();
        opened_by(&events).map(str::to_owned)
    }

    #[test]
    fn only_the_events_of_a_boot_leave_a_guest_sealed() {
        let all = OF_THE_OS;
        for count in 0..=all.len() {
            assert_eq!(opened(&all[..count]), None, "{count}");
        }
        assert_eq!(opened(&["app-id", "init-script-hash", "init-script-hash"]), None);
        for (names, by) in [
            (&["app-id", "ssh-enabled"][..], "ssh-enabled"),
            (&["debug", "app-id"], "debug"),
            (&["app-id", "system-ready", "app-id"], "app-id"),
            (&["app-id", "system-ready", "system-ready"], "system-ready"),
            (&["app-id", "system-ready", "mine"], "mine"),
            (&["app-id", "compose-hash", "compose-hash", "system-ready"], "compose-hash"),
            (&["key-provider", "app-id", "key-provider"], "key-provider"),
            (&["System-Ready"], "System-Ready"),
            (&[""], ""),
        ] {
            assert_eq!(opened(names).as_deref(), Some(by), "{names:?}");
        }
    }
}
