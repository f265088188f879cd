//! The names of keys.

use std::{
    borrow::{Borrow, Cow},
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use smallvec::SmallVec;

const SPACE_MAX_BYTES: usize = 128;
const NAME_MAX_BYTES: usize = 2048;

/// A key: `tenant/app/name`. Held as one string of bytes, `tenant 0 app 0 name`, so that byte
/// order is the order of (tenant, app, name) and a prefix of a name is a prefix of the bytes.
#[derive(Clone)]
pub struct Key {
    bytes: Arc<[u8]>,
    tenant_end: u8,
    app_end: u16,
}

/// Why a key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The tenant is not of the form `[A-Za-z_][A-Za-z0-9_.-]{0,127}`.
    #[error(
        "`{0}` cannot name a tenant: use a letter or _, then up to 127 of letters, digits, _ . -"
    )]
    Tenant(String),
    /// The app is not of the form `[A-Za-z_][A-Za-z0-9_.-]{0,127}`.
    #[error(
        "`{0}` cannot name an app: use a letter or _, then up to 127 of letters, digits, _ . -"
    )]
    App(String),
    /// The name is empty.
    #[error("the key is empty: give it at least one byte")]
    Empty,
    /// The name is too long.
    #[error("the key has {0} bytes: use at most {NAME_MAX_BYTES}")]
    TooLong(usize),
    /// Bytes that [`Key::as_bytes`] did not make.
    #[error("these bytes are not an encoded key")]
    Encoding,
}

/// Whether `text` can name a tenant, an app or a function:
/// `[A-Za-z_][A-Za-z0-9_.-]{0,127}`.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= SPACE_MAX_BYTES
        && bytes
            .first()
            .is_some_and(|&first| first.is_ascii_alphabetic() || first == b'_')
        && bytes
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

// A key is its bytes: the rest follows from them.

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where an app's keys are: what many keys have in common, checked once.
#[derive(Clone, Debug)]
pub struct Space {
    prefix: Vec<u8>,
    tenant_end: u8,
    app_end: u16,
}

impl Space {
    /// The keys of an app.
    ///
    /// # Errors
    /// [`KeyError::Tenant`] or [`KeyError::App`] for a name that is none.
    pub fn new(tenant: &str, app: &str) -> Result<Space, KeyError> {
        if !is_name(tenant) {
            return Err(KeyError::Tenant(tenant.to_owned()));
        }
        if !is_name(app) {
            return Err(KeyError::App(app.to_owned()));
        }
        let (tenant_end, app_end) = (tenant.len(), tenant.len() + 1 + app.len());
        Ok(Space {
            prefix: Key::prefix(tenant, app, ""),
            // Both fit: names have at most 128 bytes.
            tenant_end: tenant_end as u8,
            app_end: app_end as u16,
        })
    }

    /// The key `name`: any bytes, 1 to 2048 of them.
    ///
    /// # Errors
    /// [`KeyError::Empty`] or [`KeyError::TooLong`].
    pub fn key(&self, name: &[u8]) -> Result<Key, KeyError> {
        match name.len() {
            0 => return Err(KeyError::Empty),
            1..=NAME_MAX_BYTES => {}
            length => return Err(KeyError::TooLong(length)),
        }
        let mut bytes: SmallVec<[u8; 256]> = SmallVec::from_slice(&self.prefix);
        bytes.extend_from_slice(name);
        Ok(Key {
            bytes: Arc::from(&bytes[..]),
            tenant_end: self.tenant_end,
            app_end: self.app_end,
        })
    }

    /// The encoded prefix of the app's keys whose names start with `name_prefix`.
    pub fn prefix(&self, name_prefix: &[u8]) -> Vec<u8> {
        [&self.prefix, name_prefix].concat()
    }
}

impl Key {
    /// The key `name` of an app. `name` is any bytes, 1 to 2048 of them.
    ///
    /// # Errors
    /// [`KeyError`] says which of the three is wrong.
    pub fn new(tenant: &str, app: &str, name: impl AsRef<[u8]>) -> Result<Key, KeyError> {
        Space::new(tenant, app)?.key(name.as_ref())
    }

    /// The encoded prefix of all of an app's keys whose names start with `name_prefix`.
    pub fn prefix(tenant: &str, app: &str, name_prefix: impl AsRef<[u8]>) -> Vec<u8> {
        let name_prefix = name_prefix.as_ref();
        let mut bytes = Vec::with_capacity(tenant.len() + app.len() + name_prefix.len() + 2);
        bytes.extend_from_slice(tenant.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(app.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(name_prefix);
        bytes
    }

    /// The key whose [`Key::as_bytes`] these are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Key, KeyError> {
        let mut parts = bytes.splitn(3, |&byte| byte == 0);
        let mut next = || parts.next().ok_or(KeyError::Encoding);
        let (tenant, app, name) = (next()?, next()?, next()?);
        let text = |part| std::str::from_utf8(part).map_err(|_| KeyError::Encoding);
        Key::new(text(tenant)?, text(app)?, name)
    }

    /// The encoded, ordered form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tenant.
    pub fn tenant(&self) -> &str {
        self.text(0, usize::from(self.tenant_end))
    }

    /// The app.
    pub fn app(&self) -> &str {
        self.text(usize::from(self.tenant_end) + 1, usize::from(self.app_end))
    }

    /// The name within the app.
    pub fn name(&self) -> &[u8] {
        self.bytes
            .get(usize::from(self.app_end) + 1..)
            .unwrap_or_default()
    }

    /// The name as text for people: bytes that are not UTF-8 become U+FFFD.
    pub fn name_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.name())
    }

    /// Tenant and app were checked to be ASCII.
    fn text(&self, from: usize, to: usize) -> &str {
        self.bytes
            .get(from..to)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant(), self.app(), self.name_lossy())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_parts() {
        let key = Key::new("acme", "reviews", b"user/\0\xff").unwrap();
        assert_eq!(
            (key.tenant(), key.app(), key.name()),
            ("acme", "reviews", &b"user/\0\xff"[..])
        );
        assert_eq!(key.as_bytes(), b"acme\0reviews\0user/\0\xff");
        assert_eq!(Key::from_bytes(key.as_bytes()), Ok(key.clone()));
        assert_eq!(key.to_string(), "acme/reviews/user/\0\u{fffd}");
        assert!(
            key.as_bytes()
                .starts_with(&Key::prefix("acme", "reviews", "user/"))
        );
        let longest = "a".repeat(128);
        let key = Key::new(&longest, &longest, "x").unwrap();
        assert_eq!(
            (key.tenant(), key.app(), key.name()),
            (&*longest, &*longest, &b"x"[..])
        );
    }

    #[test]
    fn order_is_that_of_the_parts() {
        let key = |tenant, app, name: &str| Key::new(tenant, app, name).unwrap();
        let mut keys = [
            key("b", "a", "a"),
            key("a", "b", "a"),
            key("a-b", "a", "a"),
            key("a", "a", "b"),
        ];
        keys.sort();
        let order: Vec<_> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["a/a/b", "a/b/a", "a-b/a/a", "b/a/a"]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(Key::new("", "a", "x"), Err(KeyError::Tenant(String::new())));
        assert_eq!(Key::new("a", "1a", "x"), Err(KeyError::App("1a".into())));
        assert_eq!(
            Key::new("a", "a\0b", "x"),
            Err(KeyError::App("a\0b".into()))
        );
        assert_eq!(Key::new("a", "a", ""), Err(KeyError::Empty));
        assert_eq!(
            Key::new("a", "a", "x".repeat(2049)),
            Err(KeyError::TooLong(2049))
        );
        assert!(Key::new("a", "a", "x".repeat(2048)).is_ok());
        assert!(Key::new(&"a".repeat(129), "a", "x").is_err());
        for bytes in [&b""[..], b"a", b"a\0b", b"a\0b\0", b"\xff\0b\0c"] {
            assert!(Key::from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
