//! What running nodes and the cluster itself should carry: declared labels and taints, and add-ons by content.
//!
//! A ready server reads the Nodes from the API; each deviation becomes one command to it. What others put on a Node stays:
//! only what is declared is put back. An add-on is applied when its content is not what was applied last, or when its object is gone.

use super::evidence::View;
use super::record::{Cluster, Record};
use muster_protocol::etcd::{NodeSeen, ServerReport};
use muster_protocol::grant::Action;
use muster_protocol::ids::{Digest, NodeName};

/// The RuntimeClass of the sandboxes.
pub const RUNTIME_CLASS: Addon = Addon {
    name: "runtimeclass-kata",
    class: "kata-qemu-runtime-rs",
    yaml: include_str!("../../../images/addons/runtimeclass-kata.yaml"),
};
/// Where that RuntimeClass may put a pod.
pub const SANDBOX_LABEL: (&str, &str) = ("katacontainers.io/kata-runtime", "true");
/// A command that changed nothing is not given again before.
pub const AGAIN_MS: u64 = 60_000;

/// Objects that the cluster should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addon {
    pub name: &'static str,
    /// The RuntimeClass that it makes.
    pub class: &'static str,
    pub yaml: &'static str,
}

impl Addon {
    fn digest(&self) -> Digest {
        Digest::of(self.yaml.as_bytes())
    }
}

/// What is to be remembered of a command that was done: the add-on and its digest.
pub fn applied(action: &Action) -> Option<(String, Digest)> {
    match action {
        Action::Apply { name, yaml } => Some((name.clone(), Digest::of(yaml.as_bytes()))),
        Action::Snapshot { .. } | Action::Label { .. } => None,
    }
}

/// What `cluster.toml` says of one Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub node: NodeName,
    pub labels: Vec<(String, String)>,
    /// As `key=value:Effect`.
    pub taints: Vec<String>,
}

/// The next command, while nobody joins and none is under way. `recently` tells whether a subject (see [`subject`]) had a
/// command a moment ago.
pub fn next(
    record: &Record,
    view: &View<'_>,
    wanted: &[Wanted],
    addons: &[Addon],
    recently: &dyn Fn(&str) -> bool,
) -> Option<(NodeName, Action)> {
    let Cluster::Up { .. } = record.cluster else { return None };
    if record.lock.is_some() || !view.pending.is_empty() {
        return None;
    }
    let (server, report) = view.declared.iter().find_map(|server| {
        let report = &view.fresh(&server.name)?.report;
        let ready = report.own.as_ref().is_some_and(|own| own.ready && !own.learner);
        (ready && !report.nodes.is_empty()).then_some((&server.name, report))
    })?;
    let nodes = &report.nodes;
    let drifted = wanted
        .iter()
        .filter(|wanted| nodes.iter().any(|seen| seen.name == wanted.node && differs(seen, wanted)));
    let labels = drifted.map(|wanted| Action::Label {
        node: wanted.node.clone(),
        labels: wanted.labels.clone(),
        taints: wanted.taints.clone(),
    });
    let lacking = addons
        .iter()
        .filter(|addon| record.applied.get(addon.name) != Some(&addon.digest()) || is_gone(addon, report));
    let applies = lacking.map(|addon| Action::Apply { name: addon.name.into(), yaml: addon.yaml.into() });
    let due = labels.chain(applies).find(|action| !recently(&subject(action)))?;
    Some((server.clone(), due))
}

/// What a command is about. A snapshot's name says after which change of the member list it is taken.
pub fn subject(action: &Action) -> String {
    match action {
        Action::Snapshot { name } => format!("snapshot/{name}"),
        Action::Apply { name, .. } => format!("apply/{name}"),
        Action::Label { node, .. } => format!("label/{node}"),
    }
}

fn differs(seen: &NodeSeen, wanted: &Wanted) -> bool {
    wanted.labels.iter().any(|label| !seen.labels.contains(label))
        || wanted.taints.iter().any(|taint| !seen.taints.contains(taint))
}

/// Somebody deleted it. Where a server could not ask, nothing is known.
fn is_gone(addon: &Addon, report: &ServerReport) -> bool {
    let classes = report.runtime_classes.as_ref();
    classes.is_some_and(|classes| !classes.iter().any(|class| class == addon.class))
}

#[cfg(test)]
mod tests {
    use super::super::evidence::{Heard, Server};
    use super::*;
    use muster_protocol::etcd::{Identity, OwnMember};
    use muster_protocol::ids::Number;
    use muster_protocol::keys::Fingerprint;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn up() -> Record {
        let identity = Identity { ca: Digest::of(b"ca"), cluster_id: 7 };
        Record { cluster: Cluster::Up { identity }, ..Record::default() }
    }

    fn gpu() -> Wanted {
        Wanted {
            node: name("gpu"),
            labels: vec![("class".into(), "rtx".into())],
            taints: vec!["gpu=present:NoSchedule".into()],
        }
    }

    fn seen(labels: &[(&str, &str)], taints: &[&str]) -> NodeSeen {
        NodeSeen {
            name: name("gpu"),
            ready: true,
            taints: taints.iter().map(|taint| (*taint).into()).collect(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            kubelet_version: String::new(),
            runtime_handlers: vec![],
        }
    }

    /// What is due when the only server, ready or not, sees this Node, and has not asked for RuntimeClasses.
    fn due(ready: bool, node: NodeSeen, addons: &[Addon], recently: bool, record: &Record) -> Option<Action> {
        with_classes(None, ready, node, addons, recently, record)
    }

    fn with_classes(
        classes: Option<&[&str]>,
        ready: bool,
        node: NodeSeen,
        addons: &[Addon],
        recently: bool,
        record: &Record,
    ) -> Option<Action> {
        let own = OwnMember {
            identity: None,
            member_id: 1,
            learner: false,
            leader: Some(1),
            healthy: true,
            ready,
            members: Ok(vec![]),
            connected: vec![],
        };
        let report = ServerReport {
            unit: "active".into(),
            own: Some(own),
            nodes: vec![node],
            runtime_classes: classes.map(|names| names.iter().map(|name| (*name).into()).collect()),
            ..ServerReport::blank()
        };
        let heard = Heard {
            at_ms: 1000,
            key: Fingerprint([0; 10]),
            report,
            wants_grant: false,
            installation: Number::default(),
            seen_fence: Number::default(),
        };
        let heard = BTreeMap::from([(name("s1"), heard)]);
        let declared = [Server { name: name("s1"), address: Ipv4Addr::new(10, 0, 0, 1) }];
        let view = View {
            now_ms: 2000,
            now_unix: 0,
            declared: &declared,
            heard: &heard,
            newest: Number::default(),
            pending: &[],
        };
        let (server, action) = next(record, &view, &[gpu()], addons, &|_| recently)?;
        assert_eq!(server, name("s1"));
        Some(action)
    }

    const RIGHT: (&[(&str, &str)], &[&str]) = (&[("class", "rtx")], &["gpu=present:NoSchedule"]);

    #[test]
    fn a_taint_or_label_that_is_gone_is_put_back() {
        for (labels, taints) in [
            (&[][..], RIGHT.1),
            (&[("class", "other")][..], RIGHT.1),
            (RIGHT.0, &[][..]),
            (RIGHT.0, &["gpu=absent:NoSchedule"][..]),
        ] {
            let action = due(true, seen(labels, taints), &[], false, &up()).unwrap();
            assert_eq!(subject(&action), "label/gpu", "{labels:?} {taints:?}");
        }
    }

    #[test]
    fn what_others_put_on_a_node_is_theirs() {
        let labels = [RIGHT.0, &[("mine", "yes")]].concat();
        let taints = [RIGHT.1, &["maintenance=now:NoExecute"]].concat();
        assert_eq!(due(true, seen(&labels, &taints), &[], false, &up()), None);
    }

    #[test]
    fn an_add_on_that_is_not_known_to_be_there_is_applied() {
        let action = due(true, seen(RIGHT.0, RIGHT.1), &[RUNTIME_CLASS], false, &up()).unwrap();
        let Action::Apply { name, yaml } = action else { panic!("not an add-on") };
        assert!(name == "runtimeclass-kata" && yaml.contains("kind: RuntimeClass"));
        assert!(yaml.contains(&format!("{}: \"{}\"", SANDBOX_LABEL.0, SANDBOX_LABEL.1)));
    }

    #[test]
    fn what_was_applied_is_remembered_by_its_content() {
        let action = due(true, seen(RIGHT.0, RIGHT.1), &[RUNTIME_CLASS], false, &up()).unwrap();
        let mut record = up();
        record.applied.extend(applied(&action));
        assert_eq!(due(true, seen(RIGHT.0, RIGHT.1), &[RUNTIME_CLASS], false, &record), None);
        record.applied.insert(RUNTIME_CLASS.name.into(), Digest::of(b"an earlier one"));
        assert_eq!(due(true, seen(RIGHT.0, RIGHT.1), &[RUNTIME_CLASS], false, &record), Some(action));
    }

    #[test]
    fn an_add_on_whose_object_somebody_deleted_is_applied_again() {
        let mut record = up();
        record.applied.insert(RUNTIME_CLASS.name.into(), RUNTIME_CLASS.digest());
        let due = |classes: Option<&[&str]>, recently| {
            let node = seen(RIGHT.0, RIGHT.1);
            let action = with_classes(classes, true, node, &[RUNTIME_CLASS], recently, &record);
            action.map(|action| subject(&action))
        };
        let apply = Some("apply/runtimeclass-kata".to_owned());
        assert_eq!(due(Some(&[]), false), apply);
        assert_eq!(due(Some(&["nvidia", "kata-qemu"]), false), apply);
        assert_eq!(due(Some(&["nvidia", RUNTIME_CLASS.class]), false), None);
        assert_eq!(due(None, false), None, "not known is not gone");
        assert_eq!(due(Some(&[]), true), None, "what the server said may be older than the last try");
        assert!(RUNTIME_CLASS.yaml.contains(&format!("\n  name: {}\n", RUNTIME_CLASS.class)));
    }

    #[test]
    fn nothing_is_done_without_a_ready_server_or_while_one_joins_or_too_often() {
        let drifted = || seen(&[], &[]);
        assert_eq!(due(false, drifted(), &[RUNTIME_CLASS], false, &up()), None);
        assert_eq!(due(true, drifted(), &[RUNTIME_CLASS], true, &up()), None);
        assert_eq!(due(true, drifted(), &[RUNTIME_CLASS], false, &Record::default()), None);
    }
}
