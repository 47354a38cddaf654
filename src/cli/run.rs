//! `idjag-proxy run`
use super::signals::until_told;
use super::{EX_CONFIG, EX_FAILED, complain, environment};
use crate::app::bind;
use crate::clock::Clock;
use crate::config::{LogFormat, Overrides, Process, Source};
use crate::tasks::Stop;
use crate::telemetry::{Format, Logs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

pub(super) fn run(file: &Path, overrides: Overrides) -> ExitCode {
    let source = Source { path: file.to_owned(), environment: Arc::new(environment), overrides };
    let loaded = match source.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems.to_string());
            return ExitCode::from(EX_CONFIG);
        }
    };
    let logs = match start_logs(&loaded.config.process) {
        Ok(logs) => logs,
        Err(error) => return failed(&error),
    };
    for warning in &loaded.warnings {
        tracing::warn!(path = %warning.path, line = warning.line, "{}", warning.message);
    }
    // The control plane's runtime: one thread is enough, and a busy data plane cannot starve it.
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()
        {
            Ok(runtime) => runtime,
            Err(error) => return failed(&format!("the runtime could not start: {error}")),
        };
    let log_of_parts = Some(logs.clone());
    let ended = runtime.block_on(async move {
        let bound = bind(loaded, source, &Clock::system(), log_of_parts).map_err(|error| error.to_string())?;
        let (stopper, stop) = Stop::pair();
        until_told(bound.run(stop), stopper, "draining").await
    });
    runtime.shutdown_background();
    if let Err(error) = &ended {
        tracing::error!(%error, "stopped");
    }
    logs.flush();
    ended.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &str) -> ExitCode {
    complain(&format!("idjag-proxy: {error}"));
    ExitCode::from(EX_FAILED)
}

fn start_logs(process: &Process) -> Result<Logs, String> {
    let format = match process.log_format {
        LogFormat::Json => Format::Json,
        LogFormat::Pretty => Format::Pretty,
    };
    Logs::start(process.log_level.as_str(), format).map_err(|error| error.to_string())
}
