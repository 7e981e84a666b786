//! What encrypts answers, outputs and tokens: ChaCha20-Poly1305 under one key, kept in a file of mode 0600.
//!
//! What is sealed is bound to a place (space, tenant, key): moved to another, it
//! cannot be opened. Nonces are random; 2^32 of them under one key are safe, which
//! is two years at the busiest a tenant may be.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use evidence::{hex_string, unhex};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use super::{OnceError, OnceKey};
use crate::files;

/// Longest key file that is read: 64 hex digits and a line feed, with room.
const FILE_BYTES_MAX: u64 = 256;

/// Encrypts and decrypts. The key is read, or made, when it is first needed.
pub struct Vault {
    file: PathBuf,
    /// A file that is not there is made.
    makes: bool,
    keys: OnceLock<Keys>,
}

/// What the one key gives.
struct Keys {
    seal: LessSafeKey,
    hash: hmac::Key,
}

/// What the key of hashes is derived from.
const HASH_WORDS: &[u8] = b"deponent request hash 1";

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Under the key in that file, which is made when it is not there.
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            makes: true,
            keys: OnceLock::new(),
        }
    }

    /// Under the key in a file that somebody named. It is never made: what is sealed under another key, of which nobody
    /// knows, can be opened by none of those who share the one.
    pub fn named(file: &Path) -> Self {
        Self {
            makes: false,
            ..Self::new(file)
        }
    }

    /// Whether it can seal: asked before something is done whose result is to be kept.
    ///
    /// # Errors
    /// The key file cannot be had.
    pub fn ready(&self) -> Result<(), OnceError> {
        self.keys().map(drop)
    }

    /// Whether its file is there and holds a key. Nothing is made.
    ///
    /// # Errors
    /// It is not, or does not; with the path.
    pub fn look(&self) -> io::Result<()> {
        read(&self.file)
            .map(drop)
            .map_err(|error| files::named(&self.file, &error))
    }

    /// Seals bytes to a key's place.
    ///
    /// # Errors
    /// The key file cannot be had.
    pub fn seal(&self, place: &OnceKey, plain: Vec<u8>) -> Result<Vec<u8>, OnceError> {
        self.seal_to(&place_of(place), plain)
    }

    /// Opens what was sealed there; `None`: it was not, or under another key.
    ///
    /// # Errors
    /// The key file cannot be had.
    pub fn open(&self, place: &OnceKey, sealed: Vec<u8>) -> Result<Option<Vec<u8>>, OnceError> {
        self.open_at(&place_of(place), sealed)
    }

    pub(crate) fn seal_to(&self, place: &[u8], mut plain: Vec<u8>) -> Result<Vec<u8>, OnceError> {
        let unavailable = |what: &str| OnceError::Unavailable(what.to_owned());
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| unavailable(&error.to_string()))?;
        self.keys()?
            .seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut plain)
            .map_err(|_| unavailable("too long to be encrypted"))?;
        plain.extend_from_slice(&nonce);
        Ok(plain)
    }

    pub(crate) fn open_at(&self, place: &[u8], mut sealed: Vec<u8>) -> Result<Option<Vec<u8>>, OnceError> {
        let Some(nonce) = sealed.len().checked_sub(NONCE_LEN).map(|at| sealed.split_off(at)) else {
            return Ok(None);
        };
        let Ok(nonce) = Nonce::try_assume_unique_for_key(&nonce) else {
            return Ok(None);
        };
        let length = match self
            .keys()?
            .seal
            .open_in_place(nonce, Aad::from(place), &mut sealed)
        {
            Ok(plain) => plain.len(),
            Err(_) => return Ok(None),
        };
        sealed.truncate(length);
        Ok(Some(sealed))
    }

    /// What stands for a hash in a store, so that who has the store alone cannot try what it may be of.
    ///
    /// # Errors
    /// The key file cannot be had.
    pub fn keyed(&self, hash: &[u8; 32]) -> Result<[u8; 32], OnceError> {
        let mut keyed = [0; 32];
        keyed.copy_from_slice(hmac::sign(&self.keys()?.hash, hash).as_ref());
        Ok(keyed)
    }

    fn keys(&self) -> Result<&Keys, OnceError> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys);
        }
        let failed = |error: &dyn std::fmt::Display| {
            OnceError::Unavailable(format!("{}: {error}", self.file.display()))
        };
        let bytes = if self.makes {
            read_or_create(&self.file)
        } else {
            read(&self.file)
        };
        let bytes = bytes.map_err(|error| failed(&error))?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|error| failed(&error))?;
        // Another thread may have read the same file.
        Ok(self.keys.get_or_init(|| {
            let hash = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), HASH_WORDS);
            Keys {
                seal: LessSafeKey::new(key),
                hash: hmac::Key::new(hmac::HMAC_SHA256, hash.as_ref()),
            }
        }))
    }
}

/// No two places have the same bytes: the tenant's length stands before it.
fn place_of(place: &OnceKey) -> Vec<u8> {
    let OnceKey { space, tenant, key } = place;
    format!("{}:{}:{tenant}:{key}", space.code(), tenant.len()).into_bytes()
}

fn read_or_create(file: &Path) -> io::Result<[u8; 32]> {
    loop {
        match read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        if let Some(folder) = file.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        // Written aside and linked: two that make it at once end up with one key, whole.
        let mut aside = [0; 8];
        getrandom::fill(&mut aside).map_err(io::Error::other)?;
        let fresh = file.with_extension(format!("new-{:016x}", u64::from_ne_bytes(aside)));
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        writeln!(out, "{}", hex_string(&key))?;
        out.sync_all()?;
        let linked = fs::hard_link(&fresh, file);
        fs::remove_file(&fresh)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(folder) = file.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
    }
}

fn read(file: &Path) -> io::Result<[u8; 32]> {
    let opened = files::open(file)?;
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if opened.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(bad("others can read it; its mode must be 0600"));
    }
    unhex(files::read(opened, FILE_BYTES_MAX)?.trim_ascii())
        .ok_or_else(|| bad("must hold 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::super::OnceSpace;
    use super::*;

    fn place(tenant: &str, key: &str) -> OnceKey {
        OnceKey {
            space: OnceSpace::Output,
            tenant: tenant.into(),
            key: key.into(),
        }
    }

    #[test]
    fn what_is_sealed_is_opened_at_its_place_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys").join("once.key");
        let vault = Vault::new(&file);
        let sealed = vault.seal(&place("a", "b:k"), b"secret".to_vec()).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        let open = |vault: &Vault, tenant, key, sealed: &[u8]| {
            vault.open(&place(tenant, key), sealed.to_vec()).unwrap()
        };
        assert_eq!(
            open(&vault, "a", "b:k", &sealed).as_deref(),
            Some(b"secret".as_slice())
        );
        assert_eq!(open(&vault, "a:b", "k", &sealed), None);
        assert_eq!(open(&vault, "a", "k", &sealed), None);
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert_eq!(open(&vault, "a", "b:k", &other), None, "byte {at}");
        }
        assert_eq!(open(&vault, "a", "b:k", &[]), None);
        // Another process reads the same key.
        let again = Vault::new(&file);
        assert_eq!(
            open(&again, "a", "b:k", &sealed).as_deref(),
            Some(b"secret".as_slice())
        );
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_hash_is_kept_under_the_key_and_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("once.key");
        let keyed = Vault::new(&file).keyed(&[7; 32]).unwrap();
        assert_eq!(Vault::new(&file).keyed(&[7; 32]).unwrap(), keyed);
        assert_ne!(Vault::new(&file).keyed(&[8; 32]).unwrap(), keyed);
        assert_ne!(keyed, [7; 32]);
        let other = Vault::new(&folder.path().join("other.key"));
        assert_ne!(other.keyed(&[7; 32]).unwrap(), keyed);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("once.key");
        fs::write(&file, "00".repeat(32)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Vault::new(&file).seal(&place("a", "k"), Vec::new()).is_err());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Vault::new(&file).seal(&place("a", "k"), Vec::new()).is_ok());
        fs::write(&file, "00").unwrap();
        assert!(Vault::new(&file).seal(&place("a", "k"), Vec::new()).is_err());
    }

    #[test]
    fn who_looks_for_a_key_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys").join("once.key");
        let vault = Vault::new(&file);
        let absent = vault.look().unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(
            absent.to_string().starts_with(&file.display().to_string()),
            "{absent}"
        );
        assert!(!file.parent().unwrap().exists());
        vault.ready().unwrap();
        vault.look().unwrap();
        for digits in [0, 62, 66, 300] {
            fs::write(&file, "0".repeat(digits)).unwrap();
            assert_eq!(
                vault.look().unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{digits}"
            );
        }
    }

    #[test]
    fn a_named_key_that_is_gone_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("named.key");
        Vault::new(&file).ready().unwrap();
        let digits = fs::read(&file).unwrap();
        let vault = Vault::named(&file);
        vault.look().unwrap();
        fs::remove_file(&file).unwrap();
        for _ in 0..2 {
            let refused = vault.seal(&place("a", "k"), b"secret".to_vec());
            assert!(matches!(refused, Err(OnceError::Unavailable(_))), "{refused:?}");
        }
        assert!(!file.exists());
        // One that comes back counts.
        fs::write(&file, digits).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        vault.ready().unwrap();
    }
}
