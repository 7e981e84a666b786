//! Private keys of logs.
//!
//! Out of scope: making a seed (randomness is an argument) and keeping it. The key
//! is wiped when dropped; texts made of it are the caller's to wipe.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey};

use crate::{
    KeyError, KeyKind, SignatureLine, VerifierKey,
    text::{decode_base64_exact, encode_base64},
};

/// What a private key's text begins with, so that nobody takes it for a public one.
const PREFIX: &str = "PRIVATE+KEY+";

/// A named Ed25519 private key of type 01, as logs sign with.
///
/// `Debug` shows the public half only; there is no `Display`.
#[derive(Clone)]
pub struct SignerKey {
    key: SigningKey,
    verifier: VerifierKey,
}

impl SignerKey {
    /// Makes the key of a 32-byte seed, which must come from a cryptographic random source.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, KeyKind::Ed25519, key.verifying_key().as_bytes())?;
        Ok(Self { key, verifier })
    }

    /// Reads `PRIVATE+KEY+<name>+<8 hex digits of the id>+<base64 of 01 and seed>`, as Go's note
    /// package writes it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text
            .strip_prefix(PREFIX)
            .ok_or(KeyError::Malformed)?
            .splitn(3, '+');
        let (Some(name), Some(id), Some(typed_seed)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Malformed);
        };
        let [type_byte, mut seed @ ..] = decode_base64_exact::<33>(typed_seed).ok_or(KeyError::Malformed)?;
        let key = Self::from_seed(name, &seed);
        wipe(&mut seed);
        let key = key?;
        if type_byte != KeyKind::Ed25519.type_byte() {
            return Err(KeyError::UnsupportedType(type_byte));
        }
        if key.verifier.id().to_string() == id {
            Ok(key)
        } else {
            Err(KeyError::IdDiffers)
        }
    }

    /// Writes what [`SignerKey::parse`] reads. **Whoever has this text can sign as the log.**
    pub fn to_secret_text(&self) -> String {
        let mut typed_seed = [KeyKind::Ed25519.type_byte(); 33];
        if let Some(seed) = typed_seed.get_mut(1..) {
            seed.copy_from_slice(self.key.as_bytes());
        }
        let text = format!(
            "{PREFIX}{}+{}+{}",
            self.verifier.name(),
            self.verifier.id(),
            encode_base64(&typed_seed)
        );
        wipe(&mut typed_seed);
        text
    }

    /// The key's name; a log's is its origin.
    pub fn name(&self) -> &str {
        self.verifier.name()
    }

    /// The public half.
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a note's text, its final line feed included.
    pub fn sign(&self, text: &str) -> SignatureLine {
        let signature = self.key.sign(text.as_bytes());
        SignatureLine::from_parts(self.name(), self.verifier.id(), &signature.to_bytes())
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerKey")
            .field("verifier", &self.verifier.to_string())
            .finish_non_exhaustive()
    }
}

/// Overwrites a copy of a seed. The barrier keeps the compiler from dropping the write.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> SignerKey {
        SignerKey::from_seed("log.example/acme", &[1; 32]).unwrap()
    }

    #[test]
    fn the_worked_seed_has_the_worked_vkey() {
        let vkey = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        assert_eq!(log().verifier().to_string(), vkey);
    }

    #[test]
    fn secret_texts_read_back() {
        let text = log().to_secret_text();
        assert_eq!(
            text,
            "PRIVATE+KEY+log.example/acme+6a967d9a+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
        );
        let read = SignerKey::parse(&text).unwrap();
        assert_eq!(read.to_secret_text(), text);
        assert_eq!(read.sign("a\n"), log().sign("a\n"));
    }

    #[test]
    fn other_texts_are_refused() {
        let text = log().to_secret_text();
        let parse = |text: &str| SignerKey::parse(text).unwrap_err();
        assert_eq!(parse(&log().verifier().to_string()), KeyError::Malformed);
        assert_eq!(parse(&text.replace("acme", "acm3")), KeyError::IdDiffers);
        assert_eq!(
            parse(&text.replace("+AQEB", "+BAEB")),
            KeyError::UnsupportedType(4)
        );
        assert_eq!(parse(&text.replace("+AQEB", "+AQIB")), KeyError::IdDiffers);
        assert_eq!(parse(&format!("{text}\n")), KeyError::Malformed);
        assert_eq!(SignerKey::from_seed("a b", &[1; 32]).unwrap_err(), KeyError::Name);
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", log());
        assert!(
            shown.contains("6a967d9a") && !shown.contains("AQEB") && !shown.contains("1, 1"),
            "{shown}"
        );
    }
}
