//! The newest log of a folder, when none is named.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use evidence::Timestamp;

/// Entries of a folder that are looked at: a run a minute fills it in two months.
const ENTRIES_MAX: usize = 100_000;

/// The newest of `out/audit_*.jsonl` and `out/*/audit_*.jsonl` under a folder: by the time in the name, else by that
/// of its last change.
///
/// # Errors
/// The folder cannot be read.
pub fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let out = folder.join("out");
    let mut best: Option<(i64, PathBuf)> = None;
    let mut folders = vec![out.clone()];
    for entry in entries(&out)? {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    for folder in folders {
        for entry in entries(&folder)? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_log = name.starts_with("audit_") && name.strip_suffix(".jsonl").is_some();
            let Ok(metadata) = entry.metadata() else { continue };
            if !is_log || !metadata.is_file() {
                continue;
            }
            let changed = || {
                let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
                i64::try_from(since.as_micros()).ok()
            };
            let at = time_in(name).or_else(changed).unwrap_or(i64::MIN);
            let path = entry.path();
            if best.as_ref().is_none_or(|best| (at, &path) > (best.0, &best.1)) {
                best = Some((at, path));
            }
        }
    }
    Ok(best.map(|(_, path)| path))
}

fn entries(folder: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.take(ENTRIES_MAX).filter_map(Result::ok).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The `YYYYMMDDTHHMMSSZ` in a name, in microseconds since 1970.
fn time_in(name: &str) -> Option<i64> {
    name.as_bytes().windows(16).find_map(|window| {
        let text = std::str::from_utf8(window).ok()?;
        let (day, time) = text.split_once('T')?;
        let time = time.strip_suffix('Z')?;
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(day, 8) || !digits(time, 6) {
            return None;
        }
        let (year, month, day) = (&day[..4], &day[4..6], &day[6..]);
        let (hour, minute, second) = (&time[..2], &time[2..4], &time[4..]);
        let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
        Timestamp::parse(&text).ok().map(Timestamp::as_micros)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_the_name_counts_before_that_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(folder.path()).unwrap(), None);
        let write = |name: &str| {
            let path = folder.path().join("out").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let newest_one = write("run_20260301T000000Z/audit_run_20260301T000000Z.jsonl");
        write("audit_20260201T000000Z.jsonl");
        write("other_20270101T000000Z.jsonl");
        write("a/b/audit_20270101T000000Z.jsonl");
        std::fs::create_dir(folder.path().join("out/audit_20280101T000000Z.jsonl")).unwrap();
        assert_eq!(newest(folder.path()).unwrap(), Some(newest_one));
        // Without a time in its name a log has that of its last change, which is now.
        let unnamed = write("audit_x.jsonl");
        assert_eq!(newest(folder.path()).unwrap(), Some(unnamed));
        assert_eq!(time_in("audit_20269901T000000Z"), None);
    }
}
