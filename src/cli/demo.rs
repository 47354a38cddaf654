//! `idjag-proxy demo`: starts every part in one process, over real sockets, and walks through some
//! stories.
//!
//! The peers are those of [`crate::dev`], and the proxies are the real ones of [`crate::app`].
//! What is shown is what the peers received, not what the proxy reports about itself; only the
//! cache counts come from the proxy's metrics.
mod agent;
mod observed;
mod page;
mod proxy;
mod stories;
mod story;
mod world;

use super::terminal::{EX_FAILED, environment, print_error};
use page::Page;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use world::World;

/// How often the users' tokens on disk, which the curl lines use, are renewed. They expire after an
/// hour.
const USER_TOKEN_RENEWAL: Duration = Duration::from_secs(1800);

/// Walks through the stories, then keeps running unless `once`.
pub(super) fn run(once: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("the runtime could not start: {error}"));
            return ExitCode::from(EX_FAILED);
        }
    };
    match runtime.block_on(demo(once)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EX_FAILED),
        Err(error) => {
            print_error(&format!("the demo failed: {error:#}"));
            ExitCode::from(EX_FAILED)
        }
    }
}

/// Returns whether every check passed.
async fn demo(once: bool) -> anyhow::Result<bool> {
    let colours = std::io::stdout().is_terminal() && environment("NO_COLOR").is_none();
    let mut page = Page::new(colours);
    let world = World::start().await?;
    stories::walk(&mut page, &world).await?;
    if !once {
        stories::print_things_to_try(&mut page, &world)?;
        stay(&world).await?;
    }
    world.stop().await;
    Ok(page.all_checks_passed())
}

/// Keeps running until a signal arrives.
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
