//! The body of a token request (RFC 6749 appendix B), and the header fields that go with it.
use crate::issuer::Quirks;
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;
use url::Url;

/// Parameters in the order in which they were set. There is no `Debug`, because most of them are
/// credentials.
#[derive(Default)]
pub(super) struct Form {
    fields: Vec<(&'static str, String)>,
    /// Header fields of the request, such as `Authorization`.
    pub(super) headers: HeaderMap,
    /// Credentials in the request, which must not be logged if the response repeats them.
    pub(super) secrets: Vec<String>,
}

impl Form {
    pub(super) fn new(grant_type: &str) -> Self {
        let mut form = Self::default();
        form.set("grant_type", grant_type);
        form
    }

    /// Sets a parameter. An empty value means that the parameter is omitted (RFC 6749 §3.2).
    pub(super) fn set(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.fields.push((name, value.to_owned()));
        }
    }

    /// Sets a parameter that is a credential.
    pub(super) fn set_secret(&mut self, name: &'static str, value: &str) {
        self.secrets.push(value.to_owned());
        self.set(name, value);
    }

    /// Sets a parameter that may occur several times: `resource` (RFC 8707 §2) or `audience` (RFC
    /// 8693 §2.1).
    pub(super) fn set_each(&mut self, name: &'static str, values: &[String]) {
        values.iter().for_each(|value| self.set(name, value));
    }

    /// Builds the request, with the server's quirks applied.
    pub(super) fn into_request(self, endpoint: &Url, quirks: &Quirks) -> http::Result<Request<Full<Bytes>>> {
        let omitted = |name: &str| quirks.omit.iter().any(|parameter| parameter.as_str() == name);
        let mut body = Serializer::new(String::new());
        for (name, value) in self.fields.iter().filter(|(name, _)| !omitted(name)) {
            body.append_pair(name, value);
        }
        let is_sent = |extra: &str| self.fields.iter().any(|(name, _)| *name == extra && !omitted(name));
        for (name, value) in quirks.extra_parameters.iter().filter(|(name, _)| !is_sent(name)) {
            body.append_pair(name, value);
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(endpoint.as_str())
            .body(Full::new(Bytes::from(body.finish())))?;
        *request.headers_mut() = self.headers;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Parameter;
    use http_body_util::BodyExt;

    async fn body(form: Form, quirks: &Quirks) -> String {
        let endpoint = Url::parse("https://as/token?tenant=1").expect("a URL");
        let request = form.into_request(&endpoint, quirks).expect("a request");
        assert_eq!(request.uri(), "https://as/token?tenant=1");
        let bytes = request.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    fn form() -> Form {
        let mut form = Form::new("client_credentials");
        form.set("scope", "a b");
        form.set("empty", "");
        form.set_each("resource", &["https://a/?x=1&y".into(), "https://b".into()]);
        form
    }

    #[tokio::test]
    async fn form_encodes_values_and_omits_empty_ones() {
        let text = body(form(), &Quirks::default()).await;
        assert_eq!(
            text,
            "grant_type=client_credentials&scope=a+b&resource=https%3A%2F%2Fa%2F%3Fx%3D1%26y&resource=https%3A%2F%2Fb"
        );
    }

    #[tokio::test]
    async fn quirks_omit_and_add_but_never_replace() {
        let quirks = Quirks {
            omit: [Parameter::Resource].into(),
            extra_parameters: [("tenant", "acme"), ("grant_type", "password"), ("scope", "admin"), ("resource", "x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Quirks::default()
        };
        assert_eq!(body(form(), &quirks).await, "grant_type=client_credentials&scope=a+b&resource=x&tenant=acme");
    }
}
