//! The steps that the stories share, in the order of the ID-JAG token exchange flow: an assertion
//! is created and exchanged for an access token, and the access token opens the API.
use super::agent::Reply;
use super::observed::{Call, Observed};
use super::page::{Detail, Page};
use super::world::World;
use crate::dev::authorization_server::{Form, Recorded};
use crate::dev::jwt::{self, Token};
use anyhow::Context;
use http::header;
use serde_json::Value;

/// How often a call is repeated to time cache hits.
const REPETITIONS: usize = 20;

/// Shows what the agent sends.
pub(super) fn request(page: &mut Page, call: &Call<'_>) {
    page.step(&format!("{} → its proxy", call.agent.name), &format!("GET {}", call.url));
    if call.fields.is_empty() {
        page.note("plain HTTP to localhost, without any credential");
    }
    for (name, value) in call.fields {
        page.field(name, &shortened(value));
    }
}

/// Shows the assertion, its exchange, and the access token that results.
pub(super) fn exchange(page: &mut Page, world: &World, observed: &Observed, detail: Detail) -> anyhow::Result<Token> {
    let request = observed.corp.first().context("no token was requested")?;
    let (name, assertion) = presented(&request.form).context("the request carries no assertion")?;
    page.step("proxy", "looks for an access token in its cache");
    page.check(observed.misses > 0 && observed.hits == 0, "there is none yet: a cache miss");
    page.phase("the assertion");
    let algorithm = text(&assertion.header["alg"]);
    let key = if jwt::has_x5c(&assertion) {
        "with the key of its X.509-SVID; the chain is in x5c"
    } else {
        "with its own key"
    };
    page.step("proxy", &format!("signs an ID-JAG ({algorithm}) {key}"));
    page.field("typ", &text(&assertion.header["typ"]));
    page.claims(&assertion.claims, world.now(), detail);
    page.phase("the exchange");
    page.step("proxy → authorization server", "POST /token");
    if detail == Detail::Full {
        form(page, &request.form, name);
    }
    let access = answer(page, world.now(), "authorization server", request, detail)?;
    page.step("proxy", "caches the access token until shortly before it expires; the assertion is spent");
    Ok(access)
}

/// Shows the authorization server's decision and returns the token that it issued.
pub(super) fn answer(
    page: &mut Page,
    now: u64,
    server: &str,
    request: &Recorded,
    detail: Detail,
) -> anyhow::Result<Token> {
    page.step(server, "verifies the request, then decides");
    let client = request.client.as_deref().unwrap_or("nobody");
    page.check(request.client.is_some(), &format!("the client is {client}, proved by a JWT-SVID made for this server"));
    let decided =
        "signature, audience and lifetime are right, and it is the first use; agent, scope and delegation are allowed";
    page.check(request.status == 200, decided);
    let token = request.answer["access_token"].as_str().context("the answer has no token")?;
    let token = jwt::decode(token)?;
    let kind = text(&request.answer["token_type"]);
    page.step(
        &format!("{server} → proxy"),
        &format!("200, token_type {kind}, expires_in {}", request.answer["expires_in"]),
    );
    page.field("typ", &text(&token.header["typ"]));
    page.field("signed by", &signer(&token));
    page.claims(&token.claims, now, detail);
    Ok(token)
}

/// Shows the API's side and the answer to the agent.
pub(super) fn resource(page: &mut Page, call: &Call<'_>, observed: &Observed, api: &str) -> anyhow::Result<()> {
    page.phase("the call");
    let seen = observed.upstream.as_ref().context("nothing arrived at the API")?;
    let how = match &seen.client {
        Some(id) => format!("mutual TLS as {id}"),
        None => "TLS".to_owned(),
    };
    page.step(
        &format!("proxy → {api}"),
        &format!("{} {} over {how}, {:?}", seen.method, seen.target.path(), seen.version),
    );
    let field = seen.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
    page.field("authorization", &shortened(field));
    page.step(api, "verifies the token: signature, issuer, audience, expiry, scope");
    page.check(seen.claims.is_some(), "the token is valid here");
    if call.fields.iter().any(|(name, _)| *name == "x-user-token") {
        page.check(seen.headers.get("x-user-token").is_none(), "the user's own token did not leave the proxy");
    }
    page.step(
        &format!("{api} → {}", call.agent.name),
        &format!("{} in {}", observed.reply.status, observed.reply.time()),
    );
    page.check(observed.reply.status == 200, "the agent got its answer");
    Ok(())
}

/// Repeats the call and shows that the token comes from the cache.
pub(super) async fn cached_calls(page: &mut Page, world: &World, call: &Call<'_>, first: &Reply) -> anyhow::Result<()> {
    page.phase("and again");
    let (mut times, mut asked, mut hits, mut good) = (Vec::new(), 0, 0, 0);
    for _ in 0..REPETITIONS {
        let observed = call.make(world).await?;
        asked += observed.corp.len() + observed.partner.len();
        hits += usize::try_from(observed.hits)?;
        good += usize::from(observed.reply.status == 200);
        times.push(observed.reply.took);
    }
    times.sort_unstable();
    let median = times[REPETITIONS / 2].as_secs_f64() * 1000.0;
    let what = format!("{REPETITIONS} more calls, median {median:.1} ms; the first took {}", first.time());
    page.step(&format!("{} → its proxy", call.agent.name), &what);
    page.check(good == REPETITIONS && asked == 0, "no authorization server was contacted");
    page.check(hits == REPETITIONS, "every token came from the proxy's cache");
    Ok(())
}

/// Shows a refusal: who refused, why, and what the agent receives.
pub(super) fn refusal(page: &mut Page, observed: &Observed, status: u16, why: &str) {
    let reply = &observed.reply;
    if let Some((code, reason)) = observed.corp.last().and_then(|request| request.refusal.as_ref()) {
        page.step("authorization server → proxy", &format!("{code}: {reason}"));
    }
    page.step("proxy → agent", &format!("{} in {}", reply.status, reply.time()));
    for member in ["title", "detail"] {
        let text = reply.problem(member);
        if !text.is_empty() {
            page.field(member, &text);
        }
    }
    page.check(reply.status == status, &format!("{status}: {why}"));
    page.check(observed.upstream.is_none(), "nothing reached the API");
}

/// Shows the parameters of a token request. The token that was shown before is not shown again.
pub(super) fn form(page: &mut Page, form: &Form, shown: &str) {
    for (name, value) in &form.0 {
        let value = match jwt::decode(value) {
            Ok(_) if name == shown => "the ID-JAG above".to_owned(),
            Ok(token) => {
                let whose = text(&token.claims["sub"]);
                let audiences = jwt::audiences(&token.claims).join(" ");
                format!("a JWT about {whose}, for {audiences}, signed by {}", signer(&token))
            }
            Err(_) => value.strip_prefix("urn:ietf:params:oauth:").map_or(value.clone(), |urn| format!("…:{urn}")),
        };
        page.field(name, &value);
    }
}

/// Names the signer and the algorithm. A JWT-SVID need not name its issuer, because its subject
/// does (JWT-SVID §3).
fn signer(token: &Token) -> String {
    let authority = || {
        let domain = token.claims["sub"].as_str().and_then(jwt::trust_domain).unwrap_or("(unknown)");
        format!("the authority of the trust domain {domain}")
    };
    let issuer = token.claims["iss"].as_str().map_or_else(authority, str::to_owned);
    format!("{issuer}, {}", text(&token.header["alg"]))
}

fn presented(form: &Form) -> Option<(&'static str, Token)> {
    ["subject_token", "assertion"].into_iter().find_map(|name| Some((name, form.token(name)?)))
}

/// The user and the actors in the order of delegation: `alice → orchestrator → worker`.
pub(super) fn chain(claims: &Value) -> String {
    let short = |name: &Value| text(name).rsplit(['/', ':']).next().unwrap_or("").to_owned();
    let mut names = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        names.push(short(&act["sub"]));
        next = act.get("act");
    }
    names.push(short(&claims["sub"]));
    names.reverse();
    names.join(" → ")
}

/// Shortens a token, because tokens are long and should not be copied from a terminal.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(24) {
        Some((cut, _)) => format!("{}… ({} characters)", &value[..cut], value.chars().count()),
        None => value.to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chain_starts_with_the_user() {
        let orchestrator = json!({ "sub": "spiffe://demo.example/orchestrator" });
        let act = json!({ "sub": "spiffe://demo.example/worker", "act": orchestrator });
        assert_eq!(chain(&json!({ "sub": "user:alice", "act": act })), "alice → orchestrator → worker");
        assert_eq!(chain(&json!({ "sub": "user:alice" })), "alice");
    }

    #[test]
    fn long_value_is_shortened_and_short_one_is_not() {
        let token = "x".repeat(400);
        assert!(!shortened(&token).contains(&token[..30]));
        assert_eq!(shortened("Bearer i-made-this-up"), "Bearer i-made-this-up");
    }
}
