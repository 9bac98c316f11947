//! Where a request carries a provider's token.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use leno_config::ir::JwtProvider;

use crate::error::ProxyError;
use crate::sanitize;

use super::error::JwtError;

/// One place where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A header, after the prefix.
    Header { name: HeaderName, prefix: String },
    /// A query parameter.
    Parameter(String),
    /// A cookie.
    Cookie(String),
}

/// The places of a provider; those of RFC 6750 §2.1 and §2.3 where it names none (Envoy).
pub(super) fn places(provider: &JwtProvider) -> Vec<Place> {
    let headers =
        provider.from_headers.iter().map(|from| Place::Header { name: from.name.clone(), prefix: from.prefix.clone() });
    let parameters = provider.from_params.iter().cloned().map(Place::Parameter);
    let cookies = provider.from_cookies.iter().cloned().map(Place::Cookie);
    let named: Vec<_> = headers.chain(parameters).chain(cookies).collect();
    if !named.is_empty() {
        return named;
    }
    vec![
        Place::Header { name: header::AUTHORIZATION, prefix: "Bearer ".to_owned() },
        Place::Parameter("access_token".to_owned()),
    ]
}

/// The one token at these places, and where it was. More than one is refused: the app might believe another one than was
/// verified here.
pub(super) fn find<'p, 'r>(
    places: &'p [Place],
    headers: &'r HeaderMap,
    query: Option<&'r str>,
) -> Result<(Cow<'r, str>, &'p Place), JwtError> {
    let mut found = None;
    for place in places {
        let mut more = Ok(());
        place.each(headers, query, &mut |token| match &found {
            None => found = Some((token, place)),
            Some(_) => more = Err(JwtError::Several),
        });
        more?;
    }
    found.ok_or(JwtError::Missing)
}

impl Place {
    fn each<'r>(&self, headers: &'r HeaderMap, query: Option<&'r str>, each: &mut impl FnMut(Cow<'r, str>)) {
        match self {
            Self::Header { name, prefix } => {
                let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
                lines.filter_map(|line| part(line, |text| after_prefix(text, prefix))).for_each(each);
            }
            Self::Parameter(wanted) => query
                .unwrap_or_default()
                .split('&')
                .map(split)
                .filter(|(name, _)| decoded(name) == wanted.as_str())
                .for_each(|(_, value)| each(decoded(value))),
            Self::Cookie(wanted) => {
                let lines = headers.get_all(header::COOKIE).iter();
                let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
                pairs.filter_map(|pair| part(pair, |text| cookie(text, wanted))).for_each(each);
            }
        }
    }

    /// Takes the token out of the request.
    pub(super) fn remove(&self, parts: &mut Parts) -> Result<(), ProxyError> {
        match self {
            Self::Header { name, .. } => {
                parts.headers.remove(name);
            }
            Self::Parameter(wanted) => {
                let Some(query) = parts.uri.query() else { return Ok(()) };
                let others = query.split('&').filter(|pair| decoded(split(pair).0) != wanted.as_str());
                let rest = others.collect::<Vec<_>>().join("&");
                let path = parts.uri.path();
                let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
                sanitize::set_target(parts, target)?;
            }
            Self::Cookie(wanted) => remove_cookie(&mut parts.headers, wanted),
        }
        Ok(())
    }
}

fn remove_cookie(headers: &mut HeaderMap, wanted: &str) {
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in lines {
        let pairs = line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let rest =
            pairs.filter(|pair| part(pair, |text| cookie(text, wanted)).is_none()).collect::<Vec<_>>().join(&b"; "[..]);
        // Parts of a header value are one.
        if let Some(rest) = HeaderValue::from_bytes(&rest).ok().filter(|rest| !rest.is_empty()) {
            headers.append(header::COOKIE, rest);
        }
    }
}

/// A part of a header value. Bytes that are no text are replaced, not passed over: a token among them is then a bad one,
/// while one that is passed over would reach the app as if there were none.
fn part<'r>(bytes: &'r [u8], find: impl Fn(&str) -> Option<&str>) -> Option<Cow<'r, str>> {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => find(text).map(Cow::Borrowed),
        Cow::Owned(text) => find(&text).map(|found| Cow::Owned(found.to_owned())),
    }
}

/// The value of a `NAME=VALUE` with this name, without its quotes (RFC 6265 §4.1.1).
fn cookie<'t>(pair: &'t str, wanted: &str) -> Option<&'t str> {
    let (name, value) = split(pair);
    (name.trim() == wanted).then(|| value.trim().trim_matches('"'))
}

/// What follows the prefix. A prefix with a space at its end is the name of a scheme: letters compare without case (RFC
/// 9110 §11.1), and any blank may follow. Otherwise `bearer TOKEN` would pass by unverified to an app that takes it.
fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let blank = [' ', '\t'];
    let text = text.trim_matches(blank);
    let Some(scheme) = prefix.strip_suffix(' ') else { return Some(text.strip_prefix(prefix)?.trim_matches(blank)) };
    let (start, rest) = text.split_at_checked(scheme.len())?;
    (start.eq_ignore_ascii_case(scheme) && rest.starts_with(blank)).then(|| rest.trim_matches(blank))
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// With `%2e` as the byte it stands for; what is no text then, or was no escape, stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.split_at_checked(2)).flatten();
        let byte = escape.and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = match (byte, escape) {
            (Some(_), Some((_, after))) => after,
            _ => after,
        };
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str, fields: &[(&str, &str)]) -> Parts {
        let request =
            fields.iter().fold(http::Request::get(target), |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn default_places() -> Vec<Place> {
        vec![
            Place::Header { name: header::AUTHORIZATION, prefix: "Bearer ".to_owned() },
            Place::Parameter("access_token".to_owned()),
            Place::Cookie("session".to_owned()),
            Place::Header { name: HeaderName::from_static("x-token"), prefix: String::new() },
        ]
    }

    #[test]
    fn a_token_is_found_where_it_may_be_and_only_when_it_is_alone() {
        type Fields = &'static [(&'static str, &'static str)];
        let rows: &[(&str, Fields, Result<&str, JwtError>)] = &[
            ("/", &[], Err(JwtError::Missing)),
            ("/", &[("authorization", "Bearer a.b.c")], Ok("a.b.c")),
            ("/", &[("authorization", "bearer a.b.c")], Ok("a.b.c")),
            ("/", &[("authorization", "BEARER   a.b.c ")], Ok("a.b.c")),
            ("/", &[("authorization", "Bearer\ta.b.c")], Ok("a.b.c")),
            ("/", &[("authorization", "Bearera.b.c")], Err(JwtError::Missing)),
            ("/", &[("authorization", "Bearer")], Err(JwtError::Missing)),
            ("/", &[("authorization", "Basic a.b.c")], Err(JwtError::Missing)),
            ("/", &[("authorization", "Basic x"), ("authorization", "Bearer a.b.c")], Ok("a.b.c")),
            ("/", &[("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")], Err(JwtError::Several)),
            ("/", &[("authorization", "Bearer a"), ("cookie", "session=b")], Err(JwtError::Several)),
            ("/?access_token=a", &[("authorization", "Bearer a")], Err(JwtError::Several)),
            ("/?x=1&access_token=a.b.c", &[], Ok("a.b.c")),
            ("/?access_token=a%2Eb%2ec", &[], Ok("a.b.c")),
            ("/?access%5Ftoken=a", &[], Ok("a")),
            ("/?access_token=a&access_token=b", &[], Err(JwtError::Several)),
            ("/?access_token=%zz%4", &[], Ok("%zz%4")),
            ("/?Access_token=a", &[], Err(JwtError::Missing)),
            ("/", &[("cookie", "a=1; session=t; b=2")], Ok("t")),
            ("/", &[("cookie", "session=t; session=u")], Err(JwtError::Several)),
            ("/", &[("cookie", "xsession=t")], Err(JwtError::Missing)),
            ("/", &[("cookie", "a=\u{e9}; session=\"t\"")], Ok("t")),
            ("/", &[("x-token", "t")], Ok("t")),
            ("/", &[("x-token", "")], Ok("")),
        ];
        for (target, fields, expected) in rows {
            let parts = parts(target, fields);
            let places = default_places();
            let found = find(&places, &parts.headers, parts.uri.query()).map(|(token, _)| token);
            assert_eq!(found.as_deref().map_err(|error| *error), *expected, "{target} {fields:?}");
        }
    }

    #[test]
    fn a_token_is_taken_out_and_the_rest_stays() {
        let places = default_places();
        let [bearer, parameter, cookie, _] = places.as_slice() else { panic!("four places") };
        let mut with =
            parts("/p?a=1&access_token=t&b=2&access%5ftoken=u", &[("authorization", "Bearer t"), ("x", "y")]);
        bearer.remove(&mut with).expect("valid");
        parameter.remove(&mut with).expect("valid");
        assert_eq!(with.uri, "/p?a=1&b=2");
        assert_eq!(with.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x"]);
        let mut with = parts("http://h/p?access_token=t", &[("cookie", "a=1;session=t; b=2"), ("cookie", "session=u")]);
        parameter.remove(&mut with).expect("valid");
        cookie.remove(&mut with).expect("valid");
        assert_eq!(with.uri, "http://h/p");
        assert_eq!(with.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
