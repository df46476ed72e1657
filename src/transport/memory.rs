//! Memory that requests hold: bounded for all together, and for one address.
//!
//! Counted are a request with its headers, its body as far as it has come, what is decoded from it, and the answer until
//! it is sent. Limits of single bodies do not bound their sum: one connection may have 64 of them.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::limit::bucket;

/// The smallest default.
const MIN_DEFAULT: usize = 64 << 20;
/// What a request holds beside its headers and body: the stream, the task and its buffers.
const REQUEST: usize = 4 * 1024;
/// The buffer of a body grows by doubling.
const BUFFER: usize = 2;
/// Decoded messages and evidence, beside that buffer, for each byte of the body.
const DECODED: usize = 2;
/// An answer whose length is not known before it is sent.
const ANSWER: usize = 16 * 1024;

/// No memory is left for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are being received at the moment; try again")]
pub(super) struct Exhausted;

/// The budget of all requests of a process.
#[derive(Debug)]
pub struct RequestMemory {
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Who holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// Has proved nothing: a quarter of the budget for its address, three quarters for all such callers.
    Stranger,
    /// Policy has given a permit on its connection, or it comes to a listener that asks for an operator's credentials.
    Admitted,
}

impl RequestMemory {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, held: Mutex::default() })
    }

    /// A tenth of the memory that the control group or the machine has, at least 64 MiB.
    pub fn default_total() -> usize {
        default_total(Path::new("/"))
    }

    /// Memory for a request of `address` whose line and headers have `head` bytes.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(super) fn open(
        self: &Arc<Self>,
        address: IpAddr,
        holder: Holder,
        head: usize,
    ) -> Result<Arc<Reservation>, Exhausted> {
        let reservation = Reservation {
            memory: Arc::clone(self),
            address: bucket(address),
            holder,
            held: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
        };
        reservation.grow(REQUEST + head)?;
        Ok(Arc::new(reservation))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one request; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<RequestMemory>,
    address: IpAddr,
    holder: Holder,
    held: AtomicUsize,
    was_refused: AtomicBool,
}

impl Reservation {
    /// Takes what receiving `body` bytes more needs.
    ///
    /// # Errors
    /// [`Exhausted`]; what is held already stays held.
    pub(super) fn receive(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(BUFFER))
    }

    /// Whether memory was asked for that there was not.
    pub(super) fn was_refused(&self) -> bool {
        self.was_refused.load(Ordering::Relaxed)
    }

    fn grow(&self, bytes: usize) -> Result<(), Exhausted> {
        let total = self.memory.total;
        let mut held = self.memory.lock();
        let of_address = held.by_address.get(&self.address).copied().unwrap_or(0).saturating_add(bytes);
        let all = held.all.saturating_add(bytes);
        let fits = match self.holder {
            Holder::Stranger => of_address <= total / 4 && all <= total / 4 * 3,
            Holder::Admitted => all <= total,
        };
        if !fits {
            self.was_refused.store(true, Ordering::Relaxed);
            return Err(Exhausted);
        }
        held.all = all;
        held.by_address.insert(self.address, of_address);
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes what decoding `body` bytes needs beside them.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(super) fn decode(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(DECODED))
    }

    /// The request is done; from now on its answer is held. It is never refused: the work is done.
    pub(super) fn answered(&self, length: Option<u64>) {
        let answer = length.map_or(ANSWER, |length| usize::try_from(length).unwrap_or(usize::MAX));
        self.settle(REQUEST.saturating_add(answer));
    }

    fn settle(&self, bytes: usize) {
        let mut held = self.memory.lock();
        let before = self.held.swap(bytes, Ordering::Relaxed);
        held.all = held.all.saturating_sub(before).saturating_add(bytes);
        let of_address = held.by_address.get(&self.address).copied().unwrap_or(0);
        match of_address.saturating_sub(before).saturating_add(bytes) {
            0 => drop(held.by_address.remove(&self.address)),
            left => drop(held.by_address.insert(self.address, left)),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(0);
    }
}

/// [`RequestMemory::default_total`], with the system's files below `root`.
fn default_total(root: &Path) -> usize {
    let limit = group_limit(root).into_iter().chain(machine(root)).min();
    let tenth = limit.and_then(|limit| usize::try_from(limit / 10).ok());
    tenth.unwrap_or(0).max(MIN_DEFAULT)
}

/// The least memory limit of the control groups that this process is in, of version 1 or 2. In a container the path of the
/// group may be that outside, which does not exist inside: the limit is at the top then.
fn group_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in groups.lines() {
        // `0::/path` is version 2, `5:memory:/path` version 1.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let top = root.join(top);
        let own = top.join(path.trim_start_matches('/'));
        // A group has no more than those above it.
        for group in own.ancestors().take_while(|group| group.starts_with(&top)) {
            let limit = fs::read_to_string(group.join(file)).ok();
            let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// The memory of the machine.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn strangers_of_one_address_have_a_quarter_all_strangers_three_and_the_admitted_the_rest() {
        let memory = RequestMemory::new(16 * MIB);
        let open = |last, holder| memory.open(address(last), holder, 0).expect("room");
        let held: Vec<_> = (1..=3)
            .map(|last| {
                let request = open(last, Holder::Stranger);
                assert_eq!(request.grow(4 * MIB), Err(Exhausted), "more than the share");
                request.grow(4 * MIB - REQUEST).expect("its share");
                assert_eq!(request.grow(1), Err(Exhausted));
                request
            })
            .collect();
        assert!(memory.open(address(4), Holder::Stranger, 0).is_err(), "strangers have their three quarters");
        let admitted = open(1, Holder::Admitted);
        admitted.grow(4 * MIB - REQUEST).expect("the last quarter");
        assert_eq!(admitted.grow(1), Err(Exhausted));
        drop(held);
        open(4, Holder::Stranger).grow(MIB).expect("room again");
        drop(admitted);
        let held = memory.held.lock().expect("lock");
        assert_eq!((held.all, held.by_address.len()), (0, 0));
    }

    #[test]
    fn an_answer_takes_the_place_of_its_request() {
        let memory = RequestMemory::new(16 * MIB);
        let request = memory.open(address(1), Holder::Stranger, 100).expect("room");
        request.receive(MIB).expect("body");
        request.decode(MIB).expect_err("with what is decoded it would be more than its share");
        assert!(request.was_refused());
        request.answered(Some(500));
        assert_eq!(memory.held.lock().expect("lock").all, REQUEST + 500);
        request.answered(Some(32 * MIB as u64));
        assert!(memory.open(address(2), Holder::Admitted, 0).is_err(), "answers count, and are not refused");
    }

    #[test]
    fn the_default_is_a_tenth_of_the_least_limit() {
        const GIB: u64 = 1 << 30;
        let v2 = "0::/system.slice/kms.service\n";
        let v1 = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n";
        for (groups, files, expected) in [
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "4294967296\n")][..], 4 * GIB / 10),
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n")], 64 * GIB / 10),
            (
                v2,
                &[
                    ("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n"),
                    ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n"),
                ],
                2 * GIB / 10,
            ),
            ("0::/\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            ("0::/../outside\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")], 64 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576")], 64 << 20),
            ("", &[], 64 * GIB / 10),
        ] {
            let root = tempfile::tempdir().expect("a directory");
            let write = |name: &str, text: &str| {
                let file = root.path().join(name);
                fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
                fs::write(file, text).expect("written");
            };
            write("proc/self/cgroup", groups);
            write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree: 1 kB\n");
            for (name, text) in files {
                write(name, text);
            }
            assert_eq!(default_total(root.path()) as u64, expected, "{groups:?} {files:?}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        assert_eq!(default_total(empty.path()), MIN_DEFAULT, "nothing can be read");
    }
}
