//! Session tokens: what a client has seen, to be shown again with its next request.
//!
//! A token names the newest of a session's commits and snapshots, and how many losses the store
//! had counted then ([`Store::losses`](tidemill_store::Store::losses)). It is signed, since a node
//! waits for the time that it names. Text of a fixed width, in which a later state of the same
//! node is a greater text:
//!
//! | field | characters |
//! |---|---|
//! | version, `1` | 1 |
//! | losses | 8 hexadecimal digits |
//! | time | 16 hexadecimal digits |
//! | HMAC-SHA-256 of the fields before (RFC 2104), its first 16 bytes | 32 hexadecimal digits |
//!
//! Pure: the secret is handed in.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;
use tidemill_lattice::Time;

const VERSION: u8 = b'1';
const FIELDS: usize = 1 + 8 + 16;
const MAC_BYTES: usize = 16;
const LENGTH: usize = FIELDS + 2 * MAC_BYTES;

/// What a session has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// How many losses the store had counted.
    pub losses: u32,
    /// The newest time of its commits and snapshots.
    pub time: Time,
}

/// Why a text is no token of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It does not have a token's form.
    #[error("it does not have the form of a session token")]
    Form,
    /// Another version made it.
    #[error("it has a version that this node does not read")]
    Version,
    /// It was made with another secret, or changed.
    #[error("it was not made by this node, or was changed")]
    Signature,
}

/// Makes and reads the tokens of one node.
#[derive(Clone)]
pub struct Tokens {
    mac: Hmac<Sha256>,
}

impl Tokens {
    /// Signs with this secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        // A key of any length is one (RFC 2104); this one is not longer than a block.
        let mut block = hmac::digest::generic_array::GenericArray::default();
        block[..secret.len()].copy_from_slice(secret);
        Self {
            mac: Mac::new(&block),
        }
    }

    /// The token of what a session has seen.
    #[must_use]
    pub fn token(&self, seen: Seen) -> String {
        // Every answer carries one, so it is made without the machinery of formatting.
        let mut text = [VERSION; LENGTH];
        let (fields, mac) = text.split_at_mut(FIELDS);
        put_hex(&seen.losses.to_be_bytes(), &mut fields[1..9]);
        put_hex(&seen.time.as_u64().to_be_bytes(), &mut fields[9..]);
        let signature = self.mac.clone().chain_update(fields).finalize();
        put_hex(&signature.into_bytes()[..MAC_BYTES], mac);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What a token says.
    ///
    /// # Errors
    /// [`TokenError`] for a text that is no token of this node.
    pub fn read(&self, token: &str) -> Result<Seen, TokenError> {
        let bytes = token.as_bytes();
        if bytes.first().is_some_and(|version| *version != VERSION) && bytes.len() == LENGTH {
            return Err(TokenError::Version);
        }
        let (fields, mac) = token.split_at_checked(FIELDS).ok_or(TokenError::Form)?;
        if token.len() != LENGTH || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Form);
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| TokenError::Form);
        let (losses, time) = (hex(&fields[1..9])?, hex(&fields[9..])?);
        let mut signature = [0; MAC_BYTES];
        for (place, digits) in signature.iter_mut().zip(mac.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| TokenError::Form)?;
            *place = u8::from_str_radix(digits, 16).map_err(|_| TokenError::Form)?;
        }
        // Compared in constant time.
        let checked = self.mac.clone().chain_update(fields);
        checked
            .verify_truncated_left(&signature)
            .map_err(|_| TokenError::Signature)?;
        Ok(Seen {
            losses: u32::try_from(losses).map_err(|_| TokenError::Form)?,
            time: Time::from_u64(time),
        })
    }
}

/// The digits of bytes, for which there has to be just the room.
fn put_hex(bytes: &[u8], room: &mut [u8]) {
    let fits = hex::encode_to_slice(bytes, room);
    debug_assert!(fits.is_ok(), "two digits a byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(losses: u32, micros: u64) -> Seen {
        Seen {
            losses,
            time: Time::from_micros(micros),
        }
    }

    #[test]
    fn a_token_says_what_was_signed_and_orders_as_text() {
        let tokens = Tokens::new(&[7; 32]);
        let rising = [
            seen(0, 1),
            seen(0, 2),
            seen(0, 1 << 40),
            seen(1, 0),
            seen(16, 5),
        ];
        let texts: Vec<String> = rising.iter().map(|each| tokens.token(*each)).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        for (text, each) in texts.iter().zip(rising) {
            assert_eq!(tokens.read(text), Ok(each));
            assert_eq!(text.len(), LENGTH);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn what_was_changed_or_signed_elsewhere_is_refused() {
        let tokens = Tokens::new(&[7; 32]);
        let token = tokens.token(seen(3, 77));
        let elsewhere = Tokens::new(&[8; 32]).token(seen(3, 77));
        assert_eq!(tokens.read(&elsewhere), Err(TokenError::Signature));
        for at in 1..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert_eq!(tokens.read(&changed), Err(TokenError::Signature), "{at}");
            assert_eq!(tokens.read(&token[..at]), Err(TokenError::Form));
        }
        assert_eq!(
            tokens.read(&format!("2{}", &token[1..])),
            Err(TokenError::Version)
        );
        for odd in [
            "",
            "1",
            "é",
            &format!("{token}0"),
            &token.replace('0', "é"),
            &"x".repeat(57),
        ] {
            assert!(tokens.read(odd).is_err(), "{odd}");
        }
    }
}
