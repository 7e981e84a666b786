//! Lists in which a body was altered or taken away: they name it and go on, and never show what is stored for what was
//! recorded.

use axum::http::Method;
use evidence::facet::facet;
use serde_json::{Value, json};
use store::LeafKey;

use crate::jobs::governed;
use crate::records::alter;
use crate::server::TestServer;
use crate::support::pages;

/// Takes the body at a leaf of `default` away, behind the program's back.
fn take_away(server: TestServer, leaf_index: u64) -> TestServer {
    let tenant = server.app.ledger.tenant("default").unwrap();
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, leaf_index).as_i64();
    drop(tenant);
    server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        let guard = "SELECT sql FROM sqlite_schema WHERE name = 'bodies_no_delete'";
        let guard: String = connection.query_row(guard, [], |row| row.get(0)).unwrap();
        connection.execute_batch("DROP TRIGGER bodies_no_delete").unwrap();
        let delete = "DELETE FROM bodies WHERE leaf = ?1";
        assert_eq!(connection.execute(delete, [leaf]).unwrap(), 1);
        connection.execute_batch(&guard).unwrap();
    })
}

/// Says of what a leaf of `default` holds that it was erased, which no record does.
fn forge_erased(server: TestServer, leaf_index: u64) -> TestServer {
    forge_facet(server, "erased", leaf_index)
}

/// Puts a leaf of `default` into a list in which it does not belong.
fn forge_facet(server: TestServer, facet: &str, leaf_index: u64) -> TestServer {
    let tenant = server.app.ledger.tenant("default").unwrap();
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, leaf_index).as_i64();
    let tenant_no = tenant.tenant_no;
    drop(tenant);
    server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        // Behind those that are in it already.
        let insert =
            "INSERT INTO facets SELECT ?1, ?3, ?2, count(*) FROM facets WHERE tenant_no = ?1 AND facet = ?3";
        assert_eq!(connection.execute(insert, (tenant_no, leaf, facet)).unwrap(), 1);
    })
}

fn leaf_index(made: &Value) -> u64 {
    made["receipt"]["leaf_index"].as_u64().unwrap()
}

#[test]
fn a_list_of_records_names_what_was_altered_or_taken_away_and_goes_on() {
    let server = TestServer::new();
    server.run("r");
    let altered = server.step("r", 0, "failure");
    let gone = server.step("r", 1, "success");
    server.step("r", 2, "success");
    let (from, to) = ("\"status\":\"failure\"", "\"status\":\"success\"");
    let server = alter(server, leaf_index(&altered), from, to);
    let server = take_away(server, leaf_index(&gone));
    let damaged = [leaf_index(&altered), leaf_index(&gone)];
    for path in [
        "/api/v1/records?run_id=r",
        "/api/v1/records?kind=trace.step",
        "/api/v1/records",
    ] {
        let page = server.get(path).ok();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() >= 3, "{path}: {page}");
        for item in items {
            let is_damaged = damaged.contains(&leaf_index(item));
            assert_eq!(item["body"].is_null(), is_damaged, "{path}: {item}");
            assert_eq!(item.get("damaged").is_some(), is_damaged, "{path}: {item}");
            assert!(item["header"]["id"].is_string());
        }
    }
    // Alone it is refused: there is nothing else to show.
    let id = altered["receipt"]["record_id"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/api/v1/records/{id}")).problem(500),
        "damaged"
    );
    let id = gone["receipt"]["record_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/records/{id}")).ok()["damaged"], true);
}

#[test]
fn a_list_of_the_logs_says_the_word_where_an_altered_body_said_something() {
    let server = TestServer::new();
    server.run("r");
    let record = json!({ "component": "c", "event_type": "E", "severity": "INFO", "summary": "said",
        "correlation_id": "r" });
    let made: Vec<Value> = (0..3)
        .map(|_| server.created("/api/v1/system-records", &record))
        .collect();
    let index = leaf_index(&made[1]);
    let server = alter(server, index, "\"summary\":\"said\"", "\"summary\":\"forged\"");
    for (path, name) in [
        ("/api/v1/logs/system", "items"),
        ("/api/v1/logs/system/audit", "items"),
        ("/api/v1/logs/system/r/events", "events"),
    ] {
        let answer = server.get(path).ok();
        assert!(!answer.to_string().contains("forged"), "{path}: {answer}");
        let own: Vec<&Value> = answer[name]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| item["tenant_id"] == "default")
            .filter(|item| made.iter().any(|made| leaf_index(made) == item["leaf_index"]))
            .collect();
        assert_eq!(own.len(), 3, "{path}: {answer}");
        for item in own {
            let word = if item["leaf_index"] == index {
                "damaged"
            } else {
                "said"
            };
            assert_eq!(item["summary"], word, "{path}: {item}");
        }
    }
}

#[test]
fn a_list_of_signals_names_the_entries_that_it_cannot_show() {
    let server = governed();
    let signal = |scope: &str| json!({ "signal_type": "freeze", "scope": scope, "decision": "block" });
    let made = ["search", "export", "third"].map(|scope| server.created("/api/v1/signals", &signal(scope)));
    let server = alter(
        server,
        leaf_index(&made[0]),
        "\"scope\":\"search\"",
        "\"scope\":\"forged\"",
    );
    let server = take_away(server, leaf_index(&made[2]));
    let page = server.get("/api/v1/signals").ok();
    let named = |made: &Value| {
        let receipt = &made["receipt"];
        json!({ "epoch": 0, "leaf_index": receipt["leaf_index"], "record_id": receipt["record_id"] })
    };
    assert_eq!(page["damaged"], json!([named(&made[2]), named(&made[0])]));
    assert_eq!(
        (&page["total"], &page["items"][0]["scope"]),
        (&json!(3), &json!("export"))
    );
    // Nobody is stopped by one.
    assert_eq!(pages(&server, "/api/v1/signals", 1, "scope"), ["export"]);
    let whole = server.get("/api/v1/signals?scope=export").ok();
    assert!(whole.get("damaged").is_none(), "{whole}");
}

#[test]
fn a_signal_of_which_a_forged_row_says_that_it_was_erased_is_named() {
    let server = governed();
    let signal = json!({ "signal_type": "freeze", "scope": "search", "decision": "block" });
    let made = server.created("/api/v1/signals", &signal);
    let server = forge_erased(take_away(server, leaf_index(&made)), leaf_index(&made));
    let page = server.get("/api/v1/signals").ok();
    assert_eq!(
        page["damaged"][0]["leaf_index"], made["receipt"]["leaf_index"],
        "{page}"
    );
    let id = made["receipt"]["record_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/records/{id}")).ok()["damaged"], true);
}

#[test]
fn a_list_of_activations_names_the_entries_that_it_cannot_show() {
    let server = TestServer::new();
    let made = ["p1", "p2", "p3", "p4"].map(|policy_id| {
        let activation = json!({ "policy_id": policy_id, "source_pattern_id": "pat", "source_recovery_id": "rec",
            "confidence": 0.5, "approval_path": "auto", "loop_trace_id": "lt" });
        server.created("/api/v1/policy-activations", &activation)
    });
    let [altered, whole, gone, forged] = made.map(|made| leaf_index(&made));
    let server = alter(server, altered, "\"policy_id\":\"p1\"", "\"policy_id\":\"p9\"");
    let server = take_away(server, gone);
    let server = forge_erased(take_away(server, forged), forged);
    let page = server.get("/api/v1/policy-activations").ok();
    let named: Vec<&Value> = page["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["leaf_index"])
        .collect();
    assert_eq!(named, [&json!(forged), &json!(gone), &json!(altered)], "{page}");
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["items"][0]["leaf_index"], whole);
}

#[test]
fn an_incident_of_which_a_step_was_taken_away_is_damaged_and_not_where_it_was_before() {
    let server = TestServer::new();
    let opening = json!({ "source_run_id": "r", "severity": "HIGH", "policy_id": "p", "policy_name": "Budget",
        "violation_type": "budget", "summary": "over budget" });
    let path = "/api/v1/incidents";
    let id = server.created(path, &opening)["incident_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let by = json!({ "actor_type": "HUMAN", "actor_id": "ada", "reason": "seen" });
    server.created(&format!("{path}/{id}/acknowledge"), &by);
    let resolved = server.created(&format!("{path}/{id}/resolve"), &by);
    let server = take_away(server, leaf_index(&resolved));
    assert_eq!(server.get(&format!("{path}/{id}")).problem(500), "damaged");
    let again = server.post(&format!("{path}/{id}/resolve"), &by);
    assert_eq!(again.problem(500), "damaged");
    let page = server.get(path).ok();
    assert_eq!(
        (&page["items"], page["damaged"].as_array().unwrap().len()),
        (&json!([]), 1)
    );
}

#[test]
fn a_list_of_jobs_names_one_whose_event_was_altered() {
    let server = governed();
    server.job("j1");
    server.job("j2");
    server.job("j3");
    let events = server.get("/api/v1/records?kind=job.event").ok();
    let of_two = &events["items"][1];
    assert_eq!(of_two["body"]["job_id"], "j2");
    let (from, to) = ("\"handler\":\"deploy\"", "\"handler\":\"forged\"");
    let server = alter(server, leaf_index(of_two), from, to);
    let page = server.get("/api/v1/jobs").ok();
    assert_eq!(page["damaged"][0]["leaf_index"], leaf_index(of_two));
    assert_eq!(pages(&server, "/api/v1/jobs", 1, "job_id"), ["j3", "j1"]);
    // Itself it is not shown, nor is anything judged by it.
    assert_eq!(server.get("/api/v1/jobs/j2").problem(500), "damaged");
}

#[test]
fn a_list_of_provenance_shows_nothing_of_a_log_that_was_altered() {
    let server = TestServer::new();
    let log = |output: &str| json!({ "input": "same", "output": output });
    let first = server.created("/api/v1/provenance", &log("said"));
    server.created("/api/v1/provenance", &log("other"));
    let records = server.get("/api/v1/records?kind=provenance.log").ok();
    let index = leaf_index(&records["items"][1]);
    assert_eq!(leaf_index(&first), index);
    let server = alter(server, index, "\"output\":\"said\"", "\"output\":\"forged\"");
    let page = server.get("/api/v1/provenance").ok();
    let items = page["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["output_json"]), (2, &json!("\"other\"")));
    let damaged = &items[1];
    assert_eq!(
        (&damaged["damaged"], &damaged["leaf_index"]),
        (&json!(true), &json!(index))
    );
    assert!(
        damaged["input_json"].is_null() && damaged["output_json"].is_null(),
        "{damaged}"
    );
}

/// Neither the list of what is erased nor by what an erasure is found is signed: its record names what it erased.
#[test]
fn a_log_of_which_forged_rows_say_that_it_was_erased_is_damaged_and_one_that_was_is_not() {
    let server = TestServer::new();
    let log = |output: &str| {
        let made = server.created(
            "/api/v1/provenance",
            &json!({ "input": output, "output": output }),
        );
        (
            leaf_index(&made),
            made["receipt"]["record_id"].as_str().unwrap().to_owned(),
        )
    };
    let (of_gone, id_of_gone) = log("gone");
    let (of_erased, id_of_erased) = log("erased");
    let path = format!("/api/v1/records/{id_of_erased}/body");
    let headers = [("content-type", "application/json")];
    let reason = json!({ "reason": "asked for" }).to_string();
    let erased = server.request(Method::DELETE, &path, &headers, reason).ok();
    let server = forge_erased(take_away(server, of_gone), of_gone);
    // As if the erasure of the other had been of this one, too.
    let server = forge_facet(server, &facet("erasure", &id_of_gone), leaf_index(&erased));
    let page = server.get("/api/v1/provenance").ok();
    for (leaf, says) in [(of_erased, "erased"), (of_gone, "damaged")] {
        let item = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["leaf_index"] == leaf)
            .unwrap();
        for word in ["erased", "damaged", "archived"] {
            assert_eq!(item.get(word).is_some(), word == says, "{word}: {item}");
        }
    }
    for (id, says) in [(id_of_erased, "erased"), (id_of_gone, "damaged")] {
        let record = server.get(&format!("/api/v1/records/{id}")).ok();
        for word in ["erased", "damaged", "archived"] {
            assert_eq!(record.get(word).is_some(), word == says, "{word}: {record}");
        }
    }
    let drift = server.get("/api/v1/provenance/drift").ok();
    assert_eq!(
        (&drift["erased"], &drift["missing"], &drift["complete"]),
        (&json!(1), &json!(1), &json!(false))
    );
}
