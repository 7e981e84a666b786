//! Decisions by Cedar: the shipped policies, the operator's own, and what they say.
//!
//! Policies never change while the server runs, and decide from principal, action
//! and resource alone: so a decision is made once and remembered.
//!
//! Source: SPEC 5.4, 11.5.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use evidence::record::{Decision, Role};

const SCHEMA: &str = include_str!("schema.cedarschema");
const DEFAULT: &str = include_str!("default.cedar");

/// Largest file of policies: the shipped one has 2 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most files of policies.
const FILES_MAX: usize = 100;

/// Decisions remembered: a thousand keys times a dozen of action and topic. When full, all are made anew.
const REMEMBERED_MAX: usize = 20_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// Its name.
    pub(crate) principal: &'a str,
    /// `key`, `user` or `local`.
    pub(crate) kind: &'static str,
    /// Its tenant.
    pub(crate) tenant: &'a str,
    /// What it may do.
    pub(crate) roles: &'a [Role],
}

/// What was decided, and by which policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    /// By rising id; none when nothing permits.
    pub(crate) policy_ids: Arc<[String]>,
}

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("policies: {0}")]
pub struct PolicyError(String);

/// The policies of a running server.
pub struct Policies {
    set: PolicySet,
    authorizer: Authorizer,
    /// SHA-256 of each file of an operator's own, by its name without folder.
    files: BTreeMap<String, [u8; 32]>,
    remembered: Mutex<HashMap<String, Decided>>,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Policies({})", self.set.num_of_policies())
    }
}

impl Policies {
    /// The shipped policies, and those in a file or folder (`*.cedar`), validated against the schema.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn load(own: Option<&Path>) -> Result<Self, PolicyError> {
        let mut set = PolicySet::new();
        let mut hashes = BTreeMap::new();
        add(&mut set, "default", DEFAULT)?;
        let shipped = set.num_of_policies();
        for file in own.map(files).transpose()?.unwrap_or_default() {
            let wrong = |error: &dyn std::fmt::Display| PolicyError(format!("{}: {error}", file.display()));
            let bytes = std::fs::metadata(&file).map_err(|error| wrong(&error))?.len();
            if bytes > FILE_BYTES_MAX {
                return Err(wrong(&format_args!("longer than {FILE_BYTES_MAX} bytes")));
            }
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(&error))?;
            let name = file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            add(&mut set, &name, &text).map_err(|error| wrong(&error.0))?;
            hashes.insert(name, evidence::sha256(text.as_bytes()));
        }
        // Who names a place means the policies that stand there: without them more may be allowed, or less.
        if let Some(path) = own
            && set.num_of_policies() == shipped
        {
            return Err(PolicyError(format!(
                "{}: there is no policy in it; those of a folder stand in its *.cedar",
                path.display()
            )));
        }
        let (schema, _) =
            Schema::from_cedarschema_str(SCHEMA).map_err(|error| PolicyError(error.to_string()))?;
        let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            return Err(PolicyError(error.to_string()));
        }
        Ok(Self {
            set,
            files: hashes,
            authorizer: Authorizer::new(),
            remembered: Mutex::default(),
        })
    }

    /// The operator's own files by name, each with its SHA-256.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        self.files.iter().map(|(name, hash)| (name.as_str(), hash))
    }

    /// Decides whether `asker` may do `action` on `topic` of `tenant`. What cannot be decided is denied.
    pub(crate) fn decide(&self, asker: Asker<'_>, action: &str, tenant: &str, topic: &str) -> Decided {
        // Names hold no control characters, so that no two questions share a text.
        let roles: Vec<&str> = asker.roles.iter().map(|role| role.as_str()).collect();
        let question = [
            asker.principal,
            asker.kind,
            asker.tenant,
            &roles.join(","),
            action,
            tenant,
            topic,
        ]
        .join("\0");
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(decided) = remembered.get(&question) {
            return decided.clone();
        }
        let decided = self.ask(asker, action, tenant, topic).unwrap_or_else(|error| {
            tracing::error!(%error, "a decision could not be made: denied");
            Decided {
                decision: Decision::Deny,
                policy_ids: Arc::default(),
            }
        });
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(question, decided.clone());
        decided
    }

    fn ask(&self, asker: Asker<'_>, action: &str, tenant: &str, topic: &str) -> Result<Decided, PolicyError> {
        let wrong = |error: &dyn std::fmt::Display| PolicyError(error.to_string());
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let principal = uid("Principal", asker.principal)?;
        let resource = uid("Resource", &format!("{tenant}/{topic}"))?;
        let roles = asker
            .roles
            .iter()
            .map(|role| uid("Role", role.as_str()))
            .collect::<Result<HashSet<_>, _>>()?;
        let mut entities: Vec<Entity> = roles.iter().cloned().map(Entity::with_uid).collect();
        let attributes = HashMap::from([
            ("tenant".to_owned(), text(asker.tenant)),
            ("kind".to_owned(), text(asker.kind)),
        ]);
        entities.push(Entity::new(principal.clone(), attributes, roles).map_err(|error| wrong(&error))?);
        let attributes = HashMap::from([
            ("tenant".to_owned(), text(tenant)),
            ("topic".to_owned(), text(topic)),
        ]);
        entities
            .push(Entity::new(resource.clone(), attributes, HashSet::new()).map_err(|error| wrong(&error))?);
        let entities = Entities::from_entities(entities, None).map_err(|error| wrong(&error))?;
        let request = Request::new(
            principal,
            uid("Action", action)?,
            resource,
            Context::empty(),
            None,
        )
        .map_err(|error| wrong(&error))?;
        let response = self.authorizer.is_authorized(&request, &self.set, &entities);
        for error in response.diagnostics().errors() {
            tracing::warn!(%error, "a policy could not be evaluated and does not count");
        }
        let mut policy_ids: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        policy_ids.sort_unstable();
        Ok(Decided {
            decision: match response.decision() {
                cedar_policy::Decision::Allow => Decision::Allow,
                cedar_policy::Decision::Deny => Decision::Deny,
            },
            policy_ids: policy_ids.into(),
        })
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, PolicyError> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| PolicyError(error.to_string()))?;
    Ok(EntityUid::from_type_name_and_id(
        kind,
        cedar_policy::EntityId::new(id),
    ))
}

/// Adds the policies of a text under the ids that they give themselves (`@id`), else `<name>:<number>`.
fn add(set: &mut PolicySet, name: &str, text: &str) -> Result<(), PolicyError> {
    let parsed = PolicySet::from_str(text).map_err(|error| PolicyError(format!("{name}: {error}")))?;
    if parsed.num_of_templates() > 0 {
        return Err(PolicyError(format!("{name}: templates are not used here")));
    }
    let mut policies: Vec<_> = parsed.policies().cloned().collect();
    // `policy0`, `policy1` … by place, which sorts by length first.
    policies.sort_by_key(|policy| (policy.id().to_string().len(), policy.id().to_string()));
    for (place, policy) in policies.into_iter().enumerate() {
        let id = policy
            .annotation("id")
            .map_or_else(|| format!("{name}:{place}"), ToOwned::to_owned);
        if id.is_empty() || id.len() > 100 || id.chars().any(char::is_control) {
            return Err(PolicyError(format!(
                "{name}: an @id must be 1 to 100 bytes without control characters"
            )));
        }
        set.add(policy.new_id(PolicyId::new(&id)))
            .map_err(|error| PolicyError(format!("{name}: {error}")))?;
    }
    Ok(())
}

/// The file, or the folder's `*.cedar`, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let wrong = |error: std::io::Error| PolicyError(format!("{}: {error}", path.display()));
    if !std::fs::metadata(path).map_err(wrong)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        if file.extension().is_some_and(|extension| extension == "cedar") {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(PolicyError(format!(
                "{}: more than {FILES_MAX} files",
                path.display()
            )));
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(policies: &Policies, role: Role, action: &str, tenant: &str, topic: &str) -> Decided {
        let asker = Asker {
            principal: "key:k",
            kind: "key",
            tenant: if role == Role::Operator {
                "_instance"
            } else {
                "acme"
            },
            roles: &[role],
        };
        policies.decide(asker, action, tenant, topic)
    }

    #[test]
    fn roles_may_what_they_may_and_no_more() {
        let policies = Policies::load(None).unwrap();
        let table = [
            // action, topic, then reader, writer, auditor, admin
            ("read", "self", "yyyy"),
            ("read", "receipts", "yyyy"),
            ("read", "runs", "ynyy"),
            ("read", "system", "ynyy"),
            ("read", "records", "ynyy"),
            ("read", "ledger", "ynyy"),
            ("read", "tlog", "ynyy"),
            ("read", "audit", "nnyy"),
            ("read", "verifications", "nnyy"),
            ("verify", "verifications", "nnyy"),
            ("export", "exports", "nnyy"),
            ("write", "evidence", "nyny"),
            ("manage", "keys", "nnny"),
            ("read", "keys", "nnny"),
            ("manage", "tenants", "nnnn"),
            ("read", "unlisted", "nnny"),
        ];
        for (action, topic, expected) in table {
            let roles = [Role::Reader, Role::Writer, Role::Auditor, Role::Admin];
            let found: String = roles
                .iter()
                .map(
                    |&role| match asked(&policies, role, action, "acme", topic).decision {
                        Decision::Allow => 'y',
                        Decision::Deny => 'n',
                    },
                )
                .collect();
            assert_eq!(found, expected, "{action} {topic}");
            for role in roles {
                let foreign = asked(&policies, role, action, "other", topic);
                assert_eq!(
                    foreign.decision,
                    Decision::Deny,
                    "{action} {topic} of another tenant"
                );
                assert!(foreign.policy_ids.iter().any(|id| id == "tenant-boundary"));
            }
        }
        let operator =
            |action, tenant, topic| asked(&policies, Role::Operator, action, tenant, topic).decision;
        assert_eq!(operator("manage", "acme", "keys"), Decision::Allow);
        assert_eq!(operator("manage", "_instance", "tenants"), Decision::Allow);
        assert_eq!(operator("read", "_instance", "audit"), Decision::Allow);
        assert_eq!(operator("read", "acme", "runs"), Decision::Deny);
        assert_eq!(operator("write", "acme", "evidence"), Decision::Deny);
    }

    #[test]
    fn an_operators_policies_stand_beside_ours_and_never_open_a_tenant() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.cedar");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(
            "permit (principal, action, resource);\n@id(\"no-audit\")\nforbid (principal in Role::\"auditor\", action, resource) when { resource.topic == \"audit\" };",
        );
        for path in [file.as_path(), folder.path()] {
            let policies = Policies::load(Some(path)).unwrap();
            let opened = asked(&policies, Role::Reader, "read", "acme", "audit");
            assert_eq!(opened.decision, Decision::Allow);
            assert_eq!(*opened.policy_ids, ["own:0".to_owned()]);
            let shut = asked(&policies, Role::Auditor, "read", "acme", "audit");
            assert_eq!(
                (shut.decision, &*shut.policy_ids),
                (Decision::Deny, &["no-audit".to_owned()][..])
            );
            let foreign = asked(&policies, Role::Admin, "read", "other", "runs");
            assert_eq!(foreign.decision, Decision::Deny);
        }
        for (bad, why) in [
            ("permit (principal", "own"),
            (
                "permit (principal, action, resource) when { resource.colour == 1 };",
                "colour",
            ),
            ("permit (principal, action == Action::\"fly\", resource);", "fly"),
            ("@id(\"reader\")\npermit (principal, action, resource);", "reader"),
        ] {
            write(bad);
            let error = Policies::load(Some(&file)).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(Policies::load(Some(&folder.path().join("none"))).is_err());
        // Nor is a place where there is nothing.
        write("");
        let empty = tempfile::tempdir().unwrap();
        for path in [file.as_path(), folder.path(), empty.path()] {
            let error = Policies::load(Some(path)).unwrap_err().to_string();
            assert!(error.contains("there is no policy in it"), "{error}");
        }
    }
}
