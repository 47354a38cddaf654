//! The Workload API as the source: one task holds the X.509 stream, whatever happens to the agent.
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

/// What to connect to and how long to wait for it.
#[derive(Clone, Debug)]
pub struct WorkloadApiSettings {
    /// The socket.
    pub socket: Endpoint,
    /// Which of several SVIDs: the one with this label; without it the first. A label that nobody offers means no identity.
    pub hint: Option<String>,
    /// Our own deadlines, since the Workload API has none.
    pub timing: WorkloadApiTiming,
}

/// How long the source waits, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadApiTiming {
    /// For a connection.
    pub connect: Duration,
    /// For the first message, which comes without delay (WA-4).
    pub first_message: Duration,
    /// For a JWT-SVID.
    pub jwt_svid: Duration,
    /// With an open stream that brought no usable SVID.
    pub usable_svid: Duration,
    /// The time between attempts to connect.
    pub backoff: BackoffRange,
    /// Between attempts where the peer refuses the question itself.
    pub rejected_backoff: Duration,
}

/// The time between attempts to connect: doubled after each from `first` up to `longest`, with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffRange {
    /// The time after the first attempt.
    pub first: Duration,
    /// The longest time.
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

/// The owner of one X.509 stream. [`Self::run`] keeps the [`Identity`] that came with it current.
pub struct WorkloadApi {
    settings: WorkloadApiSettings,
    publisher: Publisher,
    /// The revision for which a new stream was asked for because it was near its end.
    hurried: Option<u64>,
}

/// How often the wall clock is looked at: a laptop's sleep stops timers, not time.
const TICK: Duration = Duration::from_secs(1);
/// A stream that lived this long was healthy: its end is followed by an attempt at once.
const HEALTHY: Duration = Duration::from_secs(5);

impl WorkloadApi {
    /// The owner and what readers get.
    pub fn new(settings: WorkloadApiSettings, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let source = format!("the Workload API at {}", settings.socket);
        let jwt = JwtIssuer::api(settings.timing.jwt_svid);
        let (publisher, identity) = Publisher::new(source, jwt, clock, metrics);
        (Self { settings, publisher, hurried: None }, identity)
    }

    /// Holds the stream until told to stop. A missing agent is waited for, so it ends for no other reason.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        if self.settings.socket.is_routable() {
            let socket = &self.settings.socket;
            tracing::warn!(
                "identity: {socket} is no loopback address, and the Workload API sends private keys in the clear"
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

    /// One connection, from the first byte to the last. `opened` is when its first message came.
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

    /// Every later message, and the clock.
    async fn listen(&mut self, mut stream: Streaming<Bytes>) -> StreamError {
        let mut fruitful = Instant::now();
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
                    if self.overdue() {
                        return StreamError::Overdue;
                    }
                    if self.publisher.has_valid() {
                        fruitful = Instant::now();
                    } else if fruitful.elapsed() >= self.settings.timing.usable_svid {
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
            // WA-2: a message is the whole state, so this SVID is redacted, not merely not updated.
            Err(refused @ UpdateRefused::Hint { .. }) => {
                self.publisher.refuse(&refused);
                self.publisher.withdraw(&refused.to_string());
            }
            Err(refused) => self.publisher.refuse(&refused),
        }
    }

    /// Tells what happened, and draws the consequence for what we hold.
    fn report(&mut self, error: &StreamError) {
        let why = error.explain(&self.settings.socket);
        match error {
            StreamError::Denied(_) => self.publisher.withdraw(&why),
            StreamError::TooLarge(message) => self.publisher.refuse(&UpdateRefused::Undecodable(message.clone())),
            _ => {}
        }
        self.publisher.waiting(error.kind(), &why);
    }

    /// Waits, with an eye on the clock.
    async fn wait(&mut self, delay: Duration) {
        let until = Instant::now() + delay;
        while Instant::now() < until {
            self.publisher.note_expiry();
            sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Whether to ask anew: once when nine tenths of the SVID's life are over, in case the agent's side of the stream is dead
    /// without our seeing it, and once when it has expired, which after a laptop's sleep is the first that we see.
    fn overdue(&mut self) -> bool {
        if self.publisher.note_expiry() {
            return true;
        }
        let Some(snapshot) = self.publisher.usable() else { return false };
        let svid = &snapshot.svid;
        let near_end = svid.not_after.minus(svid.not_after.since(svid.not_before) / 10);
        let now = self.publisher.now();
        if now < near_end || !svid.is_valid_at(now) || self.hurried == Some(snapshot.revision) {
            return false;
        }
        self.hurried = Some(snapshot.revision);
        true
    }
}

/// How long to wait before the next attempt.
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
            // The library's own seed is a constant: every replica would come back at the same moment.
            .with_jitter_seed(fastrand::u64(..))
            .build()
    }

    fn after(&mut self, error: &StreamError, healthy: bool) -> Duration {
        if let StreamError::NotWorkloadApi(_) = error {
            return self.timing.rejected_backoff;
        }
        // WA-1: at once after a good stream's end. Each happens once before something else must: no loop can form.
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
    fn attempts_spread_out_and_start_over_after_a_good_stream() {
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
    fn a_question_refused_is_not_repeated_soon() {
        let mut backoff = Backoff::new(WorkloadApiTiming::default());
        let refused = StreamError::NotWorkloadApi(String::new());
        assert_eq!(backoff.after(&refused, true), WorkloadApiTiming::default().rejected_backoff);
    }
}
