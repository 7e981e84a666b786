use std::collections::BTreeSet;

use ::tlog::{Hash, TlogProof, VerifierKey};
use serde_json::{Value, json};
use store::{LeafKey, codec};

use crate::server::{Answer, TestServer, span};

const TRACE: &str = "01010101010101010101010101010101";

/// Three spans of trace 01…, two of 02…, then two records of no run.
fn filled() -> TestServer {
    let server = TestServer::new();
    server.spans(&[span(1, 1), span(1, 2), span(1, 3)]);
    server.spans(&[span(2, 1), span(2, 2)]);
    server.fill(2);
    server
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["receipt"]["record_id"].as_str().unwrap().to_owned())
        .collect()
}

fn kinds(page: &Value) -> Vec<&str> {
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["header"]["kind"].as_str().unwrap())
        .collect()
}

/// All pages of a list, and how many there were.
fn pages(server: &TestServer, query: &str, limit: u32) -> (Vec<String>, usize) {
    let (mut all, mut count, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = server
            .get(&format!("/api/v1/records?{query}&limit={limit}{cursor}"))
            .ok();
        all.extend(ids(&page));
        count += 1;
        let Some(next) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            return (all, count);
        };
        assert_eq!(page["has_more"], true);
        cursor = format!("&cursor={next}");
    }
}

#[test]
fn records_are_found_by_run_trace_span_and_kind() {
    let server = filled();
    let list = |query: &str| server.get(&format!("/api/v1/records?{query}")).ok();
    let run = list(&format!("run_id={TRACE}"));
    assert_eq!(kinds(&run)[0], "run.started");
    assert_eq!(
        kinds(&run).iter().filter(|kind| **kind == "trace.step").count(),
        3
    );
    let sequence: Vec<_> = run["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["header"]["run_seq"].clone())
        .collect();
    assert_eq!(sequence, (0..sequence.len()).map(Value::from).collect::<Vec<_>>());
    assert_eq!(ids(&list(&format!("trace_id={TRACE}"))), ids(&run));
    assert_eq!(
        kinds(&list(&format!("run_id={TRACE}&kind=trace.step"))),
        ["trace.step"; 3]
    );
    let one = list(&format!("trace_id={TRACE}&span_id=0000000000000002"));
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert_eq!(one["items"][0]["body"]["otel"]["span_id"], "0000000000000002");
    assert_eq!(kinds(&list("kind=trace.step")), ["trace.step"; 5]);
    assert_eq!(kinds(&list("kind=system.record")), ["system.record"; 2]);
    let head = server.get("/api/v1/ledger/head").ok();
    assert_eq!(
        ids(&list("limit=500")).len(),
        usize::try_from(head["tree_size"].as_u64().unwrap()).unwrap()
    );
    for none in [
        "run_id=nobody",
        "trace_id=nobody",
        "kind=lineage.evidence",
        "kind=job.event",
    ] {
        assert_eq!(ids(&list(none)), Vec::<String>::new(), "{none}");
    }
    assert!(ids(&list(&format!("run_id=nobody&trace_id={TRACE}"))).is_empty());
    assert!(ids(&list(&format!("trace_id={TRACE}&span_id=00000000000000ff"))).is_empty());
}

#[test]
fn pages_add_up_to_the_list_whatever_their_size() {
    let server = filled();
    for query in [
        &format!("run_id={TRACE}"),
        &format!("trace_id={TRACE}&kind=trace.step"),
        "kind=trace.step",
        "kind=system.record",
        "as_of=9",
    ] {
        let (whole, one) = pages(&server, query, 500);
        assert_eq!(one, 1);
        assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), whole.len());
        for limit in 1..=4 {
            assert_eq!(pages(&server, query, limit).0, whole, "{query} by {limit}");
        }
    }
}

#[test]
fn a_list_does_not_shift_while_it_is_paged() {
    let server = filled();
    for query in ["kind=trace.step", &format!("run_id={TRACE}")] {
        let first = server.get(&format!("/api/v1/records?{query}&limit=2")).ok();
        let (before, _) = pages(&server, query, 500);
        server.spans(&[span(1, 50 + u16::try_from(query.len()).unwrap())]);
        let cursor = first["next_cursor"].as_str().unwrap();
        let rest = server
            .get(&format!("/api/v1/records?{query}&cursor={cursor}"))
            .ok();
        assert_eq!(rest["as_of"], first["as_of"]);
        assert_eq!([ids(&first), ids(&rest)].concat(), before);
        let again = server
            .get(&format!("/api/v1/records?{query}&as_of={}", first["as_of"]))
            .ok();
        assert_eq!(ids(&again), before);
    }
}

#[test]
fn cut_changed_and_foreign_cursors_are_refused() {
    let server = filled();
    let page = server.get("/api/v1/records?kind=trace.step&limit=2").ok();
    let cursor = page["next_cursor"].as_str().unwrap();
    let with = |query: &str, cursor: &str| server.get(&format!("/api/v1/records?{query}&cursor={cursor}"));
    assert_eq!(with("kind=trace.step", cursor).status, 200);
    assert_eq!(
        with("kind=trace.step", &cursor[..cursor.len() - 1]).problem(400),
        "bad_cursor"
    );
    assert_eq!(
        with("kind=trace.step", &format!("{cursor}A")).problem(400),
        "bad_cursor"
    );
    assert_eq!(with("kind=trace.step", "x").problem(400), "bad_cursor");
    assert_eq!(with("kind=trace.step", "").problem(400), "bad_cursor");
    let flipped = if cursor.as_bytes()[40] == b'A' { "B" } else { "A" };
    let changed = format!("{}{flipped}{}", &cursor[..40], &cursor[41..]);
    assert_eq!(with("kind=trace.step", &changed).problem(400), "bad_cursor");
    assert_eq!(with("kind=system.record", cursor).problem(400), "bad_cursor");
    assert_eq!(
        with(&format!("run_id={TRACE}"), cursor).problem(400),
        "bad_cursor"
    );
    assert_eq!(
        with("kind=trace.step&as_of=3", cursor).problem(400),
        "bad_parameter"
    );
}

#[test]
fn bad_parameters_are_named() {
    let server = filled();
    for (bad, named) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1000000000", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("as_of=999", "as_of"),
        ("as_of=-1", "as_of"),
        ("kind=trace.stepp", "kind"),
        ("colour=red", "colour"),
        ("span_id=0000000000000002", "trace_id"),
        ("trace_id=x&span_id=0000000000000002", "trace_id"),
        ("trace_id=01010101010101010101010101010101&span_id=2", "span_id"),
        (
            "trace_id=01010101010101010101010101010101&span_id=000000000000000G",
            "span_id",
        ),
        ("run_id=a&run_id=b", "run_id"),
    ] {
        let answer = server.get(&format!("/api/v1/records?{bad}"));
        assert_eq!(answer.problem(400), "bad_parameter", "{bad}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(named),
            "{bad}: {}",
            answer.text()
        );
    }
    assert_eq!(server.get("/api/v1/records?run_id=%ff").problem(400), "malformed");
}

#[test]
fn a_record_is_shown_as_stored() {
    let server = filled();
    let page = server.get(&format!("/api/v1/records?run_id={TRACE}")).ok();
    for item in page["items"].as_array().unwrap() {
        let id = item["receipt"]["record_id"].as_str().unwrap();
        let record = server.get(&format!("/api/v1/records/{id}")).ok();
        assert_eq!(&record, item);
        assert_eq!(record["header"]["id"], id);
        assert_eq!(record["redactions"], json!({ "count": 0, "patterns": [] }));
        assert!(record.get("erased").is_none());
    }
    for absent in ["019b7d6c-0000-7000-8000-000000000000", "x", "..%2f..%2fetc"] {
        assert_eq!(
            server.get(&format!("/api/v1/records/{absent}")).problem(404),
            "not_found"
        );
    }
}

/// Puts one text for another into the body at a leaf of `default`, behind the program's back.
pub(crate) fn alter(server: TestServer, leaf_index: u64, from: &str, to: &str) -> TestServer {
    let ledger_no = server
        .app
        .ledger
        .tenant("default")
        .unwrap()
        .ledger()
        .row
        .ledger_no;
    let leaf = LeafKey::new(ledger_no, leaf_index).as_i64();
    server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        let guard = "SELECT sql FROM sqlite_schema WHERE name = 'bodies_no_update'";
        let guard: String = connection.query_row(guard, [], |row| row.get(0)).unwrap();
        let read = "SELECT body FROM bodies WHERE leaf = ?1";
        let packed: Vec<u8> = connection.query_row(read, [leaf], |row| row.get(0)).unwrap();
        let body = String::from_utf8(codec::unpack(&packed, 1 << 20).unwrap()).unwrap();
        assert!(body.contains(from), "{body}");
        let other = codec::pack(body.replacen(from, to, 1).as_bytes());
        connection.execute_batch("DROP TRIGGER bodies_no_update").unwrap();
        let update = "UPDATE bodies SET body = ?1 WHERE leaf = ?2";
        assert_eq!(connection.execute(update, (other, leaf)).unwrap(), 1);
        connection.execute_batch(&guard).unwrap();
    })
}

#[test]
fn a_body_that_was_altered_is_shown_by_no_read_of_its_run_and_ends_no_run() {
    let server = TestServer::new();
    server.run("r");
    let altered = server.step("r", 0, "failure");
    let other = server.step("r", 1, "success");
    server.run("s");
    server.step("s", 0, "success");
    let index = altered["receipt"]["leaf_index"].as_u64().unwrap();
    let server = alter(server, index, "\"status\":\"failure\"", "\"status\":\"success\"");
    let id = |step: &Value| step["receipt"]["record_id"].as_str().unwrap().to_owned();
    let named = format!("the body of leaf {index}: it does not agree with the leaf's commitment");
    let is_refused = |answer: &Answer| {
        assert_eq!(answer.problem(500), "damaged");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&named), "{detail}");
    };
    for path in [
        &format!("/api/v1/records/{}", id(&altered)),
        "/api/v1/traces/r",
        "/api/v1/traces/diff?left=r&right=s",
        "/api/v1/logs/llm-runs/r/trace",
        "/api/v1/logs/llm-runs/r/replay",
        "/api/v1/logs/llm-runs/r/governance",
        "/api/v1/runs/r/integrity",
    ] {
        is_refused(&server.get(path));
    }
    let size = server.tree_size();
    let end = json!({ "status": "completed" });
    is_refused(&server.post("/api/v1/runs/r/complete", &end));
    assert_eq!(server.tree_size(), size, "nothing was written");
    // What was recorded is proven as before: the proof is about the leaf.
    server.sign();
    let proof = server.get(&format!("/api/v1/records/{}/proof", id(&altered)));
    assert_eq!(proof.status, 200);
    // What was not touched is read, and ends.
    server.get(&format!("/api/v1/records/{}", id(&other))).ok();
    server.get("/api/v1/traces/s").ok();
    server.get("/api/v1/runs/s/integrity").ok();
    server.complete("s");
}

#[test]
fn an_audit_event_whose_body_is_missing_is_counted_where_it_would_stand() {
    let server = TestServer::new();
    server.run("r");
    let event = json!({ "event_type": "LimitBreached", "entity_type": "LIMIT", "entity_id": "l", "actor_type": "SYSTEM",
        "after_state": { "run_id": "r" } });
    let index = server.created("/api/v1/audit-events", &event)["receipt"]["leaf_index"].clone();
    let tenant = server.app.ledger.tenant("default").unwrap();
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, index.as_u64().unwrap()).as_i64();
    drop(tenant);
    let server = server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        let guard = "SELECT sql FROM sqlite_schema WHERE name = 'bodies_no_delete'";
        let guard: String = connection.query_row(guard, [], |row| row.get(0)).unwrap();
        connection.execute_batch("DROP TRIGGER bodies_no_delete").unwrap();
        let delete = "DELETE FROM bodies WHERE leaf = ?1";
        assert_eq!(connection.execute(delete, [leaf]).unwrap(), 1);
        connection.execute_batch(&guard).unwrap();
    });
    let gone = json!({ "archived": 0, "erased": 0, "missing": 1 });
    for read in ["governance", "replay"] {
        let answer = server.get(&format!("/api/v1/logs/llm-runs/r/{read}")).ok();
        assert_eq!(
            (&answer["events"], &answer["gone"]),
            (&json!([]), &gone),
            "{read}"
        );
    }
}

#[test]
fn a_cursor_of_the_ledger_before_a_recovery_is_refused() {
    let server = filled();
    server.run("one");
    server.run("two");
    server.sign();
    let of_trace = format!("/api/v1/records?trace_id={TRACE}&limit=1");
    let lists = [
        "/api/v1/records?limit=1",
        &of_trace,
        "/api/v1/traces?limit=1",
        "/api/v1/logs/llm-runs?limit=1",
    ];
    let go_on = lists.map(|list| {
        let page = server.get(list).ok();
        format!("{list}&cursor={}", page["next_cursor"].as_str().unwrap())
    });
    let server = server.without_mark();
    for path in &go_on {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let at = (server.app.clock)();
    let ledger = &server.app.ledger;
    ledger.recover("default", "a copy was put back", at).unwrap();
    for path in &go_on {
        assert_eq!(server.get(path).problem(400), "bad_cursor", "{path}");
    }
}

#[test]
fn records_of_the_same_leaf_index_in_two_epochs_are_told_apart() {
    let server = TestServer::new();
    server.run("before");
    server.sign();
    let server = server.without_mark();
    let at = (server.app.clock)();
    let ledger = &server.app.ledger;
    ledger.recover("default", "a copy was put back", at).unwrap();
    let page = server.get("/api/v1/records").ok();
    let items = page["items"].as_array().unwrap();
    let places: Vec<_> = items
        .iter()
        .map(|item| (item["epoch"].as_u64(), item["receipt"]["leaf_index"].as_u64()))
        .collect();
    let firsts = [(Some(1), Some(0)), (Some(0), Some(0))];
    assert!(firsts.iter().all(|place| places.contains(place)), "{places:?}");
    let distinct: BTreeSet<_> = places.iter().collect();
    assert_eq!(distinct.len(), places.len(), "{places:?}");
}

#[test]
fn a_cursor_of_a_run_is_refused_when_the_instances_ledger_was_recovered() {
    let server = TestServer::new();
    server.run("one");
    // Two of them fill a page.
    let record = json!({ "component": "c", "event_type": "E", "severity": "INFO", "summary": "s",
        "details": { "text": "said ".repeat(1_000_000) }, "correlation_id": "one" });
    for _ in 0..3 {
        server.created("/api/v1/system-records", &record);
    }
    let first = "/api/v1/logs/system/one/events";
    let cursor = server.get(first).ok()["next_cursor"].clone();
    let path = format!("{first}?cursor={}", cursor.as_str().unwrap());
    let server = server.without_mark_of("_instance");
    assert_eq!(server.get(&path).ok()["events"].as_array().unwrap().len(), 1);
    let at = (server.app.clock)();
    let ledger = &server.app.ledger;
    ledger.recover("_instance", "a copy was put back", at).unwrap();
    assert_eq!(server.get(&path).problem(400), "bad_cursor");
    assert_eq!(server.get(first).status, 200);
}

#[test]
fn every_record_has_a_proof_that_verifies_offline() {
    let server = filled();
    let key = VerifierKey::parse(server.get("/tlog/default/vkey").text().trim_end()).unwrap();
    let page = server.get("/api/v1/records?limit=500").ok();
    for item in page["items"].as_array().unwrap() {
        let id = item["receipt"]["record_id"].as_str().unwrap();
        // Asked for at once: a checkpoint over it is signed first, when there is none.
        let answer = server.get(&format!("/api/v1/records/{id}/proof"));
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, "text/plain; charset=utf-8")
        );
        let proof = TlogProof::parse(&answer.body).unwrap();
        assert_eq!(proof.index.as_u64(), item["receipt"]["leaf_index"]);
        let leaf = Hash::from_hex(item["receipt"]["leaf_hash"].as_str().unwrap()).unwrap();
        proof
            .verify(&leaf, std::slice::from_ref(&key), "deponent.local/default")
            .unwrap();
    }
    assert_eq!(server.get("/api/v1/records/x/proof").problem(404), "not_found");
}
