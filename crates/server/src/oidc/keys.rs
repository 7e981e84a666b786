//! The issuer's keys: where they are fetched, which of them can check what, and when they are fetched again.
//!
//! A key that nobody knows makes one look at the issuer, and then none for a while, so that made-up key ids cost the
//! issuer nothing. A set that cannot be fetched again stays in use for a day.
//!
//! Source: OpenID Connect Discovery 1.0; RFC 7517.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::Uri;
use evidence::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::OidcError;

/// Largest document of an issuer: a set of a dozen keys with their certificates has 30 KiB.
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;

/// Most keys of a set that are looked at; issuers publish two to ten.
const KEYS_MAX: usize = 100;

/// Longest fetch of one document, all in all: a request may wait for two of them.
const FETCH_TIME: Duration = Duration::from_secs(5);

/// Shortest time between two fetches that unknown keys ask for.
const REFETCH_REST_MICROS: i64 = 30 * 1_000_000;

/// How long a set that could not be fetched again is believed: a key that the issuer took back is good for no longer.
const SET_AGE_MAX_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Where `<issuer>/.well-known/openid-configuration` says.
    Discovery,
    /// There.
    Url(String),
    /// In that file, read once.
    File(PathBuf),
}

/// A key, and what it can check.
#[derive(Clone)]
pub(super) struct VerifyKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

impl VerifyKey {
    /// `None`: of no use for checking signatures, or of a kind that is not checked here.
    fn new(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        if let Some(operations) = &common.key_operations
            && !operations.contains(&KeyOperations::Verify)
        {
            return None;
        }
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![ES256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![ES384],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![EdDSA],
            // A symmetric key in a published set is nobody's secret.
            _ => return None,
        };
        if let Some(algorithm) = common.key_algorithm {
            algorithms.retain(|one| Algorithm::try_from(algorithm).is_ok_and(|only| only == *one));
        }
        Some(Self {
            kid: common.key_id.clone(),
            algorithms,
            key: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

/// Why there is no key to check by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key of that id: the issuer may have a newer one.
    Unknown,
    /// The key is there and of another algorithm, or none is named and several would do.
    Unfit,
}

/// A set of keys as published.
pub(super) struct KeySet {
    keys: Vec<VerifyKey>,
    /// The document, to tell a changed one.
    text: Vec<u8>,
    /// Which of the different sets that were seen.
    pub(super) generation: u64,
    fetched_at: Timestamp,
}

impl KeySet {
    pub(super) fn parse(text: Vec<u8>, fetched_at: Timestamp) -> Result<Self, OidcError> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let set: Set<'_> =
            serde_json::from_slice(&text).map_err(|error| OidcError(format!("no JWK set: {error}")))?;
        let keys: Vec<VerifyKey> = set
            .keys
            .iter()
            .take(KEYS_MAX)
            // Sets hold keys of all kinds; those that mean nothing here are passed over.
            .filter_map(|text| VerifyKey::new(&serde_json::from_str(text.get()).ok()?))
            .collect();
        if keys.is_empty() {
            return Err(OidcError(
                "the JWK set has no key that can check a signature".into(),
            ));
        }
        Ok(Self {
            keys,
            text,
            generation: 0,
            fetched_at,
        })
    }

    /// The key of that id. A token that names none is checked when one key alone would do.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&VerifyKey, NoKey> {
        let fit = |key: &&VerifyKey| key.algorithms.contains(&algorithm);
        let Some(kid) = kid else {
            let mut all = self.keys.iter().filter(fit);
            return match (all.next(), all.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(NoKey::Unfit),
            };
        };
        let mut of_id = self
            .keys
            .iter()
            .filter(|key| key.kid.as_deref() == Some(kid))
            .peekable();
        if of_id.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        of_id.find(fit).ok_or(NoKey::Unfit)
    }
}

/// Fetches documents of one issuer and keeps its keys.
pub(super) struct Keys {
    inner: Arc<Inner>,
    /// Held while fetching; when that was begun last.
    fetching: Mutex<Option<Timestamp>>,
}

struct Inner {
    issuer: String,
    source: KeySource,
    /// `None` for a file.
    agent: Option<ureq::Agent>,
    set: RwLock<Option<Arc<KeySet>>>,
}

impl Keys {
    /// # Errors
    /// The file cannot be used, or an address is not safe to fetch from.
    pub(super) fn new(issuer: &str, source: KeySource, at: Timestamp) -> Result<Self, OidcError> {
        let mut set = None;
        let agent = match &source {
            KeySource::File(path) => {
                let wrong = |error: &dyn std::fmt::Display| OidcError(format!("{}: {error}", path.display()));
                let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
                let mut text = Vec::new();
                file.take(DOCUMENT_BYTES_MAX)
                    .read_to_end(&mut text)
                    .map_err(|error| wrong(&error))?;
                set = Some(Arc::new(KeySet::parse(text, at).map_err(|error| wrong(&error))?));
                None
            }
            KeySource::Url(url) => Some(agent(fetchable(url)?)),
            KeySource::Discovery => Some(agent(fetchable(issuer)?)),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                issuer: issuer.to_owned(),
                source,
                agent,
                set: RwLock::new(set),
            }),
            fetching: Mutex::default(),
        })
    }

    /// Whether they can change.
    pub(super) fn are_fetched(&self) -> bool {
        self.inner.agent.is_some()
    }

    /// The set, unless there is none yet or it is too old to be believed.
    pub(super) fn set(&self, at: Timestamp) -> Option<Arc<KeySet>> {
        let set = self.inner.set.read().unwrap_or_else(PoisonError::into_inner);
        set.clone()
            .filter(|set| self.inner.agent.is_none() || at.micros_since(set.fetched_at) < SET_AGE_MAX_MICROS)
    }

    /// Fetches them again, unless that was done a moment ago, perhaps while waiting for it here.
    pub(super) async fn refetch(&self, at: Timestamp) {
        if !self.are_fetched() {
            return;
        }
        let mut begun = self.fetching.lock().await;
        let rests =
            |begun: Timestamp| at.micros_since(begun).unsigned_abs() < REFETCH_REST_MICROS.unsigned_abs();
        if begun.is_some_and(rests) {
            return;
        }
        *begun = Some(at);
        let inner = Arc::clone(&self.inner);
        // It keeps what it fetched also when nobody waits any more.
        let fetched = tokio::task::spawn_blocking(move || inner.fetch(at)).await;
        match fetched {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the issuer's keys cannot be fetched"),
            Err(error) => tracing::error!(%error, "the issuer's keys cannot be fetched"),
        }
    }
}

impl Inner {
    fn fetch(&self, at: Timestamp) -> Result<(), OidcError> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let url = match &self.source {
            KeySource::Url(url) => url.clone(),
            KeySource::Discovery | KeySource::File(_) => {
                let url = format!(
                    "{}/.well-known/openid-configuration",
                    self.issuer.trim_end_matches('/')
                );
                let found: Configuration = serde_json::from_slice(&self.get(&url)?)
                    .map_err(|error| OidcError(format!("{url}: {error}")))?;
                if found.issuer != self.issuer {
                    return Err(OidcError(format!("{url} is of another issuer: {}", found.issuer)));
                }
                fetchable(&found.jwks_uri)?;
                found.jwks_uri
            }
        };
        let mut set =
            KeySet::parse(self.get(&url)?, at).map_err(|error| OidcError(format!("{url}: {error}")))?;
        let mut kept = self.set.write().unwrap_or_else(PoisonError::into_inner);
        set.generation = match kept.as_ref() {
            Some(kept) if kept.text == set.text => kept.generation,
            Some(kept) => kept.generation + 1,
            None => 0,
        };
        tracing::debug!(
            keys = set.keys.len(),
            generation = set.generation,
            "fetched the issuer's keys"
        );
        *kept = Some(Arc::new(set));
        Ok(())
    }

    fn get(&self, url: &str) -> Result<Vec<u8>, OidcError> {
        let wrong = |error: &dyn std::fmt::Display| OidcError(format!("{url}: {error}"));
        let agent = self.agent.as_ref().ok_or_else(|| wrong(&"keys of a file"))?;
        let mut response = agent.get(url).call().map_err(|error| wrong(&error))?;
        if response.status() != 200 {
            return Err(wrong(&response.status()));
        }
        response
            .body_mut()
            .with_config()
            .limit(DOCUMENT_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| wrong(&error))
    }
}

/// Whether an address may be fetched from: what comes in clear text from another machine may be anybody's.
fn fetchable(url: &str) -> Result<&str, OidcError> {
    let uri: Uri = url
        .parse()
        .map_err(|error| OidcError(format!("{url:?} is no address: {error}")))?;
    let loopback = uri
        .authority()
        .is_some_and(|authority| crate::entry::is_loopback(authority.as_str()));
    match uri.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if loopback => Ok(url),
        _ => Err(OidcError(format!("{url:?}: an issuer is reached by https"))),
    }
}

fn agent(url: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_TIME))
        // A redirect could lead anywhere; discovery has its own way to name another place.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .proxy(None);
    if !url.starts_with("http://") {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "certificates of this machine cannot be read");
        }
        let roots: Vec<Certificate<'static>> = found
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        config = config.tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::from(roots))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build(),
        );
    }
    config.build().new_agent()
}
