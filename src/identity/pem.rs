//! Converts PEM files, as cert-manager, spiffe-helper and openssl write them, into the form that
//! the Workload API delivers.
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Returns all certificates of a PEM text as concatenated DER. Other sections are skipped.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<u8>, String> {
    let mut der = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        der.extend_from_slice(&certificate.map_err(|error| format!("it is not PEM: {error}"))?);
    }
    if der.is_empty() { Err("it contains no CERTIFICATE section".to_owned()) } else { Ok(der) }
}

/// Returns the first private key of a PEM text as PKCS#8. Two older forms, PKCS#1 (`RSA PRIVATE
/// KEY`) and SEC1 (`EC PRIVATE KEY`), lack the algorithm, which is copied from the certificate.
/// cert-manager writes them unless `privateKey.encoding` is `PKCS8`.
pub(super) fn private_key(pem: &[u8], chain: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| "it contains no unencrypted private key in PEM (PKCS#8, SEC1 or PKCS#1)".to_owned())?;
    match key {
        PrivateKeyDer::Pkcs8(key) => Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        PrivateKeyDer::Sec1(key) => wrap(key.secret_sec1_der(), chain),
        PrivateKeyDer::Pkcs1(key) => wrap(key.secret_pkcs1_der(), chain),
        _ => Err("its private key has an unknown form".to_owned()),
    }
}

const INTEGER_ZERO: [u8; 3] = [0x02, 0x01, 0x00];
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Builds a `PrivateKeyInfo` (RFC 5208 §5): the version, the algorithm of the certificate's
/// SubjectPublicKeyInfo, the key.
fn wrap(key: &[u8], chain: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let (_, certificate) = X509Certificate::from_der(chain).map_err(|_| "its certificate cannot be read".to_owned())?;
    let algorithm = first_element(certificate.public_key().raw)
        .ok_or_else(|| "its certificate names no key algorithm".to_owned())?;
    let mut body = Zeroizing::new(INTEGER_ZERO.to_vec());
    body.extend_from_slice(algorithm);
    push(&mut body, OCTET_STRING, key);
    let mut whole = Zeroizing::new(Vec::with_capacity(body.len() + 8));
    push(&mut whole, SEQUENCE, &body);
    Ok(whole)
}

/// Returns the first element inside an outer SEQUENCE, including its header.
fn first_element(sequence: &[u8]) -> Option<&[u8]> {
    let body = sequence.get(header_and_length(sequence)?.0..)?;
    let (header, length) = header_and_length(body)?;
    body.get(..header.checked_add(length)?)
}

/// Returns the length of the header and of the contents that it announces (X.690 §8.1.3). A length
/// of more than four bytes is refused.
fn header_and_length(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, first));
    }
    let count = first & 0x7f;
    if count == 0 || count > 4 {
        return None;
    }
    let bytes = der.get(2..2 + count)?;
    Some((2 + count, bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))))
}

fn push(der: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    der.push(tag);
    let length = contents.len().to_be_bytes();
    let significant = length.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &length[at..]);
    match significant {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        long => {
            // A length has at most eight bytes, so their count fits in seven bits.
            der.push(0x80 | u8::try_from(long.len()).expect("a usize has at most eight bytes"));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(contents);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Authority, LeafShape, pem};

    #[test]
    fn older_key_forms_become_pkcs8() {
        for key in [
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        ] {
            let key = key.expect("key");
            let pkcs8 = key.serialize_der();
            let mut shape = LeafShape::new("spiffe://example.org/agent");
            shape.key = Some(key);
            let issued = Authority::new("example.org").issue(shape);
            let info = x509_parser::der_parser::parse_der(&pkcs8).expect("pkcs8").1;
            let inner = info.as_sequence().expect("sequence")[2].as_slice().expect("octets").to_vec();
            let label = if pkcs8.len() > 500 { "RSA PRIVATE KEY" } else { "EC PRIVATE KEY" };
            let read = private_key(pem(label, &inner).as_bytes(), &issued.chain[0]).expect(label);
            let chain = vec![issued.chain[0].clone()];
            let loaded = crate::identity::crypto_provider()
                .key_provider
                .load_private_key(PrivateKeyDer::Pkcs8(read.to_vec().into()))
                .expect(label);
            rustls::sign::CertifiedKey::new(chain, loaded).keys_match().expect("same key");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(
            text in "(-----BEGIN (CERTIFICATE|EC PRIVATE KEY|RSA PRIVATE KEY)-----\n)?\
                     [A-Za-z0-9+/=\n]{0,80}(-----END CERTIFICATE-----)?",
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            let _ = certificates(text.as_bytes());
            let _ = private_key(text.as_bytes(), &bytes);
            let _ = first_element(&bytes);
        }
    }

    #[test]
    fn garbage_is_refused() {
        let issued = Authority::new("example.org").issue(LeafShape::new("spiffe://example.org/agent"));
        assert!(certificates(b"").is_err());
        assert!(certificates(pem("PRIVATE KEY", b"x").as_bytes()).is_err());
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\nAAA").is_err());
        assert!(private_key(b"nothing", &issued.chain[0]).is_err());
        assert!(private_key(pem("EC PRIVATE KEY", b"x").as_bytes(), b"not a certificate").is_err());
    }
}
