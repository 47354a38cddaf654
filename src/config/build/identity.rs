//! The source of the identity, the keys that sign our assertions, and whether anything needs them.
use super::Builder;
use crate::assertion::MAX_LIFETIME;
use crate::config::file::{AssertionFile, FilesFile, IdentityFile};
use crate::config::leaf::{SecretPath, Text};
use crate::config::problem::KeyPath;
use crate::config::runtime::Listen;
use crate::exchange::AssertionSettings;
use crate::identity::{Endpoint, FilesSettings, IdentitySource, WorkloadApiSettings, parse_endpoint};
use crate::jose::SigningKey;
use crate::policy::{CredentialRule, Route};
use std::time::Duration;

const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// An assertion that is valid for longer causes a warning, because assertions are used within
/// seconds.
const LONG_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How we sign assertions, and the keys that verify them.
pub(super) struct Assertion {
    pub(super) settings: AssertionSettings,
    pub(super) published: Vec<SigningKey>,
}

impl Builder<'_> {
    /// The source that the command line, the file or the environment names, in this order of
    /// precedence.
    pub(super) fn identity_source(&mut self, file: Option<&IdentityFile>) -> Option<IdentitySource> {
        let identity = KeyPath::default().key("identity");
        let workload_api = file.and_then(|file| file.workload_api.as_ref());
        let files = file.and_then(|file| file.files.as_ref());
        if let (Some(_), Some(_)) = (workload_api, files) {
            self.error(&identity.key("files"), "the identity comes from the Workload API or from files, not from both")
                .help("remove `files` or `workload_api`");
        }
        let overridden = self.inputs.overrides.workload_api_socket.clone();
        if overridden.is_some() && files.is_some() {
            self.warn(
                &identity.key("files"),
                "the command line names a Workload API (`--workload-api-socket`), so these files are not read",
            );
        }
        if let (Some(files), None) = (files, &overridden) {
            return Some(IdentitySource::Files(self.files_settings(files)));
        }
        let from_file = workload_api.and_then(|api| api.socket.as_ref());
        let path = identity.key("workload_api").key("socket");
        let socket = match overridden {
            Some(socket) => socket,
            None => self.socket(&path, from_file)?,
        };
        if socket.is_routable() {
            self.warn(
                &path,
                format!("{socket} is not on this machine: the Workload API has no TLS, so private keys cross the network in the clear"),
            )
            .help("use the Unix socket of the SPIRE agent");
        }
        let hint = workload_api.and_then(|api| api.hint.as_ref()).map(|hint| hint.0.clone());
        Some(IdentitySource::WorkloadApi(WorkloadApiSettings { socket, hint, timing: Default::default() }))
    }

    fn socket(&mut self, path: &KeyPath, written: Option<&Text>) -> Option<Endpoint> {
        let (text, origin) = match written {
            Some(written) => (written.0.clone(), String::new()),
            None => ((self.inputs.environment)(SOCKET_VARIABLE)?, format!("{SOCKET_VARIABLE}: ")),
        };
        match parse_endpoint(&text) {
            Ok(socket) => Some(socket),
            Err(error) => {
                self.error(path, format!("{origin}{error}"));
                None
            }
        }
    }

    fn files_settings(&self, files: &FilesFile) -> FilesSettings {
        FilesSettings {
            certificate: self.resolve(&files.certificate.0),
            key: self.resolve(&files.key.0),
            bundle: self.resolve(&files.bundle.0),
        }
    }

    /// Whether a route needs the identity. If one does and no source is configured, that is an
    /// error.
    pub(super) fn check_needed_identity(&mut self, source: Option<&IdentitySource>, needing: Option<&str>) -> bool {
        let path = KeyPath::default().key("identity");
        match (source, needing) {
            (None, Some(route)) if self.report.has_no_error(&path) => {
                let message =
                    format!("route `{route}` needs this workload's identity, and no source for it is configured");
                self.error(&path, message).help(format!(
                    "set {SOCKET_VARIABLE}, or write identity: {{ workload_api: {{ socket: unix:///… }} }}, or identity: {{ files: … }}"
                ));
            }
            (Some(_), None) if self.is_written(&path.key("workload_api")) || self.is_written(&path.key("files")) => {
                self.warn(&path, "nothing needs an identity, so none is requested");
            }
            _ => {}
        }
        needing.is_some()
    }

    /// The settings of the assertions that we sign, and the keys to publish.
    pub(super) fn assertion(&mut self, file: Option<&IdentityFile>) -> Assertion {
        let path = KeyPath::default().key("identity").key("assertion");
        let Some(file) = file.map(|file| &file.assertion) else {
            return Assertion { settings: AssertionSettings::default(), published: Vec::new() };
        };
        self.check_lifetime(&path.key("lifetime"), file.lifetime);
        self.check_issuer(&path, file);
        let kid = |kid: &Option<Text>| kid.as_ref().map(|kid| kid.0.clone());
        let key = file.key_file.as_ref().and_then(|key| self.signing_key(&path.key("key_file"), key, kid(&file.kid)));
        let mut published: Vec<SigningKey> = key.iter().cloned().collect();
        for (index, retired) in file.retired.iter().enumerate() {
            let path = path.key("retired").index(index);
            let Some(retired) = self.signing_key(&path, &retired.key_file, kid(&retired.kid)) else { continue };
            if published.iter().any(|other| other.kid() == retired.kid()) {
                let message = format!("this is a second key with the id `{}`", retired.kid());
                self.error(&path, message).help("write { key_file: …, kid: … } with the id that the key had");
            }
            published.push(retired);
        }
        let issuer = file.issuer.as_ref().map(|issuer| issuer.0.clone());
        let settings = AssertionSettings { issuer, key, lifetime: file.lifetime, max_depth: file.max_depth.0 };
        Assertion { settings, published }
    }

    fn check_lifetime(&mut self, path: &KeyPath, lifetime: Duration) {
        if lifetime > MAX_LIFETIME {
            self.error(path, "an assertion is valid for an hour at most")
                .help("it is used within seconds: 5m is plenty");
        } else if lifetime > LONG_LIFETIME {
            self.warn(path, "an assertion is used within seconds; a long lifetime only helps someone who steals it")
                .help("5m is plenty; an assertion signed with the SVID's key is worthless once the SVID has expired");
        }
    }

    fn check_issuer(&mut self, path: &KeyPath, file: &AssertionFile) {
        match (&file.issuer, &file.key_file) {
            (None, Some(_)) => {
                self.error(
                    &path.key("issuer"),
                    "`issuer` is required with `key_file`: verifiers find the key by its issuer",
                )
                .help("write the URL under which the keys (see `idjag-proxy jwks`) are published");
            }
            (Some(issuer), _) => self.check_plain_http(&path.key("issuer"), &issuer.0),
            (None, None) => {}
        }
        if file.kid.is_some() && file.key_file.is_none() {
            self.error(&path.key("kid"), "`kid` names the key of `key_file`, which is not given");
        }
    }

    /// Reads a private key from a PEM file.
    pub(super) fn signing_key(&mut self, path: &KeyPath, file: &SecretPath, kid: Option<String>) -> Option<SigningKey> {
        let pem = self.read_or_report(path, &file.0)?;
        match SigningKey::from_pem(&pem, kid) {
            Ok(key) => Some(key),
            Err(error) => {
                let message = format!("{}: {error}", self.resolve(&file.0).display());
                self.error(path, message);
                None
            }
        }
    }

    /// Warns of a listener for keys if there are no keys to publish.
    pub(super) fn warn_of_unpublished(&mut self, assertion: &Assertion, listen: &Listen) {
        let intended = KeyPath::default().key("identity").key("assertion").key("key_file");
        if assertion.published.is_empty() && !listen.jwks.is_empty() && !self.is_written(&intended) {
            let path = KeyPath::default().key("listen").key("jwks");
            self.warn(
                &path,
                "there are no keys to publish: assertions are signed with the SVID's key and carry its certificate",
            );
        }
    }
}

/// Whether requests of this route need the workload's identity.
pub(super) fn needs_identity(route: &Route) -> bool {
    let by_token = matches!(&route.credential, CredentialRule::Token(rule) if rule.grant.needs_identity());
    by_token || route.upstream.tls.as_ref().is_some_and(crate::tls::ClientTls::needs_identity)
}
