//! Sign-in by JWT: an issuer's tokens, checked by its published keys, become callers of a tenant with roles.
//!
//! In scope: keys of one issuer (`keys.rs`), what a token says (`token.rs`), signatures (`crypto.rs`). Out of scope:
//! API keys (ledger), what a role may do ([`crate::Access`]).
//!
//! A token that is let in is remembered until it ends, so that its signature is checked once; that first time is
//! what records call a sign-in.
//!
//! Start at [`Oidc::check`]. Source: SPEC 11.5; RFC 7519, RFC 8725.

mod crypto;
mod keys;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use evidence::Timestamp;

pub use keys::KeySource;
use keys::{Keys, NoKey};
pub use token::Claims;
pub(crate) use token::{TokenRefused, User};

/// Longest token that is looked at. With a person's groups in it one has 2 to 4 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Tokens remembered: some hundred bytes each. When full, those that have ended go, and if none has, all.
const REMEMBERED_MAX: usize = 10_000;

/// Why sign-in cannot be offered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OidcError(pub(crate) String);

/// The tokens of one issuer.
pub struct Oidc {
    claims: Claims,
    keys: Keys,
    /// By SHA-256 of the token.
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

struct Remembered {
    user: Arc<User>,
    /// Of the keys that it was checked by: when they change it is checked once more.
    generation: u64,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc")
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

/// A token that lets somebody in.
#[derive(Debug)]
pub(crate) struct SignedIn {
    pub(crate) user: Arc<User>,
    /// It was not seen before.
    pub(crate) first: bool,
}

/// Why a token lets nobody in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoSignIn {
    /// Because of the token.
    Refused(TokenRefused),
    /// The issuer's keys are not known, or not any more.
    NoKeys,
}

impl From<TokenRefused> for NoSignIn {
    fn from(refused: TokenRefused) -> Self {
        Self::Refused(refused)
    }
}

impl Oidc {
    /// Keys of a file are read here, others by [`Self::refresh`] and when they are needed.
    ///
    /// # Errors
    /// [`OidcError`]: a file that cannot be used, or an issuer that cannot be reached safely.
    pub fn new(claims: Claims, source: KeySource, at: Timestamp) -> Result<Self, OidcError> {
        crypto::install();
        Ok(Self {
            keys: Keys::new(&claims.issuer, source, at)?,
            claims,
            remembered: Mutex::default(),
        })
    }

    /// Fetches the issuer's keys again, where they are not in a file.
    pub async fn refresh(&self, at: Timestamp) {
        self.keys.refetch(at).await;
    }

    /// Who that token lets in at that time.
    pub(crate) async fn check(&self, token: &str, at: Timestamp) -> Result<SignedIn, NoSignIn> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefused::from("malformed").into());
        }
        let mut set = self.keys.set(at);
        let hash = evidence::sha256(token.as_bytes());
        if let Some(user) = set.as_deref().and_then(|set| self.remembered(&hash, set, at)) {
            return Ok(SignedIn { user, first: false });
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::from("malformed"))?;
        if !token::is_access_token(&header) {
            return Err(TokenRefused::from("wrong_type").into());
        }
        let unknown =
            |set: &keys::KeySet| matches!(set.find(header.kid.as_deref(), header.alg), Err(NoKey::Unknown));
        if set.as_deref().is_none_or(unknown) {
            self.keys.refetch(at).await;
            set = self.keys.set(at);
        }
        let set = set.ok_or(NoSignIn::NoKeys)?;
        let key = set
            .find(header.kid.as_deref(), header.alg)
            .map_err(|no_key| match no_key {
                NoKey::Unknown => TokenRefused::from("unknown_key"),
                NoKey::Unfit => TokenRefused::from("wrong_algorithm"),
            })?;
        let user = Arc::new(token::read(token, &header, &key.key, &self.claims, at)?);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, one| one.user.expires_at > at);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let one = Remembered {
            user: Arc::clone(&user),
            generation: set.generation,
        };
        let first = remembered.insert(hash, one).is_none();
        Ok(SignedIn { user, first })
    }

    fn remembered(&self, hash: &[u8; 32], set: &keys::KeySet, at: Timestamp) -> Option<Arc<User>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let one = remembered.get(hash)?;
        (one.generation == set.generation && one.user.expires_at > at).then(|| Arc::clone(&one.user))
    }
}
