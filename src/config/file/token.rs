//! Tokens: what to ask for, and in whose name.
use crate::config::decode::OneOrMore;
use crate::config::describe::{choice, record};
use crate::config::leaf::{Name, Resource, Scope, SecretPath, Text};
use http::HeaderName;

record! {
    /// A token: what to ask for, and in whose name.
    TokenFile {
        /// What happens at the authorization server.
        flow: FlowFile,
        /// In whose name.
        subject: SubjectFile = "self",
        /// Who acts for the subject, sent as `actor_token` (RFC 8693). Absent: nobody is named.
        actor: Option<ActorFile>,
        /// The resource that the token is for (RFC 8707): one, or a list.
        resource: Option<OneOrMore<Resource>>,
        /// The audience that the token is for (RFC 8693): one, or a list.
        audience: Option<OneOrMore<Text>>,
        /// The most that any route may ask for.
        scopes: Vec<Scope> = "[]",
        /// Whether readiness waits for it. Only for tokens of the workload itself.
        eager: bool = "false",
    }
}

choice! {
    /// What happens at the authorization server.
    FlowFile {
        /// The client itself asks (RFC 6749 §4.4).
        "client_credentials" => ClientCredentials(ServerOnlyFile),
        /// An assertion that this workload signs itself is exchanged.
        "self_issued" => SelfIssued(SelfIssuedFile),
        /// The identity provider issues an ID-JAG, and the resource's authorization server redeems it.
        "id_jag" => IdJag(IdJagFile),
        /// A token is exchanged for an access token (RFC 8693).
        "token_exchange" => TokenExchange(ServerOnlyFile),
        /// A token is redeemed as an authorization grant (RFC 7523).
        "jwt_bearer" => JwtBearer(ServerOnlyFile),
    }
}

record! {
    /// The server of a flow.
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
        /// As `subject_token` (RFC 8693).
        "token_exchange" => TokenExchange,
        /// As `assertion` (RFC 7523).
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
    /// In whose name a token is asked for.
    SubjectFile {
        /// The workload itself.
        "self" => Own,
        /// A user, whose token the agent sends in a header. It never reaches the upstream.
        "header" => Header(SubjectHeaderFile),
        /// A user, whose token stands in a file.
        "file" => File(SubjectTokenFile),
    }
}

record! {
    /// A user's token in a header.
    SubjectHeaderFile {
        /// The header's name.
        name: HeaderName,
        /// The server that issued the token, and whose keys verify it.
        server: Name,
        /// What kind of token it is.
        r#type: SubjectTypeFile,
        /// What its `aud` must contain. Absent, and only for `id_token`: our client id at that server.
        audience: Option<OneOrMore<Text>>,
    }
}

record! {
    /// A user's token in a file.
    SubjectTokenFile {
        /// The file; relative to this one, read again when it changes.
        path: SecretPath,
        /// The server that issued the token, and whose keys verify it.
        server: Name,
        /// What kind of token it is.
        r#type: SubjectTypeFile,
        /// What its `aud` must contain. Absent, and only for `id_token`: our client id at that server.
        audience: Option<OneOrMore<Text>>,
    }
}

choice! {
    /// What kind of token a user's is.
    SubjectTypeFile {
        /// An OpenID Connect ID token.
        "id_token" => IdToken,
        /// An access token that is a JWT (RFC 9068).
        "access_token" => AccessToken,
        /// Another JWT.
        "jwt" => Jwt,
    }
}

choice! {
    /// Who acts for the subject.
    ActorFile {
        /// This workload, by its JWT-SVID.
        "jwt_svid" => JwtSvid,
    }
}
