//! Who did what, and who may: Kubernetes' RBAC, evaluated over the roles and bindings that are stored.
//!
//! Rules are read as `pkg/apis/rbac/v1/evaluation_helpers.go` reads them: groups, verbs and resources are equal or `*`; a
//! subresource is `resource/subresource` or `*/subresource`; where a rule names resources, the name in the path has to be
//! one of them (that of a list or a watch is its field selector `metadata.name`), so that a name never allows `create`,
//! except the one by which server-side apply makes an object.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::request::{Request, User, Verb};
use super::state::State;
use super::status::Status;
use super::store::ObjectKey;

/// Group of the roles.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Who may do everything.
const MASTERS: &str = "system:masters";

/// Something that somebody did, or wanted to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// `system:serviceaccount:leno-system:leno`
    pub user: String,
    /// What was done.
    pub verb: Verb,
    /// Empty for the core group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// `status`, `token`; empty for the object itself.
    pub subresource: String,
    /// Empty in the cluster, and for all namespaces at once.
    pub namespace: String,
    /// Empty where no single object is meant.
    pub name: String,
}

impl Access {
    pub(super) fn of(request: &Request) -> Self {
        let selected = || {
            let fields = request.query.get("fieldSelector").unwrap_or_default();
            fields.split(',').find_map(|field| field.strip_prefix("metadata.name=")).map(|name| name.replace('=', ""))
        };
        let name = match request.verb {
            Verb::List | Verb::Watch | Verb::DeleteCollection => selected().unwrap_or_default(),
            Verb::Get | Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => request.name.clone(),
        };
        // Namespaces are in themselves.
        let namespace = match request.kind.is("", "namespaces") {
            true => name.clone(),
            false => request.namespace.clone(),
        };
        Self {
            user: request.user.name.clone(),
            verb: request.verb,
            group: request.kind.group.clone(),
            resource: request.kind.plural.clone(),
            subresource: request.subresource.clone(),
            namespace,
            name,
        }
    }

    /// Whether a rule of a role (`apiGroups`, `resources`, `resourceNames`, `verbs`) allows it, where the role counts.
    pub fn is_allowed_by(&self, rule: &Value) -> bool {
        let words = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let combined = match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let of_any = (!self.subresource.is_empty()).then(|| format!("*/{}", self.subresource));
        let is_resource = |word: &str| word == "*" || word == combined || of_any.as_deref() == Some(word);
        let is_named = words("resourceNames").next().is_none() || words("resourceNames").any(|name| name == self.name);
        words("verbs").any(|verb| verb == "*" || verb == self.verb.word())
            && words("apiGroups").any(|group| group == "*" || group == self.group)
            && words("resources").any(is_resource)
            && is_named
    }

    fn refusal(&self) -> Status {
        let of = format!(" in API group {:?}", self.group);
        let place = match self.namespace.as_str() {
            "" => " at the cluster scope".to_owned(),
            namespace => format!(" in the namespace {namespace:?}"),
        };
        let combined = match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let object = format!("{}.{}", self.resource, self.group);
        let named = if self.name.is_empty() { String::new() } else { format!(" {:?}", self.name) };
        let message = format!(
            "{}{named} is forbidden: User {:?} cannot {} resource {combined:?}{of}{place}",
            object.trim_end_matches('.'),
            self.user,
            self.verb.word(),
        );
        Status::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }
}

/// Refuses what no role allows, once the server authorizes at all.
pub(super) fn check(state: &Arc<State>, request: &Request) -> Result<(), Status> {
    let access = Access::of(request);
    state.ledger.note(&access);
    if !state.authorizes() || request.user.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let may =
        |access: &Access| rules(state, &request.user, &access.namespace).iter().any(|rule| access.is_allowed_by(rule));
    if !may(&access) {
        return Err(access.refusal());
    }
    let key = ObjectKey { namespace: request.namespace.clone(), name: request.name.clone() };
    let makes = request.is_apply() && state.world().store.get(&request.kind.key(), &key).is_none();
    let made = Access { verb: Verb::Create, ..access };
    if makes && !may(&made) {
        return Err(made.refusal());
    }
    Ok(())
}

/// The rules that count for a user in a namespace (none: in the cluster).
fn rules(state: &State, user: &User, namespace: &str) -> Vec<Value> {
    let world = state.world();
    let stored = |plural: &str| {
        let kind = world.catalogue.resource(RBAC, "v1", plural);
        kind.map(|kind| world.store.objects(&kind.key())).unwrap_or_default()
    };
    let everywhere = stored("clusterrolebindings").into_values();
    let here =
        stored("rolebindings").into_iter().filter(|(key, _)| key.namespace == namespace && !namespace.is_empty());
    let bindings = everywhere.chain(here.map(|(_, binding)| binding));
    let (cluster_roles, roles) = (stored("clusterroles"), stored("roles"));
    let role = |binding: &Value| {
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default().to_owned();
        match binding["roleRef"]["kind"].as_str() {
            Some("ClusterRole") => cluster_roles.get(&ObjectKey { namespace: String::new(), name }).cloned(),
            _ => roles.get(&ObjectKey { namespace: namespace.to_owned(), name }).cloned(),
        }
    };
    let bound = bindings.filter(|binding| is_subject(user, binding)).filter_map(|binding| role(&binding));
    bound.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()).collect()
}

fn is_subject(user: &User, binding: &Value) -> bool {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    subjects.into_iter().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or_default();
                user.name == format!("system:serviceaccount:{namespace}:{name}")
            }
            Some("Group") => user.groups.iter().any(|group| group == name),
            _ => user.name == name,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn access(verb: Verb, resource: &str, name: &str) -> Access {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Access {
            user: "somebody".to_owned(),
            verb,
            group: String::new(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: "demo".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_rule_allows_its_verbs_on_its_resources_and_names_and_nothing_else() {
        let rule = |resources: &[&str], names: &[&str], verbs: &[&str]| json!({"apiGroups": [""], "resources": resources, "resourceNames": names, "verbs": verbs});
        for (verb, resource, name, rule, expected) in [
            (Verb::Get, "pods", "a", rule(&["pods"], &[], &["get"]), true),
            (Verb::List, "pods", "", rule(&["pods"], &[], &["get"]), false),
            (Verb::Get, "pods", "a", rule(&["*"], &[], &["*"]), true),
            (Verb::Get, "pods/status", "a", rule(&["pods"], &[], &["get"]), false),
            (Verb::Patch, "pods/status", "a", rule(&["pods/status"], &[], &["patch"]), true),
            (Verb::Patch, "pods/status", "a", rule(&["*/status"], &[], &["patch"]), true),
            (Verb::Get, "secrets", "a", rule(&["secrets"], &["a"], &["get"]), true),
            (Verb::Get, "secrets", "b", rule(&["secrets"], &["a"], &["get"]), false),
            // A name in a body is seen too late.
            (Verb::Create, "secrets", "", rule(&["secrets"], &["a"], &["create"]), false),
            (Verb::Watch, "secrets", "", rule(&["secrets"], &["a"], &["watch"]), false),
            (Verb::Watch, "secrets", "a", rule(&["secrets"], &["a"], &["watch"]), true),
        ] {
            assert_eq!(
                access(verb, resource, name).is_allowed_by(&rule),
                expected,
                "{verb:?} {resource} {name} {rule}"
            );
        }
        let other = json!({"apiGroups": ["apps"], "resources": ["pods"], "verbs": ["get"]});
        assert!(!access(Verb::Get, "pods", "a").is_allowed_by(&other));
    }

    #[test]
    fn subjects_are_accounts_groups_and_users() {
        let user = User {
            name: "system:serviceaccount:mesh:leno".to_owned(),
            uid: None,
            groups: vec!["system:serviceaccounts".to_owned()],
            extra: std::collections::BTreeMap::new(),
        };
        for (subject, expected) in [
            (json!({"kind": "ServiceAccount", "namespace": "mesh", "name": "leno"}), true),
            (json!({"kind": "ServiceAccount", "namespace": "other", "name": "leno"}), false),
            (json!({"kind": "Group", "name": "system:serviceaccounts"}), true),
            (json!({"kind": "User", "name": "system:serviceaccount:mesh:leno"}), true),
            (json!({"kind": "User", "name": "leno"}), false),
        ] {
            assert_eq!(is_subject(&user, &json!({"subjects": [subject]})), expected, "{subject}");
        }
    }
}
