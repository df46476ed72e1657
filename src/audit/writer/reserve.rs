//! Space that is kept for the log, so that a full disk does not stop it at once.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::super::disk::Seen;
use super::super::health::{Reserve, Space};
use super::super::segments;
use super::Writer;

/// How long after it was spent the reserve is taken again, if there is space.
const RESERVE_AGAIN: Duration = Duration::from_secs(60);

impl Writer {
    /// Looks how much space there is, and takes the reserve back where there is enough.
    pub(super) fn hold_reserve(&mut self) {
        self.status.begins();
        // A disk that cannot be measured is not called full: writing to it tells.
        let Ok(room) = self.disk.room(&self.path) else { return };
        let name = segments::reserve_name(&self.path);
        let is_held = Seen::at(&name).is_ok_and(|seen| seen.is_some_and(|seen| seen.size >= self.reserve));
        let may_take = self.reserve > 0
            && self.trouble.is_none()
            && self.spent.is_none_or(|spent| spent.elapsed() > RESERVE_AGAIN)
            && room.free > 4 * self.reserve;
        let is_held = is_held
            || may_take && {
                let held = self.disk.allocate(&name, self.reserve);
                if let Err(error) = &held {
                    tracing::warn!(%error, "no space can be reserved for the audit log");
                    // A file without its space would be taken for the reserve.
                    let _ = fs::remove_file(&name);
                    self.reserve = 0;
                }
                held.is_ok()
            };
        let reserve = match (self.reserve, is_held) {
            (0, _) => Reserve::None,
            (_, true) => Reserve::Held,
            (_, false) => Reserve::Spent,
        };
        if self.status.set_space(Space::of(room, reserve, self.reserve)) {
            tracing::warn!(free_bytes = room.free, "the disk of the audit log is nearly full");
        }
    }

    /// Gives the reserve to the log, if it is space that is missing. Whether that was so.
    pub(super) fn spend_reserve(&mut self, error: &io::Error) -> bool {
        let is_spent =
            is_full(error) && self.reserve > 0 && fs::remove_file(segments::reserve_name(&self.path)).is_ok();
        if is_spent {
            self.spent = Some(Instant::now());
            tracing::error!("the disk is full: the audit log goes on in the space that was reserved for it");
            self.hold_reserve();
        }
        is_spent
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
