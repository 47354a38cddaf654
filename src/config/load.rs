//! Loading: the file and every file that it names, to a configuration or to everything that is wrong.
use super::build::{Surroundings, build};
use super::problem::Problem;
use super::read::{Read, read};
use super::runtime::{Config, Overrides};
use super::watch::{Fingerprint, read_bounded, sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration, and what there is to say about it.
pub struct Loaded {
    /// Ready to use.
    pub config: Config,
    /// What is legal and unwise.
    pub warnings: Vec<Problem>,
    /// What was read, to watch.
    pub fingerprint: Fingerprint,
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug)]
pub struct Problems {
    /// At least one, in the order of the file.
    pub errors: Vec<Problem>,
    /// What is legal and unwise besides.
    pub warnings: Vec<Problem>,
    /// What was read all the same, to watch: the repair may be in a file that this one names.
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

/// Looks up a variable of the environment, as far as the configuration may see it.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where a configuration is read from, at start and at every reload.
#[derive(Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The environment.
    pub environment: Environment,
    /// What the command line says instead of the file.
    pub overrides: Overrides,
}

impl Source {
    /// Loads the configuration. Blocks on the file system.
    ///
    /// # Errors
    /// Every problem of the file at once.
    pub fn load(&self) -> Result<Loaded, Problems> {
        load(&self.path, &*self.environment, &self.overrides)
    }
}

/// Loads the file at `path`. `environment` reads one variable; `overrides` is what the command line says instead.
///
/// Blocks on the file system. No network is used.
///
/// # Errors
/// Every problem of the file at once.
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
            let error = about_the_file(path, format!("it cannot be read: {reason}"));
            return Err(Problems { errors: vec![error], warnings: Vec::new(), fingerprint });
        }
    };
    let Read { mut report, content } = read(path, &bytes, environment);
    let directory = path.parent().unwrap_or(Path::new(""));
    let surroundings = Surroundings { directory, environment, overrides };
    let content = content.filter(|_| !report.is_full());
    let config = content.and_then(|(tree, file)| build(&file, &tree, &mut report, &mut fingerprint, surroundings));
    let findings = report.finish();
    match (config, findings.errors) {
        (Some(config), errors) if errors.is_empty() => {
            let hash = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Loaded { config: Config { hash, ..config }, warnings: findings.warnings, fingerprint })
        }
        (_, mut errors) => {
            if errors.is_empty() {
                // Never start with half a configuration, whatever rule was forgotten.
                errors.push(about_the_file(
                    path,
                    "it could not be used, and no rule says why: please report this".into(),
                ));
            }
            Err(Problems { errors, warnings: findings.warnings, fingerprint })
        }
    }
}

fn about_the_file(path: &Path, message: String) -> Problem {
    Problem { file: path.to_owned(), line: 1, column: 1, path: String::new(), message, help: None, snippet: None }
}
