//! A fixture for tests: a directory with every file that the examples name.
use super::{Loaded, Overrides, Problems, load};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory like one that a proxy is started in.
pub(super) struct ConfigDirectory(TempDir);

impl ConfigDirectory {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for inner in ["keys", "run", "svid"] {
            fs::create_dir(directory.path().join(inner)).expect("a directory");
        }
        let this = Self(directory);
        for key in ["keys/assertion.pem", "keys/assertion-2026-09.pem", "keys/assertion-2026-10.pem", "keys/client.pem"]
        {
            this.write(key, &rcgen::KeyPair::generate().expect("a key").serialize_pem());
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(Vec::new()).expect("names").self_signed(&key).expect("signed");
        for file in ["keys/calendar-ca.pem", "keys/internal-ca.pem"] {
            this.write(file, &certificate.pem());
        }
        for file in ["keys/client-secret", "keys/search-api-key", "keys/model-api-key"] {
            this.write(file, "canary-5c0e\n");
        }
        this.write("keys/egress-proxy", "agent:canary-5c0e\n");
        this
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(super) fn write(&self, file: &str, content: &str) {
        fs::write(self.path(file), content).expect("written");
    }

    pub(super) fn load_with(
        &self,
        text: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Problems> {
        self.write("proxy.yaml", text);
        load(&self.path("proxy.yaml"), environment, &Overrides::default())
    }

    /// Loads the text, with a Workload API socket in the environment.
    pub(super) fn load(&self, text: &str) -> Result<Loaded, Problems> {
        self.load_with(text, &|name| (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "unix:///run/spire/agent.sock".into()))
    }

    pub(super) fn loaded(&self, text: &str) -> Loaded {
        self.load(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    /// Every error of the text as `line:column: path: message (help)`.
    pub(super) fn errors(&self, text: &str) -> Vec<String> {
        match self.load(text) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.errors.iter().map(|problem| self.short(problem)).collect(),
        }
    }

    /// Every warning of a text without errors, in the same form.
    pub(super) fn warnings(&self, text: &str) -> Vec<String> {
        self.loaded(text).warnings.iter().map(|problem| self.short(problem)).collect()
    }

    fn short(&self, problem: &super::Problem) -> String {
        problem.to_string().replace(&format!("{}/", self.0.path().display()), "").replacen("proxy.yaml:", "", 1)
    }
}
