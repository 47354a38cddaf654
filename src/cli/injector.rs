//! The command `idjag-proxy injector`.
use super::inject::Sidecar;
use super::signals::run_with_signals;
use super::terminal::{EX_FAILED, environment, print_error};
use crate::clock::Clock;
use crate::kubernetes::injector::{Api, Settings, bind};
use crate::tasks::Stop;
use crate::telemetry::{Level, LogFormat, LogSettings, Logs};
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The name that the chart gives the injector's objects.
const NAME: &str = "idjag-proxy-injector";

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sidecar: Sidecar,
    /// The namespace of the Service, the Secret and the Lease [default: the injector's own].
    #[arg(long)]
    namespace: Option<String>,
    /// The Service through which the API server calls the injector.
    #[arg(long, default_value = NAME)]
    service: String,
    /// The MutatingWebhookConfiguration that the injector writes its CA into.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    webhook_configuration: String,
    /// The Secret that stores the certificate. It must exist, and may be empty.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    secret: String,
    /// The Lease that decides which replica renews the certificate. It must exist, and may be
    /// empty.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    lease: String,
    /// How long a certificate is valid. It is replaced after two thirds of this time.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = humantime::parse_duration)]
    certificate_lifetime: Duration,
    /// The address of the webhook: HTTPS, POST /mutate.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// The address of metrics and probes.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:17090")]
    metrics: SocketAddr,
    /// The log level: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = super::terminal::log_level)]
    log_level: Level,
}

/// How long a new CA is trusted before its certificate is served. API servers see a new bundle
/// within a second or two.
const SETTLE: Duration = Duration::from_secs(15);

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let logs = Logs::start(LogSettings { level: arguments.log_level, format: LogFormat::Json });
    let ended = serve(arguments, &logs);
    if let Err(error) = &ended {
        tracing::error!(%error, "stopped");
    }
    logs.flush();
    let Err(error) = ended else { return ExitCode::SUCCESS };
    print_error(&format!("idjag-proxy: {error}"));
    ExitCode::from(EX_FAILED)
}

fn serve(arguments: Arguments, logs: &Logs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime could not start: {error}"))?;
    let ended = runtime.block_on(async {
        let api = Api::infer().await?;
        let settings = arguments.into_settings(&api);
        let bound = bind(settings, api, &Clock::system(), Some(logs))?;
        let (stopper, stop) = Stop::pair();
        run_with_signals(bound.run(stop), stopper, "reviews are answered for a few more seconds").await
    });
    runtime.shutdown_background();
    ended
}

impl Arguments {
    fn into_settings(self, api: &Api) -> Settings {
        // The pod's name, if there is a pod. The random suffix tells two processes on one host
        // apart.
        let host = environment("HOSTNAME").unwrap_or_else(|| NAME.to_owned());
        Settings {
            defaults: self.sidecar.into_defaults(),
            namespace: self.namespace.unwrap_or_else(|| api.namespace().to_owned()),
            service: self.service,
            webhook_configuration: self.webhook_configuration,
            secret: self.secret,
            lease: self.lease,
            listen: self.listen,
            metrics: self.metrics,
            identity: format!("{host}_{:08x}", fastrand::u32(..)),
            certificate_lifetime: self.certificate_lifetime,
            settle: SETTLE,
        }
    }
}
