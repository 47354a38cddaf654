//! What the process logs. One subscriber for all tests: scoped ones miss call sites that another thread met first.
use std::sync::{Arc, Mutex, OnceLock};

/// The lines of all tests since the first that asked.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

/// Starts capturing, once. Lines of other tests are among them: look for something of your own.
pub(crate) fn capture() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(|| {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
        tracing::subscriber::set_global_default(log).expect("no other subscriber in this binary");
        lines
    })
}

impl Lines {
    /// How many lines are as wanted.
    pub(crate) fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let bytes = self.0.lock().expect("no panic").clone();
        String::from_utf8_lossy(&bytes).lines().filter(|line| wanted(line)).count()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
