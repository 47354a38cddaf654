//! PEM files as the source: whatever writes them (cert-manager, spiffe-helper, a person) may write them in any order.
use super::handle::Identity;
use super::jwt::JwtIssuer;
use super::material::{self, Checked, Material};
use super::metrics::Metrics;
use super::pem;
use super::publisher::Publisher;
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

/// Which files.
#[derive(Clone, Debug)]
pub struct FilesSettings {
    /// The X.509-SVID, its intermediates behind it.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// The authorities of our own trust domain.
    pub bundle: PathBuf,
}

/// The owner of one set of files. [`Self::run`] keeps the [`Identity`] that came with it current.
pub struct Files {
    settings: FilesSettings,
    publisher: Publisher,
    /// The contents judged last, so that the same are judged once.
    judged: Option<Contents>,
}

#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    bundle: Vec<u8>,
}

/// Events of one change come in a burst (`..data` of a ConfigMap: seven).
const SETTLE: Duration = Duration::from_millis(200);
/// Files that do not fit together yet get this long until that is called a bad update.
const GRACE: Duration = Duration::from_secs(1);
/// The safety net under the watcher, and how often to look while there is nothing.
const POLL: Duration = Duration::from_secs(30);
const POLL_EMPTY: Duration = Duration::from_secs(2);
/// How often the wall clock is looked at.
const TICK: Duration = Duration::from_secs(1);
const MAX_FILE: u64 = 1024 * 1024;

impl Files {
    /// The owner and what readers get.
    pub fn new(settings: FilesSettings, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let source = format!("the files {} and its neighbours", settings.certificate.display());
        let (publisher, identity) = Publisher::new(source, JwtIssuer::None, clock, metrics);
        (Self { settings, publisher, judged: None }, identity)
    }

    /// Follows the files until told to stop. Missing ones are waited for, so it ends for no other reason.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let changed = Arc::new(Notify::new());
        let mut watch = Watch::new(&self.settings, changed.clone());
        loop {
            watch.refresh();
            self.look().await;
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                () = self.pause(&changed) => {}
            }
        }
    }

    /// Until something may have changed.
    async fn pause(&mut self, changed: &Notify) {
        let poll = if self.publisher.has_valid() { POLL } else { POLL_EMPTY };
        let until = Instant::now() + poll;
        while Instant::now() < until {
            tokio::select! {
                () = changed.notified() => return sleep(SETTLE).await,
                () = sleep(TICK) => {
                    if self.publisher.note_expiry() {
                        return;
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        let contents = match self.read().await {
            Ok(contents) => contents,
            Err(why) => {
                self.publisher.set_connected(false);
                return self.publisher.waiting("unreadable", &why);
            }
        };
        self.publisher.set_connected(true);
        if self.judged.as_ref() == Some(&contents) {
            return;
        }
        match self.judge(&contents) {
            Ok(checked) => self.publisher.publish(checked),
            Err(_) => {
                // Perhaps only half of them is written yet; if they change meanwhile, the next look judges the new ones.
                sleep(GRACE).await;
                if self.read().await.ok().as_ref() != Some(&contents) {
                    return;
                }
                match self.judge(&contents) {
                    Ok(checked) => self.publisher.publish(checked),
                    Err(refused) => self.publisher.refuse(&refused),
                }
            }
        }
        self.judged = Some(contents);
    }

    fn judge(&self, contents: &Contents) -> Result<Checked, material::Refused> {
        let unusable = |path: &Path, why: String| material::Refused::Unusable(format!("{}: {why}", path.display()));
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

/// Watches directories, since a file's own watch dies with the first symlink swap or rename.
struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    missing: BTreeSet<PathBuf>,
}

impl Watch {
    fn new(settings: &FilesSettings, changed: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| changed.notify_one());
        let watcher =
            watcher.inspect_err(|error| tracing::warn!("identity: files cannot be watched, only polled: {error}")).ok();
        let parent = |path: &PathBuf| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.unwrap_or(Path::new(".")).to_owned()
        };
        let missing = [&settings.certificate, &settings.key, &settings.bundle].map(parent).into();
        Self { watcher, missing }
    }

    /// Adds the directories that were not there before.
    fn refresh(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        self.missing.retain(|directory| watcher.watch(directory, RecursiveMode::NonRecursive).is_err());
    }
}
