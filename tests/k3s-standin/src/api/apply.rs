//! Patches, pure: merge patch (RFC 7386) and an approximation of server-side apply.
//!
//! Apply merges maps and replaces lists whole; what this field manager applied before and leaves out now is removed. Conflicts
//! between managers are not detected: every apply acts as with `--force-conflicts`.

use serde_json::{Map, Value};

/// RFC 7386: null removes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let map = as_map(target);
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The live object after `manager`'s apply of `wanted`, which applied `before` the last time.
pub fn apply(live: &mut Value, before: Option<&Value>, wanted: &Value) {
    if let Some(before) = before {
        remove_left_out(live, before, wanted);
    }
    merge(live, wanted);
}

fn remove_left_out(live: &mut Value, before: &Value, wanted: &Value) {
    let (Value::Object(live), Value::Object(before)) = (live, before) else { return };
    for (key, old) in before {
        match wanted.get(key) {
            None => drop(live.remove(key)),
            Some(new) => {
                if let Some(live) = live.get_mut(key) {
                    remove_left_out(live, old, new);
                }
            }
        }
    }
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made an object two lines above")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_removes_and_maps_merge() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": 3}, "d": [2]}));
        assert_eq!(target, json!({"a": {"c": 2, "e": 3}, "d": [2]}));
    }

    #[test]
    fn a_field_left_out_by_its_manager_goes_and_others_stay() {
        let mut live = json!({"metadata": {"labels": {"ours": "1", "theirs": "2"}}, "handler": "kata"});
        let before = json!({"metadata": {"labels": {"ours": "1"}}, "handler": "kata"});
        apply(&mut live, Some(&before), &json!({"handler": "kata-qemu"}));
        assert_eq!(live, json!({"handler": "kata-qemu"}));
        let mut live = json!({"metadata": {"labels": {"ours": "1", "theirs": "2"}}});
        apply(&mut live, Some(&before), &json!({"metadata": {"labels": {}}}));
        assert_eq!(live, json!({"metadata": {"labels": {"theirs": "2"}}}));
    }
}
