//! The valid combinations of flow, subject and actor. Any other combination is reported as an error
//! here, before anything is sent.
use super::Builder;
use crate::config::file::{SubjectFile, TokenFile};
use crate::config::problem::KeyPath;
use crate::exchange::{Flow, Subject, UserTokenRule};
use crate::identity::IdentitySource;
use crate::issuer::{AuthorizationServer, ClientAuth, Endpoints, Parameter};
use crate::jose::TokenKind;
use std::sync::Arc;

impl Builder<'_> {
    /// Checks the subject and the actor of a token against its flow.
    pub(super) fn check_subject_and_actor(&mut self, path: &KeyPath, flow: &Flow, token: &TokenFile) {
        let user = !matches!(token.subject, SubjectFile::Own);
        let (subject, actor) = (path.key("subject"), path.key("actor"));
        if user && matches!(flow, Flow::ClientCredentials { .. }) {
            self.error(&subject, "`client_credentials` stands for the client itself and cannot act for a user")
                .help("use id_jag, token_exchange, jwt_bearer or self_issued");
        }
        if token.actor.is_some() {
            let reason = match flow {
                Flow::ClientCredentials { .. } => {
                    "`client_credentials` stands for the client itself, so nobody acts for it"
                }
                Flow::SelfIssued { .. } => {
                    "`self_issued` sets `act` itself: this agent, wrapped around the chain that it received"
                }
                Flow::JwtBearer { .. } => "`jwt_bearer` has no parameter for an actor (RFC 7523)",
                Flow::IdJag { .. } | Flow::TokenExchange { .. } => "",
            };
            if !reason.is_empty() {
                self.error(&actor, reason).help("remove `actor`, or use id_jag or token_exchange");
            }
        }
        if token.eager && user {
            self.error(
                &path.key("eager"),
                "readiness cannot wait for a user: without the user's token there is nothing to request",
            )
            .help("remove `eager`, or write `subject: self`");
        }
        if let (Flow::ClientCredentials { server }, ClientAuth::None) = (flow, &flow_server(flow).client_auth) {
            let message = format!(
                "`{}` gets no proof of who is asking (RFC 6749 §4.4 is for confidential clients only)",
                server.name
            );
            self.warn(&path.key("flow"), message).help("give the server a `client_auth`");
        }
    }

    /// Checks that a user's token can be verified before anything in it is used.
    pub(super) fn check_user_rule(&mut self, path: &KeyPath, rule: &UserTokenRule) {
        if rule.audience.is_empty() && rule.kind != TokenKind::IdToken {
            self.error(&path.key("audience"), "`audience` is required: what this token's `aud` must contain")
                .help("only an id_token has a default, our client id at that server");
        }
        if matches!(rule.server.endpoints, Endpoints::Explicit { jwks: None, .. }) {
            let message =
                format!("a token of `{}` cannot be verified: its `endpoints` do not name `jwks`", rule.server.name);
            self.error(&path.key("server"), message).help("add `jwks`, or remove `endpoints` to discover both");
        }
    }

    /// Refuses what needs a JWT-SVID if the identity comes from files. Only the Workload API issues
    /// JWT-SVIDs.
    pub(super) fn check_jwt_svid(
        &mut self,
        path: &KeyPath,
        flow: &Flow,
        subject: &Subject,
        source: Option<&IdentitySource>,
    ) {
        if !matches!(source, Some(IdentitySource::Files(_))) {
            return;
        }
        let help =
            "use identity.workload_api, or a flow and a client authentication for which the X.509-SVID is enough";
        let own = matches!(subject, Subject::Own);
        if own && matches!(flow, Flow::IdJag { .. } | Flow::TokenExchange { .. } | Flow::JwtBearer { .. }) {
            self.error(&path.key("flow"), "this flow sends the JWT-SVID, and identity.files has only an X.509-SVID")
                .help(help);
        }
        if self.is_written(&path.key("actor")) {
            self.error(
                &path.key("actor"),
                "the actor is named by the JWT-SVID, and identity.files has only an X.509-SVID",
            )
            .help(help);
        }
        let idp = if let Flow::IdJag { idp, .. } = flow { Some(idp) } else { None };
        for server in [Some(flow_server(flow)), idp].into_iter().flatten() {
            if matches!(server.client_auth, ClientAuth::SpiffeJwt | ClientAuth::JwtSvidBearer) {
                let path = KeyPath::default().key("authorization_servers").key(&server.name).key("client_auth");
                let message = format!(
                    "`{}` sends the JWT-SVID, and identity.files has only an X.509-SVID",
                    server.client_auth.method()
                );
                self.error(&path, message).help("use spiffe_x509, or identity.workload_api");
            }
        }
    }

    /// Warns of parameters that a token sets although its server never receives them.
    pub(super) fn warn_of_omitted(&mut self, path: &KeyPath, flow: &Flow, token: &TokenFile) {
        let server = flow_server(flow);
        let parameters = [
            (Parameter::Resource, token.resource.is_some()),
            (Parameter::Audience, token.audience.is_some()),
            (Parameter::Scope, !token.scopes.is_empty()),
        ];
        for (parameter, is_set) in parameters {
            let sent_to_idp = matches!(flow, Flow::IdJag { idp, .. } if !idp.quirks.omit.contains(&parameter));
            if is_set && server.quirks.omit.contains(&parameter) && !sent_to_idp {
                let key = if parameter == Parameter::Scope { "scopes" } else { parameter.as_str() };
                self.warn(
                    &path.key(key),
                    format!("`{}` never receives it: its quirks omit `{}`", server.name, parameter.as_str()),
                );
            }
        }
    }
}

fn flow_server(flow: &Flow) -> &Arc<AuthorizationServer> {
    match flow {
        Flow::ClientCredentials { server }
        | Flow::SelfIssued { server, .. }
        | Flow::IdJag { server, .. }
        | Flow::TokenExchange { server }
        | Flow::JwtBearer { server } => server,
    }
}
