//! The bytes of a source file on their way to a parser: counted, hashed, decoded, and bounded between two rows.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use sha2::{Digest, Sha256};

/// Longest row: a quote that is never closed, or a text without end, must not take the memory.
pub(crate) const ROW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How the bytes of a text file are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they should be.
    #[default]
    Utf8,
    /// Each byte a character.
    Latin1,
}

/// What is known while a parser holds the reader.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    /// Bytes read.
    pub(crate) read: Rc<Cell<u64>>,
    /// Bytes read when the last row ended.
    row: Rc<Cell<u64>>,
    hash: Option<Rc<RefCell<Sha256>>>,
}

impl Counters {
    pub(crate) fn new(hashed: bool) -> Self {
        Self {
            hash: hashed.then(|| Rc::new(RefCell::new(Sha256::new()))),
            ..Self::default()
        }
    }

    /// A row has ended.
    pub(crate) fn row_ended(&self) {
        self.row.set(self.read.get());
    }

    /// SHA-256 of what was read, hex.
    pub(crate) fn hash(&self) -> Option<String> {
        Some(crate::file::hex(self.hash.as_ref()?.borrow().clone()))
    }
}

/// A bounded reader without byte order marks.
pub(crate) struct Feed<R> {
    reader: R,
    counters: Counters,
    encoding: Encoding,
    /// Decoded, not yet handed out.
    pending: Vec<u8>,
    handed: usize,
    begun: bool,
    bounded: bool,
    buffer: Vec<u8>,
}

/// Read at once.
const CHUNK_BYTES: usize = 256 * 1024;

impl<R: Read> Feed<R> {
    pub(crate) fn new(reader: R, encoding: Encoding, counters: Counters) -> Self {
        Self {
            reader,
            counters,
            encoding,
            pending: Vec::new(),
            handed: 0,
            begun: false,
            bounded: true,
            buffer: vec![0; CHUNK_BYTES],
        }
    }

    /// What follows is no row any more.
    pub(crate) fn unbounded(&mut self) {
        self.bounded = false;
    }

    /// Reads the next chunk; whether there was one.
    fn fill(&mut self) -> io::Result<bool> {
        let since = self.counters.read.get() - self.counters.row.get();
        if self.bounded && since > ROW_BYTES_MAX + u64::try_from(CHUNK_BYTES).unwrap_or(0) {
            return Err(io::Error::other(
                "a row is longer than 16 MiB (a quote that is never closed?)",
            ));
        }
        let read = self.reader.read(&mut self.buffer)?;
        let chunk = self.buffer.get(..read).unwrap_or_default();
        if read == 0 {
            return Ok(false);
        }
        self.counters
            .read
            .set(self.counters.read.get() + u64::try_from(read).unwrap_or(0));
        if let Some(hash) = &self.counters.hash {
            hash.borrow_mut().update(chunk);
        }
        let mut chunk = chunk;
        if !self.begun {
            self.begun = true;
            if chunk.starts_with(b"\xff\xfe") || chunk.starts_with(b"\xfe\xff") {
                return Err(io::Error::other("it is UTF-16; save it as UTF-8"));
            }
            // All of them: the parser passes over one more, and a quote behind it begins a cell.
            while let Some(rest) = chunk.strip_prefix(b"\xef\xbb\xbf") {
                chunk = rest;
            }
        }
        self.pending.clear();
        self.handed = 0;
        match self.encoding {
            Encoding::Utf8 => self.pending.extend_from_slice(chunk),
            Encoding::Latin1 => {
                let text: String = chunk.iter().map(|byte| char::from(*byte)).collect();
                self.pending.extend_from_slice(text.as_bytes());
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for Feed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.handed == self.pending.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let rest = self.pending.get(self.handed..).unwrap_or_default();
        let count = rest.len().min(out.len());
        if let (Some(out), Some(rest)) = (out.get_mut(..count), rest.get(..count)) {
            out.copy_from_slice(rest);
        }
        self.handed += count;
        Ok(count)
    }
}
