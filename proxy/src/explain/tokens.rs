//! Which tokens would be taken, by what they say alone: nobody signs a token to have a question answered.

use leno_config::ir::{JwtAuthentication, JwtProvider, JwtRequirement};

use crate::policy::jwt::Claims;

/// The claims, where the workload takes a token that says so: `Ok(None)` without a token, or where nobody looks at it.
pub fn verified<'c>(
    tokens: &JwtAuthentication,
    claims: Option<&'c Claims>,
) -> Result<Option<&'c Claims>, &'static str> {
    let Some(rule) = tokens.rules.first() else { return Ok(None) };
    let taken = claims.and_then(|claims| tokens.providers.iter().find(|provider| takes(provider, claims)));
    let name = taken.map(|provider| provider.name.as_str());
    match claims {
        Some(_) if name.is_none() => {
            Err("the token is refused: no RequestAuthentication names its issuer and audience")
        }
        _ if !holds(&rule.requirement, name) => {
            Err("the workload demands a token, and none of the issuer that it demands is shown")
        }
        _ => Ok(claims),
    }
}

fn takes(provider: &JwtProvider, claims: &Claims) -> bool {
    let text = |name: &str| claims.find([name]).and_then(|value| value.as_str());
    let audiences: Vec<&str> = match claims.find(["aud"]).and_then(|value| value.as_array()) {
        Some(list) => list.iter().filter_map(|value| value.as_str()).collect(),
        None => text("aud").into_iter().collect(),
    };
    provider.issuer.as_deref().is_none_or(|issuer| text("iss") == Some(issuer))
        && (provider.audiences.is_empty()
            || provider.audiences.iter().any(|audience| audiences.contains(&audience.as_str())))
}

/// Whether a requirement holds with a token of `provider`, or with none.
fn holds(requirement: &JwtRequirement, provider: Option<&str>) -> bool {
    match requirement {
        JwtRequirement::Provider(name) => Some(name.as_str()) == provider,
        JwtRequirement::Any(any) => any.iter().any(|one| holds(one, provider)),
        JwtRequirement::All(all) => all.iter().all(|one| holds(one, provider)),
        JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed => true,
    }
}
