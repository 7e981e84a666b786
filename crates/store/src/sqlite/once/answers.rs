//! Answers on their way to the table: each is appended to a file beside `state.db` and kept in memory, until many
//! become rows together. There are two such files: while what is in one becomes rows, answers go into the other.
//!
//! A row alone costs four pages of SQLite's log (itself, two indexes, its tenant's sums); appended it is one short
//! write. It is in the kernel when an answer goes out, so that a process that dies loses none, and is synced within a
//! second.
//!
//! `state.db-answers` and `state.db-answers-2`: 16 random bytes, the file's name, then entries, each its length (u32,
//! little-endian), the first twelve bytes of the SHA-256 of name and rest, and the rest. `once_files` knows the name too,
//! and takes another in the commit that makes rows of the entries: those of a file with another name are rows already,
//! or of another database. What power loss left of the last ones is no entry, and nothing behind it is.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evidence::{Timestamp, sha256};

use super::table::replaced;
use crate::once::{OnceEntry, OnceKey, OnceSpace, OnceStatus};
use crate::sqlite::there::There;

/// Answers that become rows together, in some 15 ms: meanwhile as many find room in the other file.
pub(super) const FILED_TOGETHER: usize = 500;

/// Bytes of answers, from which on they become rows: what is kept in memory of each file's, but for a batch.
const BYTES_FULL: u64 = 4 * 1024 * 1024;

/// Longest file that is read: several times what is written before it begins anew.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Second,
}

impl Place {
    pub(super) const ALL: [Self; 2] = [Self::First, Self::Second];

    /// Its stored number.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }

    /// The file, beside that `state.db`.
    pub(super) fn path(self, state_db: &Path) -> PathBuf {
        let mut path = state_db.as_os_str().to_owned();
        path.push(match self {
            Self::First => "-answers",
            Self::Second => "-answers-2",
        });
        path.into()
    }
}

/// What names a file, at its beginning.
pub(super) type FileId = [u8; 16];

/// Before each entry: its length and its digest. As long as a name, whose place it takes once the digest is made.
const HEAD_BYTES: usize = size_of::<FileId>();

/// How far the file is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it.
    Synced,
    /// Answers are not there yet.
    Behind,
    /// They are being synced, and there were none since.
    Syncing,
    /// Something could not be written or synced: what is behind it in the file is worth nothing.
    Lost,
}

/// A key that is done, and its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) entry: OnceEntry,
    pub(super) payload: Option<Vec<u8>>,
}

/// Those of a tenant.
#[derive(Debug, Default)]
struct OfTenant {
    by_key: HashMap<Arc<str>, Answer>,
    bytes: u64,
}

/// Those of a file, in memory.
#[derive(Debug, Default)]
pub(super) struct Kept {
    tenants: HashMap<Arc<str>, OfTenant>,
    count: usize,
}

impl Kept {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Every answer, by tenant.
    pub(super) fn by_tenant(
        &self,
    ) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = (&Arc<str>, &Answer)>)> {
        self.tenants
            .iter()
            .map(|(tenant, all)| (tenant, all.by_key.iter()))
    }

    fn keep(&mut self, key: &OnceKey, answer: Answer) {
        let tenant = self.tenants.entry(Arc::clone(&key.tenant)).or_default();
        tenant.bytes += answer.entry.payload_bytes;
        match tenant.by_key.insert(Arc::clone(&key.key), answer) {
            None => self.count += 1,
            // Its time was over.
            Some(before) => tenant.bytes -= before.entry.payload_bytes,
        }
    }
}

/// One of the files, and what is in it.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) place: Place,
    file: Arc<File>,
    there: There,
    id: FileId,
    /// Where the next entry goes.
    end: u64,
    pub(super) written: Written,
    /// Shared while they become rows.
    kept: Arc<Kept>,
}

impl Answers {
    /// Opens or makes the file beside that `state.db`, and reads what an earlier process left, if it has that name.
    pub(super) fn open(state_db: &Path, place: Place, id: Option<FileId>) -> io::Result<Self> {
        let path = &place.path(state_db);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        // Also when it was there: who made it may have died before this.
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let named = bytes.split_first_chunk().filter(|(name, _)| Some(**name) == id);
        let (mut kept, mut left) = (Kept::default(), named.map_or(&[][..], |(_, rest)| rest));
        let id = id.unwrap_or_default();
        while let Some((key, answer, rest)) = decode(&id, left) {
            kept.keep(&key, answer);
            left = rest;
        }
        if !left.is_empty() {
            let (file, bytes) = (path.display(), left.len());
            tracing::warn!(%file, bytes, "the file's end was not written whole and is dropped");
        }
        Ok(Self {
            place,
            there: There::new(path.clone(), &file.metadata()?),
            file: Arc::new(file),
            id,
            end: 0,
            // Until it begins anew.
            written: Written::Lost,
            kept: Arc::new(kept),
        })
    }

    /// The answer of a key, unless its time is over.
    pub(super) fn of(&self, key: &OnceKey, at: Timestamp) -> Option<&Answer> {
        let answer = self.kept.tenants.get(&key.tenant)?.by_key.get(&key.key)?;
        (answer.entry.expires_at > at).then_some(answer)
    }

    /// Entries and bytes of a tenant.
    pub(super) fn held_of(&self, tenant: &str) -> (u64, u64) {
        let of_tenant = self.kept.tenants.get(tenant);
        of_tenant.map_or((0, 0), |all| (all.by_key.len() as u64, all.bytes))
    }

    /// Whether they are to become rows before another is taken.
    pub(super) fn is_full(&self) -> bool {
        self.kept.count >= FILED_TOGETHER || self.end >= BYTES_FULL
    }

    /// Whether another can be appended.
    pub(super) fn is_ready(&self) -> bool {
        self.written != Written::Lost && !self.is_full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.count == 0
    }

    /// Whether the file was removed or replaced: nobody will find what is in it.
    pub(super) fn is_gone(&self) -> bool {
        self.there.is_gone()
    }

    /// Whether there is something to make rows of, or a file to begin or open anew.
    pub(super) fn is_to_be_filed(&self) -> bool {
        !self.is_empty() || self.written == Written::Lost || self.is_gone()
    }

    /// What is in it.
    pub(super) const fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// Appends an answer, and keeps it. One that fails is not kept, and nothing is appended behind it.
    pub(super) fn append(&mut self, key: &OnceKey, answer: Answer) -> io::Result<()> {
        let bytes = encode(&self.id, key, &answer);
        // Nothing is appended to a file whose answers become rows.
        let kept = Arc::get_mut(&mut self.kept).ok_or_else(|| io::Error::other("it is being filed"))?;
        if let Err(error) = self.file.write_all_at(&bytes, self.end) {
            self.written = Written::Lost;
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.written = Written::Behind;
        kept.keep(key, answer);
        Ok(())
    }

    /// Begins the file anew under that name: all that were kept are rows.
    pub(super) fn begin_anew(&mut self, id: FileId) -> io::Result<()> {
        self.written = Written::Lost;
        if self.is_gone() {
            return Err(io::Error::other(replaced(self.there.path())));
        }
        begin(&self.file, &id)?;
        self.begun_anew(id);
        Ok(())
    }

    /// The same of a file that was begun anew by [`begin`].
    pub(super) fn begun_anew(&mut self, id: FileId) {
        self.kept = Arc::default();
        // Synced with the first entry; without one nobody needs it.
        (self.id, self.end, self.written) = (id, id.len() as u64, Written::Synced);
    }

    /// Has all of it on disk now, its length too.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_all();
        self.written = if synced.is_ok() {
            Written::Synced
        } else {
            Written::Lost
        };
        synced
    }

    /// As if the disk refused every write.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.file = Arc::new(File::open("/dev/full").unwrap());
    }

    /// Has what is in it on disk, whatever becomes of it.
    pub(super) fn sync_anyway(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The open file, to begin it anew.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The same, to sync it: what could not be written is told to whichever of them syncs first.
    pub(super) fn begin_sync(&mut self) -> io::Result<File> {
        let file = self.file.try_clone();
        self.written = if file.is_ok() {
            Written::Syncing
        } else {
            Written::Lost
        };
        file
    }

    /// What came of the sync of that file.
    pub(super) fn synced(&mut self, synced: &io::Result<()>) {
        match (synced, self.written) {
            (Ok(()), Written::Syncing) => self.written = Written::Synced,
            // More came meanwhile, or something was lost otherwise.
            (Ok(()), _) => {}
            (Err(_), _) => self.written = Written::Lost,
        }
    }
}

/// Cuts a file off and gives it a name.
pub(super) fn begin(file: &File, id: &FileId) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(id, 0)
}

/// An entry of the file.
fn encode(id: &FileId, key: &OnceKey, answer: &Answer) -> Vec<u8> {
    let entry = &answer.entry;
    let payload = answer.payload.as_deref();
    let mut out = Vec::with_capacity(256 + key.tenant.len() + key.key.len() + payload.map_or(0, <[u8]>::len));
    out.extend_from_slice(id);
    out.extend_from_slice(&entry.lease);
    for time in [entry.lease_until, entry.created_at, entry.expires_at] {
        out.extend_from_slice(&time.as_micros().to_le_bytes());
    }
    for part in [
        Some(key.tenant.as_bytes()),
        Some(key.key.as_bytes()),
        entry.hash.as_ref().map(<[u8; 32]>::as_slice),
        entry.label.as_deref().map(str::as_bytes),
        entry.response_hash.as_ref().map(<[u8; 32]>::as_slice),
        payload,
    ] {
        // Length and one; 0: there is none. What is longer than 4 GiB came nowhere near here.
        let length = part.map_or(0, |part| u32::try_from(part.len() + 1).unwrap_or(0));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part.unwrap_or_default());
    }
    let digest = sha256(&out);
    let length = u32::try_from(out.len() - HEAD_BYTES).unwrap_or(0).to_le_bytes();
    let (place, rest) = out.split_at_mut(length.len());
    place.copy_from_slice(&length);
    rest[..HEAD_BYTES - length.len()].copy_from_slice(&digest[..HEAD_BYTES - length.len()]);
    out
}

/// The first entry, and what comes after it; `None`: these bytes begin with none.
fn decode<'b>(id: &FileId, bytes: &'b [u8]) -> Option<(OnceKey, Answer, &'b [u8])> {
    let (head, bytes) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (length, digest) = head.split_first_chunk::<4>()?;
    let (mut body, after) = bytes.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    if sha256(&[id, body].concat())[..digest.len()] != *digest {
        return None;
    }
    let body = &mut body;
    let lease = take::<16>(body)?;
    let mut time = || Timestamp::from_micros(i64::from_le_bytes(take(body)?));
    let (lease_until, created_at, expires_at) = (time()?, time()?, time()?);
    let mut part = || -> Option<Option<&[u8]>> {
        let length = u32::from_le_bytes(take(body)?) as usize;
        let Some(length) = length.checked_sub(1) else {
            return Some(None);
        };
        let (part, rest) = body.split_at_checked(length)?;
        *body = rest;
        Some(Some(part))
    };
    let text = |part: &[u8]| std::str::from_utf8(part).ok().map(str::to_owned);
    let hash = |part: Option<&[u8]>| part.map(<[u8; 32]>::try_from).transpose().ok();
    let key = OnceKey {
        space: OnceSpace::Answer,
        tenant: text(part()??)?.into(),
        key: text(part()??)?.into(),
    };
    let request = hash(part()?)?;
    let label = match part()? {
        Some(label) => Some(text(label)?),
        None => None,
    };
    let response_hash = hash(part()?)?;
    let payload = part()?.map(<[u8]>::to_vec);
    let entry = OnceEntry {
        status: OnceStatus::Completed,
        hash: request,
        label,
        lease,
        lease_until,
        created_at,
        expires_at,
        response_hash,
        error: None,
        payload_bytes: payload.as_ref().map_or(0, |payload| payload.len() as u64),
    };
    Some((key, Answer { entry, payload }, after))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = [7; 16];

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn key(key: &str) -> OnceKey {
        OnceKey {
            space: OnceSpace::Answer,
            tenant: "t".into(),
            key: key.into(),
        }
    }

    fn answer(label: Option<&str>, payload: Option<&[u8]>) -> Answer {
        Answer {
            entry: OnceEntry {
                status: OnceStatus::Completed,
                hash: payload.map(sha256),
                label: label.map(str::to_owned),
                lease: [3; 16],
                lease_until: at(1),
                created_at: at(2),
                expires_at: at(3),
                response_hash: label.map(|label| sha256(label.as_bytes())),
                error: None,
                payload_bytes: payload.map_or(0, |payload| payload.len() as u64),
            },
            payload: payload.map(<[u8]>::to_vec),
        }
    }

    fn state_db(answers: &Path) -> PathBuf {
        answers.with_file_name("state.db")
    }

    /// A file with these, as it is when its process dies.
    fn left(path: &Path, all: &[(&str, fn() -> Answer)]) -> Vec<u8> {
        let mut answers = Answers::open(&state_db(path), Place::First, None).unwrap();
        answers.begin_anew(ID).unwrap();
        for (name, answer) in all {
            answers.append(&key(name), answer()).unwrap();
        }
        std::fs::read(path).unwrap()
    }

    const ALL: [(&str, fn() -> Answer); 4] = [
        ("none", || answer(None, None)),
        ("empty", || answer(Some(""), Some(b""))),
        ("ä", || answer(Some("ü"), Some(&[0, 255, 7]))),
        ("long", || answer(None, Some(&[9; 5_000]))),
    ];

    #[test]
    fn what_was_appended_is_read_again_and_of_another_name_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        left(&path, &ALL);
        let again = Answers::open(&state_db(&path), Place::First, Some(ID)).unwrap();
        for (name, answer) in ALL {
            assert_eq!(again.of(&key(name), at(2)), Some(&answer()), "{name}");
            assert_eq!(again.of(&key(name), at(3)), None, "its time is over");
        }
        assert_eq!(again.held_of("t"), (4, 5_003));
        assert_eq!(again.held_of("other"), (0, 0));
        for other in [None, Some([8; 16])] {
            assert!(
                Answers::open(&state_db(&path), Place::First, other)
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn of_a_file_that_is_cut_anywhere_what_is_whole_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        let bytes = left(&path, &ALL[..3]);
        let mut read = Vec::new();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let count = Answers::open(&state_db(&path), Place::First, Some(ID))
                .unwrap()
                .kept
                .count;
            assert!(read.last().is_none_or(|&before| before <= count), "cut at {cut}");
            read.push(count);
        }
        assert_eq!(read.last(), Some(&3));
        assert_eq!(read[bytes.len() - 1], 2);
    }

    #[test]
    fn a_changed_byte_ends_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        let bytes = left(&path, &ALL[..3]);
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 0x10;
            std::fs::write(&path, &other).unwrap();
            let again = Answers::open(&state_db(&path), Place::First, Some(ID)).unwrap();
            assert!(again.kept.count < 3, "byte {place}");
            for (name, answer) in ALL {
                let there = again.of(&key(name), at(2));
                assert!(there.is_none_or(|there| *there == answer()), "byte {place}");
            }
        }
    }

    #[test]
    fn the_later_of_two_under_one_key_is_kept_and_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        let (first, second): (fn() -> Answer, fn() -> Answer) =
            (|| answer(None, Some(&[1; 10])), || answer(None, Some(&[2; 3])));
        left(&path, &[("k", first), ("k", second)]);
        let again = Answers::open(&state_db(&path), Place::First, Some(ID)).unwrap();
        assert_eq!(again.of(&key("k"), at(2)), Some(&second()));
        assert_eq!((again.held_of("t"), again.kept.count), ((1, 3), 1));
    }

    #[test]
    fn an_entry_of_another_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        let mut bytes = left(&path, &ALL);
        bytes[..16].copy_from_slice(&[8; 16]);
        std::fs::write(&path, &bytes).unwrap();
        assert!(
            Answers::open(&state_db(&path), Place::First, Some([8; 16]))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_begins_anew_leaves_nothing_of_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db-answers");
        left(&path, &ALL);
        let mut answers = Answers::open(&state_db(&path), Place::First, Some(ID)).unwrap();
        answers.begin_anew([8; 16]).unwrap();
        assert!(answers.is_empty());
        assert_eq!(std::fs::read(&path).unwrap(), [8; 16]);
        answers.append(&key("k"), answer(None, None)).unwrap();
        assert_eq!(
            Answers::open(&state_db(&path), Place::First, Some([8; 16]))
                .unwrap()
                .kept
                .count,
            1
        );
    }
}
