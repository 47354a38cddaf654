//! The metrics of the process itself: its build, the resources that it uses, and the log lines that
//! it lost. The `process_*` metrics have the names that all Prometheus clients use. They are read
//! from `/proc` here rather than with the `procfs` crate, which depends on `rustix`; the rest of
//! the program uses `nix`.
use super::logs::Logs;
use super::registrar::{Registrar, prefixed};
use prometheus::{Counter, Gauge, IntCounter, IntGauge, Opts};

/// Metrics whose values are read when a scrape asks for them.
#[derive(Clone)]
pub struct ProcessMetrics {
    dropped: Option<(Logs, IntCounter)>,
    cpu_seconds: Counter,
    resident: Gauge,
    virtual_size: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
}

impl ProcessMetrics {
    /// Registers `build_info`, `process_*` and, with `logs`, `log_lines_dropped_total`. `started`
    /// is when the process started, in seconds since the epoch.
    pub fn new(registrar: &Registrar, started: u64, logs: Option<&Logs>) -> prometheus::Result<Self> {
        register_build_info(registrar)?;
        let dropped = match logs {
            None => None,
            Some(logs) => {
                let help = "Log lines lost because the reader stalled.";
                Some((logs.clone(), registrar.counter("log_lines_dropped_total", help)?))
            }
        };
        let gauge = |name: &str, help: &str| registrar.register(Gauge::new(name, help)?);
        #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch are far below 2^52")]
        gauge("process_start_time_seconds", "When the process started.")?.set(started as f64);
        Ok(Self {
            dropped,
            cpu_seconds: registrar.register(Counter::new("process_cpu_seconds_total", "User and system time.")?)?,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "The limit on open file descriptors.")?,
            threads: gauge("process_threads", "Threads.")?,
        })
    }

    /// Brings the values up to date. The `process_*` metrics are read from `/proc` and stay zero
    /// where there is none.
    pub fn observe(&self) {
        if let Some((logs, dropped)) = &self.dropped {
            dropped.inc_by(logs.dropped().saturating_sub(dropped.get()));
        }
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

fn register_build_info(registrar: &Registrar) -> prometheus::Result<()> {
    let features = match (cfg!(feature = "dev"), cfg!(feature = "kubernetes")) {
        (true, true) => "dev,kubernetes",
        (true, false) => "dev",
        (false, true) => "kubernetes",
        (false, false) => "",
    };
    let opts = Opts::new(prefixed("build_info"), "What is running.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("features", features);
    registrar.register(IntGauge::with_opts(opts)?)?.set(1);
    Ok(())
}

struct Stat {
    cpu_ticks: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

/// Parses `/proc/self/stat` (proc(5)). Fields are counted from the last `)`, because the command's
/// name may contain anything. A tick is 1/100 s and a page 4 KiB on every platform that the image
/// is built for.
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

/// Returns how many file descriptors this process may open (its soft limit), if that can be read.
#[cfg(unix)]
pub fn descriptor_limit() -> Option<u64> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok()?;
    Some(soft)
}

/// Returns nothing: the limit is only known on Unix.
#[cfg(not(unix))]
pub fn descriptor_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_a_counter_that_only_grows() {
        let registrar = Registrar::default();
        let process = ProcessMetrics::new(&registrar, 0, None).expect("registered");
        process.observe();
        let before = process.cpu_seconds.get();
        process.observe();
        assert!(process.cpu_seconds.get() >= before);
        let text = registrar.encode().expect("text");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }

    #[test]
    fn command_name_may_contain_anything() {
        let stat = parse("42 (a) b) S 1 1 1 0 -1 0 0 0 0 0 250 150 0 0 20 0 7 0 100 4096000 321 0").expect("stat");
        assert!((stat.cpu_ticks - 400.0).abs() < f64::EPSILON);
        assert!((stat.threads - 7.0).abs() < f64::EPSILON);
        assert!((stat.virtual_bytes - 4_096_000.0).abs() < f64::EPSILON);
        assert!((stat.resident_pages - 321.0).abs() < f64::EPSILON);
        assert!(parse("").is_none());
    }
}
