//! The stories, one after the other.
use super::observed::Call;
use super::page::{Detail, Page};
use super::story::{self, chain};
use super::world::World;
use anyhow::Context;
use http::header;
use std::time::Instant;

const ROOMS: &str = "http://calendar.demo.example/v1/rooms";
const EVENTS: &str = "http://calendar.demo.example/v1/events";
const TASK: &str = "http://worker.demo.example/v1/plan-my-week";
const TRIPS: &str = "http://travel.partner.example/v1/trips";

/// Tells all the stories.
pub(super) async fn walk(page: &mut Page, world: &World) -> anyhow::Result<()> {
    let start = Instant::now();
    show_cast(page, world)?;
    act_alone(page, world).await?;
    act_for_alice(page, world).await?;
    nest_actors(page, world).await?;
    cross_companies(page, world).await?;
    show_refusals(page, world).await?;
    show_rotation(page, world).await?;
    page.summary(start.elapsed().as_secs_f64());
    Ok(())
}

fn show_cast(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.heading(
        "idjag-proxy demo: SPIFFE in, ID-JAG across, an access token out. Real protocols, real sockets, one process.",
    );
    page.line("");
    for agent in [&world.bot, &world.orchestrator, &world.worker] {
        page.field(agent.name, &format!("{}  proxy at http://{}", agent.id, agent.proxy.outbound()?));
    }
    page.field("authorization server", &format!("{}  the company's own; alice logs in here", world.corp.issuer()));
    page.field("partner's server", &format!("{}  another company's", world.partner.issuer()));
    page.field(
        "calendar API",
        &format!("{}  mutual TLS; accepts tokens of the company's server", world.calendar.url()),
    );
    page.field("travel API", &format!("{}  TLS; accepts tokens of the partner's server", world.travel.url()));
    Ok(())
}

/// The first story: the agent acts as itself.
async fn act_alone(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story(
        "The agent on its own",
        "calendar-bot wants to know which rooms are free. No user is involved: it acts as itself.\n\
         It has no key, no secret and no SDK. All it has is a proxy on localhost.",
    );
    let call = Call { agent: &world.bot, url: ROOMS, fields: &[], upstream: &world.calendar };
    let observed = call.make(world).await?;
    story::request(page, &call);
    let access = story::exchange(page, world, &observed, Detail::Full)?;
    page.check(access.claims["sub"] == world.bot.id.as_str(), "the token names the agent itself, and nobody else");
    story::resource(page, &call, &observed, "calendar API")?;
    story::cached_calls(page, world, &call, &observed.reply).await
}

/// The second story: the agent acts for alice.
async fn act_for_alice(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story(
        "Alice, through calendar-bot",
        "Alice asks calendar-bot for her events. The agent passes on the ID token that she received when she logged in.\n\
         The proxy verifies it, and states in the assertion who is represented (sub) and who acts (act).",
    );
    let alice = world.id_token("alice", &world.bot)?;
    let fields = [("x-user-token", alice.as_str())];
    let call = Call { agent: &world.bot, url: EVENTS, fields: &fields, upstream: &world.calendar };
    let observed = call.make(world).await?;
    story::request(page, &call);
    let access = story::exchange(page, world, &observed, Detail::Full)?;
    page.check(access.claims["sub"] == "user:alice", "the token represents alice");
    page.check(access.claims["act"]["sub"] == world.bot.id.as_str(), "and says that calendar-bot acts for her");
    story::resource(page, &call, &observed, "calendar API")?;
    story::cached_calls(page, world, &call, &observed.reply).await
}

/// A chain of actors: alice, orchestrator, worker.
async fn nest_actors(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story(
        "A chain: alice → orchestrator → worker",
        "Alice asks the orchestrator to plan her week. It hands part of the task to the worker, another agent with its own proxy,\n\
         and the worker needs alice's calendar. Each proxy adds its own agent to the chain and signs it.",
    );
    let alice = world.id_token("alice", &world.orchestrator)?;
    let fields = [("x-user-token", alice.as_str())];
    let call = Call { agent: &world.orchestrator, url: TASK, fields: &fields, upstream: &world.worker_api };
    let first = call.make(world).await?;
    story::request(page, &call);
    let access = story::exchange(page, world, &first, Detail::Brief)?;
    page.check(chain(&access.claims) == "alice → orchestrator", "the chain so far: alice → orchestrator");
    story::resource(page, &call, &first, "worker")?;

    page.phase("the worker continues, with the token that it was called with");
    let received =
        first.upstream.as_ref().and_then(|seen| seen.headers.get(header::AUTHORIZATION)).context("no token")?;
    let received = received.to_str()?.trim_start_matches("Bearer ").to_owned();
    let fields = [("x-user-token", received.as_str())];
    let call = Call { agent: &world.worker, url: EVENTS, fields: &fields, upstream: &world.calendar };
    let second = call.make(world).await?;
    story::request(page, &call);
    let access = story::exchange(page, world, &second, Detail::Brief)?;
    page.check(
        chain(&access.claims) == "alice → orchestrator → worker",
        "the whole chain: alice → orchestrator → worker",
    );
    page.check(access.claims["sub"] == "user:alice", "and it is still about alice");
    story::resource(page, &call, &second, "calendar API")
}

/// The two legs of the ID-JAG draft, between two companies.
async fn cross_companies(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story(
        "Across two companies",
        "Alice's trips are stored by a partner, which trusts the company's authorization server, but not assertions signed by its agents.\n\
         So the company's server issues the ID-JAG (leg 1), and the partner's server redeems it (leg 2).",
    );
    let alice = world.id_token("alice", &world.bot)?;
    let fields = [("x-user-token", alice.as_str())];
    let call = Call { agent: &world.bot, url: TRIPS, fields: &fields, upstream: &world.travel };
    let observed = call.make(world).await?;
    story::request(page, &call);
    page.phase("leg 1, at the company");
    let issue = observed.corp.first().context("no ID-JAG was requested")?;
    page.step("proxy → company's server", "POST /token");
    story::form(page, &issue.form, "");
    let id_jag = story::answer(page, world.now(), "company's server", issue, Detail::Full)?;
    page.check(id_jag.claims["aud"] == world.partner.issuer(), "it is meant for the partner's server and no other");
    page.phase("leg 2, at the partner");
    let redeem = observed.partner.first().context("the ID-JAG was not redeemed")?;
    page.step("proxy → partner's server", "POST /token");
    story::form(page, &redeem.form, "assertion");
    let access = story::answer(page, world.now(), "partner's server", redeem, Detail::Brief)?;
    page.check(
        chain(&access.claims) == "alice → calendar-bot",
        "the partner knows who acts for whom: alice → calendar-bot",
    );
    story::resource(page, &call, &observed, "travel API")?;
    story::cached_calls(page, world, &call, &observed.reply).await
}

async fn show_refusals(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story("What is refused, and why", "A sidecar is only worth what it keeps out.");
    let bot = &world.bot;
    let call = |url, fields| Call { agent: bot, url, fields, upstream: &world.calendar };

    page.phase("bob never allowed calendar-bot to act for him");
    let bob = world.id_token("bob", bot)?;
    let fields = [("x-user-token", bob.as_str())];
    let bobs = call(EVENTS, &fields);
    let observed = bobs.make(world).await?;
    story::request(page, &bobs);
    story::refusal(page, &observed, 403, "the delegation policy says no, and the agent can tell its user why");

    page.phase("somebody tampered with alice's token");
    let forged = forged(&world.id_token("alice", bot)?)?;
    let fields = [("x-user-token", forged.as_str())];
    let forgery = call(EVENTS, &fields);
    let observed = forgery.make(world).await?;
    story::request(page, &forgery);
    story::refusal(page, &observed, 401, "the signature does not verify, so nothing in the token is used");
    page.check(observed.corp.is_empty(), "the authorization server was not even contacted");

    page.phase("the agent calls a host that no route names");
    let elsewhere = call("http://paste.example/upload", &[]);
    let observed = elsewhere.make(world).await?;
    story::request(page, &elsewhere);
    story::refusal(page, &observed, 403, "hosts without a route are refused");

    page.phase("the agent sends a credential of its own");
    let fields = [("authorization", "Bearer i-made-this-up")];
    let smuggled = call(ROOMS, &fields);
    let observed = smuggled.make(world).await?;
    story::request(page, &smuggled);
    let seen = observed.upstream.as_ref().context("nothing arrived at the API")?;
    let fields = seen.headers.get_all(header::AUTHORIZATION).iter().count();
    page.check(fields == 1 && seen.claims.is_some(), "it was replaced: the API saw one token, the real one");
    Ok(())
}

async fn show_rotation(page: &mut Page, world: &World) -> anyhow::Result<()> {
    page.story(
        "The certificate is renewed",
        "SVIDs live for an hour at most. The Workload API pushes a new one, and no call fails.",
    );
    let certificate = || world.bot.workload_api.svids().first().map(|svid| svid.chain.clone());
    let before = certificate();
    world.bot.workload_api.rotate()?;
    page.step("workload API → proxy", "a new X.509-SVID for calendar-bot, with a new key");
    page.check(certificate() != before, "it is another certificate");
    let call = Call { agent: &world.bot, url: ROOMS, fields: &[], upstream: &world.calendar };
    let observed = call.make(world).await?;
    page.step("calendar-bot → calendar API", &format!("{} in {}", observed.reply.status, observed.reply.time()));
    page.check(
        observed.reply.status == 200 && observed.corp.is_empty(),
        "the access token is still valid: no new exchange",
    );
    Ok(())
}

/// Shows what to try while everything keeps running.
pub(super) fn print_things_to_try(page: &mut Page, world: &World) -> anyhow::Result<()> {
    let (proxy, metrics) = (world.bot.proxy.outbound()?, world.bot.proxy.metrics()?);
    let token = |user| world.user_token_file(user).display().to_string();
    // `cargo run` does not put the program on the PATH.
    let binary = std::env::current_exe().context("this program's own path")?;
    page.heading("Everything is still running. Try:");
    let lines = [
        ("as a proxy", format!("curl -x http://{proxy} {ROOMS}")),
        ("as a base URL", format!("curl http://{proxy}/calendar/v1/rooms")),
        ("for alice", format!("curl -H \"x-user-token: $(cat {})\" http://{proxy}/calendar/v1/events", token("alice"))),
        (
            "across companies",
            format!("curl -H \"x-user-token: $(cat {})\" http://{proxy}/travel/v1/trips", token("alice")),
        ),
        (
            "for bob: refused",
            format!("curl -H \"x-user-token: $(cat {})\" http://{proxy}/calendar/v1/events", token("bob")),
        ),
        ("no route: refused", format!("curl -i http://{proxy}/paste.example/upload")),
        ("metrics", format!("curl -s http://{metrics}/metrics | grep token")),
        ("readiness", format!("curl http://{metrics}/readyz")),
        (
            "its status",
            format!("{} status --admin {}/calendar-bot.admin", binary.display(), world.directory.path().display()),
        ),
        ("its configuration", format!("cat {}", world.bot.proxy.config().display())),
        ("metadata", format!("curl {}/.well-known/oauth-authorization-server", world.corp.issuer())),
    ];
    for (name, line) in lines {
        page.field(name, &line);
    }
    page.line("\n   Press Ctrl-C to stop.");
    Ok(())
}

/// The same token with another subject and the original signature.
fn forged(token: &str) -> anyhow::Result<String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next(), parts.next(), parts.next());
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(claims.context("three parts")?)?)?;
    let claims = URL_SAFE_NO_PAD.encode(claims.replace("user:alice", "user:mallory"));
    Ok(format!("{}.{claims}.{}", header.context("three parts")?, signature.context("three parts")?))
}
