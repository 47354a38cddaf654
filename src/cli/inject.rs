//! The command `idjag-proxy inject`.
use super::terminal::{EX_DATAERR, EX_FAILED, print, print_error};
use crate::kubernetes::{Defaults, IMAGE, PullPolicy, Socket, inject_manifests};
use clap::Args;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sidecar: Sidecar,
    /// Pass through workloads that cannot be injected, instead of failing.
    #[arg(long)]
    allow_skipped: bool,
}

/// The sidecar of a pod whose annotations ask for nothing else.
#[derive(Args)]
pub(super) struct Sidecar {
    /// The sidecar's image.
    #[arg(long, default_value = IMAGE)]
    image: String,
    /// When nodes pull the image: Always, IfNotPresent or Never [default: Kubernetes' own].
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<PullPolicy>,
    /// Where the Workload API's socket comes from: `csi`, `csi:FILE` or `hostPath:/DIRECTORY/FILE`.
    #[arg(long, default_value_t)]
    socket: Socket,
}

impl Sidecar {
    pub(super) fn into_defaults(self) -> Defaults {
        Defaults { image: self.image, image_pull_policy: self.image_pull_policy, socket: self.socket }
    }
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        print_error("reading manifests from standard input");
    }
    let mut text = String::new();
    if let Err(error) = input.read_to_string(&mut text) {
        print_error(&format!("standard input cannot be read: {error}"));
        return ExitCode::from(EX_FAILED);
    }
    let injected = match inject_manifests(&text, &arguments.sidecar.into_defaults()) {
        Ok(injected) => injected,
        Err(error) => {
            print_error(&error.to_string());
            return ExitCode::from(EX_DATAERR);
        }
    };
    for report in &injected.reports {
        print_error(&report.to_string());
    }
    if injected.skipped() > 0 && !arguments.allow_skipped {
        // Standard output stays empty: the other end of a pipe must not apply only a part.
        print_error(&format!(
            "{} of the workloads cannot be injected, and nothing was written; --allow-skipped passes them through as they are",
            injected.skipped()
        ));
        return ExitCode::from(EX_DATAERR);
    }
    print(&injected.text);
    ExitCode::SUCCESS
}
