//! From one file of the log to the next, so that nobody relies on anything that may not be on the disk.

use std::fs::{self, File};
use std::io;

use super::super::disk::directory;
use super::super::segments;
use super::{Cause, Event, Failure, Identity, Need, Rest, Seen, Segment, Writer, unix_now};

impl Writer {
    /// Leaves the file and goes on in a new one, which is complete before it has the name. Until the name
    /// lasts, nothing of it is in force: after a failure all of it is done again with another file.
    pub(super) fn begin_segment(&mut self, cause: Cause) -> Result<(), Failure> {
        let failed = Failure::write(Need::NewSegment);
        let new = segments::new_name(&self.path);
        self.clear_new_name().map_err(&failed)?;
        let damaged = self.segment.as_ref().map_or(0, |segment| segment.rest.damaged());
        let began = Event::SegmentBegan {
            reason: if damaged > 0 { Cause::DamagedEnd } else { cause }.name(),
            after: self.link.seq(),
            damaged_bytes: (damaged > 0).then_some(damaged),
        };
        let (events, kept) = (self.with_kept(Some(began))?, self.kept.len());
        let (lines, link) = self.lines(&events.iter().map(String::as_str).collect::<Vec<_>>())?;
        let staged = self.stage(&lines)?;
        let file = self.disk.create(&new).map_err(&failed)?;
        let identity = Seen::of(&file.metadata().map_err(&failed)?).identity;
        let earlier = self.unproven.replace(identity);
        file.try_lock().map_err(|error| failed(error.into()))?;
        let written = self.disk.write(&file, &lines).map_err(&failed);
        let written = written.and_then(|()| self.disk.sync(&file).map_err(Failure::sync(Need::NewSegment)));
        if let Err(failure) = written {
            // A start would take it up, and it may not be on the disk.
            let _ = fs::remove_file(&new);
            self.spend_reserve(&failure.error);
            return Err(failure);
        }
        self.leave(cause, earlier).map_err(&failed)?;
        // The old file must have a name that lasts before it loses the one that it has.
        self.sync_directory()?;
        fs::rename(&new, &self.path).map_err(&failed)?;
        self.sync_directory()?;
        let length = lines.len() as u64;
        self.segment =
            Some(Segment { file, length, rest: Rest::None, is_file: true, began: Some(unix_now()) });
        self.link = link;
        self.unproven = None;
        self.is_directory_in_doubt = false;
        self.forget_kept(kept);
        self.commit(staged)?;
        // Then the file that was left may be moved away.
        self.synced_tree = None;
        self.looked_for_closed = None;
        Ok(())
    }

    /// Takes away what an attempt before this one has left, and nothing else.
    fn clear_new_name(&self) -> io::Result<()> {
        let new = segments::new_name(&self.path);
        match Seen::at(&new)? {
            None => Ok(()),
            Some(seen) if seen.size == 0 || Some(seen.identity) == self.unproven => fs::remove_file(&new),
            Some(_) => {
                let kept = segments::set_new_aside(&self.path, self.link.seq())?;
                tracing::error!(kept = %super::super::name(&kept), "a file that is not of this audit log is kept aside");
                Ok(())
            }
        }
    }

    /// Keeps what has the name of the log under another one, unless it is of an `earlier` attempt that nobody
    /// relied on.
    fn leave(&mut self, cause: Cause, earlier: Option<Identity>) -> io::Result<()> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let own = Seen::of(&segment.file.metadata()?);
        match Seen::at(&self.path)? {
            // Nothing, or emptied by the program that copied it.
            None => Ok(()),
            Some(named) if named.size == 0 || Some(named.identity) == earlier => Ok(()),
            Some(named) if named.identity != own.identity => segments::set_aside(&self.path, self.link.seq()),
            Some(_) => {
                if segment.rest.damaged() == 0 && cause.leaves_unacknowledged() {
                    // Where it stays, verification sees that the chain goes on without it.
                    let _ = self.disk.cut(&segment.file, segment.length);
                }
                if segment.length == 0 && segment.rest.damaged() == 0 {
                    return Ok(());
                }
                segments::close(&self.path, self.link.seq())
            }
        }
    }

    pub(super) fn sync_directory(&mut self) -> Result<(), Failure> {
        let synced = File::open(directory(&self.path)).and_then(|directory| self.disk.sync(&directory));
        self.is_directory_in_doubt |= synced.is_err();
        synced.map_err(Failure::sync(Need::NewSegment))
    }
}
