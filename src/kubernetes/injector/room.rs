//! How much of the injector its callers may take, all together and each address: the port is open to whoever reaches it, and no pod may
//! keep the API server out.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections, and bytes of bodies and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) connections: usize,
    pub(super) bytes: usize,
}

/// What there is.
pub(super) struct Room {
    all: Amount,
    /// For one address.
    each: Amount,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: Amount,
    by: HashMap<IpAddr, Amount>,
}

/// A connection's place. Dropped, it is free again, with what was taken by it.
pub(super) struct Seat {
    room: Arc<Room>,
    address: IpAddr,
}

/// Bytes that are held. Dropped, they are free again.
pub(super) struct Held {
    seat: Arc<Seat>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(all: Amount, each: Amount) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Seat>> {
        let address = address.to_canonical();
        let one = Amount { connections: 1, bytes: 0 };
        self.take(address, one).then(|| Arc::new(Seat { room: Arc::clone(self), address }))
    }

    fn take(&self, address: IpAddr, amount: Amount) -> bool {
        let mut taken = self.taken();
        let by = taken.by.get(&address).copied().unwrap_or_default().plus(amount);
        let all = taken.all.plus(amount);
        let fits = all.is_within(self.all) && by.is_within(self.each);
        if fits {
            taken.all = all;
            taken.by.insert(address, by);
        }
        fits
    }

    fn give_back(&self, address: IpAddr, amount: Amount) {
        let mut taken = self.taken();
        taken.all = taken.all.minus(amount);
        if let Some(by) = taken.by.get_mut(&address) {
            *by = by.minus(amount);
            if *by == Amount::default() {
                taken.by.remove(&address);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // A panic elsewhere leaves plain numbers.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self { connections: self.connections + other.connections, bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(other.connections),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn is_within(self, most: Self) -> bool {
        self.connections <= most.connections && self.bytes <= most.bytes
    }
}

impl Seat {
    /// Nothing yet, to grow.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        Held { seat: Arc::clone(self), bytes: 0 }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.give_back(self.address, Amount { connections: 1, bytes: 0 });
    }
}

impl Held {
    /// Makes it this many bytes. False if there is no room for them: it is as it was.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let Seat { room, address } = &*self.seat;
        let fits = match bytes.checked_sub(self.bytes) {
            Some(more) => room.take(*address, Amount { connections: 0, bytes: more }),
            None => {
                room.give_back(*address, Amount { connections: 0, bytes: self.bytes - bytes });
                true
            }
        };
        if fits {
            self.bytes = bytes;
        }
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.seat.room.give_back(self.seat.address, Amount { connections: 0, bytes: self.bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Arc<Room> {
        Room::new(Amount { connections: 3, bytes: 100 }, Amount { connections: 2, bytes: 60 })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn no_address_takes_all_of_it() {
        let room = room();
        let (first, _second) = (room.seat(address(1)).expect("a seat"), room.seat(address(1)).expect("a seat"));
        assert!(room.seat(address(1)).is_none());
        let IpAddr::V4(v4) = address(1) else { unreachable!("it is IPv4") };
        assert!(room.seat(v4.to_ipv6_mapped().into()).is_none(), "by another spelling");
        let other = room.seat(address(2)).expect("a seat");
        assert!(room.seat(address(3)).is_none(), "there are three");
        let (mut one, mut two) = (first.hold(), other.hold());
        assert!(one.resize(60) && !one.resize(61) && !first.hold().resize(1));
        assert!(two.resize(40) && !two.resize(41));
    }

    #[test]
    fn what_is_dropped_is_free() {
        let room = room();
        let seat = room.seat(address(1)).expect("a seat");
        let mut held = seat.hold();
        assert!(held.resize(60) && held.resize(10) && seat.hold().resize(50));
        drop(seat);
        assert_eq!(room.taken().by[&address(1)], Amount { connections: 1, bytes: 10 }, "what is held holds its seat");
        drop(held);
        assert_eq!(room.taken().all, Amount::default());
        assert!(room.taken().by.is_empty());
    }
}
