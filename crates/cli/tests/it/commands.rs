//! Exit codes and outputs of the binary.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::mistakes::at_once;
use crate::served::Served;

pub(crate) fn deponent(args: &[&str]) -> Output {
    run(args, b"")
}

pub(crate) fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args(args)
        .env_clear()
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_lists_the_commands() {
    let output = deponent(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&output), @r"
    Keeps sworn, checkable evidence of what AI agents and data pipelines did

    Usage: deponent <COMMAND>

    Commands:
      serve        Serve the API, OTLP/HTTP and OTLP/gRPC
      verify       Recompute everything that is stored, and say what disagrees
      ledger       Show, prove, rebuild or recover a tenant's ledger
      tenant       Make and list tenants
      key          Make, list, rotate and revoke API keys
      provenance   Write provenance logs into files, and make records of such files
      lineage      Find the rows of files that a figure was made from, and check the log that says so
      idempotency  Look after idempotency keys
      replay       Compare a replayed run with the one it replays
      audit        Judge a job against its contract, from a file
      gate         Ask whether the change that a job made may go on
      integrity    Grade how much a run's evidence can carry, from a file
      panel        Hold a panel against its rules, from a file
      retry-plan   Print when failed attempts would be made again, from a file
      hash         Print the canonical SHA-256 of a JSON document, or of raw text
      openapi      Print the OpenAPI document
      completions  Print completions for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version
    ");
}

#[test]
fn usage_errors_are_64_and_one_line_says_what_is_wrong() {
    assert_eq!(deponent(&["verfy"]).status.code(), Some(64));
    assert_eq!(
        deponent(&["serve", "--listen", "nowhere"]).status.code(),
        Some(64)
    );
    let output = deponent(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("loopback"));
    assert_eq!(
        deponent(&["tenant", "create", "Not A Name"]).status.code(),
        Some(64)
    );
}

#[test]
fn a_folder_without_a_ledger_is_unavailable_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let output = deponent(&["verify", "--data-dir", text(&absent)]);
    assert_eq!(output.status.code(), Some(69));
    assert!(!absent.exists());
}

#[test]
fn settings_that_are_in_order_are_those_that_serve_takes() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("deponent.toml");
    std::fs::write(&config, "log = \"info,server=loud\"\n").unwrap();
    let output = deponent(&["serve", "--check-config", "--config", text(&config)]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("server=loud"), "{}", stderr(&output));
}

#[test]
fn hash_is_the_canonical_sha256_and_refuses_what_has_two_readings() {
    let output = run(&["hash", "--format", "text"], br#"{"b":1.0,"a":[]}"#);
    // sha256 of {"a":[],"b":1}
    assert_eq!(
        stdout(&output).trim(),
        "1c8f8816506a8ccbc55140d8a7bb70214a8942c7030fc0fc2914cec675cd1c15"
    );
    assert_eq!(run(&["hash"], br#"{"a":1,"a":2}"#).status.code(), Some(2));
    let text = run(&["hash", "--text", "--format", "text"], b"abc");
    assert_eq!(
        stdout(&text).trim(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn a_tenant_is_made_once_listed_proved_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let first = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let again = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), stdout(&first)));
    let list = deponent(&["tenant", "list", "--data-dir", data, "--format", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&stdout(&list)).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let head = deponent(&[
        "ledger",
        "head",
        "--tenant",
        "_instance",
        "--data-dir",
        data,
        "--format",
        "json",
    ]);
    let head: serde_json::Value = serde_json::from_str(&stdout(&head)).unwrap();
    assert_eq!(
        (head["tree_size"].as_u64(), head["checkpoint_size"].as_u64()),
        (Some(1), Some(1))
    );
    let proof = deponent(&[
        "ledger",
        "proof",
        "0",
        "--tenant",
        "_instance",
        "--data-dir",
        data,
    ]);
    let text_proof = stdout(&proof);
    let proof = tlog::TlogProof::parse(&proof.stdout).unwrap();
    assert_eq!(proof.index.as_u64(), 0);
    let proof = [
        "ledger",
        "proof",
        "0",
        "--tenant",
        "_instance",
        "--data-dir",
        data,
        "--format",
        "json",
    ];
    let proof: serde_json::Value = serde_json::from_str(&stdout(&deponent(&proof))).unwrap();
    assert_eq!(
        (proof["proof"].as_str(), &proof["leaf_index"]),
        (Some(&*text_proof), &0.into())
    );
    let verify = deponent(&["verify", "--data-dir", data]);
    assert_eq!(verify.status.code(), Some(0), "{}", stdout(&verify));
    // Who is not there is not vouched for.
    let nobody = |more: &[&str]| {
        let output = deponent(&[&["verify", "--data-dir", data, "--tenant", "nobody"][..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stdout(&output)
    };
    let said: serde_json::Value = serde_json::from_str(&nobody(&["--format", "json"])).unwrap();
    assert_eq!(
        (&said["level"], &said["ledgers"]),
        (&serde_json::Value::Null, &serde_json::json!([]))
    );
    let said = nobody(&[]);
    assert!(
        said.contains("there is no tenant nobody") && said.contains("no ledger was looked at: 0 errors"),
        "{said}"
    );
    assert!(!said.contains("VALID") && !said.contains("agrees"), "{said}");
    let vkey = head["vkey"].as_str().unwrap();
    let kept = folder.path().join("kept");
    std::fs::write(&kept, head["checkpoint"].as_str().unwrap()).unwrap();
    let since = [
        "verify",
        "--data-dir",
        data,
        "--tenant",
        "_instance",
        "--vkey",
        vkey,
        "--checkpoint",
        text(&kept),
    ];
    let since = deponent(&[&since[..], &["--require", "VALID-SINCE-KEPT-CHECKPOINT"]].concat());
    assert_eq!(since.status.code(), Some(0), "{}", stdout(&since));
    assert!(stdout(&since).contains("VALID-SINCE-KEPT-CHECKPOINT"));
    let rebuilt = deponent(&["ledger", "rebuild", "--data-dir", data, "--format", "json"]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", stderr(&rebuilt));
    let rebuilt: serde_json::Value = serde_json::from_str(&stdout(&rebuilt)).unwrap();
    // That of the tenant, and two of the job that rebuilds.
    assert_eq!(rebuilt["records"], 3);
    let recover = deponent(&[
        "ledger",
        "recover",
        "--tenant",
        "acme",
        "--reason",
        "test",
        "--data-dir",
        data,
    ]);
    assert_eq!(recover.status.code(), Some(64));
    assert!(stderr(&recover).contains("in order"), "{}", stderr(&recover));

    // The marks remember what the database held, whether it was emptied or taken away. What lies beside it stays as it is.
    let database = folder.path().join("deponent.db");
    let log = folder.path().join("deponent.db-wal");
    std::fs::write(&log, b"a log").unwrap();
    for how in ["empty", "missing"] {
        if how == "empty" {
            std::fs::write(&database, b"").unwrap();
        } else {
            std::fs::remove_file(&database).unwrap();
        }
        let gone = deponent(&["verify", "--data-dir", data, "--format", "json"]);
        assert_eq!(gone.status.code(), Some(1), "{}", stderr(&gone));
        assert!(stderr(&gone).contains("leaves of deponent.local/_instance were signed"));
        assert!(stderr(&gone).contains(&format!("deponent.db is {how} (")));
        let said: serde_json::Value = serde_json::from_str(&stdout(&gone)).unwrap();
        assert_eq!(
            (&said["level"], &said["exit_code"], &said["findings"][0]["code"]),
            (&"INVALID".into(), &1.into(), &"rolled_back".into())
        );
        let written = deponent(&["tenant", "create", "other", "--data-dir", data]);
        assert_eq!(written.status.code(), Some(69), "{}", stderr(&written));
        let said = format!("it is {how}, but 5 bytes are in its log");
        assert!(stderr(&written).contains(&said), "{}", stderr(&written));
        assert_eq!(std::fs::read(&log).unwrap(), b"a log");
        // One that nothing tells of was never there.
        let marks = folder.path().join("high-water.json");
        let aside = std::fs::read(&marks).unwrap();
        std::fs::remove_file(&marks).unwrap();
        let none = deponent(&["verify", "--data-dir", data]);
        assert_eq!(none.status.code(), Some(69), "{}", stderr(&none));
        std::fs::write(&marks, aside).unwrap();
    }
}

#[test]
fn a_record_of_an_older_epoch_is_proved_by_its_id_and_by_epoch_and_index() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let run = |args: &[&str]| deponent(&[args, &["--data-dir", data]].concat());
    let make_key = || {
        let made = run(&["key", "create", "--tenant", "acme", "--role", "reader"]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    };
    let proof = |record: &str, more: &[&str]| {
        let asked = ["ledger", "proof", record, "--tenant", "acme", "--format", "json"];
        run(&[&asked[..], more].concat())
    };
    let read = |output: &Output| -> serde_json::Value {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
        serde_json::from_str(&stdout(output)).unwrap()
    };
    assert_eq!(run(&["tenant", "create", "acme"]).status.code(), Some(0));
    make_key();
    let first = read(&proof("0", &[]));
    let id = first["record_id"].as_str().unwrap();
    // The database goes back behind what was signed, and the tenant goes on in the next epoch.
    let names = ["deponent.db", "deponent.db-wal", "deponent.db-shm"];
    let older = tempfile::tempdir().unwrap();
    for name in names {
        let _ = std::fs::copy(folder.path().join(name), older.path().join(name));
    }
    make_key();
    for name in names {
        let _ = std::fs::remove_file(folder.path().join(name));
        let _ = std::fs::copy(older.path().join(name), folder.path().join(name));
    }
    // Until then, who reads it is told.
    let head = || run(&["ledger", "head", "--tenant", "acme", "--format", "json"]);
    for told in [head(), proof("0", &[])] {
        let said = read(&told);
        assert_eq!(said["status"], "rollback_detected", "{said}");
        let why = said["status_detail"].as_str().unwrap();
        assert_eq!(stderr(&told), format!("deponent: deponent.local/acme: {why}\n"));
    }
    for command in [
        &["gate", "--job", "x"][..],
        &["key", "list"],
        &["lineage", "drill", "--fn", "f"],
        &["lineage", "export", "x", "--out", text(older.path())],
        &["provenance", "export", "--out", text(older.path())],
        &["replay", "diff", "a", "b"],
    ] {
        let said = stderr(&run(&[command, &["--tenant", "acme"]].concat()));
        let told = "deponent: deponent.local/acme: rollback detected: ";
        assert!(said.starts_with(told), "{command:?}: {said}");
    }
    // Also who reads of all tenants, once.
    for command in [["key", "list"], ["tenant", "list"]] {
        let output = run(&command);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let told = "deponent: deponent.local/acme: rollback detected: ";
        let said = stderr(&output);
        assert_eq!(said.matches(told).count(), 1, "{command:?}: {said}");
    }
    let recovered = run(&["ledger", "recover", "--tenant", "acme", "--reason", "test"]);
    assert_eq!(recovered.status.code(), Some(0), "{}", stderr(&recovered));

    let newest = head();
    assert_eq!(
        (&read(&newest)["status"], stderr(&newest)),
        (&"ok".into(), String::new())
    );
    assert!(!stderr(&run(&["tenant", "list"])).contains("deponent.local/acme"));
    assert_eq!(read(&proof("0", &[]))["origin"], "deponent.local/acme/1");
    for again in [
        proof(id, &[]),
        proof(id, &["--epoch", "0"]),
        proof("0", &["--epoch", "0"]),
    ] {
        let again = read(&again);
        assert_eq!(
            (&again["origin"], &again["record_id"]),
            (&first["origin"], &first["record_id"])
        );
    }
    let elsewhere = proof(id, &["--epoch", "1"]);
    assert_eq!(elsewhere.status.code(), Some(2), "{}", stderr(&elsewhere));
    let absent = proof("0", &["--epoch", "7"]);
    assert_eq!(absent.status.code(), Some(64), "{}", stderr(&absent));

    // A leaf of the newer epoch that cannot be read hides no record of the older one.
    let connection = rusqlite::Connection::open(folder.path().join("deponent.db")).unwrap();
    let trigger = "SELECT sql FROM sqlite_schema WHERE name = 'leaf_blocks_no_update'";
    let trigger: String = connection.query_row(trigger, [], |row| row.get(0)).unwrap();
    let damage = format!(
        "DROP TRIGGER leaf_blocks_no_update;
        UPDATE leaf_blocks SET leaves = x'ff' WHERE first_leaf >> 40 = (SELECT max(first_leaf) >> 40 FROM leaf_blocks);
        {trigger};"
    );
    connection.execute_batch(&damage).unwrap();
    drop(connection);
    assert_eq!(read(&proof(id, &[]))["origin"], first["origin"]);
    for told in [proof("0", &[]), proof(id, &["--epoch", "1"])] {
        assert_eq!(told.status.code(), Some(69), "{}", stderr(&told));
    }
}

#[test]
fn a_server_whose_database_is_gone_starts_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| deponent(&[args, &["--data-dir", text(folder.path())]].concat());
    for tenant in ["default", "acme"] {
        assert_eq!(run(&["tenant", "create", tenant]).status.code(), Some(0));
        let made = run(&["key", "create", "--tenant", tenant, "--role", "reader"]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    }
    for name in ["deponent.db", "deponent.db-wal", "deponent.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    // There were keys, so that nobody is let in without one; without that mark readers are told.
    std::fs::remove_file(folder.path().join("keys/keyed")).unwrap();
    let served = Served::over(folder.path(), folder.path());
    assert_eq!(served.get("/api/v1/ledger/head")["status"], "rollback_detected");
    let asked = deponent(&["gate", "--job", "x", "--server", &served.url()]);
    assert_eq!(asked.status.code(), Some(2), "{}", stderr(&asked));
    let said = stderr(&asked);
    assert!(said.contains("ledger status rollback_detected"), "{said}");
    let recover = ["ledger", "recover", "--tenant", "acme", "--reason", "disk lost"];
    let unknown = run(&recover);
    assert_eq!(unknown.status.code(), Some(64));
    let said = stderr(&unknown);
    assert!(said.contains("`deponent tenant create acme`"), "{said}");
    let made = run(&["tenant", "create", "acme"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let said = stdout(&made);
    assert!(said.contains("rollback detected"), "{said}");
    let recovered = run(&recover);
    assert_eq!(recovered.status.code(), Some(0), "{}", stderr(&recovered));
}

#[test]
fn what_cannot_be_opened_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let serve = |data: &Path| {
        let ports = ["--listen", "127.0.0.1:0", "--grpc-listen", "off"];
        let output = at_once(&[&["serve", "--data-dir", text(data)][..], &ports].concat());
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        stderr(&output)
    };
    let said = serve(&file);
    assert!(said.contains(&format!("{}: ", file.display())), "{said}");
    assert_eq!(said.matches("(os error").count(), 1, "{said}");

    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("high-water.json"), "{").unwrap();
    let said = serve(&broken);
    assert_eq!(said.matches("high-water.json").count(), 1, "{said}");

    let said = serve(&folder.path().join("d".repeat(120)));
    assert!(said.contains("choose a shorter --data-dir"), "{said}");
}

#[test]
fn a_reset_without_a_redis_says_so_to_programs_too() {
    let output = deponent(&["idempotency", "reset", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(said, serde_json::json!({ "reset": false, "store": "embedded" }));
}

#[test]
fn an_import_says_why_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.jsonl");
    let made = deponent(&["tenant", "create", "default", "--data-dir", text(folder.path())]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, "{\n\"b\": 1\n").unwrap();
    let output = deponent(&[
        "provenance",
        "import",
        text(&broken),
        "--data-dir",
        text(folder.path()),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    let remarks: Vec<&str> = said.lines().collect();
    let place =
        |line: u8, column: u8| format!("deponent: {}: line {line}: column {column}: ", broken.display());
    assert!(
        remarks.len() == 2 && remarks[0].starts_with(&place(1, 1)) && remarks[1].starts_with(&place(2, 3)),
        "{said}"
    );
    assert!(
        !said.contains(" at line ") && said.contains("expected an object, a log"),
        "{said}"
    );
    for (path, why) in [
        (absent.as_path(), "No such file"),
        (folder.path(), "it is no file"),
    ] {
        let output = deponent(&[
            "provenance",
            "import",
            text(path),
            "--data-dir",
            text(folder.path()),
        ]);
        assert_eq!(output.status.code(), Some(69));
        let said = stderr(&output);
        assert!(
            said.contains(&format!("cannot read {}: ", path.display())) && said.contains(why),
            "{said}"
        );
    }
}

#[test]
fn keys_are_made_listed_rotated_and_revoked_and_let_the_server_off_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let run = |args: &[&str]| deponent(&[args, &["--data-dir", data]].concat());
    assert_eq!(run(&["tenant", "create", "acme"]).status.code(), Some(0));
    let off_loopback = || run(&["serve", "--check-config", "--listen", "0.0.0.0:0"]);
    assert_eq!(off_loopback().status.code(), Some(64));
    let made = run(&[
        "key", "create", "--tenant", "acme", "--role", "reader", "--name", "ci", "--format", "json",
    ]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let made: serde_json::Value = serde_json::from_str(&stdout(&made)).unwrap();
    let (id, key) = (made["key_id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(
        key.starts_with(&format!("dpn_{id}_")) && made["tenant_id"] == "acme" && made["role"] == "reader"
    );
    assert_eq!(off_loopback().status.code(), Some(0));
    let rotated = run(&["key", "rotate", id]);
    assert_ne!(stdout(&rotated).trim(), key);
    let list = stdout(&run(&["key", "list", "--format", "json"]));
    assert!(list.contains(id) && !list.contains(key) && !list.contains(stdout(&rotated).trim()));
    assert_eq!(run(&["key", "revoke", id]).status.code(), Some(0));
    assert!(stdout(&run(&["key", "list"])).contains("revoked"));
    let absent = run(&["key", "revoke", "nosuch"]);
    assert_eq!(absent.status.code(), Some(64));
    assert_eq!(stderr(&absent), "deponent: there is no key nosuch\n");
    let (_, secret) = key.rsplit_once('_').unwrap();
    for command in ["revoke", "rotate"] {
        for typed in [key, secret] {
            let refused = run(&["key", command, typed]);
            assert_eq!(refused.status.code(), Some(64));
            let said = stderr(&refused);
            assert!(
                said.contains("not the key itself") && !said.contains(secret),
                "{said}"
            );
        }
    }
    for of_nobody in [
        &["key", "create", "--tenant", "nobody", "--role", "reader"][..],
        &["key", "list", "--tenant", "nobody"],
        &["ledger", "head", "--tenant", "nobody"],
        &["ledger", "recover", "--tenant", "nobody", "--reason", "test"],
        &["gate", "--tenant", "nobody", "--job", "j"],
        &["replay", "diff", "--tenant", "nobody", "a", "b"],
    ] {
        let refused = run(of_nobody);
        assert_eq!(refused.status.code(), Some(64), "{of_nobody:?}");
        assert_eq!(stderr(&refused), "deponent: there is no tenant nobody\n");
    }
    let operator = ["key", "create", "--tenant", "acme", "--role", "operator"];
    assert_eq!(run(&operator).status.code(), Some(64));
    assert_eq!(run(&["verify"]).status.code(), Some(0));
}

#[test]
fn a_record_of_a_key_that_cannot_be_read_keeps_no_server_from_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| deponent(&[args, &["--data-dir", text(folder.path())]].concat());
    assert_eq!(run(&["tenant", "create", "acme"]).status.code(), Some(0));
    let made = run(&["key", "create", "--tenant", "acme", "--role", "reader"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let connection = rusqlite::Connection::open(folder.path().join("deponent.db")).unwrap();
    let trigger = "SELECT sql FROM sqlite_schema WHERE name = 'bodies_no_update'";
    let trigger: String = connection.query_row(trigger, [], |row| row.get(0)).unwrap();
    let alter = format!("DROP TRIGGER bodies_no_update; UPDATE bodies SET salt = zeroblob(32); {trigger};");
    connection.execute_batch(&alter).unwrap();
    drop(connection);
    assert_ne!(run(&["key", "list"]).status.code(), Some(0));
    let off_loopback = run(&["serve", "--check-config", "--listen", "0.0.0.0:0"]);
    assert_eq!(off_loopback.status.code(), Some(0), "{}", stderr(&off_loopback));
}
