//! Log lines go through a bounded writer that never blocks: a reader that stalls costs lines, which are counted, never requests.
use super::queue::Queue;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry as Subscriber, fmt, reload};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Pretty,
}

/// A log level or a filter that is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a log level: use off, error, warn, info, debug or trace, or a list like `info,idjag_proxy::token=debug`"
)]
pub struct LevelError(String);

/// The log of this process, and the means to change its level while it runs.
#[derive(Clone)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Subscriber>,
    queue: Queue,
}

impl Logs {
    /// Starts the log on standard output.
    pub fn start(level: &str, format: Format) -> Result<Self, LevelError> {
        let (filter, handle) = reload::Layer::new(filter(level)?);
        let queue = Queue::start(std::io::stdout());
        let writer = queue.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_target(true);
        let base = tracing_subscriber::registry().with(filter);
        match format {
            Format::Json => base.with(lines.json().flatten_event(true).with_current_span(false)).init(),
            Format::Pretty => {
                let lines = lines.compact();
                // Only a terminal shows colours; elsewhere they are bytes between the words that one searches for.
                base.with(if std::io::stdout().is_terminal() { lines } else { lines.with_ansi(false) }).init();
            }
        }
        Ok(Self { filter: handle, queue })
    }

    /// Changes the level from now on.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|_| LevelError(level.to_owned()))
    }

    /// Waits until what was logged is written, but not for ever: for the end of the process.
    pub fn flush(&self) {
        self.queue.settle();
    }

    /// The level of now.
    pub fn level(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// The number of lines that were lost so far because the reader stalled.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

/// The parts' own lines by `level`; libraries only when something is wrong, because some log what is none of our business. The client
/// of Kubernetes not even then: it returns what it logs, and what it logs may be an object. What watches files warns of each that is
/// replaced, as every ConfigMap is.
fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let error = || LevelError(level.to_owned());
    // Nothing at all would be a level, too.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    // A misspelt level would be the name of a part that nobody has, and all else would be silent.
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
    fn levels_are_names_or_directives() {
        for good in ["info", "warn", "off", "INFO", "info,idjag_proxy::token=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["info,idjag_proxy=loud", "degub", "info,degub", "", "info,"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        assert_eq!(filter("debug").expect("level").to_string(), "kube_client=off,idjag_proxy=debug,notify=error,warn");
    }
}
