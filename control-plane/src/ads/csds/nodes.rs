//! Which nodes are asked about, in Envoy's words (`NodeMatcher`).

use envoy_types::pb::envoy::config::core::v3::Node as SentNode;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern as TextPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::struct_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, StructMatcher};
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use leno_config::ir::{Regex, StringMatch};
use leno_config::node::Node;
use leno_config::xds::node_to_xds;

/// Most conditions of one question.
const MAX_CONDITIONS: usize = 1000;

/// Any of these; none at all: every node.
#[derive(Debug)]
pub(super) struct Selection(Vec<Conditions>);

/// All of these.
#[derive(Debug)]
struct Conditions {
    id: Option<StringMatch>,
    metadata: Vec<(Vec<String>, ValueMatch)>,
}

#[derive(Debug)]
enum ValueMatch {
    Text(StringMatch),
    Bool(bool),
    Null,
    /// Whether there is a value.
    Present(bool),
}

impl Selection {
    /// Why not is a sentence for the caller.
    pub(super) fn new(matchers: Vec<NodeMatcher>) -> Result<Self, String> {
        let conditions: usize = matchers.iter().map(|matcher| 1 + matcher.node_metadatas.len()).sum();
        if conditions > MAX_CONDITIONS {
            return Err(format!("node_matchers: {conditions} conditions, more than {MAX_CONDITIONS}"));
        }
        matchers.into_iter().map(Conditions::new).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn takes(&self, node: &Node) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let sent = node_to_xds(node);
        self.0.iter().any(|conditions| conditions.hold(&sent))
    }
}

impl Conditions {
    fn new(matcher: NodeMatcher) -> Result<Self, String> {
        let NodeMatcher { node_id, node_metadatas } = matcher;
        Ok(Self {
            id: node_id.map(text).transpose().map_err(|why| format!("node_matchers.node_id: {why}"))?,
            metadata: node_metadatas
                .into_iter()
                .map(of_struct)
                .collect::<Result<_, _>>()
                .map_err(|why| format!("node_matchers.node_metadatas: {why}"))?,
        })
    }

    fn hold(&self, node: &SentNode) -> bool {
        let id = self.id.as_ref().is_none_or(|id| id.is_match(&node.id));
        id && self.metadata.iter().all(|(path, expected)| expected.is_match(at(node.metadata.as_ref(), path)))
    }
}

impl ValueMatch {
    fn is_match(&self, value: Option<&ValueKind>) -> bool {
        match (self, value) {
            (Self::Text(expected), Some(ValueKind::StringValue(text))) => expected.is_match(text),
            (Self::Bool(expected), Some(ValueKind::BoolValue(value))) => expected == value,
            (Self::Null, Some(ValueKind::NullValue(_))) => true,
            (Self::Present(expected), value) => *expected == value.is_some(),
            (Self::Text(_) | Self::Bool(_) | Self::Null, _) => false,
        }
    }
}

/// The value at a path of keys.
fn at<'a>(metadata: Option<&'a Struct>, path: &[String]) -> Option<&'a ValueKind> {
    let (last, outer) = path.split_last()?;
    let mut fields = metadata?;
    for key in outer {
        fields = match kind(fields.fields.get(key)?)? {
            ValueKind::StructValue(inner) => inner,
            _ => return None,
        };
    }
    kind(fields.fields.get(last)?)
}

fn kind(value: &Value) -> Option<&ValueKind> {
    value.kind.as_ref()
}

fn of_struct(matcher: StructMatcher) -> Result<(Vec<String>, ValueMatch), String> {
    let StructMatcher { path, value } = matcher;
    let keys = path.into_iter().map(|segment| match segment.segment {
        Some(Segment::Key(key)) => Ok(key),
        None => Err("path: a segment without a key".to_owned()),
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("path: is empty".to_owned());
    }
    let value = match value.and_then(|value| value.match_pattern) {
        Some(MatchPattern::StringMatch(matcher)) => ValueMatch::Text(text(matcher)?),
        Some(MatchPattern::BoolMatch(expected)) => ValueMatch::Bool(expected),
        Some(MatchPattern::NullMatch(_)) => ValueMatch::Null,
        Some(MatchPattern::PresentMatch(expected)) => ValueMatch::Present(expected),
        Some(MatchPattern::DoubleMatch(_) | MatchPattern::ListMatch(_) | MatchPattern::OrMatch(_)) => {
            return Err("value: Leno compares texts, booleans, null and presence".to_owned());
        }
        None => return Err("value: is missing".to_owned()),
    };
    Ok((keys, value))
}

fn text(matcher: StringMatcher) -> Result<StringMatch, String> {
    let StringMatcher { ignore_case, match_pattern } = matcher;
    Ok(match match_pattern {
        Some(TextPattern::Exact(value)) => StringMatch::Exact { value, ignore_case },
        Some(TextPattern::Prefix(value)) => StringMatch::Prefix { value, ignore_case },
        Some(TextPattern::Suffix(value)) => StringMatch::Suffix { value, ignore_case },
        Some(TextPattern::Contains(value)) => StringMatch::Contains { value, ignore_case },
        Some(TextPattern::SafeRegex(regex)) => {
            StringMatch::Regex(Regex::new(&regex.regex).map_err(|invalid| format!("safe_regex: {}", invalid.0))?)
        }
        Some(TextPattern::Custom(_)) => return Err("custom: is not supported".to_owned()),
        None => return Err("match_pattern: is missing".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::struct_matcher::PathSegment;
    use envoy_types::pb::envoy::r#type::matcher::v3::{DoubleMatcher, ValueMatcher};
    use leno_config::node::Interception;

    use super::*;

    fn node() -> Node {
        Node {
            name: "cart-1".to_owned(),
            ip: [127, 0, 0, 1].into(),
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            workload: "cart".to_owned(),
            labels: [("app".to_owned(), "cart".to_owned())].into(),
            locality: leno_config::ir::Locality::default(),
            interception: Interception::None,
        }
    }

    fn words(pattern: TextPattern) -> StringMatcher {
        StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
    }

    fn id(pattern: TextPattern) -> NodeMatcher {
        NodeMatcher { node_id: Some(words(pattern)), node_metadatas: Vec::new() }
    }

    fn metadata(path: &[&str], value: MatchPattern) -> NodeMatcher {
        let segment = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).to_owned())) };
        let path = path.iter().map(segment).collect();
        let matcher = StructMatcher { path, value: Some(ValueMatcher { match_pattern: Some(value) }) };
        NodeMatcher { node_id: None, node_metadatas: vec![matcher] }
    }

    #[test]
    fn nodes_are_selected_by_id_and_by_metadata() {
        let is = |text: &str| MatchPattern::StringMatch(words(TextPattern::Exact(text.to_owned())));
        let whole = node_to_xds(&node()).id;
        let cases = [
            ("nothing is asked", vec![], true),
            ("the id", vec![id(TextPattern::Exact(whole))], true),
            ("its beginning", vec![id(TextPattern::Prefix("sidecar~".to_owned()))], true),
            ("another id", vec![id(TextPattern::Contains("web-1".to_owned()))], false),
            ("one of two", vec![id(TextPattern::Exact("x".to_owned())), metadata(&["NAMESPACE"], is("shop"))], true),
            ("a namespace", vec![metadata(&["NAMESPACE"], is("shop"))], true),
            ("another namespace", vec![metadata(&["NAMESPACE"], is("bank"))], false),
            ("a label", vec![metadata(&["LABELS", "app"], is("cart"))], true),
            ("a label that is none", vec![metadata(&["LABELS", "app", "x"], is("cart"))], false),
            ("presence", vec![metadata(&["LABELS"], MatchPattern::PresentMatch(true))], true),
            ("absence", vec![metadata(&["OWNER"], MatchPattern::PresentMatch(false))], true),
            ("another type", vec![metadata(&["NAMESPACE"], MatchPattern::BoolMatch(true))], false),
        ];
        for (what, matchers, expected) in cases {
            assert_eq!(Selection::new(matchers).unwrap().takes(&node()), expected, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_its_place() {
        let cases = [
            (metadata(&["a"], MatchPattern::DoubleMatch(DoubleMatcher::default())), "node_metadatas: value"),
            (metadata(&[], MatchPattern::BoolMatch(true)), "node_metadatas: path"),
            (NodeMatcher { node_id: Some(StringMatcher::default()), node_metadatas: vec![] }, "node_id: match_pattern"),
        ];
        for (matcher, place) in cases {
            let why = Selection::new(vec![matcher]).unwrap_err();
            assert!(why.contains(place), "{why}");
        }
        let many = vec![id(TextPattern::Exact("x".to_owned())); MAX_CONDITIONS + 1];
        assert!(Selection::new(many).is_err());
    }
}
