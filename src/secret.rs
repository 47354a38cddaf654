//! Secret values. They have no `Display` and no `Serialize`, their `Debug` shows nothing, and their
//! memory is zeroed on drop.
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Text that may leave the process only on the wire: a client secret, an API key, a token.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// Reads the bytes of a file. One trailing line ending is dropped; editors leave one, and so
    /// does `kubectl create secret --from-file`.
    ///
    /// # Errors
    /// The secret is empty, or not UTF-8.
    pub fn from_file_bytes(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8 text")?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() { Err("is empty") } else { Ok(Self::new(text.to_owned())) }
    }

    /// Returns the text. Callers put it on the wire and nowhere else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("canary-7f3a".into());
        assert!(!format!("{secret:?}").contains("canary"));
    }

    #[test]
    fn one_trailing_line_ending_is_dropped() {
        assert_eq!(Secret::from_file_bytes(b"p w\r\n".to_vec()).expect("text").expose(), "p w");
        assert_eq!(Secret::from_file_bytes(b"p\n\n".to_vec()).expect("text").expose(), "p\n");
        assert!(Secret::from_file_bytes(b"\n".to_vec()).is_err());
        assert!(Secret::from_file_bytes(vec![0xff]).is_err());
    }
}
