//! Settings of sign-in by token.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use evidence::record::Role;
use serde::Deserialize;

use crate::output::Usage;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OidcTable {
    issuer: Option<String>,
    audience: Option<String>,
    jwks: Option<String>,
    tenant: Option<String>,
    tenant_claim: Option<String>,
    role_claim: Option<String>,
    roles: BTreeMap<String, String>,
}

/// Sign-in by the tokens of an issuer.
#[derive(Debug)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) struct OidcSettings {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    /// An address, or a file; `None`: where the issuer says.
    pub(crate) jwks: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) tenant_claim: String,
    pub(crate) role_claim: String,
    pub(crate) roles: BTreeMap<String, Role>,
}

impl OidcSettings {
    /// Whom tokens let in. A tenant that all tokens are of, and where keys are, stand in a hash alone: neither is
    /// anybody's to know, and a change of it shows.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(super) fn on_record(&self) -> Vec<(&'static str, String)> {
        let roles: Vec<_> = self
            .roles
            .iter()
            .map(|(word, role)| format!("{word}={}", role.as_str()))
            .collect();
        let absent = || "none".to_owned();
        let unseen = [
            self.jwks.clone().unwrap_or_else(absent),
            self.tenant.clone().unwrap_or_else(absent),
        ];
        vec![
            ("oidc.audience", self.audience.clone()),
            ("oidc.role_claim", self.role_claim.clone()),
            ("oidc.roles", roles.join(" ")),
            (
                "oidc.source",
                format!(
                    "sha256:{}",
                    evidence::hex_string(&evidence::sha256(unseen.join("\n").as_bytes()))
                ),
            ),
            (
                "oidc.tenant",
                match self.tenant {
                    Some(_) => "one for all tokens".to_owned(),
                    None => format!("claim {}", self.tenant_claim),
                },
            ),
        ]
    }
}

impl OidcTable {
    /// `None`: nobody signs in by token.
    pub(super) fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<OidcSettings>> {
        let pick = |name: &str, file: Option<String>| {
            let value = variable(&format!("DEPONENT_OIDC_{name}")).or(file);
            value.filter(|value| !value.is_empty())
        };
        let (issuer, audience) = (pick("ISSUER", self.issuer), pick("AUDIENCE", self.audience));
        let (jwks, tenant) = (pick("JWKS", self.jwks), pick("TENANT", self.tenant));
        let tenant_claim = pick("TENANT_CLAIM", self.tenant_claim);
        let role_claim = pick("ROLE_CLAIM", self.role_claim);
        let Some(issuer) = issuer else {
            let others = [&audience, &jwks, &tenant, &tenant_claim, &role_claim];
            if others.into_iter().any(Option::is_some) || !self.roles.is_empty() {
                bail!(Usage(
                    "oidc.issuer: is missing; tokens are those of one issuer".into()
                ));
            }
            return Ok(None);
        };
        // Else a token that the issuer made for another program would let its bearer in here.
        let Some(audience) = audience else {
            bail!(Usage(
                "oidc.audience: is missing; it says which tokens are meant for this server".into()
            ));
        };
        if let Some(tenant) = &tenant
            && !ledger::is_tenant_name(tenant)
            && tenant != ledger::INSTANCE
        {
            bail!(Usage(format!("oidc.tenant: {tenant:?} is no tenant's name")));
        }
        let mut roles = BTreeMap::new();
        for (said, role) in self.roles {
            let Some(known) = Role::parse(&role) else {
                bail!(Usage(format!(
                    "oidc.roles: {role:?} is none of reader, writer, auditor, admin, operator"
                )));
            };
            roles.insert(said, known);
        }
        Ok(Some(OidcSettings {
            issuer,
            audience,
            jwks,
            tenant,
            tenant_claim: tenant_claim.unwrap_or_else(|| "tenant".into()),
            role_claim: role_claim.unwrap_or_else(|| "role".into()),
            roles,
        }))
    }
}
