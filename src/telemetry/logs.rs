//! The log. Lines go through a bounded writer that never blocks, so that a reader that stalls
//! loses lines, which are counted, but never delays requests.
use super::level::Level;
use super::queue::Queue;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry as Subscriber, fmt, reload};

/// Which log lines are written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The log level: less important lines are not written.
    pub level: Level,
    /// The format of log lines.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One line of text for people.
    Pretty,
}

/// A text that is neither a log level nor a filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a log level: use off, error, warn, info, debug or trace, or a list like `info,idjag_proxy::token=debug`"
)]
pub struct LevelError(String);

/// The log of this process. Its level can be changed at run time. Clones share it.
#[derive(Clone)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Subscriber>,
    queue: Queue,
}

impl Logs {
    /// Starts the log on standard output.
    pub fn start(settings: LogSettings) -> Self {
        let filter = filter(settings.level.as_str()).expect("the name of a level is a filter");
        let (filter, handle) = reload::Layer::new(filter);
        let queue = Queue::start(std::io::stdout());
        let writer = queue.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_target(true);
        let base = tracing_subscriber::registry().with(filter);
        match settings.format {
            LogFormat::Json => base.with(lines.json().flatten_event(true).with_current_span(false)).init(),
            LogFormat::Pretty => {
                let lines = lines.compact();
                // Only a terminal shows colours. Elsewhere they are stray bytes that get in the way
                // of a search.
                base.with(if std::io::stdout().is_terminal() { lines } else { lines.with_ansi(false) }).init();
            }
        }
        Self { filter: handle, queue }
    }

    /// Changes the level from now on.
    ///
    /// # Errors
    /// `level` is neither a level nor a filter.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|_| LevelError(level.to_owned()))
    }

    /// Waits at the end of the process until all lines are written, at most for a second.
    pub fn flush(&self) {
        self.queue.wait_until_written();
    }

    /// Returns the current level.
    pub fn level(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Returns the number of lines that were lost because the reader stalled.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

/// Parses `level`. A plain level applies to our own modules; libraries log warnings only, because
/// some of them log content that must not be logged. `kube_client` is silent: it also returns the
/// errors that it logs, and its lines may contain whole objects. `notify` warns whenever a file is
/// replaced, which happens with every ConfigMap, so it logs only errors.
fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let error = || LevelError(level.to_owned());
    // An empty text would parse as a level.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    // A misspelled level would be taken for the name of a module, and everything else would be
    // silent.
    if !level.split(',').all(|part| part.contains('=') || is_level(part)) {
        return Err(error());
    }
    let directives = match level.parse() {
        Ok(LevelFilter::OFF) => "off".to_owned(),
        Ok(level) => format!("warn,kube_client=off,notify=error,idjag_proxy={level}"),
        Err(_) => level.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_a_name_or_a_list_of_directives() {
        for level in Level::ALL {
            assert!(filter(level.as_str()).is_ok(), "{level:?}");
        }
        for good in ["info", "warn", "off", "INFO", "info,idjag_proxy::token=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["info,idjag_proxy=loud", "degub", "info,degub", "", "info,"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        assert_eq!(filter("debug").expect("level").to_string(), "kube_client=off,idjag_proxy=debug,notify=error,warn");
    }
}
