//! Detects that the content of the configuration file, or of a file that it names, differs from
//! what was loaded.
//!
//! It watches directories, not files: Kubernetes updates a mounted ConfigMap by swapping a symbolic
//! link, after which a watch on the file itself reports nothing. Only the content counts: an event
//! merely triggers a check, and a check every 30 seconds covers changes without events (on a
//! network file system, or in a directory that was created again).
use crate::tasks::Stop;
use aws_lc_rs::digest::{SHA256, digest};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

const POLL: Duration = Duration::from_secs(30);
/// How long a directory must be quiet before its files are checked, because an editor and a
/// ConfigMap update cause several events.
const QUIET: Duration = Duration::from_millis(200);
/// After this time the files are checked even if the directory is never quiet.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// The content of a set of files when they were read: a digest for each, or `None` for a file that
/// could not be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl Fingerprint {
    /// Records what was read from `path`; `None` where it could not be read.
    pub(crate) fn record(&mut self, path: PathBuf, content: Option<&[u8]>) {
        self.0.insert(path, content.map(sha256));
    }

    /// The files of the set.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Reads the same files again.
    fn refreshed(&self) -> Self {
        let read = |path: &PathBuf| (path.clone(), read_bounded(path).ok().map(|bytes| sha256(&bytes)));
        Self(self.0.keys().map(read).collect())
    }
}

impl fmt::Debug for Fingerprint {
    /// Shows the paths alone, because a short secret can be guessed from its digest.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Reads a regular file of at most 1 MiB: a pipe would block, and a device would never end.
pub(crate) fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    use std::io::Read;
    let describe = |error: std::io::Error| error.to_string();
    if !std::fs::metadata(path).map_err(describe)?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = super::tree::MAX_BYTES as u64 + 1;
    std::fs::File::open(path).map_err(describe)?.take(limit).read_to_end(&mut bytes).map_err(describe)?;
    if bytes.len() as u64 == limit { Err("it is larger than 1MiB".into()) } else { Ok(bytes) }
}

/// The task that watches the files.
#[derive(Debug)]
pub struct Watch {
    followed: watch::Receiver<Fingerprint>,
    changed: mpsc::Sender<()>,
}

/// The handle of [`Watch`]: it reports changes, and receives the fingerprint of what was loaded in
/// response.
#[derive(Debug)]
pub struct Changes {
    follow: watch::Sender<Fingerprint>,
    changed: mpsc::Receiver<()>,
}

impl Changes {
    /// Waits until the content of a followed file differs from its fingerprint. Returns `None` once
    /// the task has ended.
    pub async fn next(&mut self) -> Option<()> {
        self.changed.recv().await
    }

    /// Follows these files from now on: those that a load has read, whether it succeeded or not.
    pub fn follow(&self, fingerprint: Fingerprint) {
        self.follow.send_replace(fingerprint);
    }
}

impl Watch {
    /// Watches the files that `load` has read. A change between the load and the first check is not
    /// missed.
    pub fn new(fingerprint: Fingerprint) -> (Self, Changes) {
        let (follow, followed) = watch::channel(fingerprint);
        // One pending event is enough, because its receiver checks everything.
        let (sender, changed) = mpsc::channel(1);
        (Self { followed, changed: sender }, Changes { follow, changed })
    }

    /// Runs until `stop` fires, or until the receiver is dropped.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let (wake, mut events) = mpsc::channel(1);
        let mut directories = Directories::new(wake);
        let mut reported = None;
        loop {
            if self.followed.has_changed().unwrap_or(false) {
                // A new fingerprint arrived while events settled, so the last report was answered.
                reported = None;
            }
            let followed = self.followed.borrow_and_update().clone();
            directories.watch(&followed);
            let now = check(followed.clone()).await?;
            // Each content is reported once. The receiver loads it and answers with the fingerprint
            // of what it has read, even if the load failed.
            if now == followed {
                reported = None;
            } else if reported.as_ref() != Some(&now) {
                reported = Some(now);
                if matches!(self.changed.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                    return Ok(());
                }
            }
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                () = self.changed.closed() => return Ok(()),
                followed = self.followed.changed() => match followed {
                    Ok(()) => reported = None,
                    Err(_) => return Ok(()),
                },
                Some(()) = events.recv() => settle(&mut events).await,
                () = sleep(POLL) => directories.reset(),
            }
        }
    }
}

/// Reads the files again, off the runtime's threads because reading may block.
async fn check(known: Fingerprint) -> Result<Fingerprint, String> {
    tokio::task::spawn_blocking(move || known.refreshed()).await.map_err(|error| error.to_string())
}

/// Waits until there has been no event for a while.
async fn settle(events: &mut mpsc::Receiver<()>) {
    let quiet = async { while let Ok(Some(())) = timeout(QUIET, events.recv()).await {} };
    tokio::select! {
        () = quiet => {}
        () = sleep_until(Instant::now() + LONGEST_DEBOUNCE) => {}
    }
}

/// The directories of the followed files, as far as they can be watched.
struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    wake: mpsc::Sender<()>,
}

impl Directories {
    fn new(wake: mpsc::Sender<()>) -> Self {
        let mut directories = Self { watcher: None, watched: BTreeSet::new(), wake };
        directories.reset();
        directories
    }

    /// Starts over, because a directory that was removed and created again is a different one to
    /// the kernel.
    fn reset(&mut self) {
        let wake = self.wake.clone();
        // If the channel is full, an event is already pending.
        let watcher = notify::recommended_watcher(move |result: notify::Result<notify::Event>| {
            if result.is_ok_and(|event| !event.kind.is_access()) {
                let _ = wake.try_send(());
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched; they are checked every 30 seconds");
        }
        self.watcher = watcher.ok();
        self.watched.clear();
    }

    /// Watches directories that are not watched yet. A directory that cannot be watched, for
    /// example because it does not exist, is left to the poll.
    fn watch(&mut self, fingerprint: &Fingerprint) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = fingerprint.files().flat_map(directories_of).collect();
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        let kept = self.watched.intersection(&wanted).cloned();
        let mut watched: BTreeSet<PathBuf> = kept.collect();
        for new in wanted.difference(&self.watched) {
            if watcher.watch(new, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(new.clone());
            }
        }
        self.watched = watched;
    }
}

/// The directory that contains the file's name, and, if that name is a symbolic link, the directory
/// that contains its target.
fn directories_of(file: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(Path::to_owned),
    };
    let real = std::fs::canonicalize(file).ok().and_then(|real| parent(&real));
    parent(file).into_iter().chain(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn fingerprint(files: &[&Path]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for file in files {
            fingerprint.record(file.to_path_buf(), read_bounded(file).ok().as_ref().map(|bytes| bytes.as_slice()));
        }
        fingerprint
    }

    struct Running {
        changes: Changes,
        task: tokio::task::JoinHandle<Result<(), String>>,
        stopper: crate::tasks::Stopper,
    }

    fn start(fingerprint: Fingerprint) -> Running {
        let (watch, changes) = Watch::new(fingerprint);
        let (stopper, stop) = Stop::pair();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task and awaits its end")]
        let task = tokio::spawn(watch.run(stop));
        Running { changes, task, stopper }
    }

    impl Running {
        async fn changed(&mut self) {
            timeout(TIMEOUT, self.changes.next()).await.expect("a change is reported").expect("it runs");
        }

        async fn stop(self) {
            self.stopper.stop();
            timeout(TIMEOUT, self.task).await.expect("it stops").expect("no panic").expect("no error");
        }
    }

    #[tokio::test]
    async fn every_config_map_update_is_reported() {
        let root = tempfile::tempdir().expect("a directory");
        let mount = root.path();
        let version = |name: &str, content: &str| {
            fs::create_dir(mount.join(name)).expect("a version");
            fs::write(mount.join(name).join("proxy.yaml"), content).expect("its file");
            symlink(name, mount.join("..data_tmp")).expect("a link");
            fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the swap");
        };
        version("..1", "one");
        let file = mount.join("proxy.yaml");
        symlink("..data/proxy.yaml", &file).expect("the file");
        let mut running = start(fingerprint(&[&file]));
        for (name, content) in [("..2", "two"), ("..3", "three"), ("..4", "four")] {
            version(name, content);
            running.changed().await;
            assert_eq!(fs::read_to_string(&file).expect("readable"), content);
            running.changes.follow(fingerprint(&[&file]));
        }
        running.stop().await;
    }

    #[tokio::test]
    async fn change_of_a_named_file_is_reported_and_same_content_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let (config, key) = (root.path().join("proxy.yaml"), root.path().join("key"));
        fs::write(&config, "a").expect("written");
        let mut running = start(fingerprint(&[&config, &key]));
        fs::write(&key, "secret").expect("written");
        running.changed().await;
        running.changes.follow(fingerprint(&[&config, &key]));
        let loaded = fingerprint(&[&config, &key]);
        fs::write(&config, "a").expect("written again");
        assert_eq!(loaded.refreshed(), loaded);
        fs::remove_file(&key).expect("removed");
        running.changed().await;
        running.stop().await;
    }

    #[tokio::test]
    async fn change_before_the_first_check_is_reported() {
        let root = tempfile::tempdir().expect("a directory");
        let config = root.path().join("proxy.yaml");
        fs::write(&config, "a").expect("written");
        let loaded = fingerprint(&[&config]);
        fs::write(&config, "b").expect("written");
        let mut running = start(loaded);
        running.changed().await;
        running.stop().await;
    }

    #[tokio::test]
    async fn content_that_changed_back_and_again_is_reported_again() {
        let root = tempfile::tempdir().expect("a directory");
        let config = root.path().join("proxy.yaml");
        fs::write(&config, "a").expect("written");
        let mut running = start(fingerprint(&[&config]));
        fs::write(&config, "b").expect("written");
        running.changed().await;
        fs::write(&config, "a").expect("written");
        running.changes.follow(fingerprint(&[&config]));
        fs::write(&config, "b").expect("written");
        running.changed().await;
        running.stop().await;
    }

    #[test]
    fn device_directory_and_large_file_are_not_read() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(read_bounded(Path::new("/dev/zero")).is_err());
        assert!(read_bounded(root.path()).is_err());
        let large = root.path().join("large");
        fs::write(&large, vec![b'x'; super::super::tree::MAX_BYTES + 1]).expect("written");
        assert!(read_bounded(&large).is_err());
    }
}
