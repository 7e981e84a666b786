//! Settings of a tenant that are evidence themselves: how integrity is judged, what is redacted.
//!
//! Each change is an audit event (PolicyRuleModified) with the settings before and after; what is in force is the
//! newest one's state after. Events that others record in the same words are none: ours are told apart by the
//! component in their header, which nobody else can give.
//!
//! Out of scope: what a setting may say ([`RedactionSettings`], `audit::integrity`).
//!
//! Source: SPEC 6.3, 6.4.

use std::sync::{Arc, PoisonError};

use evidence::canonical::{self, Value};
use evidence::facet::facet;
use evidence::record::{AuditEntityType, SETTINGS_COMPONENT};
use evidence::redact::{RedactionSettings, Redactor, SettingsError};
use evidence::{ActorType, Timestamp};

use crate::audit;
use crate::{Body, BodyTooLarge, Changer, Ledger, Receipt, RecordError, SubmitError, Tenant, WriteError};

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How integrity is judged (SPEC 6.3).
    IntegrityPolicy,
    /// What is redacted (SPEC 6.4).
    Redaction,
}

impl Setting {
    /// Its name in facets and audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IntegrityPolicy => "integrity_policy",
            Self::Redaction => "redaction",
        }
    }
}

/// Why a setting was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// It breaks a rule.
    #[error("{field}: {rule}")]
    Rule {
        /// The member.
        field: &'static str,
        /// What it must be.
        rule: String,
    },
    /// The one before cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// The audit event was not written.
    #[error(transparent)]
    Audit(#[from] WriteError),
}

impl From<SettingsError> for SettingError {
    fn from(error: SettingsError) -> Self {
        Self::Rule {
            field: error.field,
            rule: error.rule,
        }
    }
}

impl Ledger {
    /// What is set; `None`: nothing was ever.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn setting(&self, tenant: &Arc<Tenant>, setting: Setting) -> Result<Option<Value>, RecordError> {
        let newest = self
            .records(tenant)
            .newest(facet("setting", setting.as_str()), None)?;
        let Some(record) = newest else { return Ok(None) };
        let unreadable = |reason: &str| RecordError::Body {
            leaf: record.leaf.leaf_index(),
            reason: reason.to_owned(),
        };
        let body = match &record.body {
            Body::There(body) => body,
            Body::Gone(gone) => return Err(unreadable(&format!("it is {}", gone.as_str()))),
        };
        let body = canonical::parse(body, canonical::Limits::default())
            .map_err(|error| unreadable(&error.to_string()))?;
        let state = body.get("after_state").cloned();
        state.map(Some).ok_or_else(|| unreadable("no state after"))
    }

    /// Sets something, and records that as an audit event. Blocks.
    ///
    /// The event is sealed by the built-in rules alone: by the tenant's own, a pattern that finds itself in the
    /// settings would change them as they are written, and could never be taken back.
    ///
    /// # Errors
    /// [`SettingError`]; then nothing was changed, as far as is known.
    pub fn setting_change(
        &self,
        tenant: &Arc<Tenant>,
        setting: Setting,
        (before, after): (Value, Value),
        by: &Changer,
        at: Timestamp,
    ) -> Result<Receipt, SettingError> {
        let secret = Redactor::standard().free(&canonical::to_vec(&after));
        if secret
            .map_err(BodyTooLarge::from)
            .map_err(WriteError::from)?
            .is_some()
        {
            return Err(SettingError::Rule {
                field: "body",
                rule: "holds what looks like a secret itself".to_owned(),
            });
        }
        // One after the other, so that each event's state before is the state after of the last.
        let _one = self.inner.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.setting(tenant, setting)?.unwrap_or(before);
        let mut event = audit::policy_rule_modified(setting.as_str(), before, after);
        debug_assert_eq!(event.entity_type, AuditEntityType::PolicyRule);
        event.actor_type = if by.human {
            ActorType::Human
        } else {
            ActorType::System
        };
        event.actor_id = Some(by.principal.to_string());
        let mut draft = audit::draft(&event, at, &mut tenant.built_in_salts())?;
        draft.source_component = SETTINGS_COMPONENT;
        let outcome = self
            .submit_blocking(tenant, vec![draft], at, false)
            .map_err(WriteError::from)?
            .pop();
        let placed = outcome
            .ok_or(SubmitError::Closing)
            .map_err(WriteError::from)?
            .map_err(WriteError::from)?;
        Ok(placed.receipt)
    }

    /// The redaction settings of a tenant.
    ///
    /// # Errors
    /// The record cannot be read, or says something that settings cannot.
    pub fn redaction(&self, tenant: &Arc<Tenant>) -> Result<RedactionSettings, SettingError> {
        Ok(match self.setting(tenant, Setting::Redaction)? {
            None => RedactionSettings::default(),
            Some(value) => RedactionSettings::read(&value)?,
        })
    }

    /// Sets them; they are in force for every request that comes after the answer. Blocks.
    ///
    /// # Errors
    /// [`SettingError`]; then nothing was changed, as far as is known.
    pub fn redaction_change(
        &self,
        tenant: &Arc<Tenant>,
        settings: &RedactionSettings,
        by: &Changer,
        at: Timestamp,
    ) -> Result<Receipt, SettingError> {
        let rules = Redactor::new(settings)?;
        let states = (RedactionSettings::default().to_value(), settings.to_value());
        let receipt = self.setting_change(tenant, Setting::Redaction, states, by, at)?;
        tenant.set_rules(Arc::new(rules));
        Ok(receipt)
    }

    /// Takes up the rules of redaction as recorded: at the start.
    ///
    /// # Errors
    /// They cannot be read. Then nothing of the tenant may be written, lest it be stored with its secrets.
    pub(crate) fn take_up_rules(&self, tenant: &Arc<Tenant>) -> Result<(), SettingError> {
        let settings = self.redaction(tenant)?;
        if settings != RedactionSettings::default() {
            tenant.set_rules(Arc::new(Redactor::new(&settings)?));
        }
        Ok(())
    }
}
