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
    /// How often the proxy looked into its cache for this call and found the token.
    pub(super) hits: u64,
    /// How often it looked and did not find it.
    pub(super) misses: u64,
}

/// `token_cache_total` of the proxy, all tiers together.
#[derive(Clone, Copy)]
struct Cache {
    hits: u64,
    misses: u64,
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
        let before = Cache::read(metrics).await?;
        let reply = get(self.agent.proxy.outbound()?, self.url, self.fields).await?;
        let after = Cache::read(metrics).await?;
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

impl Cache {
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
