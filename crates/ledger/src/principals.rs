//! Principals that sign in with an issuer's token, as the records of their sign-ins say.
//!
//! Source: SPEC 5.4.

use evidence::facet::facet;
use evidence::record::{IdentityEvent, IdentityEventType, Role};
use store::{FacetQuery, LeafKey};

use crate::Records;
use crate::records::RecordError;

/// Pages of a search that may end early before it is given up: each looks at some thousand records.
const PAGES_MAX: u32 = 8;

/// With what a principal signed in last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastSignin {
    /// It never did.
    Never,
    /// With these roles.
    With(Vec<Role>),
    /// That cannot be said: the record's body is gone, or too much lies before it.
    Unknown,
}

impl Records {
    /// With what a principal signed in last, of all that is committed.
    ///
    /// What a sign-in said of it counts as well: it may stand there without the sign-in, if that came into another
    /// commit.
    ///
    /// # Errors
    /// [`RecordError`]: the store cannot answer.
    pub fn last_signin(&self, principal: &str) -> Result<LastSignin, RecordError> {
        let mut newest: Option<(LeafKey, LastSignin)> = None;
        for event_type in [
            IdentityEventType::Signin,
            IdentityEventType::RoleChanged,
            IdentityEventType::PrincipalAdded,
        ] {
            let mut query = FacetQuery {
                facets: vec![
                    facet("identity.subject", principal),
                    facet("identity.event_type", event_type.as_str()),
                ],
                limit: 1,
                newest_first: true,
                ..FacetQuery::default()
            };
            for page in 1.. {
                let found = self.find(&query)?;
                if let Some(record) = found.records.first() {
                    let event = record
                        .body
                        .bytes()
                        .and_then(|body| IdentityEvent::read(body).ok());
                    let said = event.map_or(LastSignin::Unknown, |event| {
                        LastSignin::With(event.roles().to_vec())
                    });
                    if newest.as_ref().is_none_or(|(leaf, _)| *leaf < record.leaf) {
                        newest = Some((record.leaf, said));
                    }
                    break;
                }
                if !found.has_more {
                    break;
                }
                if page == PAGES_MAX {
                    return Ok(LastSignin::Unknown);
                }
                (query.below, query.offset) = (found.next, found.offset);
            }
        }
        Ok(newest.map_or(LastSignin::Never, |(_, said)| said))
    }
}
