//! What the process gives up before it holds a secret.

/// No core dumps, because tokens and keys would be in them; as many file descriptors as the hard limit allows, because each
/// request may take two.
///
/// A core limit of 0 does not keep the kernel from piping a dump to a handler (core(5)), as most distributions have it; 1 does, and
/// is too small for a file (`do_coredump` in fs/coredump.c). Where it cannot be raised to 1, the filter leaves no memory to dump.
/// PR_SET_DUMPABLE would do as well, but gives /proc/PID to root, and SPIRE's agent takes a caller who does not own his for another.
#[cfg(unix)]
pub(super) fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limited = [1, 0].iter().any(|limit| setrlimit(Resource::RLIMIT_CORE, *limit, *limit).is_ok());
    // Only Linux has it, and only it pipes.
    let filtered = std::fs::write("/proc/self/coredump_filter", "0").is_ok();
    if !limited || (cfg!(target_os = "linux") && !filtered) {
        super::complain("core dumps could not be switched off");
    }
    // Where the limit cannot be raised, the connection limit and the accept back-off carry the load.
    let _ = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

#[cfg(not(unix))]
pub(super) fn harden() {}
