//! Process metrics under Prometheus' standard names, read from `/proc` and absent without it.

use std::fs;

use prometheus::{Counter, Error, Gauge, Registry, proto::MetricFamily};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use super::register::add;

/// Process metrics, in a registry without prefix.
pub(super) struct ProcessMetrics {
    registry: Registry,
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    threads: Gauge,
}

impl ProcessMetrics {
    /// Registers the metrics; `None` without `/proc`.
    pub(super) fn new() -> Result<Option<Self>, Error> {
        let Some((stat, boot)) = ProcStat::read().zip(boot_time()) else {
            return Ok(None);
        };
        let registry = Registry::new();
        let r = &registry;
        let gauge = |name: &str, help: &str| add(r, Gauge::new(name, help)?);
        let start = gauge(
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970",
        )?;
        start.set(boot + stat.start);
        let max_fds = gauge("process_max_fds", "Maximum number of open file descriptors")?;
        max_fds.set(
            getrlimit(Resource::Nofile)
                .current
                .map_or(f64::INFINITY, |most| most as f64),
        );
        Ok(Some(Self {
            cpu: add(
                r,
                Counter::new(
                    "process_cpu_seconds_total",
                    "Processor time of the process, user and system",
                )?,
            )?,
            resident: gauge("process_resident_memory_bytes", "Resident memory")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory")?,
            open_fds: gauge("process_open_fds", "Open file descriptors")?,
            threads: gauge("process_threads", "Threads of the process")?,
            registry,
        }))
    }

    /// Returns the current values. Values that cannot be read are unchanged.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        if let Some(ProcStat {
            cpu,
            threads,
            virtual_bytes,
            resident_bytes,
            ..
        }) = ProcStat::read()
        {
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            self.threads.set(threads);
            self.virtual_memory.set(virtual_bytes);
            self.resident.set(resident_bytes);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One descriptor belongs to the folder being read.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        self.registry.gather()
    }
}

/// Fields of `/proc/self/stat`.
struct ProcStat {
    /// Processor time in seconds.
    cpu: f64,
    threads: f64,
    /// Start of the process in seconds since boot.
    start: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl ProcStat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The command may contain spaces and parentheses. After it comes the third field of
        // proc_pid_stat(5).
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let (second, page) = (clock_ticks_per_second() as f64, page_size() as f64);
        Some(Self {
            cpu: (field(14)? + field(15)?) / second,
            threads: field(20)?,
            start: field(22)? / second,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

/// Returns the boot time in seconds since 1970.
fn boot_time() -> Option<f64> {
    fs::read_to_string("/proc/stat")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// Returns the memory that the process may take: the limit of its control group, or the memory of
/// the machine; 0 if neither is known.
pub(super) fn memory_limit() -> u64 {
    let group = ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok())
        .and_then(|limit| limit.trim().parse().ok())
        .unwrap_or(u64::MAX);
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    group.min(machine.unwrap_or(if group == u64::MAX { 0 } else { group }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_spaces_in_the_command_is_parsed() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 1000 8192 3 \
                    18446744073709551615 1 1";
        let stat = ProcStat::parse(stat).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(
            (stat.cpu, stat.threads, stat.start),
            (300.0 / ticks, 4.0, 1000.0 / ticks)
        );
        assert_eq!(
            (stat.virtual_bytes, stat.resident_bytes),
            (8192.0, 3.0 * page_size() as f64)
        );
        assert!(ProcStat::parse("7 (x) S 1").is_none() && ProcStat::parse("").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_metrics_describe_this_process() {
        let process = ProcessMetrics::new().unwrap().unwrap();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&process.gather())
            .unwrap();
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
                .unwrap()
        };
        let now = crate::util::time::since_epoch().as_secs_f64();
        assert!((now - value("process_start_time_seconds")).abs() < 86_400.0);
        assert!(value("process_resident_memory_bytes") < value("process_virtual_memory_bytes"));
        assert!(
            value("process_open_fds") >= 3.0
                && value("process_open_fds") <= value("process_max_fds")
        );
        assert!(value("process_threads") >= 1.0 && value("process_cpu_seconds_total") >= 0.0);
    }
}
