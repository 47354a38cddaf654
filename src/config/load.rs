//! Loads the file, and every file that it names, into a configuration or into a list of all its
//! problems.
use super::build::{Inputs, build};
use super::problem::Problem;
use super::read::{ReadFile, read};
use super::runtime::{Config, Overrides};
use super::watch::{Fingerprint, read_bounded, sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration with its warnings.
pub struct Loaded {
    /// The configuration, ready to use.
    pub config: Config,
    /// Settings that are legal but unwise.
    pub warnings: Vec<Problem>,
    /// The files that were read, so that they can be watched.
    pub fingerprint: Fingerprint,
}

/// All problems of a file.
#[derive(Clone, Debug)]
pub struct Problems {
    /// The errors, at least one, in the order of the file.
    pub errors: Vec<Problem>,
    /// Settings that are legal but unwise.
    pub warnings: Vec<Problem>,
    /// The files that were read, so that they can be watched: the fix may be made in a file that
    /// this one names.
    pub fingerprint: Fingerprint,
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Reads one environment variable.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The source of a configuration, which is read at start and at every reload.
#[derive(Clone)]
pub struct Source {
    /// The path of the configuration file.
    pub path: PathBuf,
    /// Reads the environment variables that the file refers to.
    pub environment: Environment,
    /// Settings of the command line, which take precedence over the file.
    pub overrides: Overrides,
}

impl Source {
    /// Loads the configuration. Blocks on the file system.
    ///
    /// # Errors
    /// Returns every problem of the file at once.
    pub fn load(&self) -> Result<Loaded, Problems> {
        load(&self.path, &*self.environment, &self.overrides)
    }
}

/// Loads the file at `path`. `environment` reads one variable; `overrides` are the settings of the
/// command line, which take precedence.
///
/// Blocks on the file system and does not use the network.
///
/// # Errors
/// Returns every problem of the file at once.
pub fn load(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    overrides: &Overrides,
) -> Result<Loaded, Problems> {
    let content = read_bounded(path);
    let mut fingerprint = Fingerprint::default();
    fingerprint.record(path.to_owned(), content.as_ref().ok().map(|bytes| bytes.as_slice()));
    let bytes = match content {
        Ok(bytes) => bytes,
        Err(reason) => {
            let error = file_problem(path, format!("cannot read the file: {reason}"));
            return Err(Problems { errors: vec![error], warnings: Vec::new(), fingerprint });
        }
    };
    let ReadFile { mut report, content } = read(path, &bytes, environment);
    let directory = path.parent().unwrap_or(Path::new(""));
    let inputs = Inputs { directory, environment, overrides };
    let content = content.filter(|_| !report.is_full());
    let config = content.and_then(|(tree, file)| build(&file, &tree, &mut report, &mut fingerprint, inputs));
    let findings = report.finish();
    match (config, findings.errors) {
        (Some(config), errors) if errors.is_empty() => {
            let hash = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Loaded { config: Config { hash, ..config }, warnings: findings.warnings, fingerprint })
        }
        (_, mut errors) => {
            if errors.is_empty() {
                // Never start with half a configuration, even if a rule was forgotten.
                errors.push(file_problem(
                    path,
                    "the file could not be used, and no error says why: please report this as a bug".into(),
                ));
            }
            Err(Problems { errors, warnings: findings.warnings, fingerprint })
        }
    }
}

fn file_problem(path: &Path, message: String) -> Problem {
    Problem { file: path.to_owned(), line: 1, column: 1, path: String::new(), message, help: None, snippet: None }
}
