//! Converts the tokens that the file describes to grants: one for each set of scopes that routes
//! request.
use super::Builder;
use super::servers::Servers;
use crate::config::decode::{OneOrMore, closest};
use crate::config::file::{
    ActorFile, File, FlowFile, PlacementFile, SelfIssuedGrantFile, SubjectFile, SubjectTypeFile, TokenFile,
    TokenOfRoute,
};
use crate::config::leaf::{Name, Scope, Text};
use crate::config::problem::KeyPath;
use crate::exchange::{
    ActorToken, AssertionSettings, Flow, Grant, GrantDigest, GrantSpec, SelfIssuedGrant, Subject, UserTokenRule,
};
use crate::identity::IdentitySource;
use crate::jose::TokenKind;
use crate::policy::{FieldMeaning, Placement, PlacementError, TokenRule, TokenSource};
use crate::secret::Secret;
use http::HeaderName;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// A token before a route narrows its scopes.
#[derive(Clone)]
struct Template {
    grant: GrantSpec,
    source: TokenSource,
    file_token: Option<Secret>,
    eager: bool,
    placement: Placement,
}

/// The subject of a token, and where the user's token comes from.
struct SubjectSource {
    subject: Subject,
    source: TokenSource,
    file_token: Option<Secret>,
}

/// What tokens are built from, and the tokens built so far.
pub(super) struct Tokens<'a> {
    servers: &'a Servers,
    assertion: &'a AssertionSettings,
    identity: Option<&'a IdentitySource>,
    named: HashMap<String, Option<Template>>,
    grants: HashMap<GrantDigest, Arc<Grant>>,
    used_servers: HashSet<String>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(
        servers: &'a Servers,
        assertion: &'a AssertionSettings,
        identity: Option<&'a IdentitySource>,
    ) -> Self {
        let named = HashMap::new();
        Self { servers, assertion, identity, named, grants: HashMap::new(), used_servers: HashSet::new() }
    }

    /// Builds the named tokens, whether a route uses them or not.
    pub(super) fn build_named(&mut self, file: &File, builder: &mut Builder<'_>) {
        let root = KeyPath::default().key("tokens");
        for (name, token) in &file.tokens.0 {
            let path = root.key(&name.0);
            if name.0 == "none" {
                builder.error(&path, "`none` means no token").help("choose another name");
            }
            let template = self.template(&path, token, builder);
            self.named.insert(name.0.clone(), template);
        }
    }

    /// Builds the token of a route with the scopes that the route requests. Returns `None` for
    /// `token: none`, and for an invalid token, whose errors have been reported.
    pub(super) fn of_route(
        &mut self,
        path: &KeyPath,
        token: &TokenOfRoute,
        scopes: Option<&[Scope]>,
        builder: &mut Builder<'_>,
    ) -> Option<TokenRule> {
        let template = match token {
            TokenOfRoute::None => return None,
            TokenOfRoute::Named(name) => self.find_named(path, name, builder)?,
            TokenOfRoute::Own(token) => self.template(&path.key("token"), token, builder)?,
        };
        let Template { mut grant, source, file_token, eager, placement } = template;
        if let Some(scopes) = scopes {
            builder.check_subset(&path.key("scopes"), scopes, &grant.scopes);
            grant.scopes = sorted(scopes);
        }
        let grant = self.share(Grant::new(grant).ok()?);
        Some(TokenRule { grant, source, file_token, eager, placement })
    }

    fn find_named(&self, path: &KeyPath, name: &Name, builder: &mut Builder<'_>) -> Option<Template> {
        if let Some(template) = self.named.get(&name.0) {
            return template.clone();
        }
        // A token that could not be decoded is in the file, but not in `named`. Its errors have
        // been reported.
        let definition = KeyPath::default().key("tokens").key(&name.0);
        if !builder.is_written(&definition) {
            let names: Vec<&str> = self.named.keys().map(String::as_str).collect();
            let problem = builder.error(&path.key("token"), format!("there is no token `{}`", name.0));
            match closest(&name.0, &names) {
                Some(similar) => problem.help(format!("did you mean `{similar}`?")),
                None => problem.help("define it under `tokens`, or describe it here as a mapping"),
            };
        }
        None
    }

    /// Routes that request the same thing share one grant, and therefore one cached token.
    fn share(&mut self, grant: Grant) -> Arc<Grant> {
        self.grants.entry(grant.digest()).or_insert_with(|| Arc::new(grant)).clone()
    }

    fn template(&mut self, path: &KeyPath, token: &TokenFile, builder: &mut Builder<'_>) -> Option<Template> {
        let subject = self.subject(path, &token.subject, builder);
        let flow = self.flow(&path.key("flow"), &token.flow, builder);
        let placement = builder.placement(&path.key("placement"), &token.placement);
        builder.warn_of_repeated(&path.key("scopes"), &token.scopes);
        let (flow, SubjectSource { subject, source, file_token }) = (flow?, subject?);
        builder.check_subject_and_actor(path, &flow, token);
        builder.check_jwt_svid(path, &flow, &subject, self.identity);
        builder.warn_of_omitted(path, &flow, token);
        let grant = GrantSpec {
            flow,
            subject,
            actor: token.actor.as_ref().map(|ActorFile::JwtSvid| ActorToken::JwtSvid),
            resources: token.resource.iter().flat_map(|list| &list.0).map(|resource| resource.0.clone()).collect(),
            audiences: texts(token.audience.as_ref()),
            scopes: sorted(&token.scopes),
            assertion: self.assertion.clone(),
        };
        // The checks above give better messages. This one reports what they miss, if the file has no
        // other error.
        if let Err(error) = Grant::new(grant.clone())
            && builder.report.has_no_error(&KeyPath::default())
        {
            builder.error(path, error.to_string());
        }
        Some(Template { grant, source, file_token, eager: token.eager, placement: placement? })
    }

    fn flow(&mut self, path: &KeyPath, file: &FlowFile, builder: &mut Builder<'_>) -> Option<Flow> {
        let mut find = |flow: &str, key: &str, name: &Name| {
            self.used_servers.insert(name.0.clone());
            self.servers.find(name, &path.key(flow).key(key), builder)
        };
        Some(match file {
            FlowFile::ClientCredentials(file) => {
                Flow::ClientCredentials { server: find("client_credentials", "server", &file.server)? }
            }
            FlowFile::SelfIssued(file) => Flow::SelfIssued {
                server: find("self_issued", "server", &file.server)?,
                grant: match file.grant {
                    SelfIssuedGrantFile::TokenExchange => SelfIssuedGrant::TokenExchange,
                    SelfIssuedGrantFile::JwtBearer => SelfIssuedGrant::JwtBearer,
                },
            },
            FlowFile::IdJag(file) => {
                let (idp, server) = (find("id_jag", "idp", &file.idp), find("id_jag", "server", &file.server));
                Flow::IdJag { idp: idp?, server: server? }
            }
            FlowFile::TokenExchange(file) => {
                Flow::TokenExchange { server: find("token_exchange", "server", &file.server)? }
            }
            FlowFile::JwtBearer(file) => Flow::JwtBearer { server: find("jwt_bearer", "server", &file.server)? },
        })
    }

    fn subject(&mut self, path: &KeyPath, file: &SubjectFile, builder: &mut Builder<'_>) -> Option<SubjectSource> {
        let mut file_token = None;
        let (path, server, kind, audience, source) = match file {
            SubjectFile::Own => {
                return Some(SubjectSource { subject: Subject::Own, source: TokenSource::Own, file_token });
            }
            SubjectFile::Header(file) => {
                let path = path.key("subject").key("header");
                builder.check_subject_header(&path.key("name"), &file.name);
                (path, &file.server, &file.r#type, &file.audience, TokenSource::Header(file.name.clone()))
            }
            SubjectFile::File(file) => {
                let path = path.key("subject").key("file");
                file_token = builder.read_user_token(&path.key("path"), &file.path.0);
                let source = TokenSource::File(builder.resolve(&file.path.0));
                (path, &file.server, &file.r#type, &file.audience, source)
            }
        };
        self.used_servers.insert(server.0.clone());
        let server = self.servers.find(server, &path.key("server"), builder)?;
        let kind = match kind {
            SubjectTypeFile::IdToken => TokenKind::IdToken,
            SubjectTypeFile::AccessToken => TokenKind::AccessToken,
            SubjectTypeFile::Jwt => TokenKind::Jwt,
        };
        let rule = UserTokenRule { server, kind, audience: texts(audience.as_ref()) };
        builder.check_user_rule(&path, &rule);
        Some(SubjectSource { subject: Subject::User(rule), source, file_token })
    }

    /// Warns of servers and tokens that nothing refers to: legal, but probably a mistake.
    pub(super) fn warn_of_unused(&self, file: &File, builder: &mut Builder<'_>) {
        let used = file.routes.iter().filter_map(|route| match &route.item.token {
            Some(TokenOfRoute::Named(name)) => Some(name),
            _ => None,
        });
        let used: HashSet<&Name> = used.collect();
        for (name, _) in file.tokens.0.iter().filter(|(name, _)| !used.contains(name)) {
            builder.warn(&KeyPath::default().key("tokens").key(&name.0), "no route uses this token");
        }
        for (name, _) in file.authorization_servers.0.iter().filter(|(name, _)| !self.used_servers.contains(&name.0)) {
            let path = KeyPath::default().key("authorization_servers").key(&name.0);
            builder.warn(&path, "nothing uses this authorization server");
        }
    }
}

impl Builder<'_> {
    /// Builds the placement of an access token. Returns `None` after it has reported what is wrong.
    fn placement(&mut self, path: &KeyPath, file: &PlacementFile) -> Option<Placement> {
        match Placement::of_token(file.header.clone(), &file.prefix.0) {
            Ok(placement) => Some(placement),
            Err(error) => {
                let key = match error {
                    PlacementError::Header(_) | PlacementError::Reserved(_) => "header",
                    PlacementError::LeadingSpace | PlacementError::Characters => "prefix",
                };
                self.error(&path.key(key), error.to_string());
                None
            }
        }
    }

    /// Checks that the agent may send a user's token in this header.
    fn check_subject_header(&mut self, path: &KeyPath, name: &HeaderName) {
        if FieldMeaning::of(name).is_structural() {
            self.error(path, PlacementError::Header(name.clone()).to_string());
        }
    }

    /// Reads a user's token from its file. The file may be written after the proxy has started.
    /// Until then requests are refused, but the proxy starts.
    fn read_user_token(&mut self, path: &KeyPath, file: &Path) -> Option<Secret> {
        let read = self.read(file).and_then(|bytes| {
            Secret::from_file_bytes(bytes.to_vec())
                .map_err(|reason| format!("{} {reason}", self.resolve(file).display()))
        });
        match read {
            Ok(token) => Some(token),
            Err(message) => {
                self.warn(path, message).help("requests for this user get a 401 until the file holds a token");
                None
            }
        }
    }

    /// Checks that a route requests a subset of its token's scopes.
    fn check_subset(&mut self, path: &KeyPath, scopes: &[Scope], allowed: &[String]) {
        self.warn_of_repeated(path, scopes);
        if scopes.is_empty() && !allowed.is_empty() {
            self.warn(path, "without a scope the server decides what to grant")
                .help("name the scopes, or remove the key");
        }
        for (index, scope) in scopes.iter().enumerate().filter(|(_, scope)| !allowed.contains(&scope.0)) {
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            let problem = self.error(&path.index(index), format!("the token does not have the scope `{}`", scope.0));
            match closest(&scope.0, &allowed) {
                Some(similar) => problem.help(format!("did you mean `{similar}`?")),
                None => {
                    problem.help("a route may request only scopes of its token: add it to the token, or remove it here")
                }
            };
        }
    }

    fn warn_of_repeated(&mut self, path: &KeyPath, scopes: &[Scope]) {
        for (index, scope) in scopes.iter().enumerate() {
            if scopes[..index].contains(scope) {
                self.warn(&path.index(index), format!("the scope `{}` is listed twice", scope.0));
            }
        }
    }
}

/// Sorts the scopes and removes duplicates, so that equal sets make equal grants.
fn sorted(scopes: &[Scope]) -> Vec<String> {
    let mut scopes: Vec<String> = scopes.iter().map(|scope| scope.0.clone()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn texts(list: Option<&OneOrMore<Text>>) -> Vec<String> {
    list.into_iter().flat_map(|list| &list.0).map(|text| text.0.clone()).collect()
}
