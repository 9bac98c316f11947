//! Label and field selectors of lists and watches, and those inside webhook configurations.

use serde_json::Value;

use super::status::Status;

/// What an object has to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selector {
    /// Of the query parameters `labelSelector` and `fieldSelector`.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Status> {
        let unreadable = |text: &str| Status::bad_request(format!("unable to parse requirement: {text}"));
        let labels = requirements(labels).map(|text| requirement(text).ok_or_else(|| unreadable(text)));
        let fields = requirements(fields).map(|text| {
            let field = requirement(text).ok_or_else(|| unreadable(text))?;
            match field.operator {
                Operator::In(_) | Operator::NotIn(_) => Ok(field),
                Operator::Exists | Operator::Missing => Err(unreadable(text)),
            }
        });
        Ok(Self { labels: labels.collect::<Result<_, _>>()?, fields: fields.collect::<Result<_, _>>()? })
    }

    /// Of an object `{matchLabels, matchExpressions}`; an absent one selects everything.
    pub(super) fn of_object(selector: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let equal = selector["matchLabels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement { key: key.clone(), operator: Operator::In(vec![text(value)]) });
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|expression| {
            let values = || expression["values"].as_array().into_iter().flatten().map(text).collect();
            let operator = match expression["operator"].as_str() {
                Some("In") => Operator::In(values()),
                Some("NotIn") => Operator::NotIn(values()),
                Some("Exists") => Operator::Exists,
                // `DoesNotExist`, the last that the server accepts.
                Some(_) | None => Operator::Missing,
            };
            Requirement { key: text(&expression["key"]), operator }
        });
        Self { labels: equal.chain(expressions).collect(), fields: Vec::new() }
    }

    /// Whether an object is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str).map(str::to_owned);
        self.labels.iter().all(|requirement| requirement.holds(label(&requirement.key)))
            && self.fields.iter().all(|requirement| requirement.holds(Some(field(object, &requirement.key))))
    }
}

impl Requirement {
    fn holds(&self, value: Option<String>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(&value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(&value)),
            Operator::Exists => value.is_some(),
            Operator::Missing => value.is_none(),
        }
    }
}

/// The text at `spec.nodeName`; empty where there is none.
fn field(object: &Value, path: &str) -> String {
    let value = path.split('.').try_fold(object, |value, part| value.get(part));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The parts between the commas that stand outside of parentheses.
fn requirements(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |character: char| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn requirement(text: &str) -> Option<Requirement> {
    let made = |key: &str, operator: Operator| {
        let key = key.trim();
        let is_key = !key.is_empty() && !key.contains(char::is_whitespace);
        is_key.then(|| Requirement { key: key.to_owned(), operator })
    };
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, Operator::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, Operator::In(vec![value.trim().to_owned()]));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (head, values) = list.split_once('(')?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, word) = head.trim().rsplit_once(' ')?;
        return match word {
            "in" => made(key, Operator::In(values)),
            "notin" => made(key, Operator::NotIn(values)),
            _ => None,
        };
    }
    match text.strip_prefix('!') {
        Some(key) => made(key, Operator::Missing),
        None => made(text, Operator::Exists),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select_as_kubernetes_documents_them() {
        let pod = json!({
            "metadata": {"name": "web-1", "namespace": "demo", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"},
        });
        for (labels, fields, selected) in [
            ("", "", true),
            ("app=web", "", true),
            ("app==web,tier=front", "", true),
            ("app!=web", "", false),
            ("zone!=a", "", true),
            ("app in (api, web)", "", true),
            ("app notin (api, web)", "", false),
            ("app in (api,web),tier", "", true),
            ("!zone", "", true),
            ("!app", "", false),
            ("zone", "", false),
            ("", "metadata.name=web-1,metadata.namespace=demo", true),
            ("", "spec.nodeName=n2", false),
            ("", "spec.nodeName!=", true),
            ("", "status.phase=", true),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&pod), selected, "labels {labels:?}, fields {fields:?}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for (labels, fields) in [("app of (web)", ""), ("a b", ""), ("", "metadata.name")] {
            assert_eq!(Selector::parse(labels, fields).unwrap_err().code, 400, "{labels:?} {fields:?}");
        }
    }

    #[test]
    fn selectors_inside_objects_select_labels() {
        let namespace = json!({"metadata": {"labels": {"mesh": "on"}}});
        for (selector, selected) in [
            (json!(null), true),
            (json!({}), true),
            (json!({"matchLabels": {"mesh": "on"}}), true),
            (json!({"matchExpressions": [{"key": "mesh", "operator": "NotIn", "values": ["on"]}]}), false),
            (json!({"matchExpressions": [{"key": "mesh", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}), true),
        ] {
            assert_eq!(Selector::of_object(&selector).matches(&namespace), selected, "{selector}");
        }
    }
}
