//! Clearing the caches of OS images, and audit records about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::audit::{Audit, Event};
use crate::control::Author;
use crate::error::{Error, Result};
use crate::metrics::{Metrics, Upstream};
use crate::os_image::{CacheError, ImageCache, Progress, ProgressListener};

/// Clears both caches, the image cache first.
pub(super) async fn clear(images: &ImageCache, image_hash: &str, config_hash: &str) -> Result<()> {
    images.clear_images(image_hash).await.map_err(|e| uncleared("failed to clear image cache", e))?;
    images
        .clear_measurements(config_hash)
        .await
        .map_err(|e| uncleared("failed to clear measurement cache", e))
}

fn uncleared(what: &'static str, error: CacheError) -> Error {
    match error {
        CacheError::InvalidKey => Error::invalid(error.to_string()).within(what),
        CacheError::Io(_) => Error::internal(what, error),
    }
}

pub(super) fn note_cleared(audit: &Audit, author: Author, image_hash: &str, config_hash: &str) {
    if image_hash.is_empty() && config_hash.is_empty() {
        return;
    }
    audit.note(Event::CachesCleared {
        image_hash: image_hash.to_owned(),
        config_hash: config_hash.to_owned(),
        by: author.by,
        remote: author.remote,
    });
}

/// Records the progress of OS image downloads.
pub(crate) fn download_recorder(audit: &Arc<Audit>, metrics: &Arc<Metrics>) -> ProgressListener {
    let (audit, metrics) = (Arc::clone(audit), Arc::clone(metrics));
    // As many as downloads that run.
    let begun = Mutex::new(HashMap::new());
    ProgressListener::new(move |image, progress| {
        let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match progress {
            Progress::Started => {
                begun.insert(image.to_owned(), Instant::now());
                None
            }
            Progress::Fetching { .. } | Progress::Unpacking { .. } => None,
            Progress::Done { .. } => Some(None),
            Progress::Failed { reason } => Some(Some(&**reason)),
        };
        if let Some((failure, begin)) = failure.and_then(|failure| Some((failure, begun.remove(image)?))) {
            metrics.asked(Upstream::OsImages, begin.elapsed(), failure);
        }
        drop(begun);
        if let Some(event) = download_event(image, progress) {
            audit.note(event);
        }
    })
}

/// The audit event for a step of a download, if it has one.
fn download_event(image: &str, progress: &Progress) -> Option<Event> {
    let image = image.to_owned();
    Some(match progress {
        Progress::Started => Event::ImageDownloadStarted { image },
        Progress::Fetching { bytes, of } => {
            let percent = of.filter(|of| *of > 0).map(|of| bytes.saturating_mul(100) / of);
            Event::ImageDownloadProgress { image, bytes: *bytes, percent }
        }
        Progress::Unpacking { .. } => return None,
        Progress::Done { seconds } => Event::ImageDownloaded { image, seconds: *seconds },
        Progress::Failed { reason } => Event::ImageDownloadFailed { image, reason: reason.clone() },
    })
}
