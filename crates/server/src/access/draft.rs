//! What is noted about callers, as drafts of records.

use std::sync::Arc;

use evidence::record::{
    AccessEvent, AccessEventType, AuthorizationDecision, Decision, Facts, IdentityEvent, IdentityEventType,
};
use evidence::{ActorType, Kind};
use ledger::{Draft, Salts};

use super::recorder::{Noted, What};

/// The record of it; `None` (and a line in the log): it would be too large, which its limits forbid.
pub(super) fn draft(noted: &Noted, salts: &mut Salts) -> Option<Draft> {
    let Noted {
        tenant,
        who,
        what,
        detail,
        at,
        count,
        since,
        ..
    } = noted;
    let principal = who.principal.to_string();
    let request_id = detail.request_id.as_deref().map(ToOwned::to_owned);
    let (kind, facts, body) = match what {
        What::Decision {
            action,
            topic,
            foreign,
            decision,
            policy_ids,
            role,
            reason,
        } => {
            let tenant_id = match &detail.resource {
                Some(asked) => asked.as_str(),
                None if *foreign => "-",
                None => &tenant.tenant_id,
            };
            let decision = AuthorizationDecision {
                action: (*action).to_owned(),
                count: *count,
                decision: Decision::parse(decision)?,
                operation: detail.operation.map(ToOwned::to_owned),
                policy_ids: policy_ids.to_vec(),
                principal,
                reason: reason.map(ToOwned::to_owned),
                request_id,
                resource: format!("{tenant_id}/{topic}"),
                role: role.map(ToOwned::to_owned),
                since: *since,
            };
            let body = decision.encode();
            (Kind::AuthorizationDecision, Facts::Authorization(decision), body)
        }
        What::Access { operation, exported } => {
            let event = AccessEvent {
                count: *count,
                event_type: if *exported {
                    AccessEventType::Exported
                } else {
                    AccessEventType::Read
                },
                filters: detail.filters.clone(),
                operation: (*operation).to_owned(),
                principal,
                request_id,
                resource: detail.resource.clone(),
                row_count: detail.rows,
                since: *since,
            };
            let body = event.encode();
            (Kind::AccessEvent, Facts::Access(event), body)
        }
        What::Refused { subject_id, reason } => {
            let event = IdentityEvent {
                reason: Some((*reason).to_owned()),
                count: (*count > 1).then_some(*count),
                request_id,
                ..IdentityEvent::new(IdentityEventType::SigninRefused, &**subject_id, principal)
            };
            let body = event.encode();
            (Kind::IdentityEvent, Facts::Identity(event), body)
        }
        What::SignedIn { roles } => {
            let event = IdentityEvent {
                count: (*count > 1).then_some(*count),
                request_id,
                ..IdentityEvent::new(IdentityEventType::Signin, principal.clone(), principal)
                    .with_roles(roles)
            };
            let body = event.encode();
            (Kind::IdentityEvent, Facts::Identity(event), body)
        }
        What::Principal { added, roles } => {
            let event_type = if *added {
                IdentityEventType::PrincipalAdded
            } else {
                IdentityEventType::RoleChanged
            };
            let event = IdentityEvent {
                request_id,
                ..IdentityEvent::new(event_type, principal.clone(), principal).with_roles(roles)
            };
            let body = event.encode();
            (Kind::IdentityEvent, Facts::Identity(event), body)
        }
    };
    let actor = if who.human {
        (ActorType::Human, None)
    } else {
        (ActorType::System, Some(Arc::clone(&who.principal)))
    };
    Draft::of_no_run(facts, (kind, &body), actor, *at, salts)
        .inspect_err(|error| tracing::error!(%error, "an access record is too large"))
        .ok()
}
