//! Client authentication, anew for each request.
use super::form::Form;
use crate::assertion::{CLIENT_ASSERTION_TYP, ClientAssertion};
use crate::issuer::{ClientAuth, Issuer, IssuerError};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::AUTHORIZATION;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// Authenticates the client in a request. `audience` is the `aud` of assertions for this server.
pub(super) async fn authenticate(form: &mut Form, issuer: &Issuer, audience: &str) -> Result<(), IssuerError> {
    let (server, workload) = (issuer.server(), issuer.workload());
    let client_id = match &server.client_auth {
        // A public client without a configured ID and without an identity has no ID to send.
        ClientAuth::None if server.client_id.is_none() && workload.spiffe_id().is_err() => return Ok(()),
        _ => issuer.client_id()?,
    };
    match &server.client_auth {
        ClientAuth::ClientSecretBasic(secret) => {
            // One method per request (RFC 6749 §2.3): no `client_id` in the body in addition to the
            // header.
            form.headers.insert(AUTHORIZATION, basic(&client_id, secret)?);
            form.secrets.push(secret.expose().to_owned());
            return Ok(());
        }
        ClientAuth::ClientSecretPost(secret) => form.set_secret("client_secret", secret.expose()),
        ClientAuth::SpiffeJwt => {
            let svid = workload.jwt_svid(audience).await?;
            form.set("client_assertion_type", JWT_SPIFFE);
            form.set_secret("client_assertion", svid.expose());
        }
        ClientAuth::JwtSvidBearer => {
            let svid = workload.jwt_svid(audience).await?;
            form.set("client_assertion_type", JWT_BEARER);
            form.set_secret("client_assertion", svid.expose());
        }
        ClientAuth::PrivateKeyJwt(key) => {
            let claims = ClientAssertion::new(&client_id, audience, workload.now());
            let assertion = key
                .sign(CLIENT_ASSERTION_TYP, &claims)
                .map_err(|error| IssuerError::Configuration(error.to_string()))?;
            form.set("client_assertion_type", JWT_BEARER);
            form.set_secret("client_assertion", &assertion);
        }
        // The connection presents the certificate; the ID must still be in the body (RFC 8705 §2).
        ClientAuth::SpiffeX509 | ClientAuth::None => {}
    }
    form.set("client_id", &client_id);
    Ok(())
}

/// The value of `Authorization: Basic`. Both halves are form-encoded first, since an ID may contain
/// a colon (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, IssuerError> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).map_err(|_| {
        IssuerError::Configuration("the client secret has characters that a header cannot carry".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
