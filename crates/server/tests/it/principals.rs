//! What sign-ins tell of their principals.

use ::server::KeySource;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::issuer::{Issuer, Key, me, trust, with};
use crate::schema::Schema;

/// Type, subject and role of each identity event of principals that sign in, oldest first.
fn told(keyed: &Keyed) -> Vec<(String, String, Value)> {
    let of_principal = |event: &Value| event["subject_id"].as_str().unwrap().starts_with("user:");
    keyed
        .noted("admin", "identity.event")
        .into_iter()
        .rev()
        .filter(of_principal)
        .map(|event| {
            let word = |name: &str| event[name].as_str().unwrap().to_owned();
            (word("event_type"), word("subject_id"), event["role"].clone())
        })
        .collect()
}

fn event(event_type: &str, subject: &str, role: &str) -> (String, String, Value) {
    (event_type.into(), subject.into(), json!(role))
}

#[test]
fn a_first_sign_in_adds_a_principal_and_another_role_changes_it() {
    let mut keyed = Keyed::new();
    let key = Key::ed("d");
    let issuer = Issuer::start(&keyed, &[&key]);
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    let signs_in = |keyed: &Keyed, subject: &str, role: &str, number: u32| {
        let roles: Vec<&str> = role.split(' ').collect();
        let said = with(with(issuer.said(), "sub", json!(subject)), "role", json!(roles));
        me(keyed, &key.token(&with(said, "jti", json!(number)))).ok();
    };
    signs_in(&keyed, "ada", "auditor", 1);
    let mut all = vec![
        event("principal.added", "user:ada", "auditor"),
        event("signin", "user:ada", "auditor"),
    ];
    assert_eq!(told(&keyed), all);
    // Another token, the same role; then another role, and twice before it is written.
    signs_in(&keyed, "ada", "auditor", 2);
    all.push(event("signin", "user:ada", "auditor"));
    assert_eq!(told(&keyed), all);
    signs_in(&keyed, "ada", "reader", 3);
    signs_in(&keyed, "ada", "reader", 4);
    signs_in(&keyed, "bob", "reader", 5);
    all.extend([
        event("role.changed", "user:ada", "reader"),
        event("signin", "user:ada", "reader"),
        event("signin", "user:ada", "reader"),
        event("principal.added", "user:bob", "reader"),
        event("signin", "user:bob", "reader"),
    ]);
    assert_eq!(told(&keyed), all);
    // One role more, whose name comes later, is another set of roles too.
    signs_in(&keyed, "bob", "reader writer", 7);
    all.extend([
        event("role.changed", "user:bob", "reader"),
        event("signin", "user:bob", "reader"),
    ]);
    assert_eq!(told(&keyed), all);
    let roles: Vec<Value> = keyed
        .noted("admin", "identity.event")
        .into_iter()
        .filter(|event| event["event_type"] == "role.changed")
        .map(|event| event["roles"].clone())
        .collect();
    assert_eq!(roles, [json!(["reader", "writer"]), Value::Null]);
    let listed = keyed
        .get_as("auditor", "/api/v1/logs/audit/identity?limit=100")
        .ok();
    Schema::committed().assert("AuditIdentityResult", &listed);
    let roles: Vec<&Value> = listed["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["event_type"] == "role.changed")
        .map(|event| &event["roles"])
        .collect();
    assert_eq!(roles, [&json!(["reader", "writer"]), &json!(["reader"])]);
    signs_in(&keyed, "bob", "reader", 8);
    all.extend([
        event("role.changed", "user:bob", "reader"),
        event("signin", "user:bob", "reader"),
    ]);
    // A process that knows no token of them yet finds it on record.
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    signs_in(&keyed, "bob", "reader", 6);
    all.push(event("signin", "user:bob", "reader"));
    assert_eq!(told(&keyed), all);
}
