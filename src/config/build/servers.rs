//! Authorization servers, and how we authenticate to them.
use super::Builder;
use crate::config::decode::{Mapping, closest, list_words};
use crate::config::file::{AssertionAudienceFile, ClientAuthFile, ParameterFile, QuirksFile, ServerFile, TrustFile};
use crate::config::leaf::{Name, SecretPath, Text};
use crate::config::problem::KeyPath;
use crate::issuer::{AssertionAudience, AuthorizationServer, ClientAuth, Deadlines, Endpoints, Parameter, Quirks};
use crate::secret::Secret;
use crate::tls::{PeerIds, ServerTrust, roots_from_pem};
use std::collections::HashMap;
use std::sync::Arc;

/// The parameters of a token request that only the proxy sets (RFC 6749, 7521, 7523, 8693, 8707).
pub(super) const RESERVED_PARAMETERS: [&str; 14] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "resource",
    "audience",
    "scope",
];

/// The servers that the file defines.
pub(super) struct Servers {
    /// Where each name is in `built`; `None` for a server that could not be built, so that a
    /// reference to it is not reported as unknown.
    indices: HashMap<String, Option<usize>>,
    built: Vec<Arc<AuthorizationServer>>,
}

impl Servers {
    pub(super) fn into_built(self) -> Vec<Arc<AuthorizationServer>> {
        self.built
    }

    /// Finds the server that the value at `path` names, or reports an unknown name.
    pub(super) fn find(
        &self,
        name: &Name,
        path: &KeyPath,
        builder: &mut Builder<'_>,
    ) -> Option<Arc<AuthorizationServer>> {
        match self.indices.get(&name.0) {
            Some(built) => built.map(|index| self.built[index].clone()),
            None => {
                let mut names: Vec<&str> = self.indices.keys().map(String::as_str).collect();
                names.sort_unstable();
                let problem = builder.error(path, format!("there is no authorization server `{}`", name.0));
                match closest(&name.0, &names) {
                    Some(similar) => problem.help(format!("did you mean `{similar}`?")),
                    None if names.is_empty() => problem.help("define it under `authorization_servers`"),
                    None => problem.help(format!("defined here: {}", list_words(&names[..names.len().min(12)], "and"))),
                };
                None
            }
        }
    }
}

impl Builder<'_> {
    pub(super) fn servers(&mut self, files: &Mapping<Name, ServerFile>) -> Servers {
        let root = KeyPath::default().key("authorization_servers");
        let keys = self.tree.find(&root).map(crate::config::tree::Node::keys).unwrap_or_default();
        let mut indices: HashMap<String, Option<usize>> = keys.into_iter().map(|key| (key, None)).collect();
        let mut built = Vec::new();
        for (name, file) in &files.0 {
            if let Some(server) = self.server(&root.key(&name.0), &name.0, file) {
                indices.insert(name.0.clone(), Some(built.len()));
                built.push(Arc::new(server));
            }
        }
        Servers { indices, built }
    }

    fn server(&mut self, path: &KeyPath, name: &str, file: &ServerFile) -> Option<AuthorizationServer> {
        self.check_plain_http(&path.key("issuer"), &file.issuer.0);
        if let Some(endpoints) = &file.endpoints {
            let path = path.key("endpoints");
            self.check_plain_http(&path.key("token"), endpoints.token.0.as_str());
            if let Some(jwks) = &endpoints.jwks {
                self.check_plain_http(&path.key("jwks"), jwks.0.as_str());
            }
        }
        let endpoints = file.endpoints.as_ref().map_or(Endpoints::Discovered, |endpoints| Endpoints::Explicit {
            token: endpoints.token.0.clone(),
            jwks: endpoints.jwks.as_ref().map(|jwks| jwks.0.clone()),
        });
        let client_auth = self.client_auth(&path.key("client_auth"), &file.client_auth);
        if let Some(client_auth) = client_auth.as_ref().filter(|method| method.is_certificate()) {
            self.check_certificate_needs_tls(path, &file.issuer.0, &endpoints, client_auth);
        }
        let trust = self.trust(&path.key("tls"), &file.tls);
        let quirks = self.quirks(path, file);
        Some(AuthorizationServer {
            name: name.to_owned(),
            issuer: file.issuer.0.clone(),
            endpoints,
            client_id: file.client_id.as_ref().map(|id| id.0.clone()),
            client_auth: client_auth?,
            trust: trust?,
            plain_http: self.plain_http.clone(),
            quirks,
            deadlines: Deadlines { connect: file.timeouts.connect, total: file.timeouts.total },
            egress_proxy: self.egress_proxy_of(file.egress_proxy.as_ref()),
        })
    }

    /// Refuses plain HTTP to a server to which we present a certificate.
    fn check_certificate_needs_tls(
        &mut self,
        path: &KeyPath,
        issuer: &str,
        endpoints: &Endpoints,
        client_auth: &ClientAuth,
    ) {
        let (url, plain) = match endpoints {
            Endpoints::Discovered => ("issuer", issuer.starts_with("http:")),
            Endpoints::Explicit { token, .. } => ("endpoints", token.scheme() == "http"),
        };
        if plain {
            let message =
                format!("`{}` authenticates in the TLS handshake, and plain HTTP has none", client_auth.method());
            self.error(&path.key(url), message);
        }
    }

    fn client_auth(&mut self, path: &KeyPath, file: &ClientAuthFile) -> Option<ClientAuth> {
        Some(match file {
            ClientAuthFile::SpiffeJwt => ClientAuth::SpiffeJwt,
            ClientAuthFile::SpiffeX509 => ClientAuth::SpiffeX509,
            ClientAuthFile::JwtSvidBearer => ClientAuth::JwtSvidBearer,
            ClientAuthFile::None => ClientAuth::None,
            ClientAuthFile::PrivateKeyJwt(key) => {
                let path = path.key("private_key_jwt").key("key_file");
                let kid = key.kid.as_ref().map(|kid| kid.0.clone());
                ClientAuth::PrivateKeyJwt(self.signing_key(&path, &key.key_file, kid)?)
            }
            ClientAuthFile::ClientSecretBasic(secret) => {
                let path = path.key("client_secret_basic").key("secret_file");
                ClientAuth::ClientSecretBasic(self.secret(&path, &secret.secret_file)?)
            }
            ClientAuthFile::ClientSecretPost(secret) => {
                let path = path.key("client_secret_post").key("secret_file");
                ClientAuth::ClientSecretPost(self.secret(&path, &secret.secret_file)?)
            }
        })
    }

    /// Reads a secret from its file.
    pub(super) fn secret(&mut self, path: &KeyPath, file: &SecretPath) -> Option<Secret> {
        let bytes = self.read_or_report(path, &file.0)?;
        match Secret::from_file_bytes(bytes.to_vec()) {
            Ok(secret) => Some(secret),
            Err(reason) => {
                let message = format!("{} {reason}", self.resolve(&file.0).display());
                self.error(path, message).help("the file must contain the secret and nothing else");
                None
            }
        }
    }

    /// The certificates that are accepted from a server.
    pub(super) fn trust(&mut self, path: &KeyPath, file: &TrustFile) -> Option<ServerTrust> {
        match file {
            TrustFile::WebPki => Some(ServerTrust::WebPki(self.web_roots())),
            TrustFile::CaFile(file) => {
                let path = path.key("ca_file");
                let pem = self.read_or_report(&path, &file.0)?;
                match roots_from_pem(&pem) {
                    Ok(roots) => Some(ServerTrust::WebPki(roots.into())),
                    Err(error) => {
                        let message = format!("{}: {error}", self.resolve(&file.0).display());
                        self.error(&path, message);
                        None
                    }
                }
            }
            TrustFile::SpiffeIds(ids) => self.peers(&path.key("spiffe_ids"), ids),
        }
    }

    fn peers(&mut self, path: &KeyPath, ids: &[Text]) -> Option<ServerTrust> {
        for (index, id) in ids.iter().enumerate() {
            if let Err(error) = PeerIds::new([&id.0]) {
                self.error(&path.index(index), error.to_string());
            }
        }
        if ids.is_empty() {
            self.error(path, "an empty list could mean no server or any server").help("name at least one SPIFFE ID");
        }
        let peers = PeerIds::new(ids.iter().map(|id| &id.0)).ok()?;
        Some(ServerTrust::Spiffe(Arc::new(peers)))
    }

    fn quirks(&mut self, path: &KeyPath, server: &ServerFile) -> Quirks {
        let path = path.key("quirks");
        let QuirksFile { omit, extra_parameters, assertion_audience } = &server.quirks;
        let mut quirks = Quirks::default();
        for (index, parameter) in omit.iter().enumerate() {
            let parameter = match parameter {
                ParameterFile::Resource => Parameter::Resource,
                ParameterFile::Audience => Parameter::Audience,
                ParameterFile::ClientId => Parameter::ClientId,
                ParameterFile::Scope => Parameter::Scope,
                ParameterFile::RequestedTokenType => Parameter::RequestedTokenType,
            };
            let anonymous = parameter == Parameter::ClientId && matches!(server.client_auth, ClientAuthFile::None);
            if anonymous {
                self.error(
                    &path.key("omit").index(index),
                    "without `client_id` the server cannot tell who is asking, because `client_auth` is `none`",
                );
            }
            quirks.omit.insert(parameter);
        }
        for (name, value) in &extra_parameters.0 {
            if RESERVED_PARAMETERS.contains(&name.0.as_str()) {
                self.error(
                    &path.key("extra_parameters").key(&name.0),
                    format!("`{}` is set by the proxy itself", name.0),
                )
                .help("extra parameters are for what no other key of this file covers");
            }
            quirks.extra_parameters.insert(name.0.clone(), value.0.clone());
        }
        quirks.assertion_audience = match assertion_audience {
            AssertionAudienceFile::Issuer => AssertionAudience::Issuer,
            AssertionAudienceFile::TokenEndpoint => AssertionAudience::TokenEndpoint,
            AssertionAudienceFile::Exactly(text) => AssertionAudience::Explicit(text.0.clone()),
        };
        quirks
    }
}
