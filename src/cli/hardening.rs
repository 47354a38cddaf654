//! What the process gives up before it holds a secret.

/// No core dumps, because tokens and keys would be in them; as many file descriptors as the hard limit allows, because each
/// request may take two.
#[cfg(unix)]
pub(super) fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        super::complain(&format!("core dumps could not be switched off: {error}"));
    }
    // Where the limit cannot be raised, the connection limit and the accept back-off carry the load.
    let _ = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

#[cfg(not(unix))]
pub(super) fn harden() {}
