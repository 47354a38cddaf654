//! Verifies a token that is presented as subject, actor or assertion, and determines who signed it.
use super::IssuerState;
use super::registry::{Client, KeySource, Registry};
use crate::dev::jwt::{self, Token};
use anyhow::{Context, ensure};

/// A token whose signature and times are valid.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) token: Token,
    pub(super) signer: Signer,
}

/// The party that signed a token.
#[derive(Debug)]
pub(super) enum Signer {
    /// A registered agent, with the key of its SVID or with a key of its own.
    Agent(Box<Client>),
    /// A trust domain: the token is the JWT-SVID of this workload.
    Workload(String),
    /// A trusted issuer, or this server itself.
    Issuer { id_jags: bool, user_tokens: bool },
}

impl Presented {
    pub(super) fn claim(&self, name: &str) -> Option<&str> {
        self.token.claims[name].as_str()
    }
}

impl IssuerState {
    pub(super) async fn verify(&self, registry: &Registry, jwt: &str) -> anyhow::Result<Presented> {
        let decoded = jwt::decode(jwt)?;
        let issuer = decoded.claims["iss"].as_str().unwrap_or("");
        let presented = if jwt::has_x5c(&decoded) {
            self.verify_svid_signature(registry, jwt, &decoded)?
        } else if let Some((client, keys)) = own_issuer(registry, issuer) {
            let token = jwt::verify_with_jwks(jwt, &keys.jwks().await?, "sig")?;
            Presented { token, signer: Signer::Agent(Box::new(client.clone())) }
        } else if issuer == self.issuer {
            let token = jwt::verify_with_jwks(jwt, &self.keys.jwks(), "sig")?;
            // An identity provider must not redeem its own ID-JAGs (ID-JAG §8.3).
            Presented { token, signer: Signer::Issuer { id_jags: false, user_tokens: true } }
        } else if let Some(trusted) = registry.issuers.iter().find(|trusted| trusted.issuer == issuer) {
            let token = jwt::verify_with_jwks(jwt, &trusted.keys.jwks().await?, "sig")?;
            let (id_jags, user_tokens) = (trusted.id_jags, trusted.user_tokens);
            Presented { token, signer: Signer::Issuer { id_jags, user_tokens } }
        } else {
            let token =
                self.verify_jwt_svid(registry, jwt).with_context(|| format!("the issuer {issuer:?} is not trusted"))?;
            let id = token.claims["sub"].as_str().unwrap_or("").to_owned();
            Presented { token, signer: Signer::Workload(id) }
        };
        jwt::check_times(&presented.token.claims, self.clock.now())?;
        Ok(presented)
    }

    /// Verifies a JWT-SVID with the bundle of its subject's trust domain (JWT-SVID §3 to §5). The
    /// caller checks the audience.
    pub(super) fn verify_jwt_svid(&self, registry: &Registry, jwt: &str) -> anyhow::Result<Token> {
        let decoded = jwt::decode(jwt)?;
        let allowed = ["alg", "kid", "typ"];
        let header = decoded.header.as_object().context("the header is missing")?;
        ensure!(header.keys().all(|name| allowed.contains(&name.as_str())), "a JWT-SVID has only alg, kid and typ");
        let subject = decoded.claims["sub"].as_str().context("sub is missing")?;
        let token = jwt::verify_with_jwks(jwt, &registry.domain_of(subject)?.jwt.bundle(), "jwt-svid")?;
        jwt::check_times(&token.claims, self.clock.now())?;
        Ok(token)
    }

    fn verify_svid_signature(&self, registry: &Registry, jwt: &str, decoded: &Token) -> anyhow::Result<Presented> {
        let domain = registry.domain_of(&jwt::x5c_id(decoded)?)?;
        let (token, id) = jwt::verify_with_x5c(jwt, &domain.x509.bundle(), self.clock.now())?;
        let client = registry.agent(&id).with_context(|| format!("the agent {id} is not registered"))?;
        let issuer = token.claims["iss"].as_str().context("iss is missing")?;
        let is_own_issuer = client.assertion_issuer.as_ref().is_some_and(|(name, _)| name == issuer);
        ensure!(issuer == id || is_own_issuer, "signed by {id}, but iss is {issuer}");
        Ok(Presented { token, signer: Signer::Agent(Box::new(client.clone())) })
    }
}

fn own_issuer<'a>(registry: &'a Registry, issuer: &str) -> Option<(&'a Client, &'a KeySource)> {
    registry.clients.iter().find_map(|client| {
        let (name, keys) = client.assertion_issuer.as_ref()?;
        (name == issuer).then_some((client, keys))
    })
}
