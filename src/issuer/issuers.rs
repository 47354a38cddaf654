//! All issuers in use, so that all requests to one of them share its metadata, keys and
//! connections.
use super::runtime::Issuer;
use super::settings::AuthorizationServer;
use super::workload::Workload;
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Keeps one [`Issuer`] for each server of the configuration. Clones share them.
#[derive(Clone)]
pub struct Issuers {
    workload: Workload,
    /// The key is the address of the server's settings. The issuer holds them, so nothing else can
    /// have that address in the meantime.
    by_address: Arc<Mutex<HashMap<usize, Arc<Issuer>>>>,
}

impl Issuers {
    /// Creates an empty set, whose issuers are asked on behalf of this workload.
    pub fn new(workload: Workload) -> Self {
        Self { workload, by_address: Arc::default() }
    }

    /// The workload on whose behalf issuers are asked.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Returns the issuer with these settings, and creates it if needed. Issuers whose settings a
    /// reload has dropped are removed.
    pub fn get(&self, server: &Arc<AuthorizationServer>) -> Arc<Issuer> {
        let mut issuers = lock(&self.by_address);
        let address = Arc::as_ptr(server).addr();
        if let Some(issuer) = issuers.get(&address) {
            return Arc::clone(issuer);
        }
        issuers.retain(|_, issuer| issuer.is_configured());
        let issuer = Arc::new(Issuer::new(Arc::clone(server), self.workload.clone()));
        issuers.insert(address, Arc::clone(&issuer));
        issuer
    }
}
