//! Tokens: what to request, and in whose name.
use crate::config::decode::OneOrMore;
use crate::config::describe::{choice, record};
use crate::config::leaf::{Name, Prefix, Resource, Scope, SecretPath, Text};
use http::HeaderName;

record! {
    /// A token: what to request, and in whose name.
    TokenFile {
        /// How the token is obtained.
        flow: FlowFile,
        /// The party in whose name the token is requested.
        subject: SubjectFile = "self",
        /// Who acts for the subject, sent as `actor_token` (RFC 8693). Absent: no actor is named.
        actor: Option<ActorFile>,
        /// The resource that the token is for (RFC 8707): one, or a list.
        resource: Option<OneOrMore<Resource>>,
        /// The audience that the token is for (RFC 8693): one, or a list.
        audience: Option<OneOrMore<Text>>,
        /// The scopes that routes may request.
        scopes: Vec<Scope> = "[]",
        /// Whether readiness waits for this token. Only for tokens of the workload itself.
        eager: bool = "false",
        /// The header that carries the access token on a request.
        placement: PlacementFile = "{}",
    }
}

record! {
    /// The header that carries an access token on a request. The agent's own header of that name is
    /// removed, except on a route with `keep_credentials`.
    PlacementFile {
        /// The name of the header.
        header: HeaderName = "Authorization",
        /// Text in front of the token in the header: an authentication scheme, which is followed by
        /// a space, or other text such as `token=`. Empty (`""`): the value is the token alone.
        prefix: Prefix = "Bearer",
    }
}

choice! {
    /// How a token is obtained.
    FlowFile {
        /// With the client's own authority (RFC 6749 §4.4).
        "client_credentials" => ClientCredentials(ServerOnlyFile),
        /// In exchange for an assertion that this workload signs itself.
        "self_issued" => SelfIssued(SelfIssuedFile),
        /// With an ID-JAG that the identity provider issues and the resource's authorization server
        /// redeems.
        "id_jag" => IdJag(IdJagFile),
        /// In exchange for the subject's token (RFC 8693).
        "token_exchange" => TokenExchange(ServerOnlyFile),
        /// With the subject's token as an authorization grant (RFC 7523).
        "jwt_bearer" => JwtBearer(ServerOnlyFile),
    }
}

record! {
    /// The server of a flow that needs only one.
    ServerOnlyFile {
        /// The authorization server that issues the access token.
        server: Name,
    }
}

record! {
    /// The server and the grant of a self-issued assertion.
    SelfIssuedFile {
        /// The authorization server that issues the access token.
        server: Name,
        /// How the assertion is sent.
        grant: SelfIssuedGrantFile = "token_exchange",
    }
}

choice! {
    /// How a self-issued assertion is sent.
    SelfIssuedGrantFile {
        /// The assertion is sent as `subject_token` (RFC 8693).
        "token_exchange" => TokenExchange,
        /// The assertion is sent as `assertion` (RFC 7523).
        "jwt_bearer" => JwtBearer,
    }
}

record! {
    /// The two servers of an ID-JAG.
    IdJagFile {
        /// The identity provider, which issues the ID-JAG.
        idp: Name,
        /// The resource's authorization server, which redeems it.
        server: Name,
    }
}

choice! {
    /// The party in whose name a token is requested.
    SubjectFile {
        /// The token represents the workload itself.
        "self" => Own,
        /// A user whose token the agent sends in a header. That token never reaches the upstream.
        "header" => Header(SubjectHeaderFile),
        /// A user whose token is in a file.
        "file" => File(SubjectTokenFile),
    }
}

record! {
    /// A user's token in a header.
    SubjectHeaderFile {
        /// The header's name.
        name: HeaderName,
        /// The server that issued the token. Its keys verify it.
        server: Name,
        /// What kind of token it is.
        r#type: SubjectTypeFile,
        /// One of these must be in the token's `aud`. In an `id_token` for several audiences, `azp`
        /// must be one of them, too. Absent, which only an `id_token` allows: our client id at that
        /// server.
        audience: Option<OneOrMore<Text>>,
    }
}

record! {
    /// A user's token in a file.
    SubjectTokenFile {
        /// The file, relative to the configuration file. It is read again when it changes.
        path: SecretPath,
        /// The server that issued the token. Its keys verify it.
        server: Name,
        /// What kind of token it is.
        r#type: SubjectTypeFile,
        /// One of these must be in the token's `aud`. In an `id_token` for several audiences, `azp`
        /// must be one of them, too. Absent, which only an `id_token` allows: our client id at that
        /// server.
        audience: Option<OneOrMore<Text>>,
    }
}

choice! {
    /// The kind of a user's token.
    SubjectTypeFile {
        /// An OpenID Connect ID token.
        "id_token" => IdToken,
        /// An access token that is a JWT (RFC 9068).
        "access_token" => AccessToken,
        /// Any other JWT.
        "jwt" => Jwt,
    }
}

choice! {
    /// Who acts for the subject.
    ActorFile {
        /// This workload, named by its JWT-SVID.
        "jwt_svid" => JwtSvid,
    }
}
