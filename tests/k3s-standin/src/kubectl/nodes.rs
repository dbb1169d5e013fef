//! Verbs on Nodes as merge patches, pure: what changes, and what kubectl says about it.

use serde_json::{Map, Value, json};

/// A patch and the word for it; no patch means that nothing changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub patch: Option<Value>,
    pub said: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    #[error("'{key}' already has a value ({value}), and --overwrite is false")]
    LabelTaken { key: String, value: String },
    #[error("node {node} already has {key} taint(s) with same effect(s) and --overwrite is false")]
    TaintTaken { node: String, key: String },
    #[error("taint {0:?} not found")]
    NoTaint(String),
    #[error("invalid taint spec: {0}")]
    TaintSpec(String),
    #[error("invalid label spec: {0}")]
    LabelSpec(String),
}

pub fn cordon(node: &Value, on: bool) -> Change {
    let name = name(node);
    let is = node["spec"]["unschedulable"].as_bool().unwrap_or(false);
    let word = if on { "cordoned" } else { "uncordoned" };
    if is == on {
        return Change { patch: None, said: format!("node/{name} already {word}") };
    }
    let spec = if on { json!({"unschedulable": true}) } else { json!({"unschedulable": null}) };
    Change { patch: Some(json!({"spec": spec})), said: format!("node/{name} {word}") }
}

/// `k=v` sets, `k-` removes.
pub fn label(node: &Value, specs: &[String], overwrite: bool) -> Result<Change, BadChange> {
    let mut labels = Map::new();
    for spec in specs {
        if let Some(key) = spec.strip_suffix('-') {
            labels.insert(key.to_owned(), Value::Null);
        } else if let Some((key, value)) = spec.split_once('=') {
            match node["metadata"]["labels"][key].as_str() {
                Some(is) if is != value && !overwrite => {
                    return Err(BadChange::LabelTaken { key: key.to_owned(), value: is.to_owned() });
                }
                Some(_) | None => drop(labels.insert(key.to_owned(), json!(value))),
            }
        } else {
            return Err(BadChange::LabelSpec(spec.clone()));
        }
    }
    let only_removed = labels.values().all(Value::is_null);
    let word = if only_removed { "unlabeled" } else { "labeled" };
    let same = labels.iter().all(|(key, value)| node["metadata"]["labels"][key] == *value);
    if same {
        return Ok(Change { patch: None, said: format!("node/{} not labeled", name(node)) });
    }
    Ok(Change {
        patch: Some(json!({"metadata": {"labels": labels}})),
        said: format!("node/{} {word}", name(node)),
    })
}

/// `k=v:Effect` sets, `k:Effect-` and `k-` remove.
pub fn taint(node: &Value, specs: &[String], overwrite: bool) -> Result<Change, BadChange> {
    let mut taints: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut word = "tainted";
    for spec in specs {
        if let Some(gone) = spec.strip_suffix('-') {
            word = "untainted";
            let (key, effect) = match gone.rsplit_once(':') {
                Some((key, effect)) => (key, Some(effect)),
                None => (gone, None),
            };
            let key = key.split_once('=').map_or(key, |(key, _)| key);
            let before = taints.len();
            taints.retain(|t| t["key"] != key || effect.is_some_and(|e| t["effect"] != e));
            if taints.len() == before {
                return Err(BadChange::NoTaint(gone.to_owned()));
            }
            continue;
        }
        let taint = crate::kubelet::node::taint(spec).ok_or_else(|| BadChange::TaintSpec(spec.clone()))?;
        let same = |t: &Value| t["key"] == taint["key"] && t["effect"] == taint["effect"];
        if taints.iter().any(same) && !overwrite {
            let key = taint["key"].as_str().unwrap_or_default().to_owned();
            return Err(BadChange::TaintTaken { node: name(node).to_owned(), key });
        }
        taints.retain(|t| !same(t));
        taints.push(taint);
    }
    let list = if taints.is_empty() { Value::Null } else { Value::Array(taints) };
    Ok(Change { patch: Some(json!({"spec": {"taints": list}})), said: format!("node/{} {word}", name(node)) })
}

fn name(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::apply::merge;

    fn node() -> Value {
        json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {}})
    }

    fn after(change: Change) -> Value {
        let mut node = node();
        merge(&mut node, &change.patch.unwrap());
        node
    }

    #[test]
    fn cordon_is_said_once_and_undone() {
        let cordoned = after(cordon(&node(), true));
        assert_eq!(cordoned["spec"]["unschedulable"], true);
        assert_eq!(cordon(&cordoned, true).said, "node/a already cordoned");
        assert_eq!(cordon(&cordoned, false).said, "node/a uncordoned");
    }

    #[test]
    fn a_taint_is_set_replaced_and_removed() {
        let specs = |s: &str| vec![s.to_owned()];
        let tainted = after(taint(&node(), &specs("g=p:NoSchedule"), true).unwrap());
        assert_eq!(tainted["spec"]["taints"][0], json!({"key": "g", "value": "p", "effect": "NoSchedule"}));
        assert!(matches!(
            taint(&tainted, &specs("g=q:NoSchedule"), false),
            Err(BadChange::TaintTaken { .. })
        ));
        let gone = taint(&tainted, &specs("g:NoSchedule-"), false).unwrap();
        assert_eq!(
            (gone.patch.unwrap()["spec"]["taints"].clone(), gone.said.as_str()),
            (Value::Null, "node/a untainted")
        );
        assert!(matches!(taint(&node(), &specs("g-"), true), Err(BadChange::NoTaint(_))));
    }

    #[test]
    fn a_label_needs_overwrite_to_change() {
        let specs = |s: &str| vec![s.to_owned()];
        assert!(matches!(label(&node(), &specs("x=2"), false), Err(BadChange::LabelTaken { .. })));
        assert_eq!(after(label(&node(), &specs("x=2"), true).unwrap())["metadata"]["labels"]["x"], "2");
        assert_eq!(label(&node(), &specs("x-"), true).unwrap().said, "node/a unlabeled");
        assert_eq!(label(&node(), &specs("x=1"), false).unwrap().patch, None);
    }
}
