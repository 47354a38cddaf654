//! Every header field that means something to this proxy, in one table.
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName};

/// Concerns one hop alone, whether or not `Connection` names it (RFC 9110 §7.6.1). `Trailer` does
/// not: trailers are forwarded.
const HOP: u8 = 1;
/// Says who is calling. Only a proxy may write such fields, and this one writes none.
const FORWARDING: u8 = 1 << 1;
/// Carries an identity, a credential, or a proof of one.
const CREDENTIAL: u8 = 1 << 2;
/// Replaces the method or the target at some servers, so that they serve another request than the
/// one that a route was chosen for.
const OVERRIDE: u8 = 1 << 3;
/// Belongs to the connection or to the framing of the message, or says where a request goes. Such a
/// field can carry no credential, not even one that the configuration spells out.
const STRUCTURAL: u8 = 1 << 4;
/// Frames, routes or describes a message before its body is read, so that no trailer may have it
/// (RFC 9110 §6.5.1).
const HEAD: u8 = 1 << 5;
/// Has a purpose for which proxies, servers or browsers read it: a token there would be lost,
/// logged, or taken for something else.
const PURPOSE: u8 = 1 << 6;

/// The known fields, sorted by the length of their names.
const FIELDS: [(&str, u8); 59] = [
    ("te", HOP | STRUCTURAL),
    ("age", HEAD),
    ("via", STRUCTURAL | HEAD | PURPOSE),
    ("date", HEAD | PURPOSE),
    ("dpop", CREDENTIAL),
    ("from", PURPOSE),
    ("host", STRUCTURAL | HEAD | PURPOSE),
    ("vary", HEAD),
    ("range", HEAD | PURPOSE),
    ("cookie", HEAD | PURPOSE),
    ("expect", STRUCTURAL | HEAD | PURPOSE),
    ("origin", PURPOSE),
    ("pragma", PURPOSE),
    ("prefer", PURPOSE),
    ("baggage", PURPOSE),
    ("expires", HEAD),
    ("referer", PURPOSE),
    ("trailer", STRUCTURAL | PURPOSE),
    ("upgrade", HOP | STRUCTURAL),
    ("location", HEAD),
    ("priority", PURPOSE),
    ("forwarded", FORWARDING),
    ("signature", CREDENTIAL),
    ("txn-token", CREDENTIAL),
    ("x-real-ip", FORWARDING),
    ("connection", HOP | STRUCTURAL),
    ("early-data", PURPOSE),
    ("keep-alive", HOP | STRUCTURAL),
    ("set-cookie", HEAD | PURPOSE),
    ("tracestate", PURPOSE),
    ("user-agent", PURPOSE),
    ("client-cert", FORWARDING),
    ("retry-after", HEAD),
    ("traceparent", PURPOSE),
    ("x-client-ip", PURPOSE),
    ("content-type", STRUCTURAL | HEAD | PURPOSE),
    ("max-forwards", HEAD | PURPOSE),
    ("authorization", CREDENTIAL),
    ("cache-control", HEAD | PURPOSE),
    ("content-range", HEAD | PURPOSE),
    ("last-event-id", PURPOSE),
    ("content-length", STRUCTURAL | HEAD | PURPOSE),
    ("http2-settings", HOP),
    ("true-client-ip", FORWARDING),
    ("idempotency-key", PURPOSE),
    ("signature-input", CREDENTIAL),
    ("x-authorization", CREDENTIAL),
    ("content-encoding", HEAD | PURPOSE),
    ("proxy-connection", HOP | STRUCTURAL),
    ("www-authenticate", HEAD),
    ("client-cert-chain", FORWARDING),
    ("transfer-encoding", HOP | STRUCTURAL),
    ("proxy-authenticate", HOP | PURPOSE),
    ("proxy-authorization", HOP | STRUCTURAL),
    ("workload-proof-token", CREDENTIAL),
    ("workload-identity-token", CREDENTIAL),
    ("oauth-client-attestation", CREDENTIAL),
    ("proxy-authentication-info", HOP | PURPOSE),
    ("oauth-client-attestation-pop", CREDENTIAL),
];

/// The known beginnings of names, for names that are not in [`FIELDS`], sorted by their first
/// letters.
const PREFIXES: [(&str, u8); 16] = [
    ("accept", PURPOSE),
    ("access-control-", PURPOSE),
    ("content-", PURPOSE),
    ("grpc-", PURPOSE),
    ("if-", PURPOSE),
    ("proxy-", PURPOSE),
    ("sec-", PURPOSE),
    ("x-b3-", PURPOSE),
    ("x-envoy-", FORWARDING),
    ("x-forwarded-", FORWARDING | PURPOSE),
    ("x-forwarded", PURPOSE),
    ("x-http-method", OVERRIDE | PURPOSE),
    ("x-method-override", OVERRIDE | PURPOSE),
    ("x-original-", OVERRIDE | PURPOSE),
    ("x-request-id", PURPOSE),
    ("x-rewrite-", OVERRIDE | PURPOSE),
];

/// Where the prefixes with each letter begin in [`PREFIXES`].
const PREFIX_STARTS: [usize; 27] = prefix_starts();
/// Where the names of each length begin in [`FIELDS`].
const STARTS: [usize; LONGEST + 2] = starts();
const LONGEST: usize = FIELDS[FIELDS.len() - 1].0.len();

/// What a header field means to a proxy. Most fields mean nothing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldMeaning(u8);

impl FieldMeaning {
    /// The meaning of a field. Underscores count as hyphens, because an upstream that follows CGI
    /// (RFC 3875 §4.1.18) does not distinguish `txn_token` from `Txn-Token`. Most names are not
    /// known, and are compared with those of their own length alone.
    pub fn of(name: &HeaderName) -> Self {
        let name = name.as_str().as_bytes();
        let same_length = match STARTS.get(name.len()..name.len() + 2) {
            Some(&[start, end]) => &FIELDS[start..end],
            _ => &[],
        };
        let known = same_length.iter().find(|(known, _)| begins_with(name, known));
        let same_letter = || &PREFIXES[prefixes_of(name)];
        let known = known.or_else(|| same_letter().iter().find(|(prefix, _)| begins_with(name, prefix)));
        Self(known.map_or(0, |(_, meaning)| *meaning))
    }

    /// Whether the field concerns one hop alone.
    pub fn is_hop_by_hop(self) -> bool {
        self.has(HOP)
    }

    /// Whether the field says who is calling.
    pub fn is_forwarding(self) -> bool {
        self.has(FORWARDING)
    }

    /// Whether the field carries an identity, a credential, or a proof of one.
    pub fn is_credential(self) -> bool {
        self.has(CREDENTIAL)
    }

    /// Whether the field replaces the method or the target at some servers.
    pub fn is_override(self) -> bool {
        self.has(OVERRIDE)
    }

    /// Whether the field belongs to the connection or to the message itself.
    pub fn is_structural(self) -> bool {
        self.has(STRUCTURAL)
    }

    /// Whether a trailer may have the field. None may claim an identity or authenticate a message.
    pub fn may_be_trailer(self) -> bool {
        !self.has(HOP | FORWARDING | CREDENTIAL | OVERRIDE | STRUCTURAL | HEAD)
    }

    /// Whether a token may be sent in the field.
    pub fn may_carry_token(self) -> bool {
        !self.has(HOP | FORWARDING | STRUCTURAL | PURPOSE)
    }

    /// Whether the field means one of `meanings`.
    const fn has(self, meanings: u8) -> bool {
        self.0 & meanings != 0
    }
}

/// The names that `Connection` nominates as concerning this hop alone (RFC 9110 §7.6.1), as they
/// were sent.
pub fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

/// Whether two names are the same field to an upstream that follows CGI.
pub fn is_same_field(one: &HeaderName, other: &HeaderName) -> bool {
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    let dashed = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    one.len() == other.len() && one.iter().map(dashed).eq(other.iter().map(dashed))
}

/// Whether `name` begins with a known name, with underscores taken as hyphens.
fn begins_with(name: &[u8], known: &str) -> bool {
    let same = |(byte, known): (&u8, u8)| *byte == known || (*byte == b'_' && known == b'-');
    name.len() >= known.len() && name.iter().zip(known.bytes()).all(same)
}

/// Which of [`PREFIXES`] begin with the first letter of `name`.
fn prefixes_of(name: &[u8]) -> std::ops::Range<usize> {
    let letter = name.first().map_or(0, |first| usize::from(first.wrapping_sub(b'a')));
    match PREFIX_STARTS.get(letter..letter + 2) {
        Some(&[start, end]) => start..end,
        _ => 0..0,
    }
}

const fn prefix_starts() -> [usize; 27] {
    let mut starts = [0; 27];
    let (mut letter, mut at) = (0, 0);
    while letter < starts.len() {
        while at < PREFIXES.len() && ((PREFIXES[at].0.as_bytes()[0] - b'a') as usize) < letter {
            at += 1;
        }
        starts[letter] = at;
        letter += 1;
    }
    starts
}

const fn starts() -> [usize; LONGEST + 2] {
    let mut starts = [0; LONGEST + 2];
    let (mut length, mut at) = (0, 0);
    while length < starts.len() {
        while at < FIELDS.len() && FIELDS[at].0.len() < length {
            at += 1;
        }
        starts[length] = at;
        length += 1;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(name: &str) -> FieldMeaning {
        FieldMeaning::of(&name.parse().expect("a name"))
    }

    #[test]
    fn every_known_field_is_found_in_every_spelling() {
        assert!(FIELDS.is_sorted_by_key(|(name, _)| name.len()));
        assert!(PREFIXES.is_sorted_by_key(|(prefix, _)| prefix.as_bytes()[0]));
        for (name, known) in FIELDS {
            assert_eq!(meaning(name), FieldMeaning(known), "{name}");
            assert_eq!(meaning(&name.replace('-', "_")), FieldMeaning(known), "{name}");
            assert_eq!(meaning(&name.to_ascii_uppercase()), FieldMeaning(known), "{name}");
        }
        for (prefix, known) in PREFIXES {
            assert_eq!(meaning(&format!("{prefix}zz")), FieldMeaning(known), "{prefix}");
        }
    }

    #[test]
    fn other_fields_mean_nothing() {
        for name in ["x", "x-tenant", "hosts", "authorizations", "x-real-ipv6", "a-name-longer-than-any-that-is-known"]
        {
            assert_eq!(meaning(name), FieldMeaning(0), "{name}");
        }
    }

    #[test]
    fn fields_are_classified_by_all_of_their_meanings() {
        assert!(meaning("transfer_encoding").is_hop_by_hop());
        assert!(meaning("x_forwarded-for").is_forwarding() && !meaning("x-forwarded").is_forwarding());
        assert!(meaning("x-envoy-original-path").is_forwarding());
        assert!(meaning("Txn_Token").is_credential() && meaning("txn-token").may_carry_token());
        for name in ["x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"]
        {
            assert!(meaning(name).is_override(), "{name}");
        }
        assert!(meaning("x-checksum").may_be_trailer() && meaning("grpc-status").may_be_trailer());
        assert!(!meaning("content_length").may_be_trailer() && !meaning("x-original-url").may_be_trailer());
    }
}
