//! The state of the build step, which its parts share: the report, the tree, and the files that are
//! read.
use crate::config::decode::Environment;
use crate::config::problem::{KeyPath, Problem, Report};
use crate::config::runtime::Overrides;
use crate::config::tree::Node;
use crate::config::watch::{Fingerprint, read_bounded};
use crate::egress_proxy::EgressProxy;
use crate::issuer::PlainHttp;
use crate::tls::Roots;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The inputs of the build step other than the file.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The directory that relative paths are resolved against.
    pub(crate) directory: &'a Path,
    pub(crate) environment: Environment<'a>,
    pub(crate) overrides: &'a Overrides,
}

/// The state of the build step.
pub(super) struct Builder<'a> {
    pub(super) report: &'a mut Report,
    pub(super) fingerprint: &'a mut Fingerprint,
    pub(super) tree: &'a Node,
    pub(super) inputs: Inputs<'a>,
    pub(super) plain_http: PlainHttp,
    pub(super) outbound_ports: Vec<u16>,
    pub(super) web_roots: Option<Roots>,
    /// The egress proxy of the routes and servers that do not say otherwise.
    pub(super) egress_proxy: Option<Arc<EgressProxy>>,
}

impl Builder<'_> {
    /// Reports an error about the value at `path`, unless decoding has already found that value
    /// broken.
    pub(super) fn error(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.report.derived_error(self.tree.position(path), path, message.into())
    }

    pub(super) fn warn(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        self.report.warning(self.tree.position(path), path, message)
    }

    /// Whether the file has this key.
    pub(super) fn is_written(&self, path: &KeyPath) -> bool {
        self.tree.find(path).is_some()
    }

    pub(super) fn line(&self, path: &KeyPath) -> usize {
        self.tree.position(path).line
    }

    /// Resolves a path in the file against the directory that the file is in.
    pub(super) fn resolve(&self, file: &Path) -> PathBuf {
        self.inputs.directory.join(file)
    }

    /// Reads the file that the value at `path` names, and reports an error if it cannot be read.
    pub(super) fn read_or_report(&mut self, path: &KeyPath, file: &Path) -> Option<Zeroizing<Vec<u8>>> {
        match self.read(file) {
            Ok(content) => Some(content),
            Err(message) => {
                self.error(path, message).help("paths are relative to the configuration file");
                None
            }
        }
    }

    /// Reads a file, which is watched from now on even if it cannot be read.
    pub(super) fn read(&mut self, file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = self.resolve(file);
        let content = read_bounded(&file);
        self.fingerprint.record(file.clone(), content.as_ref().ok().map(|bytes| bytes.as_slice()));
        content.map_err(|reason| format!("{} cannot be read: {reason}", file.display()))
    }

    /// The public certificate authorities ([`crate::tls::web_roots`]). They are read once
    /// because that takes a while.
    pub(super) fn web_roots(&mut self) -> Roots {
        self.web_roots.get_or_insert_with(|| crate::tls::web_roots().into()).clone()
    }
}
