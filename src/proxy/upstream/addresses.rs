//! In which order the addresses of a name are tried: in turn, and those that failed last.
use lru::LruCache;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

/// Names that one worker remembers.
const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// How long an address is set aside after its first failure. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What one worker knows about the addresses of each name and port.
pub(super) struct AddressOrder {
    names: LruCache<NamedPort, NameState>,
}

/// A name and a port, whose addresses have one order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NamedPort {
    pub(super) name: Box<str>,
    pub(super) port: u16,
}

#[derive(Default)]
struct NameState {
    /// Counts the connections that were begun, so that each begins with another address.
    turn: usize,
    failures: HashMap<SocketAddr, Failure>,
}

/// The failures of an address since a connection to it last succeeded.
struct Failure {
    pause: Duration,
    until: Instant,
}

impl Default for AddressOrder {
    fn default() -> Self {
        Self { names: LruCache::new(MAX_NAMES) }
    }
}

impl AddressOrder {
    /// Orders the addresses for a new connection: first those that may be used, beginning with
    /// another one each time, then those that are set aside, the one that is due first at the
    /// front. None is left out: if all have failed, trying is better than refusing.
    pub(super) fn arrange(&mut self, of: &NamedPort, addresses: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        if addresses.len() < 2 {
            return addresses;
        }
        let state = self.names.get_or_insert_mut_ref(of, NameState::default);
        state.failures.retain(|address, _| addresses.contains(address));
        let is_set_aside =
            |address: &SocketAddr| state.failures.get(address).is_some_and(|failure| now < failure.until);
        let (mut later, mut usable): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_set_aside);
        if !usable.is_empty() {
            let turn = state.turn % usable.len();
            usable.rotate_left(turn);
        }
        state.turn = state.turn.wrapping_add(1);
        later.sort_by_key(|address| state.failures.get(address).map(|failure| failure.until));
        usable.append(&mut later);
        usable
    }

    /// Records that an address did not accept a connection. While it is set aside, that changes
    /// nothing: attempts that began together are one failure, and do not double the pause.
    pub(super) fn record_failure(&mut self, of: &NamedPort, address: SocketAddr, now: Instant) {
        // A name with one address has no state, and needs none.
        let Some(state) = self.names.get_mut(of) else { return };
        let pause = match state.failures.get(&address) {
            Some(failure) if now < failure.until => return,
            Some(failure) => (failure.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        state.failures.insert(address, Failure { pause, until: now + pause });
    }

    /// Records that an address accepted a connection.
    pub(super) fn record_success(&mut self, of: &NamedPort, address: SocketAddr) {
        if let Some(state) = self.names.get_mut(of) {
            state.failures.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 443).into()
    }

    fn name() -> NamedPort {
        NamedPort { name: "api.example".into(), port: 443 }
    }

    /// The last bytes of the three addresses in their order.
    fn order(addresses: &mut AddressOrder, now: Instant) -> Vec<u8> {
        let arranged = addresses.arrange(&name(), (1..=3).map(address).collect(), now);
        let last = |address: &SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        arranged.iter().map(last).collect()
    }

    #[test]
    fn addresses_take_turns() {
        let (mut addresses, now) = (AddressOrder::default(), Instant::now());
        let orders: Vec<_> = (0..4).map(|_| order(&mut addresses, now)).collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    }

    #[test]
    fn failed_address_comes_last_until_its_growing_pause_has_passed() {
        let (mut addresses, start) = (AddressOrder::default(), Instant::now());
        order(&mut addresses, start);
        let mut now = start;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            addresses.record_failure(&name(), address(2), now);
            now += Duration::from_secs(pause) - Duration::from_millis(1);
            assert_eq!(order(&mut addresses, now).last(), Some(&2), "{pause} s");
            now += Duration::from_millis(1);
            let orders = (0..3).map(|_| order(&mut addresses, now)[0]).collect::<Vec<_>>();
            assert!(orders.contains(&2), "{pause} s: {orders:?}");
        }
        addresses.record_success(&name(), address(2));
        addresses.record_failure(&name(), address(2), now);
        assert!((0..3).any(|_| order(&mut addresses, now + Duration::from_secs(1))[0] == 2), "pauses begin anew");
    }

    #[test]
    fn burst_of_failures_sets_an_address_aside_once() {
        let (mut addresses, start) = (AddressOrder::default(), Instant::now());
        order(&mut addresses, start);
        for milliseconds in 0..7 {
            addresses.record_failure(&name(), address(2), start + Duration::from_millis(milliseconds));
        }
        assert!((0..3).any(|_| order(&mut addresses, start + FIRST_PAUSE)[0] == 2));
    }

    #[test]
    fn address_that_is_due_first_is_tried_if_all_have_failed() {
        let (mut addresses, now) = (AddressOrder::default(), Instant::now());
        order(&mut addresses, now);
        for (last, after) in [(3, 1), (1, 2), (2, 3)] {
            addresses.record_failure(&name(), address(last), now + Duration::from_millis(after));
        }
        assert_eq!(order(&mut addresses, now + Duration::from_millis(4)), [3, 1, 2]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut addresses, now) = (AddressOrder::default(), Instant::now());
        for n in 0..3 * MAX_NAMES.get() {
            let name = NamedPort { name: format!("{n}.example").into(), port: 443 };
            addresses.arrange(&name, vec![address(1), address(2)], now);
        }
        assert_eq!(addresses.names.len(), MAX_NAMES.get());
        order(&mut addresses, now);
        addresses.record_failure(&name(), address(1), now);
        addresses.arrange(&name(), vec![address(4), address(5)], now);
        let state = addresses.names.get(&name()).expect("remembered");
        assert!(state.failures.is_empty(), "an address that the name no longer has is forgotten");
    }
}
