//! Tokens of end users: Envoy's `jwt_authn` filter.
//!
//! What Leno never does cannot be asked for: a token without `exp` is refused whatever `require_expiration` says, and
//! keys come inline or from the one address that is written, never from a file of the proxy's host.

use std::time::Duration;

use http::HeaderName;

use super::claim::PAYLOAD;
use super::matcher;
use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{duration_from_xds, duration_to_xds, optional_duration};
use crate::ir::{ClaimHeader, Jwks, JwtAuthentication, JwtHeader, JwtProvider, JwtRequirement, JwtRule, RemoteJwks};
use pb::core::data_source::Specifier;
use pb::core::{DataSource, HttpUri, http_uri::HttpUpstreamType};
use pb::jwt_authn::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use pb::jwt_authn::jwt_requirement::RequiresType;
use pb::jwt_authn::requirement_rule::RequirementType;
use pb::jwt_authn::{self, JwtClaimToHeader, JwtRequirementAndList, JwtRequirementOrList, RequirementRule};

/// Envoy's, where nothing is said.
const CLOCK_SKEW: u32 = 60;
/// Envoy's, where nothing is said.
const REFRESH: Duration = Duration::from_secs(600);
/// Claims of several words in one text, as Istio names them. Leno splits every text.
const WORDS: [&str; 2] = ["scope", "permission"];

/// Requirements by the names that rules use for them.
type Named = std::collections::HashMap<String, jwt_authn::JwtRequirement>;

pub(super) fn to_xds(jwt: &JwtAuthentication) -> jwt_authn::JwtAuthentication {
    let JwtAuthentication { providers, rules } = jwt;
    let rule = |JwtRule { matcher, requirement }: &JwtRule| RequirementRule {
        r#match: Some(matcher::route_to_xds(matcher)),
        requirement_type: Some(RequirementType::Requires(requirement_to_xds(requirement))),
    };
    jwt_authn::JwtAuthentication {
        providers: providers.iter().map(|provider| (provider.name.clone(), provider_to_xds(provider))).collect(),
        rules: rules.iter().map(rule).collect(),
        // Istio: a preflight carries no credentials by its nature.
        bypass_cors_preflight: true,
        ..Default::default()
    }
}

pub(super) fn from_xds(jwt: jwt_authn::JwtAuthentication) -> Result<JwtAuthentication> {
    let jwt_authn::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        requirement_map,
        // A preflight shows no token and reaches no route but CORS; Leno lets a rule that allows a missing token pass it
        // and holds back the others.
        bypass_cors_preflight: _,
        // How much of the reason a caller is told.
        strip_failure_response: _,
        // Statistics.
        stat_prefix: _,
    } = jwt;
    unsupported(&[("filter_state_rules", &filter_state_rules)])?;
    let mut providers: Vec<_> = providers.into_iter().collect();
    providers.sort_by(|(left, _), (right, _)| left.cmp(right));
    let read = |(name, provider): (String, jwt_authn::JwtProvider)| {
        let field = format!("providers[{name}]");
        provider_from_xds(name, provider).within(&field)
    };
    let providers = providers.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let rules = each("rules", rules, |rule| rule_from_xds(rule, &providers, &requirement_map))?;
    Ok(JwtAuthentication { providers, rules })
}

fn rule_from_xds(rule: RequirementRule, providers: &[JwtProvider], named: &Named) -> Result<JwtRule> {
    let RequirementRule { r#match, requirement_type } = rule;
    let matcher = matcher::route_from_xds(required("match", r#match)?).within("match")?;
    let (field, requirement) = match required("requires", requirement_type)? {
        RequirementType::Requires(requirement) => ("requires", requirement),
        RequirementType::RequirementName(name) => match named.get(&name) {
            Some(requirement) => ("requirement_name", requirement.clone()),
            None => return Err(Problem::new("requirement_name", format!("`requirement_map` has no `{name}`"))),
        },
    };
    Ok(JwtRule { matcher, requirement: requirement_from_xds(requirement, providers).within(field)? })
}

fn requirement_to_xds(requirement: &JwtRequirement) -> jwt_authn::JwtRequirement {
    let all = |requirements: &[JwtRequirement]| requirements.iter().map(requirement_to_xds).collect();
    let requires = match requirement {
        JwtRequirement::Provider(name) => RequiresType::ProviderName(name.clone()),
        // Envoy takes no list of one.
        JwtRequirement::Any(list) | JwtRequirement::All(list) if list.len() == 1 => {
            return list.iter().map(requirement_to_xds).next().unwrap_or_default();
        }
        JwtRequirement::Any(list) => RequiresType::RequiresAny(JwtRequirementOrList { requirements: all(list) }),
        JwtRequirement::All(list) => RequiresType::RequiresAll(JwtRequirementAndList { requirements: all(list) }),
        JwtRequirement::AllowMissing => RequiresType::AllowMissing(pb::protobuf::Empty {}),
        JwtRequirement::AllowMissingOrFailed => RequiresType::AllowMissingOrFailed(pb::protobuf::Empty {}),
    };
    jwt_authn::JwtRequirement { requires_type: Some(requires) }
}

fn requirement_from_xds(requirement: jwt_authn::JwtRequirement, providers: &[JwtProvider]) -> Result<JwtRequirement> {
    let all = |requirements| each("requirements", requirements, |one| requirement_from_xds(one, providers));
    let jwt_authn::JwtRequirement { requires_type } = requirement;
    Ok(match required("requires_type", requires_type)? {
        RequiresType::ProviderName(name) if providers.iter().any(|provider| provider.name == name) => {
            JwtRequirement::Provider(name)
        }
        RequiresType::ProviderName(name) => {
            return Err(Problem::new("provider_name", format!("`providers` has no `{name}`")));
        }
        RequiresType::RequiresAny(JwtRequirementOrList { requirements }) => {
            JwtRequirement::Any(all(requirements).within("requires_any")?)
        }
        RequiresType::RequiresAll(JwtRequirementAndList { requirements }) => {
            JwtRequirement::All(all(requirements).within("requires_all")?)
        }
        RequiresType::AllowMissing(_) => JwtRequirement::AllowMissing,
        RequiresType::AllowMissingOrFailed(_) => JwtRequirement::AllowMissingOrFailed,
        RequiresType::ProviderAndAudiences(_) => return Err(Problem::unsupported("provider_and_audiences")),
        RequiresType::ExtractOnlyWithoutValidation(_) => {
            return Err(Problem::unsupported("extract_only_without_validation"));
        }
    })
}

fn provider_to_xds(provider: &JwtProvider) -> jwt_authn::JwtProvider {
    let JwtProvider {
        name: _, // The key in the map.
        issuer,
        audiences,
        jwks,
        from_headers,
        from_params,
        from_cookies,
        forward,
        payload_header,
        claim_headers,
        clock_skew,
    } = provider;
    let header = |JwtHeader { name, prefix }: &JwtHeader| jwt_authn::JwtHeader {
        name: name.to_string(),
        value_prefix: prefix.clone(),
    };
    let claim = |ClaimHeader { name, claim }: &ClaimHeader| JwtClaimToHeader {
        header_name: name.to_string(),
        claim_name: claim.clone(),
        claim_path: Vec::new(),
    };
    jwt_authn::JwtProvider {
        issuer: issuer.clone().unwrap_or_default(),
        audiences: audiences.clone(),
        require_expiration: true,
        forward: *forward,
        from_headers: from_headers.iter().map(header).collect(),
        from_params: from_params.clone(),
        from_cookies: from_cookies.clone(),
        forward_payload_header: payload_header.as_ref().map(HeaderName::to_string).unwrap_or_default(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: WORDS.map(str::to_owned).into(),
        }),
        // 0 is Envoy's default: a tolerance of none is one of a second.
        clock_skew_seconds: u32::try_from(clock_skew.as_secs().max(1)).unwrap_or(u32::MAX),
        claim_to_headers: claim_headers.iter().map(claim).collect(),
        // Routes may look at claims.
        clear_route_cache: true,
        jwks_source_specifier: Some(jwks_to_xds(jwks)),
        ..Default::default()
    }
}

fn provider_from_xds(name: String, provider: jwt_authn::JwtProvider) -> Result<JwtProvider> {
    let jwt_authn::JwtProvider {
        issuer,
        audiences,
        subjects,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        clock_skew_seconds,
        claim_to_headers,
        jwks_source_specifier,
        // A token without `exp` is refused in any case.
        require_expiration: _,
        // Metadata that nothing in Leno looks at, and splitting texts of which Leno splits all.
        header_in_metadata: _,
        failed_status_in_metadata: _,
        normalize_payload_in_metadata: _,
        // Tuning.
        jwt_cache_config: _,
        // A route is chosen once claims are known.
        clear_route_cache: _,
    } = provider;
    unsupported(&[
        ("subjects", &subjects),
        ("max_lifetime", &max_lifetime),
        ("pad_forward_payload_header", &pad_forward_payload_header),
    ])?;
    if !payload_in_metadata.is_empty() && payload_in_metadata != PAYLOAD {
        return Err(Problem::new("payload_in_metadata", format!("Leno keeps claims under `{PAYLOAD}`")));
    }
    let clock_skew = if clock_skew_seconds == 0 { CLOCK_SKEW } else { clock_skew_seconds };
    let payload_header = Some(forward_payload_header).filter(|name| !name.is_empty());
    Ok(JwtProvider {
        name,
        issuer: Some(issuer).filter(|issuer| !issuer.is_empty()),
        audiences,
        jwks: jwks_from_xds(required("jwks_source_specifier", jwks_source_specifier)?)?,
        from_headers: each("from_headers", from_headers, header_from_xds)?,
        from_params,
        from_cookies,
        forward,
        payload_header: payload_header.map(|name| header_name("forward_payload_header", &name)).transpose()?,
        claim_headers: each("claim_to_headers", claim_to_headers, claim_from_xds)?,
        clock_skew: Duration::from_secs(clock_skew.into()),
    })
}

fn header_from_xds(header: jwt_authn::JwtHeader) -> Result<JwtHeader> {
    let jwt_authn::JwtHeader { name, value_prefix } = header;
    Ok(JwtHeader { name: header_name("name", &name)?, prefix: value_prefix })
}

fn claim_from_xds(claim: JwtClaimToHeader) -> Result<ClaimHeader> {
    let JwtClaimToHeader { header_name: name, claim_name, claim_path } = claim;
    unsupported(&[("claim_path", &claim_path)])?;
    Ok(ClaimHeader { name: header_name("header_name", &name)?, claim: nonempty("claim_name", claim_name)? })
}

fn header_name(field: &str, name: &str) -> Result<HeaderName> {
    name.parse().map_err(|_| Problem::new(field, format!("`{name}` is not a header name (RFC 9110 §5.1)")))
}

fn jwks_to_xds(jwks: &Jwks) -> JwksSourceSpecifier {
    match jwks {
        Jwks::Inline(keys) => JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(keys.clone())),
            watched_directory: None,
        }),
        Jwks::Remote(RemoteJwks { uri, cluster, timeout, refresh }) => {
            JwksSourceSpecifier::RemoteJwks(jwt_authn::RemoteJwks {
                http_uri: Some(HttpUri {
                    uri: uri.to_string(),
                    timeout: Some(duration_to_xds(*timeout)),
                    http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.clone())),
                }),
                cache_duration: Some(duration_to_xds(*refresh)),
                // Fetched before the listener opens, so that no early request is refused for want of keys.
                async_fetch: Some(jwt_authn::JwksAsyncFetch::default()),
                retry_policy: None,
            })
        }
    }
}

fn jwks_from_xds(source: JwksSourceSpecifier) -> Result<Jwks> {
    match source {
        JwksSourceSpecifier::LocalJwks(source) => local_from_xds(source).map(Jwks::Inline).within("local_jwks"),
        JwksSourceSpecifier::RemoteJwks(remote) => remote_from_xds(remote).map(Jwks::Remote).within("remote_jwks"),
    }
}

fn local_from_xds(source: DataSource) -> Result<String> {
    let DataSource { specifier, watched_directory: _ } = source;
    match specifier {
        Some(Specifier::InlineString(keys)) => Ok(keys),
        Some(Specifier::InlineBytes(keys)) => {
            String::from_utf8(keys).map_err(|_| Problem::new("inline_bytes", "is not JSON: it is not even text"))
        }
        Some(Specifier::Filename(_)) => Err(Problem::unsupported("filename")),
        Some(Specifier::EnvironmentVariable(_)) => Err(Problem::unsupported("environment_variable")),
        None => Err(Problem::missing("inline_string")),
    }
}

fn remote_from_xds(remote: jwt_authn::RemoteJwks) -> Result<RemoteJwks> {
    let jwt_authn::RemoteJwks {
        http_uri,
        cache_duration,
        // Leno fetches ahead and tries again by its own rules.
        async_fetch: _,
        retry_policy: _,
    } = remote;
    let HttpUri { uri, timeout, http_upstream_type } = required("http_uri", http_uri)?;
    let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return Err(Problem::missing("http_uri.cluster"));
    };
    let timeout = duration_from_xds(required("http_uri.timeout", timeout)?).within("http_uri.timeout")?;
    let refresh = optional_duration("cache_duration", cache_duration)?.unwrap_or(REFRESH);
    Ok(RemoteJwks { uri: RemoteJwks::uri(&uri).within("http_uri.uri")?, cluster, timeout, refresh })
}
