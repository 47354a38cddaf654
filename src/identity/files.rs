//! PEM files as the source. Their writer (cert-manager, spiffe-helper, a person) may write them in
//! any order.
use super::handle::Identity;
use super::jwt::JwtIssuer;
use super::material::{self, Material};
use super::metrics::Metrics;
use super::pem;
use super::publisher::Publisher;
use super::snapshot::CheckedUpdate;
use crate::clock::Clock;
use crate::tasks::Stop;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// The files to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSettings {
    /// The X.509-SVID, followed by its intermediates.
    pub certificate: PathBuf,
    /// The private key of the SVID: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// The authorities of the workload's own trust domain.
    pub bundle: PathBuf,
}

/// The task that watches one set of files. [`Self::run`] keeps the [`Identity`] that was created
/// with it current.
pub struct Files {
    settings: FilesSettings,
    publisher: Publisher,
    /// The contents that were checked last, so that unchanged files are checked once.
    checked: Option<Contents>,
}

#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    bundle: Vec<u8>,
}

/// Events of one change arrive in a burst: a mounted ConfigMap's `..data` causes seven.
const SETTLE: Duration = Duration::from_millis(200);
/// How long files that do not fit together yet have until they count as a bad update.
const GRACE: Duration = Duration::from_secs(1);
/// How often files are read even if the watcher reports nothing: while there is a valid identity,
/// and while there is none.
const POLL: Duration = Duration::from_secs(30);
const POLL_EMPTY: Duration = Duration::from_secs(2);
/// How often the wall clock is read.
const TICK: Duration = Duration::from_secs(1);
const MAX_FILE: u64 = 1024 * 1024;

impl Files {
    /// Creates the task and the handle for readers.
    pub fn new(settings: FilesSettings, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let source = format!("the files {} and its neighbours", settings.certificate.display());
        let (publisher, identity) = Publisher::new(source, JwtIssuer::None, clock, metrics);
        (Self { settings, publisher, checked: None }, identity)
    }

    /// Watches the files until `stop` fires. It waits for missing files, so nothing else ends the
    /// task.
    ///
    /// # Errors
    /// It never fails; the result has the type that [`crate::tasks::Tasks`] expects.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let changed = Arc::new(Notify::new());
        let mut watch = Watch::new(&self.settings, changed.clone());
        loop {
            watch.refresh();
            self.read_and_publish().await;
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                () = self.pause(&changed) => {}
            }
        }
    }

    /// Waits until something may have changed.
    async fn pause(&mut self, changed: &Notify) {
        let poll = if self.publisher.has_valid() { POLL } else { POLL_EMPTY };
        let until = Instant::now() + poll;
        while Instant::now() < until {
            tokio::select! {
                () = changed.notified() => return sleep(SETTLE).await,
                () = sleep(TICK) => {
                    if self.publisher.check_expiry() {
                        return;
                    }
                }
            }
        }
    }

    /// Reads the files, and publishes them if they are new and good.
    async fn read_and_publish(&mut self) {
        let contents = match self.read().await {
            Ok(contents) => contents,
            Err(why) => {
                self.checked = None;
                self.publisher.set_connected(false);
                return self.publisher.report_waiting("unreadable", &why);
            }
        };
        self.publisher.set_connected(true);
        if self.checked.as_ref() == Some(&contents) {
            // The files were refused before, possibly because of a wrong clock, which may have been
            // corrected since.
            if !self.publisher.has_valid()
                && let Ok(checked) = self.check(&contents)
            {
                self.publisher.publish(checked);
            }
            return;
        }
        match self.check(&contents) {
            Ok(checked) => self.publisher.publish(checked),
            Err(_) => {
                // The files may be half written. If they change in the meantime, the next round
                // checks the new contents.
                sleep(GRACE).await;
                if self.read().await.ok().as_ref() != Some(&contents) {
                    return;
                }
                match self.check(&contents) {
                    Ok(checked) => self.publisher.publish(checked),
                    Err(refused) => self.publisher.refuse(&refused),
                }
            }
        }
        self.checked = Some(contents);
    }

    fn check(&self, contents: &Contents) -> Result<CheckedUpdate, material::UpdateRefused> {
        let unusable =
            |path: &Path, why: String| material::UpdateRefused::Unusable(format!("{}: {why}", path.display()));
        let chain =
            pem::certificates(&contents.certificate).map_err(|why| unusable(&self.settings.certificate, why))?;
        let key = pem::private_key(&contents.key, &chain).map_err(|why| unusable(&self.settings.key, why))?;
        let bundle = pem::certificates(&contents.bundle).map_err(|why| unusable(&self.settings.bundle, why))?;
        let material = Material { chain, key, bundle, federated: Vec::new(), named: None, hint: None };
        material::check(material, self.publisher.now())
    }

    async fn read(&self) -> Result<Contents, String> {
        Ok(Contents {
            certificate: read_file("certificate", &self.settings.certificate).await?,
            key: Zeroizing::new(read_file("key", &self.settings.key).await?),
            bundle: read_file("bundle", &self.settings.bundle).await?,
        })
    }
}

async fn read_file(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    let explain = |why: String| format!("identity.files.{setting}: {} cannot be read yet: {why}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(|error| explain(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).await.map_err(|error| explain(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(explain(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// Watches directories, because the watch of a file ends with the first symlink swap or rename.
struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    missing: BTreeSet<PathBuf>,
}

impl Watch {
    fn new(settings: &FilesSettings, changed: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(&event)) {
                changed.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!("identity: files cannot be watched and are polled instead: {error}"))
            .ok();
        let parent = |path: &PathBuf| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.unwrap_or(Path::new(".")).to_owned()
        };
        let missing = [&settings.certificate, &settings.key, &settings.bundle].map(parent).into();
        Self { watcher, missing }
    }

    /// Adds directories that did not exist before.
    fn refresh(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        self.missing.retain(|directory| watcher.watch(directory, RecursiveMode::NonRecursive).is_err());
    }
}

/// Whether an event may be a change of a file. Opening a file is an event, too, and reading the
/// files causes it.
fn is_change(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Authority, Issued, LeafShape, pem};
    use crate::identity::{JwtSvidError, MissingKind};
    use crate::telemetry::Registrar;
    use std::path::PathBuf;

    const ID: &str = "spiffe://example.org/agent";

    /// A file source that watches a directory to which the test writes.
    struct Fixture {
        directory: tempfile::TempDir,
        authority: Authority,
        identity: Identity,
        clock: Clock,
        task: tokio::task::JoinHandle<Result<(), String>>,
        _stopper: crate::tasks::Stopper,
    }

    impl Fixture {
        #[expect(clippy::disallowed_methods, reason = "a test owns its task")]
        fn start() -> Self {
            let directory = tempfile::tempdir().expect("directory");
            let settings = FilesSettings {
                certificate: directory.path().join("svid/tls.crt"),
                key: directory.path().join("svid/tls.key"),
                bundle: directory.path().join("svid/ca.crt"),
            };
            let clock = Clock::shiftable();
            let metrics = Metrics::new(&Registrar::default()).expect("metrics");
            let (files, identity) = Files::new(settings, clock.clone(), metrics);
            let (stopper, stop) = Stop::pair();
            let task = tokio::spawn(files.run(stop));
            Self { directory, authority: Authority::new("example.org"), identity, clock, task, _stopper: stopper }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join("svid").join(name)
        }

        fn write(&self, directory: &Path, issued: &Issued) {
            std::fs::create_dir_all(directory).expect("directory");
            let write = |name: &str, text: String| std::fs::write(directory.join(name), text).expect("file");
            write("ca.crt", pem("CERTIFICATE", &self.authority.bundle()));
            write("tls.crt", pem("CERTIFICATE", &issued.chain[0]));
            write("tls.key", pem("PRIVATE KEY", &issued.key));
        }

        fn issue(&self) -> Issued {
            self.authority.issue(LeafShape::new(ID))
        }

        /// Waits until the status satisfies `wanted`.
        async fn until(&self, wanted: impl Fn(&crate::identity::SourceStatus) -> bool) {
            let waiting = async {
                while !wanted(&self.identity.status()) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the status is reached");
        }

        async fn until_in_use(&self, issued: &Issued) {
            let in_use = || self.identity.current().is_ok_and(|snapshot| snapshot.svid.chain == issued.chain);
            self.until(|_| in_use()).await;
        }
    }

    #[tokio::test]
    async fn missing_files_are_used_and_followed_once_they_exist() {
        let fixture = Fixture::start();
        fixture
            .until(|status| status.waiting_for.as_ref().is_some_and(|why| why.contains("identity.files.certificate")))
            .await;
        let first = fixture.issue();
        fixture.write(&fixture.path(""), &first);
        fixture.until_in_use(&first).await;
        let second = fixture.issue();
        fixture.write(&fixture.path(""), &second);
        fixture.until_in_use(&second).await;
        let error = fixture.identity.jwt_svid("https://as.example").await.expect_err("files hold none");
        assert_eq!(error, JwtSvidError::NoSource);
        assert!(!fixture.task.is_finished());
    }

    /// Kubernetes mounts `..data` as a symlink and swaps it.
    #[tokio::test]
    async fn symlink_swap_is_noticed() {
        let fixture = Fixture::start();
        let versions = [fixture.path("..1"), fixture.path("..2")];
        let issued = [fixture.issue(), fixture.issue()];
        for (directory, issued) in versions.iter().zip(&issued) {
            fixture.write(directory, issued);
        }
        let swap = |to: &Path| {
            std::os::unix::fs::symlink(to, fixture.path("..tmp")).expect("symlink");
            std::fs::rename(fixture.path("..tmp"), fixture.path("..data")).expect("rename");
        };
        swap(&versions[0]);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            std::os::unix::fs::symlink(Path::new("..data").join(name), fixture.path(name)).expect("symlink");
        }
        fixture.until_in_use(&issued[0]).await;
        swap(&versions[1]);
        fixture.until_in_use(&issued[1]).await;
    }

    #[tokio::test]
    async fn half_written_or_broken_files_keep_the_old_identity() {
        let fixture = Fixture::start();
        let first = fixture.issue();
        fixture.write(&fixture.path(""), &first);
        fixture.until_in_use(&first).await;

        let second = fixture.issue();
        std::fs::write(fixture.path("tls.crt"), pem("CERTIFICATE", &second.chain[0])).expect("file");
        fixture.until(|status| status.last_refused.as_ref().is_some_and(|why| why.contains("does not belong"))).await;
        fixture.until_in_use(&first).await;
        std::fs::write(fixture.path("tls.key"), pem("PRIVATE KEY", &second.key)).expect("file");
        fixture.until_in_use(&second).await;

        std::fs::write(fixture.path("tls.key"), "-----BEGIN PRIVATE").expect("file");
        fixture.until(|status| status.last_refused.as_ref().is_some_and(|why| why.contains("tls.key"))).await;
        std::fs::remove_file(fixture.path("ca.crt")).expect("removed");
        fixture.until(|status| !status.connected).await;
        assert!(fixture.identity.is_valid(), "the old one stays");
    }

    #[tokio::test]
    async fn expired_files_are_not_used() {
        let fixture = Fixture::start();
        let first = fixture.issue();
        fixture.write(&fixture.path(""), &first);
        fixture.until_in_use(&first).await;
        fixture.clock.shift(7200);
        assert_eq!(fixture.identity.current().err().map(|missing| missing.kind), Some(MissingKind::Expired));
        let mut shape = LeafShape::new(ID);
        shape.not_after = fixture.clock.now().plus(Duration::from_secs(3600));
        let second = fixture.authority.issue(shape);
        fixture.write(&fixture.path(""), &second);
        fixture.until_in_use(&second).await;
    }

    #[test]
    fn reading_files_is_not_a_change() {
        use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
        let is_change = |kind| is_change(&notify::Event::new(kind));
        assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(EventKind::Create(CreateKind::File)));
        assert!(is_change(EventKind::Modify(ModifyKind::Name(RenameMode::To))));
    }

    #[tokio::test]
    async fn refused_files_become_usable_when_the_clock_is_corrected() {
        let fixture = Fixture::start();
        fixture.clock.shift(7200);
        let issued = fixture.issue();
        fixture.write(&fixture.path(""), &issued);
        fixture.until(|status| status.last_refused.as_ref().is_some_and(|why| why.contains("expired"))).await;
        fixture.clock.shift(-7200);
        fixture.until_in_use(&issued).await;
    }

    #[tokio::test]
    async fn oversized_file_is_not_read() {
        let fixture = Fixture::start();
        fixture.write(&fixture.path(""), &fixture.issue());
        std::fs::write(fixture.path("tls.crt"), vec![b'a'; 2 * 1024 * 1024]).expect("file");
        fixture.until(|status| status.waiting_for.as_ref().is_some_and(|why| why.contains("larger than"))).await;
    }
}
