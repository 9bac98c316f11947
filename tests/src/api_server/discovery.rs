//! What a client asks first: which groups, versions and resources there are.

use serde_json::{Value, json};

use super::kinds::Catalogue;

/// The version that the recorded answers come from.
const KUBERNETES: (&str, &str) = ("1", "36");

/// The document at a path, if it is one of discovery.
pub(super) fn document(path: &str, catalogue: &Catalogue) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Some(version()),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> = groups(catalogue).iter().map(|group| described(catalogue, group)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] => {
            let is_served = groups(catalogue).contains(group);
            is_served.then(|| {
                let mut described = described(catalogue, group);
                described["kind"] = json!("APIGroup");
                described["apiVersion"] = json!("v1");
                described
            })
        }
        ["api", version] => resources(catalogue, "", version),
        ["apis", group, version] => resources(catalogue, group, version),
        _ => None,
    }
}

fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.2+leno-tests"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-11-22T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// The named groups, in the order in which they appeared.
fn groups(catalogue: &Catalogue) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for kind in catalogue.kinds() {
        if !kind.group.is_empty() && !groups.contains(&kind.group.as_str()) {
            groups.push(&kind.group);
        }
    }
    groups
}

/// `v1` before `v1beta1` before `v1alpha3`, as Kubernetes orders versions.
fn priority(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>) {
    let numbers = version.trim_start_matches('v');
    let (stage, major, minor) = match (numbers.split_once("beta"), numbers.split_once("alpha")) {
        (Some((major, minor)), _) => (1, major, minor),
        (None, Some((major, minor))) => (2, major, minor),
        (None, None) => (0, numbers, "0"),
    };
    let number = |text: &str| std::cmp::Reverse(text.parse().unwrap_or_default());
    (stage, number(major), number(minor))
}

fn described(catalogue: &Catalogue, group: &str) -> Value {
    let of_group = catalogue.kinds().iter().filter(|kind| kind.group == group);
    let mut versions: Vec<&str> = of_group.flat_map(|kind| kind.versions.iter().map(String::as_str)).collect();
    versions.sort_by_key(|version| priority(version));
    versions.dedup();
    let versions: Vec<Value> = versions
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Option<Value> {
    let served = catalogue.kinds().iter().filter(|kind| kind.group == group);
    let served = served.filter(|kind| kind.versions.iter().any(|served| served == version));
    let resources: Vec<Value> = served.flat_map(|kind| kind.discovered()).collect();
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_versions_and_resources_are_found() {
        let catalogue = Catalogue::built_in();
        let groups = document("/apis", &catalogue).unwrap();
        let names: Vec<&str> =
            groups["groups"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert!(names.contains(&"apps") && names.contains(&"coordination.k8s.io"), "{names:?}");
        let core = document("/api/v1", &catalogue).unwrap();
        let resources = core["resources"].as_array().unwrap();
        let named = |name: &str| resources.iter().find(|one| one["name"] == name);
        assert_eq!(named("pods").unwrap()["shortNames"], json!(["po"]));
        assert!(named("pods/status").is_some() && named("serviceaccounts/token").is_some());
        assert_eq!(document("/apis/nobody.example", &catalogue), None);
        assert_eq!(document("/apis/apps/v9", &catalogue), None);
    }

    #[test]
    fn versions_are_ordered_by_how_stable_they_are() {
        let mut versions = ["v1alpha3", "v1", "v2beta1", "v1beta1", "v2"];
        versions.sort_by_key(|version| priority(version));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta1", "v1alpha3"]);
    }
}
