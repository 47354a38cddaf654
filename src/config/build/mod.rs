//! The second pass: from the file types to the runtime types of the other modules. It decides what
//! values mean together: which server a name refers to, whether a flow can have this subject,
//! whether two routes could match the same request.
//!
//! Like the first pass it collects problems and continues with what is left. If there is any error,
//! the result is discarded as a whole.
mod identity;
mod listen;
mod routes;
mod servers;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod upstream;

use super::decode::Environment;
use super::file::File;
use super::leaf::Version;
use super::problem::{KeyPath, Problem, Report};
use super::runtime::{Config, Overrides};
use super::tree::Node;
use super::watch::{Fingerprint, read_bounded};
use crate::issuer::PlainHttp;
use crate::tls::Roots;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The inputs of the second pass other than the file.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The directory that relative paths are resolved against.
    pub(crate) directory: &'a Path,
    pub(crate) environment: Environment<'a>,
    pub(crate) overrides: &'a Overrides,
}

/// The state of the second pass.
pub(crate) struct Builder<'a> {
    report: &'a mut Report,
    fingerprint: &'a mut Fingerprint,
    tree: &'a Node,
    inputs: Inputs<'a>,
    plain_http: PlainHttp,
    outbound_ports: Vec<u16>,
    web_roots: Option<Roots>,
}

/// Builds the configuration. Returns `None` after it has reported what is wrong.
pub(crate) fn build<'a>(
    file: &File,
    tree: &'a Node,
    report: &'a mut Report,
    fingerprint: &'a mut Fingerprint,
    inputs: Inputs<'a>,
) -> Option<Config> {
    let mut builder = Builder {
        report,
        fingerprint,
        tree,
        inputs,
        plain_http: PlainHttp::default(),
        outbound_ports: Vec::new(),
        web_roots: None,
    };
    // There is only one version so far; the next one will be distinguished here.
    let Version = file.version;
    let listen = builder.listen(&file.listen);
    builder.outbound_ports = listen.outbound.iter().map(|listen| listen.address.port()).collect();
    builder.plain_http = builder.plain_http(&file.allow_plain_http);
    let assertion = builder.assertion(file.identity.as_ref());
    let servers = builder.servers(&file.authorization_servers);
    let source = builder.identity_source(file.identity.as_ref());
    let mut tokens = tokens::Tokens::new(&servers, &assertion.settings, source.as_ref());
    let routes = builder.routes(file, &mut tokens);
    tokens.warn_of_unused(file, &mut builder);
    let needs_identity = builder.needed_identity(source.as_ref(), routes.needing_identity.as_deref());
    builder.warn_of_unpublished(&assertion, &listen);
    let process = builder.process(file);
    Some(Config {
        identity: source,
        needs_identity,
        listen,
        policy: routes.policy?,
        servers: servers.into_built(),
        published_keys: assertion.published,
        assertion_lifetime: assertion.settings.lifetime,
        process,
        hash: String::new(),
    })
}

impl Builder<'_> {
    /// Reports an error about the value at `path`, unless the first pass has already found that
    /// value broken.
    fn error(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.report.derived_error(self.tree.position(path), path, message.into())
    }

    fn warn(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.report.warning(self.tree.position(path), path, message)
    }

    /// Whether the file has this key.
    fn is_written(&self, path: &KeyPath) -> bool {
        self.tree.find(path).is_some()
    }

    fn line(&self, path: &KeyPath) -> usize {
        self.tree.position(path).line
    }

    /// Resolves a path in the file against the directory that the file is in.
    fn resolve(&self, file: &Path) -> PathBuf {
        self.inputs.directory.join(file)
    }

    /// Reads the file that the value at `path` names.
    fn read(&mut self, path: &KeyPath, file: &Path) -> Option<Zeroizing<Vec<u8>>> {
        match self.watched(file) {
            Ok(content) => Some(content),
            Err(message) => {
                self.error(path, message).help("paths are relative to the configuration file");
                None
            }
        }
    }

    /// Reads a file, which is watched from now on even if it cannot be read.
    fn watched(&mut self, file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = self.resolve(file);
        let content = read_bounded(&file);
        self.fingerprint.record(file.clone(), content.as_ref().ok().map(|bytes| bytes.as_slice()));
        content.map_err(|reason| format!("{} cannot be read: {reason}", file.display()))
    }

    /// The certificate authorities of this machine. They are read once because that takes a while.
    fn web_roots(&mut self) -> Roots {
        self.web_roots.get_or_insert_with(|| crate::tls::web_roots().into()).clone()
    }
}
