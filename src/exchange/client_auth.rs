//! Proving to an authorization server which client this is. A fresh proof for every request.
use super::error::Failure;
use super::form::Form;
use super::issuer::runtime::{Around, Peer, spiffe_id};
use super::issuer::settings::ClientAuth;
use crate::assertion::{CLIENT_ASSERTION_TYP, ClientAssertion};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// Adds the proof to a request. `audience` is what an assertion names the server by.
pub(super) async fn authenticate(
    form: &mut Form,
    peer: &Peer,
    audience: &str,
    around: Around<'_>,
) -> Result<(), Failure> {
    let client_id = match &peer.server.client_auth {
        // A public client without an id of its own and without an identity has no id to send.
        ClientAuth::None if peer.server.client_id.is_none() && spiffe_id(around).is_err() => return Ok(()),
        _ => peer.client_id(around)?,
    };
    match &peer.server.client_auth {
        ClientAuth::ClientSecretBasic(secret) => {
            // One method per request: no `client_id` in the body beside the header (OC-2).
            form.authorization = Some(basic(&client_id, secret)?);
            form.secrets.push(secret.expose().to_owned());
            return Ok(());
        }
        ClientAuth::ClientSecretPost(secret) => form.set_secret("client_secret", secret.expose()),
        ClientAuth::SpiffeJwt => {
            let svid = jwt_svid(audience, around).await?;
            form.set("client_assertion_type", JWT_SPIFFE);
            form.set_secret("client_assertion", svid.expose());
        }
        ClientAuth::JwtSvidBearer => {
            let svid = jwt_svid(audience, around).await?;
            form.set("client_assertion_type", JWT_BEARER);
            form.set_secret("client_assertion", svid.expose());
        }
        ClientAuth::PrivateKeyJwt(key) => {
            let claims = ClientAssertion::new(&client_id, audience, around.clock.now());
            let assertion =
                key.sign(CLIENT_ASSERTION_TYP, &claims).map_err(|error| Failure::Configuration(error.to_string()))?;
            form.set("client_assertion_type", JWT_BEARER);
            form.set_secret("client_assertion", &assertion);
        }
        // The certificate is shown by the connection; the id must still be in the body (RFC 8705 §2, SC-2).
        ClientAuth::SpiffeX509 | ClientAuth::None => {}
    }
    form.set("client_id", &client_id);
    Ok(())
}

/// A JWT-SVID for exactly this audience (SC-1).
pub(super) async fn jwt_svid(audience: &str, around: Around<'_>) -> Result<Secret, Failure> {
    let identity = around.identity.ok_or_else(|| Failure::Identity("no source of one is configured".to_owned()))?;
    identity.jwt_svid(audience).await.map(|svid| svid.token).map_err(|error| Failure::Identity(error.to_string()))
}

/// RFC 6749 §2.3.1: both halves are form-encoded first, since an id may well contain a colon.
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, Failure> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
        .map_err(|_| Failure::Configuration("the client secret cannot stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
