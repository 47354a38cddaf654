//! Restricts the process before it holds a secret.

/// Disables core dumps, because they would contain tokens and keys, and raises the limit of file
/// descriptors to the hard limit, because each request may take two.
///
/// A core limit of 0 does not keep the kernel from piping a dump to a handler (core(5)), which most
/// distributions configure. A limit of 1 does, and it is too small for a file (`do_coredump` in
/// fs/coredump.c). Where the limit cannot be raised to 1, the filter leaves no memory to dump.
/// PR_SET_DUMPABLE would work as well, but it changes the owner of /proc/PID to root, and SPIRE's
/// agent then mistakes the caller for another user.
#[cfg(unix)]
pub(super) fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limited = [1, 0].iter().any(|limit| setrlimit(Resource::RLIMIT_CORE, *limit, *limit).is_ok());
    // Only Linux has the filter, and only Linux pipes dumps to a handler.
    let filtered = std::fs::write("/proc/self/coredump_filter", "0").is_ok();
    if !limited || (cfg!(target_os = "linux") && !filtered) {
        super::terminal::print_error("core dumps could not be disabled");
    }
    // Where the limit cannot be raised, the connection limit and the back-off of accepting keep the
    // process working.
    let _ = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

#[cfg(not(unix))]
pub(super) fn harden() {}
