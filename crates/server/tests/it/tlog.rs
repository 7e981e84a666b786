use ::tlog::{Checkpoint, TILE_HASHES, TilePath, TileWidth, VerifierKey, decode_bundle, leaf_hash};
use serde_json::Value;

use crate::server::TestServer;

#[test]
fn the_checkpoint_is_signed_by_the_published_key() {
    let server = TestServer::new();
    assert_eq!(
        server.get("/tlog/default/checkpoint").problem(404),
        "no_checkpoint"
    );
    server.fill(3);
    server.sign();
    let answer = server.get("/tlog/default/checkpoint");
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "private, max-age=1");
    let key = VerifierKey::parse(server.get("/tlog/default/vkey").text().trim_end()).unwrap();
    let opened =
        Checkpoint::open(&answer.body, std::slice::from_ref(&key), "deponent.local/default").unwrap();
    let head = server.get("/api/v1/ledger/head").ok();
    assert_eq!(opened.checkpoint.size().as_u64(), 3);
    assert_eq!(head["tree_root"], opened.checkpoint.root().to_hex());
    assert_eq!(server.get("/tlog/default/vkeys").text(), format!("{key}\n"));
    assert_eq!(server.get("/tlog/default/0/checkpoint").body, answer.body);
    assert_eq!(server.get("/tlog/default/0/vkey").text(), format!("{key}\n"));
}

#[test]
fn every_answer_from_a_ledger_that_was_rolled_back_says_so_until_it_is_recovered() {
    let paths = [
        "/api/v1/logs/llm-runs",
        "/api/v1/logs/audit/integrity",
        "/api/v1/records?kind=system.record",
        "/api/v1/traces",
        "/api/v1/ledger/head",
        "/api/v1/ledger/leaves/0",
        "/tlog/default/checkpoint",
        "/tlog/default/vkey",
        "/tlog/default/0/vkey",
    ];
    let told = |server: &TestServer, path: &str| {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.header("deponent-ledger-status").to_owned()
    };
    let server = TestServer::new();
    server.fill(3);
    server.sign();
    for path in paths {
        assert_eq!(told(&server, path), "", "{path}");
    }
    let server = server.without_mark();
    for path in paths {
        assert_eq!(told(&server, path), "rollback_detected", "{path}");
    }
    let absent = server.get("/api/v1/records/nobody");
    assert!(absent.status.is_client_error());
    assert_eq!(absent.header("deponent-ledger-status"), "rollback_detected");
    // What nobody is asked for is of no ledger.
    assert_eq!(server.get("/healthz").header("deponent-ledger-status"), "");
    let at = (server.app.clock)();
    server
        .app
        .ledger
        .recover("default", "a copy was put back", at)
        .unwrap();
    // The older epoch too is as it was declared.
    for path in paths {
        assert_eq!(told(&server, path), "", "{path}");
    }
}

#[test]
fn an_epoch_that_has_ended_says_how_it_is_itself_and_what_is_wrong_is_not_kept() {
    let told = |server: &TestServer, path: &str| {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let caching = answer.header("cache-control").to_owned();
        (answer.header("deponent-ledger-status").to_owned(), caching)
    };
    let server = TestServer::new();
    server.fill(3);
    server.sign();
    let server = server.without_mark();
    let refused = ("rollback_detected".to_owned(), "no-store".to_owned());
    let old = "/tlog/default/0/tile/0/000.p/3";
    assert_eq!(told(&server, old), refused);
    let at = (server.app.clock)();
    server
        .app
        .ledger
        .recover("default", "a copy was put back", at)
        .unwrap();
    server.sign();
    // The ledger that followed is rolled back in turn.
    let server = server.reopen_after(|folder| {
        let path = folder.join("high-water.json");
        let mut marks: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let ledgers = marks["ledgers"].as_object_mut().unwrap();
        ledgers.retain(|origin, _| !origin.ends_with("/default/1"));
        std::fs::write(&path, marks.to_string()).unwrap();
    });
    for path in ["/tlog/default/1/tile/0/000.p/1", "/tlog/default/tile/0/000.p/1"] {
        assert_eq!(told(&server, path), refused, "{path}");
    }
    let kept = (String::new(), "private, max-age=31536000, immutable".to_owned());
    assert_eq!(told(&server, old), kept, "it is as it ended");
}

#[test]
fn every_width_up_to_the_present_one_is_cut_from_the_tile() {
    let server = TestServer::new();
    let present = 300_u16;
    server.fill(4);
    server.fill_at_once(u32::from(present) - 4);
    let tile = |path: TilePath| server.get(&format!("/tlog/default/{path}"));
    for (index, last) in [(0, TILE_HASHES), (1, present - TILE_HASHES)] {
        let widest = TileWidth::new(last).unwrap();
        let whole = tile(TilePath::Hash {
            level: 0,
            index,
            width: widest,
        });
        assert_eq!(
            (whole.status.as_u16(), whole.body.len()),
            (200, usize::from(last) * 32)
        );
        let bundle = tile(TilePath::Entries { index, width: widest });
        let leaves: Vec<_> = decode_bundle(&bundle.body, widest)
            .map(|entry| leaf_hash(entry.unwrap()))
            .collect();
        let hashes: Vec<_> = leaves.iter().flat_map(|hash| *hash.as_bytes()).collect();
        assert_eq!(hashes, whole.body);
        for width in (1..=last).filter_map(TileWidth::new) {
            let part = tile(TilePath::Hash {
                level: 0,
                index,
                width,
            });
            assert_eq!(part.body, whole.body[..width.as_usize() * 32], "{width:?}");
            assert_eq!(part.header("content-type"), "application/octet-stream");
            assert!(part.header("cache-control").contains("immutable"));
            let entries = tile(TilePath::Entries { index, width });
            assert_eq!(entries.body, bundle.body[..entries.body.len()]);
            assert_eq!(
                decode_bundle(&entries.body, width).flatten().count(),
                width.as_usize()
            );
        }
    }
    let root = tile(TilePath::parse("tile/1/000.p/1").unwrap());
    assert_eq!((root.status.as_u16(), root.body.len()), (200, 32));
    assert_eq!(
        tile(TilePath::parse("tile/1/000.p/1").unwrap()).body,
        server.get("/tlog/default/0/tile/1/000.p/1").body
    );
}

#[test]
fn what_is_no_tile_of_this_log_is_not_found() {
    let server = TestServer::new();
    server.fill(3);
    for bad in [
        "default/tile/0/000",
        "default/tile/0/000.p/4",
        "default/tile/0/001.p/1",
        "default/tile/1/000.p/1",
        "default/tile/0/000.p/0",
        "default/tile/0/000.p/03",
        "default/tile/0/0",
        "default/tile/00/000.p/1",
        "default/tile/0/00%30.p/1",
        "default/tile/0/../0/000.p/1",
        "default/tile/63/000.p/1",
        "default/tile/64/000.p/1",
        "default/tile/entries/000",
        "default/tile/entries/000.p/4",
        "default/tile/x/000.p/1",
        "default/tile/",
        "default/tile/0/x999/x999/x999/x999/x999/x999/999",
        "other/tile/0/000.p/1",
        "_instance/tile/0/000.p/1",
        "other/checkpoint",
        "_instance/checkpoint",
        "other/vkey",
        "default/1/checkpoint",
        "default/00/checkpoint",
        "default/x/vkey",
        "default/1/tile/0/000.p/1",
    ] {
        assert_eq!(
            server.get(&format!("/tlog/{bad}")).problem(404),
            "not_found",
            "{bad}"
        );
    }
    assert_eq!(server.get("/tlog/default/tile/0/000.p/3").status, 200);
}
