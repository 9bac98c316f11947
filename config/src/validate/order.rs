//! Rules that no request reaches, because an earlier one takes everything that they would.
//!
//! "Takes everything" is decided piece by piece: every condition of the earlier block has to be implied by a condition
//! of the later one. That finds the catch-all in front, the shorter prefix in front and the copy; it never claims more
//! than is true. Regular expressions are compared as texts.

use std::collections::BTreeMap;

use super::findings::{Findings, spec};
use crate::diagnostic::codes;
use crate::mesh::MESH_GATEWAY;
use crate::rules::{Document, HttpMatchRequest, HttpRoute, Path, Rule, StringMatch, TcpRoute, VirtualService};

/// Blocks of one rule that are compared with each other; beyond it only catch-alls are found.
const MAX_COMPARED: usize = 1_000;

pub(super) fn check(document: &Document, found: &mut Findings) {
    if let Rule::VirtualService(rule) = &document.rule {
        check_http(&rule.spec, found);
        check_tcp(&rule.spec.tcp, found);
    }
}

/// One way into a rule.
#[derive(Clone, Copy)]
struct Block<'a> {
    rule: usize,
    /// `None`: the rule has no conditions.
    index: Option<usize>,
    conditions: &'a HttpMatchRequest,
}

fn check_http(service: &VirtualService, found: &mut Findings) {
    let anything = HttpMatchRequest::default();
    let mut earlier: Vec<Block<'_>> = Vec::new();
    let total: usize = service.http.iter().map(|route| route.r#match.len().max(1)).sum();
    for (rule, route) in service.http.iter().enumerate() {
        let blocks = blocks_of(rule, route, &anything);
        let taken: Vec<(Block<'_>, Option<Block<'_>>)> = blocks
            .iter()
            .map(|block| {
                (*block, earlier.iter().find(|first| covers(service, first.conditions, block.conditions)).copied())
            })
            .collect();
        report(rule, &taken, found);
        // A delegate may let through what its root takes.
        if route.delegate.is_none() {
            earlier.extend(blocks.into_iter().filter(|block| total <= MAX_COMPARED || is_catch_all(block.conditions)));
        }
    }
}

fn blocks_of<'a>(rule: usize, route: &'a HttpRoute, anything: &'a HttpMatchRequest) -> Vec<Block<'a>> {
    if route.r#match.is_empty() {
        return vec![Block { rule, index: None, conditions: anything }];
    }
    let numbered = route.r#match.iter().enumerate();
    numbered.map(|(index, conditions)| Block { rule, index: Some(index), conditions }).collect()
}

/// Says which blocks of a rule, or that all of it, is taken by earlier ones.
fn report(rule: usize, taken: &[(Block<'_>, Option<Block<'_>>)], found: &mut Findings) {
    let path = spec().key("http").index(rule);
    let firsts: Vec<Block<'_>> = taken.iter().filter_map(|(_, first)| *first).collect();
    if firsts.len() == taken.len() && (taken.len() > 1 || taken.iter().any(|(block, _)| block.index.is_none())) {
        let names: Vec<String> = firsts.iter().map(|first| format!("`{}`", first.path())).collect();
        let message = format!("no request reaches this rule: {} takes them all", joined(&names));
        found.add(codes::UNREACHABLE, &path, message).help("move it up, or remove it");
        return;
    }
    for (block, first) in taken {
        let Some(first) = first else { continue };
        if same(block.conditions, first.conditions) {
            let message = format!("the same condition stands in `{}`, which comes first", first.path());
            found.add(codes::DUPLICATE_MATCH, &block.path(), message).help("remove one of the two");
        } else {
            let message = format!("no request reaches this: `{}` takes them all", first.path());
            found.add(codes::UNREACHABLE, &block.path(), message).help("move the rule up, or remove it");
        }
    }
}

fn joined(names: &[String]) -> String {
    let mut names = names.to_vec();
    names.dedup();
    names.join(" and ")
}

impl Block<'_> {
    fn path(&self) -> Path {
        let rule = spec().key("http").index(self.rule);
        self.index.map_or_else(|| rule.clone(), |index| rule.key("match").index(index))
    }
}

/// Equal but for their names.
fn same(one: &HttpMatchRequest, other: &HttpMatchRequest) -> bool {
    let bare = |block: &HttpMatchRequest| HttpMatchRequest { name: None, stat_prefix: None, ..block.clone() };
    bare(one) == bare(other)
}

fn is_catch_all(block: &HttpMatchRequest) -> bool {
    same(&HttpMatchRequest { uri: None, ..block.clone() }, &HttpMatchRequest::default())
        && block.uri.as_ref().is_none_or(takes_every_path)
}

fn takes_every_path(uri: &StringMatch) -> bool {
    let by_regex = matches!(uri.regex.as_deref(), Some(".*" | "/.*"));
    let by_prefix = matches!(uri.prefix.as_deref(), Some("" | "/"));
    *uri == StringMatch::default() || (by_regex && uri.prefix.is_none() && uri.exact.is_none()) || by_prefix
}

/// Whether every request that fulfils `later` fulfils `first`.
fn covers(service: &VirtualService, first: &HttpMatchRequest, later: &HttpMatchRequest) -> bool {
    covers_path(first, later)
        && covers_text(first.scheme.as_ref(), later.scheme.as_ref())
        && covers_text(first.method.as_ref(), later.method.as_ref())
        && covers_text(first.authority.as_ref(), later.authority.as_ref())
        && covers_fields(&first.headers, &later.headers)
        && covers_fields(&first.query_params, &later.query_params)
        && first.without_headers.iter().all(|(name, condition)| later.without_headers.get(name) == Some(condition))
        && first.port.is_none_or(|port| later.port == Some(port))
        && first.source_labels.iter().all(|(key, value)| later.source_labels.get(key) == Some(value))
        && first.source_namespace.as_ref().is_none_or(|of| of.is_empty() || later.source_namespace.as_ref() == Some(of))
        && covers_gateways(service, &first.gateways, &later.gateways)
}

fn covers_path(first: &HttpMatchRequest, later: &HttpMatchRequest) -> bool {
    let Some(uri) = first.uri.as_ref().filter(|uri| !takes_every_path(uri)) else { return true };
    let Some(inner) = &later.uri else { return false };
    let (any_case, inner_any_case) = (first.ignore_uri_case == Some(true), later.ignore_uri_case == Some(true));
    if uri == inner && (any_case || !inner_any_case) {
        return true;
    }
    let (Some(prefix), true) = (&uri.prefix, any_case || !inner_any_case) else { return false };
    let starts = |text: &String| match any_case {
        true => text.to_ascii_lowercase().starts_with(&prefix.to_ascii_lowercase()),
        false => text.starts_with(prefix.as_str()),
    };
    inner.regex.is_none() && inner.exact.as_ref().or(inner.prefix.as_ref()).is_some_and(starts)
}

fn covers_text(first: Option<&StringMatch>, later: Option<&StringMatch>) -> bool {
    let Some(first) = first.filter(|first| **first != StringMatch::default()) else { return true };
    let Some(later) = later else { return false };
    let by_prefix = first.prefix.as_ref().is_some_and(|prefix| {
        later.regex.is_none()
            && later.exact.as_ref().or(later.prefix.as_ref()).is_some_and(|text| text.starts_with(prefix.as_str()))
    });
    first == later || by_prefix
}

/// Presence is implied by any condition on the same name.
fn covers_fields(first: &BTreeMap<String, StringMatch>, later: &BTreeMap<String, StringMatch>) -> bool {
    first.iter().all(|(name, condition)| later.get(name).is_some_and(|later| covers_text(Some(condition), Some(later))))
}

/// Where each block holds: its own gateways, else those of the rule, else all sidecars.
fn covers_gateways(service: &VirtualService, first: &[String], later: &[String]) -> bool {
    let mesh = [MESH_GATEWAY.to_owned()];
    let whole = if service.gateways.is_empty() { &mesh[..] } else { &service.gateways };
    let of = |own: &[String]| if own.is_empty() { whole.to_vec() } else { own.to_vec() };
    let first = of(first);
    of(later).iter().all(|gateway| first.contains(gateway))
}

/// A rule for bytes without conditions takes every connection.
fn check_tcp(routes: &[TcpRoute], found: &mut Findings) {
    let Some(first) = routes.iter().position(|route| route.r#match.is_empty()) else { return };
    for index in (0..routes.len()).skip(first).skip(1) {
        let message = format!("no connection reaches this rule: `spec.tcp[{first}]` takes them all");
        found.add(codes::UNREACHABLE, &spec().key("tcp").index(index), message).help("move it up, or remove it");
    }
}
