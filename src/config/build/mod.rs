//! The build step: from the file types to the runtime types of the other modules. It decides what
//! values mean together: which server a name refers to, whether a flow can have this subject,
//! whether two routes could match the same request.
//!
//! Like decoding, it collects problems and continues with what is left. If there is any
//! error, the result is discarded as a whole.
mod builder;
mod egress;
mod identity;
mod process;
mod route_checks;
mod routes;
mod servers;
#[cfg(test)]
mod tests;
mod token_checks;
mod tokens;
mod upstream;

pub(crate) use builder::Inputs;

use super::file::File;
use super::leaf::Version;
use super::problem::Report;
use super::runtime::Config;
use super::tree::Node;
use super::watch::Fingerprint;
use crate::issuer::PlainHttp;
use builder::Builder;
use std::sync::Arc;

/// Builds the configuration. Returns `None` after it has reported what is wrong.
pub(crate) fn build<'a>(
    file: &File,
    tree: &'a Node,
    report: &'a mut Report,
    fingerprint: &'a mut Fingerprint,
    inputs: Inputs<'a>,
) -> Option<Config> {
    let mut builder = Builder {
        report,
        fingerprint,
        tree,
        inputs,
        plain_http: PlainHttp::default(),
        outbound_ports: Vec::new(),
        web_roots: None,
        egress_proxy: None,
    };
    // There is only one version so far; the next one will be distinguished here.
    let Version = file.version;
    let listen = builder.listen(&file.listen);
    builder.outbound_ports = listen.outbound.iter().map(|listen| listen.address.port()).collect();
    builder.plain_http = builder.plain_http(&file.allow_plain_http);
    builder.egress_proxy = file.egress_proxy.as_ref().and_then(|file| builder.egress_proxy(file));
    let assertion = builder.assertion(file.identity.as_ref());
    let servers = builder.servers(&file.authorization_servers);
    let source = builder.identity_source(file.identity.as_ref());
    let mut tokens = tokens::Tokens::new(&servers, &assertion.settings, source.as_ref());
    let routes = builder.routes(file, &mut tokens);
    tokens.warn_of_unused(file, &mut builder);
    let egress = builder.egress(&file.egress);
    let needs_identity = builder.check_needed_identity(source.as_ref(), routes.needing_identity.as_deref());
    builder.warn_of_unpublished(&assertion, &listen);
    let process = builder.process(file);
    Some(Config {
        identity: source,
        needs_identity,
        listen,
        policy: routes.policy?,
        egress: Arc::new(egress),
        egress_proxy: builder.egress_proxy.clone(),
        servers: servers.into_built(),
        published_keys: assertion.published,
        assertion_lifetime: assertion.settings.lifetime,
        process,
        // `load` fills it in: this pass does not see the bytes of the file.
        hash: String::new(),
    })
}
