//! Captures the log of this process. All tests share one subscriber, because a scoped one misses
//! call sites that another thread reached first.
use std::sync::{Arc, Mutex, OnceLock};

/// The lines of all tests since capturing started.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

/// Starts capturing, once for all tests. The lines of other tests are included, so search for a
/// text that is unique to the test.
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
    /// Counts the lines that satisfy `wanted`.
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
