//! Kinds, their plurals and the paths of their objects.

use serde_json::Value;

/// Kinds without a namespace that Muster or its add-ons use.
const CLUSTER_SCOPED: &[&str] = &[
    "Node",
    "Namespace",
    "RuntimeClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PersistentVolume",
    "StorageClass",
    "PriorityClass",
    "IngressClass",
    "APIService",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];

/// What an object's path is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `node.k8s.io/v1` or `v1`.
    pub api_version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: String,
}

impl Place {
    /// Where a manifest's object belongs.
    pub fn of(object: &Value) -> Option<Self> {
        let kind = object["kind"].as_str()?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        Some(Self {
            api_version: object["apiVersion"].as_str()?.to_owned(),
            plural: plural(kind),
            namespace: (!CLUSTER_SCOPED.contains(&kind)).then(|| namespace.to_owned()),
            name: object["metadata"]["name"].as_str()?.to_owned(),
        })
    }

    /// What `kubectl get NOUN` means, for the nouns that are known here.
    pub fn of_noun(noun: &str, namespace: Option<&str>, name: &str) -> Option<Self> {
        let (api_version, plural, namespaced) = match noun.to_ascii_lowercase().as_str() {
            "node" | "nodes" | "no" => ("v1", "nodes", false),
            "namespace" | "namespaces" | "ns" => ("v1", "namespaces", false),
            "runtimeclass" | "runtimeclasses" => ("node.k8s.io/v1", "runtimeclasses", false),
            "configmap" | "configmaps" | "cm" => ("v1", "configmaps", true),
            "secret" | "secrets" => ("v1", "secrets", true),
            "service" | "services" | "svc" => ("v1", "services", true),
            "serviceaccount" | "serviceaccounts" | "sa" => ("v1", "serviceaccounts", true),
            "deployment" | "deployments" | "deploy" => ("apps/v1", "deployments", true),
            "daemonset" | "daemonsets" | "ds" => ("apps/v1", "daemonsets", true),
            "lease" | "leases" => ("coordination.k8s.io/v1", "leases", true),
            _ => return None,
        };
        Some(Self {
            api_version: api_version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespaced.then(|| namespace.unwrap_or("default").to_owned()),
            name: name.to_owned(),
        })
    }

    /// `/apis/node.k8s.io/v1/runtimeclasses`.
    pub fn collection(&self) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        let namespace = self.namespace.as_ref().map_or_else(String::new, |n| format!("/namespaces/{n}"));
        format!("{root}/{}{namespace}/{}", self.api_version, self.plural)
    }

    pub fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// `runtimeclass.node.k8s.io/kata`, as kubectl prints it.
    pub fn shown(&self) -> String {
        let group = self.api_version.split_once('/').map_or_else(String::new, |(g, _)| format!(".{g}"));
        format!("{}{group}/{}", singular(&self.plural), self.name)
    }
}

fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    if let Some(stem) = lower.strip_suffix('y').filter(|s| !s.ends_with(['a', 'e', 'o', 'u'])) {
        format!("{stem}ies")
    } else if lower.ends_with('s') {
        format!("{lower}es")
    } else {
        format!("{lower}s")
    }
}

fn singular(plural: &str) -> String {
    if let Some(stem) = plural.strip_suffix("ies") {
        return format!("{stem}y");
    }
    plural
        .strip_suffix("ses")
        .map_or_else(|| plural.strip_suffix('s').unwrap_or(plural).to_owned(), |stem| format!("{stem}s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_runtime_class_has_its_path_and_its_short_form() {
        let object =
            json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kata"}});
        let place = Place::of(&object).unwrap();
        assert_eq!(place.path(), "/apis/node.k8s.io/v1/runtimeclasses/kata");
        assert_eq!(place.shown(), "runtimeclass.node.k8s.io/kata");
        assert_eq!(Place::of_noun("runtimeclass", None, "kata"), Some(place));
    }

    #[test]
    fn a_namespaced_kind_has_its_namespace_in_the_path() {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                            "metadata": {"name": "x", "namespace": "monitoring"}});
        let path = Place::of(&object).unwrap().path();
        assert_eq!(path, "/apis/networking.k8s.io/v1/namespaces/monitoring/networkpolicies/x");
    }

    #[test]
    fn an_object_without_a_name_has_no_place() {
        assert_eq!(Place::of(&json!({"apiVersion": "v1", "kind": "Node"})), None);
    }
}
