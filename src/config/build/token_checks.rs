//! Checks of a token's flow, subject and actor against each other and against the servers. A
//! combination that cannot work is reported here, before anything is sent.
use super::Builder;
use crate::config::file::{SubjectFile, TokenFile};
use crate::config::problem::KeyPath;
use crate::exchange::{Flow, IdentityUse, Subject, UserTokenRule};
use crate::identity::IdentitySource;
use crate::issuer::{ClientAuth, Endpoints, Parameter};
use crate::jose::TokenKind;

impl Builder<'_> {
    /// Checks the subject and the actor of a token against its flow.
    pub(super) fn check_subject_and_actor(&mut self, path: &KeyPath, flow: &Flow, token: &TokenFile) {
        let user = !matches!(token.subject, SubjectFile::Own);
        let facts = flow.facts();
        let (subject, actor) = (path.key("subject"), path.key("actor"));
        if let (true, Some(why)) = (user, facts.no_user) {
            self.error(&subject, why).help("use id_jag, token_exchange, jwt_bearer or self_issued");
        }
        if let (Some(_), Some(why)) = (&token.actor, facts.no_actor) {
            self.error(&actor, why).help("remove `actor`, or use id_jag or token_exchange");
        }
        if token.eager && user {
            self.error(
                &path.key("eager"),
                "readiness cannot wait for a user: without the user's token there is nothing to request",
            )
            .help("remove `eager`, or write `subject: self`");
        }
        if facts.identity == IdentityUse::Nothing && matches!(facts.server.client_auth, ClientAuth::None) {
            let message = format!(
                "`{}` gets no proof of who is asking (RFC 6749 §4.4 is for confidential clients only)",
                facts.server.name
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

    /// Refuses what needs a JWT-SVID if the source of the identity issues none.
    pub(super) fn check_jwt_svid(
        &mut self,
        path: &KeyPath,
        flow: &Flow,
        subject: &Subject,
        source: Option<&IdentitySource>,
    ) {
        let Some(source) = source.filter(|source| !source.has_jwt_svids()) else { return };
        let lacks = format!("and {} has only an X.509-SVID", source.setting());
        let help =
            "use identity.workload_api, or a flow and a client authentication for which the X.509-SVID is enough";
        let (facts, own) = (flow.facts(), matches!(subject, Subject::Own));
        if own && facts.identity == IdentityUse::JwtSvidOfOwnSubject {
            self.error(&path.key("flow"), format!("this flow sends the JWT-SVID, {lacks}")).help(help);
        }
        if self.is_written(&path.key("actor")) {
            self.error(&path.key("actor"), format!("the actor is named by the JWT-SVID, {lacks}")).help(help);
        }
        for server in [Some(facts.server), facts.idp].into_iter().flatten() {
            if server.client_auth.sends_jwt_svid() {
                let path = KeyPath::default().key("authorization_servers").key(&server.name).key("client_auth");
                self.error(&path, format!("`{}` sends the JWT-SVID, {lacks}", server.client_auth.method()))
                    .help("use spiffe_x509, or identity.workload_api");
            }
        }
    }

    /// Warns of parameters that a token sets although its server never receives them.
    pub(super) fn warn_of_omitted(&mut self, path: &KeyPath, flow: &Flow, token: &TokenFile) {
        let facts = flow.facts();
        let server = facts.server;
        let parameters = [
            (Parameter::Resource, token.resource.is_some()),
            (Parameter::Audience, token.audience.is_some()),
            (Parameter::Scope, !token.scopes.is_empty()),
        ];
        for (parameter, is_set) in parameters {
            let sent_to_idp = facts.idp.is_some_and(|idp| !idp.quirks.omit.contains(&parameter));
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
