//! Locks that ignore poison.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is consistent at every moment, so that the panic of another holder does
/// not matter.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
