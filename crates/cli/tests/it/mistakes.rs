//! Slips: in settings, ports, folders and files, each said where it is and with what mends it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::commands::{deponent, stderr, stdout, text};
use crate::served::Served;

#[test]
fn an_unknown_variable_is_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args(["serve", "--check-config"])
        .env_clear()
        .env("DEPONENT_LISTN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        stderr(&output),
        "deponent: unknown environment variable DEPONENT_LISTN; the nearest that there is: DEPONENT_LISTEN\n"
    );
}

#[test]
fn a_mistake_in_the_settings_file_is_told_by_its_place_without_what_stands_there() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("deponent.toml");
    for (wrong, said) in [
        ("listn = 'hunter2'", "line 2, column 1: unknown field `listn`, "),
        (
            "rate_limit = 'hunter2'",
            "line 2, column 14: invalid type: string, expected u32 in `rate_limit`\n",
        ),
        ("redis_url = 'redis://:hunter2@h", "line 2, column "),
        ("redis_url 'hunter2'", "line 2, column "),
    ] {
        std::fs::write(&config, format!("log = 'info'\n{wrong}\n")).unwrap();
        let output = deponent(&["serve", "--check-config", "--config", text(&config)]);
        assert_eq!(output.status.code(), Some(64), "{wrong}");
        let said_all = stderr(&output);
        assert!(
            said_all.starts_with(&format!("deponent: {}: {said}", config.display())),
            "{said_all}"
        );
        assert_eq!(said_all.lines().count(), 1, "{said_all}");
        assert!(!said_all.contains("hunter2"), "{said_all}");
    }
}

#[test]
fn a_port_in_use_is_named_with_what_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let address = &*address;
    for (ports, flag, variable) in [
        (
            ["--listen", address, "--grpc-listen", "off"],
            "--listen",
            "DEPONENT_LISTEN",
        ),
        (
            ["--listen", "127.0.0.1:0", "--grpc-listen", address],
            "--grpc-listen",
            "DEPONENT_GRPC_LISTEN",
        ),
    ] {
        let data = folder.path().join("data");
        let output = at_once(&[&["serve", "--data-dir", text(&data)][..], &ports].concat());
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        let said = stderr(&output);
        for part in [address, flag, variable, "in deponent.toml"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!data.exists());
    }
}

#[test]
fn who_finds_no_folder_or_one_that_is_taken_is_told_what_names_another() {
    let served = Served::new();
    let taken = served.folder().join("data");
    let ports = ["--listen", "127.0.0.1:0", "--grpc-listen", "off"];
    let second = at_once(&[&["serve", "--data-dir", text(&taken)][..], &ports].concat());
    let absent = served.folder().join("absent");
    let nothing = deponent(&["ledger", "head", "--data-dir", text(&absent)]);
    let nobody = deponent(&["gate", "--job", "j", "--server", "http://127.0.0.1:1"]);
    for (output, said) in [
        (second, "another folder with --data-dir"),
        (nothing, "--data-dir names another folder"),
        (nobody, "--server or DEPONENT_URL names another"),
    ] {
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}

#[test]
fn who_asks_with_the_wrong_scheme_is_told_the_other() {
    let served = Served::new();
    let plain = served.url().replace("http://", "https://");
    // What a server of TLS sends to who does not: an alert, decode_error.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = format!("http://{}", listener.local_addr().unwrap());
    let alert = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
        stream.write_all(&[0x15, 3, 3, 0, 2, 2, 50]).unwrap();
    });
    for (asked, said, other) in [
        (plain.as_str(), "does not seem to speak TLS; try ", served.url()),
        (
            tls.as_str(),
            "does not answer in plain HTTP; try ",
            tls.replace("http://", "https://"),
        ),
    ] {
        let output = at_once(&["gate", "--job", "j", "--server", asked]);
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        assert_eq!(
            stderr(&output),
            format!("deponent: cannot ask {asked}: the server {said}{other}\n")
        );
    }
    alert.join().unwrap();
}

#[test]
fn a_demo_for_a_folder_with_keys_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| deponent(&[args, &["--data-dir", text(folder.path())]].concat());
    assert_eq!(run(&["tenant", "create", "acme"]).status.code(), Some(0));
    let made = run(&["key", "create", "--tenant", "acme", "--role", "reader"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let mut child = Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args([
            "serve",
            "--demo",
            "--listen",
            "127.0.0.1:0",
            "--grpc-listen",
            "off",
        ])
        .args(["--data-dir", text(folder.path())])
        .env_clear()
        .env("DEPONENT_LOG", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find(|line| line.contains("demo"));
    let _ = child.kill();
    let _ = child.wait();
    assert!(
        said.as_deref()
            .is_some_and(|said| said.contains("start it with a --data-dir that has no keys")),
        "{said:?}"
    );
}

#[test]
fn a_file_without_a_key_is_no_key_that_was_brought() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    assert_eq!(
        deponent(&["tenant", "create", "acme", "--data-dir", data])
            .status
            .code(),
        Some(0)
    );
    let file = folder.path().join("kept.vkey");
    for nothing in ["", "\n \n"] {
        std::fs::write(&file, nothing).unwrap();
        let output = deponent(&["verify", "--data-dir", data, "--vkey", text(&file)]);
        assert_eq!(output.status.code(), Some(64), "{}", stdout(&output));
        assert!(
            stderr(&output).contains("there is no key in it"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn what_is_brought_in_the_wrong_place_is_a_slip_and_no_finding() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let made = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let head = [
        "ledger",
        "head",
        "--tenant",
        "_instance",
        "--data-dir",
        data,
        "--format",
        "json",
    ];
    let head: serde_json::Value = serde_json::from_str(&stdout(&deponent(&head))).unwrap();
    let (key, kept) = (
        folder.path().join("kept.vkey"),
        folder.path().join("kept.checkpoint"),
    );
    std::fs::write(&key, format!("{}\n", head["vkey"].as_str().unwrap())).unwrap();
    std::fs::write(&kept, head["checkpoint"].as_str().unwrap()).unwrap();
    let (key, kept) = (text(&key), text(&kept));
    let verify = |more: &[&str]| {
        let asked = ["verify", "--tenant", "_instance", "--data-dir", data];
        deponent(&[&asked[..], more].concat())
    };
    let right = verify(&["--vkey", key, "--checkpoint", kept]);
    assert_eq!(right.status.code(), Some(0), "{}", stdout(&right));
    // Of all tenants: who holds the answer down is named.
    let brought = ["--vkey", key, "--checkpoint", kept];
    let level = ["--require", "VALID-SINCE-KEPT-CHECKPOINT"];
    let all = deponent(&[&["verify", "--data-dir", data][..], &brought, &level].concat());
    assert_eq!(all.status.code(), Some(2), "{}", stdout(&all));
    let said = "required: VALID-SINCE-KEPT-CHECKPOINT; below it: deponent.local/acme\n";
    assert!(stdout(&all).contains(said), "{}", stdout(&all));
    for (wrong, said) in [
        (
            ["--vkey", kept, "--checkpoint", key],
            "this file is a checkpoint, not a verifier key",
        ),
        (
            ["--vkey", key, "--checkpoint", key],
            "this file is a verifier key, not a checkpoint",
        ),
    ] {
        let output = verify(&wrong);
        assert_eq!(output.status.code(), Some(64), "{}", stdout(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    // What is no checkpoint is a slip, also where nothing is there to be held against it; one that is and does not hold
    // is a finding.
    let other = folder.path().join("other.checkpoint");
    let note = std::fs::read_to_string(kept).unwrap();
    let (unsigned, _) = note.split_once("\n\n").unwrap();
    let (lines, _) = note.trim_end().rsplit_once('\n').unwrap();
    for (none, why) in [
        ("", "the note has no signature lines"),
        ("some notes\n", "the note has no signature lines"),
        (unsigned, "the note has no signature lines"),
        (
            &*format!("{lines}\nsigned\n"),
            "signature line 1 of the note is malformed",
        ),
        (&*note.replace('\n', "\r\n"), "the note is not plain text"),
        (
            &*note.replacen('\n', "\nno size\n", 1),
            "line 2 of the checkpoint is malformed",
        ),
    ] {
        std::fs::write(&other, none).unwrap();
        for data in [data, text(&folder.path().join("nothing"))] {
            let output = deponent(&["verify", "--data-dir", data, "--checkpoint", text(&other)]);
            assert_eq!(output.status.code(), Some(64), "{none:?}: {}", stdout(&output));
            let said = format!(
                "deponent: --checkpoint {}: this file is no checkpoint: {why}\n",
                other.display()
            );
            assert_eq!(stderr(&output), said);
            assert_eq!(stdout(&output), "");
        }
    }
    let size = note.lines().nth(1).unwrap();
    std::fs::write(&other, note.replacen(&format!("\n{size}\n"), "\n7\n", 1)).unwrap();
    let output = verify(&["--checkpoint", text(&other)]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let absent = folder.path().join("absent");
    let mistyped = format!("{}x", head["vkey"].as_str().unwrap());
    for (brought, code) in [
        (["--vkey", text(&absent)], 69),
        (["--checkpoint", text(&absent)], 69),
        (["--vkey", &*mistyped], 64),
    ] {
        let output = verify(&brought);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(brought[1]), "{}", stderr(&output));
    }
    for archive in [text(&absent), key] {
        let output = verify(&["--archive", archive]);
        assert_eq!(output.status.code(), Some(69), "{}", stdout(&output));
        assert!(
            stderr(&output).starts_with(&format!("deponent: --archive: cannot read {archive}: ")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_folder_where_nothing_can_be_written_is_read_as_far_as_nothing_is_in_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let made = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    // Permissions do not hold root back; a link to nowhere does, as SQLite follows none.
    std::os::unix::fs::symlink("nowhere", folder.path().join("deponent.db-shm")).unwrap();
    for args in [
        &["verify"][..],
        &["ledger", "head", "--tenant", "acme"],
        &["tenant", "list"],
    ] {
        let read = deponent(&[args, &["--data-dir", data]].concat());
        assert_eq!(read.status.code(), Some(0), "{args:?}: {}", stderr(&read));
    }
    std::fs::write(folder.path().join("deponent.db-wal"), "what was committed last").unwrap();
    let unread = deponent(&["verify", "--data-dir", data]);
    assert_eq!(unread.status.code(), Some(2), "{}", stdout(&unread));
    let said = "can only be read where files can be written beside it; copy both into such a folder\n";
    assert!(stderr(&unread).ends_with(said), "{}", stderr(&unread));
}

#[test]
fn a_file_that_never_ends_is_read_to_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let made = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    for (args, said) in [
        (
            ["verify", "--vkey", "/dev/zero"],
            "--vkey /dev/zero: longer than any file of keys",
        ),
        (
            ["verify", "--checkpoint", "/dev/zero"],
            "--checkpoint /dev/zero: longer than any checkpoint",
        ),
        (
            ["verify", "--config", "/dev/zero"],
            "/dev/zero is longer than any settings file",
        ),
    ] {
        let output = at_once(&[&args[..], &["--data-dir", data]].concat());
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), format!("deponent: {said}\n"));
    }
    let output = at_once(&["gate", "--job", "x", "--key-file", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert_eq!(stderr(&output), "deponent: /dev/zero is longer than any secret\n");
}

/// What a command says that must not wait for anybody; one that does is killed, and has no exit code.
pub(crate) fn at_once(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args(args)
        .env_clear()
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_mins(2);
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

#[test]
fn an_answer_that_cannot_be_printed_is_no_success() {
    // Linux alone has a file that is always full.
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), "id\n1\n").unwrap();
    std::fs::write(
        folder.path().join("audit.jsonl"),
        r#"{"type":"evidence","id":"ev-1","evidence_type":"csv","uri":"rows.csv","input_row_ids":["1"],"key_columns":["id"]}
{"type":"deterministic","fn":"f","evidence_id":"ev-1","output_hash":"00"}
"#,
    )
    .unwrap();
    let printed = |args: &[&str], to: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_deponent"))
            .args(args)
            .env_clear()
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(to)
            .output()
            .unwrap()
    };
    for args in [
        &["tenant", "create", "acme", "--data-dir", "data"][..],
        &["completions", "bash"],
        &["lineage", "drill", "--fn", "f", "--audit", "audit.jsonl"],
    ] {
        let lost = printed(args, full.try_clone().unwrap().into());
        let said = stderr(&lost);
        assert_eq!(lost.status.code(), Some(69), "{args:?}: {said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("deponent: stdout cannot be written: "),
            "{args:?}: {said}"
        );
        assert!(!said.contains("rows.csv:"), "{said}");
        let kept = printed(args, Stdio::piped());
        assert_eq!(kept.status.code(), Some(0), "{args:?}: {}", stderr(&kept));
    }
}

#[test]
fn a_key_file_that_others_can_read_is_to_be_mended_before_an_epoch_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let create = || {
        let made = deponent(&["tenant", "create", "acme", "--data-dir", text(folder.path())]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
        stdout(&made)
    };
    create();
    let key = folder.path().join("keys/acme.0.key");
    let set = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    let said = create();
    let (_, then) = said
        .split_once("its mode must be 0600\n")
        .unwrap_or_else(|| panic!("{said}"));
    assert!(then.starts_with("if that cannot be mended, "), "{said}");
    assert!(then.contains("`deponent ledger recover --tenant acme`"), "{said}");
    set(0o600);
    assert!(!create().contains("refused"));
}

#[test]
fn a_named_key_file_that_cannot_be_used_is_refused_by_the_check_and_by_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("once.key");
    let config = folder.path().join("deponent.toml");
    std::fs::write(
        &config,
        format!("[idempotency]\nkey_file = '{}'\n", key.display()),
    )
    .unwrap();
    let data = folder.path().join("data");
    let serve = [
        "serve",
        "--config",
        text(&config),
        "--data-dir",
        text(&data),
        "--listen",
        "127.0.0.1:0",
        "--grpc-listen",
        "off",
    ];
    let check = [&serve[..], &["--check-config"]].concat();
    let refused = |why: &str| {
        for args in [&serve[..], &check[..]] {
            let output = at_once(args);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(64), "{said}");
            let named = format!("deponent: idempotency.key_file: {}: ", key.display());
            assert!(said.starts_with(&named) && said.contains(why), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        assert!(!data.exists());
    };
    refused("leave the setting unset");
    assert!(!key.exists(), "nothing is made");
    let write = |digits: usize, mode| {
        std::fs::write(&key, "a".repeat(digits)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for digits in [0, 63, 65] {
        write(digits, 0o600);
        refused("must hold 64 hexadecimal digits");
    }
    write(1_000, 0o600);
    refused("too long");
    write(64, 0o644);
    refused("its mode must be 0600");
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    refused("no regular file");
    std::fs::remove_dir(&key).unwrap();
    write(64, 0o600);
    let output = deponent(&check);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_pipe_in_the_place_of_a_mark_or_a_key_is_a_finding_and_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let made = deponent(&["tenant", "create", "acme", "--data-dir", data]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    for (name, code) in [
        ("high-water.json", "unreadable"),
        ("keys/_instance.0.key", "key_mismatch"),
    ] {
        let path = folder.path().join(name);
        let aside = folder.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let pipe = Command::new("mkfifo").args(["-m", "600", text(&path)]).status();
        assert!(pipe.unwrap().success());
        let output = at_once(&["verify", "--data-dir", data, "--format", "json"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let found = &said["findings"][0];
        assert_eq!(found["code"], code, "{found}");
        assert!(
            found["detail"].as_str().unwrap().contains("no regular file"),
            "{found}"
        );
        std::fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(deponent(&["verify", "--data-dir", data]).status.code(), Some(0));
}
