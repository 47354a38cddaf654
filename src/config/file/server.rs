//! Authorization servers, and how this client proves who it is to them.
use crate::config::decode::Mapping;
use crate::config::describe::{choice, record};
use crate::config::leaf::{FilePath, Issuer, SecretPath, Text, WebUrl};
use std::time::Duration;

record! {
    /// One authorization server.
    ServerFile {
        /// Its issuer identifier, exactly as its metadata and its tokens spell it.
        issuer: Issuer,
        /// How this client proves who it is.
        client_auth: ClientAuthFile,
        /// The id under which it knows this client. Absent: the SPIFFE ID.
        client_id: Option<Text>,
        /// Its endpoints. Absent: discovered from the issuer (RFC 8414, OpenID Connect).
        endpoints: Option<EndpointsFile>,
        /// Which certificate it must show.
        tls: TrustFile = "web_pki",
        /// Where it differs from the standards.
        quirks: QuirksFile = "{}",
        /// How long it may take.
        timeouts: ServerTimeoutsFile = "{}",
    }
}

record! {
    /// How long a server may take.
    ServerTimeoutsFile {
        /// To reach it, TLS included.
        connect: Duration = "3s",
        /// For one request, from connecting to the last byte of the answer.
        total: Duration = "10s",
    }
}

record! {
    /// Endpoints that are not discovered.
    EndpointsFile {
        /// The token endpoint.
        token: WebUrl,
        /// Its JWK set; needed where its users' tokens are verified.
        jwks: Option<WebUrl>,
    }
}

choice! {
    /// How this client proves who it is.
    ClientAuthFile {
        /// The JWT-SVID as client assertion of SPIFFE client authentication.
        "spiffe_jwt" => SpiffeJwt,
        /// The X.509-SVID as client certificate.
        "spiffe_x509" => SpiffeX509,
        /// An assertion signed with a key that the server knows (RFC 7523 §2.2).
        "private_key_jwt" => PrivateKeyJwt(KeyFile),
        /// A password in the `Authorization` header (RFC 6749 §2.3.1).
        "client_secret_basic" => ClientSecretBasic(ClientSecretFile),
        /// A password in the form (RFC 6749 §2.3.1).
        "client_secret_post" => ClientSecretPost(ClientSecretFile),
        /// The JWT-SVID as an ordinary client assertion, which is what cloud providers' federated credentials take.
        "jwt_svid_bearer" => JwtSvidBearer,
        /// Nothing: the server knows this client by its id alone, or is only asked for keys.
        "none" => None,
    }
}

record! {
    /// A private key.
    KeyFile {
        /// The key in PEM; relative to this file.
        key_file: SecretPath,
        /// Its id. Absent: its RFC 7638 thumbprint.
        kid: Option<Text>,
    }
}

record! {
    /// A client secret.
    ClientSecretFile {
        /// The file that holds it; relative to this file.
        secret_file: SecretPath,
    }
}

choice! {
    /// Which certificate a server must show.
    TrustFile {
        /// One of the Web PKI for its host name.
        "web_pki" => WebPki,
        /// One for its host name that the authorities in this PEM file issued, and no others.
        "ca_file" => CaFile(FilePath),
        /// An X.509-SVID with one of these SPIFFE IDs.
        "spiffe_ids" => SpiffeIds(Vec<Text>),
    }
}

record! {
    /// Where a server differs from the standards.
    QuirksFile {
        /// Parameters that are left out of every request, because the server refuses them.
        omit: Vec<ParameterFile> = "[]",
        /// Parameters that are added to every token request. They cannot replace one that the proxy sets.
        extra_parameters: Mapping<Text, Text> = "{}",
        /// What `aud` of a client assertion names: RFC 7523bis and SPIFFE say the issuer, RFC 7523 the token endpoint.
        assertion_audience: AssertionAudienceFile = "issuer",
    }
}

choice! {
    /// A parameter of a token request that may be left out.
    ParameterFile {
        /// RFC 8707.
        "resource" => Resource,
        /// RFC 8693.
        "audience" => Audience,
        /// RFC 6749; some servers refuse it beside a client assertion.
        "client_id" => ClientId,
        /// RFC 6749.
        "scope" => Scope,
        /// RFC 8693.
        "requested_token_type" => RequestedTokenType,
    }
}

choice! {
    /// Whom a client assertion is for.
    AssertionAudienceFile {
        /// The issuer identifier.
        "issuer" => Issuer,
        /// The URL of the token endpoint.
        "token_endpoint" => TokenEndpoint,
        /// This text.
        "exactly" => Exactly(Text),
    }
}
