//! Unix sockets at a path. Whoever holds one removes its file, however the process ends.
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket that is bound and listens. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    file: FileId,
}

/// What tells a file from another one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// Why a Unix socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum UnixBindError {
    /// The path is taken by something that is not ours to replace.
    #[error("a file that is not a socket exists there and is left alone; choose a path that is free")]
    NotASocket,
    /// Another process listens there.
    #[error("another process serves this socket; stop it, or choose another path")]
    InUse,
    /// The system refuses.
    #[error("it cannot be created: {0}; it must be in a directory that this user can write to")]
    Io(#[from] std::io::Error),
}

impl UnixSocket {
    /// Binds a socket whose file has the permissions `mode`. A file that a killed process left
    /// behind is replaced.
    ///
    /// # Errors
    /// The path is in use, or not usable.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, UnixBindError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        match is_socket(path) {
            Ok(true) if UnixStream::connect(path).is_ok() => return Err(UnixBindError::InUse),
            Ok(true) => {}
            Ok(false) => return Err(UnixBindError::NotASocket),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        // The socket gets its name only after its mode was changed, so that others can never open
        // it, not even for a moment.
        let unnamed = directory.join(format!(".{:08x}", fastrand::u32(..)));
        let listener = UnixListener::bind(&unnamed)?;
        let named = std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(mode))
            .and_then(|()| FileId::of(&unnamed))
            .and_then(|file| std::fs::rename(&unnamed, path).map(|()| file));
        let file = named.inspect_err(|_| {
            // The error that matters is returned.
            let _ = std::fs::remove_file(&unnamed);
        })?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// Another handle of the listener, in non-blocking mode.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn listener(&self) -> std::io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if FileId::of(&self.path).is_ok_and(|file| file == self.file) {
            // Failure is harmless: a stale socket is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Tells whether a socket exists at `path` itself. A symbolic link is not a socket, wherever it
/// points.
fn is_socket(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path) -> Option<u32> {
        std::fs::symlink_metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o777)
    }

    #[test]
    fn file_that_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(UnixSocket::bind(&path, 0o600), Err(UnixBindError::NotASocket)));
        std::os::unix::fs::symlink("admin.sock", directory.path().join("link.sock")).expect("linked");
        let link = UnixSocket::bind(&directory.path().join("link.sock"), 0o600);
        assert!(matches!(link, Err(UnixBindError::NotASocket)));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    }

    #[test]
    fn only_its_own_file_is_removed_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        drop(UnixSocket::bind(&path, 0o600).expect("made"));
        assert!(!path.exists());
        let first = UnixSocket::bind(&path, 0o600).expect("made");
        std::fs::remove_file(&path).expect("removed");
        let _second = UnixSocket::bind(&path, 0o600).expect("made");
        drop(first);
        assert!(path.exists(), "it is the other one's");
    }

    #[test]
    fn stale_socket_is_replaced_and_live_socket_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/admin.sock");
        std::fs::create_dir(directory.path().join("made")).expect("made");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(is_socket(&path).expect("left behind"));
        let _first = UnixSocket::bind(&path, 0o666).expect("made");
        assert_eq!(mode(&path), Some(0o666));
        assert!(matches!(UnixSocket::bind(&path, 0o600), Err(UnixBindError::InUse)));
        let all: Vec<_> = std::fs::read_dir(path.parent().expect("a parent")).expect("read").collect();
        assert_eq!(all.len(), 1, "{all:?}");
    }

    #[test]
    fn socket_is_never_open_to_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let modes = std::iter::from_fn(|| (!done.load(Ordering::Relaxed)).then(|| mode(&path)));
                modes.flatten().find(|mode| *mode != 0o600)
            });
            for _ in 0..500 {
                drop(UnixSocket::bind(&path, 0o600).expect("made"));
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().expect("no panic")
        });
        assert_eq!(seen, None);
    }
}
