//! What the peers received as a result of one call of the agent.
use super::agent::{Reply, get};
use super::world::{Agent, World};
use crate::dev::authorization_server::{AuthorizationServer, Recorded};
use crate::dev::resource_server::{ReceivedRequest, ResourceServer};
use std::net::SocketAddr;

/// One call as seen from every side.
pub(super) struct Observed {
    pub(super) reply: Reply,
    /// Token requests that the company's server answered during the call.
    pub(super) corp: Vec<Recorded>,
    /// Token requests that the partner's server answered during the call.
    pub(super) partner: Vec<Recorded>,
    /// The request that arrived at the API.
    pub(super) upstream: Option<ReceivedRequest>,
    /// How often the proxy found the token in its cache.
    pub(super) hits: u64,
    /// How often the proxy did not find the token in its cache.
    pub(super) misses: u64,
}

/// The sums of `token_cache_total` over all tiers.
#[derive(Clone, Copy)]
struct CacheCounts {
    hits: u64,
    misses: u64,
}

/// A call that the agent makes.
pub(super) struct Call<'a> {
    pub(super) agent: &'a Agent,
    pub(super) url: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
    pub(super) upstream: &'a ResourceServer,
}

impl Call<'_> {
    /// Makes the call and collects what it caused.
    pub(super) async fn make(&self, world: &World) -> anyhow::Result<Observed> {
        let metrics = self.agent.proxy.metrics()?;
        let count = |server: &AuthorizationServer| server.requests().len();
        let (corp, partner, arrived) = (count(&world.corp), count(&world.partner), self.upstream.requests().len());
        let before = CacheCounts::read(metrics).await?;
        let reply = get(self.agent.proxy.outbound()?, self.url, self.fields).await?;
        let after = CacheCounts::read(metrics).await?;
        let since = |server: &AuthorizationServer, mark: usize| server.requests().split_off(mark);
        Ok(Observed {
            reply,
            corp: since(&world.corp, corp),
            partner: since(&world.partner, partner),
            upstream: self.upstream.requests().split_off(arrived).pop(),
            hits: after.hits - before.hits,
            misses: after.misses - before.misses,
        })
    }
}

impl CacheCounts {
    async fn read(metrics: SocketAddr) -> anyhow::Result<Self> {
        let page = get(metrics, &format!("http://{metrics}/metrics"), &[]).await?.body;
        let sum = |result: &str| {
            let label = format!("result=\"{result}\"");
            let lines = page.lines().filter(|line| line.starts_with("idjag_proxy_token_cache_total{"));
            let lines = lines.filter(|line| line.contains(&label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        Ok(Self { hits: sum("hit"), misses: sum("miss") })
    }
}
