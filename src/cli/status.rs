//! `idjag-proxy status` and `idjag-proxy log-level`: requests to the admin socket of a running
//! proxy.
use super::terminal::{EX_FAILED, print, print_error, small_runtime};
use crate::admin::{Client, ClientError, RouteStatus, Status};
use crate::clock::{Clock, Timestamp};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn run(admin: PathBuf, json: bool) -> ExitCode {
    match ask(Client::new(admin).status()) {
        Ok(status) => {
            print(&match json {
                true => format!("{}\n", serde_json::to_string_pretty(&status).unwrap_or_default()),
                false => render(&status, Clock::system().now()),
            });
            if status.ready { ExitCode::SUCCESS } else { ExitCode::from(EX_FAILED) }
        }
        Err(error) => report_failure(&error),
    }
}

pub(super) fn set_log_level(admin: PathBuf, level: &str) -> ExitCode {
    match ask(Client::new(admin).set_log_level(level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report_failure(&error),
    }
}

fn ask<T>(question: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    let runtime = small_runtime().map_err(|error| error.to_string())?;
    let answer = async { tokio::time::timeout(Duration::from_secs(5), question).await };
    match runtime.block_on(answer) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the proxy did not answer within 5 s".to_owned()),
    }
}

fn report_failure(error: &str) -> ExitCode {
    print_error(&format!("idjag-proxy: {error}"));
    ExitCode::from(EX_FAILED)
}

/// Renders the status for people.
fn render(status: &Status, now: Timestamp) -> String {
    let mut out = String::new();
    let line = |out: &mut String, name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<11}{value}");
    };
    line(&mut out, "idjag-proxy", &format!(" {}", status.version));
    line(&mut out, "ready", if status.ready { "yes" } else { "no" });
    for what in &status.waiting_for {
        line(&mut out, "", &format!("waiting for {what}"));
    }
    if let Some(identity) = &status.identity {
        let id = identity.spiffe_id.as_deref().unwrap_or("none yet");
        let ends = identity.expires_at.map_or_else(String::new, |at| format!(", expires {}", from_now(at, now)));
        line(&mut out, "identity", &format!("{id}{ends}"));
        let state = if identity.connected { "connected" } else { "not connected" };
        line(&mut out, "", &format!("from {} ({state})", identity.source));
        if let Some(refused) = &identity.last_refused {
            line(&mut out, "", &format!("the last update was refused: {refused}"));
        }
    }
    let hash: String = status.config.hash.chars().take(12).collect();
    line(&mut out, "config", &format!("{hash}, loaded {}", from_now(status.config.loaded_at, now)));
    if let Some(refused) = &status.config.refused {
        line(&mut out, "", &format!("the new file was refused: {refused}"));
    }
    line(&mut out, "traffic", &format!("{} requests in flight, {} connections", status.requests, status.connections));
    line(&mut out, "log level", &status.log_level);
    for route in &status.routes {
        line(&mut out, "route", &route_line(route, now));
    }
    out
}

fn route_line(route: &RouteStatus, now: Timestamp) -> String {
    let token = match &route.token {
        Some(token) if token.usable => {
            format!(", token for {} expires {}", token.scopes.join(" "), from_now(token.expires_at, now))
        }
        Some(_) => ", token expired".to_owned(),
        None => String::new(),
    };
    let notes: String = route.notes.iter().map(|note| format!("  ! {note}")).collect();
    format!("{}: {} -> {}{token}{notes}", route.name, route.matches, route.credential)
}

fn from_now(seconds: u64, now: Timestamp) -> String {
    let at = Timestamp::from_unix_seconds(seconds);
    let (distance, past) = if at < now { (now.since(at), true) } else { (at.since(now), false) };
    let distance = humantime::format_duration(Duration::from_secs(distance.as_secs()));
    if past { format!("{distance} ago") } else { format!("in {distance}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let now = Timestamp::from_unix_seconds(1000);
        assert_eq!(from_now(1090, now), "in 1m 30s");
        assert_eq!(from_now(940, now), "1m ago");
    }
}
