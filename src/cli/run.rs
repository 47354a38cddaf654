//! `idjag-proxy run`: runs the proxy until a signal stops it.
use super::proxy_variables;
use super::signals::run_with_signals;
use super::terminal::{EX_CONFIG, EX_FAILED, environment, print_error};
use crate::app::bind;
use crate::clock::Clock;
use crate::config::{Overrides, Source};
use crate::tasks::Stop;
use crate::telemetry::Logs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

pub(super) fn run(file: &Path, overrides: Overrides) -> ExitCode {
    let source = Source { path: file.to_owned(), environment: Arc::new(environment), overrides };
    let loaded = match source.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_error(&problems.to_string());
            return ExitCode::from(EX_CONFIG);
        }
    };
    let logs = Logs::start(loaded.config.process.log);
    for warning in &loaded.warnings {
        tracing::warn!(path = %warning.path, line = warning.line, "{}", warning.message);
    }
    if let Some(unused) = proxy_variables::unused(&loaded.config, &environment) {
        tracing::info!("{unused}");
    }
    // The runtime of the control plane. One thread is enough, and a busy data plane cannot starve
    // it.
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()
        {
            Ok(runtime) => runtime,
            Err(error) => return failed(&format!("the runtime could not start: {error}")),
        };
    let shared_logs = Some(logs.clone());
    let ended = runtime.block_on(async move {
        let bound = bind(loaded, source, &Clock::system(), shared_logs).map_err(|error| error.to_string())?;
        let (stopper, stop) = Stop::pair();
        // On the heap, because it holds the state of everything that runs.
        run_with_signals(Box::pin(bound.run(stop)), stopper, "draining").await
    });
    runtime.shutdown_background();
    if let Err(error) = &ended {
        tracing::error!(%error, "stopped");
    }
    logs.flush();
    ended.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &str) -> ExitCode {
    print_error(&format!("idjag-proxy: {error}"));
    ExitCode::from(EX_FAILED)
}
