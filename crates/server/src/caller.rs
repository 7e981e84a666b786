//! Who calls: the one seam of authentication and authorization.
//!
//! [`guard`] stands before every handler, finds out who calls, has the policies
//! decide, notes both, and hands the [`Caller`] on. OTLP handlers call
//! [`Caller::of`] themselves, because their refusals have a form of their own.
//! In local mode (no keys, loopback only) it is always the principal `local` of
//! tenant `default`.

mod noted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use evidence::Timestamp;
use evidence::record::{Decision, Role};
use ledger::{ApiKey, INSTANCE, Tenant};

use crate::access::Level;
use crate::access::operation::{self, Action, Operation, Trail};
use crate::access::policy::{Asker, Decided};
use crate::access::recorder::{Detail, Listed, Who};
use crate::api::ledger::tell_refusal;
use crate::body::Sender;
use crate::idempotent::{self, IDEMPOTENCY_KEY};
use crate::oidc::{NoSignIn, Oidc, SignedIn, TokenRefused};
use crate::{ApiError, App, Received, RequestId, too_large};

use noted::{cut, detail, filters, note_refused};

/// The tenant of local mode.
pub const LOCAL_TENANT: &str = "default";

/// Longest path noted with a read.
const PATH_BYTES_MAX: usize = 1_024;

/// The name of a caller without a credential that names one.
const ANONYMOUS: &str = "anonymous";

/// Why a request without a credential is refused.
const NO_KEY: &str = "no_key";

/// Not said by the handler: one row was answered with.
const ROWS_UNSET: u64 = u64::MAX;

/// Who calls, and for which tenant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant, from the credential, never from the request.
    pub tenant: Arc<Tenant>,
    /// The principal.
    pub principal: Arc<str>,
    /// `key`, `user`, `local` or `public`.
    pub(crate) kind: &'static str,
    pub(crate) roles: Arc<[Role]>,
    credential: Credential,
    /// What it asks for.
    operation: Operation,
    rows: Arc<AtomicU64>,
}

/// What let a caller in, as far as it may end while an answer goes on.
#[derive(Clone, Debug)]
enum Credential {
    /// Nothing was asked for: what is read is public.
    Public,
    /// That no key was ever made.
    Local,
    Key(Arc<ApiKey>),
    /// A token, until then.
    Token(Timestamp),
}

impl Caller {
    /// Decides who calls, and whether it may; notes both.
    ///
    /// # Errors
    /// 401 without a good credential, 403 when the role is too small, 404 for another tenant's, 429 too often.
    pub async fn of(app: &App, parts: &Parts) -> Result<Self, ApiError> {
        let template = parts
            .extensions
            .get::<MatchedPath>()
            .map_or_else(|| parts.uri.path(), MatchedPath::as_str);
        match operation::access_of(&parts.method, template) {
            operation::Access::Decided(operation) | operation::Access::InHandler(operation) => {
                Judged::new(app, parts, &operation)
                    .await?
                    .noted(app, parts, &operation)
            }
            operation::Access::Public => Err(ApiError::internal(&"a public operation asks who calls")),
        }
    }

    /// Whose its bodies are.
    pub(crate) fn sender(&self) -> Sender {
        (self.tenant.tenant_no, Arc::clone(&self.principal))
    }

    fn new(
        operation: &Operation,
        tenant: Arc<Tenant>,
        principal: Arc<str>,
        roles: &[Role],
        credential: Credential,
    ) -> Self {
        Self {
            tenant,
            principal,
            kind: match credential {
                Credential::Public => "public",
                Credential::Local => "local",
                Credential::Key(_) => "key",
                Credential::Token(_) => "user",
            },
            roles: roles.into(),
            credential,
            operation: *operation,
            rows: Arc::new(AtomicU64::new(ROWS_UNSET)),
        }
    }

    async fn authenticate(
        app: &App,
        parts: &Parts,
        operation: &Operation,
        at: Timestamp,
    ) -> Result<Self, ApiError> {
        if app.is_local() {
            let tenant = app
                .ledger
                .tenant(LOCAL_TENANT)
                .ok_or_else(|| ApiError::internal(&"no tenant for local mode"))?;
            return Ok(Self::new(
                operation,
                tenant,
                "local".into(),
                &[Role::Admin, Role::Operator],
                Credential::Local,
            ));
        }
        let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
        let token = match (given.next(), given.next()) {
            (Some(value), None) => value.to_str().ok().and_then(bearer),
            _ => None,
        };
        let Some(token) = token else {
            note_refused(app, parts, operation, None, NO_KEY, at);
            return Err(unauthorized());
        };
        if let Some(oidc) = app.oidc.as_ref().filter(|_| !token.starts_with("dpn_")) {
            return Self::signed_in(app, parts, operation, oidc, token, at).await;
        }
        match app.ledger.api_keys().check(token, at) {
            Ok(key) => {
                let tenant = app.ledger.tenant(&key.tenant_id).ok_or_else(unauthorized)?;
                Ok(Self::new(
                    operation,
                    tenant,
                    key.principal().into(),
                    &[key.role],
                    Credential::Key(key),
                ))
            }
            Err(refused) => {
                let of = refused.key.as_ref().and_then(|key| {
                    let who = Who {
                        principal: key.principal().into(),
                        human: false,
                    };
                    Some((app.ledger.tenant(&key.tenant_id)?, who, Arc::clone(&key.key_id)))
                });
                note_refused(app, parts, operation, of, refused.reason, at);
                Err(unauthorized())
            }
        }
    }

    async fn signed_in(
        app: &App,
        parts: &Parts,
        operation: &Operation,
        oidc: &Oidc,
        token: &str,
        at: Timestamp,
    ) -> Result<Self, ApiError> {
        let mut refused = match oidc.check(token, at).await {
            Ok(SignedIn { user, first }) => {
                let principal: Arc<str> = user.principal.as_str().into();
                match app.ledger.tenant(&user.tenant_id) {
                    Some(tenant) => {
                        let credential = Credential::Token(user.expires_at);
                        let caller = Self::new(operation, tenant, principal, &user.roles, credential);
                        if first {
                            let detail = detail(parts, operation);
                            let roles = Arc::clone(&caller.roles);
                            app.access
                                .recorder
                                .signed_in(&caller.tenant, caller.who(), roles, detail, at);
                        }
                        return Ok(caller);
                    }
                    None => TokenRefused::from("no_tenant"),
                }
            }
            Err(NoSignIn::Refused(refused)) => refused,
            Err(NoSignIn::NoKeys) => {
                let message = "the issuer's keys cannot be had now";
                return Err(ApiError::unavailable("signin_unavailable", message));
            }
        };
        let of = refused.whose.take().and_then(|(tenant_id, principal)| {
            let principal: Arc<str> = principal.into();
            let who = Who {
                principal: Arc::clone(&principal),
                human: true,
            };
            Some((app.ledger.tenant(&tenant_id)?, who, principal))
        });
        note_refused(app, parts, operation, of, refused.reason, at);
        Err(unauthorized())
    }

    /// Whether what let it in still would: for answers that go on for long after that was decided.
    pub(crate) fn is_let_in(&self, app: &App) -> bool {
        let at = (app.clock)();
        match &self.credential {
            Credential::Public => true,
            Credential::Local => app.is_local(),
            Credential::Key(key) => app.ledger.api_keys().lets_in(key, at),
            Credential::Token(expires_at) => *expires_at > at,
        }
    }

    fn ask(&self, app: &App, action: &str, tenant: &str, topic: &str) -> Decided {
        let asker = Asker {
            principal: &self.principal,
            kind: self.kind,
            tenant: &self.tenant.tenant_id,
            roles: &self.roles,
        };
        app.access.policies.decide(asker, action, tenant, topic)
    }

    /// Whether it may read a topic of its tenant; noted nowhere: for handlers that leave out what it may not.
    pub(crate) fn may_read(&self, app: &App, topic: &str) -> bool {
        self.ask(app, "read", &self.tenant.tenant_id, topic).decision == Decision::Allow
    }

    /// Decides whether the operation may also be done to another tenant, and notes that: for handlers that learn
    /// only from the request's body, or from what it names, whose it is.
    ///
    /// # Errors
    /// 404: as if there were no such tenant.
    pub(crate) fn may_for(
        &self,
        app: &App,
        tenant_id: &str,
        request_id: &RequestId,
        at: Timestamp,
    ) -> Result<(), ApiError> {
        if *tenant_id == *self.tenant.tenant_id {
            return Ok(());
        }
        let tenant_id = name_of_tenant(tenant_id);
        let decided = self.ask(
            app,
            self.operation.action.as_str(),
            tenant_id,
            self.operation.topic,
        );
        let allowed = decided.decision == Decision::Allow;
        let detail = Detail {
            operation: Some(self.operation.name),
            request_id: Some(Arc::clone(&request_id.0)),
            resource: Some(tenant_id.to_owned()),
            ..Detail::default()
        };
        self.note(app, decided, detail, at);
        if allowed {
            Ok(())
        } else {
            Err(ApiError::not_found())
        }
    }

    /// Decides whether it may also do something else in its tenant, and notes that: for handlers that learn only from
    /// what is named what it takes.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may_also(
        &self,
        app: &App,
        (action, topic): (Action, &'static str),
        request_id: &RequestId,
        at: Timestamp,
    ) -> Result<(), ApiError> {
        let decided = self.ask(app, action.as_str(), &self.tenant.tenant_id, topic);
        let allowed = decided.decision == Decision::Allow;
        let detail = Detail {
            operation: Some(self.operation.name),
            request_id: Some(Arc::clone(&request_id.0)),
            ..Detail::default()
        };
        self.note_as(app, (action, topic, Trail::Decision), decided, detail, at);
        if allowed {
            Ok(())
        } else {
            Err(self.forbidden(action, topic))
        }
    }

    fn forbidden(&self, action: Action, topic: &str) -> ApiError {
        let roles: Vec<&str> = self.roles.iter().map(|role| role.as_str()).collect();
        let whose = match roles.as_slice() {
            [role] => format!("the role {role} does not allow"),
            several => format!("none of the roles {} allows", several.join(", ")),
        };
        let message = format!("{whose} {} on {topic}", action.as_str());
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Notes a decision over the operation, as much as is left of it.
    fn note(&self, app: &App, decided: Decided, detail: Detail, at: Timestamp) {
        let Operation {
            action, topic, trail, ..
        } = self.operation;
        self.note_as(app, (action, topic, trail), decided, detail, at);
    }

    fn note_as(
        &self,
        app: &App,
        (action, topic, trail): (Action, &'static str, Trail),
        decided: Decided,
        detail: Detail,
        at: Timestamp,
    ) {
        let allowed = decided.decision == Decision::Allow;
        // Levels are of reads and of writes. What verifies, takes away or manages is always left on record.
        let level = match action {
            Action::Write => app.access.levels.writes,
            Action::Read => app.access.levels.reads,
            Action::Verify | Action::Export | Action::Manage => Level::Metadata,
        };
        let listed = match trail {
            _ if !allowed => Some(Listed::Each),
            Trail::Nothing => None,
            Trail::Counted => Some(Listed::First),
            Trail::Hourly => Some(Listed::Hourly),
            Trail::Read | Trail::Export | Trail::Decision => Some(Listed::Each),
        };
        if let Some(listed) = listed.filter(|_| !allowed || level == Level::Metadata) {
            app.access.recorder.decision(
                &self.tenant,
                self.who(),
                (action.as_str(), topic),
                (decided.decision, decided.policy_ids),
                self.roles.first().map(|role| role.as_str()),
                None,
                detail,
                at,
                listed,
            );
        }
    }

    /// Who changes something, for records of it.
    pub(crate) fn changer(&self, request_id: &RequestId) -> ledger::Changer {
        ledger::Changer {
            principal: Arc::clone(&self.principal),
            human: self.is_human(),
            request_id: Some(Arc::clone(&request_id.0)),
        }
    }

    /// Says how many rows of evidence are answered with; one, when nothing is said.
    pub(crate) fn answered(&self, rows: usize) {
        self.rows
            .store(u64::try_from(rows).unwrap_or(u64::MAX - 1), Ordering::Relaxed);
    }

    /// How many rows it was answered with.
    fn rows_of(&self, operation: &Operation) -> u64 {
        match self.rows.load(Ordering::Relaxed) {
            ROWS_UNSET => {
                debug_assert!(!operation.lists, "{} does not say how many rows", operation.name);
                1
            }
            rows => rows,
        }
    }

    /// A token's subject may be a person: its name stays out of headers.
    fn is_human(&self) -> bool {
        self.kind == "user"
    }

    fn who(&self) -> Who {
        Who {
            principal: Arc::clone(&self.principal),
            human: self.is_human(),
        }
    }
}

/// A caller, and what was decided about it; not noted yet.
struct Judged {
    caller: Caller,
    /// The tenant that is asked for, when it is not the caller's.
    foreign: Option<String>,
    decided: Decided,
    at: Timestamp,
}

impl Judged {
    async fn new(app: &App, parts: &Parts, operation: &Operation) -> Result<Self, ApiError> {
        let at = parts
            .extensions
            .get::<Received>()
            .ok_or_else(|| ApiError::internal(&"no entry layer"))?
            .0;
        let caller = Caller::authenticate(app, parts, operation, at).await?;
        if let Err(secs) = app.access.rates.take(&caller.principal, at) {
            let message = "this key has made too many requests";
            let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message);
            error.retry_after_secs = Some(secs);
            return Err(error);
        }
        let tenant = match operation::tenant_of_path(parts.uri.path()) {
            Some(tenant) => name_of_tenant(tenant),
            // Tenants are the instance's.
            None if operation.topic == "tenants" => INSTANCE,
            None => &caller.tenant.tenant_id,
        };
        let decided = caller.ask(app, operation.action.as_str(), tenant, operation.topic);
        let foreign = (*tenant != *caller.tenant.tenant_id).then(|| tenant.to_owned());
        Ok(Self {
            caller,
            foreign,
            decided,
            at,
        })
    }

    fn allows(&self) -> bool {
        self.decided.decision == Decision::Allow
    }

    /// Notes the decision; the caller, if it is allowed.
    fn noted(self, app: &App, parts: &Parts, operation: &Operation) -> Result<Caller, ApiError> {
        let allowed = self.allows();
        let caller = self.caller;
        let is_foreign = self.foreign.is_some();
        let detail = Detail {
            resource: self.foreign,
            ..detail(parts, operation)
        };
        caller.note(app, self.decided, detail, self.at);
        if allowed {
            return Ok(caller);
        }
        if is_foreign && operation.topic != "tenants" {
            return Err(ApiError::not_found());
        }
        Err(caller.forbidden(operation.action, operation.topic))
    }
}

/// A name that no tenant can have is nobody's: it must not fill records.
fn name_of_tenant(given: &str) -> &str {
    if ledger::is_tenant_name(given) || given == INSTANCE {
        given
    } else {
        "-"
    }
}

/// `Bearer <token>`; the scheme in any case (RFC 9110).
pub(crate) fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
        .filter(|token| !token.is_empty())
}

/// The same for every reason: who tries keys learns nothing.
fn unauthorized() -> ApiError {
    let message = "a valid API key or token is needed: Authorization: Bearer …";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// The caller, with what earlier callers left in the buffer committed where the operation reads it; the decision over this request is not part of what it reads.
async fn admitted(app: &App, parts: &Parts, operation: &Operation) -> Result<Caller, ApiError> {
    if app.tlog_public
        && let Some(tenant_id) = operation::tenant_of_path(parts.uri.path())
    {
        // Whoever it is: what is public is read by all, and no record made of it.
        let tenant = app.ledger.tenant(tenant_id).filter(|_| tenant_id != INSTANCE);
        let tenant = tenant.ok_or_else(ApiError::not_found)?;
        let credential = Credential::Public;
        return Ok(Caller::new(operation, tenant, ANONYMOUS.into(), &[], credential));
    }
    let judged = Judged::new(app, parts, operation).await?;
    if operation.flush_first && judged.allows() {
        app.flush_access_of(&judged.caller.tenant).await?;
    }
    judged.noted(app, parts, operation)
}

/// Stands before every route: see the module.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let template = parts
        .extensions
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let operation = match operation::access_of(&parts.method, template) {
        operation::Access::Public | operation::Access::InHandler(_) => {
            return next.run(Request::from_parts(parts, body)).await;
        }
        operation::Access::Decided(operation) => operation,
    };
    let mut caller = match admitted(&app, &parts, &operation).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    if !parts.method.is_safe() && parts.uri.query().is_some_and(|query| !query.is_empty()) {
        // What is meant by them, as by `?only=true` of an erasure, must not be passed over.
        let message = "query: POST, PUT and DELETE take no parameters here";
        let mut refused = ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message).into_response();
        tell_refusal(&caller.tenant, &mut refused);
        return refused;
    }
    if let Some(RequestId(id)) = parts.extensions.get() {
        caller.tenant = caller.tenant.of_request(Arc::clone(id));
    }
    let event = matches!(operation.trail, Trail::Read | Trail::Export)
        .then(|| app.access.levels.reads)
        .filter(|level| *level == Level::Metadata)
        .and_then(|_| Some((parts.extensions.get::<Received>()?.0, detail(&parts, &operation))));
    let uri = parts.uri.clone();
    parts.extensions.insert(caller.clone());
    let about = too_large::about(&mut parts, &operation).await;
    let request = Request::from_parts(parts, body);
    let mut response = if request.method() == Method::POST && request.headers().contains_key(IDEMPOTENCY_KEY)
    {
        idempotent::once(&app, &caller, operation, request, next).await
    } else {
        next.run(request).await
    };
    // After the handler: whatever it read, it read before this.
    tell_refusal(&caller.tenant, &mut response);
    if let Some(about) = about {
        too_large::note(&app, &caller, about, response.status()).await;
    }
    if let Some((at, mut detail)) = event
        && response.status().is_success()
    {
        detail.operation = None;
        detail.filters = filters(&uri);
        detail.resource = Some(cut(uri.path(), PATH_BYTES_MAX));
        detail.rows = caller.rows_of(&operation);
        let exported = operation.trail == Trail::Export;
        let who = caller.who();
        app.access
            .recorder
            .access(&caller.tenant, who, operation.name, exported, detail, at);
    }
    response
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal(&"a handler without guard"))
    }
}
