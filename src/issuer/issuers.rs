//! All issuers that are in use, so that what is known of one is shared by all who ask it.
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
    /// By the address of the server's settings. An issuer holds them, so that nothing else can have that address meanwhile.
    by_address: Arc<Mutex<HashMap<usize, Arc<Issuer>>>>,
}

impl Issuers {
    /// No issuer yet; those to come are asked as this workload.
    pub fn new(workload: Workload) -> Self {
        Self { workload, by_address: Arc::default() }
    }

    /// The workload as which issuers are asked.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What is known of a server. Servers that a reload has dropped are forgotten.
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
