//! Leaving: the agent may live as long as we do, so the outbound port goes on accepting until the agent has gone quiet.
use crate::proxy::Traffic;
use std::time::Duration;
use tokio::time::Instant;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// No request in flight, and no connection for `idle`.
    Quiet,
    /// The deadline came first.
    Deadline,
}

/// How often the counts are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until no request is in flight and the agent has held no connection for `idle`, at the latest until `deadline`.
pub(super) async fn drain(traffic: &Traffic, idle: Duration, deadline: Duration) -> Drained {
    let end = Instant::now() + deadline;
    let mut quiet_since = None;
    loop {
        let now = Instant::now();
        if traffic.requests() == 0 && traffic.connections() == 0 {
            let since = *quiet_since.get_or_insert(now);
            if now.duration_since(since) >= idle {
                return Drained::Quiet;
            }
        } else {
            quiet_since = None;
        }
        if now >= end {
            return Drained::Deadline;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic() -> Traffic {
        Traffic::new(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_agent_is_waited_for_only_shortly() {
        let (traffic, start) = (traffic(), Instant::now());
        assert_eq!(drain(&traffic, Duration::from_secs(1), Duration::from_secs(25)).await, Drained::Quiet);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_is_waited_for() {
        let traffic = traffic();
        let request = traffic.request().expect("place");
        let drained = drain(&traffic, Duration::from_secs(1), Duration::from_secs(25));
        tokio::pin!(drained);
        assert!(tokio::time::timeout(Duration::from_secs(10), &mut drained).await.is_err());
        drop(request);
        assert_eq!(drained.await, Drained::Quiet);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_connection_is_waited_for_until_the_deadline() {
        let traffic = traffic();
        let _connection = traffic.connection();
        let start = Instant::now();
        assert_eq!(drain(&traffic, Duration::from_secs(1), Duration::from_secs(25)).await, Drained::Deadline);
        assert!(start.elapsed() >= Duration::from_secs(25));
    }
}
