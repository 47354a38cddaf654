//! `process_*`, the usual names, without a crate that brings a second copy of half of libc.
use prometheus::{Counter, Gauge, Opts, Registry};

/// Values that are brought up to date before a scrape.
#[derive(Clone)]
pub struct Process {
    cpu_seconds: Counter,
    resident: Gauge,
    virtual_size: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
}

impl Process {
    /// Registers them; `started` is in seconds since the epoch.
    pub fn new(registry: &Registry, started: u64) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| -> prometheus::Result<Gauge> {
            let gauge = Gauge::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch are far below 2^52")]
        gauge("process_start_time_seconds", "When the process started.")?.set(started as f64);
        let cpu_seconds = Counter::new("process_cpu_seconds_total", "User and system time.")?;
        registry.register(Box::new(cpu_seconds.clone()))?;
        Ok(Self {
            cpu_seconds,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "The limit of open file descriptors.")?,
            threads: gauge("process_threads", "Threads.")?,
        })
    }

    /// Reads `/proc`; elsewhere than on Linux the values stay zero.
    pub fn observe(&self) {
        let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse) else { return };
        self.cpu_seconds.inc_by((stat.cpu_ticks / 100.0 - self.cpu_seconds.get()).max(0.0));
        self.resident.set(stat.resident_pages * 4096.0);
        self.virtual_size.set(stat.virtual_bytes);
        self.threads.set(stat.threads);
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds.set(f64::from(u32::try_from(entries.count()).unwrap_or(u32::MAX)));
        }
        if let Some(limit) = descriptor_limit() {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            self.max_fds.set(limit as f64);
        }
    }
}

struct Stat {
    cpu_ticks: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

/// proc(5): fields are counted behind the last `)`, since the command's name may hold anything. Ticks are 1/100 s and pages 4 KiB
/// on every platform that the image is built for.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<f64> =
        text.rsplit_once(')')?.1.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 4).copied();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// How many file descriptors this process may open, where the system says.
#[cfg(unix)]
pub fn descriptor_limit() -> Option<u64> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok()?;
    Some(soft)
}

/// How many file descriptors this process may open, where the system says.
#[cfg(not(unix))]
pub fn descriptor_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_the_cpu_is_a_counter_that_only_grows() {
        let registry = Registry::new();
        let process = Process::new(&registry, 0).expect("registered");
        process.observe();
        let before = process.cpu_seconds.get();
        process.observe();
        assert!(process.cpu_seconds.get() >= before);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let stat = parse("42 (a) b) S 1 1 1 0 -1 0 0 0 0 0 250 150 0 0 20 0 7 0 100 4096000 321 0").expect("stat");
        assert!((stat.cpu_ticks - 400.0).abs() < f64::EPSILON);
        assert!((stat.threads - 7.0).abs() < f64::EPSILON);
        assert!((stat.virtual_bytes - 4_096_000.0).abs() < f64::EPSILON);
        assert!((stat.resident_pages - 321.0).abs() < f64::EPSILON);
        assert!(parse("").is_none());
    }
}
