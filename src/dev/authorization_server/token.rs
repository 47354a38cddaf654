//! The token endpoint: it reads the form, authenticates the client, dispatches by grant type, and
//! records the request.
use super::issue::{Principal, RequestedAccess};
use super::record::{Form, Leg, Recorded};
use super::refusal::{Outcome, Refusal, json_response};
use super::registry::{Authentication, Client, Registry};
use super::request::{ID_JAG, ID_JAG_TYP, JWT_BEARER, TOKEN_EXCHANGE, TokenRequest};
use super::{IssuerState, client_auth};
use crate::dev::http::{Body, Connection, HangUp, collect};
use crate::dev::jwt;
use crate::sync::lock;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

impl IssuerState {
    pub(super) async fn token_request(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<Response<Body>, HangUp> {
        let (parts, body) = request.into_parts();
        let Ok((body, _)) = collect(body).await else { return Err(HangUp) };
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let request = TokenRequest {
            form: Form::parse(&body),
            authorization: authorization.map(str::to_owned),
            certificates: connection.client_chain.clone(),
        };
        self.log.count_arrival();
        let mut verdict = Verdict::default();
        let normal = self.decide(&request, &mut verdict);
        let response = self.faults.token.apply(connection.requests() > 1, normal).await?;
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        self.log.record(Recorded {
            leg: self.leg(&request.form),
            certificate_id: request.certificates.first().and_then(|leaf| jwt::spiffe_id(leaf).ok()),
            form: request.form,
            authorization: request.authorization,
            client: verdict.client,
            status: head.status.as_u16(),
            refusal: verdict.refusal.map(|refusal| (refusal.code.to_owned(), refusal.reason)),
            answer: serde_json::from_slice(&body).unwrap_or_default(),
        });
        Ok(Response::from_parts(head, crate::dev::http::full(body)))
    }

    async fn decide(&self, request: &TokenRequest, verdict: &mut Verdict) -> Response<Body> {
        match self.grant(request, verdict).await {
            Ok(answer) => json_response(StatusCode::OK, &answer),
            Err(refusal) => {
                let response = refusal.response(request.authorization.is_some());
                verdict.refusal = Some(refusal);
                response
            }
        }
    }

    async fn grant(&self, request: &TokenRequest, verdict: &mut Verdict) -> Outcome<Value> {
        let form = &request.form;
        if let Some(name) = form.repeated() {
            return Err(Refusal::invalid_request(format!("{name} is given twice")));
        }
        let registry = self.registry();
        let client = client_auth::authenticate(self, &registry, request).await?;
        verdict.client = client.as_ref().map(|client| client.id.clone());
        let requested = RequestedAccess::new(form)?;
        match form.value("grant_type") {
            Some("client_credentials") => self.client_credentials(&registry, client, &requested),
            Some(TOKEN_EXCHANGE) => self.token_exchange(&registry, client, form, &requested).await,
            Some(JWT_BEARER) => self.jwt_bearer(&registry, client, form, &requested).await,
            Some(other) => {
                Err(Refusal::new("unsupported_grant_type", format!("grants of type {other} are not supported")))
            }
            None => Err(Refusal::invalid_request("grant_type is missing")),
        }
    }

    /// The client credentials grant, which only authenticated clients may use (RFC 6749 §4.4).
    fn client_credentials(
        &self,
        registry: &Registry,
        client: Option<Client>,
        requested: &RequestedAccess,
    ) -> Outcome<Value> {
        let client = client.ok_or_else(|| Refusal::invalid_client("client_credentials needs client authentication"))?;
        if matches!(client.authentication, Authentication::None) {
            return Err(Refusal::new("unauthorized_client", "a public client has no credentials"));
        }
        let subject = client.id.clone();
        self.access_token(registry, &client, requested, Principal { subject, act: None })
    }

    /// Classifies a request by its parameters alone.
    fn leg(&self, form: &Form) -> Leg {
        let self_issued = |name: &str| form.token(name).is_some_and(|token| self.looks_self_issued(&token));
        match form.value("grant_type") {
            Some("client_credentials") => Leg::ClientCredentials,
            Some(TOKEN_EXCHANGE) if form.value("requested_token_type") == Some(ID_JAG) => Leg::IdJagIssue,
            Some(TOKEN_EXCHANGE) if self_issued("subject_token") => Leg::SelfIssued,
            Some(TOKEN_EXCHANGE) => Leg::TokenExchange,
            Some(JWT_BEARER) if self_issued("assertion") => Leg::SelfIssued,
            Some(JWT_BEARER) if form.token("assertion").is_some_and(|token| jwt::has_typ(&token, ID_JAG_TYP)) => {
                Leg::IdJagRedeem
            }
            Some(JWT_BEARER) => Leg::JwtBearer,
            _ => Leg::Other,
        }
    }

    fn looks_self_issued(&self, token: &jwt::Token) -> bool {
        let issuer = token.claims["iss"].as_str().unwrap_or("");
        let is_issuer = |client: &Client| client.assertion_issuer.as_ref().is_some_and(|(name, _)| name == issuer);
        jwt::has_x5c(token) || lock(&self.registry).clients.iter().any(is_issuer)
    }
}

#[derive(Default)]
struct Verdict {
    client: Option<String>,
    refusal: Option<Refusal>,
}
