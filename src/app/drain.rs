//! Draining. The agent may run for as long as the proxy does, so the outbound port keeps accepting
//! until the agent is idle.
use crate::proxy::Traffic;
use std::time::Duration;
use tokio::time::Instant;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// The agent was idle.
    Idle,
    /// The deadline was reached first.
    Deadline,
}

/// How often the counts are read. They are atomics that every request changes: polling them while
/// the process stops costs less than a notification for each request.
const POLL: Duration = Duration::from_millis(20);

/// Waits until no request is in flight and the agent has held no connection for `idle`, or until
/// `deadline` has passed.
pub(super) async fn drain(traffic: &Traffic, idle: Duration, deadline: Duration) -> Drained {
    let end = Instant::now() + deadline;
    let mut idle_since = None;
    loop {
        let now = Instant::now();
        if traffic.requests() == 0 && traffic.connections() == 0 {
            let since = *idle_since.get_or_insert(now);
            if now.duration_since(since) >= idle {
                return Drained::Idle;
            }
        } else {
            idle_since = None;
        }
        if now >= end {
            return Drained::Deadline;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic() -> Traffic {
        Traffic::new(10)
    }

    #[tokio::test(start_paused = true)]
    async fn idle_agent_ends_the_drain_early() {
        let (traffic, start) = (traffic(), Instant::now());
        assert_eq!(drain(&traffic, Duration::from_secs(1), Duration::from_secs(25)).await, Drained::Idle);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn request_in_flight_delays_the_end() {
        let traffic = traffic();
        let request = traffic.count_request();
        let drained = drain(&traffic, Duration::from_secs(1), Duration::from_secs(25));
        tokio::pin!(drained);
        assert!(tokio::time::timeout(Duration::from_secs(10), &mut drained).await.is_err());
        drop(request);
        assert_eq!(drained.await, Drained::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn open_connection_delays_the_end_until_the_deadline() {
        let traffic = traffic();
        let _connection = traffic.count_connection();
        let start = Instant::now();
        assert_eq!(drain(&traffic, Duration::from_secs(1), Duration::from_secs(25)).await, Drained::Deadline);
        assert!(start.elapsed() >= Duration::from_secs(25));
    }
}
