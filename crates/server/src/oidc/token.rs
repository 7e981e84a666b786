//! What a token says, once its signature holds: pure.
//!
//! Source: RFC 7519, RFC 8725 (which algorithms, which type, whose audience).

use std::collections::BTreeMap;

use evidence::Timestamp;
use evidence::record::Role;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{DecodingKey, Header, Validation};
use serde_json::{Map, Value};

/// Clocks of issuers that are a little ahead or behind.
const LEEWAY_SECS: i64 = 60;

/// Longest subject: with `user:` before it, it is an identifier like any other.
const SUBJECT_BYTES_MAX: usize = 250;

/// How claims become a tenant and roles.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The issuer, exactly.
    pub issuer: String,
    /// Who the token is for, one of its audiences.
    pub audience: String,
    /// The tenant of all tokens; `None`: their claim says it.
    pub tenant: Option<String>,
    /// The claim that names the tenant: a name, or a JSON pointer (`/realm/tenant`).
    pub tenant_claim: String,
    /// The claim that names the roles, a text or list of texts: a name, or a JSON pointer.
    pub role_claim: String,
    /// Roles by what the claim says; empty: it says our own words.
    pub roles: BTreeMap<String, Role>,
}

/// Who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) tenant_id: String,
    /// `user:<subject>`
    pub(crate) principal: String,
    /// At least one.
    pub(crate) roles: Vec<Role>,
    pub(crate) expires_at: Timestamp,
}

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRefused {
    /// One word, for records; callers are told nothing.
    pub(crate) reason: &'static str,
    /// Tenant and principal, when the issuer's signature vouches for them.
    pub(crate) whose: Option<(String, String)>,
}

impl From<&'static str> for TokenRefused {
    fn from(reason: &'static str) -> Self {
        Self { reason, whose: None }
    }
}

/// Only tokens that are meant to let somebody in: not, say, those that end a session.
pub(super) fn is_access_token(header: &Header) -> bool {
    let typ = header.typ.as_deref().map(str::to_ascii_lowercase);
    let typ = typ
        .as_deref()
        .map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
    matches!(typ, None | Some("jwt" | "at+jwt")) && header.crit.is_none() && header.enc.is_none()
}

/// Checks signature, issuer and audience, then times, and reads who it is.
pub(super) fn read(
    token: &str,
    header: &Header,
    key: &DecodingKey,
    claims: &Claims,
    at: Timestamp,
) -> Result<User, TokenRefused> {
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[&claims.issuer]);
    validation.set_audience(&[&claims.audience]);
    validation.set_required_spec_claims(&["iss", "aud", "sub"]);
    // By the request's clock, below.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let said: Map<String, Value> = jsonwebtoken::decode(token, key, &validation)
        .map_err(|error| reason(&error))?
        .claims;
    // A list of issuers that has ours among others passes the library; `iss` is one (RFC 7519).
    if said.get("iss").and_then(Value::as_str) != Some(claims.issuer.as_str()) {
        return Err("wrong_issuer".into());
    }
    user(&said, claims, at)
}

fn reason(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::InvalidSignature => "wrong_signature",
        ErrorKind::InvalidIssuer => "wrong_issuer",
        ErrorKind::InvalidAudience => "wrong_audience",
        ErrorKind::MissingRequiredClaim(_) => "missing_claim",
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "wrong_algorithm"
        }
        _ => "malformed",
    }
}

fn user(said: &Map<String, Value>, claims: &Claims, at: Timestamp) -> Result<User, TokenRefused> {
    let subject = said.get("sub").and_then(Value::as_str).filter(|subject| {
        (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control)
    });
    let Some(subject) = subject else {
        return Err("no_subject".into());
    };
    let principal = format!("user:{subject}");
    let tenant_id = match &claims.tenant {
        Some(tenant_id) => Some(tenant_id.as_str()),
        None => claim(said, &claims.tenant_claim).and_then(Value::as_str),
    };
    let tenant_id = tenant_id.filter(|name| ledger::is_tenant_name(name) || *name == ledger::INSTANCE);
    let Some(tenant_id) = tenant_id else {
        return Err("no_tenant".into());
    };
    let refused = |reason| {
        Err(TokenRefused {
            reason,
            whose: Some((tenant_id.to_owned(), principal.clone())),
        })
    };
    let time = |name: &str| -> Result<Option<Timestamp>, ()> {
        match said.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(()),
        }
    };
    let (Ok(expires_at), Ok(not_before), Ok(issued_at)) = (time("exp"), time("nbf"), time("iat")) else {
        return refused("malformed");
    };
    let leeway = LEEWAY_SECS * 1_000_000;
    let Some(expires_at) = expires_at else {
        return refused("no_expiry");
    };
    if at.micros_since(expires_at) >= leeway {
        return refused("expired");
    }
    if [not_before, issued_at]
        .into_iter()
        .flatten()
        .any(|begin| begin.micros_since(at) > leeway)
    {
        return refused("not_yet");
    }
    let roles = roles(claim(said, &claims.role_claim), &claims.roles);
    if roles.is_empty() {
        return refused("no_role");
    }
    // As with keys: operator is the one role of the instance, and of no tenant.
    if roles
        .iter()
        .any(|role| (*role == Role::Operator) != (tenant_id == ledger::INSTANCE))
    {
        return refused("foreign_role");
    }
    Ok(User {
        tenant_id: tenant_id.to_owned(),
        principal,
        roles,
        expires_at: expires_at.checked_add_micros(leeway).unwrap_or(expires_at),
    })
}

/// A claim by its name, which may hold anything (`https://example.org/roles`), or by a JSON pointer.
fn claim<'a>(said: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else {
        return said.get(name);
    };
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let found = said.get(&first.replace("~1", "/").replace("~0", "~"))?;
    if rest.is_empty() {
        Some(found)
    } else {
        found.pointer(&format!("/{rest}"))
    }
}

/// Texts that mean nothing here are passed over: issuers put all of a person's groups there. A single text is a name that
/// the settings know, which may have spaces, or else several with spaces between, as `scope` has them.
fn roles(said: Option<&Value>, known: &BTreeMap<String, Role>) -> Vec<Role> {
    let texts: Vec<&str> = match said {
        Some(Value::String(text)) if known.contains_key(text) => vec![text.as_str()],
        Some(Value::String(text)) => text.split(' ').collect(),
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut roles: Vec<Role> = texts
        .into_iter()
        .filter_map(|text| {
            if known.is_empty() {
                Role::parse(text)
            } else {
                known.get(text).copied()
            }
        })
        .collect();
    roles.sort_by_key(|role| role.as_str());
    roles.dedup();
    roles
}

/// Seconds since 1970, perhaps with a fraction.
fn seconds(value: &Value) -> Option<Timestamp> {
    let seconds = match value.as_i64() {
        Some(whole) => whole,
        // A fraction of a second is none of our business; what does not fit is no time.
        #[allow(clippy::cast_possible_truncation)]
        None => value
            .as_f64()
            .filter(|seconds| seconds.abs() < 1e15)
            .map(|seconds| seconds.floor() as i64)?,
    };
    Timestamp::from_micros(seconds.checked_mul(1_000_000)?)
}
