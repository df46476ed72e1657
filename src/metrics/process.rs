//! The process as the kernel sees it, under the names that Prometheus' client libraries have agreed on.

use std::time::{Duration, Instant};

use procfs::process::{LimitValue, Process};
use prometheus::{Counter, Gauge, IntGauge, Opts, Registry};

use super::{Metrics, gauge, register, seconds};

/// What the kernel says of the process.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessState {
    /// Memory in RAM, bytes.
    pub resident: u64,
    /// Address space, bytes.
    pub virtual_memory: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many it may open; `None` without a limit.
    pub max_files: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Its start, Unix seconds.
    pub started: f64,
}

impl ProcessState {
    /// The current values; `None` where /proc cannot be read.
    pub fn now() -> Option<Self> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = procfs::ticks_per_second();
        let since_boot = |ticks_then: u64| ticks_then as f64 / ticks as f64;
        let max_files = match process.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        };
        Some(Self {
            resident: stat.rss.saturating_mul(procfs::page_size()),
            virtual_memory: stat.vsize,
            open_files: process.fd_count().ok()? as u64,
            max_files,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            cpu: Duration::from_secs_f64(since_boot(stat.utime.saturating_add(stat.stime))),
            started: procfs::boot_time_secs().map_or(0.0, |boot| boot as f64) + since_boot(stat.starttime),
        })
    }
}

/// The metrics of the process.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    open_files: IntGauge,
    max_files: IntGauge,
    threads: IntGauge,
    started: Gauge,
}

impl ProcessMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let cpu = Opts::new("process_cpu_seconds_total", "User and system CPU time of the process.");
        Ok(Self {
            cpu: register(r, Counter::with_opts(cpu)?)?,
            resident: gauge(r, "process_resident_memory_bytes", "Resident memory.")?,
            virtual_memory: gauge(r, "process_virtual_memory_bytes", "Virtual memory.")?,
            open_files: gauge(r, "process_open_fds", "Open file descriptors.")?,
            max_files: gauge(r, "process_max_fds", "The most file descriptors that may be open.")?,
            threads: gauge(r, "process_threads", "Threads of the process.")?,
            started: seconds(r, "process_start_time_seconds", "Start of the process, Unix time.")?,
        })
    }

    fn set(&self, state: &ProcessState) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.cpu.inc_by((state.cpu.as_secs_f64() - self.cpu.get()).max(0.0));
        self.resident.set(number(state.resident));
        self.virtual_memory.set(number(state.virtual_memory));
        self.open_files.set(number(state.open_files));
        self.max_files.set(number(state.max_files.unwrap_or(u64::MAX)));
        self.threads.set(number(state.threads));
        self.started.set(state.started);
    }
}

/// How often /proc is read at most: a scrape costs one look, a flood of scrapes does too.
const EVERY: Duration = Duration::from_secs(1);

impl Metrics {
    /// Reads the state of the process, unless it was read just before.
    pub(super) fn look_at_process(&self) {
        let mut looked = self.looked_at_process.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        if let Some(state) = ProcessState::now() {
            self.process.set(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_takes() {
        let state = ProcessState::now().unwrap();
        assert!(state.resident > 1 << 20 && state.virtual_memory >= state.resident, "{state:?}");
        assert!(state.open_files >= 3 && state.threads >= 1, "{state:?}");
        let now = kms_attest::clock::unix_now() as f64;
        assert!(state.started > now - 3600.0 * 24.0 && state.started <= now + 1.0, "{state:?}");
    }
}
