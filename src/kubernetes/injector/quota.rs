//! How much of the injector its callers may use, in total and per address. Anyone in the cluster
//! can reach the port, and no pod may keep the API server out.
use crate::sync::lock;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A number of connections, and of bytes of bodies and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) connections: usize,
    pub(super) bytes: usize,
}

/// The limits, and what of them is in use.
pub(super) struct Quota {
    total: Usage,
    per_address: Usage,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    total: Usage,
    by_address: HashMap<IpAddr, Usage>,
}

/// The permission to have one connection. Dropping it frees the connection.
pub(super) struct Permit {
    quota: Arc<Quota>,
    address: IpAddr,
    is_released: AtomicBool,
}

/// Which part of the quota is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// The part of one address.
    Address(IpAddr),
    /// All of it.
    Total,
}

/// Bytes that a caller uses. Dropping it frees them.
pub(super) struct Reservation {
    permit: Arc<Permit>,
    bytes: usize,
}

const ONE_CONNECTION: Usage = Usage { connections: 1, bytes: 0 };

impl Quota {
    pub(super) fn new(total: Usage, per_address: Usage) -> Arc<Self> {
        Arc::new(Self { total, per_address, used: Mutex::default() })
    }

    /// Admits a connection from this address.
    ///
    /// # Errors
    /// The part of the quota that is exhausted.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Arc<Permit>, Exhausted> {
        let address = address.to_canonical();
        if self.acquire(address, ONE_CONNECTION) {
            let is_released = AtomicBool::new(false);
            return Ok(Arc::new(Permit { quota: Arc::clone(self), address, is_released }));
        }
        let by_address = self.used().by_address.get(&address).copied().unwrap_or_default();
        let fits = by_address.plus(ONE_CONNECTION).is_within(self.per_address);
        Err(if fits { Exhausted::Total } else { Exhausted::Address(address) })
    }

    fn acquire(&self, address: IpAddr, amount: Usage) -> bool {
        let mut used = self.used();
        let by_address = used.by_address.get(&address).copied().unwrap_or_default().plus(amount);
        let total = used.total.plus(amount);
        let fits = total.is_within(self.total) && by_address.is_within(self.per_address);
        if fits {
            used.total = total;
            used.by_address.insert(address, by_address);
        }
        fits
    }

    fn release(&self, address: IpAddr, amount: Usage) {
        let mut used = self.used();
        used.total = used.total.minus(amount);
        if let Some(by_address) = used.by_address.get_mut(&address) {
            *by_address = by_address.minus(amount);
            if *by_address == Usage::default() {
                used.by_address.remove(&address);
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        lock(&self.used)
    }
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self { connections: self.connections + other.connections, bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(other.connections),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn is_within(self, limit: Self) -> bool {
        self.connections <= limit.connections && self.bytes <= limit.bytes
    }
}

impl Exhausted {
    /// Whether a connection that holds `permit` uses what is exhausted.
    pub(super) fn includes(self, permit: &Permit) -> bool {
        match self {
            Self::Address(address) => permit.address == address,
            Self::Total => true,
        }
    }
}

impl Permit {
    /// Frees the connection now: it is being closed to make room for another one.
    pub(super) fn release(&self) {
        if !self.is_released.swap(true, Ordering::Relaxed) {
            self.quota.release(self.address, ONE_CONNECTION);
        }
    }

    /// Makes an empty reservation for bytes of this connection.
    pub(super) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { permit: Arc::clone(self), bytes: 0 }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

impl Reservation {
    /// Changes the reservation to `bytes`. Returns false, and changes nothing, if the quota does
    /// not allow it.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let Permit { quota, address, .. } = &*self.permit;
        let fits = match bytes.checked_sub(self.bytes) {
            Some(more) => quota.acquire(*address, Usage { connections: 0, bytes: more }),
            None => {
                quota.release(*address, Usage { connections: 0, bytes: self.bytes - bytes });
                true
            }
        };
        if fits {
            self.bytes = bytes;
        }
        fits
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.permit.quota.release(self.permit.address, Usage { connections: 0, bytes: self.bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Arc<Quota> {
        Quota::new(Usage { connections: 3, bytes: 100 }, Usage { connections: 2, bytes: 60 })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_cannot_exhaust_the_quota() {
        let quota = quota();
        let admit = |last| quota.admit(address(last));
        let (first, _second) = (admit(1).expect("a permit"), admit(1).expect("a permit"));
        assert_eq!(admit(1).err(), Some(Exhausted::Address(address(1))));
        let IpAddr::V4(v4) = address(1) else { unreachable!("it is IPv4") };
        assert!(quota.admit(v4.to_ipv6_mapped().into()).is_err(), "another spelling of the same address");
        let other = admit(2).expect("a permit");
        assert_eq!(admit(3).err(), Some(Exhausted::Total), "three connections are the limit");
        let (mut one, mut two) = (first.reserve(), other.reserve());
        assert!(one.resize(60) && !one.resize(61) && !first.reserve().resize(1));
        assert!(two.resize(40) && !two.resize(41));
    }

    #[test]
    fn connection_is_freed_once() {
        let quota = quota();
        let (first, _second) = (quota.admit(address(1)).expect("a permit"), quota.admit(address(1)).expect("a permit"));
        first.release();
        drop(first);
        assert_eq!(quota.used().total.connections, 1);
    }

    #[test]
    fn dropped_usage_is_returned() {
        let quota = quota();
        let permit = quota.admit(address(1)).expect("a permit");
        let mut reservation = permit.reserve();
        assert!(reservation.resize(60) && reservation.resize(10) && permit.reserve().resize(50));
        drop(permit);
        let used = quota.used().by_address[&address(1)];
        assert_eq!(used, Usage { connections: 1, bytes: 10 }, "a reservation keeps its permit");
        drop(reservation);
        assert_eq!(quota.used().total, Usage::default());
        assert!(quota.used().by_address.is_empty());
    }
}
