//! Notices that the configuration file, or a file that it names, has another content than what was loaded.
//!
//! Directories are watched, not files: Kubernetes replaces a mounted ConfigMap by swapping a symbolic link, after which a watch
//! on the file itself is dead. What counts is the content: an event only says "look again", and a look every 30 seconds
//! covers what no event tells (a network file system, a directory that was made anew).
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
/// How long a directory must have been quiet: an editor and a ConfigMap's swap make several events.
const QUIET: Duration = Duration::from_millis(200);
/// A directory that is never quiet is looked at all the same.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// What a set of files held when they were read: a digest for each, or nothing for one that could not be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl Fingerprint {
    /// Records what was read from `path`; `None` where it could not be read.
    pub(crate) fn record(&mut self, path: PathBuf, content: Option<&[u8]>) {
        self.0.insert(path, content.map(sha256));
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The same files as they are now.
    fn refreshed(&self) -> Self {
        let read = |path: &PathBuf| (path.clone(), read_bounded(path).ok().map(|bytes| sha256(&bytes)));
        Self(self.0.keys().map(read).collect())
    }
}

impl fmt::Debug for Fingerprint {
    /// The files alone: a short secret can be found by its digest.
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

/// The task that watches.
#[derive(Debug)]
pub struct Watch {
    followed: watch::Receiver<Fingerprint>,
    changed: mpsc::Sender<()>,
}

/// The other end: says when something has changed, and is told what was loaded then.
#[derive(Debug)]
pub struct Changes {
    follow: watch::Sender<Fingerprint>,
    changed: mpsc::Receiver<()>,
}

impl Changes {
    /// Waits until a followed file has another content than its fingerprint says; `None` once the task has ended.
    pub async fn next(&mut self) -> Option<()> {
        self.changed.recv().await
    }

    /// Follows these files from now on: what a load has read, whether it succeeded or not.
    pub fn follow(&self, fingerprint: Fingerprint) {
        self.follow.send_replace(fingerprint);
    }
}

impl Watch {
    /// Watches what `load` has read. A change between the load and the first look is not missed.
    pub fn new(fingerprint: Fingerprint) -> (Self, Changes) {
        let (follow, followed) = watch::channel(fingerprint);
        // One pending event is enough: whoever takes it looks at everything.
        let (sender, changed) = mpsc::channel(1);
        (Self { followed, changed: sender }, Changes { follow, changed })
    }

    /// Runs until it is told to stop, or until nobody listens any more.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let (poke, mut poked) = mpsc::channel(1);
        let mut directories = Directories::new(poke);
        let mut reported = None;
        loop {
            if self.followed.has_changed().unwrap_or(false) {
                // It was followed anew while events settled: what was reported before was answered.
                reported = None;
            }
            let known = self.followed.borrow_and_update().clone();
            directories.watch(&known);
            let now = look(known.clone()).await?;
            // A content is reported once; whoever loads it, well or not, answers by following what it has read.
            if now == known {
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
                Some(()) = poked.recv() => settle(&mut poked).await,
                () = sleep(POLL) => directories.forget(),
            }
        }
    }
}

/// Reading may block, so it leaves the runtime's thread.
async fn look(known: Fingerprint) -> Result<Fingerprint, String> {
    tokio::task::spawn_blocking(move || known.refreshed()).await.map_err(|error| error.to_string())
}

/// Waits until no event has come for a while.
async fn settle(poked: &mut mpsc::Receiver<()>) {
    let quiet = async { while let Ok(Some(())) = timeout(QUIET, poked.recv()).await {} };
    tokio::select! {
        () = quiet => {}
        () = sleep_until(Instant::now() + LONGEST_DEBOUNCE) => {}
    }
}

/// The directories of the followed files, as far as they can be watched.
struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    poke: mpsc::Sender<()>,
}

impl Directories {
    fn new(poke: mpsc::Sender<()>) -> Self {
        let mut directories = Self { watcher: None, watched: BTreeSet::new(), poke };
        directories.forget();
        directories
    }

    /// Starts over: a directory that was removed and made again is another one to the kernel.
    fn forget(&mut self) {
        let poke = self.poke.clone();
        // A full channel has an event in it already.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = poke.try_send(());
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched; they are looked at every 30 seconds");
        }
        self.watcher = watcher.ok();
        self.watched.clear();
    }

    /// Watches what is not yet watched. What cannot be watched, such as a directory that does not exist, is left to the poll.
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

/// The directory in which a file is named, and the one in which it is, if its name is a symbolic link.
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

    const PATIENCE: Duration = Duration::from_secs(20);

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
            timeout(PATIENCE, self.changes.next()).await.expect("a change is noticed").expect("it runs");
        }

        async fn stop(self) {
            self.stopper.stop();
            timeout(PATIENCE, self.task).await.expect("it stops").expect("no panic").expect("no error");
        }
    }

    #[tokio::test]
    async fn every_swap_of_a_config_map_is_noticed() {
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
    async fn files_that_are_named_count_and_the_same_content_does_not() {
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
    async fn a_change_before_the_first_look_is_noticed() {
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
    async fn a_content_that_was_gone_when_it_was_loaded_is_noticed_again() {
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
    fn pipes_devices_and_large_files_are_not_read() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(read_bounded(Path::new("/dev/zero")).is_err());
        assert!(read_bounded(root.path()).is_err());
        let large = root.path().join("large");
        fs::write(&large, vec![b'x'; super::super::tree::MAX_BYTES + 1]).expect("written");
        assert!(read_bounded(&large).is_err());
    }
}
