//! What is noted of a request: by whom, what for, and with which filters.

use std::sync::Arc;

use axum::http::Uri;
use axum::http::request::Parts;
use evidence::Timestamp;
use evidence::record::Decision;
use ledger::{INSTANCE, Tenant};

use super::{ANONYMOUS, NO_KEY};
use crate::access::operation::Operation;
use crate::access::recorder::{Detail, Listed, Who};
use crate::{App, RequestId};

/// Filters noted with a read, at most; a list has a dozen parameters.
const FILTERS_MAX: usize = 32;

/// Longest name or value of a filter that is noted; what is longer stands there cut.
const FILTER_BYTES_MAX: usize = 256;

/// A credential that is known to be somebody's is refused in the ledger of his tenant, any other in the instance's.
pub(super) fn note_refused(
    app: &App,
    parts: &Parts,
    operation: &Operation,
    whose: Option<(Arc<Tenant>, Who, Arc<str>)>,
    reason: &'static str,
    at: Timestamp,
) {
    let recorder = &app.access.recorder;
    let anonymous = || {
        let who = Who {
            principal: ANONYMOUS.into(),
            human: false,
        };
        Some((app.ledger.tenant(INSTANCE)?, who, ANONYMOUS.into()))
    };
    let Some((tenant, who, subject_id)) = whose.or_else(anonymous) else {
        return;
    };
    // Without a credential nobody tried to sign in.
    if reason != NO_KEY {
        let who = who.clone();
        recorder.refused(&tenant, who, subject_id, reason, detail(parts, operation), at);
    }
    recorder.decision(
        &tenant,
        who,
        (operation.action.as_str(), operation.topic),
        (Decision::Deny, Arc::default()),
        None,
        Some(reason),
        detail(parts, operation),
        at,
        Listed::First,
    );
}

pub(super) fn detail(parts: &Parts, operation: &Operation) -> Detail {
    Detail {
        operation: Some(operation.name),
        request_id: parts
            .extensions
            .get::<RequestId>()
            .map(|RequestId(id)| Arc::clone(id)),
        ..Detail::default()
    }
}

/// The query's parameters by rising name; of equal names the last.
pub(super) fn filters(uri: &Uri) -> Vec<(String, String)> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let mut filters: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for (name, value) in pairs.map(|pairs| pairs.0).unwrap_or_default() {
        if filters.len() < FILTERS_MAX {
            filters.insert(cut(&name, FILTER_BYTES_MAX), cut(&value, FILTER_BYTES_MAX));
        }
    }
    filters.into_iter().collect()
}

pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
