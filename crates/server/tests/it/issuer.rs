//! An issuer of tokens on a loopback port, with keys of every kind, for tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ::server::{Claims, KeySource, Oidc};
use axum::Router;
use axum::body::Body;
use axum::http::Method;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::{Answer, now};

pub(crate) fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) enum Private {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// A key of the issuer.
pub(crate) struct Key {
    pub(crate) alg: &'static str,
    pub(crate) kid: &'static str,
    pub(crate) private: Private,
}

impl Key {
    pub(crate) fn rsa(alg: &'static str, kid: &'static str) -> Self {
        let private = RsaKeyPair::from_der(include_bytes!("../data/rsa-2048.der")).unwrap();
        Self {
            alg,
            kid,
            private: Private::Rsa(private),
        }
    }

    pub(crate) fn ec(alg: &'static str, kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let algorithm: &'static EcdsaSigningAlgorithm = if alg == "ES256" {
            &ECDSA_P256_SHA256_FIXED_SIGNING
        } else {
            &ECDSA_P384_SHA384_FIXED_SIGNING
        };
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let private = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self {
            alg,
            kid,
            private: Private::Ec(private),
        }
    }

    pub(crate) fn ed(kid: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let private = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self {
            alg: "EdDSA",
            kid,
            private: Private::Ed(private),
        }
    }

    pub(crate) fn published(&self) -> Value {
        match &self.private {
            Private::Rsa(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "kid": self.kid, "use": "sig", "n": text(&public.n), "e": text(&public.e) })
            }
            Private::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
                let curve = if self.alg == "ES256" { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "kid": self.kid, "alg": self.alg, "x": text(x), "y": text(y) })
            }
            Private::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": text(key.public_key().as_ref()) })
            }
            Private::Secret(secret) => json!({ "kty": "oct", "kid": self.kid, "k": text(secret) }),
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                if self.alg == "PS384" {
                    key.sign(&RSA_PSS_SHA384, &random, message, &mut signature)
                        .unwrap();
                } else {
                    key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                        .unwrap();
                }
                signature
            }
            Private::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Private::Ed(key) => key.sign(message).as_ref().to_vec(),
            Private::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.alg, "kid": self.kid, "typ": "JWT" }), claims)
    }

    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            text(header.to_string().as_bytes()),
            text(claims.to_string().as_bytes())
        );
        format!("{message}.{}", text(&self.sign(message.as_bytes())))
    }
}

/// An issuer on a loopback port.
pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) keys: Arc<Mutex<Value>>,
    pub(crate) fetched: Arc<AtomicUsize>,
}

impl Issuer {
    pub(crate) fn start(keyed: &Keyed, keys: &[&Key]) -> Self {
        let published = Arc::new(Mutex::new(set(keys)));
        let fetched = Arc::new(AtomicUsize::new(0));
        let runtime = &keyed.server.runtime;
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let configuration = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") });
        let (keys, count) = (Arc::clone(&published), Arc::clone(&fetched));
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || configuration.to_string()),
            )
            .route(
                "/keys",
                get(async move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    keys.lock().unwrap().to_string()
                }),
            );
        runtime.spawn(async { axum::serve(listener, router).await });
        Self {
            url,
            keys: published,
            fetched,
        }
    }

    pub(crate) fn claims(&self) -> Claims {
        Claims {
            issuer: self.url.clone(),
            audience: "deponent".into(),
            tenant: None,
            tenant_claim: "tenant".into(),
            role_claim: "role".into(),
            roles: BTreeMap::new(),
        }
    }

    /// What a good token says.
    pub(crate) fn said(&self) -> Value {
        json!({ "iss": self.url, "aud": ["other", "deponent"], "sub": "ada", "tenant": "acme", "role": "auditor",
            "exp": secs() + 300, "nbf": secs(), "iat": secs() })
    }
}

pub(crate) fn set(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.published()).collect::<Vec<_>>() })
}

pub(crate) fn secs() -> i64 {
    now().as_micros() / 1_000_000
}

pub(crate) fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

pub(crate) fn trust(keyed: &mut Keyed, claims: Claims, source: KeySource) {
    let oidc = Oidc::new(claims, source, now()).unwrap();
    keyed.server.app.oidc = Some(Arc::new(oidc));
    keyed.server.router = ::server::router(keyed.server.app.clone());
}

pub(crate) fn me(keyed: &Keyed, token: &str) -> Answer {
    ask(keyed, token, Method::GET, "/api/v1/me")
}

pub(crate) fn ask(keyed: &Keyed, token: &str, method: Method, path: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    keyed.server.request(method, path, &headers, Body::empty())
}
