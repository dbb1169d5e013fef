//! The Node object, pure: what kubelet and k3s's controllers write into it.

use crate::base::settings::Settings;
use crate::kubelet::machine::Machine;
use crate::server::controllers::{ADDRESS_ANNOTATION, ETCD_LABEL, NAME_ANNOTATION};
use serde_json::{Map, Value, json};

const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
const FINALIZERS: [&str; 2] = ["wrangler.cattle.io/managed-etcd-controller", "wrangler.cattle.io/node"];

/// Who registers.
pub struct Who<'a> {
    pub name: &'a str,
    pub ip: &'a str,
    pub release: &'a str,
}

/// A label that the kubelet refuses to set on itself ends k3s (the kubelet's NodeRestriction prefixes).
pub fn refused_label(settings: &Settings) -> Option<String> {
    let allowed = |key: &str| {
        let exact = [
            "kubernetes.io/hostname",
            "kubernetes.io/os",
            "kubernetes.io/arch",
            "beta.kubernetes.io/os",
            "beta.kubernetes.io/arch",
            "beta.kubernetes.io/instance-type",
            "node.kubernetes.io/instance-type",
            "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/zone",
        ];
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let theirs =
            ["kubernetes.io", "k8s.io"].iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
        let free = ["kubelet.kubernetes.io", "node.kubernetes.io"];
        !theirs
            || exact.contains(&key)
            || free.iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}")))
    };
    let keys = settings.node_label.iter().map(|l| l.split_once('=').map_or(l.as_str(), |(k, _)| k));
    keys.into_iter().find(|key| !allowed(key)).map(str::to_owned)
}

/// A Node as it registers: labels and taints of the config are set here and never again.
pub fn registration(
    who: &Who<'_>,
    settings: &Settings,
    machine: &Machine,
    handlers: &[String],
    now: &str,
) -> Value {
    let mut labels = Map::new();
    for (key, value) in [
        ("beta.kubernetes.io/arch", machine.arch),
        ("beta.kubernetes.io/instance-type", "k3s"),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.arch),
        ("kubernetes.io/hostname", who.name),
        ("kubernetes.io/os", "linux"),
        ("node.kubernetes.io/instance-type", "k3s"),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
    for label in &settings.node_label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), json!(value));
    }
    let taints: Vec<Value> = settings.node_taint.iter().filter_map(|t| taint(t)).collect();
    let mut spec = json!({"providerID": format!("k3s://{}", who.name)});
    if !taints.is_empty() {
        spec["taints"] = Value::Array(taints);
    }
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": who.name,
            "annotations": {
                "alpha.kubernetes.io/provided-node-ip": who.ip,
                "k3s.io/hostname": machine.hostname,
                "k3s.io/internal-ip": who.ip,
                "stand-in": "k3s-standin: no kubelet, no containerd, no pods",
            },
            "finalizers": FINALIZERS,
            "labels": labels,
        },
        "spec": spec,
    });
    node["status"] = status(who, machine, handlers, now);
    node
}

/// What the kubelet reports at each start.
pub fn status(who: &Who<'_>, machine: &Machine, handlers: &[String], now: &str) -> Value {
    let memory = format!("{}Ki", machine.memory_ki);
    let amounts = json!({"cpu": machine.cpus.to_string(), "memory": memory, "pods": "110"});
    let handlers: Vec<Value> = handlers
        .iter()
        .map(|name| json!({"name": name, "features": {"recursiveReadOnlyMounts": false, "userNamespaces": false}}))
        .collect();
    let pressure = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "False", "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({
        "addresses": [
            {"type": "InternalIP", "address": who.ip},
            {"type": "Hostname", "address": machine.hostname},
        ],
        "allocatable": amounts,
        "capacity": amounts,
        "conditions": [
            pressure("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            pressure("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            pressure("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ready(now),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": machine.arch,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": "containerd://none (stand-in)",
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": who.release,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
        "runtimeHandlers": handlers,
    })
}

pub fn ready(now: &str) -> Value {
    json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
           "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// What k3s's controllers add to a server's Node once its own API is up.
pub fn server_patch(member: &str, ip: &str) -> Value {
    json!({"metadata": {
        "labels": {CONTROL_PLANE_LABEL: "true", ETCD_LABEL: "true"},
        "annotations": {NAME_ANNOTATION: member, ADDRESS_ANNOTATION: ip, "etcd.k3s.cattle.io/removed-node-name": null},
        "finalizers": FINALIZERS,
    }})
}

pub fn voter_condition(now: &str) -> Value {
    json!({"type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner",
           "message": "Node is a voting member of the etcd cluster",
           "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// `key=value:Effect` or `key:Effect`.
pub fn taint(text: &str) -> Option<Value> {
    let (left, effect) = text.rsplit_once(':')?;
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = json!(value);
    }
    ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect).then_some(taint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(name: &str) -> Value {
        let path = format!("{}/fixtures/objects/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn keys(value: &Value) -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    fn worker() -> Value {
        let settings = Settings {
            node_label: vec!["muster.dev/class=rtx-host".into()],
            node_taint: vec!["nvidia.com/gpu=present:NoSchedule".into()],
            ..Settings::default()
        };
        let who = Who { name: "mini-pc-4", ip: "10.99.0.14", release: "v1.36.3+k3s1" };
        let machine = Machine { hostname: "n4".into(), arch: "amd64", ..Machine::default() };
        let handlers = ["", "kata-qemu", "runc", "runhcs-wcow-process"].map(String::from);
        registration(&who, &settings, &machine, &handlers, "2026-11-24T03:45:31Z")
    }

    #[test]
    fn a_worker_s_node_has_the_recorded_labels_taints_and_handlers() {
        let (ours, recorded) = (worker(), recorded("node-worker-tainted-kata-files-absent"));
        assert_eq!(ours["metadata"]["labels"], recorded["metadata"]["labels"]);
        assert_eq!(ours["metadata"]["finalizers"], recorded["metadata"]["finalizers"]);
        assert_eq!(ours["spec"]["taints"], recorded["spec"]["taints"]);
        assert_eq!(ours["spec"]["providerID"], recorded["spec"]["providerID"]);
        assert_eq!(ours["status"]["runtimeHandlers"], recorded["status"]["runtimeHandlers"]);
        assert_eq!(ours["status"]["addresses"], recorded["status"]["addresses"]);
        assert_eq!(ours["status"]["conditions"], recorded["status"]["conditions"]);
        assert_eq!(keys(&ours["status"]["nodeInfo"]), keys(&recorded["status"]["nodeInfo"]));
    }

    /// Each difference is named here.
    #[test]
    fn a_node_differs_from_the_recorded_one_only_where_stated() {
        let (ours, recorded) = (worker(), recorded("node-worker-tainted-kata-files-absent"));
        let missing = |part: fn(&Value) -> &Value| -> Vec<String> {
            keys(part(&recorded)).into_iter().filter(|k| part(&ours)[k].is_null()).collect()
        };
        let stamped = ["creationTimestamp", "resourceVersion", "uid"];
        assert_eq!(missing(|n| &n["metadata"]), stamped);
        assert_eq!(missing(|n| &n["spec"]), ["podCIDR", "podCIDRs"]);
        assert_eq!(missing(|n| &n["status"]), ["declaredFeatures", "features"]);
        let annotations = [
            "k3s.io/node-config-hash",
            "k3s.io/node-env",
            "node.alpha.kubernetes.io/ttl",
            "volumes.kubernetes.io/controller-managed-attach-detach",
        ];
        assert_eq!(missing(|n| &n["metadata"]["annotations"]), annotations);
    }

    #[test]
    fn a_server_s_labels_and_annotations_are_the_recorded_ones() {
        let mut ours = worker();
        crate::api::apply::merge(&mut ours, &server_patch("mini-pc-1-4b786ce8", "10.99.0.11"));
        let recorded = recorded("node-server");
        for key in [CONTROL_PLANE_LABEL, ETCD_LABEL] {
            assert_eq!(ours["metadata"]["labels"][key], recorded["metadata"]["labels"][key]);
        }
        for key in [NAME_ANNOTATION, ADDRESS_ANNOTATION] {
            assert_eq!(ours["metadata"]["annotations"][key], recorded["metadata"]["annotations"][key]);
        }
        let voter = voter_condition("2026-11-24T03:44:41Z");
        assert!(recorded["status"]["conditions"].as_array().unwrap().contains(&voter));
    }

    #[test]
    fn the_kubelet_refuses_role_labels_and_takes_others() {
        let with = |label: &str| Settings { node_label: vec![label.into()], ..Settings::default() };
        assert!(refused_label(&with("node-role.kubernetes.io/worker=true")).is_some());
        assert!(refused_label(&with("katacontainers.io/kata-runtime=true")).is_none());
        assert!(refused_label(&with("node.kubernetes.io/x=y")).is_none());
    }

    #[test]
    fn a_taint_without_a_known_effect_is_none() {
        assert_eq!(taint("a=b:Never"), None);
        assert_eq!(taint("a:NoExecute"), Some(json!({"key": "a", "effect": "NoExecute"})));
    }
}
