//! Redirects and cookies: what an upstream says of its own origin leads the agent back through the
//! proxy.
use super::world::{World, route, tls_route};
use super::{agent, log};
use http::StatusCode;
use http::header::{HeaderValue, LOCATION, SET_COOKIE};
use idjag_proxy::dev::faults::Fault;

fn answer(location: &str, cookie: &'static str) -> Fault {
    let location = HeaderValue::try_from(location).expect("a location");
    Fault::redirect(StatusCode::TEMPORARY_REDIRECT, location).header(SET_COOKIE, HeaderValue::from_static(cookie))
}

#[tokio::test]
async fn redirects_and_cookies_lead_back_through_the_proxy() {
    let world = World::with_open_api().await;
    let (api, _) = world.http2_api().await;
    let routes =
        [tls_route("a", "alias: first, token: itself", &api.url()), tls_route("b", "token: itself", &api.url())];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    let own = format!("{}/v1/next", api.url());
    let by_proxy = "http://a.test/v1/x".to_owned();
    let by_https = "https://a.test/v1/x".to_owned();
    let by_base_url = format!("http://{}/first/v1/x", proxy.outbound);
    for (url, location, expected) in [
        (&by_proxy, &*own, "http://a.test/v1/next"),
        (&by_proxy, "https://b.test/y", "http://b.test/y"),
        (&by_proxy, "https://login.test/", "https://login.test/"),
        (&by_proxy, "/v1/x/", "/v1/x/"),
        (&by_https, &*own, "https://a.test/v1/next"),
        (&by_https, "https://b.test/y", "https://b.test/y"),
        (&by_base_url, &*own, "/first/v1/next"),
        (&by_base_url, "https://b.test/y?z#f", "/b.test/y?z#f"),
        (&by_base_url, "https://login.test/", "https://login.test/"),
        (&by_base_url, "/v1/x/", "/first/v1/x/"),
    ] {
        api.faults().next(answer(location, "__Host-sid=1; Path=/; Secure; HttpOnly"));
        let reply = agent::get(proxy.outbound, url, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.header(LOCATION.as_str())), (307, expected), "{url} {location}");
        let cookie = match url {
            url if *url == by_base_url => "_idjag-Host-sid=1; Path=/first; HttpOnly",
            url if *url == by_https => "__Host-sid=1; Path=/; Secure; HttpOnly",
            _ => "__Host-sid=1; Path=/; HttpOnly",
        };
        assert_eq!(reply.header(SET_COOKIE.as_str()), cookie, "{url}");
    }
    let sent = [("cookie", "_idjag-Host-sid=1; theme=dark")];
    for (url, received) in [(&by_base_url, "__Host-sid=1; theme=dark"), (&by_proxy, "_idjag-Host-sid=1; theme=dark")] {
        assert_eq!(agent::get(proxy.outbound, url, &sent).await.status, 200);
        assert_eq!(api.last_request().expect("seen").headers["cookie"], received, "{url}");
    }
}

#[tokio::test]
async fn cookies_that_cannot_be_rewritten_are_dropped_and_counted() {
    let log = log::capture();
    let world = World::with_open_api().await;
    let proxy = world.proxy_with(&format!("routes:\n{}", route("dropping", "token: none", &world.api.url()))).await;
    let by_proxy = "http://dropping.test/v1/x".to_owned();
    let by_base_url = format!("http://{}/dropping.test/v1/x", proxy.outbound);
    let cookies = ["_idjag-Host-sid=1", "sid=\u{e9}", "theme=dark; Path=/"];
    for (url, kept) in [(&by_base_url, 1), (&by_proxy, 3)] {
        let fault =
            cookies.iter().fold(Fault::redirect(StatusCode::FOUND, HeaderValue::from_static("x")), |fault, cookie| {
                fault.header(SET_COOKIE, HeaderValue::try_from(*cookie).expect("a value"))
            });
        world.api.faults().next(fault);
        let reply = agent::get(proxy.outbound, url, &[]).await;
        assert_eq!(reply.headers.get_all(SET_COOKIE).iter().count(), kept, "{url}");
    }
    assert_eq!(proxy.metric("dropped_cookies_total{route=\"dropping\"}").await, 2.0);
    let lines = log.count(|line| line.contains("a cookie was dropped"));
    assert_eq!(lines, 0, "the upstream cannot fill the log");
}
