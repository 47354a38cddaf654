//! The steps that every story shares, in the order of the ID-JAG token exchange flow: an assertion is created, exchanged for an
//! access token, and the access token opens the API.
use super::agent::Reply;
use super::observed::{Call, Observed};
use super::page::Page;
use super::world::World;
use crate::dev::authorization_server::{Form, Recorded};
use crate::dev::jwt::{self, Token};
use crate::dev::resource_server::Seen;
use anyhow::Context;
use http::header;
use serde_json::Value;

/// What the agent sends, and what it does not.
pub(super) fn request(page: &mut Page, call: &Call<'_>) {
    let path = call.url;
    page.step(&format!("{} → its proxy", call.agent.name), &format!("GET {path}"));
    match call.fields {
        [] => page.note("plain HTTP to localhost, no credential"),
        fields => {
            for (name, value) in fields {
                page.field(name, &shortened(value));
            }
        }
    }
}

/// Steps 1 to 5 of the flow: the assertion and its exchange.
pub(super) fn exchange(page: &mut Page, world: &World, request: &Recorded) -> anyhow::Result<Token> {
    let (name, assertion) = presented(&request.form).context("the request carries no assertion")?;
    page.phase("the assertion");
    let algorithm = text(&assertion.header["alg"]);
    let key =
        if jwt::has_x5c(&assertion) { "the key of its X.509-SVID; the chain travels in x5c" } else { "its own key" };
    page.step("proxy", &format!("signs an ID-JAG: {algorithm}, {key}"));
    page.field("typ", &text(&assertion.header["typ"]));
    page.claims(&assertion.claims, world.now());
    page.phase("the exchange");
    page.step("proxy → authorization server", "POST /token");
    form(page, &request.form, name);
    let access = answer(page, world, request)?;
    page.step("proxy", "keeps the access token; the assertion is used up");
    Ok(access)
}

/// The authorization server's decision, and the access token if there is one.
pub(super) fn answer(page: &mut Page, world: &World, request: &Recorded) -> anyhow::Result<Token> {
    page.step("authorization server", "verifies, then decides");
    page.check(request.client.is_some(), "the client is who it says: a JWT-SVID of a trusted trust domain");
    page.check(
        request.status == 200,
        "signature, audience, lifetime and first use; agent registered; scope and delegation allowed",
    );
    let token = request.answer["access_token"].as_str().context("the answer has no token")?;
    let token = jwt::decode(token)?;
    let lifetime = &request.answer["expires_in"];
    let kind = text(&request.answer["token_type"]);
    page.step("authorization server → proxy", &format!("200, token_type {kind}, expires_in {lifetime}"));
    page.field("typ", &text(&token.header["typ"]));
    page.claims(&token.claims, world.now());
    Ok(token)
}

/// The API's side, and what the agent gets.
pub(super) fn resource(page: &mut Page, seen: Option<&Seen>, reply: &Reply, name: &str) -> anyhow::Result<()> {
    page.phase("the call");
    let seen = seen.context("nothing arrived at the API")?;
    let how = match &seen.client {
        Some(id) => format!("mutual TLS as {id}"),
        None => "TLS".to_owned(),
    };
    let version = format!("{:?}", seen.version);
    page.step("proxy → API", &format!("{} {} by {how}, {version}", seen.method, seen.target.path()));
    let field = seen.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
    page.field("authorization", &shortened(field));
    page.step(name, "verifies the token: signature, issuer, audience, expiry, scope");
    page.check(seen.claims.is_some(), "the token is good here");
    page.check(seen.headers.get("x-user-token").is_none(), "the user's own token has stayed behind");
    page.step(&format!("{name} → agent"), &format!("{} in {}", reply.status, reply.time()));
    page.check(reply.status == 200, "the agent has its answer");
    Ok(())
}

/// The same call again.
pub(super) async fn again(page: &mut Page, world: &World, call: &Call<'_>, first: &Reply) -> anyhow::Result<()> {
    page.phase("and again");
    let second = call.make(world).await?;
    let (reply, asked) = (&second.reply, second.corp.len() + second.partner.len());
    page.step("agent → API", &format!("{} in {}; the first call took {}", reply.status, reply.time(), first.time()));
    page.check(reply.status == 200 && asked == 0, "no authorization server was asked");
    page.check(
        second.hits.1 > second.hits.0,
        "the token came from the proxy's cache (idjag_proxy_token_cache_total, hit)",
    );
    Ok(())
}

/// A refusal: the status, who said no, and what the agent reads.
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

/// The parameters of a token request; the one that was shown before is not shown again.
pub(super) fn form(page: &mut Page, form: &Form, shown: &str) {
    for (name, value) in &form.0 {
        let value = match (name.as_str(), jwt::decode(value)) {
            (name, Ok(_)) if name == shown => "the ID-JAG above".to_owned(),
            (_, Ok(token)) => {
                let whose = text(&token.claims["sub"]);
                format!("a JWT about {whose}, for {}", jwt::audiences(&token.claims).join(" "))
            }
            (_, Err(_)) => {
                value.rsplit_once("urn:ietf:params:oauth:").map_or(value.as_str(), |(_, urn)| urn).to_owned()
            }
        };
        page.field(name, &value);
    }
}

fn presented(form: &Form) -> Option<(&'static str, Token)> {
    ["subject_token", "assertion"].into_iter().find_map(|name| Some((name, form.token(name)?)))
}

/// The actors of a token, innermost first, after the subject: `alice → orchestrator → worker`.
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

/// Tokens are long, and nobody should copy one from a terminal.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(24) {
        Some((cut, _)) => format!("{}… ({} characters)", &value[..cut], value.chars().count()),
        None => value.to_owned(),
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
