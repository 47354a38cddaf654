//! What the peers received because of one call of the agent.
use super::agent::{Reply, get};
use super::world::{Agent, World};
use crate::dev::authorization_server::{AuthorizationServer, Recorded};
use crate::dev::resource_server::{ResourceServer, Seen};
use std::net::SocketAddr;

/// One call, from every side.
pub(super) struct Observed {
    pub(super) reply: Reply,
    /// Token requests that the company's server answered meanwhile.
    pub(super) corp: Vec<Recorded>,
    /// Token requests that the partner's server answered meanwhile.
    pub(super) partner: Vec<Recorded>,
    /// What arrived at the API.
    pub(super) upstream: Option<Seen>,
    /// How often the proxy's cache had the token: before the call and after it.
    pub(super) hits: (u64, u64),
}

/// A call to be made.
pub(super) struct Call<'a> {
    pub(super) agent: &'a Agent,
    pub(super) url: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
    pub(super) upstream: &'a ResourceServer,
}

impl Call<'_> {
    /// Makes it, and looks at what it caused.
    pub(super) async fn make(&self, world: &World) -> anyhow::Result<Observed> {
        let metrics = self.agent.proxy.metrics()?;
        let asked = |server: &AuthorizationServer| server.requests().len();
        let (corp, partner, arrived) = (asked(&world.corp), asked(&world.partner), self.upstream.requests().len());
        let before = cache_hits(metrics).await?;
        let reply = get(self.agent.proxy.outbound()?, self.url, self.fields).await?;
        let after = cache_hits(metrics).await?;
        let since = |server: &AuthorizationServer, mark: usize| server.requests().split_off(mark);
        Ok(Observed {
            reply,
            corp: since(&world.corp, corp),
            partner: since(&world.partner, partner),
            upstream: self.upstream.requests().split_off(arrived).pop(),
            hits: (before, after),
        })
    }
}

/// `token_cache_total{result="hit"}`, all tiers together.
async fn cache_hits(metrics: SocketAddr) -> anyhow::Result<u64> {
    let page = get(metrics, &format!("http://{metrics}/metrics"), &[]).await?.body;
    let hits =
        page.lines().filter(|line| line.starts_with("idjag_proxy_token_cache_total{") && line.contains("\"hit\""));
    Ok(hits.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}
