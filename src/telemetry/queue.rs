//! A writer that never blocks. Lines wait in a queue that is bounded in bytes until one thread
//! writes them. Lines that do not fit are dropped and counted.
use crate::sync::lock;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many bytes may wait for a slow reader. As many again may be in the hands of the writing
/// thread.
const CAPACITY: usize = 2 * 1024 * 1024;
/// How long the end of the process waits for a reader that may have stalled.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts whole lines. Clones write to the same queue.
#[derive(Clone)]
pub(super) struct Queue(Arc<QueueInner>);

struct QueueInner {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Whether the thread is writing lines that it took from the queue.
    writing: bool,
}

impl Queue {
    /// Starts the thread that writes to `sink`; it ends with the process.
    pub(super) fn start(sink: impl Write + Send + 'static) -> Self {
        let shared = QueueInner { waiting: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0) };
        let queue = Self(Arc::new(shared));
        let writer = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writer.write_to(sink)).expect("a process that just started may have a thread");
        queue
    }

    /// Returns the number of lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all accepted lines are written, at most for [`FLUSH_TIMEOUT`].
    pub(super) fn wait_until_written(&self) {
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        // A reader that has not read by then will not read any more.
        drop(self.0.changed.wait_timeout_while(self.lock(), FLUSH_TIMEOUT, unwritten));
    }

    fn write_to(&self, mut sink: impl Write) {
        let mut lines = Vec::new();
        let mut waiting = self.lock();
        loop {
            while waiting.lines.is_empty() {
                waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut lines, &mut waiting.lines);
            waiting.writing = true;
            drop(waiting);
            if sink.write_all(&lines).and_then(|()| sink.flush()).is_err() {
                self.count_dropped(lines.iter().filter(|byte| **byte == b'\n').count());
            }
            lines.clear();
            // The memory that a stall took is given back.
            lines.shrink_to(64 * 1024);
            waiting = self.lock();
            waiting.writing = false;
            self.0.changed.notify_all();
        }
    }

    fn count_dropped(&self, lines: usize) {
        self.0.dropped.fetch_add(lines as u64, Ordering::Relaxed);
    }

    /// Locks the queue. The lock is held while a line is copied, never while lines are written.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.0.waiting)
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > CAPACITY {
            drop(waiting);
            self.count_dropped(1);
            return Ok(line.len());
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if first {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A sink whose writes block until the test reads.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Queue, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        (Queue::start(Pipe(sender)), receiver)
    }

    #[test]
    fn accepted_lines_are_written_in_order_before_the_end() {
        let (mut queue, reader) = pipe();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !all.ends_with(b"999\n") {
                all.extend(reader.recv().expect("more"));
            }
            all
        });
        let lines: Vec<String> = (0..1000).map(|n| format!("line {n}\n")).collect();
        for line in &lines {
            queue.write_all(line.as_bytes()).expect("never fails");
        }
        queue.wait_until_written();
        assert_eq!(reading.join().expect("read"), lines.concat().into_bytes());
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn lines_are_dropped_while_the_reader_stalls() {
        let (mut queue, reader) = pipe();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let mut taken = 0;
        while queue.dropped() < 3 {
            queue.write_all(&line).expect("never blocks");
            taken += 1;
        }
        let fits = 2 * CAPACITY / line.len() + 3;
        assert!(taken <= fits, "{taken} lines");
        let mut read = 0;
        while read < (taken - 3) * line.len() {
            read += reader.recv().expect("more").len();
        }
        queue.write_all(b"after\n").expect("never fails");
        assert_eq!(reader.recv().expect("more"), b"after\n");
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn line_for_a_closed_reader_is_counted_as_dropped() {
        let (mut queue, reader) = pipe();
        drop(reader);
        queue.write_all(b"one\n").expect("never fails");
        queue.wait_until_written();
        assert_eq!(queue.dropped(), 1);
    }
}
