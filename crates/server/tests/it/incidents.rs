use serde_json::{Value, json};

use crate::erasure::{because, erase, record_id};
use crate::server::TestServer;
use crate::support::{pages, refused, said, ticking_server};

const PATH: &str = "/api/v1/incidents";

/// Opens an incident; its id.
fn open(server: &TestServer, source_run_id: &str) -> String {
    let answer = server.created(
        PATH,
        &json!({
            "source_run_id": source_run_id, "severity": "HIGH", "policy_id": "p1", "policy_name": "Budget",
            "violation_type": "budget", "violation_step_index": 3, "summary": "over budget",
        }),
    );
    answer["incident_id"].as_str().unwrap().to_owned()
}

fn by(actor_id: &str) -> Value {
    json!({ "actor_type": "HUMAN", "actor_id": actor_id, "reason": "seen" })
}

fn incident(server: &TestServer, id: &str) -> Value {
    server.get(&format!("{PATH}/{id}")).ok()
}

#[test]
fn an_incident_goes_from_open_to_closed_and_each_step_is_an_audit_event_too() {
    let server = ticking_server();
    let id = open(&server, "r1");
    let opened = incident(&server, &id);
    assert_eq!(
        (
            &opened["status"],
            &opened["severity"],
            &opened["source_run_id"],
            &opened["violation_step_index"]
        ),
        (&json!("OPEN"), &json!("HIGH"), &json!("r1"), &json!(3))
    );
    assert_eq!(
        (&opened["acknowledged_at"], &opened["closed_at"]),
        (&Value::Null, &Value::Null)
    );
    let mut before = "OPEN";
    for (step, status, event_type) in [
        ("acknowledge", "ACKNOWLEDGED", "IncidentAcknowledged"),
        ("resolve", "RESOLVED", "IncidentResolved"),
        ("close", "CLOSED", "IncidentManuallyClosed"),
    ] {
        let answer = server.created(&format!("{PATH}/{id}/{step}"), &by("ada"));
        assert_eq!(answer["status"], status);
        let audit = answer["audit_receipt"]["record_id"].as_str().unwrap();
        let audit = server.get(&format!("/api/v1/records/{audit}")).ok();
        assert_eq!(
            said(&audit),
            json!({
                "action_reason": "seen", "actor_id": "ada", "entity_id": id, "entity_type": "INCIDENT",
                "event_type": event_type, "before_state": { "source_run_id": "r1", "status": before },
                "after_state": { "source_run_id": "r1", "status": status },
            })
        );
        assert_eq!(audit["header"]["actor"], json!({ "type": "HUMAN" }));
        before = status;
        let mut read = incident(&server, &id);
        for only in ["receipt", "audit_receipt"] {
            read[only] = answer[only].clone();
        }
        assert_eq!(read, answer);
    }
    let closed = incident(&server, &id);
    let steps: Vec<_> = closed["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["event"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["opened", "acknowledged", "resolved", "closed"]);
    assert_eq!(closed["history"][3]["at"], closed["closed_at"]);
    assert_eq!(server.tree_size(), 7);
}

#[test]
fn a_step_that_may_not_follow_is_refused_and_writes_nothing() {
    let server = ticking_server();
    let id = open(&server, "r1");
    let step = |name: &str| server.post(&format!("{PATH}/{id}/{name}"), &by("ada"));
    assert_eq!(step("acknowledge").status, 201);
    assert_eq!(step("acknowledge").problem(409), "incident_status");
    assert_eq!(step("resolve").status, 201);
    assert_eq!(step("acknowledge").problem(409), "incident_status");
    assert_eq!(step("close").status, 201);
    let size = server.tree_size();
    for name in ["acknowledge", "resolve", "close"] {
        let answer = step(name);
        assert_eq!(answer.problem(409), "incident_status");
        assert_eq!(answer.json()["incident_status"], "CLOSED");
    }
    let nobody = server.post(&format!("{PATH}/nobody/close"), &by("ada"));
    assert_eq!(nobody.problem(404), "not_found");
    assert_eq!(server.get(&format!("{PATH}/nobody")).problem(404), "not_found");
    assert_eq!(server.tree_size(), size);
    // Acknowledging and resolving may be passed over.
    let other = open(&server, "r2");
    server.created(&format!("{PATH}/{other}/close"), &by("ada"));
    assert_eq!(incident(&server, &other)["status"], "CLOSED");
}

#[test]
fn of_many_who_acknowledge_at_once_one_is_the_first() {
    let server = TestServer::new();
    let id = open(&server, "r1");
    let path = format!("{PATH}/{id}/acknowledge");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let post = |n: usize| server.post(&path, &by(&format!("u{n}"))).status.as_u16();
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || post(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(
        statuses.iter().filter(|&&status| status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|&&status| status == 409).count(),
        7,
        "{statuses:?}"
    );
    assert_eq!(server.tree_size(), 3);
}

#[test]
fn incidents_are_listed_newest_first_by_run_and_as_they_were() {
    let server = ticking_server();
    let ids: Vec<String> = ["r1", "r2", "r1"].iter().map(|run| open(&server, run)).collect();
    let as_of = server.tree_size();
    server.created(&format!("{PATH}/{}/resolve", ids[0]), &by("ada"));
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    for limit in 1..=4 {
        assert_eq!(pages(&server, PATH, limit, "incident_id"), newest_first);
        let of_run = pages(&server, &format!("{PATH}?source_run_id=r1"), limit, "incident_id");
        assert_eq!(of_run, [ids[2].clone(), ids[0].clone()]);
    }
    let list = server.get(PATH).ok();
    assert_eq!(
        (&list["total"], &list["items"][2]["status"]),
        (&json!(3), &json!("RESOLVED"))
    );
    let past = server.get(&format!("{PATH}?as_of={as_of}")).ok();
    assert_eq!(past["items"][2]["status"], "OPEN");
    for bad in ["limit=0", "status=OPEN", "as_of=99"] {
        assert_eq!(
            server.get(&format!("{PATH}?{bad}")).problem(400),
            "bad_parameter",
            "{bad}"
        );
    }
}

#[test]
fn every_broken_rule_of_an_incident_is_named() {
    let server = TestServer::new();
    let good = json!({ "severity": "LOW", "summary": "odd" });
    for (field, value) in [
        ("severity", json!("")),
        ("summary", json!("")),
        ("source_run_id", json!("")),
        ("policy_id", json!("a\nb")),
        ("violation_step_index", json!(-1)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        refused(&server.post(PATH, &bad), field);
    }
    let answer = server.created(PATH, &good);
    let path = format!("{PATH}/{}/acknowledge", answer["incident_id"].as_str().unwrap());
    for (bad, field) in [
        (json!({ "actor_type": "HUMAN", "reason": "x" }), "actor_id"),
        (json!({ "actor_type": "SYSTEM", "reason": "" }), "reason"),
        (
            json!({ "actor_type": "HUMAN", "actor_id": " ", "reason": "x" }),
            "actor_id",
        ),
        (json!({ "actor_type": "NOBODY", "reason": "x" }), "actor_type"),
    ] {
        refused(&server.post(&path, &bad), field);
    }
    server.created(&path, &json!({ "actor_type": "SYSTEM", "reason": "known" }));
}

#[test]
fn a_page_of_incidents_with_long_summaries_ends_early_and_goes_on() {
    let server = TestServer::new();
    for number in 0..140 {
        let summary = format!("{number:03}{}", "x".repeat(63 * 1024));
        let incident = json!({ "severity": "HIGH", "summary": summary });
        server.created(PATH, &incident);
    }
    let (mut pages, mut shown, mut cursor) = (0, Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{PATH}?limit=500{cursor}")).ok();
        assert_eq!(page["total"], 140);
        let items = page["items"].as_array().unwrap();
        shown.extend(
            items
                .iter()
                .map(|item| item["summary"].as_str().unwrap()[..3].to_owned()),
        );
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    let all: Vec<String> = (0..140).rev().map(|number| format!("{number:03}")).collect();
    assert_eq!((pages, shown), (2, all));
}

#[test]
fn an_incident_whose_opening_is_erased_stays_in_the_list_and_says_so() {
    let server = ticking_server();
    let answer = server.created(
        PATH,
        &json!({ "severity": "HIGH", "summary": "jane did it", "source_run_id": "r1", "violation_step_index": 3 }),
    );
    let id = answer["incident_id"].as_str().unwrap();
    let seen = server.created(&format!("{PATH}/{id}/acknowledge"), &by("ada"));
    open(&server, "r2");
    let before = incident(&server, id);
    assert!(before.get("erased").is_none());
    let erased = erase(&server, &record_id(&answer), &because()).ok();
    assert!(
        erased["remains"]
            .as_array()
            .unwrap()
            .iter()
            .any(|left| left["what"] == "which incident it is of, and what happened to it"),
        "{erased}"
    );
    let mut expected = before.clone();
    for gone in ["severity", "summary", "source_run_id", "violation_step_index"] {
        assert_ne!(before[gone], Value::Null);
        expected[gone] = Value::Null;
    }
    expected["erased"] = json!(true);
    expected["history"][0]["erased"] = json!(true);
    assert_eq!(incident(&server, id), expected);
    let list = server.get(PATH).ok();
    assert_eq!((&list["total"], &list["items"][1]), (&json!(2), &expected));
    // What it said is not found any more.
    let of_run = server.get(&format!("{PATH}?source_run_id=r1")).ok();
    assert_eq!((&of_run["total"], &of_run["items"]), (&json!(0), &json!([])));
    // An erased step was taken all the same: it is not taken a second time, and the next one may follow.
    erase(&server, &record_id(&seen), &because()).ok();
    let acknowledged = incident(&server, id);
    assert_eq!(
        (&acknowledged["status"], &acknowledged["acknowledged_at"]),
        (&json!("ACKNOWLEDGED"), &before["acknowledged_at"])
    );
    let step = &acknowledged["history"][1];
    assert_eq!(
        (&step["erased"], &step["actor_id"], &step["reason"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    let again = server.post(&format!("{PATH}/{id}/acknowledge"), &by("ada"));
    assert_eq!(again.problem(409), "incident_status");
    let closed = server.created(&format!("{PATH}/{id}/close"), &by("ada"));
    assert_eq!(closed["status"], "CLOSED");
    let text = server.get(PATH).text();
    assert!(!text.contains("jane"), "{text}");
}

#[test]
fn what_redaction_looks_for_in_a_runs_id_hides_no_event_about_it() {
    let server = ticking_server();
    for run_id in ["bob@example.com-9010", "4111111111111111"] {
        server.run(run_id);
        let breach = server.created(
            "/api/v1/audit-events",
            &json!({ "event_type": "LimitBreached", "entity_type": "LIMIT", "entity_id": "l1", "actor_type": "SYSTEM",
                "after_state": { "run_id": run_id, "seen_by": "ada@example.com" } }),
        );
        let id = open(&server, run_id);
        let act = server.created(&format!("{PATH}/{id}/acknowledge"), &by("ada"));
        let governance = server
            .get(&format!("/api/v1/logs/llm-runs/{run_id}/governance"))
            .ok();
        assert_eq!(governance["total_events"], 2, "{governance}");
        server.created(
            "/api/v1/holds",
            &json!({ "scope": "run", "run_id": run_id, "reason": "case 7" }),
        );
        let audit = act["audit_receipt"]["record_id"].as_str().unwrap();
        let breach = record_id(&breach);
        for event in [breach.as_str(), audit] {
            assert_eq!(erase(&server, event, &because()).problem(409), "legal_hold");
        }
        // What else stands there is redacted.
        let shown = server.get(&format!("/api/v1/records/{breach}")).ok();
        assert_eq!(
            said(&shown)["after_state"],
            json!({ "run_id": run_id, "seen_by": "<REDACTED_EMAIL>" })
        );
    }
}
