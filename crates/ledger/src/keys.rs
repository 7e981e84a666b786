//! The folder of ledger keys: one Ed25519 key a ledger, files of mode 0600.
//!
//! A file holds the signed-note text form, `PRIVATE+KEY+<name>+<hash>+<base64>`,
//! and one line feed. It is named `<tenant>.<epoch>.key`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tlog::SignerKey;

use crate::files::{self, named};

/// Longest key file that is read: name of 255 bytes, hash, 44 base64 characters, with room.
const KEY_FILE_BYTES_MAX: u64 = 1_024;

/// The folder of ledger keys.
#[derive(Clone, Debug)]
pub struct KeyFolder {
    path: PathBuf,
}

impl KeyFolder {
    /// Opens the folder, making it (0700) when absent.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(path)
                .map_err(|error| named(path, &error))?;
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The folder as it is, for reading.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The file of a ledger's key.
    pub fn file(&self, tenant_id: &str, epoch: u32) -> PathBuf {
        self.path.join(format!("{tenant_id}.{epoch}.key"))
    }

    /// Reads a ledger's key; `None` when there is no file.
    ///
    /// # Errors
    /// The file is unreadable, readable by others, or holds no key of that name.
    pub fn read(&self, tenant_id: &str, epoch: u32, origin: &str) -> io::Result<Option<SignerKey>> {
        let path = self.file(tenant_id, epoch);
        let file = match files::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(&path, &error)),
        };
        let bad =
            |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
        let metadata = file.metadata().map_err(|error| named(&path, &error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(bad("others can read it; its mode must be 0600"));
        }
        let bytes = files::read(file, KEY_FILE_BYTES_MAX).map_err(|error| named(&path, &error))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("is no text"))?;
        let key = SignerKey::parse(text.trim_end_matches('\n')).map_err(|error| bad(&error.to_string()))?;
        if key.verifier().name() != origin {
            return Err(bad(&format!(
                "is the key of {}, not of {origin}",
                key.verifier().name()
            )));
        }
        Ok(Some(key))
    }

    /// Reads a ledger's key, making it when there is none. It is on disk before this returns.
    pub fn read_or_create(&self, tenant_id: &str, epoch: u32, origin: &str) -> io::Result<SignerKey> {
        if let Some(key) = self.read(tenant_id, epoch, origin)? {
            // An earlier attempt may have ended between the rename and this.
            self.sync()?;
            return Ok(key);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let key = SignerKey::from_seed(origin, &seed).map_err(io::Error::other)?;
        let path = self.file(tenant_id, epoch);
        let fresh = path.with_extension("key.new");
        // A crash before the rename leaves only the `.new` file, which the next attempt overwrites.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(|error| named(&fresh, &error))?;
        writeln!(file, "{}", key.to_secret_text())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| named(&path, &error))?;
        self.sync()?;
        Ok(key)
    }

    /// Whether there is a key of that epoch, or cannot be told.
    pub(crate) fn has(&self, tenant_id: &str, epoch: u32) -> bool {
        self.file(tenant_id, epoch).try_exists().unwrap_or(true)
    }

    /// The epochs of a tenant that have a key file. One that was set aside, or is being made, is none.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) fn epochs(&self, tenant_id: &str) -> io::Result<Vec<u32>> {
        let mut epochs = Vec::new();
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(epochs),
            entries => entries.map_err(|error| named(&self.path, &error))?,
        };
        for entry in entries {
            let name = entry.map_err(|error| named(&self.path, &error))?.file_name();
            epochs.extend(name.to_str().and_then(|name| epoch_of(name, tenant_id)));
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Gives a key file another name, so that its key signs nothing any more: `<tenant>.<epoch>.key.<n>.old`.
    pub(crate) fn set_aside(&self, tenant_id: &str, epoch: u32) -> io::Result<()> {
        let path = self.file(tenant_id, epoch);
        if !path.try_exists().map_err(|error| named(&path, &error))? {
            return Ok(());
        }
        let mut aside = (1..).map(|n: u32| path.with_extension(format!("key.{n}.old")));
        // A folder has fewer files than there are numbers.
        let aside = aside.find(|aside| !aside.try_exists().unwrap_or(true));
        let aside = aside.ok_or_else(|| io::Error::other("no name is left for an old key"))?;
        fs::rename(&path, &aside).map_err(|error| named(&path, &error))?;
        tracing::warn!(key = %path.display(), aside = %aside.display(), "a key without mark or ledger may have signed: it is set aside");
        self.sync()
    }

    /// Makes durable what was named in the folder.
    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| named(&self.path, &error))
    }
}

/// The epoch in the name of a tenant's key file, as [`KeyFolder::file`] writes it and not otherwise.
fn epoch_of(name: &str, tenant_id: &str) -> Option<u32> {
    let number = name
        .strip_prefix(tenant_id)?
        .strip_prefix('.')?
        .strip_suffix(".key")?;
    let epoch: u32 = number.parse().ok()?;
    (epoch.to_string() == number).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_key_files_have_an_epoch() {
        assert_eq!(epoch_of("acme.0.key", "acme"), Some(0));
        assert_eq!(epoch_of("acme.12.key", "acme"), Some(12));
        assert_eq!(epoch_of("acme.1.2.key", "acme.1"), Some(2));
        for other in [
            "acme.1.2.key",
            "acme.1.key.1.old",
            "acme.1.key.new",
            "acme.+1.key",
            "acme.01.key",
            "acme..key",
            "acme.key",
            "acme2.1.key",
            "erased.key",
        ] {
            assert_eq!(epoch_of(other, "acme"), None, "{other}");
        }
    }
}
