use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{pages, refused, ticking_server};

const PATH: &str = "/api/v1/policy-activations";

fn activation(policy_id: &str, confidence: f64) -> Value {
    json!({
        "policy_id": policy_id, "source_pattern_id": "pat", "source_recovery_id": "rec", "confidence": confidence,
        "approval_path": "auto", "loop_trace_id": "lt",
    })
}

#[test]
fn a_second_activation_is_a_record_of_its_own_and_current() {
    let server = ticking_server();
    let first = server.created(PATH, &activation("p1", 0.123));
    assert_eq!(
        (
            &first["confidence_at_activation"],
            &first["confidence_version"],
            &first["tenant_id"]
        ),
        (&json!(0.123), &json!("CONFIDENCE_V1"), &json!("default"))
    );
    let mut again = activation("p1", 0.894);
    again["approval_path"] = json!("human:u1");
    again["confidence_version"] = json!("CONFIDENCE_V2");
    again["source_pattern_id"] = json!("pat2");
    let second = server.created(PATH, &again);
    assert!(second["activated_at"].as_str() > first["activated_at"].as_str());
    server.created(PATH, &activation("p2", 0.5));
    let list = server.get(&format!("{PATH}?policy_id=p1")).ok();
    let items = list["items"].as_array().unwrap();
    assert_eq!(
        (items.len(), &list["total"], &list["has_more"]),
        (2, &json!(2), &json!(false))
    );
    assert_eq!(
        list["filters_applied"],
        json!({ "policy_id": "p1", "tenant_id": "default" })
    );
    for (item, made) in items.iter().zip([&second, &first]) {
        let mut item = item.clone();
        let members = item.as_object_mut().unwrap();
        assert_eq!(members.remove("record_id").unwrap(), made["receipt"]["record_id"]);
        assert_eq!(members.remove("epoch").unwrap(), 0);
        assert_eq!(
            members.remove("leaf_index").unwrap(),
            made["receipt"]["leaf_index"]
        );
        let mut made = made.clone();
        made.as_object_mut().unwrap().remove("receipt");
        assert_eq!(item, made);
    }
    assert_eq!(server.get(PATH).ok()["total"], 3);
    let none = server.get(&format!("{PATH}?policy_id=nobody")).ok();
    assert_eq!((&none["items"], &none["total"]), (&json!([]), &json!(0)));
}

#[test]
fn pages_of_activations_do_not_shift() {
    let server = ticking_server();
    for n in 0..5 {
        server.created(PATH, &activation(&format!("p{}", n % 2), 0.5));
    }
    let all = pages(&server, PATH, 500, "record_id");
    assert_eq!(all.len(), 5);
    for limit in 1..=3 {
        assert_eq!(pages(&server, PATH, limit, "record_id"), all);
        let of_one = pages(&server, &format!("{PATH}?policy_id=p0"), limit, "record_id");
        assert_eq!(of_one, [all[0].clone(), all[2].clone(), all[4].clone()]);
    }
    let page = server.get(&format!("{PATH}?limit=2")).ok();
    let cursor = page["next_cursor"].as_str().unwrap();
    server.created(PATH, &activation("p9", 0.5));
    let next = server.get(&format!("{PATH}?limit=2&cursor={cursor}")).ok();
    assert_eq!((&next["total"], &next["as_of"]), (&page["total"], &page["as_of"]));
    assert_eq!(next["items"][0]["record_id"], all[2].as_str());
    let foreign = server.get(&format!("{PATH}?policy_id=p0&cursor={cursor}"));
    assert_eq!(foreign.problem(400), "bad_cursor");
    let skipped = server
        .get(&format!("{PATH}?offset=1&as_of={}", page["as_of"]))
        .ok();
    assert_eq!(skipped["items"][0]["record_id"], all[1].as_str());
    assert_eq!(
        server.get(&format!("{PATH}?offset=10001")).problem(400),
        "use_cursor"
    );
    for bad in ["limit=0", "limit=501", "limit=x", "as_of=99", "colour=red"] {
        assert_eq!(
            server.get(&format!("{PATH}?{bad}")).problem(400),
            "bad_parameter",
            "{bad}"
        );
    }
}

#[test]
fn every_broken_rule_of_an_activation_is_named() {
    let server = TestServer::new();
    for (field, value) in [
        ("confidence", json!(1.5)),
        ("confidence", json!(-0.1)),
        ("confidence", json!("high")),
        ("policy_id", json!("")),
        ("source_pattern_id", json!("a\nb")),
        ("source_recovery_id", json!("")),
        ("approval_path", json!("")),
        ("loop_trace_id", json!("x".repeat(257))),
        ("confidence_version", json!("")),
    ] {
        let mut bad = activation("p1", 0.5);
        bad[field] = value;
        refused(&server.post(PATH, &bad), field);
    }
    assert_eq!(server.tree_size(), 0);
}
