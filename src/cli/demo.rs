//! `idjag-proxy demo`: a whole small world in one process, over real sockets, and a walk through it.
//!
//! The peers are those of [`crate::dev`], the proxies are the real ones of [`crate::app`]. Every line that is shown was taken from
//! what the peers received, not from what the proxy says of itself.
mod agent;
mod observed;
mod page;
mod proxy;
mod stories;
mod story;
mod world;

use super::{EX_FAILED, complain};
use page::Page;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use world::World;

/// Users' tokens on disk, for the curl lines, are renewed long before their hour is over.
const USER_TOKEN_RENEWAL: Duration = Duration::from_secs(1800);

/// Walks the stories; then stays up, unless `once`.
pub(super) fn run(once: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime could not start: {error}"));
            return ExitCode::from(EX_FAILED);
        }
    };
    match runtime.block_on(demo(once)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EX_FAILED),
        Err(error) => {
            complain(&format!("the demo failed: {error:#}"));
            ExitCode::from(EX_FAILED)
        }
    }
}

/// Whether every step went as it should.
async fn demo(once: bool) -> anyhow::Result<bool> {
    let colours = std::io::stdout().is_terminal() && super::environment("NO_COLOR").is_none();
    let mut page = Page::new(colours);
    let world = World::start().await?;
    stories::walk(&mut page, &world).await?;
    if !once {
        stories::invite(&mut page, &world)?;
        stay(&world).await?;
    }
    world.stop().await;
    Ok(page.all_good())
}

/// Until someone wants it to end.
async fn stay(world: &World) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            result = tokio::signal::ctrl_c() => return Ok(result?),
            () = tokio::time::sleep(USER_TOKEN_RENEWAL) => world.write_user_tokens()?,
        }
    }
}
