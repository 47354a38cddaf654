//! Authorization servers, and how this client authenticates to them.
use super::process::EgressProxyRuleFile;
use crate::config::decode::Mapping;
use crate::config::describe::{choice, record};
use crate::config::leaf::{FilePath, Issuer, SecretPath, Text, WebUrl};
use std::time::Duration;

record! {
    /// An authorization server, which issues access tokens or the users' tokens.
    ServerFile {
        /// The issuer identifier, spelled exactly as in the server's metadata and tokens.
        issuer: Issuer,
        /// How this client authenticates.
        client_auth: ClientAuthFile,
        /// The client id by which the server knows this workload. Absent: the SPIFFE ID.
        client_id: Option<Text>,
        /// The server's endpoints. Absent: discovered from the issuer (RFC 8414, OpenID Connect).
        endpoints: Option<EndpointsFile>,
        /// Which certificate the server must present.
        tls: TrustFile = "web_pki",
        /// Whether connections go through the egress proxy, if there is one. Absent: they do.
        egress_proxy: Option<EgressProxyRuleFile>,
        /// Where the server differs from the standards.
        quirks: QuirksFile = "{}",
        /// How long requests to the server may take.
        timeouts: ServerTimeoutsFile = "{}",
    }
}

record! {
    /// How long requests to a server may take.
    ServerTimeoutsFile {
        /// The longest time to connect, including TLS.
        connect: Duration = "3s",
        /// The longest time of one request, from connecting to the last byte of the answer.
        total: Duration = "10s",
    }
}

record! {
    /// Endpoints that are not discovered.
    EndpointsFile {
        /// The token endpoint.
        token: WebUrl,
        /// The JWK set. Needed where users' tokens of this server are verified.
        jwks: Option<WebUrl>,
    }
}

choice! {
    /// How this client authenticates.
    ClientAuthFile {
        /// With the JWT-SVID as the client assertion of SPIFFE client authentication.
        "spiffe_jwt" => SpiffeJwt,
        /// With the X.509-SVID as the client certificate.
        "spiffe_x509" => SpiffeX509,
        /// With an assertion signed with a key that the server knows (RFC 7523 §2.2).
        "private_key_jwt" => PrivateKeyJwt(KeyFile),
        /// With a password in the `Authorization` header (RFC 6749 §2.3.1).
        "client_secret_basic" => ClientSecretBasic(ClientSecretFile),
        /// With a password in the form (RFC 6749 §2.3.1).
        "client_secret_post" => ClientSecretPost(ClientSecretFile),
        /// With the JWT-SVID as an ordinary client assertion, as federated credentials of cloud
        /// providers expect it.
        "jwt_svid_bearer" => JwtSvidBearer,
        /// Not at all: the server knows this client by its id alone, or is only asked for keys.
        "none" => None,
    }
}

record! {
    /// The private key that signs client assertions.
    KeyFile {
        /// The file with the key in PEM, relative to the configuration file.
        key_file: SecretPath,
        /// The key's id. Absent: its RFC 7638 thumbprint.
        kid: Option<Text>,
    }
}

record! {
    /// The password that the server knows this client by.
    ClientSecretFile {
        /// The file that holds the secret, relative to the configuration file.
        secret_file: SecretPath,
    }
}

choice! {
    /// Which certificate a server must present.
    TrustFile {
        /// A certificate of the Web PKI for the server's host name.
        "web_pki" => WebPki,
        /// A certificate for the server's host name, issued by one of the authorities in this PEM
        /// file and no others.
        "ca_file" => CaFile(FilePath),
        /// An X.509-SVID with one of these SPIFFE IDs.
        "spiffe_ids" => SpiffeIds(Vec<Text>),
    }
}

record! {
    /// Where a server differs from the standards.
    QuirksFile {
        /// Parameters that are left out of every token request because the server refuses them.
        omit: Vec<ParameterFile> = "[]",
        /// Parameters that are added to every token request. They cannot replace a parameter that
        /// the proxy sets.
        extra_parameters: Mapping<Text, Text> = "{}",
        /// The `aud` of a client assertion: the issuer by RFC 7523bis and SPIFFE, the token
        /// endpoint by RFC 7523.
        assertion_audience: AssertionAudienceFile = "issuer",
    }
}

choice! {
    /// A parameter of a token request that may be left out.
    ParameterFile {
        /// The parameter `resource` of RFC 8707.
        "resource" => Resource,
        /// The parameter `audience` of RFC 8693.
        "audience" => Audience,
        /// The parameter `client_id` of RFC 6749. Some servers refuse it together with a client
        /// assertion.
        "client_id" => ClientId,
        /// The parameter `scope` of RFC 6749.
        "scope" => Scope,
        /// The parameter `requested_token_type` of RFC 8693.
        "requested_token_type" => RequestedTokenType,
    }
}

choice! {
    /// The audience of a client assertion.
    AssertionAudienceFile {
        /// The issuer identifier.
        "issuer" => Issuer,
        /// The URL of the token endpoint.
        "token_endpoint" => TokenEndpoint,
        /// Exactly this value.
        "exactly" => Exactly(Text),
    }
}
