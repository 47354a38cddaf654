//! The identifier by which a request is found again in the logs of the agent, the proxy and the
//! upstream.
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field that carries it. No RFC defines it; agents, proxies and servers agree on it.
pub(super) const FIELD: HeaderName = HeaderName::from_static("x-request-id");

/// The longest identifier of an agent that is kept.
const LONGEST: usize = 128;

/// The identifier of one request.
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The identifier that the agent sent, if it is one of up to [`LONGEST`] visible ASCII
    /// characters. Otherwise a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut sent = headers.get_all(FIELD).iter();
        Self(match (sent.next(), sent.next()) {
            (Some(id), None) if is_acceptable(id.as_bytes()) => id.clone(),
            _ => random(),
        })
    }

    /// The value of the field.
    pub(super) fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Sets it on a request whose other fields have been judged: `Connection` cannot nominate it.
    pub(super) fn forward(&self, headers: &mut HeaderMap) {
        headers.insert(FIELD, self.0.clone());
    }

    /// The identifier as text.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Adds it to an answer. An upstream's own identifier stays: its operators ask for that one.
    pub(super) fn answer(self, headers: &mut HeaderMap) {
        headers.entry(FIELD).or_insert(self.0);
    }
}

fn is_acceptable(id: &[u8]) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// 128 random bits in hexadecimal. They tell requests apart and protect nothing.
fn random() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(fastrand::u128(..).to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    let mut id = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).expect("hexadecimal digits");
    // Not secret, but never the same again: HPACK must not index it (RFC 7541 §6.2.3), which costs
    // more than it saves.
    id.set_sensitive(true);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(sent: &[&[u8]]) -> (String, String) {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(FIELD, HeaderValue::from_bytes(value).expect("a value"));
        }
        let id = RequestId::of(&headers);
        id.forward(&mut headers);
        assert_eq!(headers.get_all(FIELD).iter().count(), 1);
        (id.as_str().to_owned(), headers[FIELD].to_str().expect("text").to_owned())
    }

    #[test]
    fn acceptable_identifier_is_kept() {
        let longest = [b'x'; LONGEST];
        for id in [&b"a"[..], b"6ba7b810-9dad-11d1-80b4-00c04fd430c8", b"req_{1}/~", &longest] {
            let text = String::from_utf8_lossy(id).into_owned();
            assert_eq!(settled(&[id]), (text.clone(), text));
        }
    }

    #[test]
    fn other_identifier_is_replaced() {
        let too_long = [b'x'; LONGEST + 1];
        for sent in [&[][..], &[&b""[..]], &[b"a b"], &[b"\xc3\xa4"], &[b"a\tb"], &[&too_long], &[b"a", b"a"]] {
            let (id, forwarded) = settled(sent);
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert_eq!(id, forwarded);
        }
        assert_ne!(settled(&[]), settled(&[]));
    }
}
