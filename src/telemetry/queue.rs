//! A writer that never blocks: lines wait for one thread in a queue that is bounded in bytes, and what does not fit is counted.
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait for a reader that is slow; as many again may be on their way to it.
const ROOM: usize = 2 * 1024 * 1024;
/// How long the end waits for one that may have stalled.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes whole lines. Clones fill the same queue.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The thread has taken lines that it has not written yet.
    writing: bool,
}

impl Queue {
    /// Starts the thread that writes to `sink`; it ends with the process.
    pub(super) fn start(sink: impl Write + Send + 'static) -> Self {
        let shared = Shared { waiting: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0) };
        let queue = Self(Arc::new(shared));
        let writer = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writer.write_to(sink)).expect("a process that just started may have a thread");
        queue
    }

    /// Lines that were lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was taken is written, but not for ever.
    pub(super) fn settle(&self) {
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        // Whoever has read nothing by then reads nothing.
        drop(self.0.changed.wait_timeout_while(self.lock(), PATIENCE, unwritten));
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
                self.lost(lines.iter().filter(|byte| **byte == b'\n').count());
            }
            lines.clear();
            // One stall must not be paid for ever.
            lines.shrink_to(64 * 1024);
            waiting = self.lock();
            waiting.writing = false;
            self.0.changed.notify_all();
        }
    }

    fn lost(&self, lines: usize) {
        self.0.dropped.fetch_add(lines as u64, Ordering::Relaxed);
    }

    /// Held for the copy of a line, never while anything is written.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > ROOM {
            drop(waiting);
            self.lost(1);
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

    /// Blocks in every write until it is read from.
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
    fn what_was_taken_is_written_in_order_before_the_end() {
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
        queue.settle();
        assert_eq!(reading.join().expect("read"), lines.concat().into_bytes());
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_its_return_brings_them_back() {
        let (mut queue, reader) = pipe();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let mut taken = 0;
        while queue.dropped() < 3 {
            queue.write_all(&line).expect("never blocks");
            taken += 1;
        }
        let fits = 2 * ROOM / line.len() + 3;
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
    fn a_reader_that_is_gone_is_counted() {
        let (mut queue, reader) = pipe();
        drop(reader);
        queue.write_all(b"one\n").expect("never fails");
        queue.settle();
        assert_eq!(queue.dropped(), 1);
    }
}
