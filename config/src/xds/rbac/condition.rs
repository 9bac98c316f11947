//! The trees of conditions: what is done (permissions), and by whom (principals).

use super::any;
use super::pb;
use crate::ir::{ClaimMatch, PathTemplate, Permission, Principal, StringMatch};
use crate::xds::matcher::{header_from_xds, header_to_xds, string_from_xds, string_to_xds};
use crate::xds::refusal::{Problem, Result, Within, each, required};
use crate::xds::{base, claim};
use pb::core::TypedExtensionConfig;
use pb::matcher::{PathMatcher, path_matcher};
use pb::rbac::permission::{self, Rule};
use pb::rbac::principal::{self, Authenticated, Identifier};
use pb::rbac::{MetadataSource, SourcedMetadata};
use pb::uri_template::UriTemplateMatchConfig;

/// Envoy's name of the template matcher.
const URI_TEMPLATE: &str = "envoy.path.match.uri_template.uri_template_matcher";

pub(super) fn permission_to_xds(condition: &Permission) -> pb::rbac::Permission {
    let set = |conditions: &[Permission]| permission::Set { rules: conditions.iter().map(permission_to_xds).collect() };
    let rule = match condition {
        Permission::Any => Rule::Any(true),
        // Envoy takes no empty sets.
        Permission::And(conditions) if conditions.is_empty() => Rule::Any(true),
        Permission::Or(conditions) if conditions.is_empty() => {
            Rule::NotRule(Box::new(permission_to_xds(&Permission::Any)))
        }
        Permission::And(conditions) => Rule::AndRules(set(conditions)),
        Permission::Or(conditions) => Rule::OrRules(set(conditions)),
        Permission::Not(condition) => Rule::NotRule(Box::new(permission_to_xds(condition))),
        Permission::Header(condition) => Rule::Header(header_to_xds(condition)),
        Permission::Path(condition) => Rule::UrlPath(path_to_xds(condition)),
        Permission::PathTemplate(template) => Rule::UriTemplate(template_to_xds(template)),
        Permission::DestinationPort(port) => Rule::DestinationPort((*port).into()),
        Permission::DestinationPorts { from, to } => Rule::DestinationPortRange(pb::kinds::Int32Range {
            start: (*from).into(),
            // Envoy's largest is 65536, one past the last port.
            end: i32::try_from(*to).unwrap_or(i32::MAX),
        }),
        Permission::DestinationIp(net) => Rule::DestinationIp(base::range_to_xds(net)),
        Permission::ServerName(condition) => Rule::RequestedServerName(string_to_xds(condition)),
        Permission::Claim(condition) => Rule::SourcedMetadata(sourced_to_xds(condition)),
    };
    pb::rbac::Permission { rule: Some(rule) }
}

pub(super) fn permission_from_xds(condition: pb::rbac::Permission) -> Result<Permission> {
    let set = |field: &str, permission::Set { rules }: permission::Set| {
        each("rules", rules, permission_from_xds).within(field)
    };
    let pb::rbac::Permission { rule } = condition;
    #[allow(deprecated)]
    Ok(match required("rule", rule)? {
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => return Err(Problem::new("any", "is either left out or `true`, as in Envoy")),
        Rule::AndRules(conditions) => Permission::And(set("and_rules", conditions)?),
        Rule::OrRules(conditions) => Permission::Or(set("or_rules", conditions)?),
        Rule::NotRule(condition) => Permission::Not(Box::new(permission_from_xds(*condition).within("not_rule")?)),
        Rule::Header(condition) => Permission::Header(header_from_xds(condition).within("header")?),
        Rule::UrlPath(condition) => Permission::Path(path_from_xds(condition).within("url_path")?),
        Rule::UriTemplate(template) => Permission::PathTemplate(template_from_xds(template).within("uri_template")?),
        Rule::DestinationPort(port) => Permission::DestinationPort(port_from_xds("destination_port", port.into())?),
        Rule::DestinationPortRange(range) => ports_from_xds(range).within("destination_port_range")?,
        Rule::DestinationIp(range) => Permission::DestinationIp(base::range_from_xds(range).within("destination_ip")?),
        Rule::RequestedServerName(condition) => {
            Permission::ServerName(string_from_xds(condition).within("requested_server_name")?)
        }
        Rule::Metadata(condition) => Permission::Claim(claim::from_xds(condition).within("metadata")?),
        Rule::SourcedMetadata(condition) => Permission::Claim(sourced_from_xds(condition).within("sourced_metadata")?),
        Rule::Matcher(_) => return Err(Problem::unsupported("matcher")),
    })
}

pub(super) fn principal_to_xds(condition: &Principal) -> pb::rbac::Principal {
    let set = |conditions: &[Principal]| principal::Set { ids: conditions.iter().map(principal_to_xds).collect() };
    let identifier = match condition {
        Principal::Any => Identifier::Any(true),
        // Envoy takes no empty sets.
        Principal::And(conditions) if conditions.is_empty() => Identifier::Any(true),
        Principal::Or(conditions) if conditions.is_empty() => {
            Identifier::NotId(Box::new(principal_to_xds(&Principal::Any)))
        }
        Principal::And(conditions) => Identifier::AndIds(set(conditions)),
        Principal::Or(conditions) => Identifier::OrIds(set(conditions)),
        Principal::Not(condition) => Identifier::NotId(Box::new(principal_to_xds(condition))),
        Principal::Authenticated(name) => {
            Identifier::Authenticated(Authenticated { principal_name: name.as_ref().map(string_to_xds) })
        }
        Principal::DirectIp(net) => Identifier::DirectRemoteIp(base::range_to_xds(net)),
        Principal::RemoteIp(net) => Identifier::RemoteIp(base::range_to_xds(net)),
        Principal::Header(condition) => Identifier::Header(header_to_xds(condition)),
        Principal::Path(condition) => Identifier::UrlPath(path_to_xds(condition)),
        Principal::Claim(condition) => Identifier::SourcedMetadata(sourced_to_xds(condition)),
    };
    pb::rbac::Principal { identifier: Some(identifier) }
}

pub(super) fn principal_from_xds(condition: pb::rbac::Principal) -> Result<Principal> {
    let set = |field: &str, principal::Set { ids }: principal::Set| each("ids", ids, principal_from_xds).within(field);
    let pb::rbac::Principal { identifier } = condition;
    #[allow(deprecated)]
    Ok(match required("identifier", identifier)? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => return Err(Problem::new("any", "is either left out or `true`, as in Envoy")),
        Identifier::AndIds(conditions) => Principal::And(set("and_ids", conditions)?),
        Identifier::OrIds(conditions) => Principal::Or(set("or_ids", conditions)?),
        Identifier::NotId(condition) => Principal::Not(Box::new(principal_from_xds(*condition).within("not_id")?)),
        Identifier::Authenticated(Authenticated { principal_name }) => Principal::Authenticated(
            principal_name.map(string_from_xds).transpose().within("authenticated.principal_name")?,
        ),
        // Without the PROXY protocol, which Leno does not take, the two are one.
        Identifier::SourceIp(range) => Principal::DirectIp(base::range_from_xds(range).within("source_ip")?),
        Identifier::DirectRemoteIp(range) => {
            Principal::DirectIp(base::range_from_xds(range).within("direct_remote_ip")?)
        }
        Identifier::RemoteIp(range) => Principal::RemoteIp(base::range_from_xds(range).within("remote_ip")?),
        Identifier::Header(condition) => Principal::Header(header_from_xds(condition).within("header")?),
        Identifier::UrlPath(condition) => Principal::Path(path_from_xds(condition).within("url_path")?),
        Identifier::Metadata(condition) => Principal::Claim(claim::from_xds(condition).within("metadata")?),
        Identifier::SourcedMetadata(condition) => {
            Principal::Claim(sourced_from_xds(condition).within("sourced_metadata")?)
        }
        Identifier::FilterState(_) => return Err(Problem::unsupported("filter_state")),
        Identifier::Custom(_) => return Err(Problem::unsupported("custom")),
    })
}

/// Claims are of the request, which Envoy calls dynamic.
fn sourced_to_xds(condition: &ClaimMatch) -> SourcedMetadata {
    SourcedMetadata {
        metadata_matcher: Some(claim::to_xds(condition)),
        metadata_source: MetadataSource::Dynamic.into(),
    }
}

fn sourced_from_xds(condition: SourcedMetadata) -> Result<ClaimMatch> {
    let SourcedMetadata { metadata_matcher, metadata_source } = condition;
    if MetadataSource::try_from(metadata_source) != Ok(MetadataSource::Dynamic) {
        return Err(Problem::new("metadata_source", "claims are of the request: only DYNAMIC is supported"));
    }
    claim::from_xds(required("metadata_matcher", metadata_matcher)?).within("metadata_matcher")
}

fn path_to_xds(condition: &StringMatch) -> PathMatcher {
    PathMatcher { rule: Some(path_matcher::Rule::Path(string_to_xds(condition))) }
}

fn path_from_xds(matcher: PathMatcher) -> Result<StringMatch> {
    let PathMatcher { rule } = matcher;
    let path_matcher::Rule::Path(path) = required("path", rule)?;
    string_from_xds(path).within("path")
}

/// Envoy's operators have no braces.
fn template_to_xds(template: &PathTemplate) -> TypedExtensionConfig {
    let path_template = template.as_str().replace("{**}", "**").replace("{*}", "*");
    TypedExtensionConfig {
        name: URI_TEMPLATE.to_owned(),
        typed_config: Some(any::pack(&UriTemplateMatchConfig { path_template })),
    }
}

fn template_from_xds(config: TypedExtensionConfig) -> Result<PathTemplate> {
    let TypedExtensionConfig { name: _, typed_config } = config;
    let config = required("typed_config", typed_config)?;
    let UriTemplateMatchConfig { path_template } = any::unpack(&config).within("typed_config")?;
    PathTemplate::new(&path_template).within("typed_config.path_template")
}

fn port_from_xds(field: &str, port: i64) -> Result<u16> {
    u16::try_from(port).map_err(|_| Problem::new(field, format!("a port is at most 65535, this is {port}")))
}

fn ports_from_xds(range: pb::kinds::Int32Range) -> Result<Permission> {
    let pb::kinds::Int32Range { start, end } = range;
    let from = port_from_xds("start", start.into())?;
    match u32::try_from(end) {
        Ok(to) if to > u32::from(from) && to <= 65_536 => Ok(Permission::DestinationPorts { from, to }),
        _ => Err(Problem::new("end", format!("is one past the last port and above the first, this is {end}"))),
    }
}
