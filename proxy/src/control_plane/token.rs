//! Tokens: read from their file at each use, since whoever wrote it renews it there.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

/// Larger than any token that a server would take.
const LARGEST: u64 = 64 << 10;

/// The text of a token file, without surrounding white space.
pub(super) fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

/// As metadata of a call; `None` where it has bytes that no token has.
pub(super) fn authorization(token: &str) -> Option<MetadataValue<Ascii>> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = MetadataValue::try_from(text.as_str()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether it says of itself that its time is over: then there is no use in showing it to anybody. A token that is not
/// a JWT says nothing of itself.
pub(super) fn has_expired(token: &str, now: SystemTime) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
    claims
        .and_then(|claims| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp)))
        .is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jwt_can_say_that_it_has_expired() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (token, expected) in [
            (jwt(r#"{"exp":999}"#), true),
            (jwt(r#"{"exp":1000}"#), true),
            (jwt(r#"{"exp":1001,"sub":"x"}"#), false),
            (jwt(r#"{"exp":18446744073709551615}"#), false),
            (jwt(r#"{"sub":"x"}"#), false),
            (jwt("no JSON"), false),
            ("opaque".to_owned(), false),
            ("a.!!.c".to_owned(), false),
        ] {
            assert_eq!(has_expired(&token, now), expected, "{token}");
        }
    }

    #[test]
    fn a_token_file_is_one_token_and_not_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        assert_eq!(read(&path).expect_err("not there").kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, " \n").expect("written");
        assert_eq!(read(&path).expect_err("empty").to_string(), "it is empty");
        std::fs::write(&path, "abc.def.ghi\n").expect("written");
        assert_eq!(read(&path).expect("a token").as_str(), "abc.def.ghi");
        assert!(authorization("abc.def").is_some_and(|value| value.is_sensitive()));
        assert!(authorization("two\nlines").is_none());
    }
}
