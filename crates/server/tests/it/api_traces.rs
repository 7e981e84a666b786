use serde_json::{Value, json};

use crate::erasure::erase;
use crate::server::{TestServer, span};
use crate::support::{pages, refused, sha256, step, ticking_server};

fn whole(run_id: &str) -> Value {
    json!({
        "run_id": run_id, "agent_id": "a", "plan": [{ "q": 1, "skill": "search" }], "seed": 58, "status": "completed",
        "metadata": { "k": 1 },
        "steps": [
            { "step_index": 0, "skill_name": "search", "params": { "q": "ä" }, "status": "success",
              "outcome_category": "SUCCESS", "cost_cents": 1.5, "duration_ms": 20, "idempotency_key": "ik" },
            { "step_index": 1, "skill_name": "pay", "status": "failure", "outcome_category": "PERMANENT",
              "outcome_code": "E1", "outcome_data": { "e": 1 } },
        ],
    })
}

/// SPEC 4.2 by hand: JCS written out.
fn root_of_whole() -> (String, String) {
    let plan_hash = sha256(r#"[{"q":1,"skill":"search"}]"#);
    let one = sha256(
        r#"{"outcome_category":"SUCCESS","outcome_code":null,"outcome_data":null,"params":{"q":"ä"},"skill_name":"search","status":"success","step_index":0}"#,
    );
    let two = sha256(
        r#"{"outcome_category":"PERMANENT","outcome_code":"E1","outcome_data":{"e":1},"params":{},"skill_name":"pay","status":"failure","step_index":1}"#,
    );
    let root = sha256(&format!(
        r#"{{"plan_hash":"{plan_hash}","seed":58,"steps":["{one}","{two}"]}}"#
    ));
    (plan_hash, root)
}

#[test]
fn the_root_hash_is_the_one_computed_by_hand() {
    let server = TestServer::new();
    let (plan_hash, root_hash) = root_of_whole();
    let stored = server.created("/api/v1/traces", &whole("w"));
    assert_eq!(
        (&stored["plan_hash"], &stored["root_hash"]),
        (&json!(plan_hash), &json!(root_hash))
    );
    // One by one, in another order, with other costs and times: they did the same.
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "s", "plan": [{ "q": 1, "skill": "search" }], "seed": 58 }),
    );
    let mut steps = whole("w")["steps"].as_array().unwrap().clone();
    steps.reverse();
    for mut step in steps {
        step["cost_cents"] = json!(9);
        step["retry_count"] = json!(3);
        server.created("/api/v1/runs/s/steps", &step);
    }
    assert_eq!(server.complete("s")["root_hash"], root_hash);
    let same = server
        .get(&format!("/api/v1/traces/by-root-hash/{root_hash}"))
        .ok();
    assert_eq!(
        (
            same["items"][0]["run_id"].as_str(),
            same["items"][1]["run_id"].as_str()
        ),
        (Some("s"), Some("w"))
    );
    assert_eq!(same["total"], 2);
    let trace = server.get("/api/v1/traces/w").ok();
    assert_eq!(trace["root_hash"], root_hash);
}

#[test]
fn a_whole_trace_is_stored_at_once_and_the_same_again_gives_its_receipts() {
    let server = TestServer::new();
    let first = server.created("/api/v1/traces", &whole("w"));
    assert_eq!(first["trace_id"], "trace_w");
    assert_eq!(first["total_steps"], 2);
    assert_eq!(
        first["receipts"].as_array().unwrap().len(),
        5,
        "start, two steps, two ends"
    );
    assert_eq!(first["receipt"], first["receipts"][0]);
    assert_eq!(server.post("/api/v1/traces", &whole("w")).ok(), first);
    assert_eq!(server.tree_size(), 5);
    let trace = server.get("/api/v1/traces/w").ok();
    assert_eq!(
        (&trace["status"], &trace["execution_status"]),
        (&json!("completed"), &json!("SUCCEEDED"))
    );
    assert_eq!(trace["metadata"], json!({ "k": 1 }));
    assert_eq!(trace["steps"][1]["level"], "ERROR");
    assert_eq!(server.get("/api/v1/steps?idempotency_key=ik").ok()["run_id"], "w");
    // A step of it sent by itself is the same step.
    assert_eq!(
        server
            .post("/api/v1/runs/w/steps", &whole("w")["steps"][0])
            .status,
        200
    );
    let end = json!({ "status": "completed", "metadata": { "k": 1 } });
    assert_eq!(
        server.post("/api/v1/runs/w/complete", &end).status,
        200,
        "its end too"
    );
    assert_eq!(server.tree_size(), 5);
}

#[test]
fn a_refused_trace_adds_nothing() {
    let server = TestServer::new();
    server.created("/api/v1/traces", &whole("w"));
    server.run("open");
    server.step("open", 7, "success");
    let size = server.tree_size();
    let mut more = whole("w");
    more["steps"].as_array_mut().unwrap().push(step(2, "success"));
    let mut fewer = whole("w");
    fewer["steps"].as_array_mut().unwrap().pop();
    let mut other = whole("w");
    other["steps"][1]["status"] = json!("success");
    let mut failed = whole("w");
    failed["status"] = json!("failed");
    // A run that was started by itself is not this trace, even when it says the same.
    let mut open =
        json!({ "run_id": "open", "status": "completed", "steps": [step(0, "success"), step(7, "failure")] });
    for trace in [&more, &fewer, &other, &failed, &open] {
        assert_eq!(server.post("/api/v1/traces", trace).problem(409), "conflict");
    }
    open["steps"] = json!([step(0, "success"), step(0, "success")]);
    refused(&server.post("/api/v1/traces", &open), "steps[1].step_index");
    assert_eq!(server.tree_size(), size);
    assert_eq!(server.get("/api/v1/traces/open").ok()["status"], "running");
}

#[test]
fn a_trace_that_says_other_hashes_than_its_own_is_refused() {
    let server = TestServer::new();
    let (plan_hash, root_hash) = root_of_whole();
    for (field, bad) in [
        ("plan_hash", json!("0".repeat(64))),
        ("root_hash", json!("a".repeat(64))),
        ("trace_id", json!("tr12")),
        ("plan_hash", json!(1)),
        ("root_hash", json!(plan_hash)),
        ("status", json!("running")),
        ("status", json!("weird")),
        ("steps", json!({})),
        ("seed", json!(59.5)),
        ("reason", json!("none")),
        ("colour", json!("red")),
        ("run_id", json!("")),
        ("metadata", json!(1)),
    ] {
        let mut trace = whole("w");
        trace[field] = bad;
        refused(&server.post("/api/v1/traces", &trace), field);
    }
    for missing in ["steps", "status"] {
        let mut trace = whole("w");
        trace.as_object_mut().unwrap().remove(missing);
        refused(&server.post("/api/v1/traces", &trace), missing);
    }
    for (field, bad) in [
        ("step_index", json!(-1)),
        ("status", json!("x")),
        ("cost_cents", json!("x")),
        ("colour", json!(1)),
    ] {
        let mut trace = whole("w");
        trace["steps"][1][field] = bad;
        refused(
            &server.post("/api/v1/traces", &trace),
            &format!("steps[1].{field}"),
        );
    }
    let many: Vec<Value> = (0..10_001).map(|index| step(index, "success")).collect();
    refused(
        &server.post("/api/v1/traces", &json!({ "status": "completed", "steps": many })),
        "steps",
    );
    assert_eq!(server.tree_size(), 0);
    let mut right = whole("w");
    right["plan_hash"] = json!(plan_hash);
    right["root_hash"] = json!(root_hash);
    right["trace_id"] = json!("trace_w");
    server.created("/api/v1/traces", &right);
}

#[test]
fn a_whole_trace_may_have_failed_or_been_aborted() {
    let server = TestServer::new();
    let trace = |status: &str| json!({ "run_id": status, "status": status, "steps": [] });
    assert_eq!(
        server.created("/api/v1/traces", &trace("failed"))["status"],
        "failed"
    );
    refused_without_reason(&server, &trace("aborted"));
    let mut aborted = trace("aborted");
    aborted["reason"] = json!("disk");
    let first = server.created("/api/v1/traces", &aborted);
    assert_eq!(
        first["root_hash"],
        sha256(&format!(
            r#"{{"plan_hash":"{}","seed":42,"steps":[]}}"#,
            sha256("[]")
        ))
    );
    assert_eq!(server.post("/api/v1/traces", &aborted).ok(), first);
    let shown = server.get("/api/v1/traces/aborted").ok();
    assert_eq!(
        (&shown["status"], &shown["abort_reason"]),
        (&json!("aborted"), &json!("disk"))
    );
    assert_eq!(shown["root_hash"], first["root_hash"]);
    let mut odd = aborted.clone();
    odd["run_id"] = json!("odd");
    odd["model"] = json!("m");
    refused(&server.post("/api/v1/traces", &odd), "model");
}

fn refused_without_reason(server: &TestServer, trace: &Value) {
    assert_eq!(server.post("/api/v1/traces", trace).problem(422), "invalid");
}

#[test]
fn traces_are_filtered_by_what_they_are() {
    let server = ticking_server();
    for (run_id, agent, seed, plan) in [
        ("a", "x", 42, json!([])),
        ("b", "y", 7, json!([1])),
        ("c", "x", 7, json!([1])),
    ] {
        server.created(
            "/api/v1/runs",
            &json!({ "run_id": run_id, "agent_id": agent, "seed": seed, "plan": plan }),
        );
    }
    server.step("a", 0, "success");
    server.step("a", 1, "failure");
    server.complete("a");
    let ids = |query: &str| pages(&server, &format!("/api/v1/traces{query}"), 50, "run_id");
    assert_eq!(ids(""), ["c", "b", "a"], "newest first");
    assert_eq!(ids("?agent_id=x"), ["c", "a"]);
    assert_eq!(ids("?seed=7"), ["c", "b"]);
    assert_eq!(ids("?seed=42"), ["a"]);
    assert_eq!(ids("?agent_id=x&seed=7"), ["c"]);
    assert_eq!(ids(&format!("?plan_hash={}", sha256("[1]"))), ["c", "b"]);
    assert_eq!(ids("?status=completed"), ["a"]);
    assert_eq!(ids("?status=running"), ["c", "b"]);
    assert_eq!(ids("?status=aborted"), [""; 0]);
    let all = server.get("/api/v1/traces").ok();
    let created = |at: usize| all["items"][at]["created_at"].as_str().unwrap().to_owned();
    assert_eq!(ids(&format!("?from={}", created(1))), ["c", "b"], "inclusive");
    assert_eq!(ids(&format!("?to={}", created(1))), ["a"], "exclusive");
    assert_eq!(
        ids(&format!("?from={}&to={}", created(2), created(0))),
        ["b", "a"]
    );
    let done = &all["items"][2];
    assert_eq!(
        (
            &done["total_steps"],
            &done["success_count"],
            &done["failure_count"]
        ),
        (&json!(2), &json!(1), &json!(1))
    );
    let root_hash = done["root_hash"].as_str().unwrap();
    assert_eq!(ids(&format!("?root_hash={root_hash}")), ["a"]);
    let filtered = server.get("/api/v1/traces?seed=7&status=running").ok();
    assert_eq!(
        filtered["filters_applied"],
        json!({ "tenant_id": "default", "seed": 7, "status": "running" })
    );
    assert_eq!(
        (&filtered["total"], &filtered["total_exact"]),
        (&json!(2), &json!(true))
    );
    for bad in [
        "status=COMPLETED",
        "seed=x",
        "root_hash=abc",
        "from=now",
        "colour=red",
        "limit=0",
        "limit=501",
    ] {
        assert_eq!(
            server.get(&format!("/api/v1/traces?{bad}")).problem(400),
            "bad_parameter",
            "{bad}"
        );
    }
    assert_eq!(
        server.get("/api/v1/traces?offset=10001").problem(400),
        "use_cursor"
    );
    assert_eq!(
        server.get("/api/v1/traces/by-root-hash/ABC").problem(400),
        "bad_parameter"
    );
    let none = server
        .get(&format!("/api/v1/traces/by-root-hash/{}", "0".repeat(64)))
        .ok();
    assert_eq!((&none["items"], &none["total"]), (&json!([]), &json!(0)));
}

#[test]
fn a_diff_names_the_first_divergence() {
    let server = TestServer::new();
    let store = |run_id: &str, change: &dyn Fn(&mut Value)| {
        let mut trace = whole(run_id);
        change(&mut trace);
        server.created("/api/v1/traces", &trace);
    };
    store("base", &|_| {});
    store("same", &|trace| trace["steps"][0]["cost_cents"] = json!(99));
    store("plan", &|trace| trace["plan"] = json!([]));
    store("seed", &|trace| trace["seed"] = json!(1));
    store("longer", &|trace| {
        trace["steps"].as_array_mut().unwrap().push(step(2, "success"));
    });
    let diff = |right: &str| {
        server
            .get(&format!("/api/v1/traces/diff?left=base&right={right}"))
            .ok()
    };
    let same = diff("same");
    assert_eq!(
        (&same["equal"], &same["divergence"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(same["left"]["root_hash"], same["right"]["root_hash"]);
    assert_eq!(diff("plan")["divergence"]["field"], "plan_hash");
    let seed = diff("seed")["divergence"].clone();
    assert_eq!(
        (&seed["field"], &seed["left"], &seed["right"]),
        (&json!("seed"), &json!(58), &json!(1))
    );
    let longer = diff("trace_longer")["divergence"].clone();
    assert_eq!(
        (&longer["field"], &longer["position"], &longer["step_index"]),
        (&json!("length"), &json!(2), &json!(2))
    );
    assert_eq!((&longer["left"], &longer["right"]), (&json!(2), &json!(3)));
    for (field, other) in [
        ("step_index", json!(5)),
        ("skill_name", json!("x")),
        ("params", json!({ "z": 1.5 })),
        ("status", json!("retry")),
        ("outcome_category", json!("TRANSIENT")),
        ("outcome_code", json!("E2")),
        ("outcome_data", json!({ "e": 2 })),
    ] {
        store(field, &|trace| trace["steps"][1][field] = other.clone());
        let diff = diff(field);
        assert_eq!(diff["equal"], false);
        let divergence = &diff["divergence"];
        assert_eq!(
            (&divergence["field"], &divergence["position"]),
            (&json!(field), &json!(1))
        );
        assert_eq!(divergence["right"], other);
    }
    assert_eq!(
        server
            .get("/api/v1/traces/diff?left=base&right=nobody")
            .problem(404),
        "not_found"
    );
    assert_eq!(
        server.get("/api/v1/traces/diff?left=base").problem(400),
        "bad_parameter"
    );
}

#[test]
fn two_traces_of_one_run_are_not_compared_with_each_other() {
    let server = TestServer::new();
    let of_run = |trace: u8| {
        let mut span = span(trace, u16::from(trace));
        let named = json!({ "key": "deponent.run.id", "value": { "stringValue": "r" } });
        span["attributes"].as_array_mut().unwrap().push(named);
        span
    };
    server.spans(&[of_run(1), of_run(2)]);
    let (one, two) = ("01".repeat(16), "02".repeat(16));
    let diff =
        |left: &str, right: &str| server.get(&format!("/api/v1/traces/diff?left={left}&right={right}"));
    for (left, right) in [(&*one, &*two), ("r", &*two), (&*one, "r")] {
        assert_eq!(diff(left, right).problem(422), "same_run", "{left} {right}");
    }
    // It has not ended.
    let same = diff("r", "r").ok();
    assert_eq!(
        (&same["equal"], &same["divergence"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn runs_that_go_on_are_not_said_to_be_equal() {
    let server = TestServer::new();
    for run_id in ["one", "other", "parted"] {
        server.run(run_id);
        server.step(run_id, 0, "success");
    }
    server.step("parted", 1, "success");
    let equal = |left: &str, right: &str| {
        let path = format!("/api/v1/traces/diff?left={left}&right={right}");
        server.get(&path).ok()["equal"].clone()
    };
    assert_eq!(equal("one", "other"), Value::Null);
    assert_eq!(equal("parted", "one"), Value::Null, "it may do that step, too");
    server.complete("one");
    assert_eq!(equal("one", "other"), Value::Null);
    assert_eq!(equal("one", "parted"), false, "what has parted stays so");
    server.complete("other");
    assert_eq!(equal("one", "other"), true);
}

#[test]
fn what_an_erased_plan_was_is_not_compared() {
    let server = TestServer::new();
    for (run_id, seed) in [("base", 58), ("same", 58), ("seed", 1)] {
        let mut trace = whole(run_id);
        trace["seed"] = json!(seed);
        server.created("/api/v1/traces", &trace);
    }
    server.run("bare");
    server.run("other");
    let forget = |run_id: &str| {
        let found = server
            .get(&format!("/api/v1/records?run_id={run_id}&kind=run.started"))
            .ok();
        let id = found["items"][0]["receipt"]["record_id"].as_str().unwrap();
        let asked = json!({ "reason": "asked for by the person", "only": true });
        assert_eq!(erase(&server, id, &asked).status, 200);
    };
    let diff = |left: &str, right: &str| {
        server
            .get(&format!("/api/v1/traces/diff?left={left}&right={right}"))
            .ok()
    };
    forget("base");
    let same = diff("base", "same");
    assert_eq!(same["equal"], true, "by their root hashes: {same}");
    assert_eq!(
        (&same["left"]["seed"], &same["left"]["plan_hash"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(same["right"]["seed"], 58);
    for run_id in ["seed", "bare", "other"] {
        forget(run_id);
    }
    for (left, right) in [("base", "seed"), ("same", "seed"), ("bare", "other")] {
        let parted = diff(left, right);
        let equal = if left == "bare" { Value::Null } else { json!(false) };
        assert_eq!(parted["equal"], equal, "{left} {right}");
        let divergence = &parted["divergence"];
        assert_eq!(
            (&divergence["field"], &divergence["position"], &divergence["left"]),
            (&json!("erased"), &Value::Null, &Value::Null)
        );
    }
}

#[test]
fn a_trace_adds_nothing_to_a_run_whose_beginning_is_erased() {
    let server = TestServer::new();
    let forget = |run_id: &str| {
        let path = format!("/api/v1/records?run_id={run_id}&kind=run.started");
        let id = server.get(&path).ok()["items"][0]["receipt"]["record_id"].clone();
        let asked = json!({ "reason": "asked for by the person", "only": true });
        assert_eq!(erase(&server, id.as_str().unwrap(), &asked).status, 200);
        id
    };
    // Nobody can say any more by which request the run came, so the first record is known whatever is sent.
    server.run("w");
    server.created("/api/v1/runs/w/steps", &step(5, "success"));
    let id = forget("w");
    let refused = server.post("/api/v1/traces", &whole("w"));
    assert_eq!(refused.problem(409), "conflict");
    assert_eq!(refused.json()["receipt"]["record_id"], id);
    let run = server.get("/api/v1/traces/w").ok();
    assert_eq!(
        (&run["status"], &run["total_steps"], &run["root_hash"]),
        (&json!("running"), &json!(1), &Value::Null),
        "nothing was added"
    );
    // A trace that is there, all of it, is a success still.
    server.created("/api/v1/traces", &whole("v"));
    forget("v");
    let mut again = whole("v");
    again["correlation_id"] = json!("another");
    again["seed"] = json!(59);
    again["steps"].as_array_mut().unwrap().pop();
    let answer = server.post("/api/v1/traces", &again).ok();
    assert_eq!(answer["correlation_id"], "v", "what is on record");
    assert_eq!(answer["receipts"].as_array().unwrap().len(), 4);
    let run = server.get("/api/v1/traces/v").ok();
    for field in ["plan_hash", "root_hash", "status", "total_steps"] {
        assert_eq!(answer[field], run[field], "{field}");
    }
    assert_eq!(run["root_hash"], root_of_whole().1);
}

#[test]
fn a_run_whose_beginning_is_erased_is_answered_by_its_own_names() {
    let server = TestServer::new();
    let mut sent = json!({ "run_id": "r", "correlation_id": "first" });
    let begun = server.created("/api/v1/runs", &sent);
    let asked = json!({ "reason": "asked for by the person" });
    let record_id = begun["receipt"]["record_id"].as_str().unwrap();
    assert_eq!(erase(&server, record_id, &asked).status, 200);
    sent["correlation_id"] = json!("another");
    let answer = server.post("/api/v1/runs", &sent).ok();
    assert_eq!(
        (&answer["trace_id"], &answer["correlation_id"]),
        (&begun["trace_id"], &json!("first"))
    );
}

#[test]
fn a_long_trace_is_read_in_pages_that_do_not_shift() {
    let server = TestServer::new();
    let mut spans: Vec<Value> = (1..=10_010).map(|number| span(7, number)).collect();
    while !spans.is_empty() {
        let rest = spans.split_off(spans.len().min(2_000));
        server.spans(&spans);
        spans = rest;
    }
    let id = "07".repeat(16);
    for path in [
        format!("/api/v1/traces/{id}"),
        format!("/api/v1/logs/llm-runs/{id}/trace"),
    ] {
        let first = server.get(&path).ok();
        assert_eq!(
            (first["steps"].as_array().unwrap().len(), &first["has_more"]),
            (10_000, &json!(true))
        );
        let cursor = first["next_cursor"].as_str().unwrap();
        let last = server.get(&format!("{path}?cursor={cursor}")).ok();
        let steps = last["steps"].as_array().unwrap();
        assert_eq!(
            (steps.len(), &last["has_more"], &last["next_cursor"]),
            (10, &json!(false), &Value::Null)
        );
        assert_eq!(steps[0]["step_index"], 10_000);
        assert_eq!(
            server.get(&format!("{path}?cursor={cursor}x")).problem(400),
            "bad_cursor"
        );
        assert_eq!(
            server
                .get(&format!("/api/v1/logs/llm-runs/{id}/replay?cursor={cursor}"))
                .problem(400),
            "bad_cursor"
        );
    }
    let path = format!("/api/v1/traces/{id}");
    let before = server.get(&path).ok();
    server.spans(&[span(7, 20_000)]);
    let cursor = before["next_cursor"].as_str().unwrap();
    let last = server.get(&format!("{path}?cursor={cursor}")).ok();
    assert_eq!(last["steps"].as_array().unwrap().len(), 10, "as it was");
}

#[test]
fn a_page_of_large_steps_ends_before_it_is_too_large() {
    let server = TestServer::new();
    server.run("r");
    for index in 0..3 {
        let body = json!({ "step_index": index, "skill_name": "s", "status": "success",
            "params": { "text": "x".repeat(4_500_000) } });
        server.created("/api/v1/runs/r/steps", &body);
    }
    let first = server.get("/api/v1/traces/r").ok();
    assert_eq!(
        (first["steps"].as_array().unwrap().len(), &first["has_more"]),
        (2, &json!(true))
    );
    let next = server
        .get(&format!(
            "/api/v1/traces/r?cursor={}",
            first["next_cursor"].as_str().unwrap()
        ))
        .ok();
    assert_eq!(
        (next["steps"][0]["step_index"].as_u64(), &next["has_more"]),
        (Some(2), &json!(false))
    );
}
