//! The metadata document of RFC 8414 and OpenID Connect Discovery, served at both locations.
use super::IssuerState;
use crate::sync::lock;
use serde_json::{Value, json};

/// Whether `path` is a location of the document: RFC 8414 §3.1 puts the well-known part before the
/// issuer's path, OpenID Connect Discovery §4 after it.
pub(super) fn is_path(path: &str, issuer_path: &str) -> bool {
    path == format!("/.well-known/oauth-authorization-server{issuer_path}")
        || path == format!("{issuer_path}/.well-known/openid-configuration")
}

impl IssuerState {
    pub(super) fn metadata(&self) -> Value {
        let mut document = json!({
            "issuer": self.issuer,
            "token_endpoint": self.token_endpoint(),
            "jwks_uri": format!("{}/jwks", self.issuer),
            "grant_types_supported": [
                "client_credentials",
                "urn:ietf:params:oauth:grant-type:token-exchange",
                "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ],
            "token_endpoint_auth_methods_supported": [
                "spiffe_jwt", "spiffe_x509", "private_key_jwt", "client_secret_basic", "client_secret_post", "none",
            ],
            "token_endpoint_auth_signing_alg_values_supported": ["ES256", "ES384", "RS256", "PS256", "EdDSA"],
            "authorization_grant_profiles_supported": ["urn:ietf:params:oauth:grant-profile:id-jag"],
            "identity_chaining_requested_token_types_supported": ["urn:ietf:params:oauth:token-type:id-jag"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        });
        for (name, value) in lock(&self.metadata_patch).as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        if let Some(members) = document.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        document
    }
}
