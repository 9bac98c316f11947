//! Names of claims, as rules write them: `[a][b]` in AuthorizationPolicy, both `.a.b` and `[a][b]` behind
//! `@request.auth.claims` in VirtualService.

use crate::ir::Invalid;

const ROUTED: &str = "@request.auth.claims";

/// The path of `[a][b]`; `None`: it is not of that form.
pub(super) fn bracketed(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let path: Vec<&str> = inner.split("][").collect();
    let is_name = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    path.iter().all(is_name).then(|| path.into_iter().map(str::to_owned).collect())
}

/// The claim that a key among the headers of a VirtualService is about; `None`: it is about a header. With brackets a
/// name may have dots in it (Istio).
pub(crate) fn routed(key: &str) -> Option<Result<Vec<String>, Invalid>> {
    let rest = key.strip_prefix(ROUTED).or_else(|| key.starts_with('@').then_some(""))?;
    let dotted = || {
        let path: Vec<String> = rest.strip_prefix('.')?.split('.').map(str::to_owned).collect();
        path.iter().all(|name| !name.is_empty()).then_some(path)
    };
    let path = bracketed(rest).or_else(dotted);
    Some(path.ok_or_else(|| Invalid(format!("`{key}` is not of the form {ROUTED}.NAME or {ROUTED}[NAME][NAME]"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_with_dots_or_in_brackets() {
        for (key, path) in [
            ("@request.auth.claims.group", Some(vec!["group"])),
            ("@request.auth.claims.realm.roles", Some(vec!["realm", "roles"])),
            ("@request.auth.claims[realm][a.b]", Some(vec!["realm", "a.b"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims.a..b", None),
            ("@request.auth.claims[a].b", None),
            ("@request.auth.audiences", None),
        ] {
            let read = routed(key).expect("it is about a claim").ok();
            assert_eq!(read, path.map(|path| path.into_iter().map(str::to_owned).collect()), "{key}");
        }
        assert_eq!(routed("x-request"), None);
    }
}
