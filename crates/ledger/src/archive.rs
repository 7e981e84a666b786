//! Archives: bodies as files, before they are pruned, and read again by verification and rebuild.
//!
//! JSON Lines, one record a line, by ascending leaf: `{"body":…,"header":…,"leaf_index":n,"salt":"<hex>"}`, header and
//! body being the canonical bytes. The record that prunes names the file by its SHA-256.
//!
//! Source: SPEC 11.6; docs/formats.md, "Archives".

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use evidence::record::RetentionArchived;
use evidence::{Finding, FindingCode, Salt, hex_string, unhex};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::LeafKey;

/// Longest line: a body of 16 MiB, a leaf, and what stands around them.
const LINE_BYTES_MAX: usize = 17 * 1024 * 1024;

/// Read of a file at once.
const READ_BYTES: usize = 256 * 1024;

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct ArchiveWriter {
    folder: PathBuf,
    aside: PathBuf,
    file: io::BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

/// An archive that is on disk under its name.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: u64,
}

impl ArchiveWriter {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let aside = folder.join("archive.new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        Ok(Self {
            folder: folder.to_owned(),
            aside,
            file: io::BufWriter::new(file),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// Adds a record: leaf and body as they are hashed.
    pub(crate) fn push(&mut self, leaf: LeafKey, header: &[u8], salt: &Salt, body: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(body.len() + header.len() + 128);
        line.extend_from_slice(b"{\"body\":");
        line.extend_from_slice(body);
        line.extend_from_slice(b",\"header\":");
        line.extend_from_slice(header);
        writeln!(
            line,
            ",\"leaf_index\":{},\"salt\":\"{}\"}}",
            leaf.leaf_index(),
            hex_string(salt)
        )?;
        self.hash.update(&line);
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it its name, durably. Crash before: `archive.new` is written anew by the next. Crash after: a file that no
    /// record names; the next attempt, of the same leaves, replaces it.
    pub(crate) fn finish(self, name: String) -> io::Result<Written> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let path = self.folder.join(&name);
        std::fs::rename(&self.aside, &path)?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Written {
            name,
            path,
            sha256: self.hash.finalize().into(),
            bytes: self.bytes,
        })
    }
}

/// Archives that can be read, by leaf. 24 bytes a record.
#[derive(Debug, Default)]
pub(crate) struct Archives {
    files: Vec<File>,
    places: HashMap<LeafKey, (usize, u64, usize)>,
}

impl Archives {
    /// Opens one as its record names it. A file that is missing, or another than was archived, is a finding.
    ///
    /// # Errors
    /// The finding.
    pub(crate) fn add(
        &mut self,
        folder: &Path,
        archived: &RetentionArchived,
        ledger_no: u32,
    ) -> Result<(), Box<Finding>> {
        let place = format!("archive/{}", archived.archive);
        let wrong =
            |detail: String| Box::new(Finding::new(FindingCode::ArchiveMismatch, place.clone(), detail));
        // Names are ours, and a record is not to reach outside the folder.
        if archived.archive.contains('/') || archived.archive.starts_with('.') {
            return Err(wrong("the name of the archive is none".into()));
        }
        let path = folder.join(&archived.archive);
        let file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
        let found = lines(&file).map_err(|error| wrong(error.to_string()))?;
        if found.sha256 != archived.sha256 {
            return Err(wrong(format!(
                "its SHA-256 is {}, the record says {}",
                hex_string(&found.sha256),
                hex_string(&archived.sha256)
            )));
        }
        let leaves = archived.leaves.iter().flat_map(|&(first, last)| first..=last);
        let number = self.files.len();
        // The hash was taken of a file that we wrote so: as many lines as leaves, in their order.
        for (leaf, (at, len)) in leaves.zip(found.lines) {
            self.places
                .insert(LeafKey::new(ledger_no, leaf), (number, at, len));
        }
        self.files.push(file);
        Ok(())
    }

    /// Salt and body of a pruned record.
    pub(crate) fn get(&self, leaf: LeafKey) -> Option<(Salt, Vec<u8>)> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            body: &'a RawValue,
            salt: &'a str,
        }
        let &(number, at, len) = self.places.get(&leaf)?;
        let mut line = vec![0; len];
        self.files.get(number)?.read_exact_at(&mut line, at).ok()?;
        let line: Line<'_> = serde_json::from_slice(&line).ok()?;
        Some((unhex(line.salt.as_bytes())?, line.body.get().as_bytes().to_vec()))
    }
}

struct Lines {
    sha256: [u8; 32],
    /// Where each begins, and its length.
    lines: Vec<(u64, usize)>,
}

fn lines(file: &File) -> io::Result<Lines> {
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let mut hash = Sha256::new();
    let (mut lines, mut at, mut begun) = (Vec::new(), 0_u64, 0_u64);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let bytes = &buffer[..read];
        hash.update(bytes);
        for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            let end = at + place as u64;
            let len = usize::try_from(end - begun).unwrap_or(usize::MAX);
            if len > LINE_BYTES_MAX || lines.len() >= evidence::record::ARCHIVED_RECORDS_MAX {
                return Err(io::Error::other("longer than an archive can be"));
            }
            lines.push((begun, len));
            begun = end + 1;
        }
        at += read as u64;
    }
    Ok(Lines {
        sha256: hash.finalize().into(),
        lines,
    })
}
