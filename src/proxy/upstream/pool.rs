//! The connections of one worker, by origin, identity and trust.
use super::config::PoolKey;
use super::origin::OriginPool;
use super::resolver::Resolver;
use crate::proxy::metrics::UpstreamGauges;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Origins without a connection of which the pool remembers which protocol they speak.
const MAX_REMEMBERED: usize = 256;

/// The connections of one worker to its upstreams.
pub(crate) struct Pool {
    origins: RefCell<HashMap<Arc<PoolKey>, Rc<OriginPool>>>,
    gauges: UpstreamGauges,
    resolver: Rc<Resolver>,
}

impl Pool {
    /// Creates an empty pool.
    pub(crate) fn new(gauges: UpstreamGauges, resolver: Rc<Resolver>) -> Rc<Self> {
        Rc::new(Self { origins: RefCell::default(), gauges, resolver })
    }

    /// The resolver for the names of new connections.
    pub(super) fn resolver(&self) -> &Rc<Resolver> {
        &self.resolver
    }

    pub(super) fn gauges(&self) -> &UpstreamGauges {
        &self.gauges
    }

    /// The connections to the origin of a key.
    pub(super) fn origin(&self, key: &Arc<PoolKey>) -> Rc<OriginPool> {
        let mut origins = self.origins.borrow_mut();
        if let Some(origin) = origins.get(key) {
            return Rc::clone(origin);
        }
        let origin = OriginPool::new(key, self.gauges.clone());
        origins.insert(Arc::clone(key), Rc::clone(&origin));
        origin
    }

    /// Evicts connections that are too old, idle for too long, or made with an earlier identity,
    /// and those of upstreams that no route names any more.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut origins = self.origins.borrow_mut();
        let mut remembered = 0;
        origins.retain(|key, origin| {
            if !key.is_in_use() {
                return false;
            }
            let is_used = origin.sweep(key.revision(), now) || Rc::strong_count(origin) > 1;
            remembered += usize::from(!is_used);
            is_used || remembered <= MAX_REMEMBERED
        });
    }

    /// Evicts every idle connection, because its file descriptor is needed.
    pub(crate) fn evict_idle(&self) {
        for origin in self.origins.borrow().values() {
            origin.evict_idle();
        }
    }
}
