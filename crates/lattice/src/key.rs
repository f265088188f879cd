//! The names of keys.

use std::{
    borrow::{Borrow, Cow},
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

const SPACE_MAX_BYTES: usize = 128;
const NAME_MAX_BYTES: usize = 2048;

/// The longest key that is held in place. With it a key takes 48 bytes.
const SHORT_MAX_BYTES: usize = 46;

/// A key: `tenant/app/name`. Held as one string of bytes, `tenant 0 app 0 name`, so that byte
/// order is the order of (tenant, app, name) and a prefix of a name is a prefix of the bytes.
///
/// Most keys are short, and there are many: a short one is held in place, so that making,
/// copying and comparing it touches no other memory.
#[derive(Clone)]
pub struct Key(Form);

#[derive(Clone)]
enum Form {
    Short {
        length: u8,
        bytes: [u8; SHORT_MAX_BYTES],
    },
    Long(Arc<[u8]>),
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
        self.as_bytes() == other.as_bytes()
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
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Where an app's keys are: what many keys have in common, checked once.
#[derive(Clone, Debug)]
pub struct Space {
    prefix: Vec<u8>,
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
        Ok(Space {
            prefix: Key::prefix(tenant, app, ""),
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
        Ok(Key::of(&self.prefix, name))
    }

    /// The encoded prefix of the app's keys whose names start with `name_prefix`.
    pub fn prefix(&self, name_prefix: &[u8]) -> Vec<u8> {
        [&self.prefix, name_prefix].concat()
    }
}

impl Key {
    /// A key of bytes that were checked.
    fn of(prefix: &[u8], name: &[u8]) -> Key {
        let length = prefix.len() + name.len();
        let mut bytes = [0; SHORT_MAX_BYTES];
        match bytes.get_mut(..length) {
            Some(room) => {
                let (front, back) = room.split_at_mut(prefix.len());
                front.copy_from_slice(prefix);
                back.copy_from_slice(name);
                Key(Form::Short {
                    length: length as u8,
                    bytes,
                })
            }
            None => Key(Form::Long([prefix, name].concat().into())),
        }
    }

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
        let (tenant, app) = (text(tenant)?, text(app)?);
        if !is_name(tenant) {
            return Err(KeyError::Tenant(tenant.to_owned()));
        }
        if !is_name(app) {
            return Err(KeyError::App(app.to_owned()));
        }
        match name.len() {
            0 => Err(KeyError::Empty),
            1..=NAME_MAX_BYTES => Ok(Key::of(bytes, &[])),
            length => Err(KeyError::TooLong(length)),
        }
    }

    /// The encoded, ordered form.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Form::Long(bytes) => bytes,
        }
    }

    /// Its size on the heap in bytes.
    pub fn weight_bytes(&self) -> usize {
        match &self.0 {
            Form::Short { .. } => 0,
            Form::Long(bytes) => bytes.len(),
        }
    }

    /// Tenant, app and name.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let mut parts = self.as_bytes().splitn(3, |&byte| byte == 0);
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    }

    /// The tenant.
    pub fn tenant(&self) -> &str {
        text(self.parts().0)
    }

    /// The app.
    pub fn app(&self) -> &str {
        text(self.parts().1)
    }

    /// The name within the app.
    pub fn name(&self) -> &[u8] {
        self.parts().2
    }

    /// The name as text for people: bytes that are not UTF-8 become U+FFFD.
    pub fn name_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.name())
    }
}

/// Tenant and app were checked to be ASCII.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
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
    fn short_and_long_keys_are_alike() {
        assert_eq!(size_of::<Key>(), 48);
        for length in 1..100 {
            let name = "n".repeat(length);
            let key = Key::new("t", "a", &name).unwrap();
            assert_eq!(key.name(), name.as_bytes());
            assert_eq!(key.weight_bytes() > 0, 4 + length > SHORT_MAX_BYTES);
            assert_eq!(Key::from_bytes(key.as_bytes()), Ok(key.clone()));
            let next = Key::new("t", "a", format!("{name}a")).unwrap();
            assert!(key < next && key != next);
        }
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
