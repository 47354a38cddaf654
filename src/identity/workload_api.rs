//! The Workload API as the source. One task keeps the X.509 stream open, and reopens it whenever
//! the SPIRE agent restarts or fails.
use super::error::StreamError;
use super::handle::Identity;
use super::jwt::JwtIssuer;
use super::material::{self, UpdateRefused};
use super::metrics::Metrics;
use super::publisher::Publisher;
use super::{Endpoint, wire};
use crate::clock::Clock;
use crate::tasks::Stop;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::Streaming;

/// Which Workload API to use, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiSettings {
    /// The address of the Workload API.
    pub socket: Endpoint,
    /// The label of the SVID to use if there are several; `None` for the first one. If no SVID has
    /// the label, the source delivers no identity.
    pub hint: Option<String>,
    /// Deadlines of ours, because the Workload API defines none.
    pub timing: WorkloadApiTiming,
}

/// How long the source waits for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadApiTiming {
    /// The time to connect.
    pub connect: Duration,
    /// The time until the first message, which the server sends without delay (SPIFFE Workload API
    /// §4.3).
    pub first_message: Duration,
    /// The time to fetch a JWT-SVID.
    pub jwt_svid: Duration,
    /// How long a stream stays open without a usable SVID before it is reopened.
    pub usable_svid: Duration,
    /// The time between attempts to connect.
    pub backoff: BackoffRange,
    /// The time between attempts if the peer rejects the call itself.
    pub rejected_backoff: Duration,
}

/// The time between attempts to connect: doubled after each from `first` up to `longest`, with
/// jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffRange {
    /// The time after the first attempt.
    pub first: Duration,
    /// The limit of the doubling.
    pub longest: Duration,
}

impl Default for WorkloadApiTiming {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_message: Duration::from_secs(10),
            jwt_svid: Duration::from_secs(5),
            usable_svid: Duration::from_secs(30),
            backoff: BackoffRange { first: Duration::from_millis(200), longest: Duration::from_secs(5) },
            rejected_backoff: Duration::from_secs(60),
        }
    }
}

/// The task that owns one X.509 stream. [`Self::run`] keeps the [`Identity`] that was created with
/// it current.
pub struct WorkloadApi {
    settings: WorkloadApiSettings,
    publisher: Publisher,
    /// The revision for which the stream was reopened because its SVID was about to expire.
    reopened_for: Option<u64>,
}

/// How often the wall clock is read. Timers do not advance while a laptop sleeps, so they are not
/// enough.
const TICK: Duration = Duration::from_secs(1);
/// A stream that was open for this long counts as healthy and is reopened immediately.
const HEALTHY: Duration = Duration::from_secs(5);

impl WorkloadApi {
    /// Creates the task and the handle for readers.
    pub fn new(settings: WorkloadApiSettings, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let source = format!("the Workload API at {}", settings.socket);
        let jwt = JwtIssuer::api(settings.timing.jwt_svid);
        let (publisher, identity) = Publisher::new(source, jwt, clock, metrics);
        (Self { settings, publisher, reopened_for: None }, identity)
    }

    /// Keeps the stream open until `stop` fires. It waits for a missing SPIRE agent, so nothing
    /// else ends the task.
    ///
    /// # Errors
    /// It never fails; the result has the type that [`crate::tasks::Tasks`] expects.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        if self.settings.socket.is_routable() {
            let socket = &self.settings.socket;
            tracing::warn!(
                "identity: {socket} is not a loopback address, and the Workload API sends private keys in the clear"
            );
        }
        tokio::select! {
            () = stop.stopped() => {}
            never = self.follow() => match never {},
        }
        self.publisher.set_api_connected(None);
        Ok(())
    }

    async fn follow(&mut self) -> Infallible {
        let mut backoff = Backoff::new(self.settings.timing);
        loop {
            let mut opened = None;
            let error = self.session(&mut opened).await;
            self.publisher.set_api_connected(None);
            self.report(&error);
            let healthy = opened.is_some_and(|opened: Instant| opened.elapsed() >= HEALTHY);
            self.wait(backoff.after(&error, healthy)).await;
        }
    }

    /// Runs one connection until it ends. `opened` is set to the time of its first message.
    async fn session(&mut self, opened: &mut Option<Instant>) -> StreamError {
        let timing = self.settings.timing;
        let socket = self.settings.socket.to_spiffe();
        let channel = match timeout(timing.connect, spiffe::transport::connect(&socket)).await {
            Err(_) => return StreamError::Connect(io::ErrorKind::TimedOut, String::new()),
            Ok(Err(error)) => return StreamError::connect(&error),
            Ok(Ok(channel)) => channel,
        };
        let first = async {
            let mut stream = wire::open(channel.clone()).await?;
            let message = stream.message().await?;
            Ok((stream, message))
        };
        let (stream, message) = match timeout(timing.first_message, first).await {
            Err(_) => return StreamError::Silent(timing.first_message),
            Ok(Err(status)) => return StreamError::status(&status),
            Ok(Ok((_, None))) => return StreamError::Closed,
            Ok(Ok((stream, Some(message)))) => (stream, message),
        };
        *opened = Some(Instant::now());
        let client = spiffe::WorkloadApiClient::new_with_channel(socket, channel);
        self.publisher.set_api_connected(Some(client));
        self.receive(message);
        self.listen(stream).await
    }

    /// Handles later messages and watches the clock.
    async fn listen(&mut self, mut stream: Streaming<Bytes>) -> StreamError {
        let mut last_usable = Instant::now();
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => self.receive(message),
                    Ok(None) => return StreamError::Closed,
                    Err(status) => return StreamError::status(&status),
                },
                _ = clock.tick() => {
                    if self.needs_reopening() {
                        return StreamError::Overdue;
                    }
                    if self.publisher.has_valid() {
                        last_usable = Instant::now();
                    } else if last_usable.elapsed() >= self.settings.timing.usable_svid {
                        return StreamError::NoUsableSvid(self.settings.timing.usable_svid);
                    }
                }
            }
        }
    }

    fn receive(&mut self, message: Bytes) {
        let hint = self.settings.hint.as_deref();
        let now = self.publisher.now();
        match wire::read(message, hint).and_then(|material| material::check(material, now)) {
            Ok(checked) => self.publisher.publish(checked),
            // A message is the complete state, so an SVID that it omits is withdrawn, not merely
            // unchanged (SPIFFE Workload API §4.4).
            Err(refused @ UpdateRefused::Hint { .. }) => {
                self.publisher.refuse(&refused);
                self.publisher.withdraw(&refused.to_string());
            }
            Err(refused) => self.publisher.refuse(&refused),
        }
    }

    /// Reports why the stream ended, and withdraws the identity if the Workload API says that there
    /// is none.
    fn report(&mut self, error: &StreamError) {
        let why = error.explain(&self.settings.socket);
        match error {
            StreamError::Denied(_) => self.publisher.withdraw(&why),
            StreamError::TooLarge(message) => self.publisher.refuse(&UpdateRefused::Undecodable(message.clone())),
            _ => {}
        }
        self.publisher.report_waiting(error.kind(), &why);
    }

    /// Waits for `delay`, and checks every second whether the SVID has expired.
    async fn wait(&mut self, delay: Duration) {
        let until = Instant::now() + delay;
        while Instant::now() < until {
            self.publisher.check_expiry();
            sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Whether to reopen the stream: once when nine tenths of the SVID's lifetime have passed, in
    /// case the SPIRE agent has died unnoticed, and once when it has expired, which is the first
    /// sign of a dead stream after a laptop has slept.
    fn needs_reopening(&mut self) -> bool {
        if self.publisher.check_expiry() {
            return true;
        }
        let Some(snapshot) = self.publisher.not_withdrawn() else { return false };
        let svid = &snapshot.svid;
        let near_end = svid.not_after.minus(svid.not_after.since(svid.not_before) / 10);
        let now = self.publisher.now();
        if now < near_end || !svid.is_valid_at(now) || self.reopened_for == Some(snapshot.revision) {
            return false;
        }
        self.reopened_for = Some(snapshot.revision);
        true
    }
}

/// Decides how long to wait before the next attempt.
struct Backoff {
    timing: WorkloadApiTiming,
    delays: backon::ExponentialBackoff,
}

impl Backoff {
    fn new(timing: WorkloadApiTiming) -> Self {
        Self { timing, delays: Self::delays(timing) }
    }

    fn delays(timing: WorkloadApiTiming) -> backon::ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(timing.backoff.first)
            .with_max_delay(timing.backoff.longest)
            .without_max_times()
            .with_jitter()
            // The library's default seed is a constant, so that all replicas would retry at the
            // same moment.
            .with_jitter_seed(fastrand::u64(..))
            .build()
    }

    fn after(&mut self, error: &StreamError, healthy: bool) -> Duration {
        if let StreamError::NotWorkloadApi(_) = error {
            return self.timing.rejected_backoff;
        }
        // A healthy stream that ends is reopened immediately (SPIFFE Workload API §4.2). Neither
        // case can repeat without another event in between, so this does not loop.
        if healthy || *error == StreamError::Overdue {
            self.delays = Self::delays(self.timing);
            return Duration::ZERO;
        }
        self.delays.next().unwrap_or(self.timing.backoff.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_resets_after_a_healthy_stream() {
        let timing = WorkloadApiTiming::default();
        let mut backoff = Backoff::new(timing);
        let denied = StreamError::Denied(String::new());
        let delays: Vec<_> = (0..12).map(|_| backoff.after(&denied, false)).collect();
        assert!(delays.iter().all(|delay| *delay >= timing.backoff.first && *delay <= timing.backoff.longest * 2));
        assert!(delays[11] >= timing.backoff.longest);
        assert_eq!(backoff.after(&StreamError::Closed, true), Duration::ZERO);
        assert!(backoff.after(&denied, false) <= timing.backoff.first * 2);
    }

    #[test]
    fn rejected_call_is_retried_after_the_long_backoff() {
        let mut backoff = Backoff::new(WorkloadApiTiming::default());
        let rejected = StreamError::NotWorkloadApi(String::new());
        assert_eq!(backoff.after(&rejected, true), WorkloadApiTiming::default().rejected_backoff);
    }
}
