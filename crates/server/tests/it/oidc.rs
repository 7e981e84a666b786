//! Sign-in by tokens: signed for real, with keys that a local issuer publishes over HTTP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use ::server::{Claims, KeySource, Oidc};
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use evidence::Timestamp;
use evidence::record::Role;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::issuer::{Issuer, Key, Private, ask, me, secs, set, text, trust, with};
use crate::server::now;

#[test]
fn tokens_of_every_algorithm_let_in_and_the_first_time_is_a_sign_in() {
    let mut keyed = Keyed::new();
    let keys = [
        Key::rsa("RS256", "r"),
        Key::rsa("PS384", "p"),
        Key::ec("ES256", "e"),
        Key::ec("ES384", "f"),
        Key::ed("d"),
    ];
    let issuer = Issuer::start(&keyed, &keys.iter().collect::<Vec<_>>());
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    for key in &keys {
        let token = key.token(&issuer.said());
        for _ in 0..2 {
            let me = me(&keyed, &token).ok();
            assert_eq!(
                (&me["principal"], &me["kind"], &me["tenant_id"], &me["roles"]),
                (
                    &json!("user:ada"),
                    &json!("user"),
                    &json!("acme"),
                    &json!(["auditor"])
                )
            );
        }
    }
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 1);
    let token = keys[0].token(&issuer.said());
    let read = ask(&keyed, &token, Method::GET, "/api/v1/logs/llm-runs");
    assert_eq!(read.status, 200);
    let writes = ask(&keyed, &token, Method::POST, "/api/v1/runs");
    assert_eq!(writes.problem(403), "forbidden");
    let signins: Vec<Value> = keyed
        .noted("admin", "identity.event")
        .into_iter()
        .filter(|event| event["event_type"] == "signin")
        .collect();
    assert_eq!(signins.len(), keys.len());
    assert_eq!(
        (&signins[0]["subject_id"], &signins[0]["role"]),
        (&json!("user:ada"), &json!("auditor"))
    );
    // A person's name stands in bodies, which can be erased, and never in a header.
    let records = keyed
        .get_as("admin", "/api/v1/records?kind=access.event&limit=100")
        .ok();
    for record in records["items"].as_array().unwrap() {
        assert!(!record["header"].to_string().contains("user:"), "{record}");
    }
    let read = records["items"].as_array().unwrap().iter().find(|record| {
        record["body"]["principal"] == "user:ada" && record["header"]["actor"] == json!({ "type": "HUMAN" })
    });
    assert!(read.is_some());
}

#[test]
fn a_subject_that_is_an_address_stands_on_record_as_it_is() {
    let mut keyed = Keyed::new();
    let key = Key::ec("ES256", "e");
    let issuer = Issuer::start(&keyed, &[&key]);
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    let said = with(issuer.said(), "sub", json!("ada@example.com"));
    let said = with(said, "role", json!("admin"));
    let token = key.token(&said);
    assert_eq!(
        ask(
            &keyed,
            &token,
            Method::GET,
            "/api/v1/logs/llm-runs?provider=bob@example.com"
        )
        .status,
        200
    );
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let made = keyed
        .server
        .request(Method::POST, "/api/v1/keys", &headers, r#"{"role":"reader"}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let changed = keyed
        .server
        .request(Method::PUT, "/api/v1/redaction", &headers, r#"{"fields":["x"]}"#);
    assert_eq!(changed.status, 200, "{}", changed.text());
    let who = json!("user:ada@example.com");
    for (kind, member) in [
        ("access.event", "principal"),
        ("authorization.decision", "principal"),
        ("identity.event", "principal"),
        ("audit.event", "actor_id"),
    ] {
        let noted = keyed.noted("admin", kind);
        assert!(noted.iter().any(|body| body[member] == who), "{kind}: {noted:?}");
        let records = keyed
            .get_as("admin", &format!("/api/v1/records?kind={kind}&limit=100"))
            .ok();
        for record in records["items"].as_array().unwrap() {
            assert!(!record["header"].to_string().contains("ada@"), "{record}");
        }
    }
    let read = keyed.noted("admin", "access.event");
    let filters: Vec<_> = read.iter().map(|body| &body["filters"]["provider"]).collect();
    assert!(filters.contains(&&json!("<REDACTED_EMAIL>")), "{filters:?}");
}

#[test]
fn tokens_that_are_not_to_be_believed_let_nobody_in_and_say_nothing() {
    let mut keyed = Keyed::new();
    let (rsa, ec, other) = (
        Key::rsa("RS256", "r"),
        Key::ec("ES256", "e"),
        Key::ec("ES256", "o"),
    );
    let stranger = Key::ec("ES256", "e");
    let secret = Key {
        alg: "HS256",
        kid: "s",
        private: Private::Secret(b"published, so nobody's secret at all".to_vec()),
    };
    let issuer = Issuer::start(&keyed, &[&rsa, &ec, &other, &secret]);
    let mut for_encryption = Key::ec("ES256", "enc").published();
    for_encryption["use"] = json!("enc");
    issuer.keys.lock().unwrap()["keys"]
        .as_array_mut()
        .unwrap()
        .push(for_encryption);
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    let said = issuer.said();
    let good = ec.token(&said);
    assert_eq!(me(&keyed, &good).status, 200);

    let unsigned = |alg: &str| {
        let header = text(json!({ "alg": alg, "kid": "e" }).to_string().as_bytes());
        format!("{header}.{}.", text(said.to_string().as_bytes()))
    };
    // The classic confusion: the public key, as bytes that everybody has, taken for a shared secret.
    let published = issuer.keys.lock().unwrap()["keys"][0]["n"]
        .as_str()
        .unwrap()
        .to_owned();
    let confused = Key {
        alg: "HS256",
        kid: "r",
        private: Private::Secret(URL_SAFE_NO_PAD.decode(published).unwrap()),
    };
    let (_, tail) = good.split_once('.').unwrap();
    let payload = tail.split_once('.').unwrap().0;
    let grown = with(said.clone(), "role", json!("admin"));
    let altered = good.replace(payload, &text(grown.to_string().as_bytes()));
    let typed = |typ: &str| ec.token_with(&json!({ "alg": "ES256", "kid": "e", "typ": typ }), &said);
    let inline = json!({ "alg": "ES256", "jwk": stranger.published() });
    let claim = |name: &str, value: Value| ec.token(&with(said.clone(), name, value));
    let without = |name: &str| {
        let mut claims = said.clone();
        claims.as_object_mut().unwrap().remove(name);
        ec.token(&claims)
    };
    let bad = [
        ("alg none", unsigned("none"), "malformed"),
        ("alg None", unsigned("None"), "malformed"),
        ("no signature", unsigned("ES256"), "wrong_signature"),
        (
            "HS256 with the public key",
            confused.token(&said),
            "wrong_algorithm",
        ),
        (
            "HS256 with a published secret",
            secret.token(&said),
            "unknown_key",
        ),
        (
            "another key of the set",
            Key { kid: "e", ..other }.token(&said),
            "wrong_signature",
        ),
        ("a stranger's key", stranger.token(&said), "wrong_signature"),
        (
            "a key of another algorithm",
            rsa.token_with(&json!({ "alg": "RS256", "kid": "e" }), &said),
            "wrong_algorithm",
        ),
        (
            "an unknown key",
            ec.token_with(&json!({ "alg": "ES256", "kid": "x" }), &said),
            "unknown_key",
        ),
        (
            "a key for encryption",
            ec.token_with(&json!({ "alg": "ES256", "kid": "enc" }), &said),
            "unknown_key",
        ),
        (
            "a key that the token brings",
            stranger.token_with(&inline, &said),
            "wrong_algorithm",
        ),
        ("an altered claim", altered, "wrong_signature"),
        ("an ID of a logout", typed("logout+jwt"), "wrong_type"),
        (
            "what must be understood",
            ec.token_with(
                &json!({ "alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false }),
                &said,
            ),
            "wrong_type",
        ),
        ("another audience", claim("aud", json!("other")), "wrong_audience"),
        ("no audience", without("aud"), "missing_claim"),
        (
            "another issuer",
            claim("iss", json!("https://elsewhere.example")),
            "wrong_issuer",
        ),
        (
            "one issuer of several",
            claim("iss", json!([issuer.url, "https://elsewhere.example"])),
            "wrong_issuer",
        ),
        ("no issuer", without("iss"), "missing_claim"),
        ("no subject", without("sub"), "missing_claim"),
        (
            "a subject that is no name",
            claim("sub", json!("a\nb")),
            "no_subject",
        ),
        ("expired", claim("exp", json!(secs() - 60)), "expired"),
        ("no expiry", without("exp"), "no_expiry"),
        (
            "an expiry that is no time",
            claim("exp", json!("tomorrow")),
            "malformed",
        ),
        (
            "an expiry beyond all times",
            claim("exp", json!(1e300)),
            "malformed",
        ),
        ("not yet", claim("nbf", json!(secs() + 61)), "not_yet"),
        ("issued tomorrow", claim("iat", json!(secs() + 86_400)), "not_yet"),
        ("no tenant", without("tenant"), "no_tenant"),
        ("an absent tenant", claim("tenant", json!("nobody")), "no_tenant"),
        (
            "two tenants",
            claim("tenant", json!(["acme", "other"])),
            "no_tenant",
        ),
        ("no role", without("role"), "no_role"),
        ("a role that is none", claim("role", json!("god")), "no_role"),
        (
            "operator of a tenant",
            claim("role", json!(["reader", "operator"])),
            "foreign_role",
        ),
        (
            "admin of the instance",
            ec.token(&with(
                with(said.clone(), "tenant", json!("_instance")),
                "role",
                json!("admin"),
            )),
            "foreign_role",
        ),
        ("two tokens", format!("{good}.{good}"), "malformed"),
        (
            "a long token",
            format!("{good}{}", "a".repeat(17_000)),
            "malformed",
        ),
        ("no token", "a.b.c".into(), "malformed"),
    ];
    let refused = me(&keyed, "nonsense");
    assert_eq!(refused.problem(401), "unauthorized");
    let mut reasons: Vec<&str> = Vec::new();
    for (what, token, reason) in &bad {
        let answer = me(&keyed, token);
        assert_eq!(
            (answer.status.as_u16(), &answer.body),
            (401, &refused.body),
            "{what}"
        );
        reasons.push(reason);
    }
    assert_eq!(me(&keyed, &good).status, 200);

    // On record is why: with the tenant when the issuer vouches for it, else with the instance.
    let refusals = |who: &str| -> Vec<(String, String)> {
        keyed
            .noted(who, "identity.event")
            .iter()
            .filter(|event| event["event_type"] == "signin.refused")
            .map(|event| {
                let text = |name: &str| event[name].as_str().unwrap().to_owned();
                (text("subject_id"), text("reason"))
            })
            .collect()
    };
    let (tenants, instances) = (refusals("admin"), refusals("operator"));
    for reason in ["expired", "no_expiry", "not_yet", "no_role", "foreign_role"] {
        assert!(tenants.contains(&("user:ada".into(), reason.into())), "{reason}");
    }
    for reason in [
        "malformed",
        "wrong_signature",
        "wrong_audience",
        "no_tenant",
        "unknown_key",
    ] {
        assert!(
            instances.contains(&("anonymous".into(), reason.into())),
            "{reason}"
        );
    }
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        let noted = tenants.iter().chain(&instances).any(|(_, noted)| noted == reason);
        assert!(noted, "{reason}");
    }
}

#[test]
fn a_new_key_is_looked_for_at_the_issuer_and_made_up_ones_cost_it_nothing() {
    static CLOCK: AtomicI64 = AtomicI64::new(0);
    fn clock() -> Timestamp {
        now().checked_add_micros(CLOCK.load(Ordering::SeqCst)).unwrap()
    }
    let wait = |secs: i64| CLOCK.fetch_add(secs * 1_000_000, Ordering::SeqCst);
    let mut keyed = Keyed::new();
    keyed.server.app.clock = clock;
    let (old, new) = (Key::ec("ES256", "old"), Key::ec("ES256", "new"));
    let issuer = Issuer::start(&keyed, &[&old]);
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    let said = with(issuer.said(), "exp", json!(secs() + 1_000_000));
    let (by_old, by_new) = (old.token(&said), new.token(&said));
    assert_eq!(me(&keyed, &by_old).status, 200);
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 1);

    *issuer.keys.lock().unwrap() = set(&[&new]);
    assert_eq!(me(&keyed, &by_new).status, 401, "asked a moment ago");
    wait(31);
    assert_eq!(me(&keyed, &by_new).status, 200);
    assert_eq!(
        me(&keyed, &by_old).status,
        401,
        "a token that was let in goes with its key"
    );
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 2);

    wait(31);
    for n in 0..50 {
        let header = json!({ "alg": "ES256", "kid": format!("made-up-{n}") });
        assert_eq!(me(&keyed, &new.token_with(&header, &said)).status, 401);
    }
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 3);

    // The issuer is gone: what is known holds for a day.
    *issuer.keys.lock().unwrap() = json!("out of order");
    wait(3_600);
    assert_eq!(me(&keyed, &by_new).status, 200);
    wait(86_400);
    assert_eq!(me(&keyed, &by_new).problem(503), "signin_unavailable");
    *issuer.keys.lock().unwrap() = set(&[&new]);
    wait(31);
    assert_eq!(me(&keyed, &by_new).status, 200);
}

#[test]
fn an_issuer_that_cannot_be_asked_lets_nobody_in_and_keys_still_do() {
    let mut keyed = Keyed::new();
    let key = Key::ed("d");
    let issuer = Issuer::start(&keyed, &[&key]);
    let mut claims = issuer.claims();
    // Its configuration says another issuer.
    claims.issuer = issuer.url.replace("127.0.0.1", "localhost");
    trust(&mut keyed, claims, KeySource::Discovery);
    let refused = me(&keyed, &key.token(&issuer.said()));
    assert_eq!(refused.problem(503), "signin_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(keyed.get_as("reader", "/api/v1/me").status, 200);
    for unsafe_ in [
        "http://issuer.example",
        "http://127.0.0.1.example",
        "http://user@127.0.0.1",
        "ftp://127.0.0.1",
        "issuer",
        "",
    ] {
        let claims = Claims {
            issuer: unsafe_.into(),
            ..issuer.claims()
        };
        assert!(
            Oidc::new(claims, KeySource::Discovery, now()).is_err(),
            "{unsafe_}"
        );
        let source = KeySource::Url(unsafe_.into());
        assert!(Oidc::new(issuer.claims(), source, now()).is_err(), "{unsafe_}");
    }
}

#[test]
fn keys_of_a_file_need_no_issuer_and_claims_are_mapped() {
    let mut keyed = Keyed::new();
    let key = Key::ed("d");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set(&[&key]).to_string()).unwrap();
    let claims = Claims {
        issuer: "https://issuer.example/realm".into(),
        audience: "deponent".into(),
        tenant: None,
        tenant_claim: "https://example.org/tenant".into(),
        role_claim: "/realm_access/roles".into(),
        roles: BTreeMap::from([
            ("auditors".to_owned(), Role::Auditor),
            ("agents".to_owned(), Role::Writer),
        ]),
    };
    let source = || KeySource::File(file.path().to_owned());
    trust(&mut keyed, claims.clone(), source());
    let said = json!({ "iss": "https://issuer.example/realm", "aud": "deponent", "sub": "ada",
        "https://example.org/tenant": "acme", "exp": 1_767_323_105.5,
        "realm_access": { "roles": ["offline_access", "agents", "auditors", "admin"] } });
    // One key: none need be named.
    let token = key.token_with(&json!({ "alg": "EdDSA" }), &said);
    assert_eq!(me(&keyed, &token).ok()["roles"], json!(["auditor", "writer"]));
    let refused = ask(&keyed, &token, Method::GET, "/api/v1/keys");
    assert_eq!(refused.problem(403), "forbidden");
    assert_eq!(
        refused.json()["detail"],
        "none of the roles auditor, writer allows read on keys"
    );
    let write = ask(&keyed, &token, Method::GET, "/api/v1/logs/audit");
    assert_eq!(write.status, 200);
    let foreign = ask(&keyed, &token, Method::GET, "/tlog/other/checkpoint");
    assert_eq!(foreign.problem(404), "not_found");

    // A group's name may have spaces, also where it is the only one and stands there as a text.
    let named = Claims {
        role_claim: "groups".into(),
        roles: BTreeMap::from([
            ("Deponent Auditors".to_owned(), Role::Auditor),
            ("agents".to_owned(), Role::Writer),
        ]),
        ..claims.clone()
    };
    trust(&mut keyed, named, source());
    for (groups, roles) in [
        (json!("Deponent Auditors"), json!(["auditor"])),
        (
            json!(["Deponent Auditors", "agents"]),
            json!(["auditor", "writer"]),
        ),
        (json!("staff agents"), json!(["writer"])),
    ] {
        let token = key.token(&with(said.clone(), "groups", groups));
        assert_eq!(me(&keyed, &token).ok()["roles"], roles);
    }

    let fixed = Claims {
        tenant: Some("other".into()),
        roles: BTreeMap::new(),
        role_claim: "scope".into(),
        ..claims
    };
    trust(&mut keyed, fixed, source());
    let said = with(said, "scope", json!("openid reader"));
    let me = me(&keyed, &key.token(&said)).ok();
    assert_eq!(
        (&me["tenant_id"], &me["roles"]),
        (&json!("other"), &json!(["reader"]))
    );

    std::fs::write(file.path(), "{\"keys\":[]}").unwrap();
    assert!(Oidc::new(Issuer::claims(&Issuer::start(&keyed, &[])), source(), now()).is_err());
}

#[test]
fn a_server_that_trusts_an_issuer_is_not_in_local_mode() {
    let server = crate::server::TestServer::new();
    let key = Key::ed("d");
    let mut keyed = Keyed {
        server,
        keys: Vec::new(),
    };
    let issuer = Issuer::start(&keyed, &[&key]);
    assert_eq!(keyed.get_as("nobody", "/api/v1/me").ok()["kind"], "local");
    trust(&mut keyed, issuer.claims(), KeySource::Discovery);
    assert_eq!(keyed.get_as("nobody", "/api/v1/me").problem(401), "unauthorized");
    let token = key.token(&with(issuer.said(), "tenant", json!("default")));
    assert_eq!(me(&keyed, &token).status, 200);
}
